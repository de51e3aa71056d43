//! Services for the status. Changes nothing.

use crate::core::broker::Core;
use crate::core::snapshot::{InstanceStatus, ServiceStatus};

impl Core {
    pub(in crate::core) fn service_status(&self) -> Vec<ServiceStatus> {
        let services = self.services.by_name.values().filter_map(|key| self.services.table.get(*key));
        services
            .map(|service| ServiceStatus {
                service: service.name.to_string(),
                strategy: service.settings.strategy.as_str(),
                outstanding: service.outstanding.into(),
                waiting: service.waiting.len() as u64,
                outstanding_max: service.settings.outstanding_max.into(),
                counts: service.counts,
                latency: service.latency,
                instances: service
                    .instances
                    .iter()
                    .flatten()
                    .map(|instance| InstanceStatus {
                        session: instance.identity.session,
                        name: instance.identity.name.clone(),
                        pid: instance.identity.pid,
                        provider: instance.provider,
                        state: if instance.ending { "ending" } else { instance.health.state() },
                        has: instance.has.values().flatten().count() as u64,
                        over: instance.has.values().filter(|call| call.is_none()).count() as u64,
                        concurrency: instance.concurrency.into(),
                        failures: instance.health.failures().into(),
                        answered: instance.answered,
                    })
                    .collect(),
            })
            .collect()
    }
}

#[cfg(test)]
impl super::Services {
    /// Whether nothing is left of any request or instance.
    pub(in crate::core) fn is_idle(&self) -> bool {
        let idle = self.table.iter().all(|(_, service)| {
            service.outstanding == 0
                && service.waiting.is_empty()
                && service.timer_at.is_none()
                && service.instances.iter().all(Option::is_none)
        });
        idle && self.calls.len() == 0 && self.table.len() == self.by_name.len() && self.busy.is_empty()
    }
}
