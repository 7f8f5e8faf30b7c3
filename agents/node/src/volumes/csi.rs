//! `csi`: a volume of a storage driver that runs on this node, mounted or as a block device, in the order and at the paths that
//! drivers know from kubelet ("Container Storage Interface", Node Service).
use super::{Host, Kind, Left, Volume, Wanted, mounts, ownership};
use crate::csi::Driver;
use crate::csi::messages::*;
use crate::grpc;
use anyhow::{Context, Result, bail};
use base64::Engine;
use futures::future::{BoxFuture, FutureExt};
use pilothouse_api::quantity::Quantity;
use pilothouse_api::storage::{self, ATTACHMENTS, CSI_DRIVERS, digest};
use pilothouse_protocol::{NodeMessage, PodRef};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Kubelet's name for all drivers, in paths.
const PLUGIN: &str = "kubernetes.io/csi";
const ESCAPED_PLUGIN: &str = "kubernetes.io~csi";
const DATA_FILE: &str = "vol_data.json";
/// How long a volume may take to be attached (kubelet's `podAttachAndMountTimeout`).
const ATTACH_TIMEOUT: Duration = Duration::from_secs(123);
/// How long a driver that is not there is waited for, before the pod says so.
const DRIVER_TIMEOUT: Duration = Duration::from_secs(3);
/// Behind the news: a lost one costs at most this.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two publications for a driver that asks for them.
const REPUBLISH_EVERY: Duration = Duration::from_secs(60);

pub struct Csi;

impl Kind for Csi {
    fn fields(&self) -> &'static [&'static str] {
        &["csi"]
    }

    fn is_recorded(&self) -> bool {
        true
    }

    fn prepare<'a>(&'a self, wanted: &'a Wanted<'a>) -> BoxFuture<'a, Result<Volume>> {
        async move { Publication::new(wanted)?.make().await }.boxed()
    }

    fn tear_down<'a>(&'a self, left: &'a Left, host: Host<'a>) -> BoxFuture<'a, Result<()>> {
        take_down(left, host).boxed()
    }
}

/// The volumes in use that an earlier agent left: each name with its pod.
pub fn held(data_dir: &Path) -> Vec<(String, String)> {
    let pods = fs::read_dir(data_dir.join("pods")).into_iter().flatten().flatten();
    let records = pods.flat_map(|pod| super::records::read(&pod.path(), data_dir));
    let of_drivers = records.filter_map(|(_, _, field, left)| {
        let (driver, handle) = storage::driver_of(&left.volume).filter(|_| field == "csi")?;
        Some((storage::name_in_use(driver, handle), left.pod_uid))
    });
    of_drivers.collect()
}

/// Audience and seconds of the tokens that a driver asks for by its CSIDriver.
fn requests(driver: &Value) -> impl Iterator<Item = (String, i64)> {
    let requests = driver["spec"]["tokenRequests"].as_array().into_iter().flatten();
    requests.map(crate::tokens::asked)
}

/// The same of all drivers that a pod's volumes name, itself or through its claims. `find` looks an object up by resource,
/// namespace and name.
pub fn requested_tokens(
    pod: &Value,
    find: impl Fn(&str, &str, &str) -> Option<Arc<Value>>,
) -> Vec<(String, i64)> {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let names = volumes.filter_map(|volume| {
        let Some(claim) = pilothouse_protocol::needs::claim_of(pod, volume) else {
            return volume["csi"]["driver"].as_str().map(str::to_owned);
        };
        let claim = find(storage::CLAIMS, namespace, &claim)?;
        let volume = find(storage::VOLUMES, "", claim["spec"]["volumeName"].as_str()?)?;
        storage::driver_of(&volume).map(|(driver, _)| driver.to_owned())
    });
    let drivers = names.filter_map(|name| find(CSI_DRIVERS, "", &name));
    let mut all: Vec<(String, i64)> =
        drivers.flat_map(|driver| requests(&driver).collect::<Vec<_>>()).collect();
    all.sort();
    all.dedup();
    all
}

/// Where a volume is on this node.
#[derive(Debug, PartialEq)]
struct Places {
    /// Where the driver keeps it for all pods.
    staging: PathBuf,
    /// Where the pod finds it.
    target: PathBuf,
    /// Where is noted what it is, once it may be there.
    note: PathBuf,
}

impl Places {
    /// `name` is the PersistentVolume's, or the pod's own for its volume.
    fn new(root: &Path, driver: &str, handle: &str, name: &str, pod_uid: &str, is_block: bool) -> Self {
        let plugin = root.join("plugins").join(PLUGIN);
        if is_block {
            let devices = plugin.join("volumeDevices");
            return Self {
                staging: devices.join("staging").join(name),
                target: devices.join("publish").join(name).join(pod_uid),
                note: root
                    .join("pods")
                    .join(pod_uid)
                    .join("volumeDevices")
                    .join(ESCAPED_PLUGIN)
                    .join(name)
                    .join(DATA_FILE),
            };
        }
        let dir = root.join("pods").join(pod_uid).join("volumes").join(ESCAPED_PLUGIN).join(name);
        Self {
            staging: plugin.join(driver).join(digest(handle)).join("globalmount"),
            target: dir.join("mount"),
            note: dir.join(DATA_FILE),
        }
    }

    /// Whether another pod of this node has, or may have, the volume.
    fn is_shared(&self, root: &Path) -> bool {
        let Ok(below) = self.note.strip_prefix(root.join("pods")) else { return false };
        let below: PathBuf = below.components().skip(1).collect();
        let pods = fs::read_dir(root.join("pods")).into_iter().flatten().flatten();
        pods.map(|pod| pod.path().join(&below)).any(|note| note != self.note && note.exists())
    }
}

/// One volume for one pod.
struct Publication<'a> {
    wanted: &'a Wanted<'a>,
    driver: &'a str,
    handle: String,
    is_block: bool,
    pod_uid: &'a str,
    places: Places,
}

impl<'a> Publication<'a> {
    fn new(wanted: &'a Wanted<'a>) -> Result<Self> {
        let driver = wanted.source["driver"].as_str().unwrap_or_default();
        let pod_uid = wanted.pod["metadata"]["uid"].as_str().unwrap_or_default();
        let name = match wanted.volume {
            Some(volume) => volume["metadata"]["name"].as_str(),
            None => wanted.spec["name"].as_str(),
        };
        let name = name.context("the volume has no name")?;
        let handle = handle_of(wanted.source, wanted.volume.is_some(), pod_uid, name);
        let is_block = wanted.volume.is_some() && wanted.spec["volumeMode"] == "Block";
        let places = Places::new(&wanted.host.drivers.root, driver, &handle, name, pod_uid, is_block);
        Ok(Self { wanted, driver, handle, is_block, pod_uid, places })
    }

    fn is_inline(&self) -> bool {
        self.wanted.volume.is_none()
    }

    fn find(&self, resource: &str, name: &str) -> Option<Arc<Value>> {
        (self.wanted.sources.any)(resource, "", name)
    }

    async fn make(&self) -> Result<Volume> {
        let drivers = self.wanted.host.drivers;
        let driver = self.wait(DRIVER_TIMEOUT, || Ok(drivers.get(self.driver))).await?;
        let driver = driver.with_context(|| {
            format!("driver name {} not found in the list of registered CSI drivers", self.driver)
        })?;
        let told = self.find(CSI_DRIVERS, self.driver);
        let told = told.as_deref().unwrap_or(&Value::Null);
        self.check_mode(told)?;
        let target = &self.places.target;
        if !self.is_published() {
            let context = self.attached(told).await?;
            let _turn = drivers.turn(self.driver, &self.handle).await;
            self.stage(&driver, &context).await?;
            self.publish(&driver, told, &context).await?;
            if !self.is_block {
                self.give_to_group(&driver, told)?;
            }
        } else if told["spec"]["requiresRepublish"] == true
            && drivers.published_ago(target).is_none_or(|ago| ago >= REPUBLISH_EVERY)
        {
            let context = self.attached(told).await?;
            self.publish(&driver, told, &context).await?;
        }
        self.grow(&driver).await;
        Ok(match self.is_block {
            true => Volume::device(target.clone(), self.wanted.read_only),
            false => Volume::files(target.clone(), self.wanted.read_only),
        })
    }

    fn is_published(&self) -> bool {
        match self.is_block {
            true => fs::metadata(&self.places.target).is_ok_and(|meta| meta.file_type().is_block_device()),
            false => mounts::is_mounted(&self.places.target),
        }
    }

    /// A pod's own volume needs a driver that says that it has such.
    fn check_mode(&self, told: &Value) -> Result<()> {
        let modes = told["spec"]["volumeLifecycleModes"].as_array();
        let has = |mode: &str| modes.is_some_and(|modes| modes.iter().any(|known| known == mode));
        let persistent = modes.is_none() || has("Persistent");
        let (is_known, mode) =
            if self.is_inline() { (has("Ephemeral"), "Ephemeral") } else { (persistent, "Persistent") };
        if !is_known {
            bail!("volume mode {mode:?} not supported by driver {}", self.driver);
        }
        Ok(())
    }

    /// Looks until there is something, or the time is over: None. Not beyond the end of the pod.
    async fn wait<T>(&self, timeout: Duration, look: impl Fn() -> Result<Option<T>>) -> Result<Option<T>> {
        let end = Instant::now() + timeout;
        loop {
            let news = self.wanted.host.drivers.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if let Some(found) = look()? {
                return Ok(Some(found));
            }
            if self.is_over() {
                bail!("the pod is to end");
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let _ = tokio::time::timeout(left.min(LOOK_EVERY), news).await;
        }
    }

    fn is_over(&self) -> bool {
        let name = self.wanted.pod["metadata"]["name"].as_str().unwrap_or_default();
        let pod = self.wanted.sources.find("pods", name);
        let pod = pod.filter(|pod| pod["metadata"]["uid"] == self.pod_uid);
        pod.is_none_or(|pod| !pod["metadata"]["deletionTimestamp"].is_null())
    }

    /// Waits until the volume is at this node, where its driver attaches. What the driver told of it: the publish context.
    async fn attached(&self, told: &Value) -> Result<HashMap<String, String>> {
        if self.is_inline() || !storage::is_attached(Some(told).filter(|told| told.is_object())) {
            return Ok(HashMap::new());
        }
        let drivers = self.wanted.host.drivers;
        let shown = storage::name_in_use(self.driver, &self.handle);
        // First the server knows that it is used here: from then on it is not detached while this node lives.
        drivers.hold(&shown, self.pod_uid);
        let name = storage::attachment_name(self.driver, &self.handle, &drivers.node);
        let found = self.wait(ATTACH_TIMEOUT, || {
            let node = self.find(crate::agent::NODES, &drivers.node).unwrap_or_default();
            let is_told =
                node["status"]["volumesInUse"].as_array().is_some_and(|all| all.contains(&json!(shown)));
            let attachment = self.find(ATTACHMENTS, &name);
            let attachment = attachment.filter(|a| is_told && a["metadata"]["deletionTimestamp"].is_null());
            Ok(attachment.filter(|attachment| attachment["status"]["attached"] == true))
        });
        let Some(attachment) = found.await? else {
            let why = self.find(ATTACHMENTS, &name);
            let why = why.as_deref().and_then(|a| a["status"]["attachError"]["message"].as_str());
            bail!(
                "timed out waiting for external-attacher of {} to attach volume {}{}",
                self.driver,
                self.handle,
                why.map(|why| format!(": {why}")).unwrap_or_default()
            );
        };
        Ok(strings(&attachment["status"]["attachmentMetadata"]))
    }

    /// Once for all pods of the node: again is no harm.
    async fn stage(&self, driver: &Driver, context: &HashMap<String, String>) -> Result<()> {
        self.note()?;
        if self.is_inline() || !driver.can(Ability::StageUnstageVolume) {
            return Ok(());
        }
        let staging = &self.places.staging;
        fs::create_dir_all(staging).with_context(|| format!("cannot make {}", staging.display()))?;
        let request = NodeStageVolume {
            volume_id: self.handle.clone(),
            publish_context: context.clone(),
            staging_target_path: shown(staging),
            volume_capability: Some(self.capability(driver)),
            secrets: self.secrets("nodeStageSecretRef")?,
            volume_context: strings(&self.wanted.source["volumeAttributes"]),
        };
        let staged: Result<Empty, _> = driver.node("NodeStageVolume", &request).await;
        staged.context("MountVolume.MountDevice failed")?;
        Ok(())
    }

    /// What kubelet leaves for drivers and people, and by which it is known who else has the volume. From here on there is
    /// something to undo.
    fn note(&self) -> Result<()> {
        let parent = self.places.note.parent().context("a note has a directory")?;
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        let name = self.wanted.volume.unwrap_or(self.wanted.spec);
        let name = name["metadata"]["name"].as_str().or_else(|| name["name"].as_str());
        let note = json!({
            "driverName": self.driver, "nodeName": self.wanted.host.drivers.node, "specVolID": name, "volumeHandle": self.handle,
            "attachmentID": storage::attachment_name(self.driver, &self.handle, &self.wanted.host.drivers.node),
            "volumeLifecycleMode": if self.is_inline() { "Ephemeral" } else { "Persistent" },
        });
        fs::write(&self.places.note, note.to_string())?;
        if !self.is_block
            && !self.is_inline()
            && let Some(volume) = self.places.staging.parent()
        {
            fs::create_dir_all(volume)?;
            fs::write(
                volume.join(DATA_FILE),
                json!({"driverName": self.driver, "volumeHandle": self.handle}).to_string(),
            )?;
        }
        Ok(())
    }

    async fn publish(&self, driver: &Driver, told: &Value, context: &HashMap<String, String>) -> Result<()> {
        let target = &self.places.target;
        fs::create_dir_all(target.parent().context("a target has a directory")?)?;
        let staged = !self.is_inline() && driver.can(Ability::StageUnstageVolume);
        let mut secrets = self.secrets("nodePublishSecretRef")?;
        let tokens = self.tokens(told)?;
        let mut attributes = strings(&self.wanted.source["volumeAttributes"]);
        if told["spec"]["podInfoOnMount"] == true {
            attributes.extend(self.pod_info());
        }
        if let Some(tokens) = tokens {
            let to = if told["spec"]["serviceAccountTokenInSecrets"] == true {
                &mut secrets
            } else {
                &mut attributes
            };
            to.insert("csi.storage.k8s.io/serviceAccount.tokens".into(), tokens);
        }
        let request = NodePublishVolume {
            volume_id: self.handle.clone(),
            publish_context: context.clone(),
            staging_target_path: if staged { shown(&self.places.staging) } else { String::new() },
            target_path: shown(target),
            volume_capability: Some(self.capability(driver)),
            readonly: self.wanted.read_only,
            secrets,
            volume_context: attributes,
        };
        let published: Result<Empty, _> = driver.node("NodePublishVolume", &request).await;
        published?;
        self.wanted.host.drivers.note_published(target);
        Ok(())
    }

    fn pod_info(&self) -> [(String, String); 5] {
        let meta = &self.wanted.pod["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let account = self.wanted.pod["spec"]["serviceAccountName"].as_str().unwrap_or("default");
        [
            ("pod.name", text(&meta["name"])),
            ("pod.namespace", text(&meta["namespace"])),
            ("pod.uid", text(&meta["uid"])),
            ("serviceAccount.name", account.to_owned()),
            ("ephemeral", self.is_inline().to_string()),
        ]
        .map(|(name, value)| (format!("csi.storage.k8s.io/{name}"), value))
    }

    /// The tokens of the pod's service account that the driver asks for, by audience, as JSON.
    fn tokens(&self, told: &Value) -> Result<Option<String>> {
        let mut tokens = serde_json::Map::new();
        for (audience, seconds) in requests(told) {
            let token = (self.wanted.sources.token)(&audience, seconds);
            let (token, until) = token.with_context(|| format!("there is no token for {audience:?} yet"))?;
            tokens.insert(audience, json!({"token": token, "expirationTimestamp": until.to_string()}));
        }
        Ok((!tokens.is_empty()).then(|| Value::Object(tokens).to_string()))
    }

    fn secrets(&self, field: &str) -> Result<HashMap<String, String>> {
        let reference = &self.wanted.source[field];
        let Some(name) = reference["name"].as_str() else { return Ok(HashMap::new()) };
        let namespace = reference["namespace"].as_str().unwrap_or(self.wanted.sources.namespace);
        let secret = (self.wanted.sources.any)("secrets", namespace, name);
        let secret = secret.with_context(|| format!("secret {namespace}/{name} not found"))?;
        let decode = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
        let data = secret["data"].as_object().into_iter().flatten();
        Ok(data
            .map(|(key, value)| {
                let bytes = decode(value.as_str().unwrap_or_default());
                (key.clone(), String::from_utf8_lossy(&bytes).into_owned())
            })
            .collect())
    }

    fn capability(&self, driver: &Driver) -> VolumeCapability {
        let access_mode = match self.wanted.volume {
            Some(_) => self.wanted.spec["accessModes"][0].as_str().unwrap_or("ReadWriteOnce"),
            None => "ReadWriteOnce",
        };
        let mode = mode_of(access_mode, driver.can(Ability::SingleNodeMultiWriter));
        let access_type = match self.is_block {
            true => AccessType::Block(Empty {}),
            false => {
                let flags = self.wanted.spec["mountOptions"].as_array().into_iter().flatten();
                let group =
                    ownership::fs_group(self.wanted.pod).filter(|_| driver.can(Ability::VolumeMountGroup));
                AccessType::Mount(MountVolume {
                    fs_type: self.wanted.source["fsType"].as_str().unwrap_or_default().to_owned(),
                    mount_flags: flags.filter_map(|flag| flag.as_str().map(str::to_owned)).collect(),
                    volume_mount_group: group.map(|group| group.to_string()).unwrap_or_default(),
                })
            }
        };
        VolumeCapability {
            access_type: Some(access_type),
            access_mode: Some(AccessMode { mode: mode as i32 }),
        }
    }

    /// `fsGroup`, where the driver leaves that to the node.
    fn give_to_group(&self, driver: &Driver, told: &Value) -> Result<()> {
        let modes = self.wanted.spec["accessModes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let fs_type = self.wanted.source["fsType"].as_str().unwrap_or_default();
        let applies = !driver.can(Ability::VolumeMountGroup)
            && !self.wanted.read_only
            && takes_group(told["spec"]["fsGroupPolicy"].as_str(), fs_type, modes);
        if applies {
            ownership::claim(self.wanted.pod, self.wanted.dir, &self.places.target)
                .context("applyFSGroup failed")?;
        }
        Ok(())
    }

    /// A volume that has grown is made larger here too, where its driver does that; the claim says then what it has.
    async fn grow(&self, driver: &Driver) {
        let (Some(volume), Some(claim)) = (self.wanted.volume, self.wanted.claim) else { return };
        let wanted = volume["spec"]["capacity"]["storage"].as_str().unwrap_or_default();
        let has = claim["status"]["capacity"]["storage"].as_str().unwrap_or_default();
        let amount = |text: &str| Quantity::parse(text).unwrap_or(Quantity::ZERO);
        let drivers = self.wanted.host.drivers;
        if amount(wanted) <= amount(has) {
            return;
        }
        // Told again until the claim shows it: the word may have been lost.
        let is_left = driver.can(Ability::ExpandVolume) && !drivers.has_grown(&self.places.target, wanted);
        let outcome = match is_left {
            true => self.expand(driver, amount(wanted).value()).await,
            false => Ok(()),
        };
        if outcome.is_ok() {
            drivers.note_grown(&self.places.target, wanted);
        }
        let text =
            |object: &Value, field: &str| object["metadata"][field].as_str().unwrap_or_default().into();
        let message = NodeMessage::VolumeExpanded {
            pod: PodRef {
                namespace: text(self.wanted.pod, "namespace"),
                name: text(self.wanted.pod, "name"),
                uid: self.pod_uid.into(),
            },
            claim: text(claim, "name"),
            claim_uid: text(claim, "uid"),
            capacity: wanted.into(),
            outcome: outcome.map_err(|error| format!("{error:#}")),
        };
        drivers.outbox.tell(&format!("expanded/{}", self.places.target.display()), message);
    }

    async fn expand(&self, driver: &Driver, bytes: i64) -> Result<()> {
        let staged = driver.can(Ability::StageUnstageVolume);
        let request = NodeExpandVolume {
            volume_id: self.handle.clone(),
            volume_path: shown(&self.places.target),
            capacity_range: Some(CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
            staging_target_path: if staged { shown(&self.places.staging) } else { String::new() },
            volume_capability: Some(self.capability(driver)),
            secrets: self.secrets("nodeExpandSecretRef")?,
        };
        let _turn = self.wanted.host.drivers.turn(self.driver, &self.handle).await;
        let _: NodeExpanded = driver.node("NodeExpandVolume", &request).await?;
        Ok(())
    }
}

async fn take_down(left: &Left, host: Host<'_>) -> Result<()> {
    let name = left.volume["metadata"]["name"].as_str();
    let own = left.dir.file_name().unwrap_or_default().to_string_lossy();
    let driver_name = left.source["driver"].as_str().unwrap_or_default();
    let handle = handle_of(&left.source, name.is_some(), &left.pod_uid, name.unwrap_or(&own));
    let is_block = left.volume["spec"]["volumeMode"] == "Block";
    let root = &host.drivers.root;
    let places = Places::new(root, driver_name, &handle, name.unwrap_or(&own), &left.pod_uid, is_block);
    let turn = host.drivers.turn(driver_name, &handle).await;
    if places.note.exists() {
        let driver = host.drivers.get(driver_name).with_context(|| {
            format!("driver name {driver_name} not found in the list of registered CSI drivers")
        })?;
        let request = NodeUnpublishVolume { volume_id: handle.clone(), target_path: shown(&places.target) };
        is_gone(driver.node("NodeUnpublishVolume", &request).await).context("NodeUnpublishVolume")?;
        let stages = name.is_some() && driver.can(Ability::StageUnstageVolume);
        if stages && !places.is_shared(root) {
            let request =
                NodeUnstageVolume { volume_id: handle.clone(), staging_target_path: shown(&places.staging) };
            is_gone(driver.node("NodeUnstageVolume", &request).await).context("NodeUnstageVolume")?;
            remove_empty(&places.staging, root);
            if let Some(volume) = places.staging.parent().filter(|_| !is_block) {
                let _ = fs::remove_file(volume.join(DATA_FILE));
                remove_empty(volume, root);
            }
        }
        clear(&places, root).await?;
    }
    drop(turn);
    host.drivers.forget(&places.target);
    if name.is_some() {
        host.drivers.let_go(&storage::name_in_use(driver_name, &handle), &left.pod_uid);
    }
    Ok(())
}

/// What the driver does not know is not there.
fn is_gone(outcome: Result<Empty, grpc::Fault>) -> Result<()> {
    match outcome {
        Err(fault) if fault.code != grpc::NOT_FOUND => Err(fault.into()),
        _ => Ok(()),
    }
}

/// Takes away what the driver left at the pod's own place: a directory or a file that nothing is mounted on.
async fn clear(places: &Places, root: &Path) -> Result<()> {
    mounts::unmount_below(&places.target).await?;
    match fs::symlink_metadata(&places.target) {
        Ok(meta) if meta.is_dir() => fs::remove_dir(&places.target),
        Ok(_) => fs::remove_file(&places.target),
        Err(_) => Ok(()),
    }
    .with_context(|| format!("{} is left", places.target.display()))?;
    fs::remove_file(&places.note)?;
    for place in [&places.target, &places.note] {
        if let Some(parent) = place.parent() {
            remove_empty(parent, root);
        }
    }
    Ok(())
}

/// Removes a directory and those above it, as far as they are empty, below the pods' and drivers' own.
fn remove_empty(dir: &Path, root: &Path) {
    let mut at = Some(dir);
    while let Some(dir) =
        at.filter(|dir| dir.strip_prefix(root).is_ok_and(|below| below.components().count() > 1))
    {
        if fs::remove_dir(dir).is_err() {
            return;
        }
        at = dir.parent();
    }
}

/// What the driver calls a volume. That of a pod alone has a name that no other pod's has.
fn handle_of(source: &Value, is_persistent: bool, pod_uid: &str, name: &str) -> String {
    match is_persistent {
        true => source["volumeHandle"].as_str().unwrap_or_default().to_owned(),
        false => format!("csi-{}", digest(&format!("{pod_uid}{name}"))),
    }
}

fn mode_of(access_mode: &str, knows_single_node_modes: bool) -> Mode {
    match (access_mode, knows_single_node_modes) {
        ("ReadWriteMany", _) => Mode::MultiNodeMultiWriter,
        ("ReadOnlyMany", _) => Mode::MultiNodeReaderOnly,
        ("ReadWriteOncePod", true) => Mode::SingleNodeSingleWriter,
        ("ReadWriteOnce", true) => Mode::SingleNodeMultiWriter,
        _ => Mode::SingleNodeWriter,
    }
}

/// `CSIDriver.spec.fsGroupPolicy`. A pod's own volume has no access modes, and is its own alone.
fn takes_group(policy: Option<&str>, fs_type: &str, access_modes: &[Value]) -> bool {
    match policy {
        Some("None") => false,
        Some("File") => true,
        _ => !fs_type.is_empty() && access_modes.iter().any(|mode| mode == "ReadWriteOnce"),
    }
}

fn strings(map: &Value) -> HashMap<String, String> {
    let all = map.as_object().into_iter().flatten();
    all.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_lie_where_drivers_know_them_from_kubelet() {
        let root = Path::new("/var/lib/kubelet");
        let files = Places::new(root, "ebs.csi.aws.com", "vol-1", "pvc-1", "u1", false);
        let volume = "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~csi/pvc-1";
        assert_eq!(files.target, PathBuf::from(format!("{volume}/mount")));
        assert_eq!(files.note, PathBuf::from(format!("{volume}/vol_data.json")));
        let staging = format!(
            "/var/lib/kubelet/plugins/kubernetes.io/csi/ebs.csi.aws.com/{}/globalmount",
            digest("vol-1")
        );
        assert_eq!(files.staging, PathBuf::from(staging));
        let block = Places::new(root, "ebs.csi.aws.com", "vol-1", "pvc-1", "u1", true);
        let devices = "/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices";
        assert_eq!(block.staging, PathBuf::from(format!("{devices}/staging/pvc-1")));
        assert_eq!(block.target, PathBuf::from(format!("{devices}/publish/pvc-1/u1")));
    }

    #[test]
    fn a_volume_is_unstaged_with_its_last_pod() {
        let root = std::env::temp_dir().join(format!("pilothouse-csi-{}", std::process::id()));
        let places = |pod: &str| Places::new(&root, "d", "h", "pv", pod, false);
        for pod in ["a", "b"] {
            fs::create_dir_all(places(pod).note.parent().unwrap()).unwrap();
            fs::write(places(pod).note, "{}").unwrap();
        }
        assert!(places("a").is_shared(&root));
        fs::remove_file(places("b").note).unwrap();
        assert!(!places("a").is_shared(&root));
        remove_empty(places("b").note.parent().unwrap(), &root);
        assert!(!root.join("pods/b").exists() && root.join("pods/a").exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn access_modes_are_told_as_the_driver_knows_them() {
        let rows = [
            ("ReadWriteOnce", Mode::SingleNodeWriter, Mode::SingleNodeMultiWriter),
            ("ReadWriteOncePod", Mode::SingleNodeWriter, Mode::SingleNodeSingleWriter),
            ("ReadOnlyMany", Mode::MultiNodeReaderOnly, Mode::MultiNodeReaderOnly),
            ("ReadWriteMany", Mode::MultiNodeMultiWriter, Mode::MultiNodeMultiWriter),
        ];
        for (mode, old, new) in rows {
            assert_eq!((mode_of(mode, false), mode_of(mode, true)), (old, new), "{mode}");
        }
    }

    #[test]
    fn the_group_gets_the_files_as_the_driver_says() {
        let once = [json!("ReadWriteOnce")];
        let many = [json!("ReadWriteMany")];
        assert!(takes_group(None, "ext4", &once) && takes_group(Some("File"), "", &many));
        assert!(!takes_group(None, "", &once) && !takes_group(None, "ext4", &many));
        assert!(!takes_group(Some("None"), "ext4", &once));
    }
}
