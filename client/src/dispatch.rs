//! What each frame from the broker means to this client, except for messages and attachments.

use crate::error::{End, Error, Result};
use crate::inbound::Inbound;
use crate::inbox::Item;
use crate::message::Source;
use crate::reactor::lock;
use crate::reconnect::Phase;
use crate::service::WaitingCall;
use crate::session::{Answer, Greeting, Restoring, TopicSettings};
use crate::shared::Shared;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tramline_wire as wire;
use tramline_wire::limits::TOPIC_SETTINGS_MAX;
use tramline_wire::{Code, ErrorReply, LimitInfo, ModeTold, ToClient, Welcome};

impl Shared {
    pub(crate) fn dispatch(&self, inbound: &mut Inbound, frame: &ToClient<'_>) -> Result<()> {
        match frame {
            ToClient::Welcome(welcome) => self.welcomed(inbound, welcome),
            ToClient::TopicSettings(settings) => self.told_settings(inbound, settings),
            ToClient::Error { req, code, message, limit } => {
                self.refused(inbound, *req, *code, message, *limit);
                Ok(())
            }
            ToClient::Done { req } => self.answered(*req, Answer::Done),
            ToClient::Consuming { req, .. } => self.answered(*req, Answer::Consuming),
            ToClient::Pushed { queue, first, last } => {
                if lock(&self.session).pushes.taken(*queue, *first, *last) {
                    self.reactor.changed();
                }
                Ok(())
            }
            ToClient::PushRefused { queue, seq, code, message, limit } => {
                self.push_refused(*queue, *seq, (*code, message), *limit);
                Ok(())
            }
            ToClient::JobLost { consumer, tag: 0, code } => {
                inbound.hand_out_jobs(self);
                if let Some(jobs) = lock(&self.session).consumers.remove(consumer) {
                    let message = format!("the broker has ended this consumer of queue {}", jobs.wish.queue);
                    jobs.begin(u64::MAX);
                    jobs.close(End::of(&Error::refused(*code, &message, None)));
                    self.reactor.changed();
                }
                Ok(())
            }
            ToClient::JobLost { consumer, tag, .. } => {
                inbound.hand_out_jobs(self);
                if let Some(jobs) = lock(&self.session).consumers.get(consumer).cloned() {
                    jobs.lost(*tag);
                }
                Ok(())
            }
            ToClient::Call(call) => self.called(inbound, call),
            ToClient::CallOver { provider, call, .. } => {
                self.call_over(*provider, *call);
                Ok(())
            }
            ToClient::Replied(replied) => self.replied(inbound, replied),
            ToClient::RequestFailed { request, code, message, limit } => {
                self.request_failed(*request, (*code, message), *limit);
                Ok(())
            }
            ToClient::Pong { req } => self.answered(*req, Answer::Pong),
            ToClient::Subscribed { req, .. } => self.answered(*req, Answer::Subscribed),
            ToClient::StreamOpened { req, stream, pending, .. } => {
                self.answered(*req, Answer::StreamOpened)?;
                self.opened_again(*stream, *pending);
                Ok(())
            }
            ToClient::StreamGrown { stream, generation, .. } => self.grown(*stream, *generation),
            ToClient::Successor(next) => self.succeeded(inbound, next),
            ToClient::Renew { stream } => {
                self.renew(*stream);
                Ok(())
            }
            ToClient::Confirmed { alias, seq, receivers } => {
                if let Some(place) = lock(&self.session).confirmations.get_mut(&(*alias, *seq)) {
                    *place = Some(Ok(*receivers));
                }
                self.reactor.changed();
                Ok(())
            }
            ToClient::Source(source) => inbound.set_source(
                source.alias,
                Source {
                    topic: source.topic.to_owned(),
                    name: source.name.to_owned(),
                    session: source.session,
                    uid: source.uid,
                    pid: source.pid,
                    client: source.client,
                },
            ),
            ToClient::SourceGone { alias } => {
                if let Some(source) = inbound.source_gone(*alias, true) {
                    lock(&self.session).end_links(|_, link| link.publisher == source.session);
                }
                Ok(())
            }
            ToClient::Gap { sub, lost, source, .. } => inbound.told_gap(self, *sub, *lost, *source),
            ToClient::Offer(offer) => self.offered(inbound, offer),
            ToClient::Admit(admit) => self.asked_to_admit(inbound, admit),
            ToClient::Adopted(adopted) => self.adopted(inbound, adopted),
            ToClient::Attach(attach) => self.attached(inbound, attach),
            ToClient::ModeTold(told) => self.mode_told(inbound, told),
            ToClient::Detach { attach, code } => {
                self.detached(inbound, *attach, *code);
                Ok(())
            }
            ToClient::BulkRing(ring) => inbound.take_bulk_ring(self, ring),
            ToClient::BulkPayload(payload) => inbound.take_bulk_payload(payload),
            ToClient::BulkFree(free) => {
                self.bulk_freed(*free);
                Ok(())
            }
            ToClient::Close { code, message } => Err(Error::refused(*code, message, None)),
            // Delivered by the caller; and what later versions add is only sent when agreed on.
            other => Err(Error::Protocol(format!("an unexpected frame: {other:?}").into())),
        }
    }

    /// A request for an instance of this client.
    fn called(&self, inbound: &mut Inbound, call: &wire::Call<'_>) -> Result<()> {
        let message = inbound.whole_message(&call.message, call.source)?;
        let calls = lock(&self.session).providers.get(&call.provider).cloned();
        let Some(calls) = calls else {
            self.give_back(call.provider, call.call, "the instance has ended");
            return Ok(());
        };
        let left = Duration::from_millis(call.timeout_millis.into());
        calls.push(WaitingCall {
            message,
            call: call.call,
            attempt: call.attempt,
            deadline: Instant::now() + left,
        });
        self.reactor.changed();
        Ok(())
    }

    /// The answer to a request of this client.
    fn replied(&self, inbound: &mut Inbound, replied: &wire::Replied<'_>) -> Result<()> {
        let message = inbound.whole_message(&replied.message, replied.source)?;
        let answer = match replied.error {
            Some(ErrorReply { number, text }) => Err(Error::Reply { number, text: text.to_owned() }),
            None => Ok(message),
        };
        if lock(&self.session).asked.answered(replied.request, answer) {
            self.reactor.changed();
        }
        Ok(())
    }

    /// A stream is read in another mode than before, or not at all.
    fn mode_told(&self, inbound: &mut Inbound, told: &ModeTold) -> Result<()> {
        let source = Arc::clone(inbound.source(told.source)?);
        let Some(inbox) = inbound.find(self, told.sub) else { return Ok(()) };
        let item = if told.attach == 0 {
            let Source { topic, name, uid, pid, .. } = &*source;
            let message = format!(
                "{name} (pid {pid}, uid {uid}) on {topic} is not read: it lets nobody of this user gate it"
            );
            Item::Fault(Box::new(Error::refused(Code::GateRefused.number(), &message, None)))
        } else {
            let token = lock(&self.session).readings.get(&told.attach).map(|reading| reading.token);
            let blocked = Duration::from_millis(told.blocked_millis.into());
            Item::Mode { token, source, mode: told.mode, blocked }
        };
        inbound.add(&inbox, item);
        Ok(())
    }

    fn answered(&self, request: u32, answer: Answer) -> Result<()> {
        let mut session = lock(&self.session);
        let awaited = session.answer(request, Ok(answer));
        // Who waits for a ring to grow waits for its stream to be open, too.
        let restored = session.restoring.remove(&request).is_some();
        drop(session);
        if awaited || restored {
            self.reactor.changed();
        }
        Ok(())
    }

    fn welcomed(&self, inbound: &mut Inbound, welcome: &Welcome<'_>) -> Result<()> {
        if !matches!(inbound.phase, Phase::Greeting { .. }) {
            return Err(Error::Protocol("a second Welcome".into()));
        }
        inbound.phase = Phase::Open;
        inbound.was_open = true;
        inbound.backoff = Duration::ZERO;
        lock(&self.session).greeting = Some(Greeting::from(welcome));
        lock(&self.outbound).frame_bytes_max = welcome.frame_bytes_max as usize;
        self.restore()?;
        self.reactor.changed();
        Ok(())
    }

    fn told_settings(&self, inbound: &Inbound, settings: &wire::TopicSettings<'_>) -> Result<()> {
        let mut session = lock(&self.session);
        let greeting = matches!(inbound.phase, Phase::Greeting { .. });
        if !greeting || session.topic_settings.len() == TOPIC_SETTINGS_MAX {
            return Err(Error::Protocol("settings for topics after Welcome, or too many".into()));
        }
        let wire::TopicSettings { filter, ring, history, retain } = *settings;
        session.topic_settings.push(TopicSettings { filter: filter.to_owned(), ring, history, retain });
        Ok(())
    }

    fn refused(
        &self,
        inbound: &mut Inbound,
        request: u32,
        code: u16,
        message: &str,
        limit: Option<LimitInfo<'_>>,
    ) {
        let error = Error::refused(code, message, limit);
        let mut session = lock(&self.session);
        if let Some(restoring) = session.restoring.remove(&request) {
            match restoring {
                Restoring::Subscription(id) => {
                    if let Some(inbox) = session.subscriptions.get(&id).cloned() {
                        drop(session);
                        // What was refused does not exist, and is not to be ended.
                        inbox.unsubscribed.store(true, Ordering::Release);
                        inbound.add(&inbox, Item::Fault(Box::new(error)));
                    }
                }
                Restoring::Consumer(id) => {
                    if let Some(jobs) = session.consumers.get(&id).cloned() {
                        drop(session);
                        jobs.fail(error);
                        self.reactor.changed();
                    }
                }
                Restoring::Provider(id) => {
                    if let Some(calls) = session.providers.remove(&id) {
                        drop(session);
                        calls.close(End::of(&error));
                        self.reactor.changed();
                    }
                }
                Restoring::Stream(stream) => {
                    // Its readers of before go on until the broker ends what they alone name; new ones cannot come. The
                    // next publish says so.
                    session.streams.remove(&stream);
                    session.never_grows(stream, &error);
                    session.fault = Some(error);
                    self.faulty.store(true, Ordering::Relaxed);
                    drop(session);
                    self.opened_again(stream, 0);
                }
            }
            return;
        }
        if request == 0 {
            // A publish that nobody waits for: told by the next call. The oldest waiting confirmation, if
            // there is one, was asked for by the publish that was refused or by a later one.
            session.fault.get_or_insert(error);
            self.faulty.store(true, Ordering::Relaxed);
        } else if !session.growth_refused(request, &error) {
            session.answer(request, Err(error));
        }
        drop(session);
        self.reactor.changed();
    }
}
