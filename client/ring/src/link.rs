//! Links: what one publishing session and one subscription share, for all streams between them. Reader pages go
//! one way, doorbells and space bells both ways.
//!
//! Either side's link is shared, behind an `Arc`, by the writers or readers of that process.

use crate::bell::{Drained, Listener, Ringer, Rung};
use crate::error::{RingError, claim};
use crate::layout::{PAGE_SLOTS_MAX, Slot};
use crate::protocol::{move_cursor, note};
use crate::view::Page;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Slots of a link's first page, which fits 4 KiB with its header. Each further page has about four times as many.
const FIRST_PAGE_SLOTS: u32 = 15;

/// Most reader pages of one link: 15, 63, 255, 1023, and 4095 each from then on.
const PAGES_MAX: usize = 64;

/// A slot, with the page that keeps it mapped.
#[derive(Debug, Clone)]
pub(crate) struct SlotRef {
    page: Arc<Page>,
    index: u32,
}

impl SlotRef {
    pub(crate) fn get(&self) -> &Slot {
        self.page.slot(self.index)
    }
}

/// The writer's side of a link.
#[derive(Debug)]
pub struct WriterLink {
    doorbell: Ringer,
    space: Listener,
    pages: Mutex<Vec<(u32, Arc<Page>)>>,
    hung_up: AtomicBool,
}

impl WriterLink {
    /// Takes the doorbell's writing end and the space bell's reading end.
    ///
    /// # Errors
    /// When they are no pipes.
    pub fn new(doorbell: OwnedFd, space: OwnedFd) -> Result<Self, RingError> {
        Ok(Self {
            doorbell: Ringer::new(doorbell)?,
            space: Listener::new(space)?,
            pages: Mutex::new(Vec::new()),
            hung_up: AtomicBool::new(false),
        })
    }

    /// Verifies and maps one more reader page, for slots `first_slot..first_slot + slots`. Blocks on file calls.
    ///
    /// # Errors
    /// [`RingError::Claim`] when it is not what it must be, [`RingError::Limit`] beyond 64 pages.
    pub fn add_page(&self, page: OwnedFd, first_slot: u32, slots: u32) -> Result<(), RingError> {
        let page = Page::open(&page, slots)?;
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if pages.len() == PAGES_MAX {
            return Err(RingError::Limit {
                what: "the reader pages of one link",
                value: 65,
                max: PAGES_MAX as u64,
            });
        }
        // In any order: a page whose attachments have all ended before they were admitted is never sent here.
        let end = first_slot.checked_add(slots);
        let overlaps = |(first, page): &(u32, Arc<Page>)| {
            end.is_none_or(|end| first_slot < first + page.slots() && *first < end)
        };
        let fits = end.is_some() && !pages.iter().any(overlaps);
        claim(
            fits,
            "the first slot of a reader page",
            first_slot.into(),
            "no two pages have the same slots",
        )?;
        pages.push((first_slot, Arc::new(page)));
        Ok(())
    }

    pub(crate) fn slot(&self, slot: u32) -> Result<SlotRef, RingError> {
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let found = pages.iter().find(|(first, page)| slot >= *first && slot - first < page.slots());
        match found {
            Some((first, page)) => Ok(SlotRef { page: Arc::clone(page), index: slot - first }),
            None => {
                Err(RingError::Claim { what: "a slot's number", value: slot.into(), rule: "no page has it" })
            }
        }
    }

    /// Wakes the reader for one of its slots.
    pub(crate) fn ring(&self, slot: u32) {
        if self.doorbell.ring(&slot.to_le_bytes()) == Rung::HungUp {
            self.hung_up.store(true, Ordering::Release);
        }
    }

    /// The space bell, to wait on for readability. Hang-up means that the reader's process has gone.
    #[must_use]
    pub fn space(&self) -> BorrowedFd<'_> {
        self.space.fd()
    }

    /// Empties the space bell. `false`: hung up, the reader has gone.
    #[must_use]
    pub fn drain_space(&self) -> bool {
        let alive = self.space.hush();
        if !alive {
            self.hung_up.store(true, Ordering::Release);
        }
        alive
    }

    /// Whether the reader was found gone when it was rung or its bell drained.
    #[must_use]
    pub fn hung_up(&self) -> bool {
        self.hung_up.load(Ordering::Acquire)
    }
}

/// A reader page that this process has just made, for the other side.
#[derive(Debug)]
pub struct NewPage {
    /// Its memory.
    pub fd: OwnedFd,
    /// Number of its first slot within the link.
    pub first_slot: u32,
    /// How many slots it has.
    pub slots: u32,
}

#[derive(Debug, Default)]
struct OwnPages {
    pages: Vec<(u32, Arc<Page>)>,
    free: Vec<u32>,
}

fn find(own: &OwnPages, slot: u32) -> Option<SlotRef> {
    let (first, page) =
        own.pages.iter().find(|(first, page)| slot >= *first && slot - first < page.slots())?;
    Some(SlotRef { page: Arc::clone(page), index: slot - first })
}

/// The reader's side of a link.
#[derive(Debug, Default)]
pub struct ReaderLink {
    own: Mutex<OwnPages>,
    bells: OnceLock<(Listener, Ringer)>,
}

impl ReaderLink {
    /// A link without pages or bells yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A free slot, and the page that was made for it if all slots were taken. A slot whose reader is gone is free
    /// again once its last sample has been dropped. Making a page blocks for some microseconds.
    ///
    /// # Errors
    /// When no page can be made.
    pub fn allocate_slot(&self) -> Result<(u32, Option<NewPage>), RingError> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = own.free.pop() {
            if let Some(place) = find(&own, slot) {
                // A reader that has gone leaves its cursor at the far end, where it holds up nobody. The next one must
                // gate from the moment it is admitted.
                move_cursor(place.get(), 0);
            }
            return Ok((slot, None));
        }
        let made = own.pages.len();
        if made == PAGES_MAX {
            return Err(RingError::Limit {
                what: "the reader pages of one link",
                value: 65,
                max: PAGES_MAX as u64,
            });
        }
        let slots = (0..made).fold(FIRST_PAGE_SLOTS, |slots, _| (slots * 4 + 3).min(PAGE_SLOTS_MAX));
        let first_slot = own.pages.last().map_or(0, |(first, page)| first + page.slots());
        let (fd, page) = Page::create(slots)?;
        own.pages.push((first_slot, Arc::new(page)));
        own.free.extend((first_slot + 1..first_slot + slots).rev());
        Ok((first_slot, Some(NewPage { fd, first_slot, slots })))
    }

    pub(crate) fn slot(&self, slot: u32) -> Option<SlotRef> {
        find(&self.own.lock().unwrap_or_else(PoisonError::into_inner), slot)
    }

    /// Gives a slot back that has no reader any more, or never had one.
    pub fn free_slot(&self, slot: u32) {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = find(&own, slot) {
            let sleep = &place.get().sleep;
            note(&sleep.epoch, 0);
            note(&sleep.lost, 0);
            note(&sleep.pins_used, 0);
            own.free.push(slot);
        }
    }

    /// Lets a slot hold up nobody that will never have a reader, although a writer may have admitted one. It is not used
    /// again.
    pub fn give_up_slot(&self, slot: u32) {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = find(&own, slot) {
            move_cursor(place.get(), u64::MAX);
        }
    }

    /// Takes the doorbell's reading end and the space bell's writing end; a second pair is ignored.
    ///
    /// # Errors
    /// When they are no pipes.
    pub fn set_bells(&self, doorbell: OwnedFd, space: OwnedFd) -> Result<(), RingError> {
        let bells = (Listener::new(doorbell)?, Ringer::new(space)?);
        // The broker sends one pair per link; keeping the first is right whatever a second means.
        let _ = self.bells.set(bells);
        Ok(())
    }

    /// The doorbell, to wait on for readability; `None` before [`set_bells`](Self::set_bells). Hang-up means that
    /// the writer's process has gone.
    #[must_use]
    pub fn doorbell(&self) -> Option<BorrowedFd<'_>> {
        self.bells.get().map(|(doorbell, _)| doorbell.fd())
    }

    /// Empties the doorbell; the slots that were rung are appended to `slots`.
    pub fn drain(&self, slots: &mut Vec<u32>) -> Drained {
        self.bells.get().map_or(Drained::Some, |(doorbell, _)| doorbell.drain(slots))
    }

    /// Tells the writer that room came free.
    pub(crate) fn ring_space(&self) {
        if let Some((_, space)) = self.bells.get() {
            // A writer that has gone is noticed by the doorbell's hang-up.
            let _ = space.ring(&[1]);
        }
    }
}
