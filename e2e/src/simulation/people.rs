//! What people do in a story: they scale, roll out, delete, drain and pause, at the worst of moments.
use super::api::{Api, NAMESPACE};
use super::invariants::{Invariants, is_deleting, is_over, number};
use super::random::Random;
use super::workloads;
use pilothouse_api::Key;
use pilothouse_api::lifecycle::{DeleteOptions, seconds};
use pilothouse_controllers::Part;
use serde_json::Value;

/// What has a template of pods, and is scaled.
const SCALED: [&str; 4] =
    ["deployments.apps", "statefulsets.apps", "replicationcontrollers", "replicasets.apps"];
const ROLLED: [&str; 3] = ["deployments.apps", "statefulsets.apps", "daemonsets.apps"];

#[derive(Default)]
pub struct People {
    jobs: usize,
}

impl People {
    /// One of them does something. What, for the story.
    pub fn act(
        &mut self,
        api: &mut Api,
        invariants: &mut Invariants,
        random: &mut Random,
    ) -> Result<String, String> {
        match random.below(14) {
            0 | 1 => Ok(scale(api, random)),
            2..5 => Ok(roll_out(api, random)),
            5 | 6 => Ok(delete_pod(api, random)),
            7 | 8 => evict(api, invariants, random),
            9 => Ok(cordon(api, random)),
            10 => Ok(pause(api, random)),
            11 => Ok(suspend(api, random)),
            _ => {
                self.jobs += 1;
                let job = workloads::job(self.jobs, random);
                let line = format!("someone creates job-{}: {}", self.jobs, job["spec"]);
                api.create(job).map_err(|status| status.message)?;
                Ok(line)
            }
        }
    }
}

/// One of the objects of some kinds that no other object made.
fn pick(kinds: &[&str], api: &Api, random: &mut Random) -> Option<Key> {
    let is_own = |object: &Value| object["metadata"]["ownerReferences"].is_null() && !is_deleting(object);
    let all: Vec<Key> = kinds
        .iter()
        .flat_map(|kind| api.list(kind))
        .filter(|(_, object)| is_own(object))
        .map(|(key, _)| key.clone())
        .collect();
    random.pick(&all).cloned()
}

/// Empty where it worked.
fn refused<T>(outcome: Result<T, pilothouse_api::Status>) -> String {
    outcome.err().map(|status| format!(", and is refused: {}", status.message)).unwrap_or_default()
}

fn scale(api: &mut Api, random: &mut Random) -> String {
    let Some(target) = pick(&SCALED, api, random) else { return String::new() };
    let replicas = random.between(0, 6);
    let outcome = api.edit(&target, Part::Spec, |o| o["spec"]["replicas"] = replicas.into());
    format!("someone scales {target} to {replicas}{}", refused(outcome))
}

fn roll_out(api: &mut Api, random: &mut Random) -> String {
    let Some(target) = pick(&ROLLED, api, random) else { return String::new() };
    let image = format!("image:{}", random.below(4));
    let outcome = api.edit(&target, Part::Spec, |o| {
        o["spec"]["template"]["spec"]["containers"][0]["image"] = image.as_str().into();
    });
    format!("someone rolls {target} out with {image}{}", refused(outcome))
}

fn delete_pod(api: &mut Api, random: &mut Random) -> String {
    let pods: Vec<Key> = api.list("pods").map(|(key, _)| key.clone()).collect();
    let Some(pod) = random.pick(&pods) else { return String::new() };
    let outcome = api.delete(pod, &DeleteOptions::default());
    format!("someone deletes {pod}{}", refused(outcome))
}

fn cordon(api: &mut Api, random: &mut Random) -> String {
    let nodes: Vec<Key> = api.list("nodes").map(|(key, _)| key.clone()).collect();
    let Some(node) = random.pick(&nodes) else { return String::new() };
    let cordon = random.chance(500);
    let outcome = api.edit(node, Part::Spec, |n| n["spec"]["unschedulable"] = cordon.into());
    format!("someone {} {node}{}", if cordon { "cordons" } else { "uncordons" }, refused(outcome))
}

fn pause(api: &mut Api, random: &mut Random) -> String {
    let Some(target) = pick(&["deployments.apps"], api, random) else { return String::new() };
    let paused = random.chance(500);
    let outcome = api.edit(&target, Part::Spec, |o| o["spec"]["paused"] = paused.into());
    format!("someone {} {target}{}", if paused { "pauses" } else { "resumes" }, refused(outcome))
}

fn suspend(api: &mut Api, random: &mut Random) -> String {
    let Some(target) = pick(&["jobs.batch", "cronjobs.batch"], api, random) else { return String::new() };
    let suspended = random.chance(500);
    let outcome = api.edit(&target, Part::Spec, |o| o["spec"]["suspend"] = suspended.into());
    format!("someone {} {target}{}", if suspended { "suspends" } else { "resumes" }, refused(outcome))
}

/// What `POST …/eviction` does: it asks the budget, uses it up, and deletes the pod.
fn evict(api: &mut Api, invariants: &mut Invariants, random: &mut Random) -> Result<String, String> {
    let budget_key = Key::new("poddisruptionbudgets.policy", NAMESPACE, "web");
    let Some(budget) = api.get(&budget_key).cloned() else { return Ok(String::new()) };
    let is_in = |pod: &Value| pod["metadata"]["labels"]["app"] == "web" && !is_over(pod) && !is_deleting(pod);
    let pods: Vec<(Key, Value)> = api
        .list("pods")
        .filter(|(_, pod)| is_in(pod))
        .map(|(key, pod)| (key.clone(), pod["metadata"]["uid"].clone()))
        .collect();
    let Some((pod, uid)) = random.pick(&pods).cloned() else { return Ok(String::new()) };
    let is_current = budget["status"]["observedGeneration"] == budget["metadata"]["generation"];
    let allowed = number(&budget["status"]["disruptionsAllowed"]);
    if !is_current || allowed < 1 {
        return Ok(format!("the budget does not let {pod} go"));
    }
    let mut next = Value::clone(&budget);
    next["status"]["disruptionsAllowed"] = (allowed - 1).into();
    next["status"]["disruptedPods"][&*pod.name] = seconds(api.now).into();
    if api.update(&budget_key, next, Part::Status).is_err() {
        return Ok(String::new());
    }
    let options = DeleteOptions { uid: uid.as_str().map(str::to_owned), ..DeleteOptions::default() };
    let _ = api.delete(&pod, &options);
    invariants.check(api)?;
    invariants.evicted(&pod, "web", number(&budget["spec"]["minAvailable"]))?;
    Ok(format!("someone evicts {pod}"))
}

/// From here on nobody asks for anything else, and everything is to go on.
pub fn calm_down(api: &mut Api) {
    let nodes: Vec<Key> = api.list("nodes").map(|(key, _)| key.clone()).collect();
    for node in nodes {
        let _ = api.edit(&node, Part::Spec, |n| n["spec"]["unschedulable"] = false.into());
    }
    let keys =
        |resource: &str, api: &Api| -> Vec<Key> { api.list(resource).map(|(key, _)| key.clone()).collect() };
    for deployment in keys("deployments.apps", api) {
        let _ = api.edit(&deployment, Part::Spec, |o| o["spec"]["paused"] = false.into());
    }
    for schedule in keys("cronjobs.batch", api) {
        let _ = api.edit(&schedule, Part::Spec, |o| o["spec"]["suspend"] = true.into());
    }
    for job in keys("jobs.batch", api) {
        let _ = api.edit(&job, Part::Spec, |o| o["spec"]["suspend"] = false.into());
    }
}
