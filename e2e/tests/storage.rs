//! Storage as users see it: claims, what is made for them, what stays and what goes.
use anyhow::{Context, Result, ensure};
use pilothouse_e2e::{Cluster, IMAGE, Namespace, cluster, eventually};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

/// One cluster for the whole story: starting one costs more than all of it.
#[test]
fn what_pods_write_through_claims_outlives_them_and_goes_as_its_class_says() -> Result<()> {
    let script = cluster::checkout().join("examples/build-images.sh");
    ensure!(Command::new(script).status()?.success(), "the example image was not built");
    let cluster = Cluster::start("storage", &[])?;
    a_claim_on_the_nodes_disk(&cluster)?;
    a_class_that_retains(&cluster)?;
    a_stateful_set_keeps_its_data(&cluster)?;
    a_bucket_for_each_claim(&cluster)?;
    an_export_of_an_nfs_server(&cluster)?;
    Ok(())
}

fn claim(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec:\n  accessModes: [ReadWriteOnce]\n  \
         resources: {{requests: {{storage: 1Gi}}}}\n{more}"
    )
}

fn pod(name: &str, claim: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    \
         image: {IMAGE}\n    command: [sleep, '100000']\n    volumeMounts: [{{name: data, mountPath: /data}}]\n  volumes:\n  - name: data\n    \
         persistentVolumeClaim: {{claimName: {claim}}}\n"
    )
}

fn apply(ns: &Namespace, manifest: &str) -> Result<()> {
    ns.ok_with_input(&["apply", "-f", "-"], manifest).map(drop)
}

fn ready(ns: &Namespace, pod: &str) -> Result<()> {
    let waited = ns.run(&["wait", "--for=condition=Ready", "--timeout=60s", &format!("pod/{pod}")])?;
    if !waited.success {
        let told = ns.run(&["get", "events", "-o", "custom-columns=R:.reason,M:.message"])?.stdout;
        anyhow::bail!("{pod} is not ready: {}\n{told}", waited.stderr);
    }
    Ok(())
}

fn field(ns: &Namespace, what: &str, path: &str) -> Result<String> {
    ns.ok(&["get", what, "-o", &format!("jsonpath={path}")])
}

fn phase_becomes(ns: &Namespace, what: &str, wanted: &str) -> Result<()> {
    eventually(&format!("{what} is {wanted}"), SOON, || {
        let phase = field(ns, what, "{.status.phase}")?;
        ensure!(phase == wanted, "{what} is {phase}");
        Ok(Some(()))
    })
}

fn is_gone(ns: &Namespace, what: &str) -> Result<()> {
    eventually(&format!("{what} is gone"), SOON, || {
        let found = ns.run(&["get", what])?;
        Ok((!found.success && found.stderr.contains("NotFound")).then_some(()))
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

fn a_claim_on_the_nodes_disk(cluster: &Cluster) -> Result<()> {
    let classes = cluster.kubectl().ok(&["get", "storageclass", "--no-headers"])?;
    ensure!(classes.starts_with("local-path (default)"), "{classes}");
    let ns = Namespace::create(cluster, "local")?;
    apply(&ns, &claim("data", ""))?;
    told(&ns, "WaitForFirstConsumer: waiting for first consumer to be created before binding")?;
    apply(&ns, &pod("writer", "data"))?;
    ready(&ns, "writer")?;
    phase_becomes(&ns, "pvc/data", "Bound")?;
    told(&ns, "ProvisioningSucceeded: Successfully provisioned volume pvc-")?;
    ns.ok(&["exec", "writer", "--", "sh", "-c", "echo kept > /data/file"])?;
    ns.ok(&["delete", "pod", "writer"])?;
    apply(&ns, &pod("reader", "data"))?;
    ready(&ns, "reader")?;
    let read = ns.ok(&["exec", "reader", "--", "cat", "/data/file"])?;
    ensure!(read == "kept\n", "{read:?}");
    let volume = field(&ns, "pvc/data", "{.spec.volumeName}")?;
    let dir = PathBuf::from(field(&ns, &format!("pv/{volume}"), "{.spec.local.path}")?);
    ensure!(fs::read_to_string(dir.join("file"))? == "kept\n", "{} is not the volume", dir.display());
    ns.ok(&["patch", "pvc", "data", "-p", r#"{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}"#])?;
    eventually("the claim has grown", SOON, || {
        Ok((field(&ns, "pvc/data", "{.status.capacity.storage}")? == "2Gi").then_some(()))
    })?;
    ns.ok(&["delete", "pvc", "data", "--wait=false"])?;
    let line = ns.ok(&["get", "pvc", "data", "--no-headers"])?;
    ensure!(line.contains("Terminating"), "a claim in use went: {line}");
    ns.ok(&["delete", "pod", "reader"])?;
    is_gone(&ns, "pvc/data")?;
    is_gone(&ns, &format!("pv/{volume}"))?;
    ensure!(!dir.exists(), "{} is still there", dir.display());
    Ok(())
}

fn a_class_that_retains(cluster: &Cluster) -> Result<()> {
    let ns = Namespace::create(cluster, "retained")?;
    apply(
        &ns,
        "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: kept}\nprovisioner: pilothouse.io/local-path\n\
         reclaimPolicy: Retain\nvolumeBindingMode: WaitForFirstConsumer\n",
    )?;
    apply(&ns, &claim("data", "  storageClassName: kept\n"))?;
    apply(&ns, &pod("writer", "data"))?;
    ready(&ns, "writer")?;
    ns.ok(&["exec", "writer", "--", "sh", "-c", "echo kept > /data/file"])?;
    let volume = field(&ns, "pvc/data", "{.spec.volumeName}")?;
    let dir = PathBuf::from(field(&ns, &format!("pv/{volume}"), "{.spec.local.path}")?);
    let refused = ns.refused(
        &["patch", "pvc", "data", "-p", r#"{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}"#],
        "",
    )?;
    ensure!(refused.contains("only dynamically provisioned pvc can be resized"), "{refused}");
    ns.ok(&["delete", "pod/writer", "pvc/data"])?;
    phase_becomes(&ns, &format!("pv/{volume}"), "Released")?;
    ns.ok(&["delete", "pv", &volume])?;
    ensure!(fs::read_to_string(dir.join("file"))? == "kept\n", "what was to be retained is gone");
    Ok(())
}

fn a_stateful_set_keeps_its_data(cluster: &Cluster) -> Result<()> {
    let ns = Namespace::create(cluster, "stateful")?;
    let set = format!(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: db}}\nspec:\n  replicas: 2\n  serviceName: db\n  selector: {{matchLabels: {{app: db}}}}\n  \
         persistentVolumeClaimRetentionPolicy: {{whenDeleted: Delete, whenScaled: Retain}}\n  template:\n    metadata: {{labels: {{app: db}}}}\n    \
         spec:\n      terminationGracePeriodSeconds: 1\n      containers:\n      - name: main\n        image: {IMAGE}\n        command: [sleep, '100000']\n        \
         volumeMounts: [{{name: data, mountPath: /data, subPath: inner}}]\n  volumeClaimTemplates:\n  - metadata: {{name: data}}\n    spec:\n      \
         accessModes: [ReadWriteOncePod]\n      resources: {{requests: {{storage: 1Gi}}}}\n"
    );
    apply(&ns, &set)?;
    ns.ok(&["rollout", "status", "statefulset/db", "--timeout=90s"])?;
    ns.ok(&["exec", "db-1", "--", "sh", "-c", "echo one > /data/file"])?;
    ns.ok(&["delete", "pod", "db-1"])?;
    ns.ok(&["rollout", "status", "statefulset/db", "--timeout=90s"])?;
    let read = ns.ok(&["exec", "db-1", "--", "cat", "/data/file"])?;
    ensure!(read == "one\n", "{read:?}");
    ns.ok(&["scale", "statefulset/db", "--replicas=1"])?;
    is_gone(&ns, "pod/db-1")?;
    phase_becomes(&ns, "pvc/data-db-1", "Bound")?;
    ns.ok(&["delete", "statefulset", "db"])?;
    is_gone(&ns, "pvc/data-db-0")?;
    is_gone(&ns, "pvc/data-db-1")
}

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// What the S3 server answers. It asks who it is, and checks nothing.
fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let who = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x";
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: {who}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn s3_server(port: u16) -> Result<Server> {
    let port_text = port.to_string();
    let child = Command::new("python3")
        .env("PYTHONPATH", cluster::checkout().join(".tools/moto"))
        .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port_text])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("python3 is not on PATH")?;
    let server = Server(child);
    eventually("the S3 server answers", SOON, || get(port, "/").map(Some))?;
    Ok(server)
}

fn a_bucket_for_each_claim(cluster: &Cluster) -> Result<()> {
    let port = free_port()?;
    let _server = s3_server(port)?;
    let ns = Namespace::create(cluster, "buckets")?;
    ns.ok(&[
        "create",
        "secret",
        "generic",
        "keys",
        "--from-literal=accessKeyID=test",
        "--from-literal=secretAccessKey=test",
    ])?;
    for mounter in ["s3fs", "rclone"] {
        let class = format!(
            "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {{name: {mounter}}}\nprovisioner: pilothouse.io/s3\n\
             parameters: {{endpoint: 'http://127.0.0.1:{port}', region: us-east-1, mounter: {mounter}, secretName: keys}}\n"
        );
        apply(&ns, &class)?;
        let data = format!("data-{mounter}");
        apply(&ns, &claim(&data, &format!("  storageClassName: {mounter}\n")))?;
        phase_becomes(&ns, &format!("pvc/{data}"), "Bound")?;
        let (writer, reader) = (format!("writer-{mounter}"), format!("reader-{mounter}"));
        apply(&ns, &pod(&writer, &data))?;
        ready(&ns, &writer)?;
        ns.ok(&["exec", &writer, "--", "sh", "-c", "echo far > /data/file"])?;
        ns.ok(&["delete", "pod", &writer])?;
        let bucket = field(&ns, &format!("pvc/{data}"), "{.spec.volumeName}")?;
        let object = get(port, &format!("/{bucket}/file"))?;
        ensure!(object.ends_with("far\n"), "{object}");
        apply(&ns, &pod(&reader, &data))?;
        ready(&ns, &reader)?;
        let uid = field(&ns, &format!("pod/{reader}"), "{.metadata.uid}")?;
        ensure!(mounts_of(&uid)? == 1, "the bucket is not mounted");
        the_agent_is_killed(cluster)?;
        let read = eventually("the file is read after the agent's restart", SOON, || {
            ns.ok(&["exec", &reader, "--", "cat", "/data/file"]).map(Some)
        })?;
        ensure!(read == "far\n", "{read:?}");
        ns.ok(&["delete", "pod", &reader])?;
        ensure!(mounts_of(&uid)? == 0, "the bucket is still mounted");
        ns.ok(&["delete", "pvc", &data])?;
        is_gone(&ns, &format!("pv/{bucket}"))?;
        let gone = get(port, &format!("/{bucket}/"))?;
        ensure!(gone.starts_with("HTTP/1.1 404"), "{gone}");
    }
    Ok(())
}

fn the_agent_is_killed(cluster: &Cluster) -> Result<()> {
    let old = cluster.agent_pid()?;
    Command::new("kill").args(["-9", &old.to_string()]).status()?;
    eventually("another agent runs", SOON, || Ok(cluster.agent_pid().ok().filter(|pid| *pid != old)))
        .map(drop)
}

/// Mounts below a pod's directory.
fn mounts_of(uid: &str) -> Result<usize> {
    Ok(fs::read_to_string("/proc/self/mounts")?.lines().filter(|line| line.contains(uid)).count())
}

/// Where the kernel has no NFS client the pod must say so: what would be run is tested in the agent.
fn an_export_of_an_nfs_server(cluster: &Cluster) -> Result<()> {
    let ns = Namespace::create(cluster, "nfs")?;
    let port = free_port()?;
    let export = cluster.dir().join("export");
    fs::create_dir_all(&export)?;
    let _server = nfs_server(cluster, port)?;
    let class = format!(
        "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {{name: files}}\nprovisioner: pilothouse.io/nfs\n\
         parameters: {{server: 127.0.0.1, share: /export, subDir: '${{pvc.metadata.name}}'}}\nmountOptions: ['nfsvers=4.1', 'port={port}']\n"
    );
    apply(&ns, &class)?;
    apply(&ns, &claim("data", "  storageClassName: files\n"))?;
    let kernel_has_nfs =
        fs::read_to_string("/proc/filesystems")?.lines().any(|line| line.ends_with("\tnfs4"));
    if !kernel_has_nfs {
        told(
            &ns,
            "ProvisioningFailed: failed to provision volume with StorageClass \"files\": cannot mount 127.0.0.1:/export: \
                   this node's kernel has no NFS client",
        )?;
        let volume = format!(
            "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: by-hand}}\nspec:\n  capacity: {{storage: 1Gi}}\n  accessModes: [ReadWriteOnce]\n  \
             storageClassName: ''\n  mountOptions: ['port={port}']\n  nfs: {{server: 127.0.0.1, path: /export}}\n"
        );
        apply(&ns, &volume)?;
        apply(&ns, &claim("by-hand", "  storageClassName: ''\n  volumeName: by-hand\n"))?;
        phase_becomes(&ns, "pvc/by-hand", "Bound")?;
        apply(&ns, &pod("writer", "by-hand"))?;
        return told(
            &ns,
            "FailedMount: MountVolume.SetUp failed for volume \"by-hand\" : cannot mount 127.0.0.1:/export",
        );
    }
    apply(&ns, &pod("writer", "data"))?;
    ready(&ns, "writer")?;
    ns.ok(&["exec", "writer", "--", "sh", "-c", "echo shared > /data/file"])?;
    ensure!(fs::read_to_string(export.join("data/file"))? == "shared\n", "the file is not on the export");
    ns.ok(&["delete", "pod/writer", "pvc/data"])?;
    eventually("the directory is gone", SOON, || Ok((!export.join("data").exists()).then_some(())))
}

/// A server in user space, where one is installed.
fn nfs_server(cluster: &Cluster, port: u16) -> Result<Option<Server>> {
    let (dir, export) = (cluster.dir(), cluster.dir().join("export"));
    let config = dir.join("ganesha.conf");
    let text = format!(
        "NFS_CORE_PARAM {{ NFS_Port = {port}; Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false; }}\n\
         NFSv4 {{ Grace_Period = 1; RecoveryRoot = \"{0}/recovery\"; }}\n\
         EXPORT {{ Export_Id = 1; Path = \"{1}\"; Pseudo = \"/export\"; Access_Type = RW; Squash = No_Root_Squash; FSAL {{ Name = VFS; }} }}\n",
        dir.display(),
        export.display()
    );
    fs::write(&config, text)?;
    let mut command = Command::new("ganesha.nfsd");
    command.arg("-F").arg("-f").arg(&config).arg("-L").arg(dir.join("ganesha.log"));
    command
        .arg("-p")
        .arg(dir.join("ganesha.pid"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    match command.spawn() {
        Ok(child) => Ok(Some(Server(child))),
        Err(_) => Ok(None),
    }
}
