//! Services, case by case: exchanges to the byte, every limit, rights, strategies, retries, ejection, deaths, slow callers.

use super::harness::{MILLI, Shell, each_frame, message, show};
use crate::core::services::REQUEST_OVERHEAD_BYTES;
use crate::core::snapshot::ServiceStatus;
use crate::core::{Flow, Language, Limits, ServiceSettings, SessionId, Strategy, Who};
use std::collections::BTreeMap;
use tramline_wire::{
    Call, Code, ErrorReply, LimitInfo, Outcome, Provide, Replied, Reply, Request, Source, ToBroker, ToClient,
};

mod ejection;

mod limits;

fn settings() -> ServiceSettings {
    ServiceSettings { name: "s".to_owned(), ..ServiceSettings::default() }
}

fn shell_with(limits: Limits, services: &[ServiceSettings]) -> Shell {
    let mut shell = Shell::new(limits);
    services.iter().for_each(|service| shell.core.add_service(service.clone()).unwrap());
    shell
}

fn shell(settings: ServiceSettings) -> Shell {
    shell_with(Limits::default(), &[settings])
}

fn provide(provider: u32, concurrency: u32) -> Provide<'static> {
    Provide { req: 1, provider, service: "s", concurrency, weight: 1, priority: 0 }
}

fn instance(shell: &mut Shell, frame: Provide<'_>) -> SessionId {
    let id = shell.native("i");
    shell.say(id, ToBroker::Provide(frame));
    shell.hears(id, &[ToClient::Done { req: frame.req }]);
    id
}

fn request(number: u64) -> Request<'static> {
    Request { service: "s", timeout_millis: 1000, idempotent: false, message: message(number, b"q") }
}

fn again(number: u64) -> Request<'static> {
    Request { idempotent: true, ..request(number) }
}

fn ask(shell: &mut Shell, from: SessionId, frame: Request<'_>) {
    shell.say(from, ToBroker::Request(frame));
}

fn reply(shell: &mut Shell, id: SessionId, call: u64, outcome: Outcome<'_>) -> Flow {
    shell.say(id, ToBroker::Reply(Reply { provider: 1, call, outcome, message: message(0, b"a") }))
}

fn done(shell: &mut Shell, id: SessionId, call: u64) {
    assert_eq!(reply(shell, id, call, Outcome::Done), Flow::Continue);
}

fn fail(shell: &mut Shell, id: SessionId, call: u64) {
    assert_eq!(reply(shell, id, call, Outcome::Failed { text: "no" }), Flow::Continue);
}

/// What an instance is told.
type Heard = (Vec<(u64, u32)>, Vec<(u64, u16)>);

/// What somebody does that nobody may.
type Offence = fn(&mut Shell, SessionId) -> Flow;

/// Numbers and attempts of the calls that a session is given, and the numbers of those that are over with why.
fn calls(shell: &mut Shell, id: SessionId) -> Heard {
    let (mut given, mut over) = (Vec::new(), Vec::new());
    each_frame(&shell.read(id), |frame| match frame {
        ToClient::Call(call) => given.push((call.call, call.attempt)),
        ToClient::CallOver { call, code, .. } => over.push((call, code)),
        ToClient::Source(_) | ToClient::Done { .. } | ToClient::SourceGone { .. } => {}
        other => panic!("{other:?}"),
    });
    (given, over)
}

fn given(shell: &mut Shell, id: SessionId) -> Vec<u64> {
    calls(shell, id).0.into_iter().map(|(call, _)| call).collect()
}

/// What a caller is told of each request: `None` is an answer.
fn outcomes(shell: &mut Shell, id: SessionId) -> BTreeMap<u64, Option<Code>> {
    let mut found = BTreeMap::new();
    each_frame(&shell.read(id), |frame| {
        let (request, outcome) = match frame {
            ToClient::Replied(replied) => (replied.request, replied.error.map(|_| Code::ErrorReply)),
            ToClient::RequestFailed { request, code, .. } => (request, Code::from_number(code)),
            ToClient::Source(_) | ToClient::SourceGone { .. } => return,
            other => panic!("{other:?}"),
        };
        assert!(found.insert(request, outcome).is_none(), "request {request} has two outcomes");
    });
    found
}

fn one(request: u64, outcome: Option<Code>) -> BTreeMap<u64, Option<Code>> {
    BTreeMap::from([(request, outcome)])
}

fn status(shell: &Shell) -> ServiceStatus {
    shell.core.service_status().remove(0)
}

/// Everybody goes, and nothing is left.
fn all_go(mut shell: Shell, ids: &[SessionId]) {
    ids.iter().for_each(|id| shell.hang_up(*id));
    assert!(shell.core.services.is_idle(), "{:?}", shell.core.services);
    assert!(shell.core.queues.charges.is_empty());
    shell.is_empty();
}

#[test]
fn a_request_goes_to_an_instance_and_its_answer_comes_back() {
    let mut shell = shell(settings());
    let to = instance(&mut shell, provide(1, 2));
    let from = shell.native("c");
    ask(&mut shell, from, request(7));
    let caller = Source { alias: 0, topic: "", session: from, name: "c", uid: 1000, pid: 1100, client: 0 };
    let call =
        Call { provider: 1, source: 0, call: 1, attempt: 1, timeout_millis: 1000, message: message(7, b"q") };
    shell.hears(to, &[ToClient::Source(caller), ToClient::Call(call)]);
    shell.hears(from, &[]);
    shell.pass(400);
    done(&mut shell, to, 1);
    let by = Source { alias: 0, topic: "", session: to, name: "i", uid: 1000, pid: 1100, client: 0 };
    let replied = Replied { request: 7, source: 0, error: None, message: message(0, b"a") };
    shell.hears(from, &[ToClient::Source(by), ToClient::Replied(replied)]);
    // The number is free again, and an error is an answer as well.
    ask(&mut shell, from, Request { timeout_millis: 0, ..request(7) });
    shell.hears(to, &[ToClient::Call(Call { call: 2, timeout_millis: 10_000, ..call })]);
    let error = ErrorReply { number: 404, text: "no such place" };
    reply(&mut shell, to, 2, Outcome::Error(error));
    shell.hears(from, &[ToClient::Replied(Replied { error: Some(error), ..replied })]);
    let now = status(&shell);
    assert_eq!((now.counts.requests, now.counts.given, now.counts.replies, now.counts.errors), (2, 2, 1, 1));
    assert_eq!((now.latency.steps[12], now.latency.sum_nanos), (1, 400 * MILLI));
    assert_eq!((now.instances[0].answered, now.instances[0].failures), (2, 0));
    shell.say(to, ToBroker::EndProvide { req: 9, provider: 1 });
    shell.hears(to, &[ToClient::Done { req: 9 }]);
    ask(&mut shell, from, request(8));
    assert_eq!(outcomes(&mut shell, from), one(8, Some(Code::NoInstance)));
    all_go(shell, &[from, to]);
}

#[test]
fn without_an_instance_the_answer_is_no_at_once_and_with_busy_ones_it_waits_until_its_deadline() {
    let mut shell = shell(settings());
    let from = shell.native("c");
    ask(&mut shell, from, request(1));
    assert_eq!(outcomes(&mut shell, from), one(1, Some(Code::NoInstance)));
    ask(&mut shell, from, Request { service: "never.heard.of", ..request(1) });
    assert_eq!(outcomes(&mut shell, from), one(1, Some(Code::NoInstance)));
    let to = instance(&mut shell, provide(1, 1));
    (1..=3).for_each(|number| ask(&mut shell, from, request(number)));
    assert_eq!(given(&mut shell, to), [1]);
    assert_eq!((status(&shell).outstanding, status(&shell).waiting), (3, 2));
    done(&mut shell, to, 1);
    assert_eq!(given(&mut shell, to), [2], "in the order in which they came");
    assert_eq!(outcomes(&mut shell, from), one(1, None));
    shell.pass(999);
    assert_eq!(outcomes(&mut shell, from), BTreeMap::new());
    shell.pass(1);
    let late = BTreeMap::from([(2, Some(Code::TimedOut)), (3, Some(Code::TimedOut))]);
    assert_eq!(outcomes(&mut shell, from), late);
    assert_eq!(calls(&mut shell, to), (Vec::new(), vec![(2, Code::TimedOut.number())]));
    // It still works on that, so there is no room; its late answer is dropped and counted, and makes some.
    ask(&mut shell, from, request(4));
    assert!(given(&mut shell, to).is_empty());
    done(&mut shell, to, 2);
    assert_eq!(outcomes(&mut shell, from), BTreeMap::new());
    assert_eq!(given(&mut shell, to), [3]);
    done(&mut shell, to, 2);
    done(&mut shell, to, 3);
    assert_eq!(outcomes(&mut shell, from), one(4, None));
    let counts = status(&shell).counts;
    assert_eq!((counts.timed_out, counts.late_replies, counts.no_instance), (2, 2, 1));
    // One that ends has gone as soon as nobody waits for anything that it has.
    let other = instance(&mut shell, provide(1, 1));
    let ending = shell.native("e");
    shell.say(ending, ToBroker::Provide(provide(1, 1)));
    shell.hang_up(other);
    ask(&mut shell, from, request(7));
    ask(&mut shell, from, request(8));
    shell.say(ending, ToBroker::EndProvide { req: 2, provider: 1 });
    assert_eq!(status(&shell).instances.len(), 2);
    shell.pass(1000);
    assert_eq!(status(&shell).instances.len(), 1);
    outcomes(&mut shell, from);
    shell.read(to);
    done(&mut shell, to, 4);
    shell.hang_up(ending);
    // Waiting is in vain once the last has gone.
    ask(&mut shell, from, request(5));
    ask(&mut shell, from, request(6));
    shell.say(to, ToBroker::EndProvide { req: 2, provider: 1 });
    assert_eq!(outcomes(&mut shell, from), one(6, Some(Code::NoInstance)));
    done(&mut shell, to, 5);
    assert_eq!(outcomes(&mut shell, from), one(5, None), "what it had it may still answer");
    assert!(status(&shell).instances.is_empty());
    all_go(shell, &[from, to]);
}

#[test]
fn the_death_of_an_instance_leaves_the_outcome_unknown_unless_another_may_be_asked() {
    let mut shell = shell(settings());
    let from = shell.native("c");
    let first = instance(&mut shell, provide(1, 9));
    ask(&mut shell, from, request(1));
    ask(&mut shell, from, again(2));
    let second = instance(&mut shell, provide(1, 9));
    shell.hang_up(first);
    assert_eq!(outcomes(&mut shell, from), one(1, Some(Code::OutcomeUnknown)));
    assert_eq!(calls(&mut shell, second).0, [(1, 2)], "the attempt is counted");
    shell.hang_up(second);
    assert_eq!(outcomes(&mut shell, from), one(2, Some(Code::OutcomeUnknown)), "nobody is left");
    all_go(shell, &[from]);
}

#[test]
fn only_what_may_be_repeated_is_given_to_another_and_only_so_often_and_to_none_twice() {
    for (retries_max, attempts) in [(0, 1), (1, 2), (2, 3), (16, 3)] {
        let mut shell = shell(ServiceSettings { retries_max, ..settings() });
        let from = shell.native("c");
        let all: Vec<SessionId> = (0..3).map(|_| instance(&mut shell, provide(1, 1))).collect();
        ask(&mut shell, from, request(1));
        ask(&mut shell, from, again(2));
        let mut seen = 0;
        loop {
            let held: Vec<_> = all.iter().map(|id| (*id, given(&mut shell, *id))).collect();
            let held: Vec<_> = held.into_iter().filter(|(_, calls)| !calls.is_empty()).collect();
            if held.is_empty() {
                break;
            }
            for (id, call) in held {
                assert_eq!(call.len(), 1, "nobody is given it twice");
                seen += 1;
                fail(&mut shell, id, call[0]);
            }
        }
        let failed = Some(Code::InstanceFailed);
        assert_eq!(outcomes(&mut shell, from), BTreeMap::from([(1, failed), (2, failed)]));
        assert_eq!(seen, attempts + 1, "with {retries_max} retries; the first request was given once");
        let counts = status(&shell).counts;
        assert_eq!((counts.failed, counts.retries), (attempts + 1, attempts - 1));
        let mut ids = all;
        ids.push(from);
        all_go(shell, &ids);
    }
}

#[test]
fn an_instance_that_says_that_it_could_not_is_quoted() {
    let mut shell = shell(settings());
    let from = shell.native("c");
    let to = instance(&mut shell, provide(1, 1));
    ask(&mut shell, from, request(1));
    fail(&mut shell, to, 1);
    let mut heard = Vec::new();
    each_frame(&shell.read(from), |frame| {
        if let ToClient::RequestFailed { code, message, .. } = frame {
            heard.push((code, message.to_owned()));
        }
    });
    assert_eq!(heard[0].0, Code::InstanceFailed.number());
    assert!(heard[0].1.starts_with("i (session") && heard[0].1.ends_with("service s: no"), "{}", heard[0].1);
    all_go(shell, &[from, to]);
}

#[test]
fn one_instance_may_be_given_less_time_than_the_request_has() {
    let mut shell = shell(ServiceSettings { attempt_timeout_millis: 100, ..settings() });
    let from = shell.native("c");
    let first = instance(&mut shell, provide(1, 1));
    ask(&mut shell, from, again(1));
    assert_eq!(given(&mut shell, first), [1]);
    shell.pass(150);
    assert_eq!(calls(&mut shell, first), (vec![], vec![]), "there is nobody else to ask");
    let second = instance(&mut shell, provide(1, 1));
    done(&mut shell, first, 1);
    assert_eq!(outcomes(&mut shell, from), one(1, None));
    // Now there is, and the slow one is told that it need not go on.
    let (mut slow, mut other) = (first, second);
    ask(&mut shell, from, again(2));
    if given(&mut shell, slow).is_empty() {
        (slow, other) = (other, slow);
        given(&mut shell, slow);
    }
    shell.pass(100);
    assert_eq!(calls(&mut shell, slow).1.len(), 1);
    let call = given(&mut shell, other)[0];
    done(&mut shell, other, call);
    assert_eq!(outcomes(&mut shell, from), one(2, None));
    // One that may not be repeated has all its time.
    done(&mut shell, slow, if slow == first { 2 } else { 1 });
    ask(&mut shell, from, request(3));
    shell.pass(900);
    assert_eq!(outcomes(&mut shell, from), BTreeMap::new());
    all_go(shell, &[from, first, second]);
}

#[test]
fn a_caller_that_gives_up_or_goes_is_waited_for_no_more() {
    let mut shell = shell(settings());
    let from = shell.native("c");
    let to = instance(&mut shell, provide(1, 1));
    ask(&mut shell, from, request(1));
    ask(&mut shell, from, request(2));
    shell.say(from, ToBroker::CancelRequest { request: 1 });
    shell.say(from, ToBroker::CancelRequest { request: 2 });
    shell.say(from, ToBroker::CancelRequest { request: 3 });
    assert_eq!(calls(&mut shell, to), (vec![(1, 1)], vec![(1, 0)]));
    assert_eq!((status(&shell).outstanding, status(&shell).instances[0].over), (0, 1));
    done(&mut shell, to, 1);
    assert_eq!(outcomes(&mut shell, from), BTreeMap::new());
    ask(&mut shell, from, request(3));
    assert_eq!(given(&mut shell, to), [2]);
    shell.hang_up(from);
    assert_eq!(calls(&mut shell, to), (vec![], vec![(2, Code::PeerGone.number())]));
    assert_eq!((status(&shell).counts.cancelled, status(&shell).instances[0].failures), (3, 0));
    all_go(shell, &[to]);
}

#[test]
fn strategies_choose_as_for_queues() {
    for (strategy, expected) in [
        (Strategy::RoundRobin, [1, 3]),
        (Strategy::LoadBalance, [1, 3]),
        // The second has the lower number, so it is the first.
        (Strategy::Failover, [0, 4]),
    ] {
        let mut shell = shell(ServiceSettings { strategy, ..settings() });
        let from = shell.native("c");
        let one = instance(&mut shell, Provide { priority: 2, ..provide(1, 9) });
        let other = instance(&mut shell, Provide { weight: 3, priority: 1, ..provide(1, 9) });
        (1..=4).for_each(|number| ask(&mut shell, from, request(number)));
        let counts = [given(&mut shell, one).len(), given(&mut shell, other).len()];
        assert_eq!(counts, expected, "{strategy:?}");
        all_go(shell, &[from, one, other]);
    }
}

/// A service that fails over, with a caller that has sent two requests, and two instances that take one at a time.
fn first_and_second() -> (Shell, [SessionId; 3]) {
    let mut shell = shell(ServiceSettings { strategy: Strategy::Failover, eject_failures: 1, ..settings() });
    let from = shell.native("c");
    let first = instance(&mut shell, Provide { priority: 1, ..provide(1, 1) });
    let second = instance(&mut shell, Provide { priority: 2, ..provide(1, 1) });
    ask(&mut shell, from, request(1));
    ask(&mut shell, from, request(2));
    (shell, [from, first, second])
}

#[test]
fn with_failover_the_next_one_comes_only_when_the_first_has_gone_or_is_left_out() {
    let (mut shell, [from, first, second]) = first_and_second();
    assert_eq!((given(&mut shell, first).len(), given(&mut shell, second).len()), (1, 0), "busy is not gone");
    fail(&mut shell, first, 1);
    assert_eq!((given(&mut shell, first).len(), given(&mut shell, second).len()), (0, 1), "left out is gone");
    all_go(shell, &[from, first, second]);
}

#[test]
fn nothing_is_given_out_in_the_moment_of_its_deadline() {
    let (mut shell, [from, first, second]) = first_and_second();
    // The first is left out when the first request is due, so that the second could be given to the other, too late.
    shell.pass(1000);
    assert_eq!(status(&shell).counts.ejections, 1);
    assert!(given(&mut shell, second).is_empty());
    let late = Some(Code::TimedOut);
    assert_eq!(outcomes(&mut shell, from), BTreeMap::from([(1, late), (2, late)]));
    all_go(shell, &[from, first, second]);
}

#[test]
fn an_instance_that_does_not_read_is_passed_over() {
    let limits = Limits { outbox_bytes_max: 4096, ..Limits::default() };
    let mut shell = shell_with(limits, &[settings()]);
    let from = shell.native("c");
    let (deaf, good) = (instance(&mut shell, provide(1, 99)), instance(&mut shell, provide(1, 99)));
    let long = vec![0; 3000];
    for number in 1..=20 {
        ask(&mut shell, from, Request { message: message(number, &long), ..request(number) });
        for call in given(&mut shell, good) {
            done(&mut shell, good, call);
        }
        shell.read(from);
    }
    let at = |place: usize| status(&shell).instances[place].has;
    assert_eq!((at(0), at(1)), (2, 0), "two fill its outbox");
    assert_eq!(given(&mut shell, deaf), [1, 2]);
    (1..=4).for_each(|number| ask(&mut shell, from, request(number + 50)));
    assert_eq!(given(&mut shell, deaf).len(), 2, "it is there again");
    all_go(shell, &[from, deaf, good]);
}

#[test]
fn answers_for_a_caller_that_does_not_read_wait_and_what_is_too_much_is_told() {
    let limits = Limits { outbox_bytes_max: 4096, backlog_bytes_max: 8192, ..Limits::default() };
    let mut shell = shell_with(limits, &[settings()]);
    let to = instance(&mut shell, provide(1, 99));
    let from = shell.native("c");
    let mut bytes = Vec::new();
    (1..=10).for_each(|number| ToBroker::Request(request(number)).encode(&mut bytes));
    shell.input(from, &bytes, &[]);
    let long = vec![7; 2000];
    for call in given(&mut shell, to) {
        shell.say(
            to,
            ToBroker::Reply(Reply { provider: 1, call, outcome: Outcome::Done, message: message(0, &long) }),
        );
    }
    let told = outcomes(&mut shell, from);
    let answered = told.values().filter(|outcome| outcome.is_none()).count();
    let dropped = told.values().filter(|outcome| **outcome == Some(Code::SlowSubscriber)).count();
    assert_eq!((answered, dropped), (5, 5), "{told:?}");
    assert_eq!(status(&shell).counts.replies_dropped, 5);
    all_go(shell, &[from, to]);
}

#[test]
fn json_lines_ask_provide_and_reply() {
    let mut shell = shell(settings());
    let (to, from) = (shell.json(), shell.json());
    shell.line(to, r#"{"op":"provide","service":"s","concurrency":2,"id":1}"#);
    shell.line(to, r#"{"op":"provide","service":"s"}"#);
    let again = r#"{"ok":false,"op":"provide","error":{"code":"bad_id","message":"this connection provides service s already; open another"}}"#;
    shell.hears_lines(to, &[r#"{"ok":true,"op":"provide","id":1,"service":"s"}"#, again]);
    shell.line(from, r#"{"op":"req","service":"s","data":{"n":1},"timeout_millis":500,"id":"x"}"#);
    let who = |pid: u32| format!(r#""from":{{"name":"","uid":1000,"pid":{pid}}}"#);
    let call = format!(
        r#"{{"op":"call","service":"s","call":1,"attempt":1,"timeout_millis":500,"seq":1,"time":"2023-11-14T22:13:20.000000000Z",{},"data":{{"n":1}}}}"#,
        who(1100)
    );
    shell.hears_lines(to, &[&call]);
    shell.line(to, r#"{"op":"reply","service":"s","call":1,"data":[1,2],"id":2}"#);
    shell.hears_lines(to, &[r#"{"ok":true,"op":"reply","id":2}"#]);
    let answer = format!(
        r#"{{"ok":true,"op":"req","id":"x","service":"s","seq":1,"time":"2023-11-14T22:13:20.000000000Z",{},"data":[1,2]}}"#,
        who(1100)
    );
    shell.hears_lines(from, &[&answer]);
    for (line, code) in [
        (r#"{"op":"reply","service":"s","call":1,"data":1}"#, "settled_twice"),
        (r#"{"op":"reply","service":"s","call":9,"data":1}"#, "not_yours"),
        (r#"{"op":"reply","service":"t","call":1,"data":1}"#, "not_yours"),
        (r#"{"op":"req","service":"t","data":1}"#, "no_instance"),
    ] {
        shell.line(to, line);
        let heard = String::from_utf8(shell.read(to)).unwrap();
        assert!(heard.contains(code), "{line}: {heard}");
    }
    shell.line(from, r#"{"op":"req","service":"s","text":"a"}"#);
    shell.line(from, r#"{"op":"req","service":"s","text":"b"}"#);
    shell.read(to);
    shell.line(to, r#"{"op":"reply","service":"s","call":2,"error":404,"reason":"no such place"}"#);
    shell.line(to, r#"{"op":"reply","service":"s","call":3,"failed":true,"reason":"out of paper"}"#);
    let heard = String::from_utf8(shell.read(from)).unwrap();
    let lines: Vec<&str> = heard.lines().collect();
    assert_eq!(
        lines[0],
        r#"{"ok":false,"op":"req","service":"s","error":{"code":"error_reply","number":404,"message":"no such place"}}"#
    );
    assert!(lines[1].contains(r#""code":"instance_failed""#) && lines[1].contains("out of paper"), "{heard}");
    shell.read(to);
    // Time is over: the instance is told, and its answer refused.
    shell.line(from, r#"{"op":"req","service":"s","text":"c","timeout_millis":5}"#);
    shell.read(to);
    shell.pass(5);
    shell.hears_lines(to, &[r#"{"op":"call_over","service":"s","call":4,"code":"timed_out"}"#]);
    shell.line(to, r#"{"op":"reply","service":"s","call":4,"text":""}"#);
    assert!(String::from_utf8(shell.read(to)).unwrap().contains("too_late"));
    all_go(shell, &[from, to]);
}

#[test]
fn a_line_of_a_client_that_writes_no_more_is_answered_before_it_ends() {
    let mut shell = shell(settings());
    let to = instance(&mut shell, provide(1, 2));
    let from = shell.json();
    shell.line(from, r#"{"op":"req","service":"s","text":"a"}"#);
    shell.line(from, r#"{"op":"req","service":"s","text":"b","timeout_millis":50}"#);
    assert_eq!(shell.core.half_closed(from, shell.now), Flow::Continue);
    done(&mut shell, to, 1);
    assert!(!shell.closing.contains(&from));
    shell.pass(50);
    assert!(shell.closing.contains(&from), "it has heard everything");
    let heard = String::from_utf8(shell.read(from)).unwrap();
    assert!(heard.lines().count() == 2 && heard.contains("timed_out"), "{heard}");
    // And who provides can answer nothing once it writes no more.
    let json = shell.connect(1000, Language::Json);
    shell.line(json, r#"{"op":"provide","service":"s"}"#);
    let caller = shell.native("c");
    ask(&mut shell, caller, request(1));
    ask(&mut shell, caller, request(2));
    assert_eq!(shell.core.half_closed(json, shell.now), Flow::Close);
    shell.act();
    assert_eq!(
        outcomes(&mut shell, caller).values().filter(|each| **each == Some(Code::OutcomeUnknown)).count(),
        1
    );
    shell.read(to);
    all_go(shell, &[from, to, json, caller]);
}
