//! Volumes: directories on the node that containers mount.
mod empty_dir;
mod ownership;
mod projected;

pub use empty_dir::Sizes;

use crate::environment::{self, Sources};
use anyhow::{Context, Result, bail};
use bollard::models::{Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountType};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// A volume on the node.
#[derive(Debug)]
pub struct Volume {
    path: PathBuf,
    /// Its files are the node's to write.
    read_only: bool,
}

/// A pod's volumes by name.
pub type Paths = BTreeMap<String, Volume>;

/// A volume that could not be made, in the words of the event.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {why}")]
pub struct Failed {
    volume: String,
    why: String,
}

impl Failed {
    /// The volumes that need it wait for a token.
    pub fn token(pod: &Value, why: String) -> Self {
        let mut volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        let holder = volumes.find(|volume| {
            let sources = volume["projected"]["sources"].as_array();
            sources.into_iter().flatten().any(|source| source["serviceAccountToken"].is_object())
        });
        let name = holder.and_then(|volume| volume["name"].as_str()).unwrap_or_default();
        Self { volume: name.to_owned(), why }
    }
}

fn dir_of(pod_dir: &Path, volume: &str) -> PathBuf {
    pod_dir.join("volumes").join(volume)
}

/// Makes every volume of a pod, or brings it up to date. An error keeps the pod waiting, and says why.
pub fn prepare(pod: &Value, pod_dir: &Path, sources: &Sources<'_>) -> Result<Paths, Failed> {
    let mut paths = Paths::new();
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        let name = volume["name"].as_str().unwrap_or_default();
        let made = make(pod, volume, &dir_of(pod_dir, name), sources);
        let made = made.map_err(|error| Failed { volume: name.to_owned(), why: format!("{error:#}") })?;
        paths.insert(name.to_owned(), made);
    }
    Ok(paths)
}

fn make(pod: &Value, volume: &Value, dir: &Path, sources: &Sources<'_>) -> Result<Volume> {
    if volume["hostPath"].is_object() {
        return Ok(Volume { path: host_path(&volume["hostPath"])?, read_only: false });
    }
    if let Some(files) = projected::files(pod, volume, sources)? {
        projected::write(dir, &files, ownership::Owner::of(pod))?;
        return Ok(Volume { path: dir.to_owned(), read_only: true });
    }
    if volume["emptyDir"].is_object() {
        empty_dir::prepare(pod, &volume["emptyDir"], dir)?;
        return Ok(Volume { path: dir.to_owned(), read_only: false });
    }
    bail!("this kind of volume is not supported yet")
}

fn host_path(source: &Value) -> Result<PathBuf> {
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

/// A container's mounts. `env` is for paths that name variables.
pub fn mounts(spec: &Value, paths: &Paths, env: &[(String, String)]) -> Result<Vec<Mount>> {
    let known: BTreeMap<String, String> = env.iter().cloned().collect();
    let mut mounts = Vec::new();
    for wanted in spec["volumeMounts"].as_array().into_iter().flatten() {
        let text = |field: &str| wanted[field].as_str().filter(|text| !text.is_empty());
        let name = text("name").unwrap_or_default();
        let volume = paths.get(name).with_context(|| format!("the pod has no volume {name:?}"))?;
        let sub = match (text("subPath"), text("subPathExpr")) {
            (Some(path), _) => Some(path.to_owned()),
            (None, Some(path)) => Some(environment::expand(path, &known)),
            (None, None) => None,
        };
        let source = match sub {
            Some(sub) => below(&volume.path, &sub)
                .with_context(|| format!("failed to prepare subPath for volumeMount {name:?}"))?,
            None => volume.path.clone(),
        };
        let read_only = volume.read_only || wanted["readOnly"] == true;
        let mut mount = bind(&source, text("mountPath").unwrap_or_default(), read_only);
        let propagation = match text("mountPropagation") {
            Some("HostToContainer") => Some(MountBindOptionsPropagationEnum::RSLAVE),
            Some("Bidirectional") => Some(MountBindOptionsPropagationEnum::RSHARED),
            _ => None,
        };
        if propagation.is_some() {
            mount.bind_options = Some(MountBindOptions { propagation, ..MountBindOptions::default() });
        }
        mounts.push(mount);
    }
    Ok(mounts)
}

pub fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        target: Some(target.to_owned()),
        source: Some(source.to_string_lossy().into_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

/// A path inside a volume, with what is missing made as directories. A link that a container placed there may not lead out.
fn below(volume: &Path, path: &str) -> Result<PathBuf> {
    let root = volume.canonicalize()?;
    let mut at = root.clone();
    for part in path.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            bail!("{path:?} leads out of the volume");
        }
        let next = at.join(part);
        if fs::symlink_metadata(&next).is_err() {
            fs::create_dir(&next)?;
            // As writable as the volume itself.
            fs::set_permissions(&next, fs::metadata(&root)?.permissions())?;
        }
        at = next.canonicalize()?;
        if !at.starts_with(&root) {
            bail!("{path:?} leads out of the volume");
        }
    }
    Ok(at)
}

/// Takes away what a pod had on disk and in memory.
pub fn tear_down(pod_dir: &Path) {
    for volume in fs::read_dir(pod_dir.join("volumes")).into_iter().flatten().flatten() {
        empty_dir::unmount(&volume.path());
    }
    if let Err(error) = fs::remove_dir_all(pod_dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(dir = %pod_dir.display(), %error, "a pod's files could not be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sub_path_stays_inside_its_volume_whatever_links_lie_there() {
        let dir = std::env::temp_dir().join(format!("pilothouse-below-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("volume/in")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.join("volume/out")).unwrap();
        std::os::unix::fs::symlink("in", dir.join("volume/link")).unwrap();
        let volume = dir.join("volume");
        assert!(below(&volume, "made/here").unwrap().is_dir());
        assert_eq!(below(&volume, "link").unwrap(), volume.canonicalize().unwrap().join("in"));
        assert!(below(&volume, "out").is_err() && below(&volume, "../x").is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
