//! Rows for single decisions, and whole lives of pods on a clock of their own.
use super::*;
use crate::runtime::fake::{FakePod, Life};
use serde_json::json;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn container(name: &str, state: State, attempt: u32, exit_code: i64) -> Container {
    Container {
        id: format!("{name}-{attempt}"),
        name: name.into(),
        attempt,
        crashes: attempt,
        state,
        exit_code,
        image: "i".into(),
        image_id: "sha".into(),
        created_at: Some(at(100)),
        started_at: Some(at(100)),
        finished_at: (state == State::Exited).then(|| at(101)),
        pid: 1,
        limits: resize::limits_of(&Value::Null),
        ..Container::default()
    }
}

fn sandbox() -> Option<Container> {
    Some(Container { address: "10.244.0.2".into(), ..container("POD", State::Running, 0, 0) })
}

fn pod(policy: &str) -> Value {
    json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]}})
}

fn steps(pod: &Value, observed: &ObservedPod, now: i64) -> Vec<Step> {
    decide(pod, observed, &Memory::default(), at(now)).steps
}

fn told(pod: &Value, observed: &ObservedPod, memory: &Memory, now: i64) -> Value {
    status(pod, observed, memory, &Value::Null, "1.2.3.4", at(now))
}

fn observed(containers: Vec<Container>) -> ObservedPod {
    ObservedPod { sandbox: sandbox(), containers }
}

fn first(name: &str) -> Step {
    Step::Start(Start { container: name.into(), attempt: 0, crashes: 0 })
}

/// Lives a pod from second 0 to `until`: what was done, with the second it was done at.
fn live(pod: &Value, until: i64, plan: impl Fn(&str, u32) -> Life + Send + 'static) -> Vec<(i64, String)> {
    let mut life = Living::new(pod.clone(), plan);
    life.until(until);
    life.log
}

struct Living {
    pod: Value,
    fake: FakePod,
    memory: Memory,
    status: Value,
    now: i64,
    log: Vec<(i64, String)>,
}

impl Living {
    fn new(pod: Value, plan: impl Fn(&str, u32) -> Life + Send + 'static) -> Self {
        let fake = FakePod::new("10.244.0.2", plan);
        Self { pod, fake, memory: Memory::default(), status: Value::Null, now: 0, log: Vec::new() }
    }

    fn until(&mut self, until: i64) {
        while self.now <= until {
            let now = at(self.now);
            let observed = self.fake.observe(now).clone();
            self.status = status(&self.pod, &observed, &self.memory, &self.status, "1.2.3.4", now);
            let decision = decide(&self.pod, &observed, &self.memory, now);
            if !decision.steps.is_empty() {
                for step in &decision.steps {
                    self.fake.carry_out(step, &mut self.memory, now);
                    self.log.push((self.now, words(step)));
                }
                if decision.steps == [Step::Finished] {
                    return;
                }
                continue;
            }
            let next = decision.check_again_at.into_iter().chain(self.fake.next_end()).min();
            match next.map(Timestamp::as_second) {
                Some(next) if next <= until => self.now = next.max(self.now + 1),
                _ => break,
            }
        }
        self.now = until;
    }

    fn delete(&mut self, grace_seconds: i64) {
        self.pod["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z".into();
        self.pod["metadata"]["deletionGracePeriodSeconds"] = grace_seconds.into();
    }

    /// What was done since `second`, without its time.
    fn since(&self, second: i64) -> Vec<(i64, &str)> {
        self.log.iter().filter(|(at, _)| *at >= second).map(|(at, what)| (*at, what.as_str())).collect()
    }
}

fn words(step: &Step) -> String {
    match step {
        Step::Start(Start { container, attempt, .. }) => format!("start {container} {attempt}"),
        Step::Stop { container, grace_seconds, .. } => format!("stop {container} in {grace_seconds}"),
        Step::Resize { container, .. } => format!("resize {container}"),
        Step::Kill { id } => format!("kill {id}"),
        Step::Remove { id } => format!("remove {id}"),
        Step::CreateSandbox => "sandbox".into(),
        Step::RemoveSandbox { .. } => "remove sandbox".into(),
        Step::Finished => "finished".into(),
    }
}

#[test]
fn a_pod_starts_with_its_sandbox_then_its_containers() {
    assert_eq!(steps(&pod("Always"), &ObservedPod::default(), 0), [Step::CreateSandbox]);
    assert_eq!(steps(&pod("Always"), &observed(vec![]), 0), [first("a")]);
    assert_eq!(steps(&pod("Always"), &observed(vec![container("a", State::Running, 0, 0)]), 0), []);
}

#[test]
fn init_containers_run_one_after_the_other_before_the_others() {
    let mut pod = pod("Always");
    pod["spec"]["initContainers"] = json!([{"name": "i1"}, {"name": "i2"}]);
    assert_eq!(steps(&pod, &observed(vec![]), 0), [first("i1")]);
    assert_eq!(steps(&pod, &observed(vec![container("i1", State::Running, 0, 0)]), 0), []);
    let one = container("i1", State::Exited, 0, 0);
    assert_eq!(steps(&pod, &observed(vec![one.clone()]), 0), [first("i2")]);
    assert_eq!(steps(&pod, &observed(vec![one, container("i2", State::Exited, 0, 0)]), 0), [first("a")]);
}

#[test]
fn a_pod_with_a_new_sandbox_starts_over_with_its_init_containers() {
    let mut pod = pod("Always");
    pod["spec"]["initContainers"] = json!([{"name": "i"}]);
    let mut done = container("i", State::Exited, 0, 0);
    done.sandbox = "earlier".into();
    let again = Step::Start(Start { container: "i".into(), attempt: 1, crashes: 1 });
    assert_eq!(steps(&pod, &observed(vec![done]), 200), [again]);
}

#[test]
fn a_failed_init_container_fails_a_pod_that_is_not_restarted() {
    let mut pod = pod("Never");
    pod["spec"]["initContainers"] = json!([{"name": "i"}]);
    let mut life = Living::new(pod, |_, _| Life { seconds: Some(1), exit_code: 2, ..Life::default() });
    life.until(100);
    assert_eq!(life.since(0), [(0, "sandbox"), (0, "start i 0"), (1, "remove sandbox")]);
    assert_eq!(life.status["phase"], "Failed");
}

#[test]
fn restarts_follow_the_policy() {
    let crashed = observed(vec![container("a", State::Exited, 0, 1)]);
    let done = observed(vec![container("a", State::Exited, 0, 0)]);
    let again = vec![Step::Start(Start { container: "a".into(), attempt: 1, crashes: 1 })];
    let end = vec![Step::RemoveSandbox { id: "POD-0".into() }];
    let rows = [("Always", &again, &again), ("OnFailure", &again, &end), ("Never", &end, &end)];
    for (policy, after_crash, after_success) in rows {
        assert_eq!(&steps(&pod(policy), &crashed, 101), after_crash, "{policy}");
        assert_eq!(&steps(&pod(policy), &done, 101), after_success, "{policy}");
    }
}

#[test]
fn a_crashing_container_waits_ever_longer_and_five_minutes_at_most() {
    let log = live(&pod("Always"), 1000, |_, _| Life { seconds: Some(1), exit_code: 1, ..Life::default() });
    let starts: Vec<i64> =
        log.iter().filter(|(_, what)| what.starts_with("start")).map(|(at, _)| *at).collect();
    // Each ran for a second: at once, then after 10, 20, 40, 80, 160, 300 seconds.
    assert_eq!(starts, [0, 1, 12, 33, 74, 155, 316, 617, 918]);
}

#[test]
fn after_ten_good_minutes_the_back_off_begins_anew() {
    let plan = |_: &str, attempt: u32| Life {
        seconds: Some(if attempt == 5 { 700 } else { 1 }),
        exit_code: 1,
        ..Life::default()
    };
    let log = live(&pod("Always"), 1000, plan);
    let starts: Vec<i64> =
        log.iter().filter(|(_, what)| what.starts_with("start")).map(|(at, _)| *at).collect();
    assert_eq!(starts, [0, 1, 12, 33, 74, 155, 855, 866, 887, 928]);
}

#[test]
fn a_crash_loop_is_told() {
    let twice = observed(vec![container("a", State::Exited, 1, 1)]);
    let now = told(&pod("Always"), &twice, &Memory::default(), 105);
    let waiting = &now["containerStatuses"][0]["state"]["waiting"];
    assert_eq!(waiting["reason"], "CrashLoopBackOff");
    assert_eq!(waiting["message"], "back-off 10s restarting failed container=a pod=p_n(u)");
    assert_eq!(now["containerStatuses"][0]["lastState"]["terminated"]["reason"], "Error");
    assert_eq!(now["phase"], "Running");
}

#[test]
fn a_deleted_pod_is_asked_to_end_then_killed_then_removed() {
    let mut life = Living::new(pod("Always"), |_, _| Life { stops_in: None, ..Life::default() });
    life.until(10);
    life.delete(5);
    life.until(100);
    let done = life.since(10);
    let expected =
        [(10, "stop a in 5"), (15, "kill a-2"), (15, "remove sandbox"), (15, "remove a-2"), (15, "finished")];
    assert_eq!(done, expected);
    assert_eq!(life.status["phase"], "Failed");
    assert_eq!(life.status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 137);
}

#[test]
fn a_pre_stop_hook_takes_from_the_grace_but_leaves_something() {
    let mut pod = pod("Always");
    pod["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z".into();
    pod["metadata"]["deletionGracePeriodSeconds"] = 10.into();
    let running = observed(vec![container("a", State::Running, 0, 0)]);
    let decision = |signalled: Option<i64>, now: i64| {
        let stopping = Stopping { asked_at: at(100), to_restart: false, signalled_at: signalled.map(at) };
        let memory = Memory { stopping: HashMap::from([("a-0".to_owned(), stopping)]), ..Memory::default() };
        decide(&pod, &running, &memory, at(now))
    };
    let kill = vec![Step::Kill { id: "a-0".into() }];
    assert_eq!(decision(None, 111).check_again_at, Some(at(112)), "the hook still runs");
    assert_eq!(decision(Some(110), 111).check_again_at, Some(at(112)));
    assert_eq!(decision(Some(110), 112).steps, kill);
    assert_eq!(decision(Some(103), 110).steps, kill);
    assert_eq!(decision(Some(103), 109).steps, []);
}

#[test]
fn sidecars_start_first_and_end_last_in_reverse_order() {
    let mut pod = pod("Always");
    pod["spec"]["initContainers"] = json!([
        {"name": "s1", "restartPolicy": "Always"}, {"name": "i"}, {"name": "s2", "restartPolicy": "Always"}]);
    let plan = |name: &str, _: u32| match name {
        "i" => Life { seconds: Some(1), ..Life::default() },
        "a" => Life { stops_in: Some(3), ..Life::default() },
        _ => Life { stops_in: Some(1), ..Life::default() },
    };
    let mut life = Living::new(pod, plan);
    life.until(10);
    let begun = [(0, "sandbox"), (0, "start s1 0"), (0, "start i 0"), (1, "start s2 0"), (1, "start a 0")];
    assert_eq!(life.since(0), begun);
    assert_eq!(life.status["conditions"][0]["status"], "True", "{}", life.status);
    life.delete(30);
    life.until(100);
    let ended: Vec<(i64, &str)> =
        life.since(10).into_iter().filter(|(_, what)| what.starts_with("stop")).collect();
    assert_eq!(ended, [(10, "stop a in 30"), (13, "stop s2 in 27"), (14, "stop s1 in 26")]);
}

#[test]
fn a_sidecar_does_not_keep_a_job_from_its_end() {
    let mut pod = pod("Never");
    pod["spec"]["initContainers"] = json!([{"name": "s", "restartPolicy": "Always"}]);
    let plan = |name: &str, _: u32| Life { seconds: (name == "a").then_some(5), ..Life::default() };
    let mut life = Living::new(pod, plan);
    life.until(100);
    assert_eq!(life.since(5), [(5, "stop s in 30"), (5, "remove sandbox")]);
    assert_eq!(life.status["phase"], "Succeeded");
}

#[test]
fn a_pod_past_its_deadline_fails_and_says_so() {
    let mut pod = pod("Always");
    pod["spec"]["activeDeadlineSeconds"] = 20.into();
    pod["status"] = json!({"startTime": "1970-01-01T00:00:00Z"});
    let mut life = Living::new(pod, |_, _| Life::default());
    life.until(100);
    assert_eq!(life.since(1), [(20, "stop a in 30"), (20, "remove sandbox")]);
    assert_eq!(
        (&life.status["phase"], &life.status["reason"]),
        (&json!("Failed"), &json!("DeadlineExceeded"))
    );
}

#[test]
fn a_pod_that_asks_for_an_unsafe_sysctl_is_refused() {
    let mut pod = pod("Always");
    let sysctl = |name: &str| json!({"sysctls": [{"name": name, "value": "1"}]});
    pod["spec"]["securityContext"] = sysctl("net.ipv4.ip_unprivileged_port_start");
    assert_eq!(steps(&pod, &ObservedPod::default(), 0), [Step::CreateSandbox]);
    pod["spec"]["securityContext"] = sysctl("kernel.msgmax");
    assert_eq!(steps(&pod, &ObservedPod::default(), 0), []);
    let now = told(&pod, &ObservedPod::default(), &Memory::default(), 0);
    assert_eq!((&now["phase"], &now["reason"]), (&json!("Failed"), &json!("SysctlForbidden")));
    assert_eq!(now["message"], "forbidden sysctl: \"kernel.msgmax\" not allowlisted");
}

#[test]
fn an_unhealthy_container_is_ended_with_its_probes_own_grace() {
    let running = observed(vec![container("a", State::Running, 0, 0)]);
    let unhealthy = Unhealthy { why: "no".into(), grace_seconds: Some(7) };
    let health = Health { started: true, ready: false, unhealthy: Some(unhealthy) };
    let memory = Memory { health: HashMap::from([("a-0".to_owned(), health)]), ..Memory::default() };
    let stop = Step::Stop { id: "a-0".into(), container: "a".into(), why: "no".into(), grace_seconds: 7 };
    assert_eq!(decide(&pod("Always"), &running, &memory, at(200)).steps, [stop]);
}

#[test]
fn a_new_image_restarts_the_container() {
    let mut pod = pod("Always");
    pod["spec"]["containers"][0]["image"] = "j".into();
    let running = observed(vec![container("a", State::Running, 0, 0)]);
    assert!(
        matches!(&steps(&pod, &running, 200)[..], [Step::Stop { why, .. }] if why.contains("definition changed"))
    );
}

#[test]
fn an_ephemeral_container_joins_a_running_pod_once() {
    let mut pod = pod("Always");
    pod["spec"]["ephemeralContainers"] = json!([{"name": "debug", "targetContainerName": "a"}]);
    let main = container("a", State::Running, 0, 0);
    assert_eq!(steps(&pod, &observed(vec![]), 0), [first("a")], "its target comes first");
    assert_eq!(steps(&pod, &observed(vec![main.clone()]), 0), [first("debug")]);
    let ended = observed(vec![main, container("debug", State::Exited, 0, 1)]);
    assert_eq!(steps(&pod, &ended, 0), []);
    let now = told(&pod, &ended, &Memory::default(), 0);
    assert_eq!(now["ephemeralContainerStatuses"][0]["state"]["terminated"]["exitCode"], 1);
    assert_eq!(now["phase"], "Running");
}

#[test]
fn phases_follow_the_containers() {
    let phase = |policy: &str, containers: Vec<Container>| {
        told(&pod(policy), &observed(containers), &Memory::default(), 0)["phase"].clone()
    };
    assert_eq!(phase("Always", vec![]), "Pending");
    assert_eq!(phase("Always", vec![container("a", State::Running, 0, 0)]), "Running");
    assert_eq!(phase("Never", vec![container("a", State::Exited, 0, 0)]), "Succeeded");
    assert_eq!(phase("Never", vec![container("a", State::Exited, 0, 3)]), "Failed");
    assert_eq!(phase("OnFailure", vec![container("a", State::Exited, 0, 3)]), "Running");
}

#[test]
fn readiness_waits_for_the_gates_that_others_open() {
    let mut pod = pod("Always");
    pod["spec"]["readinessGates"] = json!([{"conditionType": "lb"}]);
    let running = observed(vec![container("a", State::Running, 0, 0)]);
    let health = Health { started: true, ready: true, unhealthy: None };
    let memory = Memory { health: HashMap::from([("a-0".to_owned(), health)]), ..Memory::default() };
    let ready = |pod: &Value| {
        let now = told(pod, &running, &memory, 200);
        let conditions = now["conditions"].as_array().unwrap().clone();
        let find = |kind: &str| conditions.iter().find(|c| c["type"] == kind).unwrap().clone();
        (find("Ready"), find("ContainersReady")["status"].clone())
    };
    let (not_yet, containers) = ready(&pod);
    assert_eq!((&not_yet["status"], &containers), (&json!("False"), &json!("True")));
    assert_eq!(not_yet["reason"], "ReadinessGatesNotReady");
    pod["status"] = json!({"conditions": [{"type": "lb", "status": "True"}]});
    assert_eq!(ready(&pod).0["status"], "True");
}

#[test]
fn why_a_container_ended_is_told_with_its_last_words() {
    let mut oom = container("a", State::Exited, 0, 137);
    oom.oom_killed = true;
    let memory =
        Memory { last_words: HashMap::from([("a-0".to_owned(), "bye".to_owned())]), ..Memory::default() };
    let now = told(&pod("Never"), &observed(vec![oom]), &memory, 200);
    let terminated = &now["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&terminated["reason"], &terminated["message"]), (&json!("OOMKilled"), &json!("bye")));
}

#[test]
fn a_failed_pull_is_told_as_such_and_then_as_the_wait_for_the_next() {
    let failure = Failure {
        reason: "ErrImagePull".into(),
        message: "no such host".into(),
        tries: 1,
        failed_at: at(100),
        again_at: at(110),
    };
    let memory = Memory { failures: HashMap::from([("a".to_owned(), failure)]), ..Memory::default() };
    let reason = |now: i64| {
        told(&pod("Always"), &observed(vec![]), &memory, now)["containerStatuses"][0]["state"]["waiting"]["reason"].clone()
    };
    assert_eq!((reason(100), reason(103)), (json!("ErrImagePull"), json!("ImagePullBackOff")));
    let decision = |now: i64| decide(&pod("Always"), &observed(vec![]), &memory, at(now));
    assert_eq!(decision(100).check_again_at, Some(at(102)));
    assert_eq!(decision(103).check_again_at, Some(at(110)));
    assert_eq!(decision(110).steps, [first("a")]);
}

#[test]
fn what_the_server_says_of_the_node_on_its_own_is_told_from_what_it_was_told() {
    let status =
        |ready: &str| json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]});
    assert!(is_shown(&status("True"), &status("True")));
    assert!(!is_shown(&status("True"), &status("False")), "the node was taken for lost");
    assert!(!is_shown(&status("True"), &json!({"phase": "Pending"})));
    let gated = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}, {"type": "gate", "status": "False"}]});
    assert!(is_shown(&status("True"), &gated), "conditions of others are theirs");
}

#[test]
fn a_resized_container_gets_its_limits_where_it_can_and_starts_anew_where_it_must() {
    let mut pod = pod("OnFailure");
    pod["spec"]["containers"][0]["resources"] =
        json!({"requests": {"cpu": "500m"}, "limits": {"memory": "64Mi"}});
    pod["spec"]["containers"][0]["resizePolicy"] =
        json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let promised = resize::limits_of(&pod["spec"]["containers"][0]);
    let running =
        |limits: Limits| observed(vec![Container { limits, ..container("a", State::Running, 0, 0) }]);
    assert_eq!(steps(&pod, &running(promised), 0), []);
    let slower = running(Limits { cpu_shares: 102, ..promised });
    let resize = Step::Resize { id: "a-0".into(), container: "a".into(), limits: promised };
    assert_eq!(steps(&pod, &slower, 0), [resize]);
    let status = told(&pod, &slower, &Memory::default(), 0);
    assert_eq!(status["containerStatuses"][0]["resources"]["requests"]["cpu"], "100m");
    assert_eq!(status["containerStatuses"][0]["allocatedResources"]["cpu"], "500m");
    let conditions = |status: &Value| -> Vec<String> {
        let all = status["conditions"].as_array().unwrap().iter();
        let of_resize = all.filter(|c| c["type"].as_str().unwrap().starts_with("PodResize"));
        of_resize.map(|c| format!("{} {}", c["type"].as_str().unwrap(), c["reason"])).collect()
    };
    assert_eq!(conditions(&status), ["PodResizeInProgress null"]);
    // What it did not take is not asked of it again and again.
    let failure = ResizeFailure { wanted: promised, message: "no".into(), again_at: at(50) };
    let mut memory =
        Memory { resize_failures: HashMap::from([("a-0".to_owned(), failure)]), ..Memory::default() };
    let decision = decide(&pod, &slower, &memory, at(40));
    assert_eq!((decision.steps.len(), decision.check_again_at), (0, Some(at(50))));
    memory.resize = Some(Pending::Infeasible("too much".into()));
    let told_pending = conditions(&told(&pod, &slower, &memory, 40));
    assert_eq!(told_pending, ["PodResizeInProgress \"Error\"", "PodResizePending \"Infeasible\""]);

    let smaller = running(Limits { memory_bytes: 1 << 20, ..promised });
    let stop = &steps(&pod, &smaller, 0)[0];
    assert!(
        matches!(stop, Step::Stop { why, .. } if why == "Container a resize requires restart"),
        "{stop:?}"
    );
    // It may end well when asked to: it starts anew all the same.
    let stopping = Stopping { asked_at: at(0), to_restart: true, signalled_at: Some(at(0)) };
    let memory = Memory { stopping: HashMap::from([("a-0".to_owned(), stopping)]), ..Memory::default() };
    let ended = observed(vec![container("a", State::Exited, 0, 0)]);
    assert_eq!(ending(&pod, &ended, &memory, at(102)), None);
    let again = Step::Start(Start { container: "a".into(), attempt: 1, crashes: 1 });
    assert_eq!(decide(&pod, &ended, &memory, at(102)).steps, [again]);
}
