//! Static pods: manifests in a directory, which this node runs whether or not there is a server; the server shows a mirror of
//! each. After <https://kubernetes.io/docs/tasks/configure-pod-container/static-pod/>.
use crate::agent::Agent;
use pilothouse_api::k8s_openapi::api::core::v1 as core;
use pilothouse_api::kinds::support::pod_spec;
use pilothouse_api::{decode, meta};
use pilothouse_protocol::NodeMessage;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_secs(5);
const SOURCE: &str = "kubernetes.io/config.source";
const HASH: &str = "kubernetes.io/config.hash";
const MIRROR: &str = "kubernetes.io/config.mirror";

/// By namespace and name.
pub type Statics = HashMap<(String, String), Arc<Value>>;

pub fn is_static(pod: &Value) -> bool {
    pod["metadata"]["annotations"][SOURCE] == "file"
}

/// What the server shows of a static pod: nothing to run.
pub fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"][MIRROR].is_string()
}

/// Looks at the directory for ever, and sees to it that the server shows what is there.
pub async fn follow(agent: Arc<Agent>) {
    let Some(dir) = agent.settings.static_pods.clone() else { return std::future::pending().await };
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        look.tick().await;
        agent.take_statics(read(&dir, &agent.node));
        let names: Vec<(String, String)> = agent.statics.lock().keys().cloned().collect();
        names.iter().for_each(|(namespace, name)| agent.mirror(namespace, name));
    }
}

/// Every pod in the directory. A file that is none is told of, and passed over.
pub fn read(dir: &Path, node: &str) -> Statics {
    let mut all = Statics::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if hidden || !path.is_file() {
            continue;
        }
        let made =
            std::fs::read(&path).map_err(|e| e.to_string()).and_then(|text| pod_of(&text, &path, node));
        match made {
            Ok(pod) => {
                let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
                all.insert((text("namespace"), text("name")), Arc::new(pod));
            }
            Err(why) => {
                tracing::warn!(file = %path.display(), why, "a manifest of a static pod is passed over")
            }
        }
    }
    all
}

/// The pod that a manifest means on a node.
fn pod_of(text: &[u8], path: &Path, node: &str) -> Result<Value, String> {
    let mut pod = decode::decode(text, Some("application/yaml")).map_err(|status| status.message)?.value;
    if pod["kind"] != "Pod" {
        return Err("it is no Pod".into());
    }
    let own_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let name = format!("{own_name}-{node}");
    meta::dns_subdomain(&name)?;
    let uid = format!("{:032x}", fingerprint(&[node.as_bytes(), path.as_os_str().as_encoded_bytes(), text]));
    pod["metadata"]["name"] = name.into();
    if pod["metadata"]["namespace"].as_str().is_none_or(str::is_empty) {
        pod["metadata"]["namespace"] = "default".into();
    }
    pod["metadata"]["uid"] = uid.as_str().into();
    if !pod["metadata"]["annotations"].is_object() {
        pod["metadata"]["annotations"] = json!({});
    }
    pod["metadata"]["annotations"][SOURCE] = "file".into();
    pod["metadata"]["annotations"][HASH] = uid.into();
    pod_spec::default(&mut pod["spec"]);
    pod["spec"]["nodeName"] = node.into();
    // It stays whatever becomes of the node.
    let anything = json!({"operator": "Exists", "effect": "NoExecute"});
    match pod["spec"]["tolerations"].as_array_mut() {
        Some(tolerations) => tolerations.push(anything),
        None => pod["spec"]["tolerations"] = json!([anything]),
    }
    pod["status"] = json!({"phase": "Pending", "qosClass": pod_spec::qos_class(&pod["spec"])});
    serde_json::from_value::<core::Pod>(pod.clone()).map_err(|e| e.to_string())?;
    Ok(pod)
}

/// FNV-1a of 128 bits: the same for the same manifest, whichever agent reads it.
fn fingerprint(parts: &[&[u8]]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let bytes = parts.iter().flat_map(|part| part.iter().copied().chain([0]));
    bytes.fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

/// What must be said to the server about one static pod, or about a mirror whose pod is gone.
pub fn next_word(own: Option<&Value>, shown: Option<&Value>) -> Option<NodeMessage> {
    let text =
        |pod: &Value, field: &str| -> Arc<str> { pod["metadata"][field].as_str().unwrap_or_default().into() };
    let goes = |shown: &Value| {
        let (namespace, name, uid) = (text(shown, "namespace"), text(shown, "name"), text(shown, "uid"));
        Some(NodeMessage::PodTerminated { namespace, name, uid })
    };
    match (own, shown) {
        (Some(own), None) => {
            let mut mirror = own.clone();
            let uid = own["metadata"]["uid"].clone();
            mirror["metadata"]["annotations"][MIRROR] = uid;
            if let Some(metadata) = mirror["metadata"].as_object_mut() {
                metadata.remove("uid");
            }
            Some(NodeMessage::Mirror { pod: mirror })
        }
        // One that is to be deleted comes back; so does one of an earlier manifest, as the new one's.
        (Some(own), Some(shown)) => {
            let same = shown["metadata"]["annotations"][MIRROR] == own["metadata"]["uid"];
            let deleted = !shown["metadata"]["deletionTimestamp"].is_null();
            if is_mirror(shown) && (!same || deleted) { goes(shown) } else { None }
        }
        (None, Some(shown)) if is_mirror(shown) => goes(shown),
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: a, image: b}]\n";

    fn made(text: &str) -> Result<Value, String> {
        pod_of(text.as_bytes(), Path::new("/manifests/web.yaml"), "n1")
    }

    #[test]
    fn a_manifest_becomes_a_pod_of_its_node() {
        let pod = made(MANIFEST).unwrap();
        assert_eq!(
            (&pod["metadata"]["name"], &pod["metadata"]["namespace"]),
            (&json!("web-n1"), &json!("default"))
        );
        assert_eq!(
            (&pod["spec"]["nodeName"], &pod["spec"]["restartPolicy"]),
            (&json!("n1"), &json!("Always"))
        );
        assert!(is_static(&pod) && !is_mirror(&pod));
        assert_eq!(pod["metadata"]["uid"], made(MANIFEST).unwrap()["metadata"]["uid"]);
        assert_ne!(
            pod["metadata"]["uid"],
            made(&MANIFEST.replace("image: b", "image: c")).unwrap()["metadata"]["uid"]
        );
        assert_eq!(made("kind: Service").unwrap_err(), "it is no Pod");
        assert!(made(&MANIFEST.replace("web", "Not A Name")).is_err());
        assert!(made("kind: Pod\nmetadata: {name: a}\nspec: {containers: 5}").is_err());
    }

    #[test]
    fn the_mirror_follows_the_manifest() {
        let own = made(MANIFEST).unwrap();
        let Some(NodeMessage::Mirror { pod: mut mirror }) = next_word(Some(&own), None) else { panic!() };
        assert!(mirror["metadata"]["uid"].is_null(), "the server gives it one of its own");
        mirror["metadata"]["uid"] = "of-the-server".into();
        assert!(next_word(Some(&own), Some(&mirror)).is_none());
        let ends = |own: Option<&Value>, shown: &Value| match next_word(own, Some(shown)) {
            Some(NodeMessage::PodTerminated { uid, .. }) => uid.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(ends(None, &mirror), "of-the-server");
        assert_eq!(
            ends(Some(&made(&MANIFEST.replace("image: b", "image: c")).unwrap()), &mirror),
            "of-the-server"
        );
        mirror["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(ends(Some(&own), &mirror), "of-the-server");
        assert!(next_word(None, Some(&json!({"metadata": {"name": "other"}}))).is_none(), "no pod of ours");
    }
}
