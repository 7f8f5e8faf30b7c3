//! The pod's status as the API shows it.
use super::{
    EVICTED, Ending, FIRST_PAUSE_SECONDS, Failure, Memory, PULL_ERROR_SHOWN_SECONDS, TERMINATED, Verdict,
    back_off_until, ending, is_deleting, is_sidecar, later, list, name, pause_seconds, resizable_spec,
    restart_policy, restarted, restarts,
};
use crate::resize::{self, Pending};
use crate::runtime::{Container, ObservedPod, State};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::resize::{IN_PROGRESS, INFEASIBLE, PENDING};
use serde_json::{Value, json};

/// `old` is the last one, for the times of conditions and for what the runtime has forgotten.
pub fn status(
    pod: &Value,
    observed: &ObservedPod,
    memory: &Memory,
    old: &Value,
    host_ip: &str,
    now: Timestamp,
) -> Value {
    let ending = ending(pod, observed, memory, now);
    let look = Look { pod, observed, memory, ended: is_deleting(pod) || ending.is_some(), now };
    let statuses = |field: &str| -> Vec<Value> {
        let olds = old[status_field(field)].as_array().map(Vec::as_slice).unwrap_or_default();
        let old_of = |c: &Value| olds.iter().find(|o| o["name"] == c["name"]);
        list(pod, field).map(|c| look.container(c, old_of(c))).collect()
    };
    let (init, main) = (statuses("initContainers"), statuses("containers"));
    let sidecar =
        |status: &Value| list(pod, "initContainers").any(|c| is_sidecar(c) && c["name"] == status["name"]);
    let incomplete: Vec<&str> = init
        .iter()
        .filter(|s| {
            if sidecar(s) {
                s["started"] != true && !look.ended
            } else {
                s["state"]["terminated"]["exitCode"] != 0
            }
        })
        .filter_map(|s| s["name"].as_str())
        .collect();
    let unready: Vec<&str> = main
        .iter()
        .chain(init.iter().filter(|s| sidecar(s)))
        .filter(|c| c["ready"] != true)
        .filter_map(|c| c["name"].as_str())
        .collect();
    let phase = look.phase(&main, incomplete.is_empty(), ending.as_ref());
    let mut status = if old.is_object() { old.clone() } else { json!({}) };
    status["phase"] = phase.into();
    if let (Some(Ending::Failed(Some(verdict))), "Failed") = (&ending, phase) {
        status["reason"] = verdict.reason.as_str().into();
        status["message"] = verdict.message.as_str().into();
    }
    if let Some(generation) = pod["metadata"]["generation"].as_i64() {
        status["observedGeneration"] = generation.into();
    }
    status["hostIP"] = host_ip.into();
    status["hostIPs"] = json!([{"ip": host_ip}]);
    let address = observed.sandbox.as_ref().map(|s| s.address.as_str()).filter(|a| !a.is_empty());
    let address = if pod["spec"]["hostNetwork"] == true { Some(host_ip) } else { address };
    if let Some(address) = address {
        status["podIP"] = address.into();
        status["podIPs"] = json!([{"ip": address}]);
    }
    if status["startTime"].is_null() {
        status["startTime"] = stamp(now);
    }
    status["conditions"] = look.conditions(old, phase, &incomplete, &unready);
    if !init.is_empty() {
        status["initContainerStatuses"] = init.into();
    }
    status["containerStatuses"] = main.into();
    let ephemeral = statuses("ephemeralContainers");
    if !ephemeral.is_empty() {
        status["ephemeralContainerStatuses"] = ephemeral.into();
    }
    status
}

/// Whether the API shows what was told. A server that took the node for lost says on its own that its pods are not ready,
/// and goes on saying so until it is told again.
pub fn is_shown(told: &Value, shown: &Value) -> bool {
    let status_of = |status: &Value, kind: &Value| {
        let conditions = status["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().find(|c| c["type"] == *kind).map(|c| c["status"].clone())
    };
    let mut told_conditions = told["conditions"].as_array().into_iter().flatten();
    told["phase"] == shown["phase"]
        && told_conditions.all(|c| status_of(shown, &c["type"]).is_none_or(|status| status == c["status"]))
}

fn status_field(field: &str) -> &'static str {
    match field {
        "initContainers" => "initContainerStatuses",
        "ephemeralContainers" => "ephemeralContainerStatuses",
        _ => "containerStatuses",
    }
}

fn stamp(now: Timestamp) -> Value {
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string().into()
}

/// What a status is told from.
struct Look<'a> {
    pod: &'a Value,
    observed: &'a ObservedPod,
    memory: &'a Memory,
    /// Nothing of the pod is started any more.
    ended: bool,
    now: Timestamp,
}

impl Look<'_> {
    fn phase(&self, main: &[Value], initialized: bool, ending: Option<&Ending>) -> &'static str {
        if let Some(done) = ["Succeeded", "Failed"].into_iter().find(|p| self.pod["status"]["phase"] == *p) {
            return done;
        }
        let runs = self.observed.containers.iter().any(|c| c.state == State::Running);
        let codes = || main.iter().map(|c| c["state"]["terminated"]["exitCode"].as_i64());
        if !runs && self.ended {
            // A deleted pod is judged by what its containers came to, whatever its restart policy.
            let all_good = match ending {
                Some(ending) => *ending == Ending::Succeeded,
                None => !main.is_empty() && codes().all(|code| code == Some(0)),
            };
            return if all_good { "Succeeded" } else { "Failed" };
        }
        if !initialized {
            return "Pending";
        }
        let begun = main.iter().all(|c| {
            !c["state"]["running"].is_null()
                || !c["state"]["terminated"].is_null()
                || !c["lastState"]["terminated"].is_null()
        });
        if begun && !main.is_empty() { "Running" } else { "Pending" }
    }

    fn conditions(&self, old: &Value, phase: &str, incomplete: &[&str], unready: &[&str]) -> Value {
        let mut conditions = old["conditions"].as_array().cloned().unwrap_or_default();
        let sandboxed = self.observed.sandbox.as_ref().is_some_and(|s| s.state == State::Running);
        let ready = unready.is_empty() && phase == "Running";
        let why_not = match phase {
            "Succeeded" => ("PodCompleted", String::new()),
            "Failed" => ("PodFailed", String::new()),
            _ => ("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" "))),
        };
        let uninitialized = (
            "ContainersNotInitialized",
            format!("containers with incomplete status: [{}]", incomplete.join(" ")),
        );
        let gate = self.gate();
        let not_ready = if ready {
            gate.clone().map(|why| ("ReadinessGatesNotReady", why))
        } else {
            Some(why_not.clone())
        };
        let mut set =
            |kind, holds, why_not| condition(&mut conditions, kind, holds, why_not, self.pod, self.now);
        set("PodReadyToStartContainers", sandboxed, None);
        set("Initialized", incomplete.is_empty(), Some(uninitialized));
        set("Ready", ready && gate.is_none(), not_ready);
        set("ContainersReady", ready, Some(why_not));
        set("PodScheduled", true, None);
        self.resize_conditions(&mut conditions);
        let disrupts = |verdict: &&Verdict| [EVICTED, TERMINATED].contains(&verdict.reason.as_str());
        if let Some(verdict) = self.memory.verdict.as_ref().filter(disrupts) {
            condition(&mut conditions, "DisruptionTarget", true, None, self.pod, self.now);
            if let Some(told) = conditions.iter_mut().find(|c| c["type"] == "DisruptionTarget") {
                told["reason"] = "TerminationByKubelet".into();
                told["message"] = verdict.message.as_str().into();
            }
        }
        conditions.into()
    }

    /// How far a resize has come. Without one the conditions are not there at all.
    fn resize_conditions(&self, conditions: &mut Vec<Value>) {
        let pending = self.memory.resize.as_ref().filter(|_| !self.ended).map(|pending| match pending {
            Pending::Deferred(why) => ("Deferred", why.clone()),
            Pending::Infeasible(why) => (INFEASIBLE, why.clone()),
        });
        let running = self.observed.containers.iter().filter(|c| c.state == State::Running && !self.ended);
        let changing: Vec<&Container> = running
            .filter(|c| {
                let promised = resizable_spec(self.pod, c).map(resize::limits_of);
                promised.is_some_and(|to| !resize::differing(&c.limits, &to).is_empty())
            })
            .collect();
        let failure = changing.iter().find_map(|c| self.memory.resize_failures.get(&c.id));
        let in_progress = (!changing.is_empty()).then(|| match failure.filter(|f| !f.message.is_empty()) {
            Some(failure) => ("Error", failure.message.clone()),
            None => ("", String::new()),
        });
        for (kind, why) in [(PENDING, pending), (IN_PROGRESS, in_progress)] {
            match why {
                Some((reason, message)) => {
                    condition(conditions, kind, true, None, self.pod, self.now);
                    let Some(told) = conditions.iter_mut().find(|c| c["type"] == kind) else { continue };
                    for (field, text) in [("reason", reason), ("message", message.as_str())] {
                        if !text.is_empty() {
                            told[field] = text.into();
                        }
                    }
                }
                None => conditions.retain(|c| c["type"] != kind),
            }
        }
    }

    /// What a readiness gate still waits for. Others set its condition, on the server.
    fn gate(&self) -> Option<String> {
        let conditions = self.pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        list(self.pod, "readinessGates").find_map(|gate| {
            let kind = gate["conditionType"].as_str().unwrap_or_default();
            match conditions
                .iter()
                .find(|c| c["type"] == kind)
                .map(|c| c["status"].as_str().unwrap_or_default())
            {
                Some("True") => None,
                Some(other) => {
                    Some(format!("the status of pod readiness gate {kind:?} is not \"True\", but {other}"))
                }
                None => {
                    Some(format!("corresponding condition of pod readiness gate {kind:?} does not exist."))
                }
            }
        })
    }

    fn container(&self, spec: &Value, old: Option<&Value>) -> Value {
        let container_name = name(spec);
        let latest = self.observed.latest(container_name);
        let mut status = json!({
            "name": container_name, "image": spec["image"], "imageID": "", "ready": false, "restartCount": 0, "started": false,
            "state": {}, "lastState": {},
        });
        self.resources(spec, latest, &mut status);
        let failure = self
            .memory
            .failures
            .get(container_name)
            .filter(|_| !self.ended && latest.is_none_or(|c| c.state != State::Running));
        let Some(latest) = latest else {
            // The runtime has forgotten it: what is known of it stays.
            if let Some(old) = old.filter(|old| self.ended && !old["containerID"].is_null()) {
                return lost(old);
            }
            status["state"] = match failure {
                Some(failure) => self.failed(spec, failure),
                None => waiting(self.first_reason(), ""),
            };
            return status;
        };
        status["containerID"] = format!("docker://{}", latest.id).into();
        status["imageID"] = latest.image_id.as_str().into();
        status["restartCount"] = latest.attempt.into();
        if let Some(previous) = self.observed.previous(container_name) {
            status["lastState"] = json!({"terminated": self.terminated(previous)});
        }
        match latest.state {
            State::Running => {
                let health = self.memory.health.get(&latest.id).cloned().unwrap_or_default();
                status["state"] = json!({"running": {"startedAt": latest.started_at.map(stamp)}});
                status["started"] = health.started.into();
                status["ready"] = (health.started && health.ready).into();
            }
            State::Created => {
                status["state"] =
                    failure.map_or_else(|| waiting(self.first_reason(), ""), |f| self.failed(spec, f));
            }
            State::Exited => self.exited(spec, latest, failure, &mut status),
        }
        status
    }

    /// What the container was promised, and what of it is in force.
    fn resources(&self, spec: &Value, latest: Option<&Container>, status: &mut Value) {
        if list(self.pod, "ephemeralContainers").any(|c| c["name"] == spec["name"]) {
            return;
        }
        let running = latest.filter(|c| c.state == State::Running);
        status["resources"] = resize::in_force(spec, running.map(|c| &c.limits));
        if spec["resources"]["requests"].as_object().is_some_and(|requests| !requests.is_empty()) {
            status["allocatedResources"] = spec["resources"]["requests"].clone();
        }
    }

    fn first_reason(&self) -> &'static str {
        if list(self.pod, "initContainers").next().is_some() {
            "PodInitializing"
        } else {
            "ContainerCreating"
        }
    }

    fn exited(&self, spec: &Value, latest: &Container, failure: Option<&Failure>, status: &mut Value) {
        let init = list(self.pod, "initContainers").any(|c| name(c) == latest.name);
        let ephemeral = list(self.pod, "ephemeralContainers").any(|c| name(c) == latest.name);
        let policy = restart_policy(self.pod);
        let again = !self.ended
            && !ephemeral
            && (is_sidecar(spec)
                || if init {
                    policy != "Never" && latest.exit_code != 0
                } else {
                    restarts(policy, latest) || restarted(policy, latest, self.memory)
                });
        let waits = back_off_until(latest).is_some_and(|at| at > self.now);
        if let Some(failure) = failure {
            status["state"] = self.failed(spec, failure);
            status["lastState"] = json!({"terminated": self.terminated(latest)});
        } else if again && waits {
            let meta = |field: &str| self.pod["metadata"][field].as_str().unwrap_or_default();
            let text = format!(
                "back-off {} restarting failed container={} pod={}_{}({})",
                duration(pause_seconds(latest.crashes).max(FIRST_PAUSE_SECONDS)),
                latest.name,
                meta("name"),
                meta("namespace"),
                meta("uid")
            );
            status["state"] = waiting("CrashLoopBackOff", &text);
            status["lastState"] = json!({"terminated": self.terminated(latest)});
        } else {
            status["state"] = json!({"terminated": self.terminated(latest)});
            status["ready"] = (init && !is_sidecar(spec) && latest.exit_code == 0).into();
        }
    }

    /// A container that could not be made. A failed pull is soon told as the wait for the next one.
    fn failed(&self, spec: &Value, failure: &Failure) -> Value {
        if failure.reason == "ErrImagePull" && later(failure.failed_at, PULL_ERROR_SHOWN_SECONDS) <= self.now
        {
            let image = spec["image"].as_str().unwrap_or_default();
            let text = format!("Back-off pulling image {image:?}: ErrImagePull: {}", failure.message);
            return waiting("ImagePullBackOff", &text);
        }
        waiting(&failure.reason, &failure.message)
    }

    fn terminated(&self, container: &Container) -> Value {
        let reason = match container.exit_code {
            _ if container.oom_killed => "OOMKilled",
            _ if !container.error.is_empty() && container.started_at.is_none() => "ContainerCannotRun",
            0 => "Completed",
            _ => "Error",
        };
        let mut state = json!({
            "exitCode": container.exit_code, "reason": reason, "containerID": format!("docker://{}", container.id),
            "startedAt": container.started_at.map(stamp), "finishedAt": container.finished_at.map(stamp),
        });
        let said = self.memory.last_words.get(&container.id).filter(|said| !said.is_empty());
        if let Some(message) = said.or(Some(&container.error).filter(|e| !e.is_empty())) {
            state["message"] = message.as_str().into();
        }
        state
    }
}

/// `2m40s`, as Go writes it.
fn duration(seconds: i64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

fn waiting(reason: &str, message: &str) -> Value {
    match message {
        "" => json!({"waiting": {"reason": reason}}),
        message => json!({"waiting": {"reason": reason, "message": message}}),
    }
}

/// The last word on a container that the runtime does not know any more.
fn lost(old: &Value) -> Value {
    let mut status = old.clone();
    (status["ready"], status["started"]) = (false.into(), false.into());
    if status["state"]["terminated"].is_null() {
        let message = "The container could not be located when the pod was terminated";
        status["state"] = json!({"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": message,
            "startedAt": null, "finishedAt": null}});
    }
    status
}

fn condition(
    conditions: &mut Vec<Value>,
    kind: &str,
    holds: bool,
    why_not: Option<(&str, String)>,
    pod: &Value,
    now: Timestamp,
) {
    let status = if holds { "True" } else { "False" };
    let old = conditions.iter().position(|c| c["type"] == kind).map(|at| conditions.remove(at));
    let since = old.filter(|c| c["status"] == status).map(|c| c["lastTransitionTime"].clone());
    let mut fresh = json!({
        "type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": since.unwrap_or_else(|| stamp(now)),
    });
    if let Some(generation) = pod["metadata"]["generation"].as_i64() {
        fresh["observedGeneration"] = generation.into();
    }
    if let Some((reason, message)) = why_not.filter(|_| !holds) {
        fresh["reason"] = reason.into();
        if !message.is_empty() {
            fresh["message"] = message.into();
        }
    }
    conditions.push(fresh);
    conditions.sort_by(|a, b| a["type"].as_str().cmp(&b["type"].as_str()));
}
