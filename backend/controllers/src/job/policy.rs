//! What a failed pod means for its job, and when enough has succeeded: `podFailurePolicy` and `successPolicy`.
use super::indexes::Indexes;
use crate::object::*;
use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// A failure like any other.
    Count,
    /// Not the pod's fault: it is replaced and not counted.
    Ignore,
    /// Its index is given up.
    FailIndex,
    /// The whole job is given up, with this message.
    FailJob(String),
}

/// The first rule that matches a pod whose phase is Failed decides.
pub fn judge(job: &Value, pod: &Value) -> Verdict {
    let rules = job["spec"]["podFailurePolicy"]["rules"].as_array().into_iter().flatten();
    for (at, rule) in rules.enumerate() {
        let Some(why) = matches(rule, pod) else { continue };
        return match text(rule, "action") {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{why} matching FailJob rule at index {at}")),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

fn matches(rule: &Value, pod: &Value) -> Option<String> {
    let called = format!("{}/{}", text(&pod["metadata"], "namespace"), name(pod));
    if let Some(wanted) = rule.get("onExitCodes").filter(|wanted| !wanted.is_null()) {
        let (container, code) = exit_code(wanted, pod)?;
        return Some(format!("Container {container} for pod {called} failed with exit code {code}"));
    }
    let patterns = rule["onPodConditions"].as_array().into_iter().flatten();
    let holds = |pattern: &&Value| {
        let status = pattern["status"].as_str().unwrap_or("True");
        condition(pod, text(pattern, "type")).is_some_and(|c| c["status"] == status)
    };
    let pattern = patterns.into_iter().find(holds)?;
    Some(format!("Pod {called} has condition {}", text(pattern, "type")))
}

/// The container, with its exit code, that an `onExitCodes` pattern names. One that succeeded never matches.
fn exit_code<'a>(wanted: &Value, pod: &'a Value) -> Option<(&'a str, i64)> {
    let lists = ["containerStatuses", "initContainerStatuses"];
    let mut statuses = lists.iter().flat_map(|list| pod["status"][*list].as_array().into_iter().flatten());
    statuses.find_map(|status| {
        let asked = wanted["containerName"].as_str().is_none_or(|asked| status["name"] == asked);
        let code = status["state"]["terminated"]["exitCode"].as_i64().filter(|code| *code != 0 && asked)?;
        let listed = wanted["values"].as_array().into_iter().flatten().any(|value| *value == code);
        let matches = if wanted["operator"] == "NotIn" { !listed } else { listed };
        matches.then(|| (text(status, "name"), code))
    })
}

/// The first rule of the success policy that the completed indexes meet.
pub fn met_success_rule(job: &Value, completed: &Indexes) -> Option<usize> {
    let rules = job["spec"]["successPolicy"]["rules"].as_array()?;
    rules.iter().position(|rule| {
        let indexes = rule["succeededIndexes"].as_str().map(|text| Indexes::parse(text, i64::MAX));
        match (indexes, rule["succeededCount"].as_i64()) {
            (Some(indexes), Some(count)) => completed.common(&indexes) >= count,
            (Some(indexes), None) => completed.common(&indexes) == indexes.len(),
            (None, Some(count)) => completed.len() >= count,
            (None, None) => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_rule_that_matches_a_failed_pod_decides() {
        let codes = |operator: &str, values: Value| json!({"operator": operator, "values": values});
        let rules = json!([
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            {"action": "FailIndex", "onExitCodes": codes("In", json!([7, 8]))},
            {"action": "Count", "onExitCodes": codes("NotIn", json!([9]))},
            {"action": "FailJob", "onExitCodes": codes("In", json!([9]))},
        ]);
        let job = json!({"spec": {"podFailurePolicy": {"rules": rules}}});
        let ended =
            |name: &str, code: i64| json!({"name": name, "state": {"terminated": {"exitCode": code}}});
        let message =
            "Container main for pod default/p failed with exit code 42 matching FailJob rule at index 0";
        let rows = [
            (
                json!({"containerStatuses": [ended("side", 42), ended("main", 42)]}),
                Verdict::FailJob(message.into()),
            ),
            (json!({"containerStatuses": [ended("side", 42)]}), Verdict::Count),
            (json!({"conditions": [{"type": "DisruptionTarget", "status": "True"}]}), Verdict::Ignore),
            (json!({"conditions": [{"type": "DisruptionTarget", "status": "False"}]}), Verdict::Count),
            (
                json!({"containerStatuses": [ended("main", 0)], "initContainerStatuses": [ended("init", 8)]}),
                Verdict::FailIndex,
            ),
            (json!({"containerStatuses": [ended("main", 0)]}), Verdict::Count),
        ];
        for (status, expected) in rows {
            let pod = json!({"metadata": {"name": "p", "namespace": "default"}, "status": status});
            assert_eq!(judge(&job, &pod), expected, "{status}");
        }
    }

    #[test]
    fn a_success_rule_asks_for_indexes_or_for_a_count_or_for_a_count_of_indexes() {
        let rows = [
            (json!({"succeededIndexes": "0-2"}), "0-2,5", true),
            (json!({"succeededIndexes": "0-2"}), "0,1,5", false),
            (json!({"succeededCount": 2}), "4,7", true),
            (json!({"succeededCount": 3}), "4,7", false),
            (json!({"succeededIndexes": "0-4", "succeededCount": 1}), "4", true),
            (json!({"succeededIndexes": "0-4", "succeededCount": 2}), "4,5", false),
        ];
        for (rule, completed, expected) in rows {
            let job = json!({"spec": {"successPolicy": {"rules": [rule]}}});
            assert_eq!(
                met_success_rule(&job, &Indexes::parse(completed, 10)).is_some(),
                expected,
                "{rule} {completed}"
            );
        }
    }
}
