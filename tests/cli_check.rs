//! `tramline check`, as a person runs it: what it prints of each file in `tests/golden/check` stands beside it.
//!
//! After a deliberate change `TRAMLINE_GOLDEN=write cargo test --test cli_check` writes them anew; read the difference.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use support::tramline;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/check")
}

/// What the program prints of a file, and how it ends.
fn check(arguments: &[&str]) -> (String, i32) {
    let mut command = tramline();
    command.arg("check").args(arguments).current_dir(golden());
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (String::from_utf8(said).unwrap(), output.status.code().unwrap())
}

#[test]
fn what_is_wrong_is_told_as_it_stands_beside_each_file() {
    let writes = std::env::var_os("TRAMLINE_GOLDEN").is_some_and(|word| word == "write");
    let mut files: Vec<PathBuf> = std::fs::read_dir(golden())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(files.len() >= 7, "{files:?}");
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let (said, status) = check(&[name]);
        let now = format!("{said}exit status {status}\n");
        let beside = file.with_extension("txt");
        if writes {
            std::fs::write(&beside, &now).unwrap();
        }
        let expected = std::fs::read_to_string(&beside).unwrap();
        assert!(now == expected, "{name}: it says\n{now}\nand not\n{expected}");
        let wanted = if name == "good.yaml" {
            0
        } else if name == "tests.yaml" {
            65
        } else {
            78
        };
        assert_eq!(status, wanted, "{name}");
    }
}

#[test]
fn every_configuration_that_is_shipped_is_good() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut checked = 0;
    for folder in [root.clone(), root.join("examples")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let (said, status) = check(&[path.to_str().unwrap()]);
                assert_eq!(status, 0, "{said}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 2, "only {checked} files");
}

#[test]
fn programs_get_an_object() {
    let read = |name: &str| -> (serde_json::Value, i32) {
        let mut command = tramline();
        let output = command.args(["check", "--json", name]).current_dir(golden()).output().unwrap();
        (serde_json::from_slice(&output.stdout).unwrap(), output.status.code().unwrap())
    };
    let (good, status) = read("good.yaml");
    assert_eq!((status, &good["good"], &good["counts"]["queues"]), (0, &true.into(), &2.into()));
    let (failing, status) = read("tests.yaml");
    assert_eq!((status, &failing["good"], &failing["readable"]), (65, &false.into(), &true.into()));
    assert_eq!(failing["faults"][0]["line"], 13);
    assert_eq!(failing["faults"][0]["details"][0], "speed_kmh is 36.0; expected 35");
    let (wrong, status) = read("loop.yaml");
    assert_eq!((status, &wrong["readable"], &wrong["counts"]), (78, &false.into(), &serde_json::Value::Null));
    assert!(wrong["faults"][0]["column"].is_u64());
}

#[test]
fn a_file_that_is_not_there_is_another_fault_than_one_that_is_wrong() {
    let (said, status) = check(&["/no/such/file.yaml"]);
    assert_eq!(status, 66, "{said}");
    assert!(said.contains("/no/such/file.yaml"), "{said}");
    // The file may be named by the environment.
    let named = tramline().arg("check").env("TRAMLINE_CONFIG", golden().join("good.yaml")).output().unwrap();
    assert!(named.status.success(), "{}", String::from_utf8_lossy(&named.stderr));
    assert_eq!(
        tramline().arg("check").env_remove("TRAMLINE_CONFIG").output().unwrap().status.code(),
        Some(64)
    );
}

#[test]
fn the_file_is_named_as_for_a_broker_as_well_but_not_twice() {
    let (by_place, _) = check(&["good.yaml"]);
    assert_eq!(check(&["--config", "good.yaml"]), (by_place.clone(), 0));
    assert_eq!(check(&["--json", "--config=tests.yaml"]).1, 65);
    let (said, status) = check(&["loop.yaml", "--config", "good.yaml"]);
    assert_eq!(status, 64, "{said}");
    assert!(said.contains("given twice, as FILE (loop.yaml) and with --config (good.yaml)"), "{said}");
    let (said, status) = check(&[]);
    assert!(status == 64 && said.contains("--config") && said.contains("TRAMLINE_CONFIG"), "{said}");
    // The environment is weaker than either, and says nothing if it is empty.
    for words in [&["good.yaml"][..], &["--config", "good.yaml"]] {
        for variable in ["/no/such/file.yaml", ""] {
            let mut command = tramline();
            command.arg("check").args(words).current_dir(golden()).env("TRAMLINE_CONFIG", variable);
            assert_eq!(String::from_utf8(command.output().unwrap().stdout).unwrap(), by_place);
        }
    }
}
