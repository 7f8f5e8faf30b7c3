//! The agent itself: what the workers of all pods share, and who is woken by what the server says.
use crate::admission::Admitted;
use crate::assigned::Assigned;
use crate::connection::Outbox;
use crate::csi::Drivers;
use crate::environment::Sources;
use crate::eviction::{Pressure, Readings};
use crate::image_disposal::Image;
use crate::image_disposal::Ledger;
use crate::network::{Addresses, Network};
use crate::pod_sync;
use crate::pod_worker::{self, Worker};
use crate::resize::{self, Allocation};
use crate::runtime::ObservedPod;
use crate::runtime::docker::{Docker, SystemInfo};
use crate::runtime::silence::LastAnswer;
use crate::settings::Settings;
use crate::static_pods::{self, Statics};
use crate::tokens::Tokens;
use crate::volumes::duties::Duties;
use crate::{node_status, readings, volumes};
use anyhow::Result;
use futures::StreamExt;
use parking_lot::Mutex;
use pilothouse_api::jiff::Timestamp;
use pilothouse_protocol::{NodeMessage, ObjectChange, PodRef};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, OnceCell, Semaphore, watch};
use tokio_util::sync::CancellationToken;

pub const NODES: &str = "nodes";
pub const SERVICES: &str = "services";
pub const SLICES: &str = "endpointslices.discovery.k8s.io";
/// Behind the runtime's events: a lost one costs at most this.
const RELIST: Duration = Duration::from_secs(30);
/// Before a runtime that went away is looked for again.
const RUNTIME_PAUSE: Duration = Duration::from_millis(500);
/// Images pulled at the same time.
const PULLS: usize = 4;
/// Sandboxes that come up at the same time, a processor: a runtime that is asked for a hundred at once takes as long for all
/// of them, and until then not one pod runs.
const SANDBOXES: usize = 4;

/// Everything the workers share.
pub struct Agent {
    pub node: String,
    pub data_dir: PathBuf,
    pub settings: Settings,
    pub runtime: Docker,
    pub outbox: Outbox,
    pub host_ip: String,
    pub assigned: Mutex<Assigned>,
    pub admitted: Mutex<Admitted>,
    /// The pods that this machine itself brings.
    pub statics: Mutex<Statics>,
    pub network: Network,
    pub tokens: Tokens,
    /// What the node promised to each pod.
    pub promises: Mutex<resize::Book>,
    /// Turns to pull an image.
    pub pulls: Semaphore,
    /// Turns to bring a sandbox up.
    pub sandboxes: Semaphore,
    /// Which images came by this node.
    pub images: Mutex<Ledger>,
    /// What the node is short of.
    pub pressure: Mutex<Pressure>,
    /// The node has something to tell of itself before its next look.
    pub node_changed: Notify,
    /// Where the runtime keeps images and containers, if that is on this machine.
    image_dir: OnceCell<PathBuf>,
    /// The Node as it was found last.
    pub node_object: Mutex<Value>,
    /// What the runtime said of itself and of its images last.
    pub runtime_answered: Mutex<LastAnswer<(SystemInfo, Vec<Image>)>>,
    /// Counts how often the runtime came back: what failed without it is tried again at once.
    pub runtime_returned: watch::Sender<u64>,
    /// Cancelled when the machine shuts down: nothing new is let in.
    pub shutting_down: CancellationToken,
    /// Ends the workers with the agent.
    pub shutdown: CancellationToken,
    /// What is made and removed here for PersistentVolumes.
    pub duties: Duties,
    /// The storage drivers on this node.
    pub drivers: Drivers,
    workers: Mutex<HashMap<String, Arc<Worker>>>,
}

impl Agent {
    pub fn new(
        node: String,
        data_dir: PathBuf,
        runtime: Docker,
        settings: Settings,
        outbox: Outbox,
        shutdown: CancellationToken,
    ) -> Self {
        let drivers = Drivers::new(settings.root_dir.clone(), node.clone(), outbox.clone());
        for (volume, pod) in volumes::held(&data_dir) {
            drivers.hold(&volume, &pod);
        }
        Self {
            node,
            images: Mutex::new(Ledger::load(&data_dir)),
            data_dir,
            settings,
            runtime,
            outbox,
            host_ip: node_status::host_address(),
            assigned: Mutex::default(),
            admitted: Mutex::default(),
            statics: Mutex::default(),
            network: Network::default(),
            tokens: Tokens::default(),
            promises: Mutex::default(),
            pulls: Semaphore::new(PULLS),
            sandboxes: Semaphore::new(
                SANDBOXES * std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            ),
            pressure: Mutex::default(),
            node_changed: Notify::new(),
            image_dir: OnceCell::new(),
            node_object: Mutex::default(),
            runtime_answered: Mutex::default(),
            runtime_returned: watch::Sender::new(0),
            shutting_down: CancellationToken::new(),
            shutdown,
            duties: Duties::default(),
            drivers,
            workers: Mutex::default(),
        }
    }

    /// Takes what the server says.
    pub fn assign(self: Arc<Self>, full: bool, changes: Vec<ObjectChange>) {
        let touched = self.assigned.lock().apply(full, changes);
        for (resource, namespace, name) in &touched {
            match &**resource {
                "pods" => self.assign_pod(namespace, name),
                NODES | SERVICES | SLICES => self.network.changed.notify_one(),
                resource => self.workers.lock().values().for_each(|worker| {
                    if worker.needs(resource, namespace, name) {
                        worker.wake.notify_one();
                    }
                }),
            }
        }
        self.drivers.news.notify_waiters();
        match full {
            true => self.duties.start_over(),
            false
                if touched
                    .iter()
                    .any(|(resource, ..)| matches!(&**resource, "persistentvolumes" | "secrets")) =>
            {
                self.duties.changed.notify_one();
            }
            false => {}
        }
        if full {
            tokio::spawn(async move { self.look_for_strays().await });
        }
    }

    fn assign_pod(self: &Arc<Self>, namespace: &str, name: &str) {
        let pod = self.assigned.lock().get("pods", namespace, name);
        let is_own = self.statics.lock().contains_key(&(namespace.to_owned(), name.to_owned()));
        if is_own || pod.as_deref().is_some_and(static_pods::is_mirror) {
            return self.mirror(namespace, name);
        }
        let uid = pod.as_ref().map(|p| p["metadata"]["uid"].as_str().unwrap_or_default().to_owned());
        // Another pod of that name, or none: what ran under it is not assigned any more.
        for worker in self.workers.lock().values() {
            if worker.is_named(namespace, name) && uid.as_deref() != Some(&worker.uid) {
                worker.pod.send_replace(None);
                worker.wake.notify_one();
            }
        }
        if let (Some(pod), Some(uid)) = (pod, uid) {
            self.worker(&uid, Some(pod));
        }
    }

    /// Takes what the machine's own manifests say now.
    pub fn take_statics(self: &Arc<Self>, found: Statics) {
        let before = std::mem::replace(&mut *self.statics.lock(), found.clone());
        let uid = |pod: &Value| pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        for (place, old) in &before {
            if found.get(place).is_some_and(|new| uid(new) == uid(old)) {
                continue;
            }
            if let Some(worker) = self.workers.lock().get(&uid(old)) {
                worker.pod.send_replace(None);
                worker.wake.notify_one();
            }
            self.mirror(&place.0, &place.1);
        }
        for (place, pod) in found {
            if before.get(&place).is_none_or(|old| uid(old) != uid(&pod)) {
                self.worker(&uid(&pod), Some(pod));
            }
        }
    }

    /// Sees to it that the server shows a static pod as it is.
    pub fn mirror(&self, namespace: &str, name: &str) {
        let place = (namespace.to_owned(), name.to_owned());
        let own = self.statics.lock().get(&place).cloned();
        let (shown, complete) = {
            let assigned = self.assigned.lock();
            (assigned.get("pods", namespace, name), assigned.complete)
        };
        if !complete {
            return; // what the server shows is not known yet
        }
        if let Some(word) = static_pods::next_word(own.as_deref(), shown.as_deref()) {
            return self.outbox.tell(&format!("{namespace}/{name}"), word);
        }
        let (Some(own), Some(shown)) = (own, shown) else { return };
        let uid = own["metadata"]["uid"].as_str().unwrap_or_default();
        let told = self.workers.lock().get(uid).map(|worker| worker.status.lock().clone());
        if let Some(told) = told.filter(|told| !told.is_null() && !pod_sync::is_shown(told, &shown["status"]))
        {
            self.tell_status(&own, uid, told);
        }
    }

    /// The UID by which the node knows a pod that the server names: of a mirror, the static pod's.
    pub fn uid_here(&self, pod: &PodRef) -> String {
        let own = self.statics.lock().get(&(pod.namespace.to_string(), pod.name.to_string())).cloned();
        let uid = own.and_then(|own| own["metadata"]["uid"].as_str().map(str::to_owned));
        uid.unwrap_or_else(|| pod.uid.to_string())
    }

    /// Wakes the worker of a pod, which is made if there is none.
    fn worker(self: &Arc<Self>, uid: &str, pod: Option<Arc<Value>>) {
        let mut workers = self.workers.lock();
        if let Some(worker) = workers.get(uid) {
            // Most changes are the echo of a status that the worker told itself.
            let news = pod.as_deref().is_none_or(|pod| !worker.knows(pod));
            if let Some(pod) = &pod {
                let told = worker.status.lock().clone();
                if !told.is_null() && !pod_sync::is_shown(&told, &pod["status"]) {
                    self.tell_status(pod, uid, told);
                }
            }
            if pod.is_some() {
                worker.pod.send_replace(pod);
            }
            if news {
                worker.wake.notify_one();
            }
            return;
        }
        let worker = Arc::new(Worker::new(uid, pod));
        workers.insert(uid.to_owned(), worker.clone());
        let (agent, shutdown) = (self.clone(), self.shutdown.clone());
        tokio::spawn(shutdown.run_until_cancelled_owned(pod_worker::work(agent, worker)));
    }

    pub fn wake_all(&self) {
        self.workers.lock().values().for_each(|worker| worker.wake.notify_one());
    }

    pub fn workers(&self) -> Vec<Arc<Worker>> {
        self.workers.lock().values().cloned().collect()
    }

    /// What the machine has left.
    pub async fn readings(&self) -> Readings {
        let asked = self.image_dir.get_or_try_init(async || {
            let info = self.runtime.info().await?;
            info.docker_root_dir
                .map(PathBuf::from)
                .ok_or_else(|| anyhow::anyhow!("the runtime keeps it to itself"))
        });
        readings::read(&self.data_dir, asked.await.ok().map(PathBuf::as_path))
    }

    /// Nothing is left of a pod.
    pub fn forget(&self, uid: &str) {
        self.release_address(uid);
        self.admitted.lock().forget(uid);
        self.tokens.forget(uid);
        self.workers.lock().remove(uid);
        let waiting = {
            let mut promises = self.promises.lock();
            promises.forget(uid);
            promises.has_deferred()
        };
        if waiting {
            self.settle_resizes();
        }
    }

    /// The pod with the resources that it was promised, which are not yet those that it asks for.
    pub fn promised(&self, uid: &str, pod: &Arc<Value>) -> Arc<Value> {
        let asks_for_more = {
            let mut promises = self.promises.lock();
            if !promises.knows(uid) {
                let earlier = Allocation::load(&self.pod_dir(uid));
                promises.enter(uid, earlier.unwrap_or_else(|| Allocation::of(pod)));
            }
            let same = promises.allocation(uid).is_none_or(|promise| *promise == Allocation::of(pod));
            !same || promises.pending(uid).is_some()
        };
        if asks_for_more {
            self.settle_resizes();
        }
        self.promises.lock().allocation(uid).map_or_else(|| pod.clone(), |promise| promise.apply(pod))
    }

    /// Judges every resize that waits. Whose answer changed is woken.
    fn settle_resizes(&self) {
        let pods = self.assigned.lock().all("pods");
        let allocatable = self.node_object.lock()["status"]["allocatable"].clone();
        let changed = {
            let mut promises = self.promises.lock();
            let (changed, promised) = promises.settle(&pods, &allocatable, Timestamp::now());
            for uid in promised {
                let saved = promises.allocation(&uid).map(|promise| promise.save(&self.pod_dir(&uid)));
                if let Some(Err(error)) = saved {
                    tracing::warn!(pod = uid, %error, "what a pod was promised could not be written down");
                }
            }
            changed
        };
        let workers = self.workers.lock();
        changed.iter().filter_map(|uid| workers.get(uid)).for_each(|worker| worker.wake.notify_one());
    }

    pub fn release_address(&self, uid: &str) {
        if let Some(addresses) = self.network.addresses.lock().as_mut() {
            addresses.give_back(uid);
        }
        // A port of the node may have led there.
        self.network.changed.notify_one();
    }

    /// The pod's address and the gateway; None while the node's range is unknown.
    pub fn take_address(&self, uid: &str) -> Option<Result<(std::net::Ipv4Addr, std::net::Ipv4Addr)>> {
        let mut addresses = self.network.addresses.lock();
        let addresses: &mut Addresses = addresses.as_mut()?;
        let gateway = addresses.gateway();
        let taken = addresses.take(uid).map(|address| (address, gateway));
        Some(taken.ok_or_else(|| anyhow::anyhow!("the node's pod addresses are used up")))
    }

    /// Containers and files of pods that are not assigned any more get a worker too, which removes them.
    async fn look_for_strays(self: &Arc<Self>) {
        if !self.assigned.lock().complete {
            return;
        }
        let mut uids = match self.runtime.pods(&self.node).await {
            Ok(uids) => uids,
            Err(error) => {
                tracing::warn!(%error, "containers of an earlier run were not looked for");
                return;
            }
        };
        let dirs = std::fs::read_dir(self.data_dir.join("pods")).into_iter().flatten().flatten();
        uids.extend(dirs.map(|dir| dir.file_name().to_string_lossy().into_owned()));
        uids.retain(|uid| !self.workers.lock().contains_key(uid));
        uids.into_iter().for_each(|uid| self.worker(&uid, None));
    }

    /// Wakes workers when their containers start or end.
    pub async fn follow_runtime(self: Arc<Self>) {
        let mut relist = tokio::time::interval(RELIST);
        // What happens while the stream is broken is told again by the next one.
        let mut since = Timestamp::now();
        loop {
            let mut events = std::pin::pin!(self.runtime.events(&self.node, since));
            loop {
                tokio::select! {
                    event = events.next() => match event {
                        Some(Ok(event)) => if let Some(worker) = self.workers.lock().get(&event.pod) {
                            if event.out_of_memory {
                                worker.out_of_memory.lock().insert(event.container);
                            }
                            worker.wake.notify_one();
                        },
                        Some(Err(_)) | None => break,
                    },
                    _ = relist.tick() => {
                        self.wake_all();
                        self.look_for_strays().await;
                    }
                }
                since = Timestamp::now();
            }
            self.await_runtime().await;
            // What happened meanwhile may be told by nobody: a daemon that starts anew has forgotten its events.
            self.wake_all();
            self.node_changed.notify_one();
            self.look_for_strays().await;
        }
    }

    /// Resolves when the runtime answers again.
    async fn await_runtime(&self) {
        loop {
            tokio::time::sleep(RUNTIME_PAUSE).await;
            if self.runtime.answers().await {
                return self.runtime_returned.send_modify(|times| *times += 1);
            }
        }
    }

    /// Every pod's newest status goes to the server again.
    pub fn tell_everything(&self) {
        self.drivers.tell_everything();
        for worker in self.workers.lock().values() {
            if let (Some(pod), status) = (worker.pod.borrow().clone(), worker.status.lock().clone())
                && !status.is_null()
            {
                self.tell_status(&pod, &worker.uid, status);
            }
        }
    }

    pub fn tell_status(&self, pod: &Value, uid: &str, status: Value) {
        let text = |field: &str| -> Arc<str> { pod["metadata"][field].as_str().unwrap_or_default().into() };
        let (namespace, name) = (text("namespace"), text("name"));
        let mut shown_as: Arc<str> = uid.into();
        if static_pods::is_static(pod) {
            // Until its mirror is there nobody could tell whose status it is.
            let shown = self.assigned.lock().get("pods", &namespace, &name);
            let Some(shown) = shown.filter(|shown| static_pods::is_mirror(shown)) else { return };
            shown_as = shown["metadata"]["uid"].as_str().unwrap_or_default().into();
        }
        self.outbox.tell(uid, NodeMessage::PodStatus { namespace, name, uid: shown_as, status });
    }

    /// An event about a pod or one of its containers.
    pub fn event(&self, pod: &Value, container: Option<&str>, r#type: &str, reason: &str, message: String) {
        let meta = &pod["metadata"];
        let mut about = json!({
            "apiVersion": "v1", "kind": "Pod", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
        });
        if let Some(container) = container {
            let field = ["initContainers", "ephemeralContainers"].into_iter().find(|field| {
                pod["spec"][field].as_array().into_iter().flatten().any(|c| c["name"] == container)
            });
            about["fieldPath"] = format!("spec.{}{{{container}}}", field.unwrap_or("containers")).into();
        }
        let event = json!({
            "involvedObject": about, "type": r#type, "reason": reason, "message": message,
            "source": {"component": "kubelet", "host": self.node}, "reportingComponent": "kubelet", "reportingInstance": self.node,
        });
        let namespace = meta["namespace"].as_str().unwrap_or_default().into();
        self.outbox.send(NodeMessage::Event { namespace, event });
    }

    /// An event about the node itself.
    pub fn node_event(&self, r#type: &str, reason: &str, message: String) {
        let about = json!({"apiVersion": "v1", "kind": "Node", "name": self.node, "uid": self.node});
        let event = json!({
            "involvedObject": about, "type": r#type, "reason": reason, "message": message,
            "source": {"component": "kubelet", "host": self.node}, "reportingComponent": "kubelet", "reportingInstance": self.node,
        });
        self.outbox.send(NodeMessage::Event { namespace: "default".into(), event });
    }

    /// Sees to it that the pod's tokens are there and fresh; when to come again.
    pub async fn ensure_tokens(&self, pod: &Value) -> Result<Option<Timestamp>, String> {
        let find =
            |resource: &str, namespace: &str, name: &str| self.assigned.lock().get(resource, namespace, name);
        self.tokens.ensure(&self.outbox, pod, volumes::requested_tokens(pod, find)).await
    }

    /// What volumes need of the node.
    pub fn host(&self) -> volumes::Host<'_> {
        volumes::Host { data_dir: &self.data_dir, drivers: &self.drivers }
    }

    /// What a pod's fields may refer to.
    pub fn sources<'a>(&'a self, pod: &'a Value, observed: &'a ObservedPod) -> Sources<'a> {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        let assigned = self.assigned.lock();
        let mut services = assigned.in_namespace(SERVICES, namespace);
        // Every pod is told where the API is.
        services.extend(assigned.get(SERVICES, "default", "kubernetes").filter(|_| namespace != "default"));
        Sources {
            namespace,
            any: Box::new(|resource, namespace, name| self.assigned.lock().get(resource, namespace, name)),
            token: Box::new(move |audience, seconds| self.tokens.get(uid, audience, seconds)),
            services,
            pod_ip: self.pod_ip(pod, observed),
            host_ip: &self.host_ip,
            node: assigned.get(NODES, "", &self.node).unwrap_or_default(),
        }
    }

    /// Where a pod is reached; empty before it has an address.
    pub fn pod_ip<'a>(&'a self, pod: &Value, observed: &'a ObservedPod) -> &'a str {
        match pod["spec"]["hostNetwork"] == true {
            true => &self.host_ip,
            false => observed.sandbox.as_ref().map_or("", |s| s.address.as_str()),
        }
    }

    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }
}
