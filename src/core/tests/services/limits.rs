//! Limits of services reached and named, rights, and what a client must not say.

use super::*;

#[test]
fn every_limit_is_reached_and_named() {
    let tight = Limits {
        session_requests_max: 3,
        session_services_max: 2,
        services_max: 3,
        prefetch_max: 5,
        user_queued_bytes_max: 4 * (REQUEST_OVERHEAD_BYTES + 100),
        ..Limits::default()
    };
    let mut shell = shell_with(tight, &[ServiceSettings { outstanding_max: 5, ..settings() }]);
    let refused = |shell: &mut Shell, id: SessionId| {
        let mut found = Vec::new();
        each_frame(&shell.read(id), |frame| {
            if let ToClient::RequestFailed { code, limit: Some(LimitInfo { name, value, used }), .. }
            | ToClient::Error { code, limit: Some(LimitInfo { name, value, used }), .. } = frame
            {
                found.push((Code::from_number(code).unwrap(), name.to_owned(), value, used));
            }
        });
        found
    };
    let named = |name: &str, value, used| vec![(Code::LimitReached, name.to_owned(), value, used)];
    let to = instance(&mut shell, provide(1, 5));
    shell.say(to, ToBroker::Provide(Provide { provider: 2, ..provide(2, 6) }));
    assert_eq!(refused(&mut shell, to), named("prefetch_max", 5, 6));
    shell.say(to, ToBroker::Provide(Provide { service: "t", ..provide(2, 1) }));
    shell.say(to, ToBroker::Provide(Provide { service: "u", ..provide(3, 1) }));
    assert_eq!(refused(&mut shell, to), named("session_services_max", 2, 3));
    let other = instance(&mut shell, Provide { service: "u", ..provide(1, 1) });
    shell.say(other, ToBroker::Provide(Provide { service: "v", ..provide(2, 1) }));
    assert_eq!(refused(&mut shell, other), named("services_max", 3, 4));
    let a = shell.native("a");
    (1..=4).for_each(|number| ask(&mut shell, a, request(number)));
    assert_eq!(refused(&mut shell, a), named("session_requests_max", 3, 4));
    ask(&mut shell, a, Request { timeout_millis: 300_001, ..request(5) });
    shell.say(a, ToBroker::CancelRequest { request: 1 });
    ask(&mut shell, a, Request { timeout_millis: 300_001, ..request(5) });
    assert_eq!(
        refused(&mut shell, a),
        [named("session_requests_max", 3, 4), named("timeout_millis_max", 300_000, 300_001)].concat()
    );
    let b = shell.native_of(1001, "b");
    (1..=3).for_each(|number| ask(&mut shell, b, request(number)));
    let c = shell.native_of(1002, "c");
    ask(&mut shell, c, request(1));
    assert_eq!(refused(&mut shell, c), named("outstanding_max", 5, 6));
    shell.say(b, ToBroker::CancelRequest { request: 1 });
    let long = vec![0; 2300];
    ask(&mut shell, c, Request { message: message(1, &long), ..request(1) });
    let heard = refused(&mut shell, c);
    assert_eq!((heard.len(), heard[0].1.as_str(), heard[0].2), (1, "user_queued_bytes_max", 2448));
    all_go(shell, &[a, b, c, to, other]);
}

#[test]
fn who_may_provide_and_request_is_said_by_the_configuration() {
    let only = |uid| Some(Who { users: vec![uid], groups: Vec::new() });
    let map =
        ServiceSettings { name: "map.>".to_owned(), provide: only(1001), request: only(1002), ..settings() };
    let mut shell = shell_with(Limits::default(), &[map]);
    let offer = Provide { service: "map.locate", ..provide(1, 1) };
    let (a, b) = (shell.native_of(1001, "a"), shell.native_of(1002, "b"));
    let denied = |shell: &mut Shell, id: SessionId| {
        let text = show(&shell.read(id));
        assert!(text.contains("code: 10"), "{text}");
        text
    };
    shell.say(b, ToBroker::Provide(offer));
    assert!(denied(&mut shell, b).contains("services[].provide lets others in"));
    shell.say(a, ToBroker::Provide(offer));
    shell.hears(a, &[ToClient::Done { req: 1 }]);
    ask(&mut shell, a, Request { service: "map.locate", ..request(1) });
    assert!(denied(&mut shell, a).contains("services[].request lets others in"));
    ask(&mut shell, b, Request { service: "map.locate", ..request(1) });
    assert_eq!(given(&mut shell, a), [1]);
    // A name that the configuration does not know.
    shell.say(a, ToBroker::Provide(Provide { provider: 2, ..provide(2, 1) }));
    assert!(denied(&mut shell, a).contains("allow.provide_services"));
    let own = instance(&mut shell, provide(1, 1));
    ask(&mut shell, b, request(2));
    assert_eq!(given(&mut shell, own), [1], "whoever may connect may ask");
    all_go(shell, &[a, b, own]);
}

#[test]
fn the_first_entry_that_matches_counts_and_what_is_named_is_there_from_the_start() {
    let wide = ServiceSettings { name: "a.>".to_owned(), timeout_millis: 10, ..settings() };
    let narrow = ServiceSettings { name: "a.b".to_owned(), timeout_millis: 20, ..settings() };
    let mut shell = shell_with(Limits::default(), &[settings(), wide, narrow]);
    assert_eq!(
        shell.core.service_status().len(),
        1,
        "a filter names none, and selects a.b before it is named"
    );
    let to = instance(&mut shell, Provide { service: "a.b", ..provide(1, 1) });
    assert_eq!(shell.core.service_status().len(), 2);
    let from = shell.native("c");
    ask(&mut shell, from, Request { service: "a.b", timeout_millis: 0, ..request(1) });
    shell.pass(10);
    assert_eq!(outcomes(&mut shell, from), one(1, Some(Code::TimedOut)));
    shell.hang_up(to);
    assert_eq!(shell.core.service_status().len(), 1);
    for name in ["", "a.*", "$tramline.x", "a b"] {
        ask(&mut shell, from, Request { service: name, ..request(1) });
        assert_eq!(outcomes(&mut shell, from), one(1, Some(Code::BadTopic)), "{name:?}");
    }
    all_go(shell, &[from]);
}

#[test]
fn what_a_client_that_keeps_to_the_protocol_cannot_say_ends_its_session() {
    let cases: [(Offence, Code); 6] = [
        (|shell, id| shell.say(id, ToBroker::Provide(Provide { req: 0, ..provide(2, 1) })), Code::BadId),
        (|shell, id| shell.say(id, ToBroker::Provide(provide(1, 1))), Code::BadId),
        (|shell, id| reply(shell, id, 2, Outcome::Done), Code::BadId),
        (|shell, id| reply(shell, id, 1, Outcome::Failed { text: &"x".repeat(1025) }), Code::Malformed),
        (
            |shell, id| {
                ask(shell, id, request(1));
                shell.say(id, ToBroker::Request(request(1)))
            },
            Code::BadId,
        ),
        (
            |shell, id| {
                let after = Some(tramline_wire::After { stream: 1, seq: 1 });
                let message = tramline_wire::Message { after, ..message(1, b"") };
                shell.say(id, ToBroker::Request(Request { message, ..request(1) }))
            },
            Code::Malformed,
        ),
    ];
    for (break_it, code) in cases {
        let mut shell = shell(settings());
        let id = instance(&mut shell, provide(1, 1));
        assert_eq!(break_it(&mut shell, id), Flow::Close);
        shell.is_closed_with(id, code);
        all_go(shell, &[id]);
    }
}
