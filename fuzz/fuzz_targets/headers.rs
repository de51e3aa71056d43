//! Feeds what the fuzzer invents to `targets::headers`.
#![no_main]

#[path = "../../tests/targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::headers(bytes));
