//! No input makes the server panic: apply configurations.
#![no_main]
#[path = "../src/harness.rs"]
#[allow(dead_code)] // one of several targets
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::apply_objects(data));
