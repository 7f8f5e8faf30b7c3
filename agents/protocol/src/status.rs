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
    fresh
}

/// A node's status after it told `fresh`: a condition keeps the time since when it has held.
pub fn of_node(old: &Value, mut fresh: Value) -> Value {
    for condition in fresh["conditions"].as_array_mut().into_iter().flatten() {
        let before = conditions(old).iter().find(|c| c["type"] == condition["type"]);
        if let Some(before) = before.filter(|b| b["status"] == condition["status"]) {
            condition["lastTransitionTime"] = before["lastTransitionTime"].clone();
        }
    }
    fresh
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
    fn a_nodes_condition_keeps_its_time_while_it_holds() {
        let at = |status: &str, time: &str| json!({"conditions": [{"type": "Ready", "status": status, "lastTransitionTime": time}]});
        assert_eq!(of_node(&at("True", "then"), at("True", "now")), at("True", "then"));
        assert_eq!(of_node(&at("False", "then"), at("True", "now")), at("True", "now"));
    }
}
