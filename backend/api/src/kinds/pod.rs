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
    const STATUS_KEEPS: &'static [&'static str] = &["ownerReferences"];
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        if let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) {
            pod_spec::default(spec);
            super::support::fill(spec, "enableServiceLinks", true);
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
        if let (Some(new), Some(old)) = (&object.spec, &old.spec) {
            validate_change(new, old, errors);
        }
    }

    fn selectable_fields(object: &Value) -> Vec<(&'static str, String)> {
        let text =
            |section: &str, field: &str| object[section][field].as_str().unwrap_or_default().to_owned();
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
        let or_none =
            |text: Option<&String>| Value::from(text.filter(|t| !t.is_empty()).map_or(NONE, |t| t.as_str()));
        let told = Told::of(object, &spec, &status);
        let restarts = match told.last_restart {
            Some(last) if told.restarts > 0 => {
                let ago = meta::human_duration((now.as_second() - last.as_second()).max(0));
                format!("{} ({ago} ago)", told.restarts)
            }
            _ => told.restarts.to_string(),
        };
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
            format!("{}/{}", told.ready, told.total).into(),
            told.reason.into(),
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
        if object["spec"]["nodeName"].as_str().is_none_or(str::is_empty)
            || matches!(phase, "Failed" | "Succeeded")
        {
            return 0;
        }
        let own = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(DEFAULT_GRACE_SECONDS);
        requested.unwrap_or(own).max(0)
    }
}

/// Everything that may change is made equal; what still differs may not (`ValidatePodUpdate`).
fn validate_change(new: &core::PodSpec, old: &core::PodSpec, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let count = |list: &Option<Vec<core::Container>>| list.as_ref().map_or(0, Vec::len);
    let grown = [
        ("containers", new.containers.len() != old.containers.len()),
        ("initContainers", count(&new.init_containers) != count(&old.init_containers)),
    ];
    for (field, _) in grown.iter().filter(|(_, grown)| *grown) {
        errors.forbidden(&path.child(field), "pod updates may not add or remove containers");
    }
    if grown.iter().any(|(_, grown)| *grown) {
        return;
    }
    let mut allowed = new.clone();
    let images = |list: &mut [core::Container], before: &[core::Container]| {
        for (container, before) in list.iter_mut().zip(before) {
            container.image.clone_from(&before.image);
        }
    };
    images(&mut allowed.containers, &old.containers);
    images(
        allowed.init_containers.as_deref_mut().unwrap_or_default(),
        old.init_containers.as_deref().unwrap_or_default(),
    );
    let deadline = path.child("activeDeadlineSeconds");
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), Some(old)) if new > old => {
            errors.invalid(&deadline, new, "must be less than or equal to previous value");
        }
        (None, Some(_)) => {
            errors.invalid(&deadline, Value::Null, "must not update from a positive integer to nil value")
        }
        _ => {}
    }
    allowed.active_deadline_seconds = old.active_deadline_seconds;
    let gates = |spec: &core::PodSpec| spec.scheduling_gates.clone().unwrap_or_default();
    for gate in gates(new).iter().filter(|gate| !gates(old).contains(gate)) {
        let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
        errors.forbidden(&path.child("schedulingGates"), detail);
    }
    allowed.scheduling_gates.clone_from(&old.scheduling_gates);
    if new.termination_grace_period_seconds == Some(1)
        && old.termination_grace_period_seconds.is_some_and(|s| s < 0)
    {
        allowed.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    if old.tolerations.iter().flatten().all(|t| new.tolerations.iter().flatten().any(|n| n == t)) {
        allowed.tolerations.clone_from(&old.tolerations);
    }
    if allowed != *old {
        errors.forbidden(
            &path,
            "pod updates may not change fields other than `spec.containers[*].image`,\
             `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
             tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        );
    }
}

/// What the Ready, Status and Restarts columns tell (`printPod`): the most telling of phase, gates, the progress of init
/// containers and the states of the others.
#[derive(Default)]
struct Told {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i32,
    last_restart: Option<Timestamp>,
}

impl Told {
    fn of(object: &core::Pod, spec: &core::PodSpec, status: &core::PodStatus) -> Self {
        let phase = status.phase.clone().unwrap_or_default();
        let condition = |kind: &str| status.conditions.iter().flatten().find(|c| c.type_ == kind);
        let holds = |kind: &str| condition(kind).is_some_and(|c| c.status == "True");
        let gated =
            condition("PodScheduled").and_then(|c| c.reason.clone()).filter(|r| r == "SchedulingGated");
        let own = status.reason.clone().filter(|r| !r.is_empty());
        let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c)).count();
        let mut told = Self {
            reason: gated.or(own).unwrap_or_else(|| phase.clone()),
            total: spec.containers.len() + sidecars,
            ..Self::default()
        };
        let initializing = told.init_containers(spec, status);
        if !initializing || holds("Initialized") {
            told.containers(spec, status, holds("Ready"));
        }
        if object.metadata.deletion_timestamp.is_some() {
            if status.reason.as_deref() == Some("NodeLost") {
                told.reason = "Unknown".into();
            } else if !matches!(phase.as_str(), "Failed" | "Succeeded") {
                told.reason = "Terminating".into();
            }
        }
        told
    }

    /// Whether one of them still has to end, or to start for good.
    fn init_containers(&mut self, spec: &core::PodSpec, status: &core::PodStatus) -> bool {
        let all = spec.init_containers.as_deref().unwrap_or_default();
        for (i, container) in status.init_container_statuses.iter().flatten().enumerate() {
            self.count_restarts(container);
            let state = container.state.clone().unwrap_or_default();
            if state.terminated.as_ref().is_some_and(|t| t.exit_code == 0) {
                continue;
            }
            if container.started == Some(true)
                && all.iter().any(|c| c.name == container.name && is_sidecar(c))
            {
                self.ready += usize::from(container.ready);
                continue;
            }
            let waiting =
                state.waiting.and_then(|w| w.reason).filter(|r| !r.is_empty() && r != "PodInitializing");
            self.reason = match (state.terminated, waiting) {
                (Some(ended), _) => format!("Init:{}", ended_words(&ended)),
                (None, Some(why)) => format!("Init:{why}"),
                (None, None) => format!("Init:{i}/{}", all.len()),
            };
            return true;
        }
        false
    }

    fn containers(&mut self, spec: &core::PodSpec, status: &core::PodStatus, pod_is_ready: bool) {
        // Of the init containers only those count that go on beside the others.
        (self.restarts, self.last_restart) = (0, None);
        for container in status.init_container_statuses.iter().flatten() {
            if spec.init_containers.iter().flatten().any(|c| c.name == container.name && is_sidecar(c)) {
                self.count_restarts(container);
            }
        }
        let mut running = false;
        for container in status.container_statuses.iter().flatten().rev() {
            self.count_restarts(container);
            let state = container.state.clone().unwrap_or_default();
            let waiting = state.waiting.and_then(|w| w.reason).filter(|r| !r.is_empty());
            match (waiting, state.terminated) {
                (Some(why), _) => self.reason = why,
                (None, Some(ended)) => self.reason = ended_words(&ended),
                (None, None) if container.ready && state.running.is_some() => {
                    running = true;
                    self.ready += 1;
                }
                _ => {}
            }
        }
        if self.reason == "Completed" && running {
            self.reason = if pod_is_ready { "Running" } else { "NotReady" }.into();
        }
    }

    fn count_restarts(&mut self, container: &core::ContainerStatus) {
        self.restarts += container.restart_count;
        let ended = container.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        self.last_restart = self.last_restart.max(ended.and_then(|t| t.finished_at.as_ref()).map(|t| t.0));
    }
}

fn is_sidecar(container: &core::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
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

    /// The Ready, Status and Restarts cells of a pod at 00:10.
    fn cells_of(metadata: Value, status: Value) -> [String; 3] {
        let pod = json!({
            "metadata": metadata, "status": status,
            "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]},
        });
        let pod: core::Pod = serde_json::from_value(pod).unwrap();
        let cells = Pod::cells(&pod, "2026-01-01T00:10:00Z".parse().unwrap());
        [1, 2, 3].map(|i| cells[i].as_str().unwrap().to_owned())
    }

    fn container(state: Value) -> Value {
        let ready = !state["running"].is_null();
        json!({"name": "a", "image": "x", "imageID": "", "ready": ready, "restartCount": 0, "state": state})
    }

    #[test]
    fn the_columns_tell_what_holds_a_pod_up() {
        let mut crashing = container(json!({"waiting": {"reason": "CrashLoopBackOff"}}));
        crashing["restartCount"] = 3.into();
        crashing["lastState"] = json!({"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:05:00Z"}});
        let running = || container(json!({"running": {}}));
        let ended = |code: i32| {
            container(
                json!({"terminated": {"exitCode": code, "reason": if code == 0 { "Completed" } else { "" }}}),
            )
        };
        let alive = json!({});
        let deleted = json!({"deletionTimestamp": "2026-01-01T00:09:00Z"});
        let rows = [
            (&alive, json!({"phase": "Pending"}), ["0/1", "Pending", "0"]),
            (&alive, json!({"phase": "Running", "containerStatuses": [running()]}), ["1/1", "Running", "0"]),
            (
                &alive,
                json!({"phase": "Running", "containerStatuses": [crashing]}),
                ["0/1", "CrashLoopBackOff", "3 (5m ago)"],
            ),
            (
                &alive,
                json!({"phase": "Succeeded", "containerStatuses": [ended(0)]}),
                ["0/1", "Completed", "0"],
            ),
            (&alive, json!({"phase": "Failed", "containerStatuses": [ended(3)]}), ["0/1", "ExitCode:3", "0"]),
            (&alive, json!({"phase": "Failed", "reason": "Evicted"}), ["0/1", "Evicted", "0"]),
            (
                &alive,
                json!({"phase": "Pending", "initContainerStatuses": [container(json!({"running": {}}))]}),
                ["0/1", "Init:0/1", "0"],
            ),
            (
                &alive,
                json!({"phase": "Pending", "initContainerStatuses": [ended(2)]}),
                ["0/1", "Init:ExitCode:2", "0"],
            ),
            (
                &alive,
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
                ["0/1", "SchedulingGated", "0"],
            ),
            (
                &deleted,
                json!({"phase": "Running", "containerStatuses": [running()]}),
                ["1/1", "Terminating", "0"],
            ),
            (
                &deleted,
                json!({"phase": "Succeeded", "containerStatuses": [ended(0)]}),
                ["0/1", "Completed", "0"],
            ),
        ];
        for (metadata, status, expected) in rows {
            assert_eq!(cells_of(metadata.clone(), status.clone()), expected, "{status}");
        }
    }

    fn update_errors(change: impl Fn(&mut Value)) -> Vec<String> {
        let mut object = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n", "containers": [{"name": "a", "image": "a:1"}],
            "tolerations": [{"key": "k", "operator": "Exists"}]}});
        Pod::default(&mut object);
        let old = object.clone();
        change(&mut object);
        let typed = |value| serde_json::from_value(value).unwrap();
        let mut errors = FieldErrors::default();
        Pod::validate_update(&typed(object), &typed(old), &mut errors);
        errors.as_slice().iter().map(|e| e.field.clone()).collect()
    }

    #[test]
    fn of_a_living_pod_little_may_change() {
        let none = Vec::<String>::new();
        assert_eq!(update_errors(|o| o["spec"]["containers"][0]["image"] = "a:2".into()), none);
        assert_eq!(update_errors(|o| o["spec"]["activeDeadlineSeconds"] = 60.into()), none);
        assert_eq!(
            update_errors(|o| o["spec"]["tolerations"]
                .as_array_mut()
                .unwrap()
                .push(json!({"key": "l", "operator": "Exists"}))),
            none
        );
        assert_eq!(update_errors(|o| o["spec"]["tolerations"] = json!([])), ["spec"]);
        assert_eq!(update_errors(|o| o["spec"]["nodeName"] = "other".into()), ["spec"]);
        assert_eq!(update_errors(|o| o["spec"]["containers"][0]["env"] = json!([{"name": "A"}])), ["spec"]);
        assert_eq!(
            update_errors(|o| o["spec"]["containers"]
                .as_array_mut()
                .unwrap()
                .push(json!({"name": "b", "image": "b"}))),
            ["spec.containers"]
        );
    }
}
