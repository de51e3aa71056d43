//! Every fault of a file, not only the first.
//!
//! Reading stops at a fault. So the file is read again without the entry that it is in, until there is no fault or the rest
//! cannot be told apart from it: lines keep their numbers, and what is told is in the file for certain, though something may
//! stay untold. Where the order of a list tells an entry, its number is that of the whole file.

use super::ConfigError;
use super::check::locate;
use serde::de::IgnoredAny;

/// Most faults of one file that are told.
pub const FAULTS_MAX: usize = 50;

/// Beginnings of keys without which the entry that they stand in means something else, or nothing.
const NEEDED: [&str; 7] = ["name", "filter", "from", "source", "target", "literal", "expect"];

/// What others inherit: they may lack what is taken out of it.
const INHERITED: &str = "routing";

/// Reads `text` by `read`, and tells all that is wrong with it, in the order of the lines.
pub(super) fn all<T>(
    text: &str,
    read: impl Fn(&str) -> Result<T, ConfigError>,
) -> Result<T, Vec<ConfigError>> {
    let mut told: Vec<ConfigError> = Vec::new();
    let mut rest: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut again = text.to_owned();
    // Places that lack something since an entry of a list was taken out of them.
    let mut robbed: Vec<String> = Vec::new();
    loop {
        let error = match read(&again) {
            Ok(good) if told.is_empty() => return Ok(good),
            Ok(_) => break,
            Err(error) => error,
        };
        let ConfigError::Faulty { path, line, column, message } = error else {
            told.push(error);
            break;
        };
        let message = renumbered(&message, text, &again);
        let known = told.iter().any(|fault| {
            matches!(fault, ConfigError::Faulty { line: at, message: said, .. } if (*at, said) == (line, &message))
        });
        let at = message.split(": ").next().unwrap_or_default().to_owned();
        let follows =
            !of_reading(&message) && (robbed.contains(&at) || told.iter().any(|fault| named_by(&at, fault)));
        if !known && !follows {
            told.push(ConfigError::Faulty { path, line, column, message });
        }
        if let Some((list, _)) = at.rsplit_once('[') {
            robbed.push(list.to_owned());
            robbed.extend(list.rsplit_once('.').map(|(above, _)| above.to_owned()));
        }
        if told.len() == FAULTS_MAX
            || at.starts_with(INHERITED)
            || !is_yaml(&again)
            || !take_out(&mut rest, line, known)
        {
            break;
        }
        again = rest.join("\n");
        if !is_yaml(&again) {
            break;
        }
    }
    told.sort_by_key(|fault| match fault {
        ConfigError::Faulty { line, column, .. } => (*line, *column),
        _ => (0, 0),
    });
    Err(told)
}

/// Whether a fault lies in what is said itself, and not in what others say or do not say.
fn of_reading(message: &str) -> bool {
    message.contains("unknown field") || message.contains("duplicate field")
}

/// Whether a fault that was told names the key at this place as the other one that it is about.
fn named_by(at: &str, told: &ConfigError) -> bool {
    let ConfigError::Faulty { message, .. } = told else { return false };
    let (Some((section, key)), Some((place, said))) = (at.rsplit_once('.'), message.split_once(": ")) else {
        return false;
    };
    let is_beside = place.rsplit_once('.').is_some_and(|(beside, _)| beside == section);
    is_beside && !of_reading(said) && said.contains(&format!("{key})"))
}

fn is_yaml(text: &str) -> bool {
    serde_yaml::from_str::<Option<IgnoredAny>>(text).is_ok()
}

/// A line: where its text begins, whether that is behind the dash of a list, and the text.
fn parts(line: &str) -> (usize, bool, &str) {
    let text = line.trim_start_matches(' ');
    let indent = line.len() - text.len();
    match text.strip_prefix('-') {
        Some(rest) if rest.is_empty() || rest.starts_with(' ') => {
            let text = rest.trim_start_matches(' ');
            (line.len() - text.len(), true, text)
        }
        _ => (indent, false, text),
    }
}

fn dash_at(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

fn says_nothing(line: &str) -> bool {
    let text = line.trim_start();
    text.is_empty() || text.starts_with('#')
}

/// The key that a text begins with.
fn key(text: &str) -> Option<&str> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_-$.".contains(letter);
    let (key, rest) = text.split_at(text.find(|letter| !plain(letter))?);
    let follows = rest.strip_prefix(':')?;
    (!key.is_empty() && (follows.is_empty() || follows.starts_with(' '))).then_some(key)
}

/// Empties the lines of the entry at a line (from 1): of its key, or of the whole list entry around it. Says whether anything
/// was there.
fn take_out(lines: &mut [String], line: usize, whole: bool) -> bool {
    let Some(mut at) = line.checked_sub(1).filter(|at| *at < lines.len()) else { return false };
    if says_nothing(&lines[at]) {
        return false;
    }
    let (mut column, mut dash, text) = parts(&lines[at]);
    let known = key(text);
    let is_whole = whole || known.is_none_or(|key| NEEDED.iter().any(|needed| key.starts_with(needed)));
    // Up to the dash of the entry, over the keys that this one is below.
    while is_whole && !dash {
        let above = lines[..at].iter().rposition(|line| {
            !says_nothing(line) && parts(line).0 <= column && {
                let (begins, dash, _) = parts(line);
                begins < column || dash
            }
        });
        let Some(above) = above else { break };
        at = above;
        (column, dash, _) = parts(&lines[at]);
    }
    let begins = if is_whole && dash { dash_at(&lines[at]) } else { column };
    // A list may stand as deep as the key that it belongs to.
    let hangs = !(is_whole && dash);
    let below = |line: &&String| {
        says_nothing(line)
            || dash_at(line) > begins
            || (hangs && !dash && dash_at(line) == begins && parts(line).1)
    };
    let end = at + 1 + lines[at + 1..].iter().take_while(below).count();
    let keeps_dash = dash && !is_whole;
    let dash_column = dash_at(&lines[at]);
    for line in &mut lines[at..end] {
        line.clear();
    }
    if keeps_dash {
        let goes_on = lines.get(end).is_some_and(|line| dash_at(line) == begins && !parts(line).1);
        lines[at] = format!("{:dash_column$}-{}", "", if goes_on { "" } else { " {}" });
    }
    true
}

/// A message that begins with a path in `now`, with the same path in the `whole` text, where lists may have more entries.
fn renumbered(message: &str, whole: &str, now: &str) -> String {
    let unchanged = || message.to_owned();
    let Some((path, said)) = message.split_once(": ") else { return unchanged() };
    let steps: Vec<&str> = path.split(['.', '[']).collect();
    let is_path = |step: &&str| {
        step.strip_suffix(']')
            .map_or_else(|| key(&format!("{step}:")).is_some(), |index| index.parse::<usize>().is_ok())
    };
    if !steps.iter().all(is_path) {
        return unchanged();
    }
    let (mut here, mut there, mut shown) = (String::new(), String::new(), String::new());
    let mut last = (0, 0);
    for step in steps {
        let step = step.trim_end_matches(']');
        let dot = if here.is_empty() { "" } else { "." };
        let Ok(index) = step.parse::<usize>() else {
            here = format!("{here}{dot}{step}");
            there = format!("{there}{dot}{step}");
            shown = format!("{shown}{dot}{step}");
            continue;
        };
        let place = locate(now, &format!("{here}.{index}"));
        let further =
            (index..=index + FAULTS_MAX).find(|index| locate(whole, &format!("{there}.{index}")) == place);
        let Some(further) = further else { return unchanged() };
        here = format!("{here}.{index}");
        there = format!("{there}.{further}");
        last = (index + 1, further + 1);
        shown = format!("{shown}[{further}]");
    }
    // A rule is told by its number, from 1, once more.
    match said.strip_prefix(&format!("rule {}", last.0)) {
        Some(rest) => format!("{shown}: rule {}{rest}", last.1),
        None => format!("{shown}: {said}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::Path;

    /// Line, column and the beginning of each fault.
    fn told(text: &str) -> Vec<String> {
        let read = |text: &str| Config::whole(text, Path::new("t.yaml"));
        match all(text, read) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.iter().map(|fault| fault.to_string().replace("t.yaml:", "")).collect(),
        }
    }

    fn begin(text: &str, expected: &[&str]) {
        let told = told(text);
        assert_eq!(told.len(), expected.len(), "{text}\n{told:#?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.starts_with(expected), "{text}\n  says  {told}\n  not   {expected}");
        }
    }

    #[test]
    fn each_fault_is_told_once_with_its_place() {
        begin("limits:\n  topics_max: 3\n", &[]);
        begin(
            "limits:\n  topic_max: 3\n  topics_max: x\n  streams_max: 0\nlog:\n  level: loud\nsockets:\n  path: /a\n  mode: 1\n",
            &[
                "2:3: limits: unknown field `topic_max`",
                "3:15: limits.topics_max: \"x\"",
                "4:16: limits.streams_max: 0 is out of range",
                "6:10: log.level: \"loud\"",
                "7:1: unknown field `sockets`",
            ],
        );
    }

    #[test]
    fn what_stands_in_lists_keeps_its_number() {
        let text = "topics:\n- filter: a..b\n- filter: a\n  history: 5000\n-\n  filter: c\n  histori: 1\n- history: 1\n\
                    queues:\n  - name: a\n    bind:\n    - x..y\n    - z\n  - name: a\n  - {name: b, attempts_max: 0}\n  - name: c\n    \
                    attempts_max: 0\n";
        begin(
            text,
            &[
                "2:11: topics[0].filter: \"a..b\"",
                "4:12: topics[1].history: 5000 is out of range",
                "7:3: topics[2]: unknown field `histori`",
                "8:3: topics[3]: the key filter is missing",
                "12:7: queues[0].bind[0]: \"x..y\"",
                "14:11: queues[1].name: there is a queue a before this one",
                "15:29: queues[2].attempts_max: 0 is out of range",
                "17:19: queues[3].attempts_max: 0 is out of range",
            ],
        );
    }

    #[test]
    fn routes_are_compiled_as_far_as_they_can_be() {
        let text = "routes:\n  - name: a\n    from: b\n    when: data.x >\n    validate: none.json\n    transform:\n      rules:\n        \
                    - {source: x, transform: nope(value)}\n        - source: y\n          transform: \"value +\"\n        - {source: z}\n  \
                    - name: c\n    when: 'true'\n  - name: d\n    from: e\n    deliver:\n      to: [here, 'topic:b']\n      retry: 3\n";
        begin(
            text,
            &[
                "4:11: routes[0].when: ",
                "5:15: routes[0].validate: none.json",
                "8:34: routes[0].transform.rules[0].transform: ",
                "10:22: routes[0].transform.rules[1].transform: rule 2: ",
                "12:5: routes[1]: the key from is missing",
                "17:12: routes[2].deliver.to[0]: \"here\"",
                "18:7: routes[2].deliver: unknown field `retry`",
            ],
        );
    }

    #[test]
    fn nothing_is_told_that_is_wrong_only_without_the_rest() {
        begin(
            "routes:\n- name: a\n  from: b\n  transform:\n    enabled: true\n    rules:\n    - {source: x..y}\n  tests:\n  - name: t\n    \
             input: {}\n    expect_invalid: []\n",
            &["7:16: routes[0].transform.rules[0]", "11:21: routes[0].tests[0].expect_invalid: "],
        );
        begin("routing:\n  from: a..b\nroutes:\n- name: a\n", &["2:9: routing.from: "]);
    }

    #[test]
    fn what_is_no_yaml_is_told_alone() {
        begin("limits: {topics_max: x\nlog:\n  level: loud\n", &["1:22: "]);
        // What stands on several lines cannot be taken out alone.
        begin(
            "allow: {users: [root,\n  no-such-user],\n  groups: [no-such-group]}\n",
            &["2:3: allow.users[1]"],
        );
    }

    #[test]
    fn there_is_an_end() {
        let text = "topics:\n".to_owned() + &"- filter: a..b\n".repeat(3 * FAULTS_MAX);
        assert_eq!(told(&text).len(), FAULTS_MAX);
        for text in
            ["\u{0}", "- a", "a", "{", "routes: 3", "routes: [3]", "? a\n: b\n", "limits:\n\ttopics_max: 3"]
        {
            assert!(!told(text).is_empty(), "{text:?}");
        }
    }
}
