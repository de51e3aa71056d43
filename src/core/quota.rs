//! Refusals that name their limit: value, use, and the key that changes it.
//!
//! Limits are counted where the thing itself is kept; this file only decides and phrases. Quotas per uid will be
//! decided here as well.

use tramline_wire::{Code, LimitInfo};

/// Why a request was refused. The session lives on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) limit: Option<(&'static str, u64, u64)>,
}

impl Refused {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), limit: None }
    }

    pub(super) fn limit_info(&self) -> Option<LimitInfo<'static>> {
        self.limit.map(|(name, value, used)| LimitInfo { name, value, used })
    }
}

/// A request that is carried out or refused.
pub(super) type Checked<T> = Result<T, Refused>;

/// Whether `wanted` more fit under a limit of which `used` are taken. `what` names the thing in the plural.
pub(super) fn fits(name: &'static str, what: &str, value: u64, used: u64, wanted: u64) -> Checked<()> {
    let total = used.saturating_add(wanted);
    if total <= value {
        return Ok(());
    }
    let message = format!("{used} {what} are in use and {wanted} more are wanted; limits.{name} is {value}");
    Err(Refused { code: Code::LimitReached, message, limit: Some((name, value, total)) })
}

/// Whether one request asks for no more than a limit allows it.
pub(super) fn allows(name: &'static str, what: &str, value: u64, wanted: u64) -> Checked<()> {
    if wanted <= value {
        return Ok(());
    }
    let message = format!("{wanted} {what} are asked for; limits.{name} is {value}");
    Err(Refused { code: Code::LimitReached, message, limit: Some((name, value, wanted)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_limit_value_and_use() {
        assert_eq!(fits("streams_max", "streams", 3, 2, 1), Ok(()));
        let refused = fits("streams_max", "streams", 3, 3, 1).unwrap_err();
        assert_eq!(refused.limit, Some(("streams_max", 3, 4)));
        assert_eq!(refused.message, "3 streams are in use and 1 more are wanted; limits.streams_max is 3");
        assert!(allows("ring_bytes_max", "bytes", 4, 5).is_err());
        assert!(fits("rings_bytes_max", "bytes", 9, 1, u64::MAX).is_err());
    }
}
