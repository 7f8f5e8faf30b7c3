//! `local`: a directory, file system or device of this node that a PersistentVolume names.
use super::{Kind, Volume, Wanted, ownership};
use anyhow::{Context, Result, bail};
use futures::future::{BoxFuture, FutureExt, ready};
use std::path::PathBuf;

pub struct Local;

impl Kind for Local {
    fn fields(&self) -> &'static [&'static str] {
        &["local"]
    }

    fn prepare<'a>(&'a self, wanted: &'a Wanted<'a>) -> BoxFuture<'a, Result<Volume>> {
        ready(prepare(wanted)).boxed()
    }
}

fn prepare(wanted: &Wanted<'_>) -> Result<Volume> {
    let path = PathBuf::from(wanted.source["path"].as_str().unwrap_or_default());
    if !path.exists() {
        bail!("path {:?} does not exist", path.display().to_string());
    }
    if !wanted.read_only && wanted.spec["volumeMode"] != "Block" {
        ownership::claim(wanted.pod, wanted.dir, &path).context("cannot give the files to fsGroup")?;
    }
    Ok(Volume { path, read_only: wanted.read_only })
}
