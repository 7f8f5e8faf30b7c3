//! The audit log on disk: lines are appended, and a file that is full makes room for a new one.
use anyhow::{Context, Result};
use pilothouse_api::jiff::{SignedDuration, Timestamp};
use std::path::{Path, PathBuf};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};

/// As long as a file grows where nobody says otherwise.
const FILE_BYTES: u64 = 100 * 1024 * 1024;
/// Lines that are written at once.
const BATCH: usize = 256;

/// Where lines go, and for how long they are kept.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// `-`: standard output, which is not rotated.
    pub path: PathBuf,
    pub file_bytes: u64,
    /// Full files that are kept; 0: all.
    pub backups: usize,
    /// 0: for ever.
    pub days: u32,
}

impl Rotation {
    pub fn new(path: PathBuf) -> Self {
        Self { path, file_bytes: FILE_BYTES, backups: 0, days: 0 }
    }
}

pub enum Line {
    Event(String),
    /// Answered when everything before is written.
    Flush(oneshot::Sender<()>),
}

pub struct Log {
    rotation: Rotation,
    file: tokio::fs::File,
    length: u64,
}

impl Log {
    pub async fn open(mut rotation: Rotation) -> Result<Self> {
        if rotation.path == Path::new("-") {
            rotation.path = "/dev/stdout".into();
            rotation.file_bytes = u64::MAX;
        }
        let (file, length) = open(&rotation.path).await?;
        Ok(Self { rotation, file, length })
    }

    /// Until nobody is left to send lines.
    pub async fn run(mut self, mut queue: mpsc::Receiver<Line>) {
        let mut lines = Vec::new();
        while queue.recv_many(&mut lines, BATCH).await > 0 {
            let (mut text, mut waiting) = (String::new(), Vec::new());
            for line in lines.drain(..) {
                match line {
                    Line::Event(event) => {
                        text.push_str(&event);
                        text.push('\n');
                    }
                    Line::Flush(done) => waiting.push(done),
                }
            }
            if let Err(error) = self.append(text.as_bytes()).await {
                tracing::error!(error = format!("{error:#}"), "the audit log cannot be written");
            }
            for done in waiting {
                let _ = done.send(()); // who waited may have left
            }
        }
    }

    async fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.length > 0 && self.length + bytes.len() as u64 > self.rotation.file_bytes {
            self.rotate(Timestamp::now()).await?;
        }
        self.file.write_all(bytes).await?;
        self.file.flush().await?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    async fn rotate(&mut self, now: Timestamp) -> Result<()> {
        let path = &self.rotation.path;
        tokio::fs::rename(path, backup(path, now)).await.context("cannot set the full audit log aside")?;
        (self.file, self.length) = open(path).await?;
        self.forget(now).await
    }

    /// Removes what is too much or too old.
    async fn forget(&self, now: Timestamp) -> Result<()> {
        let mut backups = backups(&self.rotation.path).await?;
        backups.sort();
        let keep = if self.rotation.backups == 0 { backups.len() } else { self.rotation.backups };
        let too_many = backups.len().saturating_sub(keep);
        let oldest = now.checked_sub(SignedDuration::from_hours(24 * i64::from(self.rotation.days)));
        let oldest = oldest.ok().filter(|_| self.rotation.days > 0).map(|at| backup(&self.rotation.path, at));
        for (i, path) in backups.iter().enumerate() {
            if i < too_many || oldest.as_ref().is_some_and(|oldest| path < oldest) {
                tokio::fs::remove_file(path).await?;
            }
        }
        Ok(())
    }
}

/// `audit-2026-01-01T00-00-00.000000.log` of `audit.log`: in the order of time, as Kubernetes names them.
fn backup(path: &Path, now: Timestamp) -> PathBuf {
    let stamp = format!("{now:.6}").trim_end_matches('Z').replace(':', "-");
    let (stem, extension) = halves(path);
    path.with_file_name(format!("{stem}-{stamp}{extension}"))
}

fn halves(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
    (text(path.file_stem()), extension)
}

async fn backups(path: &Path) -> Result<Vec<PathBuf>> {
    let (stem, extension) = halves(path);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (mut found, mut entries) = (Vec::new(), tokio::fs::read_dir(folder).await?);
    while let Some(entry) = entries.next_entry().await? {
        let name = entry.file_name().to_string_lossy().into_owned();
        let stamp = name.strip_prefix(&stem).and_then(|rest| rest.strip_prefix('-'));
        let stamp = stamp.and_then(|rest| rest.strip_suffix(&extension));
        // What else lies there is not ours to remove.
        if stamp.is_some_and(|stamp| stamp.len() == 26 && stamp.starts_with("20") && stamp.contains('T')) {
            found.push(path.with_file_name(name));
        }
    }
    Ok(found)
}

async fn open(path: &Path) -> Result<(tokio::fs::File, u64)> {
    let mut options = tokio::fs::OpenOptions::new();
    // Requests may hold what is nobody else's business.
    options.create(true).append(true).mode(0o600);
    let file = options.open(path).await;
    let file = file.with_context(|| format!("cannot open the audit log {}", path.display()))?;
    let length = file.metadata().await?.len();
    Ok((file, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn full_files_are_set_aside_and_the_oldest_are_forgotten() {
        let folder = std::env::temp_dir().join(format!("ph-audit-log-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("audit.log");
        std::fs::write(folder.join("audit-notes.log"), "mine").unwrap();
        std::fs::write(backup(&path, "2025-01-01T00:00:00Z".parse().unwrap()), "old").unwrap();
        let rotation = Rotation { file_bytes: 20, backups: 2, days: 30, ..Rotation::new(path.clone()) };
        let mut log = Log::open(rotation).await.unwrap();
        for i in 0..5 {
            log.append(format!("line {i} of the log\n").as_bytes()).await.unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "line 4 of the log\n");
        let mut kept: Vec<String> = Vec::new();
        for backup in backups(&path).await.unwrap() {
            kept.push(std::fs::read_to_string(backup).unwrap());
        }
        kept.sort();
        assert_eq!(kept, ["line 2 of the log\n", "line 3 of the log\n"]);
        assert!(folder.join("audit-notes.log").exists());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
