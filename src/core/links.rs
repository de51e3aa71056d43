//! Links: what one publishing session and one subscription share, for all streams between them.
//!
//! A link has two pipes, made when its first attachment is accepted, and the reader pages that the subscriber
//! sent, of which each attachment has one slot. Bells go out once, each end to its owner, and the broker
//! keeps none. Pages are kept, so that readers can be counted. A link lives as long as both its
//! session and its subscription do, and until its last attachment is gone.

use super::broker::Core;
use super::native::Violation;
use super::table::Key;
use super::{Action, Bells, FdId};
use std::collections::{BTreeMap, BTreeSet};
use tramline_wire::{Code, PageDeclaration, ToClient};

/// Reader pages one link may have.
const LINK_PAGES_MAX: usize = 1024;

/// Slots one link may have.
const LINK_SLOTS_MAX: u32 = 1 << 20;

#[derive(Debug)]
pub(super) struct Page {
    pub(super) declaration: PageDeclaration,
    pub(super) memory: FdId,
    /// Whether the publisher has it.
    told: bool,
}

impl Page {
    pub(super) fn holds(&self, slot: u32) -> bool {
        let PageDeclaration { first_slot, slots } = self.declaration;
        slot.checked_sub(first_slot).is_some_and(|place| place < slots)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pipes {
    Wanted,
    Asked,
    Made,
}

/// One link.
#[derive(Debug)]
pub(super) struct Link {
    publisher: Key,
    subscription: Key,
    pipes: Pipes,
    /// Doorbell to write, space bell to read; until sent.
    pub(super) publisher_bells: Option<[FdId; 2]>,
    /// Doorbell to read, space bell to write; until sent.
    pub(super) subscriber_bells: Option<[FdId; 2]>,
    pub(super) pages: Vec<Page>,
    slots: BTreeSet<u32>,
    pub(super) attachments: BTreeSet<u64>,
    /// One of its sides has ended.
    closing: bool,
    /// Whether the shell reads in the subscriber's place.
    proxy: bool,
}

impl Link {
    /// The page of this slot, if the publisher has not been given it.
    pub(super) fn untold_page(&mut self, slot: u32) -> Option<(PageDeclaration, FdId)> {
        let page = self.pages.iter_mut().find(|page| !page.told && page.holds(slot))?;
        page.told = true;
        Some((page.declaration, page.memory))
    }
}

/// All links.
#[derive(Debug, Default)]
pub(super) struct Links {
    pub(super) by_id: BTreeMap<u64, Link>,
    by_ends: BTreeMap<(Key, Key), u64>,
    last: u64,
}

impl Core {
    /// The link between a publishing session and a subscription.
    pub(super) fn link_between(&mut self, publisher: Key, subscription: Key) -> u64 {
        if let Some(link) = self.links.by_ends.get(&(publisher, subscription)) {
            return *link;
        }
        let id = self.add_link(publisher, subscription, false);
        self.links.by_ends.insert((publisher, subscription), id);
        id
    }

    /// A link of its own for one attachment without a publisher, over with it.
    pub(super) fn link_alone(&mut self, subscription: Key) -> u64 {
        self.add_link(Key::NOBODY, subscription, true)
    }

    fn add_link(&mut self, publisher: Key, subscription: Key, closing: bool) -> u64 {
        self.links.last += 1;
        let id = self.links.last;
        let link = Link {
            publisher,
            subscription,
            pipes: Pipes::Wanted,
            publisher_bells: None,
            subscriber_bells: None,
            pages: Vec::new(),
            slots: BTreeSet::new(),
            attachments: BTreeSet::new(),
            closing,
            proxy: self.subscriptions.get(subscription).is_some_and(|each| !each.rings),
        };
        self.links.by_id.insert(id, link);
        id
    }

    /// Gives a slot of a link to an attachment. A page that comes along is kept already, once, by the caller.
    pub(super) fn claim_slot(
        &mut self,
        id: u64,
        slot: u32,
        page: Option<(PageDeclaration, FdId)>,
    ) -> Result<(), Violation> {
        let Some(link) = self.links.by_id.get_mut(&id) else { return Ok(()) };
        if let Some((declaration, memory)) = page {
            let PageDeclaration { first_slot, slots } = declaration;
            let end = first_slot.checked_add(slots).filter(|end| slots > 0 && *end <= LINK_SLOTS_MAX);
            let overlaps = |page: &Page| {
                let known = page.declaration;
                first_slot < known.first_slot + known.slots && known.first_slot < first_slot + slots
            };
            if end.is_none() || link.pages.iter().any(overlaps) {
                let message = format!(
                    "a reader page of {slots} slots from {first_slot} on cannot be, or is there already"
                );
                return Err(Violation::new(Code::FalseClaim, message));
            }
            if link.pages.len() >= LINK_PAGES_MAX {
                let message = format!("a link has at most {LINK_PAGES_MAX} reader pages");
                return Err(Violation::new(Code::LimitReached, message));
            }
            link.pages.push(Page { declaration, memory, told: false });
            self.keep_fd(memory);
        }
        let Some(link) = self.links.by_id.get_mut(&id) else { return Ok(()) };
        if !link.pages.iter().any(|page| page.holds(slot)) {
            return Err(Violation::new(
                Code::FalseClaim,
                format!("slot {slot} is on no reader page of link {id}"),
            ));
        }
        if !link.slots.insert(slot) {
            return Err(Violation::new(Code::FalseClaim, format!("slot {slot} of link {id} is taken")));
        }
        Ok(())
    }

    /// Has the link's pipes made, or goes on with this attachment if they are.
    pub(super) fn want_pipes(&mut self, id: u64, attach: u64) {
        let Some(link) = self.links.by_id.get_mut(&id) else { return };
        match link.pipes {
            Pipes::Asked => {}
            Pipes::Wanted => {
                link.pipes = Pipes::Asked;
                self.actions.push_back(Action::MakePipes { link: id });
            }
            // Not with all: one publisher may have ten thousand on one link.
            Pipes::Made => self.piped(attach),
        }
    }

    fn all_piped(&mut self, id: u64) {
        let Some(link) = self.links.by_id.get(&id) else { return };
        for attach in link.attachments.iter().copied().collect::<Vec<_>>() {
            self.piped(attach);
        }
    }

    /// The shell made a link's pipes, or could not.
    pub(super) fn take_pipes(&mut self, id: u64, result: Result<Bells, String>) {
        let link = self.links.by_id.get_mut(&id).filter(|link| link.pipes == Pipes::Asked);
        match (link, result) {
            (Some(link), Ok(bells)) => {
                link.pipes = Pipes::Made;
                link.publisher_bells = Some([bells.doorbell_write, bells.space_read]);
                link.subscriber_bells = Some([bells.doorbell_read, bells.space_write]);
                let Bells { doorbell_read, doorbell_write, space_read, space_write } = bells;
                for bell in [doorbell_read, doorbell_write, space_read, space_write] {
                    self.keep_fd(bell);
                }
                self.all_piped(id);
            }
            (None, Ok(bells)) => {
                let Bells { doorbell_read, doorbell_write, space_read, space_write } = bells;
                let all = [doorbell_read, doorbell_write, space_read, space_write];
                self.actions.extend(all.map(Action::CloseFd));
            }
            (Some(link), Err(reason)) => {
                link.pipes = Pipes::Wanted;
                tracing::warn!("no pipes for link {id}, its streams are not attached: {reason}");
                for attach in link.attachments.iter().copied().collect::<Vec<_>>() {
                    self.fail_attachment(attach, Code::NoResources);
                }
            }
            (None, Err(_)) => {}
        }
    }

    /// Gives an attachment up that waits for something the broker cannot give it.
    pub(super) fn fail_attachment(&mut self, attach: u64, code: Code) {
        let Some(attachment) = self.attachments.get(&attach) else { return };
        if attachment.stage != super::attachment::Stage::Piping {
            return;
        }
        if attachment.proxy {
            self.actions.push_back(Action::ProxyDetach { attach, drain: false });
        } else {
            let subscriber = attachment.subscriber;
            self.send_control(subscriber, &ToClient::Detach { attach, code: code.number() });
        }
        self.remove_attachment(attach);
    }

    /// One attachment less on a link.
    pub(super) fn leave_link(&mut self, id: u64, attach: u64, slot: Option<u32>) {
        let Some(link) = self.links.by_id.get_mut(&id) else { return };
        link.attachments.remove(&attach);
        if let Some(slot) = slot {
            link.slots.remove(&slot);
        }
        self.drop_link_if_done(id);
    }

    /// A side had no room for the descriptors that make a link: what is attached later between the same two gets a link
    /// of its own.
    pub(super) fn abandon_link(&mut self, id: u64) {
        let Some(link) = self.links.by_id.get_mut(&id) else { return };
        link.closing = true;
        let ends = (link.publisher, link.subscription);
        if self.links.by_ends.get(&ends) == Some(&id) {
            self.links.by_ends.remove(&ends);
        }
    }

    /// One side of these links has ended.
    pub(super) fn close_links(&mut self, of: impl Fn(Key, Key) -> bool) {
        let ended: Vec<u64> =
            self.links.by_ends.iter().filter(|((from, to), _)| of(*from, *to)).map(|(_, id)| *id).collect();
        for id in ended {
            if let Some(link) = self.links.by_id.get_mut(&id) {
                link.closing = true;
            }
            self.drop_link_if_done(id);
        }
    }

    fn drop_link_if_done(&mut self, id: u64) {
        if !self.links.by_id.get(&id).is_some_and(|link| link.closing && link.attachments.is_empty()) {
            return;
        }
        let Some(link) = self.links.by_id.remove(&id) else { return };
        let ends = (link.publisher, link.subscription);
        if self.links.by_ends.get(&ends) == Some(&id) {
            self.links.by_ends.remove(&ends);
        }
        if link.proxy {
            self.actions.push_back(Action::ProxyLinkEnded { link: id });
        }
        let bells = link.publisher_bells.into_iter().chain(link.subscriber_bells).flatten();
        for fd in bells.chain(link.pages.into_iter().map(|page| page.memory)) {
            self.release_fd(fd);
        }
    }
}
