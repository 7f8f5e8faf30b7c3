//! How what a node tells of a pod or of itself becomes the status that the API shows.
use pilothouse_api::resize;
use serde_json::Value;

fn conditions(status: &Value) -> &[Value] {
    status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A pod's status after its node told `fresh`. The class follows the spec, which the node does not write; conditions that
/// others set stay.
pub fn of_pod(old: &Value, mut fresh: Value) -> Value {
    fresh["qosClass"] = old["qosClass"].clone();
    let told: Vec<Value> = fresh["conditions"].as_array().cloned().unwrap_or_default();
    let mut all: Vec<Value> = conditions(old).to_vec();
    // Those of a resize are gone when the node tells them no more.
    let of_resize = |c: &Value| c["type"] == resize::PENDING || c["type"] == resize::IN_PROGRESS;
    all.retain(|c| {
        c["type"] == "PodScheduled" || !(of_resize(c) || told.iter().any(|t| t["type"] == c["type"]))
    });
    let scheduled = all.iter().any(|c| c["type"] == "PodScheduled");
    all.extend(told.into_iter().filter(|t| t["type"] != "PodScheduled" || !scheduled));
    fresh["conditions"] = all.into();
    // What has ended has ended: a pod that was given up with its node is counted and replaced, whatever another machine of
    // that name makes of it.
    if matches!(old["phase"].as_str(), Some("Succeeded" | "Failed")) {
        for field in ["phase", "reason", "message"] {
            fresh[field] = old[field].clone();
        }
    }
    if let Some(fields) = fresh.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    fresh
}

/// A node's status after it told `fresh`: a condition keeps the time since when it has held, and what others wrote stays,
/// conditions and extended resources among it.
pub fn of_node(old: &Value, fresh: Value) -> Value {
    let mut status = old.as_object().cloned().unwrap_or_default();
    let Value::Object(fresh) = fresh else { return status.into() };
    for (field, told) in fresh {
        let told = match field.as_str() {
            "conditions" => node_conditions(conditions(old), told),
            // What others add to the capacity is allocatable, too.
            "capacity" | "allocatable" => with_extended(&old["capacity"], told),
            _ => told,
        };
        status.insert(field, told);
    }
    status.into()
}

fn node_conditions(old: &[Value], mut told: Value) -> Value {
    let Some(all) = told.as_array_mut() else { return told };
    for condition in all.iter_mut() {
        let before = old.iter().find(|c| c["type"] == condition["type"]);
        if let Some(before) = before.filter(|b| b["status"] == condition["status"]) {
            condition["lastTransitionTime"] = before["lastTransitionTime"].clone();
        }
    }
    let others = old.iter().filter(|c| !all.iter().any(|told| told["type"] == c["type"]));
    let others: Vec<Value> = others.cloned().collect();
    all.extend(others);
    told
}

/// Resources with a domain in their name are extended ones, which anybody can add.
fn with_extended(capacity: &Value, mut told: Value) -> Value {
    let Some(all) = told.as_object_mut() else { return told };
    for (name, amount) in capacity.as_object().into_iter().flatten().filter(|(name, _)| name.contains('/')) {
        all.entry(name).or_insert_with(|| amount.clone());
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions_of_others_stay_and_the_class_is_not_the_nodes_to_tell() {
        let old = json!({"qosClass": "Burstable", "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "then"}, {"type": "gate", "status": "True"},
            {"type": "PodResizePending", "status": "True"}, {"type": "Ready", "status": "False"}]});
        let told = json!({"phase": "Running", "qosClass": "Guaranteed", "conditions": [
            {"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True", "lastTransitionTime": "now"}]});
        let new = of_pod(&old, told);
        assert_eq!((&new["qosClass"], &new["phase"]), (&json!("Burstable"), &json!("Running")));
        assert_eq!(
            new["conditions"],
            json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": "then"}, {"type": "gate", "status": "True"},
                {"type": "Ready", "status": "True"}])
        );
    }

    #[test]
    fn a_pod_that_has_ended_does_not_begin_again() {
        let failed = json!({"phase": "Failed", "reason": "NodeLost", "qosClass": "BestEffort"});
        let new = of_pod(&failed, json!({"phase": "Pending", "hostIP": "192.0.2.1"}));
        assert_eq!((&new["phase"], &new["reason"]), (&failed["phase"], &failed["reason"]));
        let running = json!({"phase": "Running", "qosClass": "BestEffort"});
        assert_eq!(of_pod(&running, json!({"phase": "Failed"}))["phase"], "Failed");
    }

    #[test]
    fn a_nodes_condition_keeps_its_time_while_it_holds() {
        let at = |status: &str, time: &str| json!({"conditions": [{"type": "Ready", "status": status, "lastTransitionTime": time}]});
        assert_eq!(of_node(&at("True", "then"), at("True", "now")), at("True", "then"));
        assert_eq!(of_node(&at("False", "then"), at("True", "now")), at("True", "now"));
    }

    #[test]
    fn what_others_wrote_in_a_nodes_status_outlives_its_reports() {
        let condition =
            |kind: &str, since: &str| json!({"type": kind, "status": "True", "lastTransitionTime": since});
        let old = json!({
            "capacity": {"cpu": "1", "example.com/dongle": "3"}, "allocatable": {"cpu": "1", "example.com/gone": "1"},
            "conditions": [condition("Ready", "then"), condition("KernelDeadlock", "then")],
            "volumesAttached": [{"name": "v"}], "images": ["old"],
        });
        let told = json!({
            "capacity": {"cpu": "2"}, "allocatable": {"cpu": "2"}, "conditions": [condition("Ready", "now")], "images": [],
        });
        let expected = json!({
            "capacity": {"cpu": "2", "example.com/dongle": "3"}, "allocatable": {"cpu": "2", "example.com/dongle": "3"},
            "conditions": [condition("Ready", "then"), condition("KernelDeadlock", "then")],
            "volumesAttached": [{"name": "v"}], "images": [],
        });
        assert_eq!(of_node(&old, told), expected);
    }
}
