//! What the core asks a store to keep of queues whose durability is `disk`, and what a store gives back: words only.
//!
//! The core decides what is kept and in which order changes belong together; a store (`src/store`) makes each batch of
//! changes last as a whole or not at all, in the order in which it was given them. The core hands a batch over only when
//! the one before it has been answered, so what comes in meanwhile shares the next one.

use std::sync::Arc;

/// A queue in the store, numbered by the core from 1 on and never again for another.
pub type QueueNumber = u32;

/// Where in a queue a message is kept. The store reads each shelf in the order of its messages' numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shelf {
    /// Waiting or given out, by priority, 0 to 9.
    Waiting(u8),
    /// Not due yet.
    Delayed,
    /// Given up.
    Dead,
}

/// Why a message is a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obituary {
    /// In the words of the status: `attempts`, `timed_out`, `rejected`, `expired`, `overflow`.
    pub cause: Arc<str>,
    /// What the consumer said when it rejected it.
    pub reason: Arc<str>,
    /// When, in nanoseconds since 1970.
    pub when: i64,
    /// Who had it last, if it was given out at all.
    pub by: Option<Sender>,
}

/// Who sent a message, or had it last; the process may be gone long since.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sender {
    /// The name it gave itself.
    pub name: Arc<str>,
    /// User id, as the kernel vouched.
    pub uid: u32,
    /// Process id at that time.
    pub pid: u32,
}

/// A message as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The message as it travels.
    pub bytes: Arc<[u8]>,
    /// 0 to 9.
    pub priority: u8,
    /// How often it was given out, as far as that was written.
    pub attempts: u8,
    /// When it came, in milliseconds since 1970.
    pub since_millis: i64,
    /// When it is due, in milliseconds since 1970; 0: at once.
    pub due_millis: i64,
    /// When it expires, in milliseconds since 1970; 0: never.
    pub expires_millis: i64,
    /// Who sent it.
    pub from: Sender,
    /// The topic it was published on; empty for what was pushed to the queue itself.
    pub topic: Arc<str>,
    /// For a dead letter: why it is one.
    pub dead: Option<Obituary>,
}

/// One change of what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// There is a queue of this number and name.
    Queue {
        /// Its number.
        queue: QueueNumber,
        /// Its name.
        name: Arc<str>,
        /// What a client declared it with, in a form that only the core reads; empty for one in the configuration.
        settings: Arc<[u8]>,
    },
    /// A queue is gone, with all that was kept for it.
    Forget {
        /// Its number.
        queue: QueueNumber,
    },
    /// Keep this message, in place of what had this number on this shelf.
    Put {
        /// Whose.
        queue: QueueNumber,
        /// Where.
        shelf: Shelf,
        /// Its number on the shelf.
        number: u64,
        /// The message.
        record: Arc<Record>,
    },
    /// Keep a message no more. It is no fault if there is none.
    Remove {
        /// Whose.
        queue: QueueNumber,
        /// Where.
        shelf: Shelf,
        /// Its number on the shelf.
        number: u64,
    },
    /// Keep none of these messages any more; it is no fault if there are fewer, or none.
    RemoveRange {
        /// Whose.
        queue: QueueNumber,
        /// Where.
        shelf: Shelf,
        /// The first number.
        first: u64,
        /// The last number.
        last: u64,
    },
    /// A message with this id was queued, and is not to be queued again.
    Seen {
        /// Where.
        queue: QueueNumber,
        /// Whose id it is.
        uid: u32,
        /// The id.
        id: Arc<[u8]>,
        /// Until when it counts, in milliseconds since 1970; the store may drop it then.
        until_millis: i64,
    },
    /// Everything up to this number of a stream is in this queue, or is counted as lost.
    Position {
        /// Which queue.
        queue: QueueNumber,
        /// Which stream.
        stream: u64,
        /// The last number.
        seq: u64,
    },
    /// A stream has ended and everything of it was taken.
    ForgetPosition {
        /// Which queue.
        queue: QueueNumber,
        /// Which stream.
        stream: u64,
    },
}

/// Why a batch was not kept. Nothing of it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFailure {
    /// Whether the disk is full, so that it may go on by itself when there is room; otherwise writing failed, and what the
    /// file holds is only certain again after a restart.
    pub full: bool,
    /// What happened, naming the file.
    pub message: String,
}

/// What it took to keep a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Until the disk had it, in nanoseconds.
    pub nanos: u64,
    /// How large the file is now.
    pub file_bytes: u64,
}

/// What one shelf holds, as counted when the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stock {
    /// How many messages.
    pub messages: u64,
    /// How many bytes they have ([`Record::bytes`] only).
    pub bytes: u64,
    /// The highest number.
    pub last: u64,
}

/// A queue as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredQueue {
    /// Its number.
    pub queue: QueueNumber,
    /// Its name.
    pub name: Arc<str>,
    /// As in [`Change::Queue`].
    pub settings: Arc<[u8]>,
    /// What waits, by priority.
    pub waiting: [Stock; 10],
    /// What is not due yet.
    pub delayed: Stock,
    /// Dead letters.
    pub dead: Stock,
    /// Bytes and messages by the user who sent them, dead letters included.
    pub by_user: Vec<(u32, Stock)>,
    /// Ids seen: user, id, and until when in milliseconds since 1970.
    pub seen: Vec<(u32, Arc<[u8]>, i64)>,
    /// Streams and the last number of each that is in the queue.
    pub positions: Vec<(u64, u64)>,
}

impl StoredQueue {
    /// What a shelf holds. A priority that is none counts as the highest.
    pub fn stock_mut(&mut self, shelf: Shelf) -> &mut Stock {
        match shelf {
            Shelf::Waiting(priority) => &mut self.waiting[usize::from(priority.min(9))],
            Shelf::Delayed => &mut self.delayed,
            Shelf::Dead => &mut self.dead,
        }
    }

    /// What all its shelves hold.
    pub fn stocks(&self) -> impl Iterator<Item = &Stock> {
        self.waiting.iter().chain([&self.delayed, &self.dead])
    }
}
