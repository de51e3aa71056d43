//! Feeds what the fuzzer invents to `targets::to_broker`.
#![no_main]

#[path = "../../tests/targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::to_broker(bytes));
