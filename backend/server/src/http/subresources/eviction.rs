//! `pods/eviction`: a deletion that the pod's disruption budget has a say in. After
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/>.
use super::super::resources::{Call, read_body};
use super::super::{reply, write};
use super::parent;
use crate::objects::{Part, WriteOptions};
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use pilothouse_api::disruption::{self, Cause};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::selector::LabelSelector;
use pilothouse_api::status;
use pilothouse_api::{Reason, Status, decode, lifecycle, meta};
use serde_json::{Value, json};

const BUDGETS: &str = "poddisruptionbudgets.policy";
/// Evictions that a budget's controller has not seen through yet.
const MOST_DISRUPTED: usize = 2000;
const RETRY_AFTER_SECONDS: u32 = 10;

pub async fn evict(call: &Call, body: Body) -> Result<Response, Status> {
    let eviction = decode::decode(&read_body(body).await?, call.content_type())?.value;
    if !["", call.name.as_str()].contains(&meta::name(&eviction)) {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let (mut delete, options) = write::delete_options_of(call, &eviction["deleteOptions"])?;
    let pod = parent(call).await?.value();
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    // Nobody counts on such a pod.
    let counts = !matches!(phase, "Succeeded" | "Failed" | "Pending")
        && pod["metadata"]["deletionTimestamp"].is_null();
    if counts && let Some(budget) = budget_of(call, &pod)? {
        take(call, &pod, &budget, &options).await?;
    }
    let version = pod["metadata"]["resourceVersion"].as_str();
    let is_current = delete.resource_version.as_deref().is_none_or(|expected| Some(expected) == version);
    if is_current && pod["metadata"]["deletionTimestamp"].is_null() {
        mark(call, &pod, &options).await?;
        // It is another version now, and still the pod that was meant.
        delete.resource_version = None;
        delete.uid.get_or_insert_with(|| meta::uid(&pod).to_owned());
    }
    call.app.objects.delete(&call.actor, &call.entry, &call.namespace, &call.name, &delete, &options).await?;
    let done =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(reply::json(StatusCode::CREATED, &done))
}

/// Whoever counts the pod's end as a failure is told that it was none.
async fn mark(call: &Call, pod: &Value, options: &WriteOptions) -> Result<(), Status> {
    let now = Timestamp::now();
    let change = |old: &Value| {
        if meta::uid(old) != meta::uid(pod) {
            return Err(Status::not_found("pods", &call.name));
        }
        Ok(disruption::marked(old, Cause::EvictionApi, now).unwrap_or_else(|| old.clone()))
    };
    let objects = &call.app.objects;
    objects
        .update(&call.actor, &call.entry, &call.namespace, &call.name, Part::Status, options, change)
        .await?;
    Ok(())
}

/// The one budget whose selector matches the pod.
fn budget_of(call: &Call, pod: &Value) -> Result<Option<Value>, Status> {
    let all = call.app.store.list(BUDGETS, Some(&call.namespace)).objects;
    let matches = |budget: &Value| {
        let selector = &budget["spec"]["selector"];
        !selector.is_null() && LabelSelector::from_object(selector).is_ok_and(|s| s.matches_object(pod))
    };
    let mut found = all.iter().map(|budget| Value::clone(&budget.value())).filter(matches);
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(Status::internal(
            "this pod has more than one PodDisruptionBudget, which the eviction subresource does not support",
        )),
        (budget, None) => Ok(budget),
    }
}

/// Takes one disruption out of the budget, or says why there is none.
async fn take(call: &Call, pod: &Value, budget: &Value, options: &WriteOptions) -> Result<(), Status> {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    if !conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True") {
        let healthy = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
        let enough = healthy("desiredHealthy") > 0 && healthy("currentHealthy") >= healthy("desiredHealthy");
        if enough || budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" {
            return Ok(());
        }
    }
    let Some(entry) = call.app.registry.by_resource(BUDGETS) else { return Ok(()) };
    let name = meta::name(budget);
    let now = lifecycle::seconds(Timestamp::now());
    let decrement = |old: &Value| {
        let status = &old["status"];
        let count = |field: &str| status[field].as_i64().unwrap_or(0);
        if count("observedGeneration") < old["metadata"]["generation"].as_i64().unwrap_or(0) {
            let why = format!("The disruption budget {name} is still being processed by the server.");
            return Err(refused(why, Some(RETRY_AFTER_SECONDS)));
        }
        if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MOST_DISRUPTED) {
            return Err(Status::forbidden(
                BUDGETS,
                name,
                "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
            ));
        }
        let left = count("disruptionsAllowed");
        if left <= 0 {
            let (desired, current) = (count("desiredHealthy"), count("currentHealthy"));
            let why = format!(
                "The disruption budget {name} needs {desired} healthy pods and has {current} currently"
            );
            return Err(refused(why, None));
        }
        let mut new = old.clone();
        new["status"]["disruptionsAllowed"] = (left - 1).into();
        new["status"]["disruptedPods"][&call.name] = now.as_str().into();
        Ok(new)
    };
    let objects = &call.app.objects;
    objects.update(&call.actor, &entry, &call.namespace, name, Part::Status, options, decrement).await?;
    Ok(())
}

fn refused(why: String, retry_after_seconds: Option<u32>) -> Status {
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::new(Reason::TooManyRequests, message);
    status.details.retry_after_seconds = retry_after_seconds;
    status.details.causes =
        vec![status::Cause { reason: "DisruptionBudget".into(), message: why, field: String::new() }];
    status
}

#[cfg(test)]
mod tests {
    use crate::testing::Api;
    use axum::http::StatusCode;
    use serde_json::{Value, json};

    #[tokio::test]
    async fn an_evicted_pod_says_that_it_was_evicted() {
        const PODS: &str = "/api/v1/namespaces/default/pods";
        let api = Api::start().await;
        let account = "/api/v1/namespaces/default/serviceaccounts";
        api.call("POST", account, json!({"metadata": {"name": "default"}})).await;
        let spec = json!({"nodeName": "n1", "containers": [{"name": "main", "image": "x"}]});
        let made = api.make(PODS, json!({"metadata": {"name": "a"}, "spec": spec})).await;
        let evict = async |options: Value| {
            let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"}, "deleteOptions": options});
            api.call("POST", &format!("{PODS}/a/eviction"), eviction).await
        };
        let other = evict(json!({"preconditions": {"resourceVersion": "1"}})).await;
        assert_eq!(other.code, StatusCode::CONFLICT);
        let version = &made["metadata"]["resourceVersion"];
        let done = evict(json!({"preconditions": {"resourceVersion": version}})).await;
        assert_eq!(done.code, StatusCode::CREATED, "{}", done.body);
        let pod = api.call("GET", &format!("{PODS}/a"), Value::Null).await.body;
        assert!(pod["metadata"]["deletionTimestamp"].is_string(), "{pod}");
        let conditions = pod["status"]["conditions"].as_array().unwrap();
        assert!(conditions.iter().any(|c| c["reason"] == "EvictionByEvictionAPI"), "{pod}");
    }
}
