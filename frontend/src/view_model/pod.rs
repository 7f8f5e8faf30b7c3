//! A pod in one word, as `kubectl get pods` decides it, and its containers.
use super::status::{Status, Tone};
use super::{at, condition, list, number, text, time};
use serde_json::Value;

/// Reasons that mean waiting is not the normal kind.
const TROUBLE: [&str; 9] = [
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "ErrImagePull",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "ImageInspectError",
];

pub fn status(pod: &Value) -> Status {
    let word = word(pod);
    let detail = message(pod);
    let tone = match word.as_str() {
        "Running" if is_ready(pod) => Tone::Good,
        "Running" => Tone::Busy,
        "Succeeded" | "Completed" => Tone::Muted,
        "Terminating" => Tone::Busy,
        "Pending" if condition(pod, "PodScheduled").is_some_and(|c| c["status"] == "False") => Tone::Warn,
        "Pending" | "ContainerCreating" | "PodInitializing" => Tone::Busy,
        word if word.starts_with("Init:") && !word.contains("Error") && !word.contains("BackOff") => {
            Tone::Busy
        }
        _ => Tone::Bad,
    };
    Status { tone, word, detail }
}

fn word(pod: &Value) -> String {
    if at(pod, &["metadata", "deletionTimestamp"]).is_some() {
        return if text(pod, &["status", "reason"]) == "NodeLost" { "Unknown" } else { "Terminating" }.into();
    }
    if let Some(word) = init_word(pod) {
        return word;
    }
    let mut word = match text(pod, &["status", "reason"]) {
        "" => text(pod, &["status", "phase"]),
        reason => reason,
    };
    let mut running = false;
    for container in list(pod, &["status", "containerStatuses"]).iter().rev() {
        let waiting = text(container, &["state", "waiting", "reason"]);
        if !waiting.is_empty() {
            word = waiting;
        } else if let Some(terminated) = at(container, &["state", "terminated"]) {
            if let Some(failed) = ended(terminated) {
                return failed;
            }
            word = text(container, &["state", "terminated", "reason"]);
        } else if container["ready"] == true && at(container, &["state", "running"]).is_some() {
            running = true;
        }
    }
    match word {
        // One container is done, another still works.
        "Completed" if running => if is_ready(pod) { "Running" } else { "NotReady" }.into(),
        "" => "Pending".into(),
        word => word.into(),
    }
}

/// The word for an end without a reason.
fn ended(terminated: &Value) -> Option<String> {
    if !text(terminated, &["reason"]).is_empty() {
        return None;
    }
    match number(terminated, &["signal"]).unwrap_or(0) {
        0 => Some(format!("ExitCode:{}", number(terminated, &["exitCode"]).unwrap_or(0))),
        signal => Some(format!("Signal:{signal}")),
    }
}

fn init_word(pod: &Value) -> Option<String> {
    let statuses = list(pod, &["status", "initContainerStatuses"]);
    for (index, status) in statuses.iter().enumerate() {
        if let Some(terminated) = at(status, &["state", "terminated"]) {
            if number(terminated, &["exitCode"]) == Some(0) {
                continue;
            }
            return Some(match text(terminated, &["reason"]) {
                "" => format!("Init:{}", ended(terminated).unwrap_or_default()),
                reason => format!("Init:{reason}"),
            });
        }
        let is_sidecar = list(pod, &["spec", "initContainers"])
            .iter()
            .any(|spec| spec["name"] == status["name"] && spec["restartPolicy"] == "Always");
        if is_sidecar && status["started"] == true {
            continue;
        }
        return Some(match text(status, &["state", "waiting", "reason"]) {
            "" | "PodInitializing" => format!("Init:{index}/{}", statuses.len()),
            reason => format!("Init:{reason}"),
        });
    }
    None
}

pub fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|c| c["status"] == "True")
}

/// Why it is not as it should be.
fn message(pod: &Value) -> String {
    for container in list(pod, &["status", "initContainerStatuses"])
        .iter()
        .chain(list(pod, &["status", "containerStatuses"]))
    {
        let waiting = text(container, &["state", "waiting", "message"]);
        let last_end = end_sentence(&container["lastState"]["terminated"]);
        // Kubernetes' own message says only that it waits, and repeats names and a uid.
        if text(container, &["state", "waiting", "reason"]) == "CrashLoopBackOff" && !last_end.is_empty() {
            let pause = waiting.strip_prefix("back-off ").and_then(|rest| rest.split(' ').next());
            let again = pause.map(|pause| format!("; started again {pause} after that")).unwrap_or_default();
            return format!("{} ended: {last_end}{again}", text(container, &["name"]));
        }
        if !waiting.is_empty() {
            return waiting.into();
        }
    }
    let unscheduled = condition(pod, "PodScheduled").filter(|c| c["status"] == "False");
    match unscheduled {
        Some(condition) => text(condition, &["message"]).into(),
        None => text(pod, &["status", "message"]).into(),
    }
}

/// What helps a pod in trouble; empty where nothing is known to.
pub fn advice(status: &Status) -> &'static str {
    if !matches!(status.tone, Tone::Bad | Tone::Warn) {
        return "";
    }
    match status.word.trim_start_matches("Init:") {
        "CrashLoopBackOff" | "Error" | "ContainerCannotRun" => {
            "The log of the previous run usually says why it ended."
        }
        word if word.starts_with("ExitCode:") => "Its log usually says why it ended.",
        "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" => {
            "Check the image's name and tag; a private registry also wants an image pull secret."
        }
        "CreateContainerConfigError" => "It needs a Secret, a ConfigMap or a key in one that is not there.",
        "CreateContainerError" | "RunContainerError" => "Check the container's command and mounts.",
        "OOMKilled" => "It used more memory than its limit: raise the limit, or make it use less.",
        "Evicted" => "Its node ran short of something; it can be deleted.",
        "Pending" => "No node takes it yet: lower what it requests, or add a node.",
        _ => "",
    }
}

/// Containers ready and wanted; sidecars count as `kubectl` counts them.
pub fn ready_of(pod: &Value) -> (usize, usize) {
    let sidecars: Vec<_> = list(pod, &["spec", "initContainers"])
        .iter()
        .filter(|spec| spec["restartPolicy"] == "Always")
        .map(|spec| text(spec, &["name"]))
        .collect();
    let wanted = list(pod, &["spec", "containers"]).len() + sidecars.len();
    let ready = |status: &&Value| status["ready"] == true;
    let main = list(pod, &["status", "containerStatuses"]).iter().filter(ready).count();
    let side = list(pod, &["status", "initContainerStatuses"])
        .iter()
        .filter(|status| sidecars.contains(&text(status, &["name"])))
        .filter(ready)
        .count();
    (main + side, wanted)
}

pub fn restarts(pod: &Value) -> i64 {
    list(pod, &["status", "containerStatuses"])
        .iter()
        .map(|status| number(status, &["restartCount"]).unwrap_or(0))
        .sum()
}

/// One container for the pod's page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub name: String,
    pub image: String,
    pub is_init: bool,
    pub status: Status,
    pub restarts: i64,
    /// When its present state began.
    pub since: Option<i64>,
    /// How the run before ended, as a sentence.
    pub last_end: String,
    pub ports: Vec<String>,
    pub resources: Vec<String>,
}

/// Init containers first, in the order of the spec.
pub fn containers(pod: &Value) -> Vec<Container> {
    let init = list(pod, &["spec", "initContainers"]).iter().map(|spec| (spec, true));
    let main = list(pod, &["spec", "containers"]).iter().map(|spec| (spec, false));
    init.chain(main).map(|(spec, is_init)| container(pod, spec, is_init)).collect()
}

fn container(pod: &Value, spec: &Value, is_init: bool) -> Container {
    let statuses = if is_init { "initContainerStatuses" } else { "containerStatuses" };
    let null = Value::Null;
    let status = list(pod, &["status", statuses]).iter().find(|s| s["name"] == spec["name"]).unwrap_or(&null);
    let since = ["running", "terminated"].iter().find_map(|state| {
        let field = if *state == "running" { "startedAt" } else { "finishedAt" };
        time::parse(text(status, &["state", state, field]))
    });
    let port = |port: &Value| {
        format!(
            "{}/{}",
            number(port, &["containerPort"]).unwrap_or(0),
            match text(port, &["protocol"]) {
                "" => "TCP",
                protocol => protocol,
            }
        )
    };
    Container {
        name: text(spec, &["name"]).into(),
        image: text(spec, &["image"]).into(),
        is_init,
        status: container_status(status),
        restarts: number(status, &["restartCount"]).unwrap_or(0),
        since,
        last_end: end_sentence(&status["lastState"]["terminated"]),
        ports: list(spec, &["ports"]).iter().map(port).collect(),
        resources: resources(spec),
    }
}

fn resources(spec: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for what in ["requests", "limits"] {
        for (name, amount) in super::pairs(spec, &["resources", what]) {
            out.push(format!("{name} {} {amount}", what.trim_end_matches('s')));
        }
    }
    out
}

fn container_status(status: &Value) -> Status {
    if at(status, &["state", "running"]).is_some() {
        return match status["ready"] == true {
            true => Status::new(Tone::Good, "Running"),
            false => Status::new(Tone::Busy, "Not ready"),
        };
    }
    if let Some(waiting) = at(status, &["state", "waiting"]) {
        let reason = text(waiting, &["reason"]);
        let tone = if TROUBLE.contains(&reason) { Tone::Bad } else { Tone::Busy };
        let word = if reason.is_empty() { "Waiting" } else { reason };
        return Status::new(tone, word).with_detail(text(waiting, &["message"]));
    }
    if let Some(terminated) = at(status, &["state", "terminated"]) {
        let code = number(terminated, &["exitCode"]).unwrap_or(0);
        let tone = if code == 0 { Tone::Muted } else { Tone::Bad };
        let word = match text(terminated, &["reason"]) {
            "" => "Terminated",
            reason => reason,
        };
        return Status::new(tone, word).with_detail(end_sentence(terminated));
    }
    Status::new(Tone::Busy, "Waiting")
}

fn end_sentence(terminated: &Value) -> String {
    if terminated.is_null() {
        return String::new();
    }
    let code = number(terminated, &["exitCode"]).unwrap_or(0);
    let mut sentence = match text(terminated, &["reason"]) {
        "" => format!("exit code {code}"),
        reason => format!("{reason}, exit code {code}"),
    };
    let message = text(terminated, &["message"]);
    if !message.is_empty() {
        sentence.push_str(": ");
        sentence.push_str(message);
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(status: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}, "status": status})
    }

    #[test]
    fn a_pods_word_is_the_one_kubectl_prints() {
        let ready = json!([{"type": "Ready", "status": "True"}]);
        for (status, word, tone) in [
            (json!({}), "Pending", Tone::Busy),
            (
                json!({"phase": "Running", "conditions": ready, "containerStatuses": [{"ready": true, "state": {"running": {}}}]}),
                "Running",
                Tone::Good,
            ),
            (json!({"phase": "Running"}), "Running", Tone::Busy),
            (
                json!({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}),
                "ContainerCreating",
                Tone::Busy,
            ),
            (
                json!({"phase": "Running", "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
                "CrashLoopBackOff",
                Tone::Bad,
            ),
            (json!({"phase": "Failed", "reason": "Evicted"}), "Evicted", Tone::Bad),
            (
                json!({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
                "Completed",
                Tone::Muted,
            ),
            (
                json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}),
                "ExitCode:3",
                Tone::Bad,
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"state": {"running": {}}}]}),
                "Init:0/1",
                Tone::Busy,
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}),
                "Init:Error",
                Tone::Bad,
            ),
            (
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": "no node"}]}),
                "Pending",
                Tone::Warn,
            ),
        ] {
            let got = super::status(&pod(status.clone()));
            assert_eq!((got.word.as_str(), got.tone), (word, tone), "{status}");
        }
    }

    #[test]
    fn a_pod_being_deleted_is_terminating_whatever_its_containers_do() {
        let mut pod = pod(json!({"phase": "Running"}));
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(super::status(&pod).word, "Terminating");
    }

    #[test]
    fn a_crash_is_told_by_how_the_last_run_ended() {
        let pod = pod(json!({"containerStatuses": [{"name": "a",
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container=a pod=p_n(uid)"}},
            "lastState": {"terminated": {"exitCode": 3, "reason": "Error"}}}]}));
        let status = super::status(&pod);
        assert_eq!(status.detail, "a ended: Error, exit code 3; started again 40s after that");
        assert!(advice(&status).contains("log"));
        assert_eq!(advice(&Status::new(Tone::Busy, "Pending")), "");
    }

    #[test]
    fn readiness_and_restarts_are_counted_over_all_containers() {
        let pod = pod(json!({"containerStatuses": [
            {"name": "a", "ready": true, "restartCount": 2},
            {"name": "b", "ready": false, "restartCount": 1}]}));
        assert_eq!((ready_of(&pod), restarts(&pod)), ((1, 2), 3));
    }

    #[test]
    fn a_container_tells_how_its_last_run_ended() {
        let pod = pod(
            json!({"containerStatuses": [{"name": "a", "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
            "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]}),
        );
        let containers = containers(&pod);
        assert_eq!(
            containers[0].status,
            Status::new(Tone::Bad, "CrashLoopBackOff").with_detail("back-off 10s")
        );
        assert_eq!(containers[0].last_end, "OOMKilled, exit code 137");
        assert_eq!(containers[1].status.word, "Waiting");
    }
}
