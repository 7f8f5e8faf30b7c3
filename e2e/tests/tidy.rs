//! What the design forbids and Cargo cannot see.
use pilothouse_e2e::cluster::checkout;
use std::fs;
use std::path::{Path, PathBuf};

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn all() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in ["backend", "agents", "e2e"] {
        sources(&checkout().join(dir), &mut found);
    }
    assert!(found.len() > 50, "sources were not found");
    found
}

#[test]
fn every_file_says_what_it_answers_for() {
    let silent: Vec<PathBuf> =
        all().into_iter().filter(|path| !fs::read_to_string(path).unwrap().starts_with("//!")).collect();
    assert_eq!(silent, Vec::<PathBuf>::new());
}

#[test]
fn no_test_is_ignored() {
    let mark = concat!("#[ig", "nore");
    let ignored: Vec<PathBuf> =
        all().into_iter().filter(|path| fs::read_to_string(path).unwrap().contains(mark)).collect();
    assert_eq!(ignored, Vec::<PathBuf>::new());
}

#[test]
fn pure_crates_have_no_clock() {
    let mut found = Vec::new();
    for dir in ["backend/api/src", "backend/controllers/src", "backend/scheduler/src"] {
        sources(&checkout().join(dir), &mut found);
    }
    let clocked: Vec<PathBuf> = found
        .into_iter()
        .filter(|path| {
            let text = fs::read_to_string(path).unwrap();
            ["Timestamp::now()", "Instant::now()", "SystemTime::now()"].iter().any(|call| text.contains(call))
        })
        .collect();
    assert_eq!(clocked, Vec::<PathBuf>::new());
}
