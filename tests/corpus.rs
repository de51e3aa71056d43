//! Replays what fuzzers and people have found: every file of `fuzz/corpus/` through the target it belongs
//! to. A fault that a fuzzer finds stays in the corpus, so it stays found.

#[path = "targets/mod.rs"]
mod targets;

use std::path::Path;

#[test]
fn every_input_found_so_far_keeps_its_promise() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, _) in targets::TARGETS {
        let folder = corpus.join(name);
        // A package comes without the corpora.
        let Ok(entries) = std::fs::read_dir(&folder) else {
            assert!(!corpus.exists(), "{} is missing", folder.display());
            continue;
        };
        let mut count = 0;
        for entry in entries {
            let path = entry.expect("a readable corpus").path();
            let bytes = std::fs::read(&path).expect("a readable input");
            let outcome = std::panic::catch_unwind(|| targets::check(name, &bytes));
            assert!(outcome.is_ok(), "{} breaks the promise of {name}", path.display());
            count += 1;
        }
        assert!(count > 0, "{} is empty", folder.display());
    }
}

#[test]
fn every_corpus_has_its_target_and_every_target_is_fuzzed() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    if !fuzz.exists() {
        return;
    }
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).expect("the fuzz crate's manifest");
    for (name, _) in targets::TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml does not know {name}");
    }
    for entry in std::fs::read_dir(fuzz.join("corpus")).expect("a readable corpus") {
        let name = entry.expect("a readable corpus").file_name().into_string().expect("a plain name");
        assert!(targets::TARGETS.iter().any(|(target, _)| *target == name), "{name} has no target");
    }
}
