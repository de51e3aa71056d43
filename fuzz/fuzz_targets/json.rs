//! Feeds what the fuzzer invents to `targets::json_line`.
#![no_main]

#[path = "../../tests/targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::json_line(bytes));
