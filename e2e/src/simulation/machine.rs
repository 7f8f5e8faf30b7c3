//! A node of the simulation: runs what it is assigned, tells how it goes when it can talk, and goes on when it cannot.
use super::api::Api;
use super::random::Random;
use pilothouse_api::Key;
use pilothouse_api::jiff::{Timestamp, ToSpan};
use pilothouse_api::lifecycle::{DeleteOptions, seconds};
use pilothouse_controllers::Part;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const NODE_LEASES: &str = "kube-node-lease";
const RENEW_SECONDS: i64 = 10;
/// A pod that runs to an end fails in so many of a thousand cases.
const FAILS: usize = 150;

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Starting,
    Ready,
    Ended(i64),
}

/// A pod as it really is on the node.
struct Local {
    key: Key,
    address: String,
    state: State,
    ready_at: Timestamp,
    /// When it ends by itself, and how.
    ends: Option<(Timestamp, i64)>,
    stops_at: Option<Timestamp>,
}

pub struct Node {
    pub name: String,
    /// Whether it can talk to the server.
    pub is_connected: bool,
    pods: BTreeMap<String, Local>,
    renewed_at: Option<Timestamp>,
    number: usize,
    addresses: usize,
}

impl Node {
    pub fn new(number: usize, api: &mut Api) -> Self {
        let name = format!("n{number}");
        let _ = api.create(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}));
        let key = Key::new("nodes", "", name.as_str());
        let _ = api.edit(&key, Part::Status, |node| {
            node["status"]["allocatable"] = json!({"cpu": "4", "memory": "8Gi", "pods": "20"});
        });
        let mut node =
            Self { name, is_connected: true, pods: BTreeMap::new(), renewed_at: None, number, addresses: 0 };
        node.sign_of_life(api);
        node
    }

    /// StatefulSet pods that really run here, by name.
    pub fn running(&self) -> impl Iterator<Item = &str> {
        let live = self.pods.values().filter(|pod| !matches!(pod.state, State::Ended(_)));
        live.map(|pod| &*pod.key.name)
    }

    /// Some time passed; hears and tells what there is, if it can.
    pub fn tick(&mut self, api: &mut Api, random: &mut Random) -> Vec<String> {
        let mut told = Vec::new();
        for local in self.pods.values_mut() {
            local.move_on(api.now);
        }
        if !self.is_connected {
            return told;
        }
        self.sign_of_life(api);
        let mine = |pod: &Value| pod["spec"]["nodeName"] == self.name.as_str();
        let assigned: Vec<(Key, Value)> = api.list("pods").into_iter().filter(|(_, pod)| mine(pod)).collect();
        let uids: BTreeSet<&str> =
            assigned.iter().filter_map(|(_, pod)| pod["metadata"]["uid"].as_str()).collect();
        // What is not assigned any more is ended without asking.
        self.pods.retain(|uid, _| uids.contains(uid.as_str()));
        for (key, pod) in &assigned {
            if let Some(line) = self.serve(key, pod, api, random) {
                told.push(format!("{} {line}", self.name));
            }
        }
        told
    }

    fn serve(&mut self, key: &Key, pod: &Value, api: &mut Api, random: &mut Random) -> Option<String> {
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let is_over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let is_deleting = !pod["metadata"]["deletionTimestamp"].is_null();
        if is_over || is_deleting && !self.pods.contains_key(&uid) {
            self.pods.remove(&uid);
            if is_deleting && pod["metadata"]["deletionGracePeriodSeconds"] != 0 {
                let options = DeleteOptions {
                    uid: Some(uid),
                    grace_period_seconds: Some(0),
                    ..DeleteOptions::default()
                };
                let _ = api.delete(key, &options);
                return Some(format!("is done with {}", key.name));
            }
            return None;
        }
        let later = |seconds: i64| api.now.checked_add(seconds.seconds()).unwrap_or(api.now);
        if !self.pods.contains_key(&uid) {
            self.addresses += 1;
            let ends = (pod["spec"]["restartPolicy"] == "Never")
                .then(|| (later(random.between(2, 40)), i64::from(random.chance(FAILS))));
            let address = format!("10.244.{}.{}", self.number, self.addresses % 250 + 1);
            let ready_at = later(random.between(1, 8));
            let local =
                Local { key: key.clone(), address, state: State::Starting, ready_at, ends, stops_at: None };
            self.pods.insert(uid.clone(), local);
        }
        let local = self.pods.get_mut(&uid)?;
        if is_deleting && local.stops_at.is_none() {
            local.stops_at = Some(later(random.between(0, 5)));
        }
        local.move_on(api.now);
        local.report(pod, api)
    }

    fn sign_of_life(&mut self, api: &mut Api) {
        let due = self.renewed_at.is_none_or(|at| api.now.as_second() - at.as_second() >= RENEW_SECONDS);
        if !due {
            return;
        }
        self.renewed_at = Some(api.now);
        let time = json!(format!("{:.6}", api.now));
        let lease = Key::new("leases.coordination.k8s.io", NODE_LEASES, self.name.as_str());
        if api.edit(&lease, Part::Spec, |lease| lease["spec"]["renewTime"] = time.clone()).is_err() {
            let _ = api.create(json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": self.name, "namespace": NODE_LEASES},
                "spec": {"holderIdentity": self.name, "renewTime": time},
            }));
        }
        let key = Key::new("nodes", "", self.name.as_str());
        let is_ready = |node: &Value| {
            let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
            conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
        };
        if api.get(&key).is_some_and(|node| !is_ready(&node)) {
            let _ = api.edit(&key, Part::Status, |node| {
                node["status"]["conditions"] =
                    json!([{"type": "Ready", "status": "True", "reason": "KubeletReady"}]);
            });
        }
    }

    /// A container dies; pods that are to run for ever start it again.
    pub fn crash_one(&mut self, api: &Api, random: &mut Random) -> Option<String> {
        let ready: Vec<&String> =
            self.pods.iter().filter(|(_, p)| p.state == State::Ready).map(|(uid, _)| uid).collect();
        let uid = random.pick(&ready)?.to_string();
        let local = self.pods.get_mut(&uid)?;
        match &mut local.ends {
            Some(ends) => *ends = (api.now, 1),
            None => {
                local.state = State::Starting;
                local.ready_at = api.now.checked_add(random.between(2, 20).seconds()).unwrap_or(api.now);
            }
        }
        Some(format!("a container of {} dies", local.key.name))
    }
}

impl Local {
    fn move_on(&mut self, now: Timestamp) {
        if matches!(self.state, State::Ended(_)) {
            return;
        }
        if self.state == State::Starting && self.ready_at <= now {
            self.state = State::Ready;
        }
        if let Some((_, code)) = self.ends.filter(|(at, _)| *at <= now) {
            self.state = State::Ended(code);
        } else if self.stops_at.is_some_and(|at| at <= now) {
            self.state = State::Ended(143);
        }
    }

    /// Tells the server what differs from what it holds.
    fn report(&self, pod: &Value, api: &mut Api) -> Option<String> {
        let ready = if self.state == State::Ready { "True" } else { "False" };
        let phase = match self.state {
            State::Starting if pod["status"]["phase"] == "Running" => "Running",
            State::Starting => "Pending",
            State::Ready => "Running",
            State::Ended(0) => "Succeeded",
            State::Ended(_) => "Failed",
        };
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let before = conditions.clone().find(|c| c["type"] == "Ready").cloned().unwrap_or_default();
        if pod["status"]["phase"] == phase && before["status"] == ready {
            return None;
        }
        let mut next = pod.clone();
        let now = seconds(api.now);
        let mut others: Vec<Value> = conditions.filter(|c| c["type"] != "Ready").cloned().collect();
        let since = if before["status"] == ready { before["lastTransitionTime"].clone() } else { json!(now) };
        others.push(json!({"type": "Ready", "status": ready, "lastTransitionTime": since}));
        next["status"]["conditions"] = others.into();
        next["status"]["phase"] = phase.into();
        next["status"]["podIP"] = self.address.as_str().into();
        if let State::Ended(code) = self.state {
            let ended = json!({"exitCode": code, "finishedAt": now});
            next["status"]["containerStatuses"] = json!([{
                "name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": ended},
            }]);
        }
        // Refused: somebody was faster, and the next look finds out.
        api.update(&self.key, next, Part::Status).ok()?;
        Some(format!(
            "tells that {} is {phase}{}",
            self.key.name,
            if ready == "True" { " and ready" } else { "" }
        ))
    }
}
