//! ServiceAccount: every pod runs as one, `default` where it names none.
use super::{Context, Outcome, Request, Rule, done};
use pilothouse_api::{Key, Status};
use serde_json::{Map, Value};

const DEFAULT: &str = "default";

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
        Ok(())
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
