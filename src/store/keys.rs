//! Where each thing stands in the file: the tables and the order of their keys. Numbers only, so that the order of the
//! file is the order of numbers.

use crate::core::durable::{QueueNumber, Shelf};
use redb::TableDefinition;

/// Messages that stand by themselves, by [`message`].
pub(super) const MESSAGES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("messages");
/// Sheets of messages with consecutive numbers, by the key of the first.
pub(super) const SHEETS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("sheets");
/// What of a sheet is done, by the sheet's key.
pub(super) const DONE: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("done");
/// Queues by their number.
pub(super) const QUEUES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("queues");
/// Streams and how far they were read, by [`position`].
pub(super) const POSITIONS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("positions");
/// Ids seen, by [`seen`].
pub(super) const SEEN: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("seen");
/// What the file says of itself, by the two below.
pub(super) const META: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("meta");
/// The version of everything in the file but redb's own.
pub(super) const META_FORMAT: u128 = 0;
/// How many batches were written.
pub(super) const META_COMMITS: u128 = 1;

const DELAYED: u8 = 10;
const DEAD: u8 = 11;

/// The number of a shelf in keys.
pub(super) fn shelf_code(shelf: Shelf) -> u8 {
    match shelf {
        Shelf::Waiting(priority) => priority.min(9),
        Shelf::Delayed => DELAYED,
        Shelf::Dead => DEAD,
    }
}

/// The shelf of a number, if it is one.
pub(super) fn shelf_of(code: u8) -> Option<Shelf> {
    match code {
        0..=9 => Some(Shelf::Waiting(code)),
        DELAYED => Some(Shelf::Delayed),
        DEAD => Some(Shelf::Dead),
        _ => None,
    }
}

/// Messages of a queue lie together, those of a shelf within it, in order of their number.
pub(super) fn message(queue: QueueNumber, shelf: Shelf, number: u64) -> u128 {
    (u128::from(queue) << 72) | (u128::from(shelf_code(shelf)) << 64) | u128::from(number)
}

/// The parts of a message's key, if it can be one.
pub(super) fn message_parts(key: u128) -> Option<(QueueNumber, Shelf, u64)> {
    let queue = QueueNumber::try_from(key >> 72).ok()?;
    let code = u8::try_from((key >> 64) & 0xff).ok()?;
    let number = u64::try_from(key & u128::from(u64::MAX)).ok()?;
    Some((queue, shelf_of(code)?, number))
}

/// All messages of a queue lie between these two, both included.
pub(super) fn messages_of(queue: QueueNumber) -> std::ops::RangeInclusive<u128> {
    let first = u128::from(queue) << 72;
    first..=first | ((1 << 72) - 1)
}

/// The first key that a message of the same queue and shelf can have.
pub(super) fn shelf_of_key(key: u128) -> u128 {
    key & !u128::from(u64::MAX)
}

/// Streams of a queue lie together.
pub(super) fn position(queue: QueueNumber, stream: u64) -> u128 {
    (u128::from(queue) << 64) | u128::from(stream)
}

/// The parts of a position's key, if it can be one.
pub(super) fn position_parts(key: u128) -> Option<(QueueNumber, u64)> {
    let stream = u64::try_from(key & u128::from(u64::MAX)).ok()?;
    Some((QueueNumber::try_from(key >> 64).ok()?, stream))
}

/// All streams of a queue lie between these two, both included.
pub(super) fn positions_of(queue: QueueNumber) -> std::ops::RangeInclusive<u128> {
    position(queue, 0)..=position(queue, u64::MAX)
}

/// Ids lie in order of the time at which they are forgotten: until (milliseconds since 1970, 8 bytes), queue (4), user (4),
/// id. Big end first, as bytes are compared.
pub(super) fn seen(until_millis: i64, queue: QueueNumber, uid: u32, id: &[u8]) -> Vec<u8> {
    let until = u64::try_from(until_millis).unwrap_or(0);
    [&until.to_be_bytes()[..], &queue.to_be_bytes(), &uid.to_be_bytes(), id].concat()
}

/// The parts of such a key, if it can be one.
pub(super) fn seen_parts(key: &[u8]) -> Option<(i64, QueueNumber, u32, &[u8])> {
    let (until, rest) = key.split_first_chunk()?;
    let (queue, rest) = rest.split_first_chunk()?;
    let (uid, id) = rest.split_first_chunk()?;
    let until = i64::try_from(u64::from_be_bytes(*until)).ok()?;
    Some((until, QueueNumber::from_be_bytes(*queue), u32::from_be_bytes(*uid), id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_queue_shelf_and_number() {
        let mut keys = Vec::new();
        for queue in [1, 2, u32::MAX] {
            for code in 0..=DEAD {
                for number in [0, 1, u64::MAX] {
                    let shelf = shelf_of(code).expect("a shelf");
                    let key = message(queue, shelf, number);
                    assert_eq!(message_parts(key), Some((queue, shelf, number)));
                    assert!(messages_of(queue).contains(&key));
                    assert!(!messages_of(queue - 1).contains(&key));
                    keys.push(key);
                }
            }
        }
        assert!(keys.is_sorted());
        assert_eq!(shelf_of(DEAD + 1), None);
        assert_eq!(message_parts(12 << 64), None, "no such shelf");
        assert_eq!(message_parts(u128::MAX), None, "no such queue");
    }

    #[test]
    fn ids_sort_by_the_time_at_which_they_are_forgotten() {
        let keys = [seen(-1, 9, 9, b"z"), seen(5, 9, 1, b"b"), seen(256, 1, 0, b""), seen(257, 0, 0, b"a")];
        assert!(keys.is_sorted());
        assert_eq!(seen_parts(&keys[1]), Some((5, 9, 1, &b"b"[..])));
        assert_eq!(seen_parts(&keys[1][..15]), None, "cut");
        assert_eq!(seen_parts(&[0xff; 20]), None, "no such time");
        assert_eq!(position_parts(position(7, u64::MAX)), Some((7, u64::MAX)));
        assert_eq!(position_parts(u128::MAX), None);
        assert!(positions_of(7).contains(&position(7, 0)) && !positions_of(7).contains(&position(8, 0)));
    }
}
