//! What an operator says about services. Checked where it comes in; every value has a default.

use crate::core::strategy::Strategy;
use crate::core::{Peer, Who, access};
use tramline_wire::{Filter, Topic};

/// The most that [`ServiceSettings::retries_max`] may be.
pub const RETRIES_CEILING: u32 = 16;

/// What somebody wants to do with a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceRight {
    /// Answer its requests.
    Provide,
    /// Send requests to it.
    Request,
}

impl ServiceRight {
    /// The key under `services[]` that grants it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provide => "provide",
            Self::Request => "request",
        }
    }
}

/// One service, or all that a filter selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSettings {
    /// A name, a topic without `$`; or a filter, for all services whose names it selects.
    pub name: String,
    /// Who of its instances gets the next request.
    pub strategy: Strategy,
    /// How long an answer may take unless the request says, in milliseconds.
    pub timeout_millis: u32,
    /// The most that a request may say, in milliseconds.
    pub timeout_millis_max: u32,
    /// How long one instance may take before another is asked as well, if the request allows it, in milliseconds; 0: as long
    /// as the request.
    pub attempt_timeout_millis: u32,
    /// How often a request that allows it is given to another instance; at most [`RETRIES_CEILING`].
    pub retries_max: u32,
    /// Requests without an outcome: given to instances, and waiting for one.
    pub outstanding_max: u32,
    /// Failures of an instance one after the other for which it is left out for a while; 0: never.
    pub eject_failures: u32,
    /// For how long the first time, in milliseconds; each further time it is so much longer.
    pub eject_millis: u32,
    /// The longest of these times, in milliseconds.
    pub eject_millis_max: u32,
    /// Instances that may be left out at a time, in percent; one always may, if it is not the last.
    pub eject_percent_max: u32,
    /// Who may provide it; none: whoever may connect.
    pub provide: Option<Who>,
    /// Who may send requests; none: whoever may connect.
    pub request: Option<Who>,
}

impl Default for ServiceSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            strategy: Strategy::default(),
            timeout_millis: 10_000,
            timeout_millis_max: 300_000,
            attempt_timeout_millis: 0,
            retries_max: 1,
            outstanding_max: 4096,
            eject_failures: 5,
            eject_millis: 30_000,
            eject_millis_max: 300_000,
            eject_percent_max: 10,
            provide: None,
            request: None,
        }
    }
}

impl ServiceSettings {
    /// Whether these are the settings of the service of this name.
    #[must_use]
    pub fn are_of(&self, name: Topic<'_>) -> bool {
        Filter::parse(&self.name).is_ok_and(|filter| filter.matches(name))
    }

    /// Whether this peer has this right, if the broker's own user is `own_uid`.
    #[must_use]
    pub fn allows(&self, right: ServiceRight, peer: &Peer, own_uid: u32) -> bool {
        let who = match right {
            ServiceRight::Provide => self.provide.as_ref(),
            ServiceRight::Request => self.request.as_ref(),
        };
        access::is_owner(peer, own_uid) || who.is_none_or(|who| who.names(peer))
    }
}
