//! How long things took, as a histogram of one moment.

use crate::core::{BOUNDS_SECONDS, Latency};
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use std::fmt;

/// A histogram that was counted elsewhere.
pub(super) struct Took<'l>(pub(super) &'l Latency);

impl EncodeMetric for Took<'_> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let ends = BOUNDS_SECONDS.into_iter().chain([f64::MAX]);
        let steps: Vec<(f64, u64)> = ends.zip(self.0.steps).collect();
        let seconds = std::time::Duration::from_nanos(self.0.sum_nanos).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(seconds, self.0.steps.iter().sum(), &steps, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
