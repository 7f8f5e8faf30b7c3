//! What to do about one pod: a pure function of what is assigned, what is observed, what probes say, and the time.
use crate::runtime::{Container, ObservedPod, State};
use pilothouse_api::jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};
use std::collections::HashMap;

/// Back-off of a crashing container, in seconds: ten, doubling, five minutes at most.
const FIRST_PAUSE_SECONDS: i64 = 10;
const LONGEST_PAUSE_SECONDS: i64 = 300;
/// A container that ran this long is taken for healthy again.
const HEALTHY_AFTER_SECONDS: i64 = 600;
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// What probes found out about one running container, by container id.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// The startup probe passed, or there is none.
    pub started: bool,
    pub ready: bool,
    /// The liveness or startup probe failed for good: the message.
    pub unhealthy: Option<String>,
}

/// What the agent remembers about a pod between two looks.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub health: HashMap<String, Health>,
    /// Containers that could not be made: reason and message, and when to try again.
    pub failures: HashMap<String, Failure>,
    /// When each container was asked to end.
    pub stopping: HashMap<String, Timestamp>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// `ErrImagePull`, `CreateContainerConfigError` …
    pub reason: String,
    pub message: String,
    pub tries: u32,
    pub again_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    CreateSandbox,
    Start {
        container: String,
        attempt: u32,
    },
    /// Ask it to end; `Kill` follows when its grace is over.
    Stop {
        id: String,
        container: String,
        why: String,
    },
    Kill {
        id: String,
    },
    Remove {
        id: String,
    },
    /// All containers have ended and their results are kept in the status.
    RemoveSandbox {
        id: String,
    },
    /// Nothing is left of a pod that was to be deleted.
    Finished,
}

#[derive(Debug, Default, PartialEq)]
pub struct Decision {
    pub steps: Vec<Step>,
    pub check_again_at: Option<Timestamp>,
}

impl Decision {
    fn check_again(&mut self, at: Timestamp) {
        self.check_again_at = Some(self.check_again_at.map_or(at, |earlier| earlier.min(at)));
    }
}

fn later(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(seconds.seconds()).unwrap_or(at)
}

fn list<'a>(pod: &'a Value, field: &str) -> impl DoubleEndedIterator<Item = &'a Value> + use<'a> {
    pod["spec"][field].as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

fn name(container: &Value) -> &str {
    container["name"].as_str().unwrap_or_default()
}

/// An init container that keeps running beside the others.
fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

/// Seconds a pod has to end: what the deletion asked for, else its own.
pub fn grace_seconds(pod: &Value) -> i64 {
    let asked = pod["metadata"]["deletionGracePeriodSeconds"].as_i64();
    asked.or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(DEFAULT_GRACE_SECONDS)
}

pub fn is_deleting(pod: &Value) -> bool {
    !pod["metadata"]["deletionTimestamp"].is_null()
}

/// The next steps for an assigned pod.
pub fn decide(pod: &Value, observed: &ObservedPod, memory: &Memory, now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    if is_deleting(pod) || phase_is_final(pod) {
        wind_down(pod, observed, memory, now, is_deleting(pod), &mut decision);
        return decision;
    }
    remove_old_attempts(observed, &mut decision);
    let Some(sandbox) = observed.sandbox.as_ref().filter(|s| s.state == State::Running) else {
        restart_sandbox(pod, observed, &mut decision);
        return decision;
    };
    if sandbox.address.is_empty() && pod["spec"]["hostNetwork"] != true {
        restart_sandbox(pod, observed, &mut decision);
        return decision;
    }
    kill_unhealthy(pod, observed, memory, now, &mut decision);
    for container in list(pod, "initContainers") {
        match init_state(container, observed, memory) {
            InitState::Done => {}
            InitState::Running => return decision,
            InitState::Start => {
                start(pod, container, observed, memory, now, &mut decision);
                return decision;
            }
        }
    }
    for container in list(pod, "containers") {
        let running = observed.latest(name(container)).is_some_and(|c| c.state == State::Running);
        if !running {
            start(pod, container, observed, memory, now, &mut decision);
        }
    }
    decision
}

enum InitState {
    Done,
    Running,
    Start,
}

fn init_state(container: &Value, observed: &ObservedPod, memory: &Memory) -> InitState {
    let Some(latest) = observed.latest(name(container)) else { return InitState::Start };
    match latest.state {
        State::Running if is_sidecar(container) => {
            let started = memory.health.get(&latest.id).is_some_and(|h| h.started);
            if started { InitState::Done } else { InitState::Running }
        }
        State::Running => InitState::Running,
        State::Exited if is_sidecar(container) => InitState::Start,
        State::Exited if latest.exit_code == 0 => InitState::Done,
        State::Exited | State::Created => InitState::Start,
    }
}

fn phase_is_final(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// A pod whose sandbox is gone starts over: its containers shared the sandbox's namespaces.
fn restart_sandbox(pod: &Value, observed: &ObservedPod, decision: &mut Decision) {
    let mut alive = observed.containers.iter().filter(|c| c.state == State::Running).peekable();
    if alive.peek().is_some() {
        decision.steps.extend(alive.map(|c| Step::Kill { id: c.id.clone() }));
        return;
    }
    if let Some(dead) = &observed.sandbox {
        decision.steps.push(Step::RemoveSandbox { id: dead.id.clone() });
        return;
    }
    let policy = pod["spec"]["restartPolicy"].as_str().unwrap_or("Always");
    let all_done = policy != "Always"
        && !observed.containers.is_empty()
        && list(pod, "containers").all(|c| {
            observed.latest(name(c)).is_some_and(|x| x.state == State::Exited && !restarts(policy, x))
        });
    if !all_done {
        decision.steps.push(Step::CreateSandbox);
    }
}

fn restarts(policy: &str, ended: &Container) -> bool {
    match policy {
        "Never" => false,
        "OnFailure" => ended.exit_code != 0,
        _ => true,
    }
}

/// Keeps the newest attempt and, for its logs and exit code, the one before.
fn remove_old_attempts(observed: &ObservedPod, decision: &mut Decision) {
    for container in &observed.containers {
        let newer = observed
            .containers
            .iter()
            .filter(|c| c.name == container.name && c.attempt > container.attempt)
            .count();
        if newer >= 2 && container.state != State::Running {
            decision.steps.push(Step::Remove { id: container.id.clone() });
        }
    }
}

fn kill_unhealthy(
    pod: &Value,
    observed: &ObservedPod,
    memory: &Memory,
    now: Timestamp,
    decision: &mut Decision,
) {
    for container in observed.containers.iter().filter(|c| c.state == State::Running) {
        let Some(why) = memory.health.get(&container.id).and_then(|h| h.unhealthy.clone()) else { continue };
        end(container, grace_seconds(pod), memory, now, &why, decision);
    }
}

/// Asks a running container to end, then makes it.
fn end(
    container: &Container,
    grace: i64,
    memory: &Memory,
    now: Timestamp,
    why: &str,
    decision: &mut Decision,
) {
    match memory.stopping.get(&container.id) {
        None if grace > 0 => decision.steps.push(Step::Stop {
            id: container.id.clone(),
            container: container.name.clone(),
            why: why.to_owned(),
        }),
        Some(asked) if later(*asked, grace) > now => decision.check_again(later(*asked, grace)),
        _ => decision.steps.push(Step::Kill { id: container.id.clone() }),
    }
}

/// When a container that ended may run again; None: now.
pub fn back_off_until(ended: &Container) -> Option<Timestamp> {
    let finished = ended.finished_at.or(ended.created_at)?;
    let ran = ended.started_at.map_or(0, |started| finished.as_second() - started.as_second());
    if ended.attempt == 0 || ran >= HEALTHY_AFTER_SECONDS {
        return None;
    }
    let doublings = (ended.attempt - 1).min(10);
    let pause = (FIRST_PAUSE_SECONDS << doublings).min(LONGEST_PAUSE_SECONDS);
    Some(later(finished, pause))
}

fn start(
    pod: &Value,
    container: &Value,
    observed: &ObservedPod,
    memory: &Memory,
    now: Timestamp,
    decision: &mut Decision,
) {
    let container_name = name(container);
    if let Some(failure) = memory.failures.get(container_name).filter(|f| f.again_at > now) {
        decision.check_again(failure.again_at);
        return;
    }
    let mut attempt = 0;
    if let Some(latest) = observed.latest(container_name) {
        attempt = latest.attempt;
        if latest.state == State::Exited {
            let policy = pod["spec"]["restartPolicy"].as_str().unwrap_or("Always");
            let init = list(pod, "initContainers").any(|c| name(c) == container_name);
            let again = match (is_sidecar(container), init) {
                (true, _) => true,
                (false, true) => policy != "Never",
                (false, false) => restarts(policy, latest),
            };
            if !again {
                return;
            }
            if let Some(at) = back_off_until(latest).filter(|at| *at > now) {
                decision.check_again(at);
                return;
            }
            attempt += 1;
        }
    }
    decision.steps.push(Step::Start { container: container_name.to_owned(), attempt });
}

/// Ends what runs; `remove` also takes away what is left.
fn wind_down(
    pod: &Value,
    observed: &ObservedPod,
    memory: &Memory,
    now: Timestamp,
    remove: bool,
    decision: &mut Decision,
) {
    let running: Vec<_> = observed.containers.iter().filter(|c| c.state == State::Running).collect();
    if !running.is_empty() {
        for container in running {
            end(container, grace_seconds(pod), memory, now, "Stopping container", decision);
        }
        return;
    }
    if let Some(sandbox) = observed.sandbox.as_ref().filter(|s| remove || s.state == State::Running) {
        decision.steps.push(Step::RemoveSandbox { id: sandbox.id.clone() });
    }
    if remove {
        decision.steps.extend(observed.containers.iter().map(|c| Step::Remove { id: c.id.clone() }));
        if decision.steps.is_empty() {
            decision.steps.push(Step::Finished);
        }
    }
}

/// A pod that is not assigned any more: whatever is left of it goes.
pub fn forget(observed: &ObservedPod) -> Vec<Step> {
    let containers = observed.containers.iter().map(|c| Step::Remove { id: c.id.clone() });
    containers.chain(observed.sandbox.iter().map(|s| Step::RemoveSandbox { id: s.id.clone() })).collect()
}

/// The pod's status as the API shows it. `old` is the last one, for the times of conditions.
pub fn status(
    pod: &Value,
    observed: &ObservedPod,
    memory: &Memory,
    old: &Value,
    host_ip: &str,
    now: Timestamp,
) -> Value {
    let statuses = |field: &str| -> Vec<Value> {
        list(pod, field).map(|c| container_status(pod, c, observed, memory, now)).collect()
    };
    let (init, main) = (statuses("initContainers"), statuses("containers"));
    let initialized = list(pod, "initContainers").zip(&init).all(|(spec, status)| match is_sidecar(spec) {
        true => status["started"] == true,
        false => status["state"]["terminated"]["exitCode"] == 0,
    });
    let phase = phase(pod, &main, &init, initialized);
    let ready = !main.is_empty() && main.iter().all(|c| c["ready"] == true) && phase == "Running";
    let mut status = old.clone();
    if !status.is_object() {
        status = json!({});
    }
    status["phase"] = phase.into();
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
    if !init.is_empty() {
        status["initContainerStatuses"] = init.into();
    }
    let unready: Vec<&str> =
        main.iter().filter(|c| c["ready"] != true).filter_map(|c| c["name"].as_str()).collect();
    let not_ready = if matches!(phase, "Succeeded") {
        ("PodCompleted", String::new())
    } else {
        ("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
    };
    let sandboxed = observed.sandbox.as_ref().is_some_and(|s| s.state == State::Running);
    let mut conditions = old["conditions"].as_array().cloned().unwrap_or_default();
    let blocked = ("ContainersNotInitialized", "containers with incomplete status".to_owned());
    condition(&mut conditions, "PodReadyToStartContainers", sandboxed, None, now);
    condition(&mut conditions, "Initialized", initialized, Some(blocked), now);
    let gates_pass =
        list_gates(pod).all(|gate| conditions.iter().any(|c| c["type"] == *gate && c["status"] == "True"));
    condition(&mut conditions, "Ready", ready && gates_pass, Some(not_ready.clone()), now);
    condition(&mut conditions, "ContainersReady", ready, Some(not_ready), now);
    condition(&mut conditions, "PodScheduled", true, None, now);
    status["conditions"] = conditions.into();
    status["containerStatuses"] = main.into();
    status
}

fn list_gates(pod: &Value) -> impl Iterator<Item = &Value> {
    list(pod, "readinessGates").map(|gate| &gate["conditionType"])
}

fn stamp(now: Timestamp) -> Value {
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string().into()
}

fn condition(
    conditions: &mut Vec<Value>,
    r#type: &str,
    holds: bool,
    why_not: Option<(&str, String)>,
    now: Timestamp,
) {
    let status = if holds { "True" } else { "False" };
    let old = conditions.iter().position(|c| c["type"] == r#type).map(|at| conditions.remove(at));
    let since = old.filter(|c| c["status"] == status).map(|c| c["lastTransitionTime"].clone());
    let mut fresh = json!({
        "type": r#type, "status": status, "lastProbeTime": null, "lastTransitionTime": since.unwrap_or_else(|| stamp(now)),
    });
    if let Some((reason, message)) = why_not.filter(|_| !holds) {
        fresh["reason"] = reason.into();
        if !message.is_empty() {
            fresh["message"] = message.into();
        }
    }
    conditions.push(fresh);
    conditions.sort_by(|a, b| a["type"].as_str().cmp(&b["type"].as_str()));
}

fn phase(pod: &Value, main: &[Value], init: &[Value], initialized: bool) -> &'static str {
    if let Some(done) = ["Succeeded", "Failed"].into_iter().find(|p| pod["status"]["phase"] == *p) {
        return done;
    }
    let policy = pod["spec"]["restartPolicy"].as_str().unwrap_or("Always");
    if policy == "Never"
        && init.iter().any(|c| c["state"]["terminated"]["exitCode"].as_i64().is_some_and(|code| code != 0))
    {
        return "Failed";
    }
    if !initialized {
        return "Pending";
    }
    let code = |c: &Value| c["state"]["terminated"]["exitCode"].as_i64();
    let final_code = |c: &Value| match policy {
        "Never" => code(c),
        "OnFailure" => code(c).filter(|code| *code == 0),
        _ => None,
    };
    if !main.is_empty() && main.iter().all(|c| final_code(c).is_some()) {
        return if main.iter().all(|c| final_code(c) == Some(0)) { "Succeeded" } else { "Failed" };
    }
    let begun = main.iter().all(|c| {
        !c["state"]["running"].is_null()
            || !c["state"]["terminated"].is_null()
            || !c["lastState"]["terminated"].is_null()
    });
    if begun && !main.is_empty() { "Running" } else { "Pending" }
}

fn container_status(
    pod: &Value,
    spec: &Value,
    observed: &ObservedPod,
    memory: &Memory,
    now: Timestamp,
) -> Value {
    let container_name = name(spec);
    let latest = observed.latest(container_name);
    let waiting = |reason: &str, message: &str| match message {
        "" => json!({"waiting": {"reason": reason}}),
        message => json!({"waiting": {"reason": reason, "message": message}}),
    };
    let mut status = json!({
        "name": container_name, "image": spec["image"], "imageID": "", "ready": false, "restartCount": 0, "started": false,
        "state": {}, "lastState": {},
    });
    let first =
        if list(pod, "initContainers").any(|_| true) { "PodInitializing" } else { "ContainerCreating" };
    let failure =
        memory.failures.get(container_name).filter(|_| latest.is_none_or(|c| c.state != State::Running));
    let Some(latest) = latest else {
        status["state"] = match failure {
            Some(failure) => waiting(&failure.reason, &failure.message),
            None => waiting(first, ""),
        };
        return status;
    };
    status["containerID"] = format!("docker://{}", latest.id).into();
    status["imageID"] = latest.image_id.as_str().into();
    status["restartCount"] = latest.attempt.into();
    if let Some(previous) = observed.previous(container_name) {
        status["lastState"] = json!({"terminated": terminated(previous)});
    }
    match latest.state {
        State::Running => {
            let health = memory.health.get(&latest.id).cloned().unwrap_or_default();
            status["state"] = json!({"running": {"startedAt": latest.started_at.map(stamp)}});
            status["started"] = health.started.into();
            status["ready"] = (health.started && health.ready && !is_deleting(pod)).into();
        }
        State::Created => {
            status["state"] =
                waiting(failure.map_or(first, |f| &f.reason), failure.map_or("", |f| &f.message))
        }
        State::Exited => {
            let init = list(pod, "initContainers").any(|c| name(c) == container_name);
            let policy = pod["spec"]["restartPolicy"].as_str().unwrap_or("Always");
            let again = !is_deleting(pod)
                && (is_sidecar(spec)
                    || if init {
                        policy != "Never" && latest.exit_code != 0
                    } else {
                        restarts(policy, latest)
                    });
            let waits = back_off_until(latest).is_some_and(|at| at > now);
            if let Some(failure) = failure {
                status["state"] = waiting(&failure.reason, &failure.message);
                status["lastState"] = json!({"terminated": terminated(latest)});
            } else if again && waits {
                let pause =
                    (FIRST_PAUSE_SECONDS << (latest.attempt.max(1) - 1).min(10)).min(LONGEST_PAUSE_SECONDS);
                let text = format!("back-off {pause}s restarting failed container={container_name}");
                status["state"] = waiting("CrashLoopBackOff", &text);
                status["lastState"] = json!({"terminated": terminated(latest)});
            } else {
                status["state"] = json!({"terminated": terminated(latest)});
                status["ready"] = (init && latest.exit_code == 0).into();
            }
        }
    }
    status
}

fn terminated(container: &Container) -> Value {
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
    if !container.error.is_empty() {
        state["message"] = container.error.as_str().into();
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn container(name: &str, state: State, attempt: u32, exit_code: i64) -> Container {
        Container {
            id: format!("{name}-{attempt}"),
            name: name.into(),
            attempt,
            state,
            exit_code,
            oom_killed: false,
            error: String::new(),
            image: "i".into(),
            image_id: "sha".into(),
            created_at: Some(at(100)),
            started_at: Some(at(100)),
            finished_at: (state == State::Exited).then(|| at(101)),
            pid: 1,
            address: String::new(),
        }
    }

    fn sandbox() -> Option<Container> {
        Some(Container { address: "10.244.0.2".into(), ..container("POD", State::Running, 0, 0) })
    }

    fn pod(policy: &str) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]}})
    }

    fn steps(pod: &Value, observed: &ObservedPod, now: i64) -> Vec<Step> {
        decide(pod, observed, &Memory::default(), at(now)).steps
    }

    fn observed(containers: Vec<Container>) -> ObservedPod {
        ObservedPod { sandbox: sandbox(), containers }
    }

    #[test]
    fn a_pod_starts_with_its_sandbox_then_its_containers() {
        assert_eq!(steps(&pod("Always"), &ObservedPod::default(), 0), [Step::CreateSandbox]);
        let start = Step::Start { container: "a".into(), attempt: 0 };
        assert_eq!(steps(&pod("Always"), &observed(vec![]), 0), [start]);
        assert_eq!(steps(&pod("Always"), &observed(vec![container("a", State::Running, 0, 0)]), 0), []);
    }

    #[test]
    fn init_containers_run_one_after_the_other_before_the_others() {
        let mut pod = pod("Always");
        pod["spec"]["initContainers"] = json!([{"name": "i1"}, {"name": "i2"}]);
        let start = |name: &str| vec![Step::Start { container: name.into(), attempt: 0 }];
        assert_eq!(steps(&pod, &observed(vec![]), 0), start("i1"));
        assert_eq!(steps(&pod, &observed(vec![container("i1", State::Running, 0, 0)]), 0), []);
        let first = container("i1", State::Exited, 0, 0);
        assert_eq!(steps(&pod, &observed(vec![first.clone()]), 0), start("i2"));
        assert_eq!(steps(&pod, &observed(vec![first, container("i2", State::Exited, 0, 0)]), 0), start("a"));
    }

    #[test]
    fn restarts_follow_the_policy_and_back_off() {
        let crashed = observed(vec![container("a", State::Exited, 0, 1)]);
        let again = vec![Step::Start { container: "a".into(), attempt: 1 }];
        for (policy, expected) in [("Always", again.clone()), ("OnFailure", again.clone()), ("Never", vec![])]
        {
            assert_eq!(steps(&pod(policy), &crashed, 101), expected, "{policy}");
        }
        let twice = observed(vec![container("a", State::Exited, 1, 1)]);
        assert_eq!(steps(&pod("Always"), &twice, 105), []);
        assert_eq!(decide(&pod("Always"), &twice, &Memory::default(), at(105)).check_again_at, Some(at(111)));
        assert_eq!(steps(&pod("Always"), &twice, 111), [Step::Start { container: "a".into(), attempt: 2 }]);
        let told = status(&pod("Always"), &twice, &Memory::default(), &Value::Null, "1.2.3.4", at(105));
        assert_eq!(told["containerStatuses"][0]["state"]["waiting"]["reason"], "CrashLoopBackOff");
    }

    #[test]
    fn a_deleted_pod_is_asked_to_end_then_killed_then_removed() {
        let mut pod = pod("Always");
        pod["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z".into();
        pod["metadata"]["deletionGracePeriodSeconds"] = 5.into();
        let running = observed(vec![container("a", State::Running, 0, 0)]);
        assert!(matches!(&steps(&pod, &running, 10)[..], [Step::Stop { .. }]));
        let memory = Memory { stopping: HashMap::from([("a-0".to_owned(), at(10))]), ..Memory::default() };
        assert_eq!(decide(&pod, &running, &memory, at(12)).steps, []);
        assert_eq!(decide(&pod, &running, &memory, at(15)).steps, [Step::Kill { id: "a-0".into() }]);
        let ended = observed(vec![container("a", State::Exited, 0, 0)]);
        assert_eq!(steps(&pod, &ended, 16).len(), 2);
        assert_eq!(steps(&pod, &ObservedPod::default(), 17), [Step::Finished]);
    }

    #[test]
    fn phases_follow_the_containers() {
        let phase = |policy: &str, containers: Vec<Container>| {
            status(&pod(policy), &observed(containers), &Memory::default(), &Value::Null, "1.2.3.4", at(0))["phase"].clone()
        };
        assert_eq!(phase("Always", vec![]), "Pending");
        assert_eq!(phase("Always", vec![container("a", State::Running, 0, 0)]), "Running");
        assert_eq!(phase("Never", vec![container("a", State::Exited, 0, 0)]), "Succeeded");
        assert_eq!(phase("Never", vec![container("a", State::Exited, 0, 3)]), "Failed");
        assert_eq!(phase("OnFailure", vec![container("a", State::Exited, 0, 3)]), "Running");
    }
}
