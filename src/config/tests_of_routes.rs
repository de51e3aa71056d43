//! Routes in YAML: the template's block word for word, what is inherited, and every fault with its place.

use super::*;
use crate::routes::route::{Origin, Outcome};
use crate::routes::settings::{Destination, Intake, RetryBudget, Strategy};
use crate::routes::{envelope::Native, trial};
use std::time::Duration;

/// The configuration block of the template, its blanks filled.
const TEMPLATE: &str = r#"# integration-pattern-config.yaml
pattern:
  name: "Sensor fusion"
  version: "1.0"
  
routing:
  strategy: "round-robin"
  timeout: 30
  retries: 3
  
transformation:
  enabled: true
  rules:
    - source: "field1"
      target: "processedField1"
      transform: "upper(value)"
    - source: "field2"
      target: "processedField2"
      transform: "round(value * 2, 1)"
      
security:
  authentication: "peer"
  encryption: "disabled"
  
monitoring:
  metrics: true
  logging: "INFO"
  alerts: true
"#;

fn parse(text: &str) -> Config {
    Config::parse(text, Path::new("t.yaml")).unwrap()
}

/// What is said of a file whose routes are compiled as well.
fn fault(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.yaml");
    std::fs::write(&path, text).unwrap();
    std::fs::write(folder.path().join("bad.json"), "{\"type\": 7}").unwrap();
    let said = Config::with_routes(&path).expect_err(text).to_string();
    said.replace(&format!("{}/", folder.path().display()), "")
}

fn compiled(text: &str) -> Routes {
    Routes::compile(&parse(text).routes, &mut |file| Err(format!("{file}: none here"))).unwrap()
}

#[test]
fn the_templates_block_loads_word_for_word_and_acts() {
    for (written, strategy) in [
        ("round-robin", Strategy::RoundRobin),
        ("failover", Strategy::Failover),
        ("load-balance", Strategy::LoadBalance),
        ("broadcast", Strategy::Broadcast),
    ] {
        let config = parse(&TEMPLATE.replace("round-robin", written));
        let route = &config.routes.routes[0];
        assert_eq!((route.name.as_str(), route.version.as_str()), ("Sensor fusion", "1.0"));
        assert_eq!((route.deliver.strategy, route.deliver.retries), (strategy, 3));
        assert_eq!(route.deliver.timeout, Duration::from_secs(30), "a bare number is seconds");
        assert_eq!(config.log.level, "info");
        assert_eq!(
            (config.routes.monitoring.metrics, config.routes.monitoring.alerts),
            (Some(true), Some(true))
        );
    }
    let routes = compiled(TEMPLATE);
    let payload = br#"{"field1":"a","field2":1.23,"field3":true}"#;
    let native = Native { topic: "any.topic", payload, ..Native::default() };
    let (_, outcome) = routes.process(Origin::Topic("any.topic"), &native).remove(0);
    let Outcome::Made(parts) = outcome else { panic!("{outcome:?}") };
    assert_eq!(parts[0].0.data().unwrap().to_string(), r#"{"processedField1":"A","processedField2":2.5}"#);
    let quiet = parse(&TEMPLATE.replace("INFO", "warn"));
    assert_eq!(quiet.log.level, "warn");
    assert_eq!(parse(&format!("{TEMPLATE}log: {{level: error}}\n")).log.level, "error");
    for (from, to, expected) in [
        ("disabled", "enabled", "security.encryption: \"enabled\" is not one of disabled (between processes"),
        ("peer", "password", "security.authentication: \"password\" is not one of peer"),
        ("metrics: true", "metrics: false", "monitoring.metrics: metrics are always served"),
        ("INFO", "LOUD", "monitoring.logging: \"LOUD\" is not one of off, error"),
    ] {
        let said = fault(&TEMPLATE.replace(from, to));
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn routes_inherit_key_by_key() {
    let config = parse(
        r#"
pattern: {name: p, version: "7"}
routing:
  from: [a.*, "queue:q"]
  strategy: failover
  timeout: 2s
  retries: 5
  backoff: {initial: 100ms, max: 3}
  to: "topic:out"
  dead_letter: "queue:dead"
  invalid: "topic:bad"
transformation:
  rules: [{source: x, target: y}]
routes:
  - name: all
  - name: own
    priority: -3
    from: b
    message_types: T
    transform: {version: "8", rules: [{source: z}]}
    deliver:
      {strategy: broadcast, to: ["service:s"], timeout: 0.5, backoff: {max: 10s}, eject: {failures: 2, time: 10m},
       deadline: 1m, retry_budget: {min: 1}, order_key: a.b}
    then: continue
  - name: forward
    transform: {enabled: false}
    input: envelope
    output: payload
    deliver: {strategy: load-balance, to: ["service:s", "topic:t", "queue:q"], weights: {"queue:q": 7, "service:s": 2}}
"#,
    );
    let [all, own, forward] = config.routes.routes.as_slice() else { panic!("three routes") };
    assert_eq!(all.from, [Intake::Filter("a.*".into()), Intake::Queue("q".into())]);
    assert_eq!((all.rules.len(), all.version.as_str(), all.transforms), (1, "7", true));
    assert_eq!(all.rules_key, "transformation.rules");
    assert_eq!(all.deliver.to, [Destination::Topic("out".into())]);
    assert_eq!((all.deliver.timeout, all.deliver.retries), (Duration::from_secs(2), 5));
    assert_eq!(
        (all.deliver.backoff_initial, all.deliver.backoff_max),
        (Duration::from_millis(100), Duration::from_secs(3))
    );
    assert_eq!(
        (&all.invalid, &all.deliver.dead_letter),
        (&Some(Destination::Topic("bad".into())), &Some(Destination::Queue("dead".into())))
    );
    assert_eq!((own.priority, own.goes_on, own.version.as_str()), (-3, true, "8"));
    assert_eq!((own.deliver.strategy, own.deliver.retries), (Strategy::Broadcast, 5));
    assert_eq!(
        (own.deliver.timeout, own.deliver.backoff_max),
        (Duration::from_millis(500), Duration::from_secs(10))
    );
    let ten = Duration::from_secs(600);
    assert_eq!(
        (own.deliver.eject_failures, own.deliver.eject_time, own.deliver.eject_time_max),
        (2, ten, ten),
        "the longest is as long at least"
    );
    assert_eq!((all.deliver.eject_failures, all.deliver.eject_time_max), (5, Duration::from_secs(300)));
    assert_eq!(
        (own.rules_key.as_str(), own.message_types.as_slice()),
        ("routes.1.transform.rules", &["T".to_owned()][..])
    );
    assert!(!forward.transforms && forward.rules.len() == 1);
    assert_eq!((&all.deliver.weights, &forward.deliver.weights), (&vec![], &vec![2, 1, 7]));
    assert_eq!((all.deliver.deadline, own.deliver.deadline), (None, Some(Duration::from_secs(60))));
    assert!(!all.deliver.ordered && own.deliver.ordered);
    assert_eq!(own.deliver.order_key.as_deref(), Some("a.b"));
    let budget = Some(RetryBudget { percent: 20, min: 1 });
    assert_eq!((all.deliver.retry_budget, own.deliver.retry_budget), (None, budget));
}

#[test]
fn rules_of_replies_are_a_routes_own_and_have_the_limit_of_rules() {
    let text = "routing: {from: ['service:s', t]}\ntransformation: {rules: [{source: x}]}\nroute_limits: {rules_max: 2}\n\
                routes:\n- {name: plain}\n- {name: back, deliver: {to: 'service:u'}, reply: {start: data, rules: [{source: a, move: true, target: b}]}}\n";
    let routes = compiled(text);
    let [plain, back] = routes.routes() else { panic!("two routes") };
    assert!(!plain.transforms_replies() && back.transforms_replies());
    let reply = |payload| routes.treat_reply(back, &Native { payload, ..Native::default() });
    assert_eq!(reply(br#"{"a":1.50,"c":[]}"#).as_deref(), Ok(&br#"{"c":[],"b":1.50}"#[..]));
    assert_eq!(reply(b"7").as_deref(), Ok(&br#"{"value":7}"#[..]));
    let said = reply(b"seven").unwrap_err();
    assert!(said.starts_with("route back: the reply is not valid: not JSON at byte 0"), "{said}");
    let said = fault(&text.replace("rules: [{source: a,", "rules: [{source: c}, {source: d}, {source: a,"));
    assert!(
        said.contains("routes[1].reply.rules[2]: there are 3 rules") && said.contains("rules_max"),
        "{said}"
    );
}

#[test]
fn faults_of_routes_have_file_line_column_key_and_what_is_allowed() {
    let cases = [
        ("routes:\n- nam: x\n", "t.yaml:2:3: routes[0]: unknown field `nam`, expected one of `name`"),
        ("routes:\n- from: a\n", "t.yaml:2:3: routes[0]: the key name is missing"),
        ("routes:\n- name: a\n", "t.yaml:2:3: routes[0]: the key from is missing"),
        ("routes:\n- name: ''\n", "t.yaml:2:9: routes[0].name: is empty"),
        (
            "routes:\n- {name: a, from: x..y}\n",
            "t.yaml:2:19: routes[0].from: \"x..y\" is neither a filter of topics",
        ),
        (
            "routes:\n- {name: a, from: \"queue:$x\"}\n",
            "t.yaml:2:19: routes[0].from: \"$x\": names with $ belong",
        ),
        (
            "routes:\n- {name: a, from: b, deliver: {to: [nowhere]}}\n",
            "t.yaml:2:37: routes[0].deliver.to[0]: \"nowhere\" is none of topic:NAME",
        ),
        (
            "routes:\n- name: a\n  from: b\n  deliver:\n    timeout: 2 fortnights\n",
            "t.yaml:5:14: routes[0].deliver.timeout: \"2 fortnights\" is no span of time",
        ),
        (
            "routes:\n- {name: a, from: b, deliver: {timeout: 0}}\n",
            "t.yaml:2:41: routes[0].deliver.timeout: must be more than nothing",
        ),
        (
            "routing: {timeout: 90000}\n",
            "t.yaml:1:20: routing.timeout: 90000 seconds are out of range: 0 to 86400",
        ),
        (
            "routes:\n- {name: a, from: b, deliver: {retries: 1001}}\n",
            "t.yaml:2:41: routes[0].deliver.retries: 1001 is out of range: 0 to 1000",
        ),
        (
            "routes:\n- {name: a, from: b, deliver: {backoff: {initial: 2s, max: 1s}}}\n",
            "t.yaml:2:41: routes[0].deliver.backoff: max is shorter",
        ),
        (
            "routes:\n- {name: a, from: b, then: go}\n",
            "t.yaml:2:28: routes[0].then: \"go\" is not one of continue or stop",
        ),
        (
            "routing: {strategy: fastest}\n",
            "t.yaml:1:21: routing.strategy: \"fastest\" is not one of round_robin",
        ),
        (
            "transformation: {enabled: true}\n",
            "t.yaml:1:17: transformation: it is enabled, but there are no rules",
        ),
        ("routes:\n- name: a\n  from: b\n  when: data.mode >\n", "t.yaml:4:9: routes[0].when: "),
        (
            "routes:\n- name: a\n  from: b\n  transform:\n    rules:\n    - {source: x}\n    - source: lat\n      transform: nope(1)\n",
            "t.yaml:8:18: routes[0].transform.rules[1].transform: rule 2: there is no function \"nope\"",
        ),
        (
            "transformation:\n  rules:\n  - {source: a, target: b, transform: \"lookup('t', 1)\"}\nroutes:\n- {name: a, from: b}\n",
            "t.yaml:3:39: transformation.rules[0].transform: rule 1: there is no table \"t\" under tables:",
        ),
        (
            "routes:\n- name: a\n  from: 'service:b'\n  deliver: {to: 'service:c'}\n  reply:\n    rules:\n    - {source: x}\n    - source: km\n      transform: nope(1)\n",
            "t.yaml:9:18: routes[0].reply.rules[1].transform: rule 2: there is no function \"nope\"",
        ),
        (
            "routes:\n- {name: a, from: [b, 'queue:q'], deliver: {to: 'service:c'}, reply: {rules: [{source: x}]}}\n",
            "t.yaml:2:70: routes[0].reply: nobody would get it: replies are given to requests, and from has no service:NAME",
        ),
        (
            "routes:\n- {name: a, from: 'service:b', deliver: {to: 'service:c'}, reply: {start: empty}}\n",
            "t.yaml:2:67: routes[0].reply: there are no rules, and it begins with nothing",
        ),
        (
            "routes:\n- {name: a, from: 'service:b', reply: {rules: [{source: x}], enabled: true}}\n",
            "t.yaml:2:62: routes[0].reply: unknown field `enabled`",
        ),
        (
            "routes:\n- {name: a, from: 'service:b', deliver: {to: 'queue:q'}, reply: {rules: [{source: x}]}}\n",
            "t.yaml:2:65: routes[0].reply: there would be none: services reply, and deliver.to has no service:NAME",
        ),
        (
            "routes:\n- {name: a, from: b, deliver: {to: 'topic:c', weights: {'topic:d': 2}}}\n",
            "t.yaml:2:56: routes[0].deliver.weights: \"topic:d\" is not in deliver.to",
        ),
        (
            "routes:\n- {name: a, from: b, deliver: {to: 'topic:c', weights: {'topic:c': 0}}}\n",
            "t.yaml:2:68: routes[0].deliver.weights.topic:c: 0 is out of range: 1 to 1000",
        ),
        (
            "routes:\n- {name: a, from: b, deliver: {strategy: failover, to: 'topic:c', weights: {'topic:c': 2}}}\n",
            "t.yaml:2:76: routes[0].deliver.weights: failover does not weigh: round_robin and load_balance do",
        ),
        (
            "routes:\n- {name: a, from: b, deliver: {ordered: false, order_key: c}}\n",
            "t.yaml:2:59: routes[0].deliver.order_key: there is no order: ordered is false",
        ),
        (
            "routes:\n- {name: a, from: b, deliver: {order_key: 'c.*'}}\n",
            "t.yaml:2:43: routes[0].deliver.order_key: leads to one value, without *",
        ),
        (
            "routes:\n- {name: a, from: b, deliver: {deadline: 0}}\n",
            "t.yaml:2:42: routes[0].deliver.deadline: must be more than nothing",
        ),
        (
            "routes:\n- {name: a, from: b, deliver: {retry_budget: {percent: 101}}}\n",
            "t.yaml:2:56: routes[0].deliver.retry_budget.percent: 101 is out of range: 0 to 100",
        ),
        (
            "routes:\n- {name: a, from: b, deliver: {eject: {time: 2s, max: 1s}}}\n",
            "t.yaml:2:39: routes[0].deliver.eject: max is shorter than time",
        ),
        (
            "routes:\n- {name: a, from: b, deliver: {eject: {time: 0}}}\n",
            "t.yaml:2:46: routes[0].deliver.eject.time: must be more than nothing",
        ),
        (
            "routes:\n- {name: a, from: b, validate: none.json}\n",
            "t.yaml:2:32: routes[0].validate: none.json: No such file",
        ),
        (
            "routes:\n- {name: a, from: b, validate: bad.json}\n",
            "t.yaml:2:32: routes[0].validate: bad.json: no schema at",
        ),
        (
            "routes:\n- {name: a, from: b}\n- {name: a, from: c}\n",
            "t.yaml:3:10: routes[1].name: there is a route \"a\" before",
        ),
        (
            "routes:\n- {name: a, from: b, deliver: {to: \"topic:b\"}}\n",
            "t.yaml:2:3: routes[0]: messages would go round: a sends to topic:b, which a takes",
        ),
        (
            "routes:\n- {name: a, from: \"queue:q\", deliver: {to: \"topic:b.c\"}}\nqueues:\n- {name: q, bind: [b.*]}\n",
            "t.yaml:2:3: routes[0]: messages would go round: a sends to topic:b.c and so to queue:q, which is bound to it, which a takes",
        ),
        (
            "routes:\n- name: a\n  from: b\n  tests:\n  - {name: t, input: {}, reply: {}, expect: {}}\n",
            "t.yaml:5:5: routes[0].tests[0]: is of a message, input, or of what a service says to it, reply",
        ),
        (
            "routes:\n- name: a\n  from: b\n  tests:\n  - {name: t, reply: {}, expect_dropped: true}\n",
            "t.yaml:5:5: routes[0].tests[0]: a reply is neither dropped nor passed: expect or expect_invalid",
        ),
        (
            "routes:\n- name: a\n  from: b\n  tests:\n  - {name: t, input: {}}\n",
            "t.yaml:5:5: routes[0].tests[0]: expects one of expect, expect_invalid",
        ),
        (
            "routes:\n- name: a\n  from: b\n  tests:\n  - {name: t, topic: b.*, expect: 1}\n",
            "t.yaml:5:22: routes[0].tests[0].topic: is a filter",
        ),
        (
            "routes:\n- name: a\n  from: b\n  tests:\n  - {name: t, priority: 10, expect: 1}\n",
            "t.yaml:5:25: routes[0].tests[0].priority: 10 is out of range: 0 to 9",
        ),
        (
            "route_limits: {steps: 4}\n",
            "t.yaml:1:23: route_limits.steps: there is no limit \"steps\", but message_bytes_max",
        ),
        (
            "route_limits: {steps_max: 0}\n",
            "t.yaml:1:27: route_limits.steps_max: 0 is out of range: 1 to 100000000",
        ),
    ];
    let said = cases.map(|(text, expected)| (text, fault(text), expected));
    let wrong = said.iter().filter(|(_, message, expected)| !message.starts_with(expected));
    let wrong: Vec<String> =
        wrong.map(|(text, said, due)| format!("{text}\n  says  {said}\n  not   {due}")).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_snippet_shows_the_place() {
    assert_eq!(snippet("a: 1\nb: 22\n", 2, 4), "   |\n 2 | b: 22\n   |    ^");
    assert_eq!(snippet("a", 7, 1), "");
}

#[test]
fn a_broker_has_the_queues_that_its_routes_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.yaml");
    let text = "queues: [{name: q, messages_max: 7}]\nroutes:\n- {name: a, from: 'queue:p', invalid: 'queue:i', deliver: \
                {to: ['queue:q', 'topic:t'], dead_letter: 'queue:d'}}\n";
    std::fs::write(&path, text).unwrap();
    let (config, routes) = Config::load(Overrides { file: Some(path), ..Overrides::default() }).unwrap();
    let names: Vec<(&str, u64)> =
        config.queues.iter().map(|queue| (queue.name.as_str(), queue.messages_max)).collect();
    let most = QueueSettings::default().messages_max;
    assert_eq!(names, [("q", 7), ("p", most), ("i", most), ("d", most)]);
    assert_eq!(routes.routes().len(), 1);
}

#[test]
fn examples_of_replies_tell_what_differs() {
    let text = "routes:\n- name: a\n  from: 'service:a'\n  deliver: {to: 'service:b'}\n  reply: {rules: [{source: km, required: true}]}\n  \
                tests:\n  - {name: good, reply: {km: 1, x: 2}, expect: {km: 1}}\n  - {name: other, reply: {km: 2}, expect: {km: 1}}\n  \
                - {name: none, reply: {}, expect: {km: 1}}\n  - {name: valid, reply: {km: 1}, expect_invalid: km}\n  \
                - {name: reason, reply: {}, expect_invalid: miles}\n\
                - {name: b, from: c, tests: [{name: plain, reply: {}, expect: {}}]}\n";
    let told: Vec<String> =
        trial::run(&compiled(text)).into_iter().map(|trial| trial.differences.join("; ")).collect();
    for (told, expected) in told.iter().zip([
        "",
        "km is 2; expected 1",
        "route a: the reply is not valid: rule 1 (km): it is required and missing",
        "it is valid; expected that it is not",
        "it is invalid for another reason: route a: ",
        "the route has no `reply`",
    ]) {
        assert!(told.starts_with(expected) && told.is_empty() == expected.is_empty(), "{told}");
    }
    assert_eq!(told.len(), 6);
}

#[test]
fn the_examples_of_the_documentation_compile_and_keep_their_tests() {
    let document = include_str!("../../docs/routes.md");
    let examples: Vec<_> =
        document.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() >= 3);
    let schema = r#"{"type":"object","required":["mode"]}"#;
    for example in examples {
        let config = Config::parse(example, Path::new("docs/routes.md"))
            .unwrap_or_else(|error| panic!("{error}\n{example}"));
        let routes = Routes::compile(&config.routes, &mut |_| Ok(schema.to_owned()))
            .unwrap_or_else(|fault| panic!("{}: {}\n{example}", fault.key, fault.message));
        for trial in trial::run(&routes) {
            assert!(trial.differences.is_empty(), "{trial:?}");
        }
    }
}
