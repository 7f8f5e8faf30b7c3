//! `local`: a directory, file system or device of this node that a PersistentVolume names.
use super::{Content, Kind, Volume, Wanted, ownership};
use anyhow::{Context, Result, bail};
use futures::future::{BoxFuture, FutureExt, ready};
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;

pub struct Local;

impl Kind for Local {
    fn fields(&self) -> &'static [&'static str] {
        &["local"]
    }

    fn prepare<'a>(&'a self, wanted: &'a Wanted<'a>) -> BoxFuture<'a, Result<Volume>> {
        ready(prepare(wanted)).boxed()
    }

    fn create<'a>(&'a self, content: &'a Content<'a>) -> BoxFuture<'a, Result<()>> {
        ready(create(content)).boxed()
    }

    fn remove<'a>(&'a self, content: &'a Content<'a>) -> BoxFuture<'a, Result<()>> {
        async move {
            let path = own_path(content)?;
            // Many files take long to remove.
            let removed = tokio::task::spawn_blocking(move || super::remove_tree(&path)).await?;
            removed.context("the directory could not be removed")
        }
        .boxed()
    }
}

fn prepare(wanted: &Wanted<'_>) -> Result<Volume> {
    let path = PathBuf::from(wanted.source["path"].as_str().unwrap_or_default());
    if !path.exists() {
        bail!("path {:?} does not exist", path.display().to_string());
    }
    if wanted.spec["volumeMode"] == "Block" {
        if !fs::metadata(&path)?.file_type().is_block_device() {
            bail!("path {:?} is no block device", path.display().to_string());
        }
        return Ok(Volume::device(path, wanted.read_only));
    }
    if !wanted.read_only {
        ownership::claim(wanted.pod, wanted.dir, &path).context("cannot give the files to fsGroup")?;
    }
    Ok(Volume::files(path, wanted.read_only))
}

/// Anybody may write there, whatever user a pod runs as: nobody else comes by.
fn create(content: &Content<'_>) -> Result<()> {
    let path = own_path(content)?;
    fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
    Ok(())
}

/// The directory, which bears the volume's name: nothing else is made or removed.
fn own_path(content: &Content<'_>) -> Result<PathBuf> {
    let path = PathBuf::from(content.source["path"].as_str().unwrap_or_default());
    let name = content.volume["metadata"]["name"].as_str().unwrap_or_default();
    let last = path.file_name().unwrap_or_default().to_string_lossy();
    if name.is_empty() || !last.starts_with(name) {
        bail!("{} is not the volume's own directory", path.display());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::path::Path;

    #[tokio::test]
    async fn a_volumes_own_directory_is_made_and_removed_and_no_other() {
        let base = std::env::temp_dir().join(format!("pilothouse-local-{}", std::process::id()));
        let volume =
            |dir: &str| json!({"metadata": {"name": "pvc-1"}, "spec": {"local": {"path": base.join(dir)}}});
        let find = |_: &str, _: &str, _: &str| None;
        let content = |volume: &Value| (volume.clone(), volume["spec"]["local"].clone());
        let (own, source) = content(&volume("pvc-1_shop_data"));
        let content_of = Content { volume: &own, source: &source, data_dir: Path::new("/"), find: &find };
        for _ in 0..2 {
            Local.create(&content_of).await.unwrap();
        }
        fs::write(base.join("pvc-1_shop_data/file"), "x").unwrap();
        for _ in 0..2 {
            Local.remove(&content_of).await.unwrap();
        }
        assert!(!base.join("pvc-1_shop_data").exists());
        fs::create_dir_all(base.join("other")).unwrap();
        let (other, source) = (volume("other"), volume("other")["spec"]["local"].clone());
        let content_of = Content { volume: &other, source: &source, data_dir: Path::new("/"), find: &find };
        assert!(Local.remove(&content_of).await.is_err() && base.join("other").exists());
        fs::remove_dir_all(base).unwrap();
    }
}
