//! The one background thread: leads when no user thread does, so that readers are admitted, messages are
//! taken in and the connection is restored although the program is busy elsewhere.
//!
//! It sleeps without a timeout while a user leads and while nothing happens; only in the [`LEASE`] after a
//! user's thread led does it wake by time. An idle client costs nothing, and one whose users lead again and again
//! a wake-up for each lease, not for each message.

use crate::error::{Error, Result};
use crate::inbound::Look;
use crate::reactor::{LEASE, park, try_lock};
use crate::shared::Shared;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

pub(crate) fn spawn(shared: &Arc<Shared>) -> Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new()
        .name("tramline-client".to_owned())
        .spawn(move || run(&shared))
        .map_err(Error::io("starting the client's background thread"))
}

fn run(shared: &Shared) {
    let reactor = &shared.reactor;
    let mut seen = reactor.user_leads.load(Ordering::Relaxed);
    // A user let go of the lead a moment ago.
    let mut left = false;
    while !shared.closing.load(Ordering::Acquire) {
        let housekeeping = shared.housekeep();
        let rest = if std::mem::take(&mut left) || lead(shared, &mut seen) {
            // A user led a moment ago: come back when the lease is over.
            Some(Instant::now() + LEASE)
        } else {
            reactor.doze();
            let free = try_lock(&shared.inbound).is_some();
            if free {
                reactor.doze_over();
                reactor.hand_over();
                Some(Instant::now() + LEASE)
            } else {
                None
            }
        };
        // A poll that fails (no memory) must not become a busy loop; the lease is as good a pause as any.
        if park([reactor.background.as_fd()], rest, housekeeping).is_err() {
            std::thread::park_timeout(LEASE);
        }
        left = rest.is_none() && !reactor.doze_over();
        if left {
            seen = reactor.user_leads.load(Ordering::Relaxed);
        }
        reactor.background.clear();
    }
}

/// Leads, if nobody else does and no user did since the last look. `false`: a user leads now.
fn lead(shared: &Shared, seen: &mut u64) -> bool {
    let reactor = &shared.reactor;
    let Some(mut inbound) = try_lock(&shared.inbound) else {
        *seen = reactor.user_leads.load(Ordering::Relaxed);
        return false;
    };
    let leads = reactor.user_leads.load(Ordering::Relaxed);
    if leads == *seen {
        reactor.set_background_leads(true);
        while !shared.closing.load(Ordering::Acquire) && !reactor.lead_is_wanted() {
            let housekeeping = shared.housekeep();
            let result = park([reactor.fd()], inbound.timer(), housekeeping)
                .and_then(|_| shared.drive(&mut inbound, Look::All, false));
            if let Err(error) = result {
                shared.lost(&mut inbound, error);
            }
        }
        reactor.set_background_leads(false);
    }
    *seen = leads;
    drop(inbound);
    reactor.hand_over();
    true
}
