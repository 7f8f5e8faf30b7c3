//! What a pod needs beside itself: the server sends it along, and the agent knows whom a change concerns.
use serde_json::Value;

/// Resource and name of the ConfigMaps and Secrets in the pod's namespace that its volumes, environment and image pulls name.
/// One may come twice.
pub fn named_by(pod: &Value) -> impl Iterator<Item = (&'static str, &str)> {
    fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
        value[field].as_array().into_iter().flatten()
    }
    const MAP: &str = "configmaps";
    const SECRET: &str = "secrets";
    let spec = &pod["spec"];
    let volumes = list(spec, "volumes").flat_map(|volume| {
        let own = [(MAP, &volume["configMap"]["name"]), (SECRET, &volume["secret"]["secretName"])];
        let projected = list(&volume["projected"], "sources")
            .flat_map(|source| [(MAP, &source["configMap"]["name"]), (SECRET, &source["secret"]["name"])]);
        own.into_iter().chain(projected)
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
    all.filter_map(|(resource, name)| Some((resource, name.as_str()?)))
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
        let (map, secret) = ("configmaps", "secrets");
        assert_eq!(
            found,
            [(map, "a"), (secret, "b"), (map, "c"), (secret, "d"), (map, "f"), (secret, "e"), (secret, "g")]
        );
    }
}
