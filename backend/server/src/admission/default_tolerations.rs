//! DefaultTolerationSeconds: a pod stays five minutes on a node that is not ready or out of reach.
use super::{Outcome, Request, Rule, done};
use serde_json::{Value, json};

const SECONDS: u64 = 300;
const TAINTS: &[&str] = &["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub struct DefaultTolerations;

impl Rule for DefaultTolerations {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn mutate<'a>(&'a self, request: &'a Request<'_>, object: &'a mut Value) -> Outcome<'a> {
        if request.creates("pods") {
            tolerate(object);
        }
        done(Ok(()))
    }
}

fn tolerate(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if spec.get("tolerations").is_none_or(Value::is_null) {
        spec.insert("tolerations".into(), json!([]));
    }
    let Some(tolerations) = spec.get_mut("tolerations").and_then(Value::as_array_mut) else { return };
    for taint in TAINTS {
        if !tolerations.iter().any(|t| covers(t, taint)) {
            tolerations.push(json!({
                "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
            }));
        }
    }
}

/// Whether a toleration says something of the taint already.
fn covers(toleration: &Value, taint: &str) -> bool {
    let text = |field: &str| toleration[field].as_str().unwrap_or_default();
    (text("key") == taint || text("key").is_empty()) && matches!(text("effect"), "" | "NoExecute")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_tolerates_a_silent_node_for_five_minutes() {
        let mut pod = json!({"spec": {}});
        tolerate(&mut pod);
        let tolerations = pod["spec"]["tolerations"].as_array().unwrap();
        assert_eq!(tolerations.len(), 2);
        assert_eq!(tolerations[0]["tolerationSeconds"], 300);
    }

    #[test]
    fn what_the_user_said_of_a_taint_stays() {
        let mut pod = json!({"spec": {"tolerations": [
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5},
            {"key": "other", "operator": "Exists"},
        ]}});
        tolerate(&mut pod);
        let tolerations = pod["spec"]["tolerations"].as_array().unwrap();
        assert_eq!(tolerations.len(), 3);
        assert_eq!(tolerations[0]["tolerationSeconds"], 5);
        assert_eq!(tolerations[2]["key"], "node.kubernetes.io/unreachable");
        let mut all = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        tolerate(&mut all);
        assert_eq!(all["spec"]["tolerations"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_pod_of_any_shape_is_left_to_validation() {
        for mut pod in [json!({}), json!({"spec": 3}), json!({"spec": {"tolerations": "x"}})] {
            tolerate(&mut pod);
        }
    }
}
