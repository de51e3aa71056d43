//! Services and routes: the broker as a caller.

use super::asking::Ask;
use super::call::Asker;
use crate::core::Now;
use crate::core::broker::Core;
use crate::core::quota::Checked;
use crate::core::table::Key;

impl Core {
    /// Whether a service would be given a request now: somebody provides it, and it is not full.
    pub(in crate::core) fn service_could_take(&self, name: &str) -> bool {
        let key = self.services.by_name.get(name);
        let service = key.and_then(|key| self.services.table.get(*key));
        service.is_some_and(|service| {
            service.could_take(&[]) && service.outstanding < service.settings.outstanding_max
        })
    }

    /// Asks a service on behalf of a leg, which is told what comes of it.
    pub(in crate::core) fn ask_for_route(
        &mut self,
        leg: Key,
        service: &str,
        request: u64,
        timeout_millis: u32,
        bytes: &[u8],
        now: Now,
    ) -> Checked<()> {
        let own = self.own_session(now);
        let longest = self.service_settings(service)?.0.timeout_millis_max;
        let timeout_millis = timeout_millis.min(longest);
        let asker = Asker::Leg(leg);
        // The route itself says who is asked again, and how often.
        self.ask(own, Ask { service, request, asker, timeout_millis, idempotent: false, bytes }, now)
    }
}
