//! RuntimeClass: a pod that names a class gets what the class costs and where it can run, and needs the class to be there.
use super::{Context, Outcome, Request, Rule, done};
use pilothouse_api::{Key, Status};
use serde_json::{Map, Value, json};

const RESOURCE: &str = "runtimeclasses.node.k8s.io";

pub struct RuntimeClass {
    context: Context,
}

impl RuntimeClass {
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// None: the pod names no class.
    fn class_of(&self, spec: &Map<String, Value>) -> Result<Option<Value>, String> {
        let name = spec.get("runtimeClassName").and_then(Value::as_str).unwrap_or_default();
        if name.is_empty() {
            return Ok(None);
        }
        let found = self.context.store.get(&Key::new(RESOURCE, "", name));
        let class = found.ok_or_else(|| format!("pod rejected: RuntimeClass {name:?} not found"))?;
        Ok(Some(class.value()))
    }

    fn fill(&self, spec: &mut Map<String, Value>) -> Result<(), String> {
        let Some(class) = self.class_of(spec)? else { return Ok(()) };
        if class["overhead"]["podFixed"].is_object() {
            let costs = &class["overhead"]["podFixed"];
            let given = spec.get("overhead").filter(|o| !o.is_null() && **o != json!({}));
            if given.is_some_and(|given| given != costs) {
                return Err(
                    "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into()
                );
            }
            spec.insert("overhead".into(), costs.clone());
        }
        select_nodes(spec, &class["scheduling"])
    }

    fn judge(&self, spec: &Map<String, Value>) -> Result<(), String> {
        let Some(overhead) = spec.get("overhead").and_then(Value::as_object).filter(|o| !o.is_empty()) else {
            return Ok(());
        };
        let class = self.class_of(spec)?.unwrap_or_default();
        match &class["overhead"]["podFixed"] {
            Value::Null => {
                Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
                    .into())
            }
            Value::Object(costs) if costs == overhead => Ok(()),
            _ => Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into()),
        }
    }
}

/// The class's nodes beside those that the pod asked for.
fn select_nodes(spec: &mut Map<String, Value>, scheduling: &Value) -> Result<(), String> {
    if let Some(wanted) = scheduling["nodeSelector"].as_object() {
        let selector = spec.entry("nodeSelector").or_insert_with(|| json!({}));
        if selector.is_null() {
            *selector = json!({});
        }
        let Some(selector) = selector.as_object_mut() else { return Ok(()) };
        for (key, value) in wanted {
            let own = selector.entry(key).or_insert_with(|| value.clone());
            if own != value {
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {own}"
                ));
            }
        }
    }
    if let Some(tolerated) = scheduling["tolerations"].as_array() {
        let own = spec.entry("tolerations").or_insert_with(|| json!([]));
        if own.is_null() {
            *own = json!([]);
        }
        let Some(own) = own.as_array_mut() else { return Ok(()) };
        for toleration in tolerated {
            if !own.contains(toleration) {
                own.push(toleration.clone());
            }
        }
    }
    Ok(())
}

impl Rule for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn mutate<'a>(&'a self, request: &'a Request<'_>, object: &'a mut Value) -> Outcome<'a> {
        let spec = object.get_mut("spec").and_then(Value::as_object_mut).filter(|_| request.creates("pods"));
        let outcome = spec.map_or(Ok(()), |spec| self.fill(spec));
        done(outcome.map_err(|why| Status::forbidden("pods", request.name, why)))
    }

    fn validate<'a>(&'a self, request: &'a Request<'_>, object: &'a Value) -> Outcome<'a> {
        let spec = object["spec"].as_object().filter(|_| request.creates("pods"));
        let outcome = spec.map_or(Ok(()), |spec| self.judge(spec));
        done(outcome.map_err(|why| Status::forbidden("pods", request.name, why)))
    }
}
