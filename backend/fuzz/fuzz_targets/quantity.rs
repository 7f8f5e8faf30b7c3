//! No input makes the server panic: quantities, as clients write them.
#![no_main]
#[path = "../src/harness.rs"]
#[allow(dead_code)] // one of several targets
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::parse_quantity(data));
