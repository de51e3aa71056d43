//! The laws of the tree, held by reading it: which layer may name what, where unsafe code lives, how long
//! a file may be, and what never lands.
//!
//! The rules of names and layers are those of ARCHITECTURE.md; the compiler and clippy hold the rest. An
//! allow-list in here says how often something still occurs, and a test fails when the list is longer
//! than the truth, so it can only shrink. In a packaged crate only the parts that were packed are read.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Longest file of production code, in lines: one sitting.
const FILE_LINES_MAX: usize = 600;

/// One Rust file of the tree.
struct Source {
    /// Path from the root of the tree, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// Line numbers and code, without comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(number, line)| (number + 1, without_comment(line)))
    }

    fn is_production(&self) -> bool {
        !["tests/", "benches/", "fuzz/", "examples/"]
            .iter()
            .any(|folder| self.path.starts_with(folder) || self.path.contains(&format!("/{folder}")))
    }
}

/// The line up to a `//` that is not inside a string (as far as quotes before it are even in number).
fn without_comment(line: &str) -> &str {
    let mut from = 0;
    while let Some(found) = line[from..].find("//") {
        let at = from + found;
        if line[..at].matches('"').count().is_multiple_of(2) {
            return &line[..at];
        }
        from = at + 2;
    }
    line
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folder` with this ending, in order, without build output.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_path_buf()];
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() && !name.starts_with('.') && name != "target" && name != "corpus" {
                waiting.push(path);
            } else if name.ends_with(ending) && path.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<Source> {
    let root = root();
    let sources: Vec<Source> = ["src", "client", "tests", "benches", "fuzz"]
        .iter()
        .flat_map(|folder| files(&root.join(folder), ".rs"))
        .map(|path| Source {
            text: std::fs::read_to_string(&path).expect("a readable source file"),
            path: path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned(),
        })
        .collect();
    assert!(sources.len() > 5, "the tree was not found at {}", root.display());
    sources
}

/// Whether `word` stands in `line` as a word of its own.
fn names(line: &str, word: &str) -> bool {
    let part_of_a_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let open_left = !word.starts_with(part_of_a_name) || !before.is_some_and(part_of_a_name);
        let open_right = !word.ends_with(part_of_a_name) || !after.is_some_and(part_of_a_name);
        open_left && open_right
    })
}

/// Fails with every place where a rule is broken.
fn assert_none(faults: &[String], rule: &str) {
    let mut list = String::new();
    for fault in faults {
        let _ = write!(list, "\n  {fault}");
    }
    assert!(faults.is_empty(), "{rule}:{list}");
}

/// Fails where code of the chosen files names one of `words`.
fn assert_not_named(of: impl Fn(&Source) -> bool, words: &[&str], rule: &str) {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| of(source)) {
        for (number, line) in source.code() {
            for word in words.iter().filter(|word| names(line, word)) {
                faults.push(format!("{}:{number} names {word}", source.path));
            }
        }
    }
    assert_none(&faults, rule);
}

#[test]
fn the_core_performs_no_io_and_reads_no_clock() {
    let words = [
        "tokio",
        "hyper",
        "rustix",
        "nix",
        "std::net",
        "std::fs",
        "std::os",
        "std::io",
        "std::env",
        "std::process",
        "std::thread",
        "Instant",
        "SystemTime",
        "tramline_ring",
        "tramline_client",
        "println!",
        "eprintln!",
    ];
    let rule = "the core holds state and rules only; time comes in with events, I/O goes out as actions";
    assert_not_named(|source| source.path.starts_with("src/core/"), &words, rule);
}

#[test]
fn the_core_does_not_know_what_stands_around_it() {
    let words = ["crate::shell", "crate::cli", "crate::http", "crate::config", "crate::store"];
    let rule = "the core is called, it does not call";
    assert_not_named(|source| source.path.starts_with("src/core/"), &words, rule);
}

#[test]
fn routes_treat_one_message_and_touch_nothing_else() {
    let words = [
        "tokio",
        "rustix",
        "nix",
        "std::net",
        "std::fs",
        "std::os",
        "std::io",
        "std::env",
        "std::process",
        "std::thread",
        "SystemTime",
        "crate::core",
        "crate::shell",
        "crate::cli",
        "crate::http",
        "crate::config",
        "tramline_ring",
        "tramline_client",
        "println!",
    ];
    let of_routes =
        |source: &Source| source.path.starts_with("src/routes/") && !source.path.contains("/tests");
    assert_not_named(of_routes, &words, "routes are tried without a broker, in the same code");
    // The one clock bounds expressions beside their steps.
    let clockless = |source: &Source| of_routes(source) && source.path != "src/routes/expression/meter.rs";
    assert_not_named(
        clockless,
        &["Instant"],
        "what a route makes of a message depends on nothing but the message",
    );
}

#[test]
fn the_crates_of_routes_are_named_in_one_module_each() {
    for (name, home) in [("cel", "src/routes/expression/"), ("jsonschema", "src/routes/schema.rs")] {
        let elsewhere = |source: &Source| source.is_production() && !source.path.starts_with(home);
        let paths = [format!("{name}::"), format!("use {name}")];
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        assert_not_named(elsewhere, &paths, "a dependency that can be replaced in one place");
    }
}

#[test]
fn wire_and_ring_stand_alone() {
    let io = ["std::net", "std::fs", "std::os", "std::thread", "std::process", "tokio", "rustix", "nix"];
    let rule = "wire is words, without I/O";
    assert_not_named(|source| source.path.starts_with("client/wire/src/"), &io, rule);
    let rule = "wire and ring do not know each other, nor who uses them";
    let others = ["tramline_ring", "tramline_client", "tramline::"];
    assert_not_named(|source| source.path.starts_with("client/wire/src/"), &others, rule);
    let others = ["tramline_wire", "tramline_client", "tramline::", "tokio", "std::net"];
    assert_not_named(|source| source.path.starts_with("client/ring/src/"), &others, rule);
}

#[test]
fn the_broker_never_names_the_client() {
    let broker = |source: &Source| {
        source.path.starts_with("src/")
            && !source.path.starts_with("src/cli/")
            && source.path != "src/main.rs"
    };
    assert_not_named(broker, &["tramline_client"], "only cli, a user like any other, and the tests do");
    for manifest in ["client/Cargo.toml", "client/wire/Cargo.toml", "client/ring/Cargo.toml"] {
        let Ok(text) = std::fs::read_to_string(root().join(manifest)) else { continue };
        let broken = text.lines().any(|line| line.starts_with("tramline ") || line.starts_with("tramline."));
        assert!(!broken, "{manifest} depends on the broker");
    }
}

#[test]
fn bincode_is_named_where_frames_are_and_nowhere_else() {
    let elsewhere = |source: &Source| {
        let own = ["client/wire/src/codec.rs", "client/wire/src/frames.rs", "client/wire/src/message.rs"];
        let of_frames = source.path.starts_with("client/wire/src/frames/");
        // The client's `serde` feature offers bincode payloads; that is the user's format, not ours.
        let payloads = source.path.starts_with("client/src/") || source.path.starts_with("client/tests/");
        source.is_production() && !own.contains(&source.path.as_str()) && !of_frames && !payloads
    };
    assert_not_named(
        elsewhere,
        &["bincode"],
        "the format is ours; see docs/decisions/0002-bincode-confined.md",
    );
}

#[test]
fn the_store_knows_files_and_the_words_of_the_core_and_alone_names_redb() {
    let rule = "the store waits for the disk, for whoever calls it";
    let words = ["tokio", "crate::shell", "crate::cli", "crate::http", "crate::json", "crate::config"];
    assert_not_named(|source| source.path.starts_with("src/store/"), &words, rule);
    let elsewhere = |source: &Source| source.is_production() && !source.path.starts_with("src/store/");
    assert_not_named(elsewhere, &["redb"], "one folder can be replaced; see docs/decisions/0018-store.md");
}

#[test]
fn unsafe_code_lives_in_the_ring_only() {
    let elsewhere =
        |source: &Source| !source.path.starts_with("client/ring/") && source.path != "tests/laws.rs";
    let rule = "all unsafe code is in client/ring";
    assert_not_named(elsewhere, &["unsafe"], rule);
}

#[test]
fn a_file_is_read_in_one_sitting_and_begins_by_saying_what_it_owns() {
    let mut faults = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if source.is_production() && lines > FILE_LINES_MAX {
            faults.push(format!("{} has {lines} lines; at most {FILE_LINES_MAX}", source.path));
        }
        let head = source.text.lines().find(|line| !line.starts_with("#!") && !line.is_empty());
        if !head.is_some_and(|line| line.starts_with("//!")) {
            faults.push(format!("{} does not begin with //!", source.path));
        }
    }
    assert_none(&faults, "a file is short and has a head");
}

#[test]
fn nothing_unfinished_lands() {
    // Put together here, so that this file does not name them.
    let words = [
        concat!("to", "do!"),
        concat!("un", "implemented!"),
        concat!("db", "g!"),
        concat!("#[ig", "nore"),
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
        concat!("XX", "X"),
    ];
    let mut faults = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            for word in words.iter().filter(|word| names(line, word)) {
                faults.push(format!("{}:{} says {word}", source.path, number + 1));
            }
        }
    }
    assert_none(&faults, "a thing is done, or an issue says that it is not");
}

/// What `patch`, merges and editors leave beside the files that they change.
#[test]
fn nothing_left_over_lands() {
    let left = |ending: &str| files(&root(), ending);
    let faults: Vec<String> = [".orig", ".rej", ".bak", ".swp", "~"]
        .into_iter()
        .flat_map(left)
        .map(|path| format!("{} was left over", path.display()))
        .collect();
    assert_none(&faults, "only what somebody wrote for good is in the tree");
}

#[test]
fn every_file_of_a_crate_is_a_module_of_it() {
    let all = sources();
    let says = |path: &str, declared: &str| {
        let found = all.iter().find(|source| source.path == path);
        found.is_some_and(|source| source.code().any(|(_, line)| line.trim_end().ends_with(declared)))
    };
    let faults: Vec<String> = all
        .iter()
        .filter(|source| source.path.contains("src/"))
        .filter_map(|source| {
            // A folder's `mod.rs` is called as the folder is.
            let path = source.path.strip_suffix("/mod.rs").or_else(|| source.path.strip_suffix(".rs"))?;
            let (folder, name) = path.rsplit_once('/')?;
            if matches!(name, "lib" | "main") {
                return None;
            }
            let declared = format!("mod {name};");
            let above = [format!("{folder}.rs")];
            let beside = ["mod.rs", "lib.rs", "main.rs"].map(|file| format!("{folder}/{file}"));
            let by_path = format!("#[path = \"{name}.rs\"]");
            let is_module = above.iter().chain(&beside).any(|parent| says(parent, &declared))
                || all.iter().any(|other| {
                    other.path.rsplit_once('/').is_some_and(|(of, _)| of == folder)
                        && says(&other.path, &by_path)
                });
            (!is_module).then(|| format!("{}: nothing says `{declared}`", source.path))
        })
        .collect();
    assert_none(&faults, "what is in a crate's folder is compiled");
}

#[test]
fn nobody_waits_by_sleeping() {
    // How often each file may still do so, and why. Numbers go down only.
    let allowed: &[(&str, usize)] = &[];
    let mut faults = Vec::new();
    for source in sources() {
        let count = source.code().filter(|(_, line)| line.contains(concat!("thread::", "sleep"))).count();
        let most = allowed.iter().find(|(path, _)| *path == source.path).map_or(0, |(_, most)| *most);
        if count > most {
            faults.push(format!("{} sleeps {count} times, {most} are allowed", source.path));
        } else if count < most {
            faults.push(format!("{} sleeps {count} times: shorten the list in tests/laws.rs", source.path));
        }
    }
    assert_none(&faults, "wait for the event, with a deadline");
}

#[test]
fn names_say_what_a_thing_is() {
    // These still stand; the list may only shrink.
    let allowed = ["LimitInfo"];
    let empty = ["Manager", "Helper", "Helpers", "Util", "Utils", "Data", "Info"];
    let mut faults = Vec::new();
    let mut met = Vec::new();
    for source in sources() {
        for (number, line) in source.code() {
            let mut words = line.split_whitespace().skip_while(|word| word.starts_with("pub"));
            let kind = words.next().unwrap_or_default();
            if !["struct", "enum", "trait", "type"].contains(&kind) {
                continue;
            }
            let name: String =
                words.next().unwrap_or_default().chars().take_while(|c| c.is_alphanumeric()).collect();
            if allowed.contains(&name.as_str()) {
                met.push(name);
            } else if empty.iter().any(|word| name.ends_with(word)) {
                faults.push(format!("{}:{number} calls something {name}", source.path));
            }
        }
    }
    assert_none(&faults, "a name says what a thing is; these words say nothing");
    let packaged = !root().join("client").exists();
    for name in allowed {
        assert!(packaged || met.iter().any(|known| known == name), "{name} is gone: shorten the list");
    }
}

#[test]
fn a_test_leaves_something_out_only_by_the_helper_that_fails_where_nothing_may_be_missing() {
    let helpers = ["tests/support/mod.rs", "client/ring/tests/common/mod.rs"];
    let (word, variable) = (concat!("SKIP", "PED"), concat!("\"C", "I\""));
    let mut faults = Vec::new();
    for source in sources() {
        let helper = helpers.contains(&source.path.as_str());
        let says = source.text.contains(word);
        if says && !helper {
            faults.push(format!("{} skips by itself", source.path));
        }
        if helper && !(says && source.text.contains(variable)) {
            faults.push(format!("{} does not fail where the environment says so", source.path));
        }
    }
    assert_none(&faults, "a test that skips says so by `skipped`, which fails under CI=true");
}

#[test]
fn every_exception_from_a_lint_gives_its_reason() {
    let mut faults = Vec::new();
    for source in sources() {
        let text = &source.text;
        for start in [concat!("#[al", "low("), concat!("#![al", "low("), concat!("#[ex", "pect(")] {
            for (at, _) in text.match_indices(start) {
                let attribute = text[at..].split(")]").next().unwrap_or_default();
                let number = text[..at].lines().count() + 1;
                if !attribute.contains("reason") {
                    faults.push(format!("{}:{number}", source.path));
                }
            }
        }
    }
    assert_none(&faults, "#[expect(lint, reason = \"…\")]");
}

#[test]
fn every_crate_obeys_the_lints_and_describes_itself() {
    for manifest in ["Cargo.toml", "client/Cargo.toml", "client/wire/Cargo.toml", "client/ring/Cargo.toml"] {
        let Ok(text) = std::fs::read_to_string(root().join(manifest)) else { continue };
        assert!(text.contains("[lints"), "{manifest} takes no lints");
        assert!(text.contains("description = "), "{manifest} has no description");
        assert!(text.contains("rust-version"), "{manifest} names no Rust version");
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = root();
    let mut faults = Vec::new();
    let mut documents: Vec<PathBuf> = files(&root.join("docs"), ".md");
    documents.extend(
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root.join(name)),
    );
    for document in documents {
        let Ok(text) = std::fs::read_to_string(&document) else { continue };
        for rest in text.split("](").skip(1) {
            let target = rest.split([')', '#', ' ']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let file = document.parent().expect("a file is in a folder").join(target);
            // A package leaves out what only its repository needs.
            if !file.exists() && root.join("client").exists() {
                faults.push(format!("{} points at {target}", document.display()));
            }
        }
    }
    assert_none(&faults, "a link to a file that is not there");
}

#[test]
fn the_reader_of_the_tree_sees_what_it_should() {
    assert!(names("use tokio::net;", "tokio"));
    assert!(names("x = std::net::TcpStream", "std::net"));
    assert!(!names("tokios", "tokio") && !names("my_tokio", "tokio"));
    assert!(names(concat!("  db", "g!(x)"), concat!("db", "g!")));
    assert_eq!(without_comment("let a = 1; // tokio"), "let a = 1; ");
    assert_eq!(without_comment("let a = \"http://x\"; // y"), "let a = \"http://x\"; ");
}

#[test]
fn every_path_in_the_architecture_exists() {
    let root = root();
    let Ok(text) = std::fs::read_to_string(root.join("ARCHITECTURE.md")) else { return };
    if !root.join("client").exists() {
        return;
    }
    let mut faults = Vec::new();
    let mut met = 0;
    for name in text.split('`').skip(1).step_by(2) {
        if ["src/", "client/", "tests/"].iter().any(|folder| name.starts_with(folder)) {
            met += 1;
            if !root.join(name).exists() {
                faults.push(format!("{name} is named and not there"));
            }
        }
    }
    assert!(met > 40, "only {met} paths were found");
    assert_none(&faults, "ARCHITECTURE.md leads to what there is");
}

#[test]
fn every_module_of_core_and_shell_stands_in_the_architecture() {
    let root = root();
    let Ok(text) = std::fs::read_to_string(root.join("ARCHITECTURE.md")) else { return };
    let small = 60;
    let mut faults = Vec::new();
    for source in sources() {
        let of_interest = source.path.starts_with("src/core/") || source.path.starts_with("src/shell/");
        if of_interest
            && !source.path.contains("/tests")
            && !source.path.ends_with("/mod.rs")
            && source.text.lines().count() > small
            && !text.contains(&source.path)
        {
            faults.push(source.path);
        }
    }
    assert_none(&faults, "a newcomer looks for it in ARCHITECTURE.md");
}
