//! Feeds what the fuzzer invents to `targets::first_bytes`.
#![no_main]

#[path = "../../tests/targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::first_bytes(bytes));
