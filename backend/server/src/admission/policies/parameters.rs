//! The objects that a binding hands its policy as `params`.
use super::index::Bound;
use super::{Misconfigured, Policies};
use pilothouse_api::selector::LabelSelector;
use pilothouse_api::{Key, KindEntry};
use pilothouse_store::Object;
use serde_json::Value;
use std::sync::Arc;

impl Policies {
    /// The policy is asked once for each; Null where it has no parameters. Empty: none are there, and that lets pass.
    pub(super) async fn parameters(
        &self,
        bound: &Bound,
        namespace: &str,
    ) -> Result<Vec<Value>, Misconfigured> {
        let (policy, binding) = (&bound.policy, &bound.binding);
        let failed = |binding: Option<&str>, why: String| {
            let binding = binding.map(str::to_owned);
            Misconfigured { policy: policy.name.clone(), binding, why }
        };
        let Some((version, kind)) = &policy.param_kind else { return Ok(vec![Value::Null]) };
        let registry = self.0.context.registry.load();
        let Some(entry) = registry.by_kind(version, kind) else {
            let why = format!("failed to find resource referenced by paramKind: '{version}, Kind={kind}'");
            return Err(failed(None, why));
        };
        let of = &binding.param_ref;
        if !of.is_object() {
            return Ok(vec![Value::Null]);
        }
        let given = of["namespace"].as_str().filter(|namespace| !namespace.is_empty());
        let namespace = match (entry.is_namespaced(), given) {
            (true, given) => given.unwrap_or(namespace),
            (false, None) => "",
            (false, Some(_)) => {
                let why = "paramRef.namespace must not be provided for a cluster-scoped `paramKind`";
                return Err(failed(Some(&binding.name), why.into()));
            }
        };
        if entry.is_namespaced() && namespace.is_empty() {
            let why =
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
            return Err(failed(Some(&binding.name), why.into()));
        }
        let found = self.found(of, entry, namespace).map_err(|why| failed(Some(&binding.name), why))?;
        if found.is_empty() && of["parameterNotFoundAction"] == "Deny" {
            let why = "no params found for policy binding with `Deny` parameterNotFoundAction";
            return Err(failed(Some(&binding.name), why.into()));
        }
        let values = found.iter().map(|object| object.value()).collect();
        let shown = self.0.context.conversions.shown(entry, values).await;
        shown.map_err(|status| failed(Some(&binding.name), status.message))
    }

    fn found(&self, of: &Value, entry: &KindEntry, namespace: &str) -> Result<Vec<Arc<Object>>, String> {
        let store = &self.0.context.store;
        if let Some(name) = of["name"].as_str().filter(|name| !name.is_empty()) {
            return Ok(store.get(&Key::new(entry.stored_as.clone(), namespace, name)).into_iter().collect());
        }
        if !of["selector"].is_object() {
            return Err("one of name or selector must be provided".into());
        }
        let selector = LabelSelector::from_object(&of["selector"]).map_err(|status| status.message)?;
        let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
        let all = store.list(&entry.stored_as, namespace).objects.into_iter();
        Ok(all.filter(|object| selector.matches(&object.labels)).collect())
    }
}
