//! Pod: containers that share an address and live on one node.
use super::support::{age_cell, name_cell, pod_spec, pod_validation, reset_status, status, subresource};
use crate::kind::{Column, Kind, Subresource, Verb};
use crate::meta;
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct Pod;

const GET_CREATE: &[Verb] = &[Verb::Create, Verb::Get];
const PROXY_VERBS: &[Verb] = &[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update];
const GET_PATCH_UPDATE: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];
/// Where a pod's own spec names no grace period.
const DEFAULT_GRACE_SECONDS: i64 = 30;
const NONE: &str = "<none>";

impl Kind for Pod {
    type Object = core::Pod;
    const SINGULAR: &'static str = "pod";
    const SHORT_NAMES: &'static [&'static str] = &["po"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] = &[
        subresource("attach", "", "v1", "PodAttachOptions", GET_CREATE),
        subresource("binding", "", "v1", "Binding", &[Verb::Create]),
        subresource("ephemeralcontainers", "", "v1", "Pod", GET_PATCH_UPDATE),
        subresource("eviction", "policy", "v1", "Eviction", &[Verb::Create]),
        subresource("exec", "", "v1", "PodExecOptions", GET_CREATE),
        subresource("log", "", "v1", "Pod", &[Verb::Get]),
        subresource("portforward", "", "v1", "PodPortForwardOptions", GET_CREATE),
        subresource("proxy", "", "v1", "PodProxyOptions", PROXY_VERBS),
        subresource("resize", "", "v1", "Pod", GET_PATCH_UPDATE),
        status("", "v1", "Pod"),
    ];
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        pod_spec::default(&mut object["spec"]);
        if object["spec"].is_object() {
            super::support::fill(&mut object["spec"], "enableServiceLinks", true);
        }
    }

    fn before_create(object: &mut Value) {
        let class = pod_spec::qos_class(&object["spec"]);
        reset_status(object, json!({"phase": "Pending", "qosClass": class}));
    }

    fn validate(object: &core::Pod, errors: &mut FieldErrors) {
        match &object.spec {
            Some(spec) => pod_validation::validate(spec, &Path::new("spec"), errors),
            None => errors.required(&Path::new("spec").child("containers"), ""),
        }
    }

    fn validate_update(object: &core::Pod, old: &core::Pod, errors: &mut FieldErrors) {
        let (Some(new), Some(old)) = (&object.spec, &old.spec) else { return };
        // Everything that may change is made equal; what still differs may not.
        let mut allowed = new.clone();
        for (list, before) in [
            (&mut allowed.containers, Some(&old.containers)),
            (allowed.init_containers.get_or_insert_default(), old.init_containers.as_ref()),
        ] {
            for (container, before) in list.iter_mut().zip(before.into_iter().flatten()) {
                container.image.clone_from(&before.image);
            }
        }
        if old.init_containers.is_none() && allowed.init_containers.as_ref().is_some_and(Vec::is_empty) {
            allowed.init_containers = None;
        }
        allowed.active_deadline_seconds = old.active_deadline_seconds;
        allowed.scheduling_gates.clone_from(&old.scheduling_gates);
        if allowed.termination_grace_period_seconds == Some(1) {
            allowed.termination_grace_period_seconds = old.termination_grace_period_seconds;
        }
        let added_only = old.tolerations.iter().flatten().all(|t| new.tolerations.iter().flatten().any(|n| n == t));
        if added_only {
            allowed.tolerations.clone_from(&old.tolerations);
        }
        if allowed != *old {
            errors.forbidden(
                &Path::new("spec"),
                "pod updates may not change fields other than `spec.containers[*].image`,\
                 `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
                 tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
            );
        }
    }

    fn selectable_fields(object: &Value) -> Vec<(&'static str, String)> {
        let text = |section: &str, field: &str| object[section][field].as_str().unwrap_or_default().to_owned();
        vec![
            ("spec.nodeName", text("spec", "nodeName")),
            ("spec.restartPolicy", text("spec", "restartPolicy")),
            ("spec.schedulerName", text("spec", "schedulerName")),
            ("spec.serviceAccountName", text("spec", "serviceAccountName")),
            ("spec.hostNetwork", (object["spec"]["hostNetwork"] == true).to_string()),
            ("status.phase", text("status", "phase")),
            ("status.podIP", text("status", "podIP")),
            ("status.nominatedNodeName", text("status", "nominatedNodeName")),
        ]
    }

    fn columns() -> Vec<Column> {
        let wide = |name: &str| Column::new(name, "string").wide();
        vec![
            Column::new("Name", "string"),
            Column::new("Ready", "string"),
            Column::new("Status", "string"),
            Column::new("Restarts", "string"),
            Column::new("Age", "string"),
            wide("IP"),
            wide("Node"),
            wide("Nominated Node"),
            wide("Readiness Gates"),
        ]
    }

    fn cells(object: &core::Pod, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let status = object.status.clone().unwrap_or_default();
        let or_none = |text: Option<&String>| Value::from(text.filter(|t| !t.is_empty()).map_or(NONE, |t| t.as_str()));
        let (restarts, last) = restarts(&status);
        let restarts = match last {
            Some(last) if restarts > 0 => {
                let ago = meta::human_duration((now.as_second() - last.as_second()).max(0));
                format!("{restarts} ({ago} ago)")
            }
            _ => restarts.to_string(),
        };
        let ready = status.container_statuses.iter().flatten().filter(|c| c.ready).count();
        let gates = spec.readiness_gates.iter().flatten();
        let passed = gates.clone().filter(|gate| {
            let conditions = status.conditions.iter().flatten();
            conditions.clone().any(|c| c.type_ == gate.condition_type && c.status == "True")
        });
        let gates = match gates.clone().count() {
            0 => NONE.to_owned(),
            count => format!("{}/{count}", passed.count()),
        };
        vec![
            name_cell(&object.metadata),
            format!("{ready}/{}", spec.containers.len()).into(),
            reason(object, &spec, &status).into(),
            restarts.into(),
            age_cell(&object.metadata, now),
            or_none(status.pod_ip.as_ref()),
            or_none(spec.node_name.as_ref()),
            or_none(status.nominated_node_name.as_ref()),
            gates.into(),
        ]
    }

    fn grace_period_seconds(object: &Value, requested: Option<i64>) -> i64 {
        // No node has it, or its containers have ended: there is nobody to wait for.
        let phase = object["status"]["phase"].as_str().unwrap_or_default();
        if object["spec"]["nodeName"].as_str().is_none_or(str::is_empty) || matches!(phase, "Failed" | "Succeeded") {
            return 0;
        }
        let own = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(DEFAULT_GRACE_SECONDS);
        requested.unwrap_or(own).max(0)
    }
}

fn restarts(status: &core::PodStatus) -> (i32, Option<Timestamp>) {
    let containers = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    containers.fold((0, None), |(count, last), container| {
        let ended = container.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        let at = ended.and_then(|t| t.finished_at.as_ref()).map(|t| t.0);
        (count + container.restart_count, last.max(at))
    })
}

/// The Status column: the most telling of phase, init progress and container states (`printPod`).
fn reason(object: &core::Pod, spec: &core::PodSpec, status: &core::PodStatus) -> String {
    let phase = status.phase.clone().unwrap_or_default();
    let mut reason = status.reason.clone().filter(|r| !r.is_empty()).unwrap_or_else(|| phase.clone());
    let mut initializing = false;
    for (i, container) in status.init_container_statuses.iter().flatten().enumerate() {
        let state = container.state.clone().unwrap_or_default();
        let sidecar = spec.init_containers.iter().flatten().any(|c| c.name == container.name && c.restart_policy.as_deref() == Some("Always"));
        if state.terminated.as_ref().is_some_and(|t| t.exit_code == 0) || sidecar && container.started == Some(true) {
            continue;
        }
        let total = spec.init_containers.as_ref().map_or(0, Vec::len);
        let waiting = state.waiting.and_then(|w| w.reason).filter(|r| !r.is_empty() && r != "PodInitializing");
        reason = match (state.terminated, waiting) {
            (Some(ended), _) => format!("Init:{}", ended_words(&ended)),
            (None, Some(why)) => format!("Init:{why}"),
            (None, None) => format!("Init:{i}/{total}"),
        };
        initializing = true;
        break;
    }
    if !initializing {
        let mut running = false;
        for container in status.container_statuses.iter().flatten().rev() {
            let state = container.state.clone().unwrap_or_default();
            let waiting = state.waiting.and_then(|w| w.reason).filter(|r| !r.is_empty());
            match (waiting, state.terminated) {
                (Some(why), _) => reason = why,
                (None, Some(ended)) => reason = ended_words(&ended),
                (None, None) if container.ready && state.running.is_some() => running = true,
                _ => {}
            }
        }
        if reason == "Completed" && running {
            let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
            reason = if ready { "Running" } else { "NotReady" }.into();
        }
    }
    if object.metadata.deletion_timestamp.is_some() {
        return match status.reason.as_deref() {
            Some("NodeLost") => "Unknown".into(),
            _ if matches!(phase.as_str(), "Failed" | "Succeeded") => reason,
            _ => "Terminating".into(),
        };
    }
    reason
}

fn ended_words(ended: &core::ContainerStateTerminated) -> String {
    match (ended.reason.as_deref().filter(|r| !r.is_empty()), ended.signal.filter(|s| *s != 0)) {
        (Some(reason), _) => reason.into(),
        (None, Some(signal)) => format!("Signal:{signal}"),
        (None, None) => format!("ExitCode:{}", ended.exit_code),
    }
}


#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(status: Value) -> String {
        let pod = json!({"metadata": {}, "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}, "status": status});
        let pod: core::Pod = serde_json::from_value(pod).unwrap();
        Pod::cells(&pod, Timestamp::UNIX_EPOCH)[2].as_str().unwrap().to_owned()
    }

    fn container(state: Value) -> Value {
        json!({"name": "a", "image": "x", "imageID": "", "ready": false, "restartCount": 0, "state": state})
    }

    #[test]
    fn the_status_column_tells_what_holds_a_pod_up() {
        let rows = [
            (json!({"phase": "Pending"}), "Pending"),
            (json!({"phase": "Running", "containerStatuses": [container(json!({"waiting": {"reason": "CrashLoopBackOff"}}))]}), "CrashLoopBackOff"),
            (json!({"phase": "Succeeded", "containerStatuses": [container(json!({"terminated": {"exitCode": 0, "reason": "Completed"}}))]}), "Completed"),
            (json!({"phase": "Failed", "containerStatuses": [container(json!({"terminated": {"exitCode": 3}}))]}), "ExitCode:3"),
            (json!({"phase": "Pending", "initContainerStatuses": [container(json!({"running": {}}))]}), "Init:0/1"),
        ];
        for (status, expected) in rows {
            assert_eq!(status_of(status), expected);
        }
    }
}
