//! Feeds what the fuzzer invents to the target `expression`.
#![no_main]

#[path = "../../tests/targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::check("expression", bytes));
