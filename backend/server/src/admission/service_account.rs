//! ServiceAccount: every pod runs as one, `default` where it names none, and finds its credentials where clients look.
use super::{Context, Outcome, Request, Rule, done};
use crate::objects::name_suffix;
use pilothouse_api::{Key, Status};
use serde_json::{Map, Value, json};

const DEFAULT: &str = "default";
/// Where client libraries look for token, CA and namespace.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour and a little, by which Kubernetes tells its own tokens from those that somebody asked for.
const TOKEN_SECONDS: i64 = 3607;

pub struct ServiceAccount {
    context: Context,
}

impl ServiceAccount {
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    fn set(&self, request: &Request<'_>, spec: &mut Map<String, Value>) -> Result<(), Status> {
        let text = |field: &str| spec.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = [text("serviceAccountName"), text("serviceAccount"), DEFAULT.into()];
        let name = name.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
        let key = Key::new("serviceaccounts", request.namespace, name.as_str());
        let account = self.context.store.get(&key);
        // A namespace's own account comes a moment after the namespace: a pod need not wait for it.
        if account.is_none() && name != DEFAULT {
            let namespace = request.namespace;
            let why = format!(
                "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
            );
            return Err(Status::forbidden("pods", request.name, why));
        }
        let has_secrets =
            spec.get("imagePullSecrets").and_then(Value::as_array).is_some_and(|s| !s.is_empty());
        let account = account.map(|account| account.value()).unwrap_or_default();
        if let (false, Some(secrets)) = (has_secrets, account["imagePullSecrets"].as_array())
            && !secrets.is_empty()
        {
            spec.insert("imagePullSecrets".into(), secrets.clone().into());
        }
        spec.insert("serviceAccountName".into(), name.clone().into());
        spec.insert("serviceAccount".into(), name.into());
        let own = spec.get("automountServiceAccountToken").and_then(Value::as_bool);
        if own.or_else(|| account["automountServiceAccountToken"].as_bool()).unwrap_or(true) {
            mount_credentials(spec);
        }
        Ok(())
    }
}

/// Mounts the credentials into every container that has nothing there yet.
fn mount_credentials(spec: &mut Map<String, Value>) {
    let volumes = spec.get("volumes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let names = volumes.iter().filter_map(|volume| volume["name"].as_str());
    let existing = names.into_iter().find(|name| name.starts_with(VOLUME_PREFIX)).map(str::to_owned);
    let name = existing.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", name_suffix()));
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            if mounts.is_null() {
                *mounts = json!([]);
            }
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH) {
                continue;
            }
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
            mounted = true;
        }
    }
    if existing.is_some() || !mounted {
        return;
    }
    let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
    if volumes.is_null() {
        *volumes = json!([]);
    }
    if let Some(volumes) = volumes.as_array_mut() {
        let namespace = json!({"apiVersion": "v1", "fieldPath": "metadata.namespace"});
        volumes.push(json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": namespace}]}},
        ]}}));
    }
}

impl Rule for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn mutate<'a>(&'a self, request: &'a Request<'_>, object: &'a mut Value) -> Outcome<'a> {
        let mirror = object["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some();
        if !request.creates("pods") || mirror {
            return done(Ok(()));
        }
        match object.get_mut("spec").and_then(Value::as_object_mut) {
            Some(spec) => done(self.set(request, spec)),
            None => done(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(spec: Value) -> Value {
        let mut spec = spec.as_object().unwrap().clone();
        mount_credentials(&mut spec);
        spec.into()
    }

    #[test]
    fn every_container_finds_the_credentials_in_one_volume() {
        let spec = mounted(
            json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a", "volumeMounts": null}]}),
        );
        let name = spec["volumes"][0]["name"].as_str().unwrap();
        assert!(name.starts_with("kube-api-access-") && name.len() == 21, "{name}");
        for list in ["initContainers", "containers"] {
            let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
            assert_eq!(spec[list][0]["volumeMounts"], json!([mount]));
        }
        assert_eq!(mounted(spec.clone()), spec, "once");
    }

    #[test]
    fn what_a_pod_mounts_there_itself_stays() {
        let own = json!({"containers": [{"name": "a", "volumeMounts": [{"name": "mine", "mountPath": MOUNT_PATH}]}]});
        assert_eq!(mounted(own.clone()), own);
    }
}
