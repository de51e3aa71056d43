//! The documented file is the truth, and every fault has its place.

use super::tests_of_keys::documented;
use super::*;
use tramline_wire::{GatedBy, Geometry};

const DOCUMENTED: &str = include_str!("../../config/tramline.yaml");

fn parse(text: &str) -> Config {
    Config::parse(text, Path::new("t.yaml")).unwrap()
}

fn fault(text: &str) -> String {
    Config::parse(text, Path::new("t.yaml")).unwrap_err().to_string()
}

#[test]
fn the_documented_file_holds_the_defaults() {
    assert_eq!(parse(DOCUMENTED), Config::default());
}

#[test]
fn the_examples_in_the_documented_file_parse() {
    let config = parse(&documented());
    assert_eq!(config.socket.path.as_deref(), Some(Path::new("/run/tramline/tramline.sock")));
    assert_eq!(config.socket.group, Some(0));
    assert_eq!(config.http.listen, Some("127.0.0.1:9464".parse().unwrap()));
    let ring = Geometry { descriptors: 64, arena_bytes: 32 << 20 };
    let cameras = TopicSettings {
        filter: "cam.*".to_owned(),
        ring: Some(ring),
        history: Some(2),
        gated_by: Some(GatedBy::Anyone),
        retain: 2,
    };
    assert_eq!(config.topics, [cameras]);
    assert_eq!(config.store.path.as_deref(), Some(Path::new("/var/lib/tramline/queues.store")));
    let routed = config.routes.routes.iter().map(|route| route.name.as_str()).collect::<Vec<_>>();
    assert_eq!(routed, ["fixes"]);
    let root = |users: &[u32], groups: &[u32]| Who { users: users.to_vec(), groups: groups.to_vec() };
    let jobs = QueueSettings {
        name: "jobs".to_owned(),
        bind: vec!["work.>".to_owned()],
        push: Some(root(&[0], &[])),
        consume: Some(root(&[], &[0])),
        ..QueueSettings::default()
    };
    assert_eq!(config.queues, [jobs], "the documented file shows the defaults");
    let map = ServiceSettings {
        name: "map.>".to_owned(),
        provide: Some(root(&[0], &[])),
        request: Some(root(&[], &[0])),
        ..ServiceSettings::default()
    };
    assert_eq!(config.services, [map], "the documented file shows the defaults");
}

#[test]
fn the_examples_of_the_documentation_parse() {
    let document = include_str!("../../docs/configuration.md");
    let examples: Vec<_> =
        document.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() >= 3);
    for example in examples {
        assert_ne!(parse(example), Config::default(), "{example}");
    }
}

#[test]
fn a_file_may_say_nothing() {
    for text in ["", "# nothing\n\n", "---\n", "limits:\n", "limits:\n  # nothing\nsocket:\n", "{}"] {
        assert_eq!(parse(text), Config::default(), "{text:?}");
    }
}

#[test]
fn sizes_modes_and_accounts_are_read_as_people_write_them() {
    let config = parse(
        "limits: {frame_bytes_max: 64 KiB, backlog_bytes_max: 1MB, outbox_bytes_max: '8192'}\n\
         socket: {mode: 0660, group: root}\nallow: {users: [root, 1000], groups: [7]}\n\
         http: {listen: '[::1]:80'}\nlog: {level: off}\nwait: {spin_micros: 0}",
    );
    assert_eq!(config.limits.frame_bytes_max, 65_536);
    assert_eq!(config.limits.backlog_bytes_max, 1_000_000);
    assert_eq!(config.socket, Socket { path: None, mode: 0o660, group: Some(0) });
    assert_eq!(config.allow, Allow { users: vec![0, 1000], groups: vec![7], ..Allow::default() });
    assert_eq!(config.http.listen, Some("[::1]:80".parse().unwrap()));
    assert_eq!((config.log.level.as_str(), config.wait.spin_micros), ("off", 0));
}

#[test]
fn a_ring_that_says_half_of_its_size_gets_the_default_for_the_rest() {
    let config = parse(
        "limits: {ring_default: {descriptors: 16}}\ntopics: [{filter: a, ring: {arena_bytes: 1MiB}}, {filter: '>'}]",
    );
    assert_eq!(config.limits.ring_default, Geometry { descriptors: 16, arena_bytes: 256 * 1024 });
    assert_eq!(config.topics[0].ring, Some(Geometry { descriptors: 16, arena_bytes: 1 << 20 }));
    assert_eq!(config.topics[1].ring, None);
}

#[test]
fn faults_have_file_line_column_key_and_what_is_allowed() {
    let cases = [
        (
            "limits:\n  frame_byte_max: 3\n",
            "t.yaml:2:3: limits: unknown field `frame_byte_max`, expected one of",
        ),
        ("limits:\n  topics_max: 3\n  frame_byte_max: 3\n", "t.yaml:3:3: limits: unknown field"),
        ("sockets: 1\n", "t.yaml:1:1: unknown field `sockets`, expected one of `socket`"),
        (
            "limits:\n  backlog_bytes_max: 4 Mb\n",
            "t.yaml:2:22: limits.backlog_bytes_max: \"4 Mb\" is not a size",
        ),
        (
            "limits:\n  backlog_bytes_max: -4\n",
            "t.yaml:2:22: limits.backlog_bytes_max: invalid type: integer `-4`",
        ),
        ("limits: [1]\n", "t.yaml:1:9: limits: invalid type: sequence, expected keys with values"),
        (
            "limits:\n  connections_max: 2KiB\n",
            "t.yaml:2:20: limits.connections_max: \"2KiB\" is not a whole number",
        ),
        (
            "limits:\n  frame_bytes_max: 1GiB\n",
            "t.yaml:2:20: limits.frame_bytes_max: 1073741824 is out of range: 32768 to 16777216",
        ),
        (
            "limits:\n  ring_bytes_max: 8GiB\n",
            "t.yaml:2:19: limits.ring_bytes_max: one ring may have 8589934592 bytes",
        ),
        ("socket:\n  mode: 600\n", "t.yaml:2:9: socket.mode: the number 600 is not permissions in octal"),
        ("socket:\n  mode: '0999'\n", "t.yaml:2:9: socket.mode: \"0999\" is not permissions in octal"),
        ("socket:\n  path: here\n", "t.yaml:2:9: socket.path: must be an absolute path"),
        (
            "allow:\n  users: [root, no-such-user]\n",
            "t.yaml:2:17: allow.users[1]: \"no-such-user\" is not the name",
        ),
        ("allow:\n  groups: [4294967295]\n", "t.yaml:2:12: allow.groups[0]: 4294967295 is not the name"),
        (
            "http:\n  listen: 0.0.0.0:80\n",
            "t.yaml:2:11: http.listen: \"0.0.0.0:80\" is not a loopback address",
        ),
        ("topics:\n- filter: a..b\n", "t.yaml:2:11: topics[0].filter: \"a..b\" is not a topic or filter"),
        ("topics:\n- history: 1\n", "t.yaml:2:3: topics[0]: the key filter is missing"),
        (
            "topics:\n- filter: b\n- filter: a\n  ring:\n    descriptors: 3\n",
            "t.yaml:5:18: topics[1].ring.descriptors: 3 is not a power of two",
        ),
        (
            "topics:\n- filter: a\n  ring: {arena_bytes: 8GiB}\n",
            "t.yaml:3:9: topics[0].ring: a ring of 8589955072 bytes; one may have 1073741824 (limits.ring_bytes_max)",
        ),
        // Each of its parts fills whole pages.
        (
            "limits:\n  ring_bytes_max: 66000\n  ring_default: {descriptors: 2, arena_bytes: 60KiB}\n",
            "t.yaml:3:17: limits.ring_default: a ring of 69632 bytes; one may have 66000 (limits.ring_bytes_max)",
        ),
        (
            "topics:\n- filter: a\n  history: 5000\n",
            "t.yaml:3:12: topics[0].history: 5000 is out of range: 0 to 4096",
        ),
        ("log:\n  level: loud\n", "t.yaml:2:10: log.level: \"loud\" is not one of off, error"),
        ("log:\n  level: info\n  level: warn\n", "t.yaml:2:3: log: duplicate field `level`"),
        ("log: {level: info\n", "t.yaml:2:1: "),
    ];
    for (text, expected) in cases {
        let message = fault(text);
        assert!(message.starts_with(expected), "{text}\n  says  {message}\n  not   {expected}");
    }
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "socket: {path: /from/file}\nlog: {level: warn}\n").unwrap();
    let environment = Overrides {
        file: Some(file.path().to_owned()),
        socket: Some("/from/environment".into()),
        log: Some("debug,tramline::http=trace".into()),
    };
    let flags = Overrides { socket: Some("/from/flag".into()), ..Overrides::default() };
    let (config, _) = Config::load(flags.or(environment.clone())).unwrap();
    assert_eq!(config.socket.path.as_deref(), Some(Path::new("/from/flag")));
    assert_eq!(config.log.level, "debug,tramline::http=trace");
    let only_file = Overrides { socket: None, log: None, ..environment };
    let (config, _) = Config::load(only_file).unwrap();
    assert_eq!(config.socket.path.as_deref(), Some(Path::new("/from/file")));
    assert_eq!(config.log.level, "warn");
    assert_eq!(Config::load(Overrides::default()).unwrap().0, Config::default());
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let missing = Overrides { file: Some("/no/such/file.yaml".into()), ..Overrides::default() };
    assert!(Config::load(missing).unwrap_err().to_string().contains("/no/such/file.yaml"));
    let noisy = Overrides { log: Some("tramline=loud".into()), ..Overrides::default() };
    assert!(Config::load(noisy).unwrap_err().to_string().contains("tramline=loud"));
    let long = tempfile::NamedTempFile::new().unwrap();
    long.as_file().set_len(CONFIG_BYTES_MAX + 1).unwrap();
    let long = Overrides { file: Some(long.path().to_owned()), ..Overrides::default() };
    assert!(matches!(Config::load(long), Err(ConfigError::TooLong { .. })));
}
