//! No input makes the server panic: bodies in JSON and YAML.
#![no_main]
#[path = "../src/harness.rs"]
#[allow(dead_code)] // one of several targets
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::decode_body(data));
