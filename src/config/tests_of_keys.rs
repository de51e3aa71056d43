//! Each key of the configuration stands in the documents, each key in the documents is one, and each is used.
//!
//! The keys are those of the raw shape, which the documents are compared with. A key is used if some value of it makes
//! another [`Config`], and if somebody outside of `src/config` reads the field that it becomes.

use super::raw::*;
use super::*;
use crate::routes::limits::Limits as RouteLimits;
use serde_yaml::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A section's name, and its keys with their kinds.
type Section = (&'static str, &'static [(&'static str, &'static str)]);

const SECTIONS: &[Section] = &[
    RawConfig::SECTION,
    RawSocket::SECTION,
    RawAllow::SECTION,
    RawWho::SECTION,
    RawLimits::SECTION,
    RawRing::SECTION,
    RawTopic::SECTION,
    RawQueue::SECTION,
    RawService::SECTION,
    RawStore::SECTION,
    RawHttp::SECTION,
    RawWait::SECTION,
    RawLog::SECTION,
    RawPattern::SECTION,
    RawRouting::SECTION,
    RawBackoff::SECTION,
    RawTransform::SECTION,
    RawReply::SECTION,
    RawRule::SECTION,
    RawSecurity::SECTION,
    RawMonitoring::SECTION,
    RawRoute::SECTION,
    RawDeliver::SECTION,
    RawRetryBudget::SECTION,
    RawEject::SECTION,
    RawTest::SECTION,
];

/// Top-level keys that docs/routes.md explains.
const OF_ROUTES: [&str; 9] = [
    "pattern",
    "routing",
    "transformation",
    "security",
    "monitoring",
    "routes",
    "tables",
    "sources",
    "route_limits",
];

/// What an entry needs besides the key that is looked at.
const NEEDED: [(&str, &str); 10] = [
    ("topics", "filter: f.g"),
    ("queues", "name: q.r"),
    ("services", "name: s.t"),
    ("routes", "name: n, from: 'service:f.g', deliver: {to: 'service:h'}"),
    ("rules", "source: x"),
    ("tests", "name: n, expect: {}"),
    ("transformation", "rules: [{source: x}]"),
    ("transform", "rules: [{source: x}]"),
    ("reply", "rules: [{source: x}]"),
    ("deliver", "to: 'service:h'"),
];

/// Keys that say what is so in any case: nothing changes by them.
const OF_NO_EFFECT: [&str; 1] = ["security.encryption"];

/// Fields that are called otherwise than their keys, or are read where they are made, and where somebody reads them.
const READ_AS: &[(&str, &str)] = &[
    ("socket", "socket"),
    ("pattern.name", "pattern"),
    ("rules.transform", "transform"),
    ("rules.move", "takes"),
    ("rules.drop", "drops"),
    ("then", "goes_on"),
    ("initial", "backoff_initial"),
    ("max", "backoff_max"),
    ("type", "message_type"),
    ("tests.reply", "of_reply"),
    ("expect_invalid", "expect"),
    ("expect_dropped", "expect"),
    ("expect_passed", "expect"),
    ("enabled", "transforms"),
    ("routing", "deliver"),
    ("transformation", "transforms"),
    ("transform", "transforms"),
    ("backoff", "backoff_initial"),
    ("weights", "weight"),
    ("retry_budget.min", "min"),
    ("eject", "eject_failures"),
    ("eject.failures", "eject_failures"),
    ("eject.time", "eject_time"),
    ("eject.max", "eject_time_max"),
    ("monitoring", "level"),
    ("logging", "level"),
    ("route_limits", "limits"),
];

/// Keys that nobody reads yet, which the documents say. The list may only shrink.
const UNREAD: [&str; 5] = ["alerts", "metrics", "security", "authentication", "encryption"];

/// Values of all kinds; some are right for any key.
const SAMPLES: &[&str] = &[
    "7",
    "1",
    "2",
    "64",
    "300",
    "4096",
    "65536",
    "131072",
    "33554432",
    "134217728",
    "2147483648",
    "\'0640\'",
    "root",
    "/a/b",
    "a.b",
    "'queue:a'",
    "[a.b]",
    "[root]",
    "true",
    "false",
    "disk",
    "load_balance",
    "drop_oldest",
    "broadcast",
    "nobody",
    "debug",
    "127.0.0.1:1",
    "'topic:a.b'",
    "peer",
    "disabled",
    "continue",
    "envelope",
    "payload",
    "data",
    "default",
    "'{a: {b: 1}}'",
    "{a: {b: c}}",
    "{a: b}",
    "{'service:h': 2}",
    "{steps_max: 5}",
    "'upper(value)'",
    "[{name: n, from: f.g}]",
    "[{name: n.m}]",
    "[{filter: f.g}]",
    "{a: 1}",
    "[{source: y}]",
    "[{name: n, expect: {}}]",
];

fn section(kind: &str) -> Option<&'static Section> {
    let inner = kind.rsplit('<').next().unwrap_or(kind).trim_end_matches(['>', ' ']);
    let found = SECTIONS.iter().find(|(name, _)| *name == inner);
    assert!(found.is_some() || !inner.starts_with("Raw"), "{inner} is missing in SECTIONS");
    found
}

/// Every key with those that it is below, and its kind.
fn keys() -> Vec<(Vec<&'static str>, &'static str)> {
    fn below(path: &[&'static str], section: &Section, found: &mut Vec<(Vec<&'static str>, &'static str)>) {
        for (key, kind) in section.1 {
            let mut path = path.to_vec();
            path.push(key.trim_start_matches("r#"));
            found.push((path.clone(), kind));
            if let Some(inner) = self::section(kind) {
                below(&path, inner, found);
            }
        }
    }
    let mut found = Vec::new();
    below(&[], &SECTIONS[0], &mut found);
    assert!(found.len() > 150, "only {} keys", found.len());
    found
}

fn names(section: Section) -> BTreeSet<&'static str> {
    section.1.iter().map(|(key, _)| key.trim_start_matches("r#")).collect()
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("t.yaml"))
}

/// A file with this text at a path.
fn file(path: &[&str], value: Option<&str>) -> String {
    let Some((key, above)) = path.split_last() else { return String::new() };
    let mut text = value.map_or(String::new(), |value| format!("{key}: {value}"));
    for (depth, step) in above.iter().enumerate().rev() {
        let is_list = NEEDED.iter().find(|(list, _)| list == step);
        text = match is_list {
            // What is looked at stands above what an entry needs in any case.
            Some((_, needed)) => {
                let below = path[depth + 1];
                let expects = below.starts_with("expect");
                let others = needed.split(", ").filter(|one| {
                    !one.starts_with(&format!("{below}:")) && (!expects || !one.starts_with("expect"))
                });
                let all: Vec<&str> =
                    Some(text.as_str()).filter(|text| !text.is_empty()).into_iter().chain(others).collect();
                let entry = format!("{{{}}}", all.join(", "));
                if step.ends_with('s') { format!("{step}: [{entry}]") } else { format!("{step}: {entry}") }
            }
            None => format!("{step}: {{{text}}}"),
        };
    }
    text
}

#[test]
fn some_value_of_each_key_makes_another_configuration() {
    let mut unused = Vec::new();
    for (path, kind) in keys() {
        let name = path.join(".");
        // What has keys of its own is looked at by them, and a list by its entries as well.
        if OF_NO_EFFECT.contains(&name.as_str()) || kind.starts_with("Raw") {
            continue;
        }
        let without = parse(&file(&path, None)).ok();
        let makes = |value: &&&str| {
            let with = parse(&file(&path, Some(value)));
            with.is_ok_and(|with| without.as_ref().is_none_or(|without| *without != with))
        };
        if SAMPLES.iter().find(makes).is_none() {
            unused.push(name);
        }
    }
    assert!(unused.is_empty(), "no value of these keys makes a difference: {unused:#?}");
}

/// The production code outside of this folder.
fn elsewhere() -> String {
    let mut text = String::new();
    let mut waiting = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                if name != "config" && name != "tests" {
                    waiting.push(path);
                }
            } else if name.ends_with(".rs") && !name.starts_with("tests") {
                let source = std::fs::read_to_string(path).unwrap();
                let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
                text.extend(
                    code.lines()
                        .filter(|line| !line.trim_start().starts_with("//"))
                        .map(|line| format!("{line}\n")),
                );
            }
        }
    }
    text
}

#[test]
fn somebody_reads_what_each_key_becomes() {
    let code = elsewhere();
    let reads = |field: &str| {
        let dotted = format!(".{field}");
        let ends = |rest: &str| {
            !rest.starts_with(|letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '(')
        };
        // Also as a part of a pattern that takes a struct apart.
        code.split(&dotted).skip(1).any(ends)
            || code.lines().any(|line| line.contains(&format!("{field}, ")) && line.contains("} ="))
    };
    let (mut unread, mut met) = (BTreeSet::new(), BTreeSet::new());
    for (path, _) in keys() {
        let key = *path.last().unwrap();
        let above = path.iter().rev().nth(1).copied().unwrap_or_default();
        let named = |known: &&(&str, &str)| known.0 == key || known.0 == format!("{above}.{key}");
        let field =
            READ_AS.iter().filter(named).max_by_key(|known| known.0.len()).map_or(key, |known| known.1);
        if reads(field) {
            continue;
        }
        if UNREAD.contains(&key) {
            met.insert(key);
        } else {
            unread.insert(path.join("."));
        }
    }
    assert!(unread.is_empty(), "nobody outside of src/config reads what these keys become: {unread:#?}");
    assert_eq!(met, BTreeSet::from(UNREAD), "what is read now stands in UNREAD no more");
}

/// The rows of the table that comes first behind a heading and begins with this cell, as cells.
fn table(document: &str, heading: &str, first: &str) -> Vec<Vec<String>> {
    let behind = document.split(heading).nth(1).unwrap_or_else(|| panic!("there is no {heading:?}"));
    let rows = behind.lines().skip_while(|line| !line.starts_with(&format!("| {first} |"))).skip(2);
    let rows: Vec<Vec<String>> = rows
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect())
        .collect();
    assert!(!rows.is_empty(), "there is no table with {first:?} behind {heading:?}");
    rows
}

/// What stands between backticks.
fn quoted(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_tables_of_docs_routes_and_the_keys_of_routes_are_the_same() {
    let document = include_str!("../../docs/routes.md");
    for (heading, first, section) in [
        ("\n## A route\n", "key", RawRoute::SECTION),
        ("\n## A route\n", "key of `transform`", RawTransform::SECTION),
        ("\n## A route\n", "key of `reply`", RawReply::SECTION),
        ("\n## A route\n", "key of `deliver`", RawDeliver::SECTION),
        ("\n## A route\n", "key of a test", RawTest::SECTION),
        ("\n## Rules\n", "key", RawRule::SECTION),
    ] {
        let rows = table(document, heading, first);
        let told: BTreeSet<&str> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
        assert_eq!(told, names(section), "{first} behind {heading:?} of docs/routes.md, and {}", section.0);
    }
    let rows = table(document, "\n## What routes inherit\n", "key");
    let told: BTreeSet<&str> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    let mut top = BTreeSet::from(OF_ROUTES);
    top.remove("routes");
    assert_eq!(told, top, "the table of docs/routes.md");
    for (key, section) in [
        ("pattern", RawPattern::SECTION),
        ("routing", RawRouting::SECTION),
        ("transformation", RawTransform::SECTION),
        ("security", RawSecurity::SECTION),
        ("monitoring", RawMonitoring::SECTION),
    ] {
        let row = rows.iter().find(|row| row[0] == format!("`{key}`")).unwrap();
        let told = quoted(&row[1]);
        let missing: Vec<_> = names(section).into_iter().filter(|name| !told.contains(name)).collect();
        assert!(missing.is_empty(), "the row {key} of docs/routes.md lacks {missing:?}");
    }
    let deliver = &table(document, "\n## A route\n", "key of `deliver`");
    for (key, section) in [("`backoff`", RawBackoff::SECTION), ("`eject`", RawEject::SECTION)] {
        let row = deliver.iter().find(|row| row[0] == key).unwrap();
        assert!(quoted(&row[2]).is_superset(&names(section)), "{row:?}");
    }
    let limits = table(document, "\n## Limits\n", "limit");
    let told: BTreeMap<&str, String> = limits
        .iter()
        .map(|row| (row[0].trim_matches('`'), row[1].chars().filter(char::is_ascii_digit).collect()))
        .collect();
    let mut defaults = RouteLimits::default();
    let are: BTreeMap<&str, String> = RouteLimits::NAMES
        .iter()
        .map(|(name, _)| (*name, defaults.slot(name).unwrap().to_string()))
        .collect();
    assert_eq!(told, are);
}

/// The documented file with its examples in force.
pub(super) fn documented() -> String {
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with("  ") => rest.to_owned(),
        _ => line.to_owned(),
    };
    let text = include_str!("../../config/tramline.yaml");
    text.lines().map(uncomment).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_key_but_those_of_routes_stands_in_the_documented_file() {
    fn keys_of(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Mapping(mapping) => {
                for (key, value) in mapping {
                    let path = format!("{path}.{}", key.as_str().unwrap_or_default());
                    found.insert(path.clone());
                    keys_of(value, &path, found);
                }
            }
            Value::Sequence(list) => list.iter().for_each(|value| keys_of(value, path, found)),
            _ => {}
        }
    }
    let mut told = BTreeSet::new();
    keys_of(&serde_yaml::from_str(&documented()).unwrap(), "", &mut told);
    let all = keys().into_iter().filter(|(path, _)| path.len() == 1 || !OF_ROUTES.contains(&path[0]));
    let missing: Vec<String> =
        all.map(|(path, _)| format!(".{}", path.join("."))).filter(|path| !told.contains(path)).collect();
    // `push` shows how `consume` is written, and users and groups need no second example.
    let shown_once = |path: &String| path.ends_with(".users") || path.ends_with(".groups");
    let missing: Vec<_> = missing.into_iter().filter(|path| !shown_once(path)).collect();
    assert!(missing.is_empty(), "config/tramline.yaml lacks {missing:#?}");
}

#[test]
fn every_key_that_a_document_names_with_its_section_is_one() {
    let all: BTreeSet<String> = keys().into_iter().map(|(path, _)| path.join(".")).collect();
    let last: BTreeSet<&str> = all.iter().filter_map(|path| path.rsplit('.').next()).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents: Vec<_> =
        std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    documents.extend(["README.md", "ARCHITECTURE.md"].map(|name| root.join(name)));
    documents.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    let (mut unknown, mut met) = (Vec::new(), 0);
    for document in documents {
        let text = std::fs::read_to_string(&document).unwrap();
        let prose: String = text.split("```").step_by(2).collect();
        for word in quoted(&prose) {
            // `limits.topics_max`, `services[].strategy`; and in the page on the configuration any limit.
            let path = word.replace("[]", "");
            let is_path = path.chars().all(|letter| letter.is_ascii_lowercase() || "_.".contains(letter));
            let Some((section, _)) = path.split_once('.') else {
                let is_limit =
                    is_path && ["_max", "_millis", "_percent"].iter().any(|ending| path.ends_with(ending));
                if is_limit && document.ends_with("configuration.md") {
                    met += 1;
                    if !last.contains(path.as_str()) {
                        unknown.push(format!("{}: {word}", document.display()));
                    }
                }
                continue;
            };
            let names_a_section = names(RawConfig::SECTION).contains(section) && section != "pattern";
            // Topics are written with dots as well; limits are not.
            if is_path && names_a_section && !path.starts_with("log.") && !path.ends_with(".store") {
                met += 1;
                if !all.contains(&path) {
                    unknown.push(format!("{}: {word}", document.display()));
                }
            }
        }
    }
    assert!(met > 40, "only {met} keys were found");
    assert!(unknown.is_empty(), "no such keys: {unknown:#?}");
}

#[test]
fn every_field_of_the_shipped_schemas_stands_in_the_code_of_envelopes() {
    fn fields(schema: &serde_json::Value, found: &mut BTreeSet<String>) {
        if let Some(properties) = schema["properties"].as_object() {
            for (name, schema) in properties {
                found.insert(name.clone());
                fields(schema, found);
            }
        }
    }
    let code = include_str!("../routes/envelope.rs").split("#[cfg(test)]").next().unwrap();
    let mut found = BTreeSet::new();
    for schema in
        [include_str!("../../config/schemas/input.json"), include_str!("../../config/schemas/output.json")]
    {
        fields(&serde_json::from_str(schema).unwrap(), &mut found);
    }
    assert_eq!(found.len(), 12, "{found:?}");
    for name in found {
        assert!(code.contains(&format!("\"{name}\"")) || code.contains(&format!("\\\"{name}\\\"")), "{name}");
    }
}
