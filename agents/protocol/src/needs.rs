//! What a pod needs beside itself: the server sends it along, and the agent knows whom a change concerns.
use serde_json::Value;
use std::borrow::Cow;

const MAP: &str = "configmaps";
const SECRET: &str = "secrets";
const CLAIM: &str = "persistentvolumeclaims";
pub const RUNTIME_CLASSES: &str = "runtimeclasses.node.k8s.io";

/// What a claim leads to: its volume, the secrets that names, and the word of its driver.
pub const BEHIND_CLAIMS: &[&str] = &["persistentvolumes", SECRET, "csidrivers.storage.k8s.io"];

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[field].as_array().into_iter().flatten()
}

/// The claim that one of the pod's volumes names: of an ephemeral one, the claim that is made for it.
pub fn claim_of<'a>(pod: &'a Value, volume: &'a Value) -> Option<Cow<'a, str>> {
    if volume["ephemeral"].is_object() {
        let pod = pod["metadata"]["name"].as_str()?;
        return Some(format!("{pod}-{}", volume["name"].as_str()?).into());
    }
    volume["persistentVolumeClaim"]["claimName"].as_str().map(Cow::from)
}

/// What names the runtime of the pod's containers, where it is not the node's usual one.
pub fn runtime_class_of(pod: &Value) -> Option<&str> {
    pod["spec"]["runtimeClassName"].as_str().filter(|class| !class.is_empty())
}

/// The names of all claims of a pod.
pub fn claims_of(pod: &Value) -> impl Iterator<Item = Cow<'_, str>> {
    list(&pod["spec"], "volumes").filter_map(|volume| claim_of(pod, volume))
}

/// Namespace and name of the secrets that a node needs to mount a PersistentVolume. Those of an old kind of source lie in
/// the claim's namespace where they name none.
pub fn secrets_of(volume: &Value) -> impl Iterator<Item = (&str, &str)> {
    let spec = &volume["spec"];
    let claims = spec["claimRef"]["namespace"].as_str().unwrap_or_default();
    let sources = spec.as_object().into_iter().flatten().map(|(_, source)| source);
    let references = sources.flat_map(|source| {
        ["secretRef", "nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"]
            .map(|field| &source[field])
    });
    references.filter_map(move |reference| {
        Some((reference["namespace"].as_str().unwrap_or(claims), reference["name"].as_str()?))
    })
}

/// Resource and name of the ConfigMaps, Secrets and claims in the pod's namespace that its volumes, environment and image pulls
/// name. One may come twice.
pub fn named_by(pod: &Value) -> impl Iterator<Item = (&'static str, Cow<'_, str>)> {
    let spec = &pod["spec"];
    let volumes = list(spec, "volumes").flat_map(|volume| {
        let own = [(MAP, &volume["configMap"]["name"]), (SECRET, &volume["secret"]["secretName"])];
        let projected = list(&volume["projected"], "sources")
            .flat_map(|source| [(MAP, &source["configMap"]["name"]), (SECRET, &source["secret"]["name"])]);
        let driver = volume.as_object().into_iter().flatten().map(|(_, source)| source);
        let driver = driver.flat_map(|source| {
            [(SECRET, &source["secretRef"]["name"]), (SECRET, &source["nodePublishSecretRef"]["name"])]
        });
        own.into_iter().chain(projected).chain(driver)
    });
    let containers = ["containers", "initContainers", "ephemeralContainers"];
    let environment = containers.into_iter().flat_map(|field| list(spec, field)).flat_map(|container| {
        let single = list(container, "env").flat_map(|env| {
            let from = &env["valueFrom"];
            [(MAP, &from["configMapKeyRef"]["name"]), (SECRET, &from["secretKeyRef"]["name"])]
        });
        let whole = list(container, "envFrom").flat_map(|source| {
            [(MAP, &source["configMapRef"]["name"]), (SECRET, &source["secretRef"]["name"])]
        });
        single.chain(whole)
    });
    let pulls = list(spec, "imagePullSecrets").map(|secret| (SECRET, &secret["name"]));
    let all = volumes.chain(environment).chain(pulls);
    let all = all.filter_map(|(resource, name)| Some((resource, Cow::from(name.as_str()?))));
    all.chain(claims_of(pod).map(|name| (CLAIM, name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn volumes_environment_and_pulls_are_looked_through() {
        let pod = json!({"spec": {
            "volumes": [{"configMap": {"name": "a"}}, {"secret": {"secretName": "b"}},
                {"projected": {"sources": [{"configMap": {"name": "c"}}, {"secret": {"name": "d"}}, {"serviceAccountToken": {}}]}}],
            "initContainers": [{"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "e"}}}, {"name": "Y", "value": "1"}]}],
            "containers": [{"envFrom": [{"configMapRef": {"name": "f"}}]}], "imagePullSecrets": [{"name": "g"}]}});
        let found: Vec<_> = named_by(&pod).collect();
        let found: Vec<_> = found.iter().map(|(resource, name)| (*resource, &**name)).collect();
        assert_eq!(
            found,
            [(MAP, "a"), (SECRET, "b"), (MAP, "c"), (SECRET, "d"), (MAP, "f"), (SECRET, "e"), (SECRET, "g")]
        );
    }

    #[test]
    fn claims_lead_to_volumes_and_those_to_their_secrets() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"volumes": [
            {"name": "a", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "b", "ephemeral": {}}]}});
        assert_eq!(claims_of(&pod).collect::<Vec<_>>(), ["c", "p-b"]);
        let volume = json!({"spec": {"claimRef": {"namespace": "shop"}, "csi": {"nodePublishSecretRef": {"name": "k", "namespace": "n"}},
            "cephfs": {"secretRef": {"name": "old"}}}});
        assert_eq!(secrets_of(&volume).collect::<Vec<_>>(), [("shop", "old"), ("n", "k")]);
    }
}
