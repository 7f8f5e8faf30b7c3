//! `hostPath`: a path of the node as it is.
use super::{Kind, Volume, Wanted};
use anyhow::{Result, bail};
use futures::future::{BoxFuture, FutureExt, ready};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

pub struct HostPath;

impl Kind for HostPath {
    fn fields(&self) -> &'static [&'static str] {
        &["hostPath"]
    }

    fn prepare<'a>(&'a self, wanted: &'a Wanted<'a>) -> BoxFuture<'a, Result<Volume>> {
        ready(path(wanted.source).map(|path| Volume::files(path, wanted.read_only))).boxed()
    }
}

fn path(source: &Value) -> Result<PathBuf> {
    let path = PathBuf::from(source["path"].as_str().unwrap_or_default());
    let kind = source["type"].as_str().unwrap_or_default();
    let found = fs::metadata(&path).map(|meta| meta.file_type()).ok();
    let is = |wanted: fn(&fs::FileType) -> bool| found.as_ref().is_some_and(wanted);
    let wrong = |what: &str| bail!("hostPath type check failed: {} is not a {what}", path.display());
    match kind {
        "DirectoryOrCreate" if found.is_none() => fs::create_dir_all(&path)?,
        "FileOrCreate" if found.is_none() => drop(fs::File::create(&path)?),
        "Directory" | "DirectoryOrCreate" if !is(fs::FileType::is_dir) => return wrong("directory"),
        "File" | "FileOrCreate" if !is(fs::FileType::is_file) => return wrong("file"),
        "Socket" if !is(FileTypeExt::is_socket) => return wrong("socket"),
        "CharDevice" if !is(FileTypeExt::is_char_device) => return wrong("character device"),
        "BlockDevice" if !is(FileTypeExt::is_block_device) => return wrong("block device"),
        // Docker makes no directories for mounts; Kubernetes' runtimes do.
        "" if found.is_none() => fs::create_dir_all(&path)?,
        _ => {}
    }
    Ok(path)
}
