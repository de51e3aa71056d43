//! Several metrics of the same things: a series for each thing, under its name.

use super::Page;
use prometheus_client::encoding::{EncodeCounterValue, EncodeGaugeValue};
use std::fmt;

/// Name, help, and the value of one thing.
pub(super) type Metric<T, N> = (&'static str, &'static str, fn(&T) -> N);

/// Things with names.
pub(super) struct Rows<'r, T> {
    pub(super) shown: &'r [T],
    /// The label that the name stands in.
    pub(super) label: &'static str,
    pub(super) name: fn(&T) -> &str,
}

impl<T> Rows<'_, T> {
    fn series<N>(&self, value: fn(&T) -> N) -> impl Iterator<Item = ([(&'static str, &str); 1], N)> {
        self.shown.iter().map(move |thing| ([(self.label, (self.name)(thing))], value(thing)))
    }

    pub(super) fn gauges<N: EncodeGaugeValue, const M: usize>(
        &self,
        page: &mut Page<'_>,
        metrics: [Metric<T, N>; M],
    ) -> fmt::Result {
        metrics.into_iter().try_for_each(|(name, help, value)| page.gauges(name, help, self.series(value)))
    }

    pub(super) fn counters<N: EncodeCounterValue, const M: usize>(
        &self,
        page: &mut Page<'_>,
        metrics: [Metric<T, N>; M],
    ) -> fmt::Result {
        metrics.into_iter().try_for_each(|(name, help, value)| page.counters(name, help, self.series(value)))
    }
}
