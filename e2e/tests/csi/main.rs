//! Volumes of storage drivers: a driver registers, and pods get what it serves, as with Kubernetes. The driver is the test's
//! own; what its provisioner, attacher and resizer would write through the API, the test writes.
mod driver;

use anyhow::{Result, ensure};
use driver::{Driver, NAME, TOPOLOGY};
use pilothouse_e2e::{Cluster, IMAGE, Namespace, cluster, eventually};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

/// The node's root directory, which may be a mount of its own.
struct Root(PathBuf);

impl Drop for Root {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-R", "-l"]).arg(&self.0).output();
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_driver_that_registers_serves_claims_pods_own_volumes_and_block_devices() -> Result<()> {
    let script = cluster::checkout().join("examples/build-images.sh");
    ensure!(Command::new(script).status()?.success(), "the example image was not built");
    let root = Root(std::env::temp_dir().join(format!("pilothouse-e2e-kubelet-{}", std::process::id())));
    fs::create_dir_all(&root.0)?;
    let cluster = Cluster::start("csi", &["--root-dir", &root.0.to_string_lossy()])?;
    let ns = Namespace::create(&cluster, "csi")?;
    apply(
        &ns,
        &format!(
            "apiVersion: storage.k8s.io/v1\nkind: CSIDriver\nmetadata: {{name: {NAME}}}\nspec:\n  attachRequired: true\n  podInfoOnMount: true\n  \
             fsGroupPolicy: File\n  volumeLifecycleModes: [Persistent, Ephemeral]\n---\n\
             apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {{name: dir}}\nprovisioner: {NAME}\nallowVolumeExpansion: true\n\
             volumeBindingMode: WaitForFirstConsumer\n"
        ),
    )?;
    a_pod_waits_for_a_driver_that_is_not_there(&ns)?;
    let driver = Driver::start(&root.0, &cluster.dir().join("volumes"))?;
    the_node_tells_of_its_driver(&ns, &driver)?;
    told_ready(&ns, "early")?;
    ns.ok(&["delete", "pod", "early"])?;
    a_claim_is_provisioned_attached_and_mounted(&cluster, &ns, &driver, &root.0)?;
    a_volume_grows_while_it_is_used(&ns, &driver)?;
    a_volume_leaves_with_its_last_pod(&cluster, &ns, &driver)?;
    a_block_device_reaches_the_container(&ns, &driver)?;
    driver.leave()?;
    eventually("the driver is gone from the node", SOON, || {
        Ok(field(&ns, "csinodes", "{.items[*].spec.drivers[*].name}")?.is_empty().then_some(()))
    })
}

fn apply(ns: &Namespace, manifest: &str) -> Result<()> {
    ns.ok_with_input(&["apply", "-f", "-"], manifest).map(drop)
}

fn field(ns: &Namespace, what: &str, path: &str) -> Result<String> {
    let mut words = vec!["get"];
    words.extend(what.split(' '));
    let path = format!("jsonpath={path}");
    words.extend(["-o", &path]);
    ns.ok(&words)
}

fn becomes(ns: &Namespace, what: &str, path: &str, wanted: &str) -> Result<()> {
    eventually(&format!("{what} {path} is {wanted:?}"), SOON, || {
        let found = field(ns, what, path)?;
        ensure!(found == wanted, "{what} {path} is {found:?}");
        Ok(Some(()))
    })
}

fn told(ns: &Namespace, words: &str) -> Result<()> {
    eventually(&format!("an event says {words:?}"), SOON, || {
        let all =
            ns.ok(&["get", "events", "-o", "jsonpath={range .items[*]}{.reason}: {.message}{'\\n'}{end}"])?;
        ensure!(all.contains(words), "{all}");
        Ok(Some(()))
    })
}

fn told_ready(ns: &Namespace, pod: &str) -> Result<()> {
    let waited = ns.run(&["wait", "--for=condition=Ready", "--timeout=60s", &format!("pod/{pod}")])?;
    if !waited.success {
        let told = ns.run(&["get", "events", "-o", "custom-columns=R:.reason,M:.message"])?.stdout;
        anyhow::bail!("{pod} is not ready: {}\n{told}", waited.stderr);
    }
    Ok(())
}

fn pod(name: &str, uses: &str, volume: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  securityContext: {{fsGroup: 4321}}\n  \
         containers:\n  - name: main\n    image: {IMAGE}\n    command: [sleep, '100000']\n    {uses}\n  volumes:\n  - name: data\n    {volume}\n"
    )
}

const MOUNTED: &str = "volumeMounts: [{name: data, mountPath: /data}]";

fn claimed(name: &str, claim: &str) -> String {
    pod(name, MOUNTED, &format!("persistentVolumeClaim: {{claimName: {claim}}}"))
}

fn a_pod_waits_for_a_driver_that_is_not_there(ns: &Namespace) -> Result<()> {
    apply(
        ns,
        &pod("early", MOUNTED, &format!("csi: {{driver: {NAME}, volumeAttributes: {{flavour: plain}}}}")),
    )?;
    told(ns, &format!("driver name {NAME} not found in the list of registered CSI drivers"))
}

fn the_node_tells_of_its_driver(ns: &Namespace, driver: &Driver) -> Result<()> {
    let entry = "{.items[0].spec.drivers[0]['name','nodeID','topologyKeys','allocatable.count']}";
    becomes(ns, "csinodes", entry, &format!("{NAME} node-one [\"{TOPOLOGY}\"] 8"))?;
    let label = format!("{{.items[0].metadata.labels.{}}}", TOPOLOGY.replace('.', "\\."));
    becomes(ns, "nodes", &label, "one")?;
    eventually("the driver is told that it is registered", SOON, || {
        let notified = driver.asked().into_iter().find(|asked| asked.method == "NotifyRegistrationStatus");
        Ok(notified.filter(|asked| asked.capacity == 1 && asked.volume.is_empty()))
    })
    .map(drop)
}

/// What the driver's provisioner writes once the scheduler has chosen a node.
fn provision(ns: &Namespace, claim: &str, mode: &str) -> Result<String> {
    let annotation = |name: &str| format!("{{.metadata.annotations.volume\\.kubernetes\\.io/{name}}}");
    becomes(ns, &format!("pvc {claim}"), &annotation("storage-provisioner"), NAME)?;
    let node = field(ns, &format!("pvc {claim}"), &annotation("selected-node"))?;
    ensure!(!node.is_empty(), "no node is chosen for {claim}");
    let uid = field(ns, &format!("pvc {claim}"), "{.metadata.uid}")?;
    let namespace = field(ns, &format!("pvc {claim}"), "{.metadata.namespace}")?;
    let handle = format!("vol-{claim}");
    apply(
        ns,
        &format!(
            "apiVersion: v1\nkind: PersistentVolume\nmetadata:\n  name: pvc-{uid}\n  annotations: {{pv.kubernetes.io/provisioned-by: {NAME}}}\nspec:\n  \
             capacity: {{storage: 1Gi}}\n  accessModes: [ReadWriteOnce]\n  persistentVolumeReclaimPolicy: Retain\n  storageClassName: dir\n  volumeMode: {mode}\n  \
             claimRef: {{apiVersion: v1, kind: PersistentVolumeClaim, namespace: {namespace}, name: {claim}, uid: {uid}}}\n  \
             csi: {{driver: {NAME}, volumeHandle: {handle}, volumeAttributes: {{flavour: rich}}}}\n  \
             nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: {TOPOLOGY}, operator: In, values: [one]}}]}}]}}}}\n"
        ),
    )?;
    Ok(handle)
}

/// What the driver's attacher writes.
fn attach(ns: &Namespace) -> Result<()> {
    let name = eventually("a volume is to be attached", SOON, || {
        let open = field(ns, "volumeattachments", "{.items[?(@.status.attached==false)].metadata.name}")?;
        Ok((!open.is_empty()).then_some(open))
    })?;
    let status = r#"{"status":{"attached":true,"attachmentMetadata":{"disk":"vdb"}}}"#;
    ns.ok(&["patch", "volumeattachment", &name, "--subresource=status", "--type=merge", "-p", status])
        .map(drop)
}

fn claim(name: &str, mode: &str) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec:\n  accessModes: [ReadWriteOnce]\n  \
         storageClassName: dir\n  volumeMode: {mode}\n  resources: {{requests: {{storage: 1Gi}}}}\n"
    )
}

fn a_claim_is_provisioned_attached_and_mounted(
    cluster: &Cluster,
    ns: &Namespace,
    driver: &Driver,
    root: &Path,
) -> Result<()> {
    let early = driver.asked().into_iter().find(|asked| asked.method == "NodePublishVolume");
    let early = early.map(|asked| asked.context).unwrap_or_default();
    ensure!(early.get("csi.storage.k8s.io/ephemeral").map(String::as_str) == Some("true"), "{early:?}");
    ensure!(early.get("flavour").map(String::as_str) == Some("plain"), "{early:?}");
    apply(ns, &claim("data", "Filesystem"))?;
    apply(ns, &claimed("writer", "data"))?;
    let volume = provision(ns, "data", "Filesystem")?;
    attach(ns)?;
    told_ready(ns, "writer")?;
    ensure!(driver.methods(&volume) == ["NodeStageVolume", "NodePublishVolume"], "{:?}", driver.asked());
    let asked = driver.asked();
    let of = |method: &str| asked.iter().find(|asked| asked.volume == volume && asked.method == method);
    let staged = of("NodeStageVolume").map(|asked| asked.context.clone()).unwrap_or_default();
    ensure!(staged.get("disk").map(String::as_str) == Some("vdb"), "{staged:?}");
    let published = of("NodePublishVolume").map(|asked| asked.context.clone()).unwrap_or_default();
    ensure!(
        published.get("csi.storage.k8s.io/pod.name").map(String::as_str) == Some("writer"),
        "{published:?}"
    );
    ns.ok(&["exec", "writer", "--", "sh", "-c", "echo kept > /data/file"])?;
    ensure!(
        fs::read_to_string(driver.dir(&volume).join("file"))? == "kept\n",
        "the file is not the driver's"
    );
    let owner = ns.ok(&["exec", "writer", "--", "stat", "-c", "%g", "/data"])?;
    ensure!(owner.trim() == "4321", "the files belong to group {owner}");
    let (uid, name) =
        (field(ns, "pod writer", "{.metadata.uid}")?, field(ns, "pvc data", "{.spec.volumeName}")?);
    let place = root.join("pods").join(uid).join("volumes/kubernetes.io~csi").join(name);
    ensure!(
        place.join("vol_data.json").is_file() && place.join("mount/file").is_file(),
        "nothing is at {}",
        place.display()
    );
    let in_use = format!("kubernetes.io/csi/{NAME}^{volume}");
    becomes(ns, "nodes", "{.items[0].status.volumesInUse[*]}", &in_use)?;
    becomes(ns, "nodes", "{.items[0].status.volumesAttached[*].name}", &in_use)?;
    // The agent finds what it left.
    let old = cluster.agent_pid()?;
    Command::new("kill").args(["-9", &old.to_string()]).status()?;
    eventually("another agent runs", SOON, || Ok(cluster.agent_pid().ok().filter(|pid| *pid != old)))?;
    let read = eventually("the file is read after the agent's restart", SOON, || {
        ns.ok(&["exec", "writer", "--", "cat", "/data/file"]).map(Some)
    })?;
    ensure!(read == "kept\n", "{read:?}");
    becomes(ns, "nodes", "{.items[0].status.volumesInUse[*]}", &in_use)
}

/// The resizer enlarges the volume; the rest is the node's.
fn a_volume_grows_while_it_is_used(ns: &Namespace, driver: &Driver) -> Result<()> {
    ns.ok(&["patch", "pvc", "data", "-p", r#"{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}"#])?;
    told(ns, "ExternalExpanding: waiting for an external controller to expand this PVC")?;
    let volume = field(ns, "pvc data", "{.spec.volumeName}")?;
    let pending = r#"{"status":{"conditions":[{"type":"FileSystemResizePending","status":"True"}]}}"#;
    ns.ok(&["patch", "pvc", "data", "--subresource=status", "--type=merge", "-p", pending])?;
    ns.ok(&["patch", "pv", &volume, "-p", r#"{"spec":{"capacity":{"storage":"2Gi"}}}"#])?;
    becomes(ns, "pvc data", "{.status.capacity.storage}", "2Gi")?;
    ensure!(field(ns, "pvc data", "{.status.conditions}")?.is_empty(), "the expansion left a condition");
    told(ns, "FileSystemResizeSuccessful: MountVolume.NodeExpandVolume succeeded for volume")?;
    let grown = driver.asked().into_iter().find(|asked| asked.method == "NodeExpandVolume");
    ensure!(grown.as_ref().is_some_and(|asked| asked.capacity == 2 << 30), "{grown:?}");
    Ok(())
}

fn a_volume_leaves_with_its_last_pod(cluster: &Cluster, ns: &Namespace, driver: &Driver) -> Result<()> {
    apply(ns, &claimed("second", "data"))?;
    told_ready(ns, "second")?;
    ns.ok(&["delete", "pod", "writer"])?;
    let count = |method: &str| driver.methods("vol-data").iter().filter(|asked| *asked == method).count();
    ensure!((count("NodeUnpublishVolume"), count("NodeUnstageVolume")) == (1, 0), "{:?}", driver.asked());
    let read = ns.ok(&["exec", "second", "--", "cat", "/data/file"])?;
    ensure!(read == "kept\n", "{read:?}");
    ns.ok(&["delete", "pod", "second"])?;
    ensure!((count("NodeUnpublishVolume"), count("NodeUnstageVolume")) == (2, 1), "{:?}", driver.asked());
    becomes(ns, "nodes", "{.items[0].status.volumesInUse[*]}", "")?;
    becomes(ns, "volumeattachments", "{.items[*].metadata.name}", "")?;
    apply(ns, &claimed("again", "data"))?;
    attach(ns)?;
    told_ready(ns, "again")?;
    let read = ns.ok(&["exec", "again", "--", "cat", "/data/file"])?;
    ensure!(read == "kept\n", "{read:?}");
    // Deleted while no agent looks, it is taken down by the next one.
    let old = cluster.agent_pid()?;
    Command::new("kill").args(["-9", &old.to_string()]).status()?;
    ns.ok(&["delete", "pod", "again"])?;
    becomes(ns, "volumeattachments", "{.items[*].metadata.name}", "")
}

/// Where the machine has loop devices.
fn a_block_device_reaches_the_container(ns: &Namespace, driver: &Driver) -> Result<()> {
    if !Path::new("/dev/loop-control").exists()
        || Command::new("losetup").arg("-f").output().is_ok_and(|o| !o.status.success())
    {
        return Ok(());
    }
    apply(ns, &claim("raw", "Block"))?;
    let uses = "volumeDevices: [{name: data, devicePath: /dev/disk}]";
    apply(ns, &pod("raw", uses, "persistentVolumeClaim: {claimName: raw}"))?;
    let volume = provision(ns, "raw", "Block")?;
    attach(ns)?;
    told_ready(ns, "raw")?;
    ns.ok(&[
        "exec",
        "raw",
        "--",
        "sh",
        "-c",
        "test -b /dev/disk && echo block | dd of=/dev/disk conv=notrunc,fsync",
    ])?;
    let disk = fs::read(driver.dir(&volume).join("disk"))?;
    ensure!(disk.starts_with(b"block\n"), "the device is another");
    ns.ok(&["delete", "pod", "raw"])?;
    let methods = driver.methods(&volume);
    ensure!(methods.ends_with(&["NodeUnpublishVolume".into(), "NodeUnstageVolume".into()]), "{methods:?}");
    Ok(())
}
