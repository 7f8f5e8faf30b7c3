//! A tiny cluster in memory for tests: the API's real rules, every controller, and nodes that run pods at once or on
//! demand. Deterministic: no clock, no randomness.
use crate::pod::Pod;
use crate::{Action, Cluster, Controller, Part, Plan};
use pilothouse_api::jiff::{Timestamp, ToSpan};
use pilothouse_api::lifecycle::{self, CreateContext, DeleteOptions, Deletion};
use pilothouse_api::{Key, KindEntry, Observed, Registry, Status};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub struct World {
    registry: Registry,
    pub objects: BTreeMap<Key, Value>,
    pub cluster: Cluster,
    pub now: Timestamp,
    pub controllers: Vec<Box<dyn Controller>>,
    due: BTreeSet<(usize, Key)>,
    timers: BTreeSet<(Timestamp, usize, Key)>,
    revision: u64,
    uids: u64,
    /// What controllers told people: `Reason message`.
    pub events: Vec<String>,
    /// While true, changes are not shown to the view.
    pub is_blind: bool,
    unseen: Vec<Observed>,
    /// Nodes that renew their leases while time passes.
    pub alive: BTreeSet<String>,
    /// Why nobody may create a pod.
    pub refuses: Option<String>,
}

/// How long a key waits whose plan was refused something.
const RETRY_SECONDS: i64 = 30;

impl World {
    pub fn new() -> Self {
        let mut world = Self {
            registry: Registry::builtin(),
            objects: BTreeMap::new(),
            cluster: Cluster::default(),
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            controllers: crate::all(),
            due: BTreeSet::new(),
            timers: BTreeSet::new(),
            revision: 0,
            uids: 0,
            events: Vec::new(),
            is_blind: false,
            unseen: Vec::new(),
            alive: BTreeSet::new(),
            refuses: None,
        };
        world.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}));
        world.add_node("n1");
        world
    }

    fn entry(&self, object: &Value) -> Arc<KindEntry> {
        let (version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        self.registry.by_kind(version, kind).unwrap_or_else(|| panic!("no kind {version} {kind}")).clone()
    }

    fn entry_of(&self, key: &Key) -> Arc<KindEntry> {
        self.registry
            .by_resource(&key.resource)
            .unwrap_or_else(|| panic!("no resource {}", key.resource))
            .clone()
    }

    /// Creates as a client would, in namespace `default` where none is named.
    pub fn create(&mut self, object: Value) -> Key {
        self.try_create(object).unwrap_or_else(|status| panic!("{status}"))
    }

    pub fn try_create(&mut self, mut object: Value) -> Result<Key, Status> {
        let entry = self.entry(&object);
        if let Some(why) = self.refuses.as_ref().filter(|_| entry.kind == "Pod") {
            return Err(Status::forbidden(
                "pods",
                object["metadata"]["name"].as_str().unwrap_or_default(),
                why,
            ));
        }
        let namespace = match (entry.is_namespaced(), object["metadata"]["namespace"].as_str()) {
            (false, _) => String::new(),
            (true, named) => named.unwrap_or("default").to_owned(),
        };
        self.uids += 1;
        let (uid, suffix) = (format!("uid-{:05}", self.uids), format!("x{:04}", self.uids));
        let cx = CreateContext { namespace: &namespace, now: self.now, uid: &uid, name_suffix: &suffix };
        lifecycle::before_create(&entry, &mut object, &cx)?;
        let key = Key::new(entry.stored_as.clone(), namespace, object["metadata"]["name"].as_str().unwrap());
        if self.objects.contains_key(&key) {
            return Err(Status::already_exists(&key.resource, &key.name));
        }
        self.store(&key, Some(object));
        Ok(key)
    }

    pub fn store(&mut self, key: &Key, object: Option<Value>) {
        self.revision += 1;
        let previous = self.objects.get(key).cloned();
        let stored = object.map(|mut object| {
            object["metadata"]["resourceVersion"] = self.revision.to_string().into();
            object
        });
        match &stored {
            Some(object) => drop(self.objects.insert(key.clone(), object.clone())),
            None => drop(self.objects.remove(key)),
        }
        let change = Observed {
            key: key.clone(),
            revision: self.revision,
            object: stored.map(Arc::new),
            previous: previous.map(Arc::new),
            bytes: Default::default(),
        };
        self.unseen.push(change);
        if !self.is_blind {
            self.catch_up();
        }
    }

    /// Shows the view what it has not seen.
    pub fn catch_up(&mut self) {
        for change in std::mem::take(&mut self.unseen) {
            self.cluster.apply(&change, self.now);
            for (i, controller) in self.controllers.iter().enumerate() {
                self.due.extend(controller.keys(&change, &self.cluster).into_iter().map(|key| (i, key)));
            }
        }
    }

    pub fn get(&self, key: &Key) -> &Value {
        self.objects.get(key).unwrap_or_else(|| panic!("{key} is not there"))
    }

    pub fn all(&self, resource: &str) -> Vec<(Key, Value)> {
        let found = self.objects.iter().filter(|(key, _)| &*key.resource == resource);
        found.map(|(key, object)| (key.clone(), object.clone())).collect()
    }

    /// Changes everything but the status, as a client would.
    pub fn edit(&mut self, key: &Key, change: impl FnOnce(&mut Value)) {
        self.write(key, Part::Spec, change);
    }

    pub fn edit_status(&mut self, key: &Key, change: impl FnOnce(&mut Value)) {
        self.write(key, Part::Status, change);
    }

    fn write(&mut self, key: &Key, part: Part, change: impl FnOnce(&mut Value)) {
        let mut next = self.get(key).clone();
        change(&mut next);
        self.update(key, next, part).unwrap_or_else(|status| panic!("{key}: {status}"));
    }

    fn update(&mut self, key: &Key, mut new: Value, part: Part) -> Result<(), Status> {
        let entry = self.entry_of(key);
        let old =
            self.objects.get(key).cloned().ok_or_else(|| Status::not_found(&key.resource, &key.name))?;
        if new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"] {
            return Err(Status::stale(&key.resource, &key.name));
        }
        match part {
            Part::Spec | Part::Scale => lifecycle::before_update(&entry, &mut new, &old, self.now)?,
            Part::Status => lifecycle::before_update_status(&entry, &mut new, &old, self.now)?,
            Part::Whole => {}
        }
        if lifecycle::is_released(&entry, &new) {
            self.store(key, None);
        } else if new != old {
            self.store(key, Some(new));
        }
        Ok(())
    }

    pub fn delete(&mut self, key: &Key, policy: &str) {
        let options = DeleteOptions { propagation_policy: Some(policy.into()), ..DeleteOptions::default() };
        self.try_delete(key, &options).unwrap_or_else(|status| panic!("{status}"));
    }

    fn try_delete(&mut self, key: &Key, options: &DeleteOptions) -> Result<(), Status> {
        let entry = self.entry_of(key);
        let Some(old) = self.objects.get(key).cloned() else {
            return Ok(());
        };
        match lifecycle::before_delete(&entry, &old, options, self.now)? {
            Deletion::Remove => self.store(key, None),
            Deletion::Update(marked) => self.store(key, Some(marked)),
            Deletion::Unchanged => {}
        }
        Ok(())
    }

    /// Carries one action out. Errors: what the API would answer.
    pub fn carry_out(&mut self, action: &Action) -> Result<(), Status> {
        match action {
            Action::Create { key, object } => {
                let made = self.try_create(object.clone())?;
                assert_eq!(made, *key, "a created object has another key than the plan says");
                Ok(())
            }
            Action::Update { key, object, part } => self.update(key, object.clone(), *part),
            Action::Delete { key, options } => {
                assert!(options.uid.is_some(), "{key} is deleted without having been seen");
                self.try_delete(key, options)
            }
            Action::Event { reason, message, .. } => {
                self.events.push(format!("{reason} {message}"));
                Ok(())
            }
        }
    }

    /// What the controller called `name` would do now for `key`.
    pub fn plan(&self, name: &str, key: &Key) -> Plan {
        let controller = self
            .controllers
            .iter()
            .find(|c| c.name() == name)
            .unwrap_or_else(|| panic!("no controller {name}"));
        controller.reconcile(key, &self.cluster, self.now)
    }

    /// Takes one due key, decides and writes. False: nothing was due. `check` sees the world after every single write.
    pub fn step_checked(&mut self, check: &mut dyn FnMut(&World, &Action)) -> bool {
        let Some((i, key)) = self.due.pop_first() else {
            return false;
        };
        let plan = self.controllers[i].reconcile(&key, &self.cluster, self.now);
        assert_eq!(
            plan,
            self.controllers[i].reconcile(&key, &self.cluster, self.now),
            "a controller must be deterministic"
        );
        let written: Vec<&Key> = plan.actions.iter().filter_map(Action::key).collect();
        let distinct: BTreeSet<&Key> = written.iter().copied().collect();
        assert_eq!(written.len(), distinct.len(), "{key}: one plan writes an object twice: {plan:#?}");
        if let Some(at) = plan.check_again_at {
            self.timers.insert((at, i, key.clone()));
        }
        // As the shell does: the view moves once the whole plan is written.
        let was_blind = std::mem::replace(&mut self.is_blind, true);
        let mut refusal = None;
        for action in &plan.actions {
            match self.carry_out(action) {
                Ok(()) => check(self, action),
                Err(status)
                    if matches!(
                        status.reason,
                        pilothouse_api::Reason::Conflict | pilothouse_api::Reason::AlreadyExists
                    ) =>
                {
                    self.due.insert((i, key.clone()));
                }
                Err(status) if status.reason == pilothouse_api::Reason::NotFound => {}
                Err(status) if status.reason == pilothouse_api::Reason::Forbidden => {
                    let again = self.now.checked_add(RETRY_SECONDS.seconds()).unwrap();
                    self.timers.insert((again, i, key.clone()));
                    refusal = Some(status.message);
                }
                Err(status) => panic!("{} for {key}: {status} by {action:?}", self.controllers[i].name()),
            }
        }
        self.is_blind = was_blind;
        self.cluster.note_outcome(self.controllers[i].name(), &key, refusal.as_deref());
        let told = plan.told.as_ref().map(|(_, _, message)| message.as_str());
        self.cluster.note_told(self.controllers[i].name(), &key, told);
        if let Some(memory) = plan.memory {
            self.cluster.remember(&key, memory);
        }
        if !self.is_blind {
            self.catch_up();
        }
        true
    }

    /// Runs until no key is due.
    pub fn settle(&mut self) {
        self.settle_checked(&mut |_, _| {});
    }

    pub fn settle_checked(&mut self, check: &mut dyn FnMut(&World, &Action)) {
        for _ in 0..10_000 {
            if !self.step_checked(check) {
                return;
            }
        }
        panic!("controllers do not come to rest: {:?}", self.due);
    }

    /// Every key of every controller has an empty plan.
    pub fn assert_at_rest(&self) {
        for controller in &self.controllers {
            for key in controller.all_keys(&self.cluster) {
                let plan = controller.reconcile(&key, &self.cluster, self.now);
                assert!(plan.is_empty(), "{} is not at rest about {key}: {plan:#?}", controller.name());
            }
        }
    }

    pub fn visit_everything(&mut self) {
        for (i, controller) in self.controllers.iter().enumerate() {
            self.due.extend(controller.all_keys(&self.cluster).into_iter().map(|key| (i, key)));
        }
    }

    /// Time passes; timers ring.
    pub fn pass(&mut self, seconds: i64) {
        self.now = self.now.checked_add(seconds.seconds()).unwrap();
        for node in self.alive.clone() {
            self.renew(&node);
        }
        while let Some((_, i, key)) = self.timers.first().filter(|(at, ..)| *at <= self.now).cloned() {
            self.timers.pop_first();
            self.due.insert((i, key));
        }
    }

    /// The node `name`, ready, with its lease renewed now.
    pub fn add_node(&mut self, name: &str) -> Key {
        let node = self.create(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}));
        self.edit_status(&node, |node| {
            node["status"]["conditions"] =
                json!([{"type": "Ready", "status": "True", "reason": "KubeletReady"}]);
        });
        self.renew(name);
        self.alive.insert(name.to_owned());
        node
    }

    /// A node's sign of life: its lease, and that it is ready if someone thought otherwise.
    pub fn renew(&mut self, name: &str) {
        let node = Key::new(crate::cluster::NODES, "", name);
        if self.objects.get(&node).is_some_and(|node| node["status"]["conditions"][0]["status"] == "Unknown")
        {
            self.edit_status(&node, |node| {
                node["status"]["conditions"] =
                    json!([{"type": "Ready", "status": "True", "reason": "KubeletReady"}]);
            });
        }
        let key = Key::new(crate::cluster::LEASES, crate::cluster::NODE_LEASES, name);
        let time = json!(format!("{:.6}", self.now));
        if self.objects.contains_key(&key) {
            self.edit(&key, |lease| lease["spec"]["renewTime"] = time);
        } else {
            let metadata = json!({"name": name, "namespace": crate::cluster::NODE_LEASES});
            let spec = json!({"holderIdentity": name, "renewTime": time});
            self.create(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}));
        }
    }

    /// Binds a pod and makes it run, ready or not.
    pub fn run_pod(&mut self, key: &Key, ready: bool) {
        let mut pod = self.get(key).clone();
        if pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
            let target = Pod::new(&pod).target;
            pod["spec"]["nodeName"] = target.as_deref().unwrap_or("n1").into();
        }
        let number: u64 = pod["metadata"]["uid"].as_str().unwrap()[4..].parse().unwrap();
        let now = pilothouse_api::lifecycle::seconds(self.now);
        let was = pod["status"]["conditions"][0].clone();
        let status = if ready { "True" } else { "False" };
        let since = if was["status"] == status { was["lastTransitionTime"].clone() } else { now.into() };
        pod["status"]["phase"] = "Running".into();
        pod["status"]["podIP"] = format!("10.244.{}.{}", number / 250, number % 250 + 1).into();
        pod["status"]["conditions"] =
            json!([{"type": "Ready", "status": status, "lastTransitionTime": since}]);
        self.update(key, pod, Part::Whole).unwrap();
    }

    /// The pod's only container ends.
    pub fn finish_pod(&mut self, key: &Key, exit_code: i64) {
        let now = pilothouse_api::lifecycle::seconds(self.now);
        self.edit_status(key, |pod| {
            let name = pod["spec"]["containers"][0]["name"].clone();
            let ended = json!({"exitCode": exit_code, "finishedAt": now, "reason": "Completed"});
            pod["status"]["phase"] = if exit_code == 0 { "Succeeded" } else { "Failed" }.into();
            pod["status"]["containerStatuses"] = json!([{
                "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": ended},
            }]);
            pod["status"]["conditions"] =
                json!([{"type": "Ready", "status": "False", "lastTransitionTime": now}]);
        });
    }

    /// What nodes do, completely: live pods become ready, pods on their way out end.
    pub fn run_pods(&mut self) {
        for (key, pod) in self.all("pods") {
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                self.end_pod(&key);
            } else if pod["status"]["phase"] == "Pending"
                || pod["status"]["phase"] == "Running" && pod["status"]["conditions"][0]["status"] == "False"
            {
                self.run_pod(&key, true);
            }
        }
    }

    /// The node is done with a pod that was deleted.
    pub fn end_pod(&mut self, key: &Key) {
        let uid = self.get(key)["metadata"]["uid"].as_str().map(str::to_owned);
        let options = DeleteOptions { grace_period_seconds: Some(0), uid, ..DeleteOptions::default() };
        self.try_delete(key, &options).unwrap();
    }

    /// Controllers and nodes take turns until both are done.
    pub fn converge(&mut self) {
        for _ in 0..200 {
            self.settle();
            let before = self.revision;
            self.run_pods();
            if self.revision == before {
                return;
            }
        }
        panic!("the cluster does not converge");
    }
}

/// A deployment of `replicas` pods of `image`.
pub fn deployment(name: &str, replicas: i64, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "main", "image": image}]},
            },
        },
    })
}
