//! The core itself.

use super::{
    Access, Action, Bells, FdId, Flow, Language, Limits, Now, Outbox, Peer, RingMessage, SessionId, Snapshot,
    Taken, snapshot::Totals,
};
use std::collections::VecDeque;
use tramline_wire::{Code, PageDeclaration};

/// Why a connection was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Stable reason.
    pub code: Code,
    /// What happened, for the person who meets it.
    pub message: String,
}

/// The broker without I/O.
#[derive(Debug)]
pub struct Core {
    limits: Limits,
    access: Access,
    instance: u64,
    version: String,
    actions: VecDeque<Action>,
}

impl Core {
    /// A broker without sessions. `instance` is chosen at random by the shell.
    #[must_use]
    pub fn new(limits: Limits, access: Access, instance: u64, version: &str) -> Self {
        Self { limits, access, instance, version: version.to_owned(), actions: VecDeque::new() }
    }

    /// A connection whose language is known (its first byte has arrived).
    ///
    /// # Errors
    /// When this user may not connect or a limit is reached; the shell tells it and closes.
    pub fn connect(&mut self, peer: Peer, language: Language, now: Now) -> Result<SessionId, Refusal> {
        let _ = (language, now);
        self.access.connect(&peer).map_err(|(code, message)| Refusal { code, message })?;
        Ok(self.instance)
    }

    /// Bytes of a native session, after the preamble; takes whole frames only. Descriptors are taken from
    /// the front of `fds` as frames declare them.
    pub fn native_input(
        &mut self,
        session: SessionId,
        bytes: &[u8],
        fds: &mut VecDeque<FdId>,
        now: Now,
    ) -> Taken {
        let _ = (session, bytes, fds, now);
        Taken { consumed: 0, flow: Flow::Continue }
    }

    /// One line of a JSON session, without its line feed. After [`Flow::Pause`] the line is taken, and the next one
    /// is wanted after [`Action::Resume`] only.
    pub fn json_line(&mut self, session: SessionId, line: &[u8], now: Now) -> Flow {
        let _ = (session, line, now);
        Flow::Continue
    }

    /// A line longer than `frame_bytes_max`: `bytes` of it were read so far.
    pub fn line_too_long(&mut self, session: SessionId, bytes: usize, now: Now) -> Flow {
        let _ = (session, bytes, now);
        Flow::Close
    }

    /// A JSON client has shut down its writing side. Its subscriptions live on until a write fails; without any, the
    /// session ends.
    pub fn half_closed(&mut self, session: SessionId, now: Now) -> Flow {
        let _ = (session, now);
        Flow::Close
    }

    /// The session was not opened in time. Nothing happens to one that is open.
    pub fn timed_out(&mut self, session: SessionId, now: Now) {
        let _ = (session, now);
    }

    /// The connection has ended. All that was received must have been given to the core before.
    pub fn disconnected(&mut self, session: SessionId, reason: &str, now: Now) {
        let _ = (session, reason, now);
    }

    /// A session whose outbox has something to write that it had not when it was last asked.
    pub fn next_dirty(&mut self) -> Option<SessionId> {
        None
    }

    /// What waits to be written to a session, if it exists.
    pub fn outbox(&mut self, session: SessionId) -> Option<&mut Outbox> {
        let _ = session;
        None
    }

    /// Part of the outbox was written: lets queued messages move up and blocked publishers go on.
    pub fn written(&mut self, session: SessionId, now: Now) {
        let _ = (session, now);
    }

    /// What the shell is to do next.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The answer to [`Action::VerifyRing`].
    pub fn ring_verified(&mut self, stream: u64, result: Result<(), String>, now: Now) {
        let _ = (stream, result, now);
    }

    /// The answer to [`Action::MakePipes`].
    pub fn pipes_made(&mut self, link: u64, result: Result<Bells, String>, now: Now) {
        let _ = (link, result, now);
    }

    /// The shell takes a [`Action::ProxyOffer`]; its cursor is in `slot` of the link, on `page` if that is new.
    pub fn proxy_accept(&mut self, attach: u64, slot: u32, page: Option<(PageDeclaration, FdId)>, now: Now) {
        let _ = (attach, slot, page, now);
    }

    /// The shell cannot take a [`Action::ProxyOffer`].
    pub fn proxy_refuse(&mut self, attach: u64, reason: &str, now: Now) {
        let _ = (attach, reason, now);
    }

    /// The shell reads the ring of a [`Action::ProxyAttach`].
    pub fn proxy_attached(&mut self, attach: u64, now: Now) {
        let _ = (attach, now);
    }

    /// A message that the shell read on behalf of a subscription. It is taken in any case; after [`Flow::Pause`] the
    /// next one is wanted after [`Action::ProxyResume`] only, after [`Flow::Close`] none.
    pub fn proxy_message(&mut self, attach: u64, message: RingMessage<'_>, now: Now) -> Flow {
        let _ = (attach, message, now);
        Flow::Continue
    }

    /// The shell has read all there was, or the ring broke; `lost` were lost after the last message.
    pub fn proxy_ended(&mut self, attach: u64, lost: u64, now: Now) {
        let _ = (attach, lost, now);
    }

    /// Lets time pass: whatever was due by `now` happens.
    pub fn tick(&mut self, now: Now) {
        let _ = now;
    }

    /// When [`Core::tick`] is to be called next, nanoseconds of `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        None
    }

    /// What the broker is and does now.
    #[must_use]
    pub fn snapshot(&self, now: Now) -> Snapshot {
        let _ = (now, &self.limits);
        Snapshot {
            version: self.version.clone(),
            instance: format!("{:016x}", self.instance),
            uptime_seconds: 0.0,
            sessions: Vec::new(),
            topics: Vec::new(),
            streams: Vec::new(),
            subscriptions: Vec::new(),
            totals: Totals::default(),
            limits: Vec::new(),
        }
    }

    /// Tells every session that the broker stops, and closes it.
    pub fn shutdown(&mut self, now: Now) {
        let _ = now;
    }
}
