//! The raw shape of a service to its settings: ranges, and rules between keys.

use super::check::{Checked, breach, set};
use super::queues::who;
use super::raw::RawService;
use crate::core::services::RETRIES_CEILING;
use crate::core::{Limits, ServiceSettings};
use std::collections::BTreeSet;
use tramline_wire::limits::REQUEST_MILLIS_CEILING;

/// All services of a file.
pub(super) fn services(raw: &[RawService], limits: &Limits) -> Checked<Vec<ServiceSettings>> {
    if raw.len() as u64 > u64::from(limits.services_max) {
        let message = format!("{} entries; limits.services_max is {}", raw.len(), limits.services_max);
        return breach("services", message);
    }
    let mut names = BTreeSet::new();
    let mut services = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        let key = format!("services.{index}");
        let service = service(raw, &key)?;
        if !names.insert(service.name.clone()) {
            return breach(
                format!("{key}.name"),
                format!("there is a service {} before this one", service.name),
            );
        }
        services.push(service);
    }
    Ok(services)
}

fn service(raw: &RawService, key: &str) -> Checked<ServiceSettings> {
    let Some(name) = &raw.name else {
        return breach(
            key,
            "the key name is missing: it says which service, or which services, are meant".to_owned(),
        );
    };
    if name.0.starts_with('$') {
        return breach(format!("{key}.name"), "names with $ belong to the broker".to_owned());
    }
    let mut service = ServiceSettings { name: name.0.clone(), ..ServiceSettings::default() };
    macro_rules! take {
        ($($name:ident: $allowed:expr;)+) => {
            $(set(
                &mut service.$name,
                raw.$name.map(|value| value.0),
                $allowed,
                &format!(concat!("{}.", stringify!($name)), key),
            )?;)+
        };
    }
    let longest = u64::from(REQUEST_MILLIS_CEILING);
    take! {
        timeout_millis: 1..=longest;
        timeout_millis_max: 1..=longest;
        attempt_timeout_millis: 0..=longest;
        retries_max: 0..=u64::from(RETRIES_CEILING);
        outstanding_max: 1..=10_000_000;
        eject_failures: 0..=u64::from(u32::MAX);
        eject_millis: 1..=u64::from(u32::MAX);
        eject_millis_max: 1..=u64::from(u32::MAX);
        eject_percent_max: 0..=100;
    }
    if service.timeout_millis > service.timeout_millis_max {
        let which = if raw.timeout_millis.is_some() { "timeout_millis" } else { "timeout_millis_max" };
        let message = format!(
            "an answer may take {} ms unless its request says (timeout_millis), and a request may say at most {} \
             (timeout_millis_max)",
            service.timeout_millis, service.timeout_millis_max
        );
        return breach(format!("{key}.{which}"), message);
    }
    service.strategy = raw.strategy.as_ref().map_or(service.strategy, |strategy| strategy.0);
    service.provide = raw.provide.as_ref().map(who);
    service.request = raw.request.as_ref().map(who);
    Ok(service)
}
