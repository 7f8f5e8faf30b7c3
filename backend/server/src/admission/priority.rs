//! Priority: a pod's priority number comes from its PriorityClass, never from the client.
use super::{Context, Operation, Outcome, Request, Rule, done};
use pilothouse_api::{Key, Status, meta};
use serde_json::{Map, Value};

const RESOURCE: &str = "priorityclasses.scheduling.k8s.io";
/// The classes every cluster has.
pub const SYSTEM_CLASSES: &[(&str, i64)] =
    &[("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

pub struct Priority {
    context: Context,
}

struct Class {
    name: String,
    value: i64,
    preemption: Option<String>,
}

impl Priority {
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    fn set(&self, request: &Request<'_>, spec: &mut Map<String, Value>) -> Result<(), Status> {
        let class = match spec.get("priorityClassName").and_then(Value::as_str).unwrap_or_default() {
            "" => self.default_class(),
            name => Some(self.class(name).ok_or_else(|| {
                let why = format!("no PriorityClass with name {name} was found");
                Status::forbidden("pods", request.name, why)
            })?),
        };
        let value = class.as_ref().map_or(0, |class| class.value);
        if spec.get("priority").and_then(Value::as_i64).is_some_and(|given| given != value) {
            let why = format!(
                "the integer value of priority ({}) must not be provided in pod spec; priority admission controller \
                 computed {value} from the given PriorityClass name",
                spec["priority"]
            );
            return Err(Status::forbidden("pods", request.name, why));
        }
        spec.insert("priority".into(), value.into());
        let mut preemption = "PreemptLowerPriority".to_owned();
        if let Some(class) = class {
            spec.insert("priorityClassName".into(), class.name.into());
            preemption = class.preemption.unwrap_or(preemption);
        }
        if !spec.get("preemptionPolicy").is_some_and(Value::is_string) {
            spec.insert("preemptionPolicy".into(), preemption.into());
        }
        Ok(())
    }

    fn judge_class(&self, request: &Request<'_>, class: &Value) -> Result<(), Status> {
        if request.operation == Operation::Delete {
            let system = SYSTEM_CLASSES.iter().any(|(name, _)| *name == request.name);
            let why = "this is a system priority class and cannot be deleted";
            return if system { Err(Status::forbidden(RESOURCE, request.name, why)) } else { Ok(()) };
        }
        let name = meta::name(class);
        match self.default_class().filter(|default| class["globalDefault"] == true && default.name != name) {
            Some(default) => {
                let why = format!(
                    "PriorityClass {} is already marked as default. Only one default can exist",
                    default.name
                );
                Err(Status::forbidden(RESOURCE, name, why))
            }
            None => Ok(()),
        }
    }

    fn class(&self, name: &str) -> Option<Class> {
        if let Some(object) = self.context.store.get(&Key::new(RESOURCE, "", name)) {
            return Some(Class::of(&object.value()));
        }
        let &(name, value) = SYSTEM_CLASSES.iter().find(|(class, _)| *class == name)?;
        Some(Class { name: name.into(), value, preemption: None })
    }

    fn default_class(&self) -> Option<Class> {
        let classes = self.context.store.list(RESOURCE, None).objects;
        let defaults =
            classes.iter().map(|object| object.value()).filter(|class| class["globalDefault"] == true);
        // Should there be several, the lowest counts, as in Kubernetes.
        defaults.map(|class| Class::of(&class)).min_by_key(|class| class.value)
    }
}

impl Class {
    fn of(object: &Value) -> Self {
        Self {
            name: meta::name(object).into(),
            value: object["value"].as_i64().unwrap_or_default(),
            preemption: object["preemptionPolicy"].as_str().map(Into::into),
        }
    }
}

impl Rule for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn mutate<'a>(&'a self, request: &'a Request<'_>, object: &'a mut Value) -> Outcome<'a> {
        if !request.creates("pods") {
            return done(Ok(()));
        }
        match object.get_mut("spec").and_then(Value::as_object_mut) {
            Some(spec) => done(self.set(request, spec)),
            None => done(Ok(())),
        }
    }

    fn validate<'a>(&'a self, request: &'a Request<'_>, object: &'a Value) -> Outcome<'a> {
        match &*request.entry.resource {
            RESOURCE => done(self.judge_class(request, object)),
            _ => done(Ok(())),
        }
    }
}
