//! No input makes the server panic: paths of printer columns and downward fields.
#![no_main]
#[path = "../src/harness.rs"]
#[allow(dead_code)] // one of several targets
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::parse_json_path(data));
