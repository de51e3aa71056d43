//! Feeds what the fuzzer invents to the target `envelope`.
#![no_main]

#[path = "../../tests/targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::check("envelope", bytes));
