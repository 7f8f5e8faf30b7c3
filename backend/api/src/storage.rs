//! Claims and volumes: the words and rules that controllers, scheduler and nodes share.
//!
//! Follows "Persistent Volumes" of the Kubernetes documentation.
use crate::placement::{Labels, NodeTerm};
use crate::quantity::Quantity;
use crate::selector::LabelSelector;
use serde_json::Value;

pub const CLAIMS: &str = "persistentvolumeclaims";
pub const VOLUMES: &str = "persistentvolumes";
pub const CLASSES: &str = "storageclasses.storage.k8s.io";
pub const ATTACHMENTS: &str = "volumeattachments.storage.k8s.io";
pub const CSI_DRIVERS: &str = "csidrivers.storage.k8s.io";
pub const CSI_NODES: &str = "csinodes.storage.k8s.io";
pub const CSI_CAPACITIES: &str = "csistoragecapacities.storage.k8s.io";

/// A claim's binding has come to its end once: it is never bound anew.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The binding was not asked for by a user.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Who made a volume.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The node that the scheduler chose for a claim's first pod.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Who is to make a claim's volume; older provisioners read the older name.
pub const STORAGE_PROVISIONER: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
pub const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
pub const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
pub const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

/// What this server makes volumes of by itself.
pub const LOCAL_PATH: &str = "pilothouse.io/local-path";
pub const NFS: &str = "pilothouse.io/nfs";
pub const EFS: &str = "pilothouse.io/efs";
pub const S3: &str = "pilothouse.io/s3";
pub const OWN_PROVISIONERS: &[&str] = &[LOCAL_PATH, NFS, EFS, S3];
/// The annotation of a Node that tells the directory in which it keeps local volumes.
pub const LOCAL_VOLUMES: &str = "storage.pilothouse.io/local-volumes";
/// The annotation of a PersistentVolume that names the node which makes and removes what the volume stands for: a
/// directory, a bucket.
pub const DUTY: &str = "storage.pilothouse.io/node";
/// Holds a PersistentVolume until that node has removed it.
pub const DUTY_FINALIZER: &str = "storage.pilothouse.io/content";
/// The annotation of a PersistentVolume that tells the share in which its directory is made.
pub const NFS_SHARE: &str = "storage.pilothouse.io/share";
/// The driver name of S3 volumes.
pub const S3_DRIVER: &str = "s3.pilothouse.io";

/// The driver of a volume, and what that calls the volume. None for those that no driver of others serves.
pub fn driver_of(volume: &Value) -> Option<(&str, &str)> {
    let csi = &volume["spec"]["csi"];
    let driver = csi["driver"].as_str().filter(|driver| *driver != S3_DRIVER)?;
    Some((driver, csi["volumeHandle"].as_str()?))
}

/// Whether a driver's volumes are attached to a node before they are mounted there: unless its CSIDriver says that they are not.
pub fn is_attached(driver: Option<&Value>) -> bool {
    driver.is_none_or(|driver| driver["spec"]["attachRequired"] != false)
}

/// The name of a VolumeAttachment, by which the node finds the one it waits for (as Kubernetes' attach/detach controller has it).
pub fn attachment_name(driver: &str, handle: &str, node: &str) -> String {
    format!("csi-{}", digest(&format!("{handle}{driver}{node}")))
}

/// Whether `attachment_name` may have given the name, where the volume that would tell is no more.
pub fn is_attachment_name(name: &str) -> bool {
    let digits = name.strip_prefix("csi-").unwrap_or_default();
    digits.len() == 64 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A volume's name in `volumesInUse` and `volumesAttached` of a node's status.
pub fn name_in_use(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// SHA-256 in hexadecimal digits.
pub fn digest(text: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether what the volume stands for is still to be made.
pub fn is_unmade(volume: &Value) -> bool {
    volume["metadata"]["annotations"][DUTY].is_string()
        && matches!(volume["status"]["phase"].as_str(), None | Some("Pending" | ""))
}

/// The node that has something to do about a volume now: to make it, before it is offered, or to remove it.
pub fn duty_of(volume: &Value) -> Option<&str> {
    let node = volume["metadata"]["annotations"][DUTY].as_str()?;
    let is_deleting = !volume["metadata"]["deletionTimestamp"].is_null();
    let is_wanted = match is_deleting {
        false => is_unmade(volume),
        true => {
            volume["status"]["phase"] != "Bound"
                && volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
                && has_finalizer(volume, DUTY_FINALIZER)
        }
    };
    is_wanted.then_some(node)
}

pub fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().any(|f| f == finalizer)
}

/// The object without a finalizer.
pub fn without_finalizer(object: &Value, finalizer: &str) -> Value {
    let mut next = object.clone();
    if let Some(finalizers) = next["metadata"]["finalizers"].as_array_mut() {
        finalizers.retain(|f| f != finalizer);
    }
    next
}

/// The class that a claim or a volume names, by its older annotation or its field; empty for none.
pub fn class_of(object: &Value) -> &str {
    let annotated = object["metadata"]["annotations"][CLASS_ANNOTATION].as_str();
    annotated.or_else(|| object["spec"]["storageClassName"].as_str()).unwrap_or_default()
}

/// Whether a claim leaves its class open: it takes the default, now or once there is one.
pub fn leaves_class_open(claim: &Value) -> bool {
    claim["spec"]["storageClassName"].is_null()
        && claim["metadata"]["annotations"][CLASS_ANNOTATION].is_null()
}

pub fn is_default_class(class: &Value) -> bool {
    DEFAULT_CLASS.iter().any(|mark| class["metadata"]["annotations"][mark] == "true")
}

/// The default among classes: the newest of those marked, then by name.
pub fn default_class<'a>(classes: impl Iterator<Item = &'a Value>) -> Option<&'a str> {
    let order = |class: &&Value| {
        let text = |field: &str| class["metadata"][field].as_str().unwrap_or_default().to_owned();
        (text("creationTimestamp"), std::cmp::Reverse(text("name")))
    };
    let newest = classes.filter(|class| is_default_class(class)).max_by_key(order);
    newest.and_then(|class| class["metadata"]["name"].as_str())
}

/// Whether a claim is bound for good.
pub fn is_bound(claim: &Value) -> bool {
    claim["metadata"]["annotations"][BIND_COMPLETED].is_string()
        && claim["spec"]["volumeName"].as_str().is_some_and(|name| !name.is_empty())
}

fn words(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
}

fn storage(amounts: &Value) -> Quantity {
    let amount = &amounts["storage"];
    let text = amount.as_str().map(str::to_owned).unwrap_or_else(|| amount.to_string());
    Quantity::parse(&text).unwrap_or(Quantity::ZERO)
}

fn volume_mode(spec: &Value) -> String {
    spec["volumeMode"].as_str().unwrap_or("Filesystem").to_owned()
}

/// What a claim asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Demand {
    pub class: String,
    pub size: Quantity,
    pub access_modes: Vec<String>,
    pub volume_mode: String,
    /// None: any volume; an unreadable one: no volume.
    selector: Option<Option<LabelSelector>>,
}

impl Demand {
    pub fn new(claim: &Value) -> Self {
        let spec = &claim["spec"];
        Self {
            class: class_of(claim).to_owned(),
            size: storage(&spec["resources"]["requests"]),
            access_modes: words(&spec["accessModes"]),
            volume_mode: volume_mode(spec),
            selector: spec["selector"]
                .is_object()
                .then(|| LabelSelector::from_object(&spec["selector"]).ok()),
        }
    }
}

/// Whom a volume is for: `spec.claimRef`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimReference {
    pub namespace: String,
    pub name: String,
    /// Empty: for whatever claim has that name.
    pub uid: String,
}

/// What a volume offers.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    pub name: String,
    pub class: String,
    pub size: Quantity,
    pub labels: Labels,
    pub claim: Option<ClaimReference>,
    /// Of the driver that serves it, and what that calls it.
    pub driver: Option<(String, String)>,
    access_modes: Vec<String>,
    volume_mode: String,
    /// Any of these; None: every node.
    nodes: Option<Vec<NodeTerm>>,
    is_available: bool,
    is_deleting: bool,
}

impl Offer {
    pub fn new(volume: &Value) -> Self {
        let (spec, metadata) = (&volume["spec"], &volume["metadata"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let labels = metadata["labels"].as_object().into_iter().flatten();
        let claim = &spec["claimRef"];
        let terms = spec["nodeAffinity"]["required"]["nodeSelectorTerms"].as_array();
        Self {
            name: text(&metadata["name"]),
            class: class_of(volume).to_owned(),
            size: storage(&spec["capacity"]),
            labels: labels.map(|(key, value)| (key.clone(), text(value))).collect(),
            claim: claim.is_object().then(|| ClaimReference {
                namespace: text(&claim["namespace"]),
                name: text(&claim["name"]),
                uid: text(&claim["uid"]),
            }),
            driver: spec["csi"]["driver"]
                .as_str()
                .map(|d| (d.to_owned(), text(&spec["csi"]["volumeHandle"]))),
            access_modes: words(&spec["accessModes"]),
            volume_mode: volume_mode(spec),
            nodes: terms.map(|terms| terms.iter().map(NodeTerm::new).collect()),
            is_available: volume["status"]["phase"] == "Available",
            is_deleting: !metadata["deletionTimestamp"].is_null(),
        }
    }

    /// Whether anybody may have it.
    pub fn is_free(&self) -> bool {
        self.claim.is_none() && self.is_available && !self.is_deleting
    }

    pub fn is_deleting(&self) -> bool {
        self.is_deleting
    }

    /// Whether it is kept for a claim: by name, and by UID where it names one.
    pub fn is_for(&self, namespace: &str, name: &str, uid: &str) -> bool {
        self.claim.as_ref().is_some_and(|claim| {
            claim.namespace == namespace && claim.name == name && (claim.uid.is_empty() || claim.uid == uid)
        })
    }

    /// Why it is not what a claim asks for by name, in the words of the event.
    pub fn mismatch(&self, demand: &Demand) -> Option<&'static str> {
        match () {
            () if self.size < demand.size => Some("requested PV is too small"),
            () if self.class != demand.class => Some("storageClassName does not match"),
            () if self.volume_mode != demand.volume_mode => Some("incompatible volumeMode"),
            () if !self.has_modes(demand) => Some("incompatible accessMode"),
            () => None,
        }
    }

    /// Whether one that is kept for a claim will do for it.
    pub fn is_enough_for(&self, demand: &Demand) -> bool {
        self.size >= demand.size && self.volume_mode == demand.volume_mode
    }

    pub fn suits(&self, demand: &Demand) -> bool {
        let selected = match &demand.selector {
            None => true,
            Some(selector) => selector.as_ref().is_some_and(|selector| selector.matches(&self.labels)),
        };
        selected && self.mismatch(demand).is_none()
    }

    fn has_modes(&self, demand: &Demand) -> bool {
        demand.access_modes.iter().all(|mode| self.access_modes.contains(mode))
    }

    /// Whether a node gets at it.
    pub fn is_reached_from(&self, node: &str, labels: &Labels) -> bool {
        self.nodes.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(node, labels)))
    }
}

/// Whether a class makes volumes that a node gets at: `allowedTopologies`.
pub fn class_allows(class: &Value, labels: &Labels) -> bool {
    let Some(terms) = class["allowedTopologies"].as_array().filter(|terms| !terms.is_empty()) else {
        return true;
    };
    terms.iter().any(|term| {
        let mut all = term["matchLabelExpressions"].as_array().into_iter().flatten();
        all.all(|expression| {
            let label = expression["key"].as_str().and_then(|key| labels.get(key));
            label.is_some_and(|label| words(&expression["values"]).contains(label))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn volume(more: Value) -> Offer {
        let mut volume = json!({
            "metadata": {"name": "v", "labels": {"tier": "fast"}},
            "spec": {"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "storageClassName": "disk"},
            "status": {"phase": "Available"},
        });
        for (field, value) in more.as_object().into_iter().flatten() {
            volume["spec"][field] = value.clone();
        }
        Offer::new(&volume)
    }

    fn claim(more: Value) -> Demand {
        let mut spec = json!({"resources": {"requests": {"storage": "4Gi"}}, "accessModes": ["ReadWriteOnce"], "storageClassName": "disk"});
        for (field, value) in more.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        Demand::new(&json!({"spec": spec}))
    }

    #[test]
    fn a_volume_suits_a_claim_in_size_class_modes_and_labels() {
        let rows = [
            (json!({}), true),
            (json!({"resources": {"requests": {"storage": "6Gi"}}}), false),
            (json!({"accessModes": ["ReadWriteMany"]}), false),
            (json!({"accessModes": ["ReadOnlyMany", "ReadWriteOnce"]}), true),
            (json!({"storageClassName": "other"}), false),
            (json!({"volumeMode": "Block"}), false),
            (json!({"selector": {"matchLabels": {"tier": "fast"}}}), true),
            (json!({"selector": {"matchLabels": {"tier": "slow"}}}), false),
        ];
        for (more, expected) in rows {
            assert_eq!(volume(json!({})).suits(&claim(more.clone())), expected, "{more}");
        }
    }

    #[test]
    fn a_volume_is_kept_for_a_claim_by_name_until_it_names_the_uid() {
        let kept = |uid: &str| volume(json!({"claimRef": {"namespace": "n", "name": "c", "uid": uid}}));
        assert!(kept("").is_for("n", "c", "1") && kept("1").is_for("n", "c", "1"));
        assert!(!kept("2").is_for("n", "c", "1") && !kept("").is_for("n", "d", "1"));
        assert!(!kept("").is_free() && volume(json!({})).is_free());
    }

    #[test]
    fn the_newest_marked_class_is_the_default() {
        let class = |name: &str, created: &str, mark: &str| json!({"metadata": {"name": name, "creationTimestamp": created, "annotations": {DEFAULT_CLASS[0]: mark}}});
        let classes = [
            class("a", "2026-01-01", "true"),
            class("b", "2026-01-02", "true"),
            class("c", "2026-01-03", "false"),
        ];
        assert_eq!(default_class(classes.iter()), Some("b"));
        assert_eq!(default_class(classes[2..].iter()), None);
    }

    #[test]
    fn a_node_has_to_make_a_volume_before_it_is_offered_and_to_remove_it_after() {
        let volume = |phase: &str, deleted: bool, policy: &str| {
            json!({"metadata": {"annotations": {DUTY: "n1"}, "finalizers": [DUTY_FINALIZER],
                "deletionTimestamp": if deleted { "2026-01-01T00:00:00Z".into() } else { Value::Null }},
                "spec": {"persistentVolumeReclaimPolicy": policy}, "status": {"phase": phase}})
        };
        let rows = [
            ("Pending", false, "Delete", true),
            ("Available", false, "Delete", false),
            ("Bound", true, "Delete", false),
            ("Released", true, "Delete", true),
            ("Released", true, "Retain", false),
            ("Released", false, "Delete", false),
        ];
        for (phase, deleted, policy, expected) in rows {
            assert_eq!(
                duty_of(&volume(phase, deleted, policy)).is_some(),
                expected,
                "{phase} {deleted} {policy}"
            );
        }
    }
}
