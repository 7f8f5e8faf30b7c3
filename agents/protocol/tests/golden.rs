//! Messages as they are on the wire: a release must read what an older one wrote, and write what an older one reads.
#![allow(clippy::unwrap_used)]
use pilothouse_protocol::{NodeMessage, ServerMessage};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// What is read from it is written again just so.
fn round<T: Serialize + DeserializeOwned>(text: &str) -> Result<(), String> {
    let message: T = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let (expected, written): (Value, Value) =
        (serde_json::from_str(text).unwrap(), serde_json::to_value(&message).unwrap());
    if expected == written { Ok(()) } else { Err(format!("it is written as {written}")) }
}

#[test]
fn every_golden_message_is_read_and_written_as_it_was() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let mut count = 0;
    for file in std::fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let outcome = match path.file_name().unwrap().to_string_lossy().starts_with("node-") {
            true => round::<NodeMessage>(&text),
            false => round::<ServerMessage>(&text),
        };
        assert_eq!(outcome, Ok(()), "{}", path.display());
        count += 1;
    }
    assert!(count > 0);
}
