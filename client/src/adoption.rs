//! Attachments that outlive a broker: what this client still has is named to the next one, which takes it over if the
//! other side names it, too, and access still allows it.
//!
//! Nothing here touches the data path: readers and writers go on under the same ids, whether there is a broker or not.
//! An attachment that is not taken over is ended by the broker like any other, by `Detach`; or its stream is
//! offered anew, and the subscription goes over where the old attachment's messages end.

use crate::error::Result;
use crate::inbound::Inbound;
use crate::inbox::Item;
use crate::outbound::Outbound;
use crate::reactor::lock;
use crate::session::Session;
use crate::shared::Shared;
use std::sync::Arc;
use std::time::Duration;
use tramline_ring::ReadMode;
use tramline_wire::{Adopted, Mode, StillAdmits, StillReads, ToBroker};

/// Names what is left of earlier connections, before anything is asked for again.
pub(crate) fn name_what_is_left(session: &Session, outbound: &mut Outbound) {
    for (attach, reading) in session.readings.iter().filter(|(_, reading)| reading.attached) {
        outbound.push(&ToBroker::StillReads(StillReads {
            attach: *attach,
            sub: reading.inbox.id,
            stream: reading.stream,
            generation: reading.generation,
            in_place: reading.trusted,
        }));
    }
    for (attach, admission) in &session.admissions {
        let stream = &admission.stream;
        let Some(mode) = stream.mode_of(admission.reader) else { continue };
        if session.streams.contains_key(&stream.id) {
            let mode = match mode {
                ReadMode::Gated => Mode::Gated,
                ReadMode::Lossy => Mode::Lossy,
            };
            let (attach, stream, slot) = (*attach, stream.id, admission.slot);
            outbound.push(&ToBroker::StillAdmits(StillAdmits { attach, stream, slot, mode }));
        }
    }
}

impl Shared {
    /// The broker has taken an attachment over.
    pub(crate) fn adopted(&self, inbound: &mut Inbound, adopted: &Adopted) -> Result<()> {
        let Adopted { attach, source, mode } = *adopted;
        let mut session = lock(&self.session);
        let Some(alias) = source else {
            if let Some(admission) = session.admissions.get(&attach)
                && mode == Mode::Lossy
            {
                admission.stream.ungate(admission.reader);
                self.reactor.changed();
            }
            return Ok(());
        };
        let source = Arc::clone(inbound.source(alias)?);
        let Some(reading) = session.readings.get_mut(&attach) else { return Ok(()) };
        reading.source = Arc::clone(&source);
        let (token, inbox) = (reading.token, Arc::clone(&reading.inbox));
        let changed = std::mem::replace(&mut reading.mode, mode) != mode;
        drop(session);
        inbound.add(&inbox, Item::Adopted { token, source: Arc::clone(&source) });
        if changed {
            inbound.add(&inbox, Item::Mode { token: Some(token), source, mode, blocked: Duration::ZERO });
        }
        Ok(())
    }
}
