//! `nfs`: a directory of an NFS server, mounted by the kernel, or by a FUSE client where the kernel has none.
use super::{Kind, Volume, Wanted, mounts};
use anyhow::{Context, Result, bail};
use futures::future::{BoxFuture, FutureExt};
use serde_json::Value;
use std::fs;
use std::path::Path;

pub struct Nfs;

impl Kind for Nfs {
    fn fields(&self) -> &'static [&'static str] {
        &["nfs"]
    }

    fn is_recorded(&self) -> bool {
        true
    }

    fn prepare<'a>(&'a self, wanted: &'a Wanted<'a>) -> BoxFuture<'a, Result<Volume>> {
        async move {
            if !mounts::is_mounted(wanted.dir) {
                fs::create_dir_all(wanted.dir)?;
                let share = Share::new(wanted.source, wanted.spec, wanted.read_only);
                share.mount(wanted.dir).await?;
            }
            Ok(Volume { path: wanted.dir.to_owned(), read_only: wanted.read_only })
        }
        .boxed()
    }
}

/// A directory on a server, and how it is mounted.
#[derive(Debug, PartialEq)]
pub struct Share {
    pub server: String,
    pub path: String,
    pub options: Vec<String>,
}

impl Share {
    /// From an `nfs` source and the spec it stands in, whose `mountOptions` count.
    pub fn new(source: &Value, spec: &Value, read_only: bool) -> Self {
        let text = |field: &str| source[field].as_str().unwrap_or_default().to_owned();
        let options = spec["mountOptions"].as_array().into_iter().flatten();
        let mut options: Vec<String> = options.filter_map(|o| o.as_str().map(str::to_owned)).collect();
        if read_only {
            options.push("ro".into());
        }
        Self { server: text("server"), path: text("path"), options }
    }

    fn source(&self) -> String {
        // An IPv6 address holds colons itself.
        let bare = self.server.contains(':') && !self.server.starts_with('[');
        let server = if bare { format!("[{}]", self.server) } else { self.server.clone() };
        format!("{server}:{}", self.path)
    }

    pub async fn mount(&self, target: &Path) -> Result<()> {
        if kernel_has_client().await {
            return mounts::mount("nfs", &self.source(), target, &self.options).await;
        }
        match mounts::program("fuse-nfs") {
            Some(program) => mounts::run(&program.to_string_lossy(), &self.fuse_arguments(target), &[]).await,
            None => bail!(
                "cannot mount {}: this node's kernel has no NFS client (no nfs in /proc/filesystems, and modprobe nfs \
                 does not bring it), and the userspace client fuse-nfs is not installed",
                self.source()
            ),
        }
    }

    /// The userspace client takes an URL, and no options of the kernel's.
    fn fuse_arguments(&self, target: &Path) -> Vec<String> {
        let share = format!("nfs://{}{}", self.server, self.path);
        let mut arguments =
            vec!["-n".to_owned(), share, "-m".to_owned(), target.to_string_lossy().into_owned()];
        arguments.push("-a".into()); // containers run as other users than the client
        arguments
    }
}

/// The client is a module on most systems: asked for once it is missing.
async fn kernel_has_client() -> bool {
    let listed = || {
        let list = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        list.lines().any(|line| matches!(line.split_whitespace().last(), Some("nfs" | "nfs4")))
    };
    if listed() {
        return true;
    }
    let Some(modprobe) = mounts::program("modprobe") else { return false };
    let loaded =
        mounts::run(&modprobe.to_string_lossy(), &["nfs".to_owned()], &[]).await.context("modprobe nfs");
    loaded.is_ok() && listed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_share_is_mounted_as_mount_nfs_wants_it() {
        let spec = json!({"nfs": {"server": "files.example", "path": "/export/a"}, "mountOptions": ["nfsvers=4.1", "hard"]});
        let share = Share::new(&spec["nfs"], &spec, true);
        let arguments = mounts::mount_arguments("nfs", &share.source(), Path::new("/mnt/a"), &share.options);
        assert_eq!(
            arguments,
            ["-t", "nfs", "-o", "nfsvers=4.1,hard,ro", "files.example:/export/a", "/mnt/a"]
        );
        let share = Share::new(&json!({"server": "fd00::1", "path": "/"}), &json!({}), false);
        let arguments = mounts::mount_arguments("nfs", &share.source(), Path::new("/mnt/a"), &share.options);
        assert_eq!(arguments, ["-t", "nfs", "[fd00::1]:/", "/mnt/a"]);
    }

    #[tokio::test]
    async fn a_kernel_without_a_client_is_told_in_plain_words() {
        if kernel_has_client().await || mounts::program("fuse-nfs").is_some() {
            return; // the ordinary mount is tried there
        }
        let share = Share { server: "127.0.0.1".into(), path: "/x".into(), options: Vec::new() };
        let error = share.mount(Path::new("/nowhere")).await.unwrap_err().to_string();
        assert!(
            error.starts_with("cannot mount 127.0.0.1:/x: this node's kernel has no NFS client"),
            "{error}"
        );
    }
}
