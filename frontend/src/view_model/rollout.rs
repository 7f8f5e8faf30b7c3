//! A Deployment's revisions, and the patches that `kubectl rollout` and `kubectl scale` send.
use super::{is_owned_by, list, name, number, text, time, uid};
use serde_json::{Value, json};

const REVISION: &str = "deployment.kubernetes.io/revision";
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
const TEMPLATE_HASH: &str = "pod-template-hash";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// One revision, kept by one ReplicaSet.
#[derive(Clone, Debug, PartialEq)]
pub struct Revision {
    pub number: i64,
    pub replica_set: String,
    pub images: Vec<String>,
    pub change_cause: String,
    pub pods: i64,
    pub created: Option<i64>,
    pub is_current: bool,
    /// What to put back.
    pub template: Value,
    annotations: Value,
}

/// Newest first.
pub fn history<'a>(deployment: &Value, replica_sets: impl Iterator<Item = &'a Value>) -> Vec<Revision> {
    let owner = uid(deployment);
    let mut revisions: Vec<_> =
        replica_sets.filter(|set| is_owned_by(set, owner)).filter_map(revision).collect();
    revisions.sort_by_key(|revision| std::cmp::Reverse(revision.number));
    if let Some(newest) = revisions.first_mut() {
        newest.is_current = true;
    }
    revisions
}

fn revision(replica_set: &Value) -> Option<Revision> {
    let annotation = |name: &str| text(replica_set, &["metadata", "annotations", name]);
    let template = &replica_set["spec"]["template"];
    Some(Revision {
        number: annotation(REVISION).parse().ok()?,
        replica_set: name(replica_set).to_owned(),
        images: images(template),
        change_cause: annotation(CHANGE_CAUSE).to_owned(),
        pods: number(replica_set, &["status", "replicas"]).unwrap_or(0),
        created: time::parse(text(replica_set, &["metadata", "creationTimestamp"])),
        is_current: false,
        template: without_hash(template),
        annotations: replica_set["metadata"]["annotations"].clone(),
    })
}

/// The images of a pod template's containers.
pub fn images(template: &Value) -> Vec<String> {
    list(template, &["spec", "containers"])
        .iter()
        .map(|container| text(container, &["image"]).to_owned())
        .collect()
}

fn without_hash(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(TEMPLATE_HASH);
    }
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("creationTimestamp");
    }
    template
}

/// Puts a revision's template back, with its annotations, as `kubectl rollout undo` does. A JSON patch.
pub fn undo(deployment: &Value, to: &Revision) -> Value {
    let belongs_to_deployment = |name: &str| {
        name == LAST_APPLIED
            || name.starts_with("deployment.kubernetes.io/")
            || name.starts_with("deprecated.")
    };
    let mut annotations = serde_json::Map::new();
    let sources = [(&deployment["metadata"]["annotations"], true), (&to.annotations, false)];
    for (source, own) in sources {
        for (name, value) in source.as_object().into_iter().flatten() {
            if belongs_to_deployment(name) == own {
                annotations.insert(name.clone(), value.clone());
            }
        }
    }
    json!([
        {"op": "test", "path": "/metadata/uid", "value": uid(deployment)},
        {"op": "replace", "path": "/spec/template", "value": to.template},
        {"op": "add", "path": "/metadata/annotations", "value": annotations},
    ])
}

/// Gives containers of the pod template other images; pairs of place and image. Tells the history what changed. A JSON
/// patch, refused where the containers were changed meanwhile.
pub fn set_images(deployment: &Value, changed: &[(usize, String)]) -> Value {
    let containers = list(deployment, &["spec", "template", "spec", "containers"]);
    let mut patch = Vec::new();
    for (place, image) in changed {
        let container = containers.get(*place).map_or("", |container| text(container, &["name"]));
        let path = format!("/spec/template/spec/containers/{place}");
        patch.push(json!({"op": "test", "path": format!("{path}/name"), "value": container}));
        patch.push(json!({"op": "replace", "path": format!("{path}/image"), "value": image}));
    }
    let images: Vec<_> = changed.iter().map(|(_, image)| image.as_str()).collect();
    let cause = format!("image {}", images.join(", "));
    patch.push(match deployment["metadata"].get("annotations") {
        Some(_) => {
            let name = CHANGE_CAUSE.replace('/', "~1");
            json!({"op": "add", "path": format!("/metadata/annotations/{name}"), "value": cause})
        }
        None => json!({"op": "add", "path": "/metadata/annotations", "value": {CHANGE_CAUSE: cause}}),
    });
    Value::Array(patch)
}

/// Every pod is replaced, one after the other. A merge patch; `now` is a Kubernetes time.
pub fn restart(now: &str) -> Value {
    json!({"spec": {"template": {"metadata": {"annotations": {RESTARTED_AT: now}}}}})
}

pub fn pause(paused: bool) -> Value {
    json!({"spec": {"paused": if paused { json!(true) } else { Value::Null }}})
}

/// For the `scale` subresource.
pub fn scale(replicas: u32) -> Value {
    json!({"spec": {"replicas": replicas}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica_set(owner: &str, revision: &str, image: &str) -> Value {
        json!({"metadata": {"name": format!("web-{revision}"), "annotations": {REVISION: revision, CHANGE_CAUSE: format!("to {image}")},
                "ownerReferences": [{"uid": owner, "controller": true}]},
            "spec": {"template": {"metadata": {"labels": {"app": "web", TEMPLATE_HASH: "x"}}, "spec": {"containers": [{"image": image}]}}},
            "status": {"replicas": 1}})
    }

    #[test]
    fn history_is_newest_first_and_only_its_own() {
        let deployment = json!({"metadata": {"uid": "d"}});
        let sets =
            [replica_set("d", "1", "a:1"), replica_set("other", "9", "b:9"), replica_set("d", "10", "a:10")];
        let history = history(&deployment, sets.iter());
        assert_eq!(
            history.iter().map(|r| (r.number, r.is_current)).collect::<Vec<_>>(),
            [(10, true), (1, false)]
        );
        assert_eq!(history[1].images, ["a:1"]);
        assert_eq!(history[1].change_cause, "to a:1");
    }

    #[test]
    fn another_image_replaces_only_that_and_says_so_in_the_history() {
        let mut deployment = json!({"metadata": {}, "spec": {"template": {"spec": {"containers": [
            {"name": "web", "image": "a:1"}, {"name": "proxy", "image": "b:1"}]}}}});
        assert_eq!(
            set_images(&deployment, &[(1, "b:2".into())]),
            json!([{"op": "test", "path": "/spec/template/spec/containers/1/name", "value": "proxy"},
                {"op": "replace", "path": "/spec/template/spec/containers/1/image", "value": "b:2"},
                {"op": "add", "path": "/metadata/annotations", "value": {CHANGE_CAUSE: "image b:2"}}])
        );
        deployment["metadata"]["annotations"] = json!({});
        let patch = set_images(&deployment, &[(0, "a:2".into())]);
        assert_eq!(patch[2]["path"], "/metadata/annotations/kubernetes.io~1change-cause");
    }

    #[test]
    fn undo_puts_the_template_back_without_the_hash_and_keeps_the_deployments_own_annotations() {
        let deployment = json!({"metadata": {"uid": "d", "annotations": {REVISION: "10", LAST_APPLIED: "{}", "stale": "x"}}});
        let sets = [replica_set("d", "1", "a:1")];
        let patch = undo(&deployment, &history(&deployment, sets.iter())[0]);
        assert_eq!(patch[1]["value"]["metadata"]["labels"], json!({"app": "web"}));
        assert_eq!(patch[2]["value"], json!({REVISION: "10", LAST_APPLIED: "{}", CHANGE_CAUSE: "to a:1"}));
    }
}
