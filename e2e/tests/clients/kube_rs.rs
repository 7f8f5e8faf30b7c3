//! kube-rs: typed and dynamic objects, every kind of patch, watchers and reflectors through a restart, logs and exec.
use anyhow::{Context, Result, bail, ensure};
use futures::{AsyncReadExt, StreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{AttachParams, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Error, ResourceExt};
use pilothouse_e2e::{Cluster, IMAGE, rust_client};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;

const NAMESPACE: &str = "rust";
const SOON: Duration = Duration::from_secs(30);

fn typed<T: DeserializeOwned>(value: Value) -> Result<T> {
    Ok(serde_json::from_value(value)?)
}

fn refused(outcome: Result<impl Sized, Error>) -> Result<kube::core::Status> {
    match outcome {
        Err(Error::Api(status)) => Ok(*status),
        Err(other) => Err(other.into()),
        Ok(_) => bail!("it was not refused"),
    }
}

/// Waits for `seen`, which is looked at again and again.
async fn eventually(what: &str, seen: impl Fn() -> bool) -> Result<()> {
    let polled = async {
        while !seen() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON, polled).await.with_context(|| format!("{what}: not within {SOON:?}"))
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// What needs no node. The cluster is stopped and started on the way.
pub fn reads_writes_and_watches(cluster: &mut Cluster) -> Result<()> {
    let runtime = runtime()?;
    let client = runtime.block_on(rust_client::client(cluster))?;
    runtime.block_on(async {
        let namespace = typed(json!({"metadata": {"name": NAMESPACE}}))?;
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
        writes_and_reads(&client).await?;
        applies(&client).await?;
        extends(&client).await
    })?;
    reflects_through_a_restart(cluster, &runtime, &client)
}

async fn writes_and_reads(client: &Client) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    for (name, color) in [("one", "red"), ("two", "red"), ("three", "blue")] {
        let map: ConfigMap = typed(
            json!({"metadata": {"name": name, "labels": {"color": color}}, "data": {"a": "1", "b": "2"}}),
        )?;
        maps.create(&PostParams::default(), &map).await?;
    }
    let one = maps.get("one").await?;
    let again = refused(maps.create(&PostParams::default(), &one).await)?;
    // A version in what is to be made is refused before its name is looked at.
    ensure!(again.message.contains("resourceVersion should not be set"), "{again:?}");
    ensure!(maps.get_opt("none").await?.is_none(), "an object that nobody made");

    let red = maps.list(&ListParams::default().labels("color=red")).await?;
    ensure!(red.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>() == ["one", "two"], "{red:?}");
    let first = maps.list(&ListParams::default().limit(1).labels("color=red")).await?;
    let token = first.metadata.continue_.context("no second page")?;
    let second = maps.list(&ListParams::default().continue_token(&token).labels("color=red")).await?;
    ensure!(
        first.items.len() == 1 && second.items.len() == 1,
        "{} and {}",
        first.items.len(),
        second.items.len()
    );

    let params = PatchParams::default();
    let merged = maps.patch("one", &params, &Patch::Merge(json!({"data": {"a": null, "c": "3"}}))).await?;
    let data = |map: &ConfigMap| serde_json::to_value(&map.data).unwrap_or_default();
    ensure!(data(&merged) == json!({"b": "2", "c": "3"}), "{merged:?}");
    let steps = json!([{"op": "test", "path": "/data/c", "value": "3"}, {"op": "move", "from": "/data/c", "path": "/data/d"}]);
    let steps = Patch::Json::<()>(serde_json::from_value(steps)?);
    let moved = maps.patch("one", &params, &steps).await?;
    ensure!(data(&moved) == json!({"b": "2", "d": "3"}), "{moved:?}");
    let untrue = refused(maps.patch("one", &params, &steps).await)?;
    ensure!(untrue.code == 422, "{untrue:?}");
    let strategic = Patch::Strategic(
        json!({"metadata": {"finalizers": ["example.com/a"], "labels": {"color": "green"}}}),
    );
    let held = maps.patch("one", &params, &strategic).await?;
    ensure!(held.labels().get("color").is_some_and(|color| color == "green"), "{held:?}");

    // What was read before is not written over what came after.
    let mut stale = one;
    stale.data = None;
    let conflict = refused(maps.replace("one", &PostParams::default(), &stale).await)?;
    ensure!(conflict.code == 409 && conflict.reason == "Conflict", "{conflict:?}");

    let going = maps.delete("one", &DeleteParams::default()).await?;
    let going = going.left().context("a finalizer holds it, and it was told to be gone")?;
    ensure!(going.metadata.deletion_timestamp.is_some(), "{going:?}");
    let free = json!([{"op": "remove", "path": "/metadata/finalizers"}]);
    maps.patch("one", &params, &Patch::Json::<()>(serde_json::from_value(free)?)).await?;
    ensure!(maps.get_opt("one").await?.is_none(), "it outlived its last finalizer");
    ensure!(
        maps.delete("two", &DeleteParams::default()).await?.is_right(),
        "what is gone at once answers Success"
    );
    maps.delete_collection(&DeleteParams::default(), &ListParams::default().labels("color=blue")).await?;
    ensure!(maps.get_opt("three").await?.is_none(), "it was not deleted with its collection");
    Ok(())
}

async fn applies(client: &Client) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let labels = json!({"app": "web"});
    let wanted = |replicas: u32, image: &str| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": image}]}}}})
    };
    let apply = |manager: &str| PatchParams::apply(manager);
    let made = deployments.patch("web", &apply("one"), &Patch::Apply(wanted(1, "a:1"))).await?;
    let again = deployments.patch("web", &apply("one"), &Patch::Apply(wanted(1, "a:1"))).await?;
    ensure!(made.spec == again.spec, "applied again, it changed: {again:?}");
    let conflict = refused(deployments.patch("web", &apply("two"), &Patch::Apply(wanted(3, "a:1"))).await)?;
    ensure!(conflict.code == 409 && conflict.message.contains("conflict with \"one\""), "{conflict:?}");
    let forced = deployments.patch("web", &apply("two").force(), &Patch::Apply(wanted(3, "a:1"))).await?;
    ensure!(forced.spec.as_ref().and_then(|spec| spec.replicas) == Some(3), "{forced:?}");
    let dry = deployments.patch("web", &apply("two").dry_run(), &Patch::Apply(wanted(9, "a:1"))).await?;
    ensure!(dry.spec.as_ref().and_then(|spec| spec.replicas) == Some(9), "{dry:?}");
    let scale = deployments.get_scale("web").await?;
    ensure!(scale.spec.and_then(|spec| spec.replicas) == Some(3), "what was run dry was written");
    let two = Patch::Merge(json!({"spec": {"replicas": 2}}));
    let scaled = deployments.patch_scale("web", &PatchParams::default(), &two).await?;
    ensure!(scaled.spec.as_ref().and_then(|spec| spec.replicas) == Some(2), "{scaled:?}");
    deployments.delete("web", &DeleteParams::foreground()).await?;
    Ok(())
}

/// A kind of its own: typed where it is defined, dynamic where it is used.
async fn extends(client: &Client) -> Result<()> {
    let definition: CustomResourceDefinition = typed(
        json!({"metadata": {"name": "ships.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"plural": "ships", "singular": "ship", "kind": "Ship"},
        "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {"masts": {"type": "integer", "default": 2, "maximum": 5}}},
                "status": {"type": "object", "properties": {"afloat": {"type": "boolean"}}}}}}}]}}),
    )?;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.create(&PostParams::default(), &definition).await?;
    let name = "ships.example.com";
    let established = await_condition(definitions, name, conditions::is_crd_established());
    tokio::time::timeout(SOON, established).await??;

    let (resource, _) =
        kube::discovery::pinned_kind(client, &GroupVersionKind::gvk("example.com", "v1", "Ship")).await?;
    ensure!(resource.plural == "ships", "{resource:?}");
    let ships: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &resource);
    let ship = DynamicObject::new("argo", &resource).data(json!({"spec": {}, "status": {"afloat": true}}));
    let made = ships.create(&PostParams::default(), &ship).await?;
    ensure!(made.data["spec"]["masts"] == 2 && made.data["status"].is_null(), "{made:?}");
    let afloat = Patch::Merge(json!({"status": {"afloat": true}}));
    let reported = ships.patch_status("argo", &PatchParams::default(), &afloat).await?;
    ensure!(reported.data["status"]["afloat"] == true, "{reported:?}");
    let tall = json!({"apiVersion": "example.com/v1", "kind": "Ship", "spec": {"masts": 6}});
    let invalid =
        refused(ships.patch("argo", &PatchParams::apply("one").force(), &Patch::Apply(tall)).await)?;
    ensure!(invalid.code == 422 && invalid.message.contains("spec.masts"), "{invalid:?}");
    Ok(())
}

/// A reflector that runs for as long as its task does, and counts how often it began anew.
fn reflect(
    runtime: &Runtime,
    api: Api<DynamicObject>,
    kind: &ApiResource,
    config: watcher::Config,
) -> Reflected {
    let writer = reflector::store::Writer::new(kind.clone());
    let (store, starts) = (writer.as_reader(), Arc::new(AtomicUsize::new(0)));
    let counted = starts.clone();
    let stream = watcher(api, config).inspect(move |event| {
        if matches!(event, Ok(watcher::Event::Init)) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let stream = reflector::reflector(writer, stream.default_backoff());
    runtime.spawn(stream.for_each(|_| std::future::ready(())));
    Reflected { store, starts, kind: kind.clone() }
}

struct Reflected {
    store: Store<DynamicObject>,
    starts: Arc<AtomicUsize>,
    kind: ApiResource,
}

impl Reflected {
    fn has(&self, name: &str) -> bool {
        self.store.get(&ObjectRef::new_with(name, self.kind.clone()).within(NAMESPACE)).is_some()
    }
}

/// A restarted server goes on with the watches of what it keeps a log of. Of leases it keeps none, so these watches are told
/// 410 and begin with a list.
fn reflects_through_a_restart(cluster: &mut Cluster, runtime: &Runtime, client: &Client) -> Result<()> {
    let (maps, leases) = (ApiResource::erase::<ConfigMap>(&()), ApiResource::erase::<Lease>(&()));
    let api = |kind: &ApiResource| Api::<DynamicObject>::namespaced_with(client.clone(), NAMESPACE, kind);
    let create = |kind: &ApiResource, name: &str| {
        let object = DynamicObject::new(name, kind).within(NAMESPACE);
        runtime.block_on(api(kind).create(&PostParams::default(), &object)).map(drop)
    };
    for kind in [&maps, &leases] {
        create(kind, "before")?;
        create(kind, "going")?;
    }
    let configs = || [watcher::Config::default(), watcher::Config::default().streaming_lists()];
    let reflected: Vec<Reflected> = [&maps, &leases]
        .into_iter()
        .flat_map(|kind| configs().map(|config| reflect(runtime, api(kind), kind, config)))
        .collect();
    for one in &reflected {
        runtime.block_on(eventually("the list", || one.has("before") && one.has("going")))?;
    }

    // Something happens that the watches of leases are not told of, so they stand behind what the server starts from.
    create(&maps, "meanwhile")?;
    for one in reflected.iter().filter(|one| one.kind.plural == maps.plural) {
        runtime.block_on(eventually("the last event", || one.has("meanwhile")))?;
    }

    cluster.kill()?;
    cluster.resume()?;
    for kind in [&maps, &leases] {
        runtime.block_on(api(kind).delete("going", &DeleteParams::default()))?;
        create(kind, "after")?;
    }
    for one in &reflected {
        let what = format!("what changed after the restart: {}", one.kind.plural);
        runtime.block_on(eventually(&what, || one.has("before") && one.has("after") && !one.has("going")))?;
        let starts = one.starts.load(Ordering::Relaxed);
        ensure!((starts > 1) == (one.kind.plural == "leases"), "{} began {starts} times", one.kind.plural);
    }
    Ok(())
}

/// What needs a node: logs, and a command with its standard streams over a WebSocket.
pub fn logs_and_executes(cluster: &Cluster) -> Result<()> {
    runtime()?.block_on(async {
        let client = rust_client::client(cluster).await?;
        let pods: Api<Pod> = Api::default_namespaced(client);
        let script = "echo begun; exec sleep 3600";
        let pod: Pod =
            typed(json!({"metadata": {"name": "rust"}, "spec": {"terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": IMAGE, "command": ["sh", "-c", script]}]}}))?;
        pods.create(&PostParams::default(), &pod).await?;
        let running = await_condition(pods.clone(), "rust", conditions::is_pod_running());
        tokio::time::timeout(SOON, running).await??;

        let mut followed =
            pods.log_stream("rust", &LogParams { follow: true, ..LogParams::default() }).await?;
        let mut first = [0; 6];
        tokio::time::timeout(SOON, followed.read_exact(&mut first)).await??;
        ensure!(&first == b"begun\n", "{first:?}");
        let last = LogParams { tail_lines: Some(1), ..LogParams::default() };
        ensure!(pods.logs("rust", &last).await? == "begun\n");

        let streams = AttachParams::default().stdin(true).stderr(false);
        let mut process = pods.exec("rust", ["tr", "a-z", "A-Z"], &streams).await?;
        let status = process.take_status().context("no status")?;
        let mut input = process.stdin().context("no input")?;
        let mut output = process.stdout().context("no output")?;
        input.write_all(b"from outside\n").await?;
        input.shutdown().await?;
        drop(input);
        let mut said = String::new();
        let read = tokio::io::AsyncReadExt::read_to_string(&mut output, &mut said);
        tokio::time::timeout(SOON, read).await??;
        ensure!(said == "FROM OUTSIDE\n", "{said:?}");
        let status = tokio::time::timeout(SOON, status).await?.context("no status came")?;
        ensure!(status.status.as_deref() == Some("Success"), "{status:?}");

        let quiet = AttachParams::default().stdin(false);
        let mut failing = pods.exec("rust", ["sh", "-c", "exit 3"], &quiet).await?;
        let status = failing.take_status().context("no status")?;
        let status = tokio::time::timeout(SOON, status).await?.context("no status came")?;
        ensure!(status.reason.as_deref() == Some("NonZeroExitCode"), "{status:?}");
        pods.delete("rust", &DeleteParams::default()).await?;
        Ok(())
    })
}
