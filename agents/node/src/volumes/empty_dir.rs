//! `emptyDir`: a directory that lives as long as its pod, in memory where it says so, and no larger than it says.
use super::ownership::Owner;
use super::{Kind, Volume, Wanted, mounts};
use crate::pod_sync::Verdict;
use anyhow::{Context, Result};
use futures::future::{BoxFuture, FutureExt, ready};
use nix::mount::{MsFlags, mount};
use pilothouse_api::quantity::Quantity;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// Counting a volume's files reads all its directories.
const COUNT_EVERY: Duration = Duration::from_secs(30);

pub struct EmptyDir;

impl Kind for EmptyDir {
    fn fields(&self) -> &'static [&'static str] {
        &["emptyDir"]
    }

    fn prepare<'a>(&'a self, wanted: &'a Wanted<'a>) -> BoxFuture<'a, Result<Volume>> {
        let made = prepare(wanted.pod, wanted.source, wanted.dir);
        ready(made.map(|()| Volume::files(wanted.dir.to_owned(), false))).boxed()
    }
}

/// Makes the directory, once: later it is the containers'.
fn prepare(pod: &Value, source: &Value, dir: &Path) -> Result<()> {
    if fs::symlink_metadata(dir).is_ok() && (source["medium"] != "Memory" || mounts::is_mounted(dir)) {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    if source["medium"] == "Memory" {
        let size = size_limit(source).map(|bytes| format!("size={bytes},")).unwrap_or_default();
        // As the kernel makes them, and as kubelet leaves them: users do not remove each other's files.
        let options = format!("{size}mode=1777");
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::MS_NOSUID, Some(options.as_str()))
            .context("cannot mount a tmpfs")?;
    } else {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777))?;
    }
    Owner::group_of(pod).give(dir, true)?;
    Ok(())
}

fn size_limit(source: &Value) -> Option<i64> {
    let limit = &source["sizeLimit"];
    let text = limit.as_str().map(str::to_owned).or_else(|| limit.as_number().map(ToString::to_string))?;
    Quantity::parse(&text).map(Quantity::value).filter(|bytes| *bytes > 0)
}

/// Watches that volumes on disk stay within their limits.
#[derive(Default)]
pub struct Sizes {
    counted_at: Option<Instant>,
}

impl Sizes {
    /// The volume that is too large, which ends its pod.
    pub async fn exceeded(&mut self, pod: &Value, pod_dir: &Path) -> Option<Verdict> {
        if self.counted_at.is_some_and(|at| at.elapsed() < COUNT_EVERY) {
            return None;
        }
        self.counted_at = Some(Instant::now());
        for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
            let source = &volume["emptyDir"];
            let Some(limit) = size_limit(source).filter(|_| source["medium"] != "Memory") else { continue };
            let name = volume["name"].as_str().unwrap_or_default();
            let dir = super::dir_of(pod_dir, name);
            let bytes = tokio::task::spawn_blocking(move || bytes_in(&dir)).await.unwrap_or(0);
            if bytes > limit.unsigned_abs() {
                let limit = source["sizeLimit"].as_str().unwrap_or_default();
                let message = format!("Usage of EmptyDir volume {name:?} exceeds the limit {limit:?}. ");
                return Some(Verdict::evicted(message));
            }
        }
        None
    }
}

/// What the files below a directory take on disk.
pub fn bytes_in(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_in(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn a_volume_that_outgrows_its_limit_ends_its_pod() {
        let dir = std::env::temp_dir().join(format!("pilothouse-sizes-{}", std::process::id()));
        let volume = super::super::dir_of(&dir, "data").join("sub");
        fs::create_dir_all(&volume).unwrap();
        fs::write(volume.join("file"), vec![1; 100_000]).unwrap();
        let pod = |limit: &str| json!({"spec": {"volumes": [{"name": "data", "emptyDir": {"sizeLimit": limit}}, {"name": "other", "emptyDir": {}}]}});
        assert_eq!(Sizes::default().exceeded(&pod("1Mi"), &dir).await, None);
        let verdict = Sizes::default().exceeded(&pod("10Ki"), &dir).await.unwrap();
        let message = "Usage of EmptyDir volume \"data\" exceeds the limit \"10Ki\". ";
        assert_eq!((verdict.reason.as_str(), verdict.message.as_str()), ("Evicted", message));
        let mut counted = Sizes { counted_at: Some(Instant::now()) };
        assert_eq!(counted.exceeded(&pod("10Ki"), &dir).await, None, "not counted again so soon");
        fs::remove_dir_all(dir).unwrap();
    }
}
