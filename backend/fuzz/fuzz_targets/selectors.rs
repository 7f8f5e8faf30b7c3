//! No input makes the server panic: label and field selectors.
#![no_main]
#[path = "../src/harness.rs"]
#[allow(dead_code)] // one of several targets
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::parse_selectors(data));
