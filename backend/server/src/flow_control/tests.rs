//! Flow control as clients meet it.
use super::*;
use crate::testing::{Api, eventually};
use serde_json::json;

const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";
const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";

fn level(name: &str, response: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "borrowingLimitPercent": 0, "limitResponse": response}}})
}

fn schema(name: &str, level: &str, user: &str) -> Value {
    let all = json!(["*"]);
    json!({"metadata": {"name": name}, "spec": {
        "matchingPrecedence": 1000, "priorityLevelConfiguration": {"name": level}, "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": user}}],
            "nonResourceRules": [{"verbs": all, "nonResourceURLs": all}],
            "resourceRules": [{"verbs": all, "apiGroups": all, "resources": all, "namespaces": all, "clusterScope": true}]}],
    }})
}

fn uid(headers: &HeaderMap, name: HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn answers_name_the_schema_and_the_level_that_a_request_belongs_to() {
    let api = Api::start().await;
    let made = api.make(LEVELS, level("shop", json!({"type": "Reject"}))).await;
    let level = made["metadata"]["uid"].as_str().unwrap().to_owned();
    let made = api.make(SCHEMAS, schema("shop", "shop", "noxu")).await;
    let schema = made["metadata"]["uid"].as_str().unwrap().to_owned();
    eventually("the new schema", async || {
        let answer = api.call_as(("noxu", &[]), "GET", "/version", Value::Null).await;
        uid(&answer.headers, SCHEMA_UID) == schema && uid(&answer.headers, LEVEL_UID) == level
    })
    .await;
    for path in ["/version", "/api/v1/namespaces"] {
        let other = api.call_as(("foo", &[]), "GET", path, Value::Null).await;
        assert!(!uid(&other.headers, SCHEMA_UID).is_empty() && !uid(&other.headers, LEVEL_UID).is_empty());
        assert_ne!(uid(&other.headers, SCHEMA_UID), schema);
        assert_ne!(uid(&other.headers, LEVEL_UID), level);
    }
    let nobody = api.send(None, "GET", "/livez", Value::Null).await;
    let probes = api.call("GET", &format!("{SCHEMAS}/probes"), Value::Null).await;
    assert_eq!(uid(&nobody.headers, SCHEMA_UID), probes.body["metadata"]["uid"].as_str().unwrap());
}

#[tokio::test]
async fn who_has_taken_all_seats_is_told_to_come_back_and_others_are_not() {
    let api = Api::start().await;
    api.make(LEVELS, level("narrow", json!({"type": "Reject"}))).await;
    api.make(SCHEMAS, schema("narrow", "narrow", "greedy")).await;
    let control = api.state.flow_control.clone();
    let actor = Actor { user: "greedy".into(), ..Actor::default() };
    let wanted = Attributes { verb: "get".into(), path: "/version".into(), ..Attributes::default() };
    let flow = || control.classify(&actor, &wanted).unwrap();
    eventually("the schema", async || flow().schema.name == "narrow").await;
    let mut held = Vec::new();
    while let Ok(permit) = flow().enter(1).await {
        held.push(permit);
    }
    assert_eq!(held.len(), 3, "600 seats, 246 shares");
    let refused = api.call_as(("greedy", &[]), "GET", "/api/v1/namespaces/default/pods", Value::Null).await;
    assert_eq!(refused.code, 429, "{}", refused.body);
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.body["reason"], "TooManyRequests");
    assert!(!uid(&refused.headers, SCHEMA_UID).is_empty());
    let other = api.call_as(("modest", &[]), "GET", "/version", Value::Null).await;
    assert_eq!(other.code, 200);
    held.pop();
    let again = api.call_as(("greedy", &[]), "GET", "/version", Value::Null).await;
    assert_eq!(again.code, 200);
    // What stays open holds no seat.
    let metrics = api.call("GET", "/metrics", Value::Null).await;
    let text = metrics.body.as_str().unwrap();
    for line in [
        r#"apiserver_flowcontrol_nominal_limit_seats{priority_level="narrow"} 3"#,
        r#"apiserver_flowcontrol_current_executing_seats{priority_level="narrow"} 2"#,
        r#"apiserver_flowcontrol_rejected_requests_total{priority_level="narrow",reason="queue-full"} 2"#,
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[tokio::test]
async fn a_request_that_waits_runs_when_a_seat_is_free_and_one_that_leaves_gives_its_place_up() {
    let api = Api::start().await;
    let queue = json!({"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 2}});
    api.make(LEVELS, level("queue", queue)).await;
    api.make(SCHEMAS, schema("queue", "queue", "ann")).await;
    let control = api.state.flow_control.clone();
    let actor = Actor { user: "ann".into(), ..Actor::default() };
    let wanted = Attributes { verb: "get".into(), path: "/version".into(), ..Attributes::default() };
    let flow = || control.classify(&actor, &wanted).unwrap();
    eventually("the schema", async || flow().schema.name == "queue").await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(flow().enter(1).await.unwrap());
    }
    let waiting = || flow().schema.level.limited.as_ref().unwrap().level.lock().waiting();
    let leaves = tokio::spawn({
        let flow = flow();
        async move { flow.enter(1).await.map(drop) }
    });
    let stays = tokio::spawn({
        let flow = flow();
        async move { flow.enter(1).await.map(drop) }
    });
    eventually("two that wait", async || waiting() == 2).await;
    assert_eq!(flow().enter(1).await.err().map(|status| status.code()), Some(429));
    leaves.abort();
    eventually("one that waits", async || waiting() == 1).await;
    held.pop();
    stays.await.unwrap().unwrap();
    assert_eq!(waiting(), 0);
    drop(held);
    assert_eq!(flow().schema.level.limited.as_ref().unwrap().level.lock().in_use(), 0);
}

#[test]
fn idle_levels_lend_their_seats_and_no_seat_is_given_twice() {
    let control = FlowControl::default();
    let mut known = control.0.known.lock();
    for (resource, object) in defaults::defaults() {
        let stored = Stored { uid: "1".into(), object: object.clone() };
        match resource == defaults::FLOW_SCHEMAS {
            true => known.schemas.insert(meta::name(&object).to_owned(), stored),
            false => known.levels.insert(meta::name(&object).to_owned(), stored),
        };
    }
    control.rebuild(&known);
    drop(known);
    let seats = |name: &str| {
        let table = control.0.table.load();
        table.levels[name].limited.as_ref().map(|limit| limit.level.lock().seats())
    };
    assert_eq!(
        (seats("workload-low"), seats("global-default"), seats("exempt")),
        (Some(245), Some(49), None)
    );
    control.share();
    let all: u32 = control.0.table.load().levels.keys().filter_map(|name| seats(name)).sum();
    assert!((595..=608).contains(&all), "{all} seats");
}
