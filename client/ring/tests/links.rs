//! Reader pages as the writer's side of a link takes them.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod common;

use common::link;
use std::os::fd::OwnedFd;
use tramline_ring::{NewPage, ReadMode, ReaderLink, RingSpec, Writer};

/// The first pages of a link that allocates slots until it has this many.
fn pages(link: &ReaderLink, count: usize) -> Vec<NewPage> {
    let mut pages = Vec::new();
    while pages.len() < count {
        pages.extend(link.allocate_slot().unwrap().1);
    }
    pages
}

fn again(page: &NewPage) -> OwnedFd {
    page.fd.try_clone().unwrap()
}

#[test]
fn pages_arrive_in_any_order_and_some_never() {
    let link = link();
    let pages = pages(&link.reader_side, 3);
    let mut writer = Writer::create(&RingSpec::sized(1, 100, 4).unwrap(), 4).unwrap();
    let slot = pages[2].first_slot + 3;
    assert!(writer.add_reader(1, &link.writer_side, slot, ReadMode::Lossy, 0).unwrap_err().is_claim());
    // All attachments of the first page ended before they were admitted: the writer is given the third, later the first.
    link.writer_side.add_page(again(&pages[2]), pages[2].first_slot, pages[2].slots).unwrap();
    writer.add_reader(1, &link.writer_side, slot, ReadMode::Lossy, 0).unwrap();
    link.writer_side.add_page(again(&pages[0]), pages[0].first_slot, pages[0].slots).unwrap();
    writer.add_reader(2, &link.writer_side, 0, ReadMode::Lossy, 0).unwrap();
    assert!(writer.add_reader(3, &link.writer_side, 15, ReadMode::Lossy, 0).unwrap_err().is_claim());
}

#[test]
fn no_two_pages_have_the_same_slots() {
    let link = link();
    let pages = pages(&link.reader_side, 1);
    let add = |first_slot| link.writer_side.add_page(again(&pages[0]), first_slot, pages[0].slots);
    add(20).unwrap();
    for first_slot in [20, 6, 34, u32::MAX, u32::MAX - 14] {
        assert!(add(first_slot).unwrap_err().is_claim(), "{first_slot}");
    }
    add(35).unwrap();
    add(5).unwrap();
}
