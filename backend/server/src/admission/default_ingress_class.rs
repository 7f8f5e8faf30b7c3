//! DefaultIngressClass: an Ingress that names no class gets the default one.
use super::{Context, Outcome, Request, Rule, done};
use serde_json::Value;
use std::cmp::Reverse;

const INGRESSES: &str = "ingresses.networking.k8s.io";
const CLASSES: &str = "ingressclasses.networking.k8s.io";
const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
/// How a class was named before there was a field for it.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

pub struct DefaultIngressClass {
    context: Context,
}

impl DefaultIngressClass {
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// The newest of those marked, then by name.
    fn default_class(&self) -> Option<String> {
        let classes = self.context.store.list(CLASSES, None).objects;
        let marked = classes.iter().map(|class| class.value());
        let marked = marked.filter(|class| class["metadata"]["annotations"][DEFAULT] == "true");
        let text =
            |class: &Value, field: &str| class["metadata"][field].as_str().unwrap_or_default().to_owned();
        let newest =
            marked.max_by_key(|class| (text(class, "creationTimestamp"), Reverse(text(class, "name"))));
        newest.map(|class| text(&class, "name"))
    }
}

impl Rule for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn mutate<'a>(&'a self, request: &'a Request<'_>, object: &'a mut Value) -> Outcome<'a> {
        let names_one = |ingress: &Value| {
            ingress["spec"]["ingressClassName"].is_string()
                || ingress["metadata"]["annotations"][CLASS_ANNOTATION].is_string()
        };
        if request.creates(INGRESSES)
            && !names_one(object)
            && let Some(name) = self.default_class()
            && let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut)
        {
            spec.insert("ingressClassName".into(), name.into());
        }
        done(Ok(()))
    }
}
