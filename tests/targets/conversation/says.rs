//! What clients say in a conversation: frames and lines that make some sense.

use super::{Choices, FILTERS, Stage, TOPICS};
use tramline::core::SessionId;
use tramline_wire::{
    Accept, BulkFree, BulkPayload, BulkRing, Consume, DeclareQueue, Encoding, ErrorReply, GatedBy, Geometry,
    GrowStream, Message, MessageFlags, Mode, ModeChanged, OpenStream, Outcome, PageDeclaration, Provide,
    Publish, Push, Reply, Request, SlowPolicy, StillAdmits, StillReads, Strategy, Subscribe, ToBroker,
    Verdict, WhenFull,
};

impl Stage {
    /// A frame that makes some sense.
    pub(super) fn frame(&mut self, id: SessionId, what: u8, choices: &mut Choices<'_>) {
        let client = &self.clients[&id];
        let known = |of: &[u64], choices: &mut Choices<'_>| match of {
            [] => choices.number().into(),
            _ => choices.pick(of),
        };
        let attach = match what {
            14 => known(&client.offered, choices),
            15 => known(&client.admits, choices),
            16 => known(&client.attaches, choices),
            _ => u64::from(choices.number()),
        };
        match what {
            10 => self.say(id, &ToBroker::Topic { alias: choices.number(), topic: choices.pick(&TOPICS) }, 0),
            11 => {
                let slow = match choices.byte() % 4 {
                    0 => SlowPolicy::DropOldest,
                    1 => SlowPolicy::Disconnect,
                    _ => SlowPolicy::Block { millis: choices.number() },
                };
                let frame = Subscribe {
                    req: choices.number(),
                    sub: choices.number(),
                    filter: choices.pick(&FILTERS),
                    mode: choices.pick(&[Mode::Gated, Mode::Lossy]),
                    rings: choices.one_in(2),
                    history: choices.number(),
                    slow,
                    backlog_bytes_max: choices.number(),
                    gated_only: choices.one_in(4),
                };
                self.say(id, &ToBroker::Subscribe(frame), 0);
            }
            12 => self.say(id, &ToBroker::Unsubscribe { req: choices.number(), sub: choices.number() }, 0),
            13 => {
                let geometry = Geometry {
                    descriptors: choices.pick(&[64, 3, 2]),
                    arena_bytes: choices.pick(&[8192, 4096, 5]),
                };
                let (req, alias, stream) = (choices.number(), choices.number(), choices.number().into());
                if let Some(client) = self.clients.get_mut(&id) {
                    client.streams.push(stream);
                }
                let frame = OpenStream {
                    req,
                    alias,
                    stream,
                    generation: choices.pick(&[0, 0, 0, 1]),
                    geometry,
                    first_seq: choices.pick(&[1, 7, u64::MAX]),
                    gated_by: choices.pick(&[GatedBy::OwnUid, GatedBy::Anyone, GatedBy::Nobody]),
                    fds: 1,
                };
                self.say(id, &ToBroker::OpenStream(frame), choices.pick(&[1, 1, 1, 0]));
            }
            14 => {
                let page = PageDeclaration {
                    first_slot: choices.number(),
                    slots: choices.pick(&[15, 1, 0, u32::MAX]),
                };
                let page = (choices.one_in(2)).then_some(page);
                let fds = u8::from(page.is_some());
                let frame = Accept { attach, slot: choices.number(), page, fds };
                self.say(id, &ToBroker::Accept(frame), fds);
            }
            15 => {
                let (start, start_seq) = (choices.number().into(), choices.number().into());
                self.say(
                    id,
                    &ToBroker::Admitted { attach, start, start_seq, generation: choices.number() % 2 },
                    0,
                );
            }
            16 => self.say(id, &ToBroker::Attached { attach }, 0),
            17 => {
                let code = u16::from(choices.byte() % 30);
                self.say(id, &ToBroker::Detach { attach, code }, 0);
            }
            18 => {
                let (req, stream) = (choices.number(), choices.number().into());
                self.say(id, &ToBroker::CloseStream { req, stream, last_seq: 0 }, 0);
            }
            22 => self.lasting_frame(id, choices),
            24..=26 => self.queue_frame(id, choices),
            27 => self.service_frame(id, choices),
            19 => self.say(id, &ToBroker::Ping { req: choices.number() }, 0),
            _ => {
                let payload = vec![b'x'; choices.number() as usize % 2000];
                let flags = MessageFlags::new(Encoding::Binary);
                let (seq, time) = (choices.number().into(), 1);
                let message =
                    Message { flags, seq, time, source_time: 0, after: None, head: &[], payload: &payload };
                let alias = choices.number() % 5;
                self.say(id, &ToBroker::Publish(Publish { alias, message }), 0);
            }
        }
    }

    /// A frame about what a stream or an attachment becomes later.
    fn lasting_frame(&mut self, id: SessionId, choices: &mut Choices<'_>) {
        let client = &self.clients[&id];
        let known = |of: &[u64], choices: &mut Choices<'_>| match of {
            [] => choices.number().into(),
            _ => choices.pick(of),
        };
        let (what, generation) = (choices.byte() % 7, choices.number());
        let (stream, admits) = (known(&client.streams, choices), known(&client.admits, choices));
        match what {
            0 | 1 => {
                let geometry = Geometry {
                    descriptors: choices.pick(&[64, 3]),
                    arena_bytes: choices.pick(&[16_384, 4096, 5]),
                };
                let req = choices.number();
                self.say(
                    id,
                    &ToBroker::GrowStream(GrowStream { req, stream, generation, geometry, fds: 1 }),
                    1,
                );
            }
            2 => {
                let attach = known(&client.attaches, choices);
                self.say(id, &ToBroker::Released { attach, generation }, 0);
            }
            3 => self.say(id, &ToBroker::GenerationLeft { stream, generation }, 0),
            4 => {
                let mode = choices.pick(&[Mode::Gated, Mode::Lossy]);
                let frame = ModeChanged { attach: admits, mode, blocked_millis: choices.number() };
                self.say(id, &ToBroker::ModeChanged(frame), 0);
            }
            5 => {
                let frame = StillReads {
                    attach: choices.number().into(),
                    sub: choices.number(),
                    stream: choices.number().into(),
                    generation: generation % 3,
                    in_place: choices.one_in(2),
                };
                self.say(id, &ToBroker::StillReads(frame), 0);
            }
            _ => {
                let (attach, stream) = (choices.number().into(), choices.number().into());
                let mode = choices.pick(&[Mode::Gated, Mode::Lossy]);
                let frame = StillAdmits { attach, stream, slot: choices.number(), mode };
                self.say(id, &ToBroker::StillAdmits(frame), 0);
            }
        }
    }

    /// A frame about queues.
    fn queue_frame(&mut self, id: SessionId, choices: &mut Choices<'_>) {
        let (consumer, number) = (choices.number() % 3, choices.number());
        let frame = match choices.byte() % 8 {
            0 => ToBroker::OpenQueue { req: number, alias: consumer, queue: choices.pick(&TOPICS) },
            1 => ToBroker::DeclareQueue(DeclareQueue {
                req: number,
                queue: choices.pick(&TOPICS),
                bind: choices.pick(&FILTERS),
                strategy: choices.pick(&[Strategy::RoundRobin, Strategy::LoadBalance, Strategy::Failover]),
                when_full: choices.pick(&[WhenFull::Refuse, WhenFull::DropOldest, WhenFull::DeadLetter]),
                messages_max: choices.number().into(),
                bytes_max: choices.number().into(),
                ack_timeout_millis: choices.number(),
                attempts_max: u16::from(choices.byte()),
                ttl_millis: choices.number(),
                durable: number % 2 == 1,
            }),
            2 => ToBroker::Consume(Consume {
                req: number,
                consumer,
                queue: choices.pick(&TOPICS),
                credit: choices.number(),
                refill: choices.one_in(2),
                weight: choices.number(),
                priority: choices.number(),
            }),
            3 => ToBroker::Credit { consumer, more: number },
            4 => ToBroker::EndConsume { req: number, consumer, seen: choices.number().into() },
            5 => {
                let first = choices.number().into();
                let verdict = match choices.byte() % 4 {
                    0 => Verdict::Ack,
                    1 => Verdict::Nack { delay_millis: choices.one_in(2).then(|| choices.number()) },
                    2 => Verdict::Reject { reason: "no" },
                    _ => Verdict::Extend { millis: choices.number() },
                };
                let last = first + u64::from(choices.byte() % 4);
                ToBroker::Settle { req: number % 2, consumer, first, last, verdict }
            }
            _ => {
                let payload = vec![b'x'; number as usize % 900];
                let flags = MessageFlags::new(Encoding::Binary);
                let seq = choices.number().into();
                let message = Message {
                    flags,
                    seq,
                    time: 1,
                    source_time: 0,
                    after: None,
                    head: &[],
                    payload: &payload,
                };
                let name: &[u8] = if choices.one_in(4) { b"same" } else { b"" };
                let (delay_millis, ttl_millis) = (choices.number() % 100, choices.number());
                let push = Push {
                    queue: consumer,
                    priority: choices.byte() % 11,
                    delay_millis,
                    ttl_millis,
                    id: name,
                    message,
                };
                return self.say(id, &ToBroker::Push(push), 0);
            }
        };
        self.say(id, &frame, 0);
    }

    /// A frame about services.
    fn service_frame(&mut self, id: SessionId, choices: &mut Choices<'_>) {
        let (number, small) = (choices.number(), choices.byte());
        // Some by ring: the payload, or almost that, then the frame, or another.
        let by_ring = small % 5 == 0;
        if by_ring {
            let (ring, place) = (number % 3, u64::from(number % 600));
            if choices.one_in(2) {
                self.say(id, &ToBroker::BulkRing(BulkRing { ring, bytes: 65_536, fds: 1 }), 1);
            }
            if choices.one_in(8) {
                self.say(id, &ToBroker::BulkFree(BulkFree { ring, offset: place * 64 }), 0);
            }
            let payload = BulkPayload { ring, offset: place * 64, length: u64::from(small) * 80 };
            self.say(id, &ToBroker::BulkPayload(payload), 0);
        }
        let payload = vec![b'x'; if by_ring { 0 } else { usize::from(small) * 3 }];
        let message = Message {
            flags: MessageFlags::new(Encoding::Binary),
            seq: u64::from(small % 16),
            time: 1,
            source_time: 0,
            after: None,
            head: &[],
            payload: &payload,
        };
        let provider = number % 3;
        let frame = match choices.byte() % 8 {
            0 => ToBroker::Provide(Provide {
                req: number,
                provider,
                service: choices.pick(&TOPICS),
                concurrency: choices.number() % 5,
                weight: choices.number(),
                priority: choices.number(),
            }),
            1 => ToBroker::EndProvide { req: number, provider },
            2 => ToBroker::CancelRequest { request: message.seq },
            3 | 4 => {
                let outcome = match choices.byte() % 3 {
                    0 => Outcome::Done,
                    1 => Outcome::Error(ErrorReply { number, text: "e" }),
                    _ => Outcome::Failed { text: "f" },
                };
                ToBroker::Reply(Reply { provider, call: u64::from(small % 8), outcome, message })
            }
            _ => ToBroker::Request(Request {
                service: choices.pick(&TOPICS),
                timeout_millis: number % 200,
                idempotent: choices.one_in(2),
                message,
            }),
        };
        self.say(id, &frame, 0);
    }

    /// A line that makes some sense.
    pub(super) fn line(&mut self, id: SessionId, choices: &mut Choices<'_>) {
        let (topic, filter, number) = (choices.pick(&TOPICS), choices.pick(&FILTERS), choices.byte());
        let queue = choices.pick(&TOPICS);
        let line = match choices.byte() % 18 {
            8 => format!(r#"{{"op":"push","queue":"{queue}","data":{number}}}"#),
            9 => format!(r#"{{"op":"pull","queue":"{queue}","max":{number},"ack":{}}}"#, number % 2 == 0),
            10 => format!(r#"{{"op":"nack","queue":"{queue}","tag":{number}}}"#),
            11 => format!(r#"{{"op":"ack","queue":"{queue}","tag":{}}}"#, number % 9),
            12 => {
                let doing = ["pause", "resume", "purge", "peek", "dead", "replay", "purge_dead"];
                format!(r#"{{"op":"queue","queue":"{queue}","do":"{}"}}"#, doing[usize::from(number % 7)])
            }
            13 => format!(
                r#"{{"op":"req","service":"{queue}","data":{number},"timeout_millis":{number},"id":{number}}}"#
            ),
            14 => format!(r#"{{"op":"provide","service":"{queue}","concurrency":{}}}"#, number % 3),
            15 => format!(r#"{{"op":"reply","service":"{queue}","call":{},"data":{number}}}"#, number % 5),
            16 => format!(
                r#"{{"op":"declare","queue":"{queue}","bind":"{filter}","durable":{}}}"#,
                number % 2 == 0
            ),
            17 => format!(r#"{{"op":"cancel","req":{number}}}"#),
            0 => format!(r#"{{"op":"pub","topic":"{topic}","data":{number},"id":{number}}}"#),
            1 => format!(
                r#"{{"op":"pub","topic":"{topic}","text":"{}"}}"#,
                "x".repeat(usize::from(number) * 9)
            ),
            2 => format!(r#"{{"op":"sub","topic":"{filter}","reliable":{}}}"#, number % 2 == 0),
            3 => format!(r#"{{"op":"unsub","sub":{}}}"#, number % 9),
            4 => r#"{"op":"status"}"#.to_owned(),
            5 => r#"{"op":"help"}"#.to_owned(),
            6 => String::from_utf8_lossy(choices.bytes()).replace('\n', " "),
            _ => format!(r#"{{"op":"ping","id":"{number}"}}"#),
        };
        if self.clients[&id].paused || self.clients[&id].closed {
            return;
        }
        let flow = self.core.json_line(id, line.as_bytes(), self.now);
        self.flowed(id, flow);
        self.act();
    }
}
