//! The JSON language as a whole: what goes in comes out, and nothing that comes in can hurt.

use super::*;
use proptest::prelude::*;
use serde_json::value::RawValue;
use tramline_wire::{Code, Encoding, HeaderBlock};

fn fault(line: &str) -> RequestFault {
    parse_request(line.as_bytes()).expect_err("the line is faulty")
}

fn published(line: &[u8]) -> Publish<'_> {
    match parse_request(line).unwrap().op {
        Op::Publish(message) => message,
        other => panic!("{other:?}"),
    }
}

fn message(payload: Payload<'_>) -> MessageLine<'_> {
    MessageLine {
        sub: 1,
        topic: "a.b",
        seq: 7,
        unix_nanos: 0,
        source_time: None,
        from: Sender { name: "gps \"1\"", uid: 1000, pid: 42 },
        head: HeaderBlock::EMPTY,
        payload,
    }
}

fn line_of(encoding: Encoding, bytes: &[u8], payload_bytes_max: usize) -> String {
    let mut out = Vec::new();
    let payload = Payload { encoding, bytes, length: bytes.len() as u64 };
    write_message(&mut out, &message(payload), payload_bytes_max);
    String::from_utf8(out).unwrap()
}

fn member<'a>(line: &'a str, name: &str) -> Option<&'a RawValue> {
    let members: std::collections::HashMap<String, &RawValue> = serde_json::from_str(line).unwrap();
    members.get(name).copied()
}

#[test]
fn the_examples_of_help_are_requests() {
    for spec in ops::OPS {
        let request = parse_request(spec.example.as_bytes()).unwrap();
        assert_eq!(request.op.name(), spec.name);
    }
    let mut out = Vec::new();
    write_help(&mut out, Some("\"h\""));
    let help: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(help["id"], "h");
    assert_eq!(help["ops"].as_array().unwrap().len(), ops::OPS.len());
    assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
}

#[test]
fn a_publish_is_read_with_everything_it_says() {
    let line = br#"{"op":"pub","id":"x1","topic":"gps.fix","data": {"lat": 48.10},"type":"fi\u0078",
        "headers":{"unit":"deg","raw":{"base64":"AP8="}},"time":"1970-01-01T00:00:01Z","confirm":true}"#;
    let request = parse_request(line).unwrap();
    assert_eq!(request.id, Some("\"x1\""));
    let message = published(line);
    assert_eq!(message.topic, "gps.fix");
    assert_eq!(message.encoding, Encoding::Json);
    assert_eq!(message.payload.as_ref(), br#"{"lat": 48.10}"#);
    assert_eq!(message.message_type, "fix");
    assert_eq!(message.source_time, Some(1_000_000_000));
    assert!(message.confirm);
    let mut head = Vec::new();
    message.encode_head(&mut head).unwrap();
    let head = HeaderBlock::parse(&head).unwrap();
    assert_eq!(head.get("unit"), Some(b"deg".as_slice()));
    assert_eq!(head.get("raw"), Some([0, 255].as_slice()));
}

#[test]
fn text_and_base64_are_payloads_too() {
    let text = published(br#"{"op":"pub","topic":"a","text":"l\u00fcft\n"}"#);
    assert_eq!((text.encoding, text.payload.as_ref()), (Encoding::Text, "lüft\n".as_bytes()));
    let binary = published(br#"{"op":"pub","topic":"a","base64":"AAEC"}"#);
    assert_eq!((binary.encoding, binary.payload.as_ref()), (Encoding::Binary, [0, 1, 2].as_slice()));
}

#[test]
fn subscriptions_are_lossy_and_without_history_unless_they_ask() {
    let line = br#"{"op":"sub","topic":"a.>"}"#;
    let Op::Subscribe(plain) = parse_request(line).unwrap().op else { panic!() };
    assert_eq!(plain, Subscribe { filter: "a.>".into(), history: 0, reliable: false });
    let line = br#"{"op":"sub","topic":"a.>","history":3,"reliable":true}"#;
    let Op::Subscribe(asked) = parse_request(line).unwrap().op else { panic!() };
    assert_eq!(asked, Subscribe { filter: "a.>".into(), history: 3, reliable: true });
}

#[test]
fn ids_are_any_scalar_and_come_back_verbatim() {
    for id in ["1", "-1.50e3", "\"a\\u0041\"", "true", "null", "123456789012345678901234567890"] {
        let line = format!("{{\"id\":{id},\"op\":\"ping\"}}");
        let request = parse_request(line.as_bytes()).unwrap();
        assert_eq!(request.id, Some(id));
        let mut out = Vec::new();
        write_ok(&mut out, request.op.name(), request.id, &[]);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{{\"ok\":true,\"op\":\"ping\",\"id\":{id}}}\n"));
    }
    let structured = fault(r#"{"op":"ping","id":[1]}"#);
    assert_eq!((structured.code, structured.id), (Code::Malformed, None));
    let long = format!(r#"{{"op":"ping","id":"{}"}}"#, "x".repeat(300));
    assert!(fault(&long).message.contains("256"));
}

#[test]
fn faults_name_key_column_and_what_is_allowed() {
    let unknown = fault(r#"{"op":"sub","topic":"a","histroy":3,"id":9}"#);
    assert_eq!((unknown.op.as_deref(), unknown.id.as_deref()), (Some("sub"), Some("9")));
    assert_eq!(
        unknown.message,
        "the op sub has no key histroy (column 25); it takes op, id, topic, history, reliable"
    );
    let other = fault(r#"{"op":"ping","topic":"a"}"#);
    assert_eq!(other.message, "the op ping has no key topic (column 14); it takes op, id");
    let kind = fault(r#"{"op":"sub","topic":"a","history":-3}"#);
    assert_eq!(
        kind.message,
        "the key history at column 25 must be a whole number from 0 to 4294967295, and is -3"
    );
    assert!(fault(r#"{"op":"sub"}"#).message.contains("needs the key topic"));
    assert!(fault(r#"{"op":"sub","topic":"a","topic":"b"}"#).message.contains("second time at column 25"));
    assert!(fault(r#"{"op":"pub","topic":"a"}"#).message.contains("one of the keys data, text, base64"));
    assert!(fault(r#"{"op":"pub","topic":"a","data":1,"text":"b"}"#).message.contains("only one of"));
    assert!(fault(r#"{"op":"pub","topic":"a","base64":"?"}"#).message.contains("column 25 is not base64"));
    assert!(fault(r#"{"op":"pub","topic":"a","data":1,"time":"soon"}"#).message.contains("RFC 3339"));
    assert!(
        fault(r#"{"op":"pub","topic":"a","data":1,"headers":{"a":1}}"#)
            .message
            .contains("header a at column 49")
    );
    assert!(
        fault(r#"{"op":"pub","topic":"a","data":1,"headers":{"a":"","a":""}}"#)
            .message
            .contains("second time")
    );
    let many = (0..65).map(|n| format!("\"{n}\":\"\"")).collect::<Vec<_>>().join(",");
    assert!(
        fault(&format!(r#"{{"op":"pub","topic":"a","data":1,"headers":{{{many}}}}}"#)).message.contains("64")
    );
}

#[test]
fn unknown_and_later_operations_are_told_apart() {
    let unknown = fault(r#"{"op":"publish","id":1}"#);
    assert_eq!(unknown.code, Code::Unsupported);
    assert_eq!(
        unknown.message,
        "there is no op publish; there are help, ping, pub, sub, unsub, push, pull, ack, nack, reject, extend, queue, declare, req, cancel, provide, reply, status"
    );
    for later in ops::LATER {
        let fault = fault(&format!(r#"{{"op":"{later}","whatever":{{}}}}"#));
        assert_eq!((fault.code, fault.op.as_deref()), (Code::Unsupported, Some(*later)));
        assert!(fault.message.contains("not yet"), "{}", fault.message);
    }
}

#[test]
fn lines_that_are_no_object_say_where_they_break() {
    assert!(fault("").message.contains("column 0"));
    assert!(fault("[1]").message.contains("invalid type: sequence"));
    assert!(fault(r#"{"op":"ping"} x"#).message.contains("trailing characters at column 15"));
    let cut = fault(r#"{"op":"pub","id":5,"topic":"#);
    assert_eq!((cut.op.as_deref(), cut.id.as_deref()), (Some("pub"), Some("5")));
    let latin = parse_request(b"{\"op\":\"ping\",\"id\":\"\xe9\"}").unwrap_err();
    assert_eq!(latin.code, Code::Malformed);
    assert!(parse_request(b"{\"op\":\"ping\"}\r\n").is_ok());
}

#[test]
fn an_answer_to_a_fault_carries_what_could_be_read() {
    let mut out = Vec::new();
    write_fault(&mut out, &fault(r#"{"op":"sing","id":"a"}"#));
    write_error(&mut out, None, None, Code::LimitReached, "too \"many\"");
    write_close(&mut out, Code::ShuttingDown, "bye");
    let expected = "{\"ok\":false,\"op\":\"sing\",\"id\":\"a\",\"error\":{\"code\":\"unsupported\",\"message\":\
        \"there is no op sing; there are help, ping, pub, sub, unsub, push, pull, ack, nack, reject, extend, queue, declare, req, cancel, provide, reply, status\"}}\n\
        {\"ok\":false,\"error\":{\"code\":\"limit_reached\",\"message\":\"too \\\"many\\\"\"}}\n\
        {\"op\":\"close\",\"error\":{\"code\":\"shutting_down\",\"message\":\"bye\"}}\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn a_message_line_has_the_shape_of_the_documentation() {
    let mut head = Vec::new();
    let headers = [("unit", b"deg".as_slice()), ("raw", &[0xff])];
    tramline_wire::headers::encode(&mut head, "fix", headers).unwrap();
    let line = MessageLine {
        source_time: Some(1),
        head: HeaderBlock::parse(&head).unwrap(),
        ..message(Payload { encoding: Encoding::Json, bytes: b"{\"a\":\n1.0}", length: 10 })
    };
    let mut out = Vec::new();
    write_message(&mut out, &line, 64);
    write_gap(&mut out, 1, "a.b", 3);
    write_gap(&mut out, 1, "", 3);
    let expected = concat!(
        r#"{"op":"msg","sub":1,"topic":"a.b","seq":7,"time":"1970-01-01T00:00:00.000000000Z","#,
        r#""source_time":"1970-01-01T00:00:00.000000001Z","from":{"name":"gps \"1\"","uid":1000,"pid":42},"#,
        r#""type":"fix","headers":{"unit":"deg","raw":{"base64":"/w=="}},"data":{"a": 1.0}}"#,
        "\n",
        r#"{"op":"gap","sub":1,"topic":"a.b","lost":3}"#,
        "\n",
        r#"{"op":"gap","sub":1,"lost":3}"#,
        "\n",
    );
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn claims_about_a_payload_are_checked_before_they_are_repeated() {
    assert_eq!(member(&line_of(Encoding::Json, b"{\"a\":", 64), "text").unwrap().get(), r#""{\"a\":""#);
    assert_eq!(member(&line_of(Encoding::Text, &[0xff], 64), "base64").unwrap().get(), r#""/w==""#);
    assert_eq!(member(&line_of(Encoding::Json, b"1}\n{\"op\":\"msg\"", 64), "data").map(RawValue::get), None);
}

#[test]
fn a_large_payload_is_a_length_and_a_preview() {
    let long = "ü".repeat(PREVIEW_ODD);
    let line = line_of(Encoding::Text, format!("x{long}").as_bytes(), 64);
    assert_eq!(member(&line, "bytes").unwrap().get(), (1 + 2 * PREVIEW_ODD).to_string());
    assert_eq!(member(&line, "encoding").unwrap().get(), "\"text\"");
    let preview: String = serde_json::from_str(member(&line, "preview").unwrap().get()).unwrap();
    assert_eq!(preview.len(), answer::PREVIEW_BYTES_MAX - 1, "the character at the cut is left out");
    assert!(member(&line, "text").is_none());
    let line = line_of(Encoding::Binary, &[0; 65], 64);
    assert_eq!(member(&line, "encoding").unwrap().get(), "\"binary\"");
    assert!(member(&line_of(Encoding::Binary, &[0; 64], 64), "base64").is_some());
    let mut out = Vec::new();
    let partly = Payload { encoding: Encoding::Json, bytes: b"[1,2", length: 9_000 };
    write_message(&mut out, &message(partly), 64);
    let line = String::from_utf8(out).unwrap();
    assert_eq!(member(&line, "preview").unwrap().get(), r#""[1,2""#);
    assert_eq!(member(&line, "encoding").unwrap().get(), r#""json""#);
}

#[test]
fn the_examples_of_the_documentation_are_requests_and_answers() {
    let document = include_str!("../../docs/json.md");
    let (mut requests, mut answers) = (Vec::new(), 0);
    for line in document.lines() {
        if let Some(request) = line.strip_prefix("→ ") {
            requests.push(request);
        }
        let Some(answer) = line.strip_prefix("← ") else { continue };
        answers += 1;
        let value: serde_json::Value = serde_json::from_str(answer).unwrap();
        if value["ok"] == false {
            let mut said = Vec::new();
            write_fault(&mut said, &fault(requests.last().unwrap()));
            assert_eq!(said, [answer.as_bytes(), b"\n"].concat());
        } else if value["ok"] == true {
            let request = parse_request(requests.last().unwrap().as_bytes()).unwrap();
            assert_eq!(value["op"], request.op.name(), "{answer}");
        }
    }
    let understood = requests.iter().filter_map(|line| parse_request(line.as_bytes()).ok());
    let ops: Vec<_> = understood.map(|request| request.op.name()).collect();
    for spec in ops::OPS {
        assert!(ops.contains(&spec.name), "no example of {} in docs/json.md", spec.name);
        for key in spec.keys {
            assert!(document.contains(&format!("`{key}`")) || *key == "sub", "{key} is not in docs/json.md");
        }
    }
    assert!(answers > 5);
    assert_eq!(requests.len(), ops.len() + 1, "one example is a fault");
}

const PREVIEW_ODD: usize = 1_001;

fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("-0.10E+2".to_owned()),
        Just("123456789012345678901234567890".to_owned()),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        Just(r#""\u00e4\/\ud800""#.to_owned()),
    ];
    let space = prop_oneof![Just(""), Just(" "), Just("\t"), Just("\r\n"), Just("\n")];
    leaf.prop_recursive(4, 32, 4, move |inner| {
        let list = (proptest::collection::vec(inner.clone(), 0..4), space.clone())
            .prop_map(|(items, space)| format!("[{space}{}{space}]", items.join(&format!("{space},"))));
        let object = (proptest::collection::vec(inner, 0..4), space.clone()).prop_map(|(items, space)| {
            let members: Vec<_> = items.iter().map(|item| format!("\"k\"{space}:{space}{item}")).collect();
            format!("{{{}{space}}}", members.join(","))
        });
        prop_oneof![list, object]
    })
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(line in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Err(fault) = parse_request(&line) {
            let mut out = Vec::new();
            write_fault(&mut out, &fault);
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok());
        }
    }

    #[test]
    fn any_bytes_near_a_request_are_read_or_refused(
        op in prop_oneof![Just("pub"), Just("sub"), Just("unsub"), Just("status"), Just("auth")],
        key in "[a-z6]{0,7}|topic|data|base64|headers|time|id|sub",
        value in "[-0-9a-z\"{}\\[\\]:,.\\\\ ]{0,20}",
    ) {
        let line = format!("{{\"op\":\"{op}\",\"{key}\":{value}}}");
        if let Err(fault) = parse_request(line.as_bytes()) {
            let mut out = Vec::new();
            write_fault(&mut out, &fault);
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok());
            prop_assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        }
    }

    #[test]
    fn data_keeps_its_text(data in json_text()) {
        let line = format!("{{\"op\":\"pub\",\"topic\":\"a\",\"data\":{data}}}");
        let message = published(line.as_bytes());
        prop_assert_eq!(message.payload.as_ref(), data.as_bytes());
        let written = line_of(Encoding::Json, &message.payload, usize::MAX);
        prop_assert_eq!(written.find('\n'), Some(written.len() - 1));
        let wanted = data.replace('\n', " ");
        prop_assert_eq!(member(&written, "data").unwrap().get(), wanted);
    }

    #[test]
    fn any_payload_makes_one_valid_line(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        encoding in prop_oneof![Just(Encoding::Json), Just(Encoding::Text), Just(Encoding::Binary)],
        limit in 0_usize..400,
    ) {
        let line = line_of(encoding, &bytes, limit);
        prop_assert_eq!(line.find('\n'), Some(line.len() - 1));
        prop_assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok());
    }
}
