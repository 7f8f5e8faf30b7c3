//! `nfs`: a directory of an NFS server, mounted by the kernel, or by a FUSE client where the kernel has none.
use super::{Content, Kind, Volume, Wanted, mounts};
use anyhow::{Context, Result, bail};
use futures::future::{BoxFuture, FutureExt};
use pilothouse_api::storage::NFS_SHARE;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

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
            Ok(Volume::files(wanted.dir.to_owned(), wanted.read_only))
        }
        .boxed()
    }

    fn create<'a>(&'a self, content: &'a Content<'a>) -> BoxFuture<'a, Result<()>> {
        async move {
            in_share(content, |dir| {
                fs::create_dir_all(dir)?;
                // Whatever user a pod runs as.
                fs::set_permissions(dir, fs::Permissions::from_mode(0o777))
            })
            .await
        }
        .boxed()
    }

    fn remove<'a>(&'a self, content: &'a Content<'a>) -> BoxFuture<'a, Result<()>> {
        async move { in_share(content, super::remove_tree).await }.boxed()
    }
}

/// Mounts the share that holds a volume's directory, and does something about the directory.
async fn in_share(
    content: &Content<'_>,
    act: impl FnOnce(&Path) -> std::io::Result<()> + Send + 'static,
) -> Result<()> {
    let (name, base) =
        (&content.volume["metadata"]["name"], &content.volume["metadata"]["annotations"][NFS_SHARE]);
    let (Some(name), Some(base)) = (name.as_str(), base.as_str()) else {
        bail!("the volume does not tell in which share its directory is");
    };
    let mut share = Share::new(content.source, &content.volume["spec"], false);
    let dir = below_share(base, &share.path)?;
    share.path = base.to_owned();
    let point = content.data_dir.join("duties").join(name);
    mounts::unmount_below(&point).await?; // left by an earlier run
    fs::create_dir_all(&point)?;
    share.mount(&point).await?;
    let at = point.clone();
    let done = tokio::task::spawn_blocking(move || act(&at.join(dir))).await;
    mounts::unmount_below(&point).await?;
    fs::remove_dir(&point)?;
    done?.context("the directory on the share")
}

/// The directory as seen from its share; never the share itself.
fn below_share(base: &str, path: &str) -> Result<PathBuf> {
    let rest = path.strip_prefix(base.trim_end_matches('/')).unwrap_or_default().trim_matches('/');
    if rest.is_empty() || rest.split('/').any(|part| matches!(part, "" | "." | "..")) {
        bail!("{path:?} is no directory below {base:?}");
    }
    Ok(PathBuf::from(rest))
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

    #[test]
    fn a_directory_on_a_share_is_never_the_share_itself() {
        assert_eq!(below_share("/export", "/export/a/b").unwrap(), PathBuf::from("a/b"));
        assert_eq!(below_share("/", "/a").unwrap(), PathBuf::from("a"));
        for wrong in ["/export", "/export/", "/export/../etc", "/other/a"] {
            assert!(below_share("/export", wrong).is_err(), "{wrong}");
        }
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
