//! Volumes: what of a node's disk, memory or network the containers of a pod mount. One kind is one file and one line.
mod claims;
mod csi;
pub mod duties;
mod empty_dir;
mod host_path;
mod local;
mod mounts;
mod nfs;
mod on_disk;
mod ownership;
mod projected;
mod records;
mod s3;
mod sub_path;

pub use csi::{held, requested_tokens};
pub use empty_dir::Sizes;
pub use mounts::share;
pub use on_disk::{bytes_on_disk, inodes_on_disk};
pub use sub_path::{bind, devices, mounts};

use crate::csi::Drivers;
use crate::environment::Sources;
use anyhow::{Context, Result, anyhow, bail};
use futures::future::{BoxFuture, FutureExt, ready};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// THE LIST: one line a kind. The first that takes a source has it.
const KINDS: &[&dyn Kind] = &[
    &empty_dir::EmptyDir,
    &projected::Projected,
    &host_path::HostPath,
    &local::Local,
    &nfs::Nfs,
    &s3::S3,
    &csi::Csi, // after S3, which shares its field
];

/// One kind of volume.
pub trait Kind: Send + Sync {
    /// Its fields in a pod's volume, or in the spec of a PersistentVolume.
    fn fields(&self) -> &'static [&'static str];

    /// Whether it is about this very source, where several kinds share a field.
    fn takes(&self, _source: &Value) -> bool {
        true
    }

    /// Whether there is something to undo that the pod's directory does not show: then a record of the volume is kept until
    /// `tear_down` has passed, also over a restart of the agent.
    fn is_recorded(&self) -> bool {
        false
    }

    /// Makes the volume, or brings it up to date: before each start of a container, and when something changes that it
    /// names. What is there already is found by looking, for instance at what is mounted. An error keeps the pod waiting.
    fn prepare<'a>(&'a self, wanted: &'a Wanted<'a>) -> BoxFuture<'a, Result<Volume>>;

    /// Undoes it once the containers are gone; again later where it fails. What is still mounted at the volume's directory
    /// is unmounted after it in any case.
    fn tear_down<'a>(&'a self, _left: &'a Left, _host: Host<'a>) -> BoxFuture<'a, Result<()>> {
        ready(Ok(())).boxed()
    }

    /// Makes what a PersistentVolume of this kind stands for, once more without harm. Only for those that this server makes itself.
    fn create<'a>(&'a self, _content: &'a Content<'a>) -> BoxFuture<'a, Result<()>> {
        ready(Err(anyhow!("nothing is made for this kind of volume"))).boxed()
    }

    /// Removes what was made, with all that is in it.
    fn remove<'a>(&'a self, _content: &'a Content<'a>) -> BoxFuture<'a, Result<()>> {
        ready(Err(anyhow!("nothing is removed for this kind of volume"))).boxed()
    }
}

/// What volumes need of the node.
#[derive(Clone, Copy)]
pub struct Host<'a> {
    /// The agent's directory.
    pub data_dir: &'a Path,
    pub drivers: &'a Drivers,
}

/// Finds an object by resource, namespace and name.
pub type Find<'a> = dyn Fn(&str, &str, &str) -> Option<Arc<Value>> + Send + Sync + 'a;

/// What a PersistentVolume stands for.
pub struct Content<'a> {
    pub volume: &'a Value,
    /// What stands in the kind's field.
    pub source: &'a Value,
    pub data_dir: &'a Path,
    pub find: &'a Find<'a>,
}

/// A volume that is to be made.
pub struct Wanted<'a> {
    pub pod: &'a Value,
    /// The whole entry: of the pod's volumes, or the spec of the PersistentVolume.
    pub spec: &'a Value,
    /// What stands in the kind's field.
    pub source: &'a Value,
    /// The PersistentVolume, where the pod names a claim.
    pub volume: Option<&'a Value>,
    /// The claim by which the pod has it.
    pub claim: Option<&'a Value>,
    pub read_only: bool,
    /// The volume's own directory below the pod's. It may not exist yet.
    pub dir: &'a Path,
    pub host: Host<'a>,
    pub sources: &'a Sources<'a>,
}

/// What is left of a volume whose pod has ended: its record.
#[derive(Debug)]
pub struct Left {
    pub source: Value,
    /// The PersistentVolume, where there was one; null else.
    pub volume: Value,
    pub dir: PathBuf,
    pub data_dir: PathBuf,
    pub pod_uid: String,
}

/// A volume on the node.
#[derive(Debug)]
pub struct Volume {
    pub path: PathBuf,
    /// Nobody writes to it through a mount, whatever the mount says.
    pub read_only: bool,
    /// A block device, for `volumeDevices`.
    pub is_device: bool,
}

impl Volume {
    pub fn files(path: PathBuf, read_only: bool) -> Self {
        Self { path, read_only, is_device: false }
    }

    pub fn device(path: PathBuf, read_only: bool) -> Self {
        Self { path, read_only, is_device: true }
    }
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

/// The kind of a volume, and what stands in its field.
fn kind_of(spec: &Value) -> Result<(&'static dyn Kind, &'static str, &Value)> {
    for kind in KINDS {
        for field in kind.fields() {
            if spec[field].is_object() && kind.takes(&spec[field]) {
                return Ok((*kind, field, &spec[field]));
            }
        }
    }
    let known = ["name", "accessModes", "capacity", "claimRef", "nodeAffinity"];
    let fields = spec.as_object().into_iter().flatten();
    let mut fields = fields.filter(|(field, value)| value.is_object() && !known.contains(&field.as_str()));
    let named = fields.next().map_or("none", |(field, _)| field.as_str());
    bail!("this kind of volume is not supported yet: {named}");
}

/// Removes a directory with all that is in it; nothing where it is gone.
fn remove_tree(dir: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Makes every volume of a pod, or brings it up to date. An error keeps the pod waiting, and says why.
pub async fn prepare(
    pod: &Value,
    pod_dir: &Path,
    host: Host<'_>,
    sources: &Sources<'_>,
) -> Result<Paths, Failed> {
    let mut paths = Paths::new();
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        let name = volume["name"].as_str().unwrap_or_default();
        let failed =
            |of: &str, error: anyhow::Error| Failed { volume: of.to_owned(), why: format!("{error:#}") };
        let claimed = claims::resolve(pod, volume, sources).map_err(|error| failed(name, error))?;
        let shown = claimed.as_ref().map_or(name, |claimed| claimed.name());
        let made = make(pod, volume, claimed.as_ref(), pod_dir, host, sources).await;
        paths.insert(name.to_owned(), made.map_err(|error| failed(shown, error))?);
    }
    Ok(paths)
}

async fn make(
    pod: &Value,
    entry: &Value,
    claimed: Option<&claims::Claimed>,
    pod_dir: &Path,
    host: Host<'_>,
    sources: &Sources<'_>,
) -> Result<Volume> {
    let name = entry["name"].as_str().unwrap_or_default();
    let spec = claimed.map_or(entry, |claimed| &claimed.volume["spec"]);
    let (kind, field, source) = kind_of(spec)?;
    let dir = dir_of(pod_dir, name);
    let read_only = source["readOnly"] == true || claimed.is_some_and(|claimed| claimed.read_only);
    let volume = claimed.map(|claimed| &*claimed.volume);
    if kind.is_recorded() {
        records::write(pod_dir, name, field, source, volume).context("a record could not be written")?;
    }
    let claim = claimed.map(|claimed| &*claimed.claim);
    let wanted = Wanted { pod, spec, source, volume, claim, read_only, dir: &dir, host, sources };
    kind.prepare(&wanted).await
}

/// Gives back what a pod holds beyond its own directory. Its files there stay: containers that have ended still show them.
pub async fn release(pod_dir: &Path, host: Host<'_>) -> Result<()> {
    for (record, name, field, left) in records::read(pod_dir, host.data_dir) {
        let kind = KINDS.iter().find(|kind| kind.fields().contains(&&*field) && kind.takes(&left.source));
        let (volume, dir) = (&left.volume["metadata"]["name"], left.dir.strip_prefix(&left.data_dir));
        tracing::debug!(pod = left.pod_uid, %volume, ?dir, "a volume is taken down");
        if let Some(kind) = kind {
            kind.tear_down(&left, host).await.with_context(|| format!("volume {name:?}"))?;
        }
        mounts::unmount_below(&left.dir).await?;
        fs::remove_file(record)?;
    }
    Ok(())
}

/// Takes away what a pod had on disk, in memory and over the network.
pub async fn tear_down(pod_dir: &Path, host: Host<'_>) -> Result<()> {
    release(pod_dir, host).await?;
    mounts::unmount_below(pod_dir).await?;
    // What is mounted there is not the pod's to delete.
    if let Some(mounted) = mounts::below(pod_dir).first() {
        bail!("{} is still mounted", mounted.display());
    }
    if let Err(error) = remove_tree(pod_dir) {
        tracing::warn!(dir = %pod_dir.display(), %error, "a pod's files could not be removed");
    }
    Ok(())
}
