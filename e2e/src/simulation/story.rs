//! One story: people change things, faults happen, and in the end everything must be as it was asked for.
use super::api::{Api, NAMESPACE};
use super::invariants::{Invariants, is_deleting, is_over, number};
use super::node::Node;
use super::random::Random;
use super::server::Server;
use pilothouse_api::Key;
use pilothouse_api::lifecycle::DeleteOptions;
use pilothouse_controllers::Part;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fmt;

/// Steps of trouble; each is one write, one observation, or one event.
const TROUBLED_STEPS: usize = 4000;
/// Steps until all must be well again, once nothing is in the way any more.
const QUIET_STEPS: usize = 60_000;
/// Virtual time until all must be well again: twice the longest back-off, and what evictions and node deadlines take.
const QUIET_SECONDS: i64 = 3600;
/// Longer than any pause that may be left: of a job, of a daemon that failed, of a node's pods before they are evicted.
const STILL_SECONDS: i64 = 700;
/// What a failing seed tells: the last lines before the end.
const LINES_TOLD: usize = 120;

/// A seed that did not end well, and how it came to that.
#[derive(Debug)]
pub struct Failure {
    pub seed: u64,
    pub what: String,
    pub story: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.what)?;
        self.story.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// Tells the story of a seed; a fingerprint of it, by which two tellings are compared.
///
/// # Errors
/// What did not hold, with the last lines of the story.
pub fn run(seed: u64) -> Result<u64, Failure> {
    let mut story = Story::new(seed);
    match story.tell() {
        Ok(()) => Ok(story.fingerprint),
        Err(what) => Err(Failure { seed, what, story: story.lines.into() }),
    }
}

struct Story {
    random: Random,
    api: Api,
    server: Server,
    nodes: Vec<Node>,
    invariants: Invariants,
    lines: VecDeque<String>,
    fingerprint: u64,
    jobs: usize,
    /// Steps during which the controllers' watch is slow: they see a change now and then, in the middle of others.
    slow_steps: usize,
}

impl Story {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut api = Api::new();
        let count = random.below(4) + 3;
        let nodes = (1..=count).map(|number| Node::new(number, &mut api)).collect();
        let server = Server::new(&api);
        let invariants = Invariants::new(&api);
        let lines = VecDeque::new();
        Self {
            random,
            api,
            server,
            nodes,
            invariants,
            lines,
            fingerprint: 0xcbf2_9ce4_8422_2325,
            jobs: 0,
            slow_steps: 0,
        }
    }

    fn note(&mut self, line: impl Into<String>) {
        let line = line.into();
        if line.is_empty() {
            return;
        }
        let line = format!("{} {line}", self.api.now);
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        self.fingerprint = line.bytes().fold(self.fingerprint, mix);
        if self.lines.len() == LINES_TOLD {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    fn tell(&mut self) -> Result<(), String> {
        for object in workloads() {
            self.api.create(object).map_err(|status| status.message)?;
        }
        for _ in 0..TROUBLED_STEPS {
            match self.random.below(100) {
                0..3 => self.people()?,
                3..5 => self.trouble(),
                _ => self.work(),
            }
            self.invariants.check(&self.nodes)?;
        }
        self.calm_down();
        self.settle()?;
        self.all_is_as_asked_for()?;
        for (key, _) in self.owners() {
            let _ = self.api.delete(&key, &DeleteOptions::default());
        }
        self.settle()?;
        self.nothing_is_left()
    }

    /// One step of somebody who does their work.
    fn work(&mut self) {
        match self.random.below(12) {
            0..3 => {
                self.slow_steps = self.slow_steps.saturating_sub(1);
                if self.slow_steps == 0 || self.random.chance(100) {
                    self.server.observe(&self.api, 1);
                }
            }
            3..5 => {
                let line = self.server.decide(&self.api).unwrap_or_default();
                self.note(line);
            }
            5..8 => {
                let line = self.server.write(&mut self.api, &mut self.random).unwrap_or_default();
                self.note(line);
            }
            8 => drop(self.server.schedule_observes(&self.api, 1)),
            9 => {
                let line = self.server.schedule(&mut self.api).unwrap_or_default();
                self.note(line);
            }
            10 => {
                let at = self.random.below(self.nodes.len());
                let lines = self.nodes[at].tick(&mut self.api, &mut self.random);
                lines.into_iter().for_each(|line| self.note(line));
            }
            _ => {
                let millis = self.random.between(1, 1500);
                self.api.pass(millis);
            }
        }
    }

    fn trouble(&mut self) {
        match self.random.below(14) {
            12 | 13 => {
                self.slow_steps = self.random.below(150);
                self.note("the controllers' watch is slow");
            }
            0 => {
                self.note("the server dies, and another takes over");
                self.server.crash(&self.api);
            }
            1 => {
                self.note("the controllers lose their watch");
                self.server.start_over(&self.api);
            }
            2 => {
                self.note("the scheduler starts over");
                self.server.restart_scheduler(&self.api);
            }
            3 => drop(self.server.observe(&self.api, 2)),
            4 => drop(self.server.schedule_observes(&self.api, 2)),
            5 | 6 => {
                let at = self.random.below(self.nodes.len());
                let node = &mut self.nodes[at];
                node.is_connected = !node.is_connected;
                let line =
                    format!("{} {}", node.name, if node.is_connected { "is back" } else { "falls silent" });
                self.note(line);
            }
            7 => {
                self.server.skew_seconds += self.random.between(-120, 600);
                let line = format!("the server's clock jumps: it is {} s ahead", self.server.skew_seconds);
                self.note(line);
            }
            8 => {
                self.api.refusals = u32::try_from(self.random.between(1, 20)).unwrap_or(1);
                let line = format!("the next {} pods are refused", self.api.refusals);
                self.note(line);
            }
            9 => {
                let seconds = self.random.between(30, 400);
                self.note(format!("nothing happens for {seconds} s"));
                self.api.pass(seconds * 1000);
            }
            _ => {
                let at = self.random.below(self.nodes.len());
                let line = self.nodes[at].crash_one(&self.api, &mut self.random).unwrap_or_default();
                self.note(line);
            }
        }
    }

    fn people(&mut self) -> Result<(), String> {
        let (web, db) = (key("deployments.apps", "web"), key("statefulsets.apps", "db"));
        let workload = match self.random.below(3) {
            0 => key("daemonsets.apps", "agent"),
            1 => db.clone(),
            _ => web.clone(),
        };
        match self.random.below(12) {
            0 | 1 => {
                let target = if self.random.chance(500) { web } else { db };
                let replicas = self.random.between(0, 6);
                self.note(format!("someone scales {target} to {replicas}"));
                let _ = self.api.edit(&target, Part::Spec, |o| o["spec"]["replicas"] = replicas.into());
            }
            2..5 => {
                let image = format!("image:{}", self.random.below(4));
                self.note(format!("someone rolls {workload} out with {image}"));
                let _ = self.api.edit(&workload, Part::Spec, |o| {
                    o["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
                });
            }
            5 | 6 => {
                let pods: Vec<Key> = self.api.list("pods").into_iter().map(|(key, _)| key).collect();
                if let Some(pod) = self.random.pick(&pods).cloned() {
                    self.note(format!("someone deletes {pod}"));
                    let _ = self.api.delete(&pod, &DeleteOptions::default());
                }
            }
            7 | 8 => self.evict()?,
            9 => {
                let at = self.random.below(self.nodes.len());
                let node = key_of_cluster("nodes", &self.nodes[at].name);
                let cordon = self.random.chance(500);
                self.note(format!("someone {} {node}", if cordon { "cordons" } else { "uncordons" }));
                let _ = self.api.edit(&node, Part::Spec, |n| n["spec"]["unschedulable"] = cordon.into());
            }
            10 => {
                let paused = self.random.chance(500);
                self.note(format!("someone {} {web}", if paused { "pauses" } else { "resumes" }));
                let _ = self.api.edit(&web, Part::Spec, |o| o["spec"]["paused"] = paused.into());
            }
            _ => {
                self.jobs += 1;
                let job = job(self.jobs, &mut self.random);
                self.note(format!("someone creates job-{}: {}", self.jobs, job["spec"]));
                self.api.create(job).map_err(|status| status.message)?;
            }
        }
        Ok(())
    }

    /// What `POST …/eviction` does: it asks the budget, uses it up, and deletes the pod.
    fn evict(&mut self) -> Result<(), String> {
        let pods = self.api.list("pods").into_iter();
        let pods: Vec<(Key, Value)> = pods
            .filter(|(_, p)| p["metadata"]["labels"]["app"] == "web" && !is_over(p) && !is_deleting(p))
            .collect();
        let Some((pod, object)) = self.random.pick(&pods).cloned() else { return Ok(()) };
        let budget_key = key("poddisruptionbudgets.policy", "web");
        let Some(mut budget) = self.api.get(&budget_key) else { return Ok(()) };
        let is_current = budget["status"]["observedGeneration"] == budget["metadata"]["generation"];
        let allowed = number(&budget["status"]["disruptionsAllowed"]);
        if !is_current || allowed < 1 {
            self.note(format!("the budget does not let {pod} go"));
            return Ok(());
        }
        budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
        budget["status"]["disruptedPods"][&*pod.name] =
            pilothouse_api::lifecycle::seconds(self.api.now).into();
        if self.api.update(&budget_key, budget.clone(), Part::Status).is_err() {
            return Ok(());
        }
        let options = DeleteOptions {
            uid: object["metadata"]["uid"].as_str().map(str::to_owned),
            ..DeleteOptions::default()
        };
        let _ = self.api.delete(&pod, &options);
        self.note(format!("someone evicts {pod}"));
        self.invariants.check(&self.nodes)?;
        self.invariants.evicted(&pod, "web", number(&budget["spec"]["minAvailable"]))
    }

    /// From here on nothing goes wrong any more, and nobody asks for anything else.
    fn calm_down(&mut self) {
        self.note("all is quiet from here on");
        self.api.refusals = 0;
        for node in &mut self.nodes {
            node.is_connected = true;
            let _ = self.api.edit(&key_of_cluster("nodes", &node.name), Part::Spec, |n| {
                n["spec"]["unschedulable"] = false.into()
            });
        }
        let _ = self
            .api
            .edit(&key("deployments.apps", "web"), Part::Spec, |o| o["spec"]["paused"] = false.into());
        let _ =
            self.api.edit(&key("cronjobs.batch", "tick"), Part::Spec, |o| o["spec"]["suspend"] = true.into());
    }

    /// Everybody works until nobody has anything to do, in bounded time.
    fn settle(&mut self) -> Result<(), String> {
        let start = self.api.now.as_second();
        let mut still_since = self.api.now.as_second();
        for _ in 0..QUIET_STEPS {
            let before = self.api.store.revision();
            while self.server.observe(&self.api, 1) {}
            while let Some(line) = self.server.decide(&self.api) {
                self.note(line);
            }
            while let Some(line) = self.server.write(&mut self.api, &mut self.random) {
                self.note(line);
                self.invariants.check(&self.nodes)?;
            }
            while self.server.schedule_observes(&self.api, 1) {}
            while let Some(line) = self.server.schedule(&mut self.api) {
                self.note(line);
            }
            for at in 0..self.nodes.len() {
                let lines = self.nodes[at].tick(&mut self.api, &mut self.random);
                lines.into_iter().for_each(|line| self.note(line));
            }
            self.invariants.check(&self.nodes)?;
            // Leases are renewed for ever.
            let wrote = self.api.store.revision() > before && self.wrote_more_than_leases(before);
            if wrote || !self.server.is_quiet() {
                still_since = self.api.now.as_second();
            }
            if self.api.now.as_second() - still_since > STILL_SECONDS {
                return Ok(());
            }
            if self.api.now.as_second() - start > QUIET_SECONDS {
                return Err(format!("it does not come to rest: {:?}", self.server.busy_with()));
            }
            // While nobody has anything to do time goes faster, but never so fast that nodes look silent.
            self.api.pass(if wrote { 1000 } else { 10_000 });
        }
        Err(format!("it takes too many steps to come to rest: {:?}", self.server.busy_with()))
    }

    fn wrote_more_than_leases(&self, since: u64) -> bool {
        let (_, objects) = self.api.store.everything();
        let leases = "leases.coordination.k8s.io";
        objects.iter().any(|object| object.revision > since && &*object.key.resource != leases)
    }

    fn all_is_as_asked_for(&self) -> Result<(), String> {
        let get =
            |resource: &str, name: &str| self.api.get(&key(resource, name)).ok_or(format!("{name} is gone"));
        let expect = |object: &Value, field: &str, wanted: i64| match number(&object["status"][field]) {
            found if found == wanted => Ok(()),
            _ => {
                Err(format!("{} has not {field} {wanted}: {}", object["metadata"]["name"], object["status"]))
            }
        };
        for (resource, name) in [("deployments.apps", "web"), ("statefulsets.apps", "db")] {
            let object = get(resource, name)?;
            for field in ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
                expect(&object, field, number(&object["spec"]["replicas"]))?;
            }
            expect(&object, "observedGeneration", number(&object["metadata"]["generation"]))?;
        }
        let agent = get("daemonsets.apps", "agent")?;
        let count = i64::try_from(self.nodes.len()).unwrap_or(0);
        for field in ["desiredNumberScheduled", "numberAvailable", "updatedNumberScheduled"] {
            expect(&agent, field, count)?;
        }
        for (job_key, job) in self.api.list("jobs.batch") {
            let conditions = job["status"]["conditions"].as_array().into_iter().flatten();
            if !conditions.into_iter().any(|c| c["type"] == "Complete" && c["status"] == "True") {
                return Err(format!("{job_key} is not complete: {}", job["status"]));
            }
            expect(&job, "succeeded", number(&job["spec"]["completions"]))?;
        }
        if let Some(unrest) = self.server.unrest(&self.api) {
            return Err(unrest);
        }
        self.view_is_true()
    }

    /// What the controllers see is what there is.
    fn view_is_true(&self) -> Result<(), String> {
        let (_, objects) = self.api.store.everything();
        for object in &objects {
            let seen = self.server.cluster.get(&object.key);
            if seen.as_deref().map(|seen| &seen["metadata"]["uid"]) != Some(&json!(&*object.uid)) {
                return Err(format!("the controllers do not see {}", object.key));
            }
        }
        for resource in self.server.cluster.resources() {
            let true_count = objects.iter().filter(|object| object.key.resource == *resource).count();
            if self.server.cluster.count(resource) != true_count {
                return Err(format!("the controllers see {resource} that are gone"));
            }
        }
        Ok(())
    }

    /// What people made.
    fn owners(&self) -> Vec<(Key, Value)> {
        let kinds =
            ["deployments.apps", "statefulsets.apps", "daemonsets.apps", "cronjobs.batch", "jobs.batch"];
        kinds.iter().flat_map(|resource| self.api.list(resource)).collect()
    }

    fn nothing_is_left(&self) -> Result<(), String> {
        let kinds = ["pods", "replicasets.apps", "controllerrevisions.apps", "jobs.batch", "cronjobs.batch"];
        let left: Vec<Key> = kinds.iter().flat_map(|r| self.api.list(r)).map(|(key, _)| key).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("orphans are left: {left:?}")) }
    }
}

fn key(resource: &str, name: &str) -> Key {
    Key::new(resource, NAMESPACE, name)
}

fn key_of_cluster(resource: &str, name: &str) -> Key {
    Key::new(resource, "", name)
}

fn template(app: &str, restart: &str) -> Value {
    let resources = json!({"requests": {"cpu": "200m"}});
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {"restartPolicy": restart, "containers": [{"name": "main", "image": "image:0", "resources": resources}]},
    })
}

fn workloads() -> Vec<Value> {
    let selector = |app: &str| json!({"matchLabels": {"app": app}});
    let object = |version: &str, kind: &str, name: &str, spec: Value| json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec});
    vec![
        object(
            "apps/v1",
            "Deployment",
            "web",
            json!({"replicas": 4, "selector": selector("web"), "template": template("web", "Always")}),
        ),
        object(
            "policy/v1",
            "PodDisruptionBudget",
            "web",
            json!({"minAvailable": 2, "selector": selector("web")}),
        ),
        object(
            "v1",
            "Service",
            "web",
            json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "selector": {"app": "web"}, "ports": [{"port": 80}]}),
        ),
        object(
            "apps/v1",
            "StatefulSet",
            "db",
            json!({"replicas": 3, "serviceName": "db", "selector": selector("db"), "template": template("db", "Always")}),
        ),
        object(
            "apps/v1",
            "DaemonSet",
            "agent",
            json!({"selector": selector("agent"), "template": template("agent", "Always")}),
        ),
        object(
            "batch/v1",
            "CronJob",
            "tick",
            json!({
                "schedule": "*/2 * * * *", "concurrencyPolicy": "Forbid",
                "jobTemplate": {"spec": {"completions": 1, "backoffLimit": 1000, "template": template("tick", "Never")}},
            }),
        ),
    ]
}

fn job(number: usize, random: &mut Random) -> Value {
    let indexed = random.chance(500);
    let mut spec = json!({
        "completions": random.between(1, 6), "parallelism": random.between(1, 3), "backoffLimit": 1000,
        "podReplacementPolicy": if random.chance(500) { "Failed" } else { "TerminatingOrFailed" },
        "template": template("work", "Never"),
    });
    if indexed {
        spec["completionMode"] = "Indexed".into();
    }
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": format!("job-{number}")}, "spec": spec})
}
