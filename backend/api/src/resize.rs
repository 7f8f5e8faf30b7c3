//! A pod that is resized in place: what of its spec may change, and what it counts for meanwhile.
//! After <https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/>.
use crate::kinds::support::pod_spec::qos_class;
use crate::usage::{Amounts, amounts};
use crate::validation::{FieldErrors, Path};
use serde_json::Value;

/// What can be resized, besides the two lists every container has.
const RESOURCES: [&str; 2] = ["cpu", "memory"];
const LISTS: [&str; 2] = ["containers", "initContainers"];
/// The condition that says that a resize waits, and the reason when it waits in vain.
pub const PENDING: &str = "PodResizePending";
pub const IN_PROGRESS: &str = "PodResizeInProgress";
pub const INFEASIBLE: &str = "Infeasible";

fn containers<'a>(pod: &'a Value, list: &str) -> &'a [Value] {
    pod["spec"][list].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Only containers that keep running can be resized.
pub fn is_resizable(list: &str, container: &Value) -> bool {
    list == "containers" || (list == "initContainers" && container["restartPolicy"] == "Always")
}

/// The pod with the resources of `asked`, of which nothing else counts.
pub fn asked_for(old: &Value, asked: &Value) -> Value {
    let mut new = old.clone();
    for list in LISTS {
        for container in new["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let wanted = containers(asked, list).iter().find(|c| c["name"] == container["name"]);
            let Some(wanted) = wanted.and_then(Value::as_object) else { continue };
            for field in ["resources", "resizePolicy"] {
                match (wanted.get(field), container.as_object_mut()) {
                    (Some(value), Some(fields)) => drop(fields.insert(field.into(), value.clone())),
                    (None, Some(fields)) => drop(fields.remove(field)),
                    (_, None) => {}
                }
            }
        }
    }
    new
}

/// What a resize must keep to (`ValidatePodResize`).
pub fn validate(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    if old["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string() {
        let path = Path::new("metadata").child("annotations");
        return errors.forbidden(&path, "static pods cannot be resized");
    }
    if matches!(old["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return errors.forbidden(&path, "pods that have ended cannot be resized");
    }
    let before = qos_class(&old["spec"]);
    if qos_class(&new["spec"]) != before {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.invalid(&path, before, detail);
    }
    let mut only_resources = true;
    for list in LISTS {
        for (i, container) in containers(new, list).iter().enumerate() {
            let Some(before) = containers(old, list).get(i).filter(|c| c["name"] == container["name"]) else {
                only_resources = false;
                continue;
            };
            let path = path.child(list).index(i).child("resources");
            for (field, word) in [("requests", "requests"), ("limits", "limits")] {
                let gone = |resource: &&str| {
                    !before["resources"][field][*resource].is_null()
                        && container["resources"][field][*resource].is_null()
                };
                if RESOURCES.iter().any(gone) {
                    errors.forbidden(&path.child(field), format!("resource {word} cannot be removed"));
                }
            }
            only_resources &= match is_resizable(list, container) {
                true => without_resizable(container) == without_resizable(before),
                false => container == before,
            };
        }
    }
    if !only_resources {
        errors.forbidden(&path, "only cpu and memory resources are mutable");
    }
}

fn without_resizable(container: &Value) -> Value {
    let mut rest = container.clone();
    for field in ["requests", "limits"] {
        if let Some(list) = rest["resources"].get_mut(field).and_then(Value::as_object_mut) {
            RESOURCES.iter().for_each(|resource| drop(list.remove(*resource)));
        }
        // An empty list and none say the same.
        if rest["resources"][field].as_object().is_none_or(serde_json::Map::is_empty)
            && let Some(resources) = rest["resources"].as_object_mut()
        {
            resources.remove(field);
        }
    }
    rest
}

/// Whether the node said that it can never grant what the spec asks for.
fn is_infeasible(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == PENDING && c["status"] == "True" && c["reason"] == INFEASIBLE)
}

/// The spec with the requests that count while a resize is under way: of each container the most of what is asked for,
/// promised and in force; what can never be granted does not count. None: as the spec says.
pub fn counted_spec(pod: &Value) -> Option<Value> {
    let conditions = pod["status"]["conditions"].as_array()?;
    if !conditions.iter().any(|c| c["type"] == PENDING || c["type"] == IN_PROGRESS) {
        return None;
    }
    let infeasible = is_infeasible(pod);
    let mut spec = pod["spec"].clone();
    for (list, statuses) in LISTS.into_iter().zip(["containerStatuses", "initContainerStatuses"]) {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let all = pod["status"][statuses].as_array().into_iter().flatten();
            let Some(status) = all.into_iter().find(|s| s["name"] == container["name"]) else { continue };
            let requests = amounts(&container["resources"]["requests"]);
            let mut most = if infeasible { Amounts::new() } else { requests.clone() };
            for other in [&status["allocatedResources"], &status["resources"]["requests"]] {
                for (resource, amount) in amounts(other) {
                    let slot = most.entry(resource).or_insert(amount);
                    *slot = (*slot).max(amount);
                }
            }
            if most.is_empty() {
                continue;
            }
            // What cannot be resized is as it was asked for.
            for (resource, amount) in requests {
                most.entry(resource).or_insert(amount);
            }
            let most = most.into_iter().map(|(resource, amount)| (resource, amount.to_string().into()));
            container["resources"]["requests"] = Value::Object(most.collect());
        }
    }
    Some(spec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Value {
        json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "a", "image": "x", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"},
                "limits": {"cpu": "200m"}}}, {"name": "b", "image": "x", "resources": {}}],
            "initContainers": [{"name": "i", "image": "x", "resources": {"requests": {"cpu": "1"}}}],
        }})
    }

    fn errors(change: impl Fn(&mut Value)) -> Vec<String> {
        let old = pod();
        let mut asked = old.clone();
        change(&mut asked);
        let mut errors = FieldErrors::default();
        validate(&asked_for(&old, &asked), &old, &mut errors);
        errors.as_slice().iter().map(|e| format!("{} {}", e.field, e.detail)).collect()
    }

    #[test]
    fn of_a_running_pod_cpu_and_memory_may_change_and_nothing_else() {
        let a = |field: &str, resource: &str, value: Value| {
            let (field, resource) = (field.to_owned(), resource.to_owned());
            errors(move |pod| {
                pod["spec"]["containers"][0]["resources"][&field][&resource] = value.clone();
            })
        };
        assert_eq!(a("requests", "cpu", "150m".into()), Vec::<String>::new());
        assert_eq!(a("limits", "memory", "1Gi".into()), Vec::<String>::new());
        assert_eq!(
            a("requests", "ephemeral-storage", "1Gi".into()),
            ["spec only cpu and memory resources are mutable"]
        );
        assert_eq!(errors(|pod| pod["spec"]["containers"][0]["image"] = "y".into()), Vec::<String>::new());
        assert_eq!(
            errors(|pod| pod["spec"]["initContainers"][0]["resources"]["requests"]["cpu"] = "2".into()),
            ["spec only cpu and memory resources are mutable"]
        );
        assert_eq!(
            errors(|pod| pod["spec"]["containers"][0]["resizePolicy"] = json!([{"resourceName": "cpu"}])),
            ["spec only cpu and memory resources are mutable"]
        );
        assert_eq!(
            errors(|pod| pod["spec"]["containers"][0]["resources"]["limits"] = json!({})),
            ["spec.containers[0].resources.limits resource limits cannot be removed"]
        );
    }

    #[test]
    fn the_quality_of_service_stays() {
        let all = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}});
        let guaranteed = |pod: &mut Value| {
            for path in ["/spec/containers/0", "/spec/containers/1"] {
                pod.pointer_mut(path).unwrap()["resources"] = all.clone();
            }
        };
        let mut old = pod();
        old["spec"]["initContainers"] = json!([]);
        let mut asked = old.clone();
        guaranteed(&mut asked);
        let mut errors = FieldErrors::default();
        validate(&asked_for(&old, &asked), &old, &mut errors);
        assert_eq!(errors.as_slice()[0].detail, "Pod QOS Class may not change as a result of resizing");
    }

    #[test]
    fn while_a_resize_is_under_way_the_most_of_it_counts() {
        let counted = |conditions: Value| {
            let mut pod = pod();
            pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "500m".into();
            pod["status"] = json!({"conditions": conditions, "containerStatuses": [
                {"name": "a", "allocatedResources": {"cpu": "100m", "memory": "128Mi"}, "resources": {"requests": {"cpu": "200m"}}}]});
            counted_spec(&pod).map(|spec| spec["containers"][0]["resources"]["requests"].clone())
        };
        let condition =
            |kind: &str, reason: &str| json!([{"type": kind, "status": "True", "reason": reason}]);
        assert_eq!(counted(json!([])), None);
        let deferred = counted(condition(PENDING, "Deferred")).unwrap();
        assert_eq!(deferred, json!({"cpu": "500m", "memory": "128Mi"}));
        let infeasible = counted(condition(PENDING, INFEASIBLE)).unwrap();
        assert_eq!(infeasible, json!({"cpu": "200m", "memory": "128Mi"}));
        assert_eq!(counted(condition(IN_PROGRESS, "")).unwrap()["cpu"], "500m");
    }
}
