//! Every frame, with any values in its fields, is the same after encoding and decoding; no cut or
//! changed body makes the decoder panic or take more than it should. proptest prints the seed of a failure.

use proptest::prelude::*;
use tramline_wire::codec::{DecodeError, Framed, decode_message, encode_message, split_frame};
use tramline_wire::{
    Accept, Admit, Adopted, After, Attach, BulkFree, BulkPayload, BulkRing, Call, Consume, DeclareQueue,
    Deliver, ErrorReply, GateLimits, GatedBy, Geometry, GrowStream, Job, LimitInfo, Message, MessageFlags,
    Mode, ModeChanged, ModeTold, Offer, OpenStream, Outcome, PageDeclaration, Provide, Publish, Push,
    Replied, Reply, Request, SlowPolicy, Source, StillAdmits, StillReads, Strategy, Subscribe, Successor,
    ToBroker, ToClient, TopicSettings, Verdict, Welcome, WhenFull,
};

/// The numbers, texts and bytes from which a frame is made; frames borrow from it.
#[derive(Debug, Clone)]
struct Stuff {
    small: [u32; 6],
    large: [u64; 6],
    time: i64,
    short: u16,
    flag: bool,
    other: bool,
    choice: u32,
    text: String,
    more: String,
    head: Vec<u8>,
    payload: Vec<u8>,
}

prop_compose! {
    fn stuff()(
        small in any::<[u32; 6]>(),
        large in any::<[u64; 6]>(),
        time in any::<i64>(),
        short in any::<u16>(),
        flag in any::<bool>(),
        other in any::<bool>(),
        choice in any::<u32>(),
        text in ".{0,24}",
        more in "[a-z.*>]{0,24}",
        head in proptest::collection::vec(any::<u8>(), 0..24),
        payload in proptest::collection::vec(any::<u8>(), 0..200),
    ) -> Stuff {
        Stuff { small, large, time, short, flag, other, choice, text, more, head, payload }
    }
}

impl Stuff {
    fn message(&self) -> Message<'_> {
        let flags = MessageFlags::from_bits(self.short & 0xf).unwrap_or_default();
        Message {
            flags,
            seq: self.large[0],
            time: self.large[1],
            source_time: self.time,
            after: self.flag.then_some(After { stream: self.large[2], seq: self.large[3] }),
            head: &self.head,
            payload: &self.payload,
        }
    }

    fn mode(&self) -> Mode {
        if self.other { Mode::Gated } else { Mode::Lossy }
    }

    fn slow(&self) -> SlowPolicy {
        match self.choice % 3 {
            0 => SlowPolicy::Block { millis: self.small[3] },
            1 => SlowPolicy::DropOldest,
            _ => SlowPolicy::Disconnect,
        }
    }

    fn verdict(&self) -> Verdict<'_> {
        match self.choice % 5 {
            0 => Verdict::Ack,
            1 => Verdict::Nack { delay_millis: None },
            2 => Verdict::Nack { delay_millis: Some(self.small[3]) },
            3 => Verdict::Reject { reason: &self.text },
            _ => Verdict::Extend { millis: self.small[3] },
        }
    }

    fn bulk_ring(&self) -> BulkRing {
        let bytes = if self.flag { self.large[0] | 1 } else { 0 };
        BulkRing { ring: self.small[0], bytes, fds: u8::from(self.flag) }
    }

    fn error_reply(&self) -> ErrorReply<'_> {
        ErrorReply { number: self.small[3], text: &self.text }
    }

    fn outcome(&self) -> Outcome<'_> {
        match self.choice % 3 {
            0 => Outcome::Done,
            1 => Outcome::Error(self.error_reply()),
            _ => Outcome::Failed { text: &self.text },
        }
    }

    fn gated_by(&self) -> GatedBy {
        [GatedBy::Anyone, GatedBy::OwnUid, GatedBy::Nobody][self.choice as usize % 3]
    }

    fn geometry(&self) -> Geometry {
        Geometry { descriptors: self.small[4], arena_bytes: self.large[4] }
    }

    fn page(&self) -> Option<PageDeclaration> {
        self.flag.then_some(PageDeclaration { first_slot: self.small[2], slots: self.small[3] })
    }

    /// One frame of each kind, in the order of their numbers.
    fn to_broker(&self) -> Vec<ToBroker<'_>> {
        let ([a, b, c, ..], [x, y, ..]) = (self.small, self.large);
        vec![
            ToBroker::Hello { name: &self.text, client: 0 },
            ToBroker::Topic { alias: a, topic: &self.more },
            ToBroker::Publish(Publish { alias: a, message: self.message() }),
            ToBroker::Subscribe(Subscribe {
                req: a,
                sub: b,
                filter: &self.more,
                mode: self.mode(),
                rings: self.flag,
                history: c,
                slow: self.slow(),
                backlog_bytes_max: self.small[5],
                gated_only: self.other,
            }),
            ToBroker::Unsubscribe { req: a, sub: b },
            ToBroker::OpenStream(OpenStream {
                req: a,
                alias: b,
                stream: x,
                generation: c,
                geometry: self.geometry(),
                first_seq: y,
                gated_by: self.gated_by(),
                fds: 1,
            }),
            ToBroker::CloseStream { req: a, stream: x, last_seq: y },
            ToBroker::Accept(Accept { attach: x, slot: a, page: self.page(), fds: u8::from(self.flag) }),
            ToBroker::Admitted { attach: x, start: y, start_seq: self.large[5], generation: self.small[0] },
            ToBroker::Attached { attach: x },
            ToBroker::Detach { attach: x, code: self.short },
            ToBroker::Ping { req: a },
            ToBroker::GrowStream(GrowStream {
                req: a,
                stream: x,
                generation: b,
                geometry: self.geometry(),
                fds: 1,
            }),
            ToBroker::Released { attach: x, generation: a },
            ToBroker::GenerationLeft { stream: x, generation: a },
            ToBroker::ModeChanged(ModeChanged { attach: x, mode: self.mode(), blocked_millis: a }),
            ToBroker::StillReads(StillReads {
                attach: x,
                sub: a,
                stream: y,
                generation: b,
                in_place: self.flag,
            }),
            ToBroker::StillAdmits(StillAdmits { attach: x, stream: y, slot: a, mode: self.mode() }),
            ToBroker::OpenQueue { req: a, alias: b, queue: &self.more },
            ToBroker::Push(Push {
                queue: a,
                priority: self.short.to_le_bytes()[0],
                delay_millis: b,
                ttl_millis: c,
                id: if self.other { &self.head } else { &[] },
                message: self.message(),
            }),
            ToBroker::DeclareQueue(DeclareQueue {
                req: a,
                queue: &self.more,
                bind: &self.text,
                strategy: [Strategy::RoundRobin, Strategy::LoadBalance, Strategy::Failover]
                    [self.choice as usize % 3],
                when_full: [WhenFull::Refuse, WhenFull::DropOldest, WhenFull::DeadLetter]
                    [self.choice as usize % 3],
                messages_max: x,
                bytes_max: y,
                ack_timeout_millis: b,
                attempts_max: self.short,
                ttl_millis: c,
                durable: self.other,
            }),
            ToBroker::Consume(Consume {
                req: a,
                consumer: b,
                queue: &self.more,
                credit: c,
                refill: self.flag,
                weight: self.small[3],
                priority: self.small[4],
            }),
            ToBroker::Credit { consumer: a, more: b },
            ToBroker::Settle { req: a, consumer: b, first: x, last: y, verdict: self.verdict() },
            ToBroker::EndConsume { req: a, consumer: b, seen: x },
            ToBroker::Provide(Provide {
                req: a,
                provider: b,
                service: &self.more,
                concurrency: c,
                weight: self.small[3],
                priority: self.small[4],
            }),
            ToBroker::EndProvide { req: a, provider: b },
            ToBroker::Request(Request {
                service: &self.more,
                timeout_millis: a,
                idempotent: self.other,
                message: self.message(),
            }),
            ToBroker::CancelRequest { request: x },
            ToBroker::Reply(Reply { provider: a, call: x, outcome: self.outcome(), message: self.message() }),
            ToBroker::BulkRing(self.bulk_ring()),
            ToBroker::BulkPayload(BulkPayload { ring: a, offset: x, length: y }),
            ToBroker::BulkFree(BulkFree { ring: a, offset: x }),
        ]
    }

    /// One frame of each kind, in the order of their numbers.
    fn to_client(&self) -> Vec<ToClient<'_>> {
        let ([a, b, c, d, ..], [x, y, z, ..]) = (self.small, self.large);
        vec![
            ToClient::Welcome(Welcome {
                session: x,
                instance: y,
                version: &self.text,
                frame_bytes_max: a,
                attach_timeout_millis: b,
                subscriptions_max: c,
                streams_max: d,
                ring_bytes_max: z,
                ring_default: self.geometry(),
                gate: GateLimits {
                    budget_millis: self.small[0],
                    publisher_millis: self.small[1],
                    window_millis: self.small[2],
                    cooldown_millis: self.small[3],
                    held_bytes_max: self.large[1],
                },
            }),
            ToClient::Error {
                req: a,
                code: self.short,
                message: &self.text,
                limit: self.flag.then_some(LimitInfo { name: &self.more, value: x, used: y }),
            },
            ToClient::Done { req: a },
            ToClient::Confirmed { alias: a, seq: x, receivers: b },
            ToClient::Source(Source {
                alias: a,
                topic: &self.more,
                session: x,
                name: &self.text,
                uid: b,
                pid: c,
                client: 0,
            }),
            ToClient::SourceGone { alias: a },
            ToClient::Deliver(Deliver { sub: a, source: b, payload_length: x, message: self.message() }),
            ToClient::Gap { sub: a, topic: &self.more, lost: x, source: self.flag.then_some(b) },
            ToClient::Subscribed { req: a, sub: b, streams: c, pending: d },
            ToClient::StreamOpened { req: a, stream: x, readers: b, pending: c },
            ToClient::Offer(Offer {
                attach: x,
                sub: a,
                source: b,
                stream: y,
                link: z,
                mode: self.mode(),
                in_place: self.flag,
                retained: self.other,
            }),
            ToClient::Admit(Admit {
                attach: x,
                stream: y,
                link: z,
                slot: a,
                mode: self.mode(),
                history: b,
                keep_millis: c,
                session: self.large[3],
                name: &self.text,
                page: self.page(),
                bells: self.other,
                fds: u8::from(self.flag) + 2 * u8::from(self.other),
            }),
            ToClient::Attach(Attach {
                attach: x,
                generation: a,
                geometry: self.geometry(),
                start: y,
                start_seq: z,
                bells: self.other,
                fds: 1 + 2 * u8::from(self.other),
            }),
            ToClient::Detach { attach: x, code: self.short },
            ToClient::Pong { req: a },
            ToClient::Close { code: self.short, message: &self.text },
            ToClient::TopicSettings(TopicSettings {
                filter: &self.more,
                ring: self.flag.then(|| self.geometry()),
                history: self.other.then_some(a),
                retain: b,
            }),
            ToClient::StreamGrown { req: a, stream: x, generation: b },
            ToClient::Successor(Successor { attach: x, generation: a, geometry: self.geometry(), fds: 1 }),
            ToClient::ModeTold(ModeTold {
                attach: x,
                sub: a,
                source: b,
                mode: self.mode(),
                blocked_millis: c,
            }),
            ToClient::Adopted(Adopted { attach: x, source: self.flag.then_some(a), mode: self.mode() }),
            ToClient::Renew { stream: x },
            ToClient::Pushed { queue: a, first: x, last: y },
            ToClient::PushRefused {
                queue: a,
                seq: x,
                code: self.short,
                message: &self.text,
                limit: self.flag.then_some(LimitInfo { name: &self.more, value: x, used: y }),
            },
            ToClient::Consuming { req: a, consumer: b, ack_timeout_millis: c },
            ToClient::Job(Job {
                consumer: a,
                source: b,
                tag: x,
                attempt: c,
                priority: self.short.to_le_bytes()[0],
                message: self.message(),
            }),
            ToClient::JobLost { consumer: a, tag: x, code: self.short },
            ToClient::Call(Call {
                provider: a,
                source: b,
                call: x,
                attempt: c,
                timeout_millis: d,
                message: self.message(),
            }),
            ToClient::CallOver { provider: a, call: x, code: self.short },
            ToClient::Replied(Replied {
                request: x,
                source: a,
                error: self.other.then(|| self.error_reply()),
                message: self.message(),
            }),
            ToClient::RequestFailed {
                request: x,
                code: self.short,
                message: &self.text,
                limit: self.flag.then_some(LimitInfo { name: &self.more, value: x, used: y }),
            },
            ToClient::BulkRing(self.bulk_ring()),
            ToClient::BulkPayload(BulkPayload { ring: a, offset: x, length: y }),
            ToClient::BulkFree(BulkFree { ring: a, offset: x }),
        ]
    }
}

/// The one body in `bytes`, which must be one whole frame.
fn body(bytes: &[u8]) -> &[u8] {
    match split_frame(bytes, bytes.len()) {
        Ok(Framed::Whole { body, consumed }) if consumed == bytes.len() => body,
        other => panic!("not one frame: {other:?}"),
    }
}

#[test]
fn the_lists_above_hold_every_kind() {
    let number = |list: usize| u32::try_from(list).unwrap().to_le_bytes();
    let stuff = Stuff {
        small: [0; 6],
        large: [0; 6],
        time: 0,
        short: 0,
        flag: false,
        other: false,
        choice: 0,
        text: String::new(),
        more: String::new(),
        head: Vec::new(),
        payload: Vec::new(),
    };
    let (to_broker, to_client) = (stuff.to_broker().len(), stuff.to_client().len());
    let past = ToBroker::decode(&number(to_broker)).err();
    assert!(matches!(past, Some(DecodeError::UnknownKind(_))), "a kind is missing above: {past:?}");
    let past = ToClient::decode(&number(to_client)).err();
    assert!(matches!(past, Some(DecodeError::UnknownKind(_))), "a kind is missing above: {past:?}");
}

proptest! {
    #[test]
    fn every_frame_comes_back(stuff in stuff()) {
        for (kind, frame) in stuff.to_broker().into_iter().enumerate() {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            prop_assert_eq!(usize::from(bytes[4]), kind);
            prop_assert_eq!(ToBroker::decode(body(&bytes)), Ok(frame));
        }
        for (kind, frame) in stuff.to_client().into_iter().enumerate() {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            prop_assert_eq!(usize::from(bytes[4]), kind);
            prop_assert_eq!(ToClient::decode(body(&bytes)), Ok(frame));
        }
    }

    #[test]
    fn a_body_cut_anywhere_is_refused_and_so_is_one_byte_more(stuff in stuff(), at in any::<prop::sample::Index>()) {
        for frame in stuff.to_broker() {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            let whole = &bytes[4..];
            prop_assert!(ToBroker::decode(&whole[..at.index(whole.len())]).is_err());
            let longer = [whole, &[0]].concat();
            let one_more = matches!(ToBroker::decode(&longer), Err(DecodeError::Trailing { extra: 1, .. }));
            prop_assert!(one_more);
        }
        for frame in stuff.to_client() {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            let whole = &bytes[4..];
            prop_assert!(ToClient::decode(&whole[..at.index(whole.len())]).is_err());
            let longer = [whole, &[0]].concat();
            let one_more = matches!(ToClient::decode(&longer), Err(DecodeError::Trailing { extra: 1, .. }));
            prop_assert!(one_more);
        }
    }

    #[test]
    fn a_changed_byte_is_refused_or_read_as_what_it_says(
        stuff in stuff(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        for frame in stuff.to_broker() {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            let mut changed = bytes.split_off(4);
            let place = at.index(changed.len());
            changed[place] = byte;
            if let Ok(frame) = ToBroker::decode(&changed) {
                let mut again = Vec::new();
                frame.encode(&mut again);
                prop_assert_eq!(&again[4..], &changed[..]);
            }
        }
    }

    #[test]
    fn frames_behind_one_another_are_split_where_they_end(stuff in stuff(), cut in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        let frames = stuff.to_broker();
        for frame in &frames {
            frame.encode(&mut bytes);
        }
        let (mut rest, mut met) = (&bytes[..], 0);
        while let Ok(Framed::Whole { body, consumed }) = split_frame(rest, 4096) {
            prop_assert_eq!(ToBroker::decode(body), Ok(frames[met]));
            (rest, met) = (&rest[consumed..], met + 1);
        }
        prop_assert_eq!((rest.len(), met), (0, frames.len()));
        // Whatever has arrived so far: whole frames, then one that says how much is missing of it.
        let mut rest = &bytes[..cut.index(bytes.len())];
        loop {
            match split_frame(rest, 4096).unwrap() {
                Framed::Whole { consumed, .. } => rest = &rest[consumed..],
                Framed::Incomplete { needed } => {
                    prop_assert!(needed > rest.len());
                    break;
                }
            }
        }
    }

    #[test]
    fn a_message_passes_through_the_broker_untouched(stuff in stuff()) {
        let message = stuff.message();
        let mut published = Vec::new();
        ToBroker::Publish(Publish { alias: stuff.small[0], message }).encode(&mut published);
        let raw = ToBroker::publish_message(body(&published));
        prop_assert_eq!(decode_message(raw), Ok(message));
        let mut encoded = Vec::new();
        encode_message(&mut encoded, &message);
        prop_assert_eq!(&encoded[..], raw);
        let mut passed_on = Vec::new();
        ToClient::encode_deliver(&mut passed_on, 1, 2, message.payload.len() as u64, raw);
        let deliver = Deliver { sub: 1, source: 2, payload_length: message.payload.len() as u64, message };
        prop_assert_eq!(ToClient::decode(body(&passed_on)), Ok(ToClient::Deliver(deliver)));
    }

    #[test]
    fn any_bytes_are_refused_or_a_frame(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        for kind in 0_u8..34 {
            let body = [&[kind, 0, 0, 0][..], &bytes].concat();
            if let Ok(frame) = ToBroker::decode(&body) {
                let mut again = Vec::new();
                frame.encode(&mut again);
                prop_assert_eq!(&again[4..], &body[..]);
            }
            if let Ok(frame) = ToClient::decode(&body) {
                let mut again = Vec::new();
                frame.encode(&mut again);
                prop_assert_eq!(&again[4..], &body[..]);
            }
        }
    }
}
