//! Many small messages in one write.

use crate::draft::Outgoing;
use crate::error::Result;
use crate::handle::Handle;
use crate::publish::How;
use crate::topics::Topic;
use std::sync::Arc;
use tramline_wire::Encoding;

/// Messages collected to be sent together; made by [`Client::batch`](crate::Client::batch).
///
/// They are numbered when sent, not when added. A batch can be filled and sent again and again.
pub struct Batch {
    handle: Arc<Handle>,
    bytes: Vec<u8>,
    messages: Vec<Waiting>,
    /// Those that messages refer to, each as often as it changes.
    topics: Vec<Arc<Topic>>,
}

#[derive(Clone, Copy)]
struct Waiting {
    /// Place in `topics`.
    topic: usize,
    encoding: Encoding,
    start: usize,
    end: usize,
}

impl Batch {
    pub(crate) fn new(handle: Arc<Handle>) -> Self {
        Self { handle, bytes: Vec::new(), messages: Vec::new(), topics: Vec::new() }
    }

    /// Adds a message; its bytes are copied.
    ///
    /// # Errors
    /// When the topic breaks the rules of names.
    pub fn publish(&mut self, topic: &str, payload: impl AsRef<[u8]>) -> Result<&mut Self> {
        self.publish_with(topic, Encoding::Binary, payload)
    }

    /// Adds a message that says how its bytes are to be understood.
    ///
    /// # Errors
    /// When the topic breaks the rules of names.
    pub fn publish_with(
        &mut self,
        topic: &str,
        encoding: Encoding,
        payload: impl AsRef<[u8]>,
    ) -> Result<&mut Self> {
        self.handle.shared.check_process()?;
        if self.topics.last().is_none_or(|last| &*last.name != topic) {
            self.topics.push(self.handle.shared.topics.get(topic)?);
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(payload.as_ref());
        let (topic, end) = (self.topics.len() - 1, self.bytes.len());
        self.messages.push(Waiting { topic, encoding, start, end });
        Ok(self)
    }

    /// How many messages are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Publishes all of them in the order they were added, and empties the batch. As
    /// [`Client::publish`](crate::Client::publish) for each, but written together.
    ///
    /// # Errors
    /// As [`Client::publish`](crate::Client::publish). The messages before the one that failed are
    /// published; it and those after it stay in the batch.
    pub fn send(&mut self) -> Result<()> {
        let shared = &self.handle.shared;
        shared.check_process()?;
        shared.take_fault()?;
        let mut sent = 0;
        let mut result = Ok(());
        while sent < self.messages.len() && result.is_ok() {
            match self.send_some(&self.messages[sent..]) {
                Ok(some) => sent += some,
                Err(error) => result = Err(error),
            }
        }
        shared.flush_now();
        self.messages.drain(..sent);
        if self.messages.is_empty() {
            self.bytes.clear();
            self.topics.clear();
        }
        result
    }

    /// Sends the first messages of `waiting`, at least one; says how many.
    fn send_some(&self, waiting: &[Waiting]) -> Result<usize> {
        let shared = &self.handle.shared;
        let Some(first) = waiting.first() else { return Ok(0) };
        let topic = &self.topics[first.topic];
        let message = |it: &Waiting| Outgoing::plain(it.encoding, &self.bytes[it.start..it.end]);
        let same = waiting.iter().take_while(|it| it.topic == first.topic);
        let together = shared.push_together(topic, same.map(message))?;
        if together == 0 {
            // What has to wait, and what a ring takes.
            shared.publish_to(topic, &message(first), How { confirm: false, flush: false })?;
            return Ok(1);
        }
        Ok(together)
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("messages", &self.len())
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}
