//! What admission has to say beside yes and no: warnings for the client, annotations for the audit log.
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of warnings that one answer carries, as in apiserver: headers have a limit.
const MOST_BYTES: usize = 4096;
/// Annotations of one request.
const MOST_ANNOTATIONS: usize = 64;

/// Cheap to clone: all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Notes(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    warnings: Vec<String>,
    annotations: BTreeMap<String, String>,
}

impl Notes {
    /// Once, however often it is said.
    pub fn warn(&self, warning: impl Into<String>) {
        let warning = warning.into();
        let mut told = self.0.lock();
        let bytes: usize = told.warnings.iter().map(String::len).sum();
        if !told.warnings.contains(&warning) && bytes + warning.len() <= MOST_BYTES {
            told.warnings.push(warning);
        }
    }

    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        let mut told = self.0.lock();
        if told.annotations.len() < MOST_ANNOTATIONS {
            told.annotations.insert(key.into(), value.into());
        }
    }

    pub fn warnings(&self) -> Vec<String> {
        self.0.lock().warnings.clone()
    }

    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.0.lock().annotations.clone()
    }
}
