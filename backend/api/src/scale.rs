//! `autoscaling/v1 Scale`: the replicas of any kind that has them.
use crate::json_path::JsonPath;
use crate::selector::LabelSelector;
use serde_json::{Value, json};

/// Where a kind keeps what its `scale` subresource shows.
#[derive(Clone, Debug, PartialEq)]
pub struct ScalePaths {
    pub spec_replicas: JsonPath,
    pub status_replicas: JsonPath,
    pub label_selector: LabelSelectorSource,
}

/// Where a Scale's selector of pods comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum LabelSelectorSource {
    None,
    /// A text in the object.
    Text(JsonPath),
    /// The object's `spec.selector`, written as a text.
    Spec,
}

impl ScalePaths {
    /// The object as a Scale.
    pub fn scale_of(&self, object: &Value) -> Value {
        let meta = &object["metadata"];
        let count = |path: &JsonPath| path.first(object).and_then(Value::as_i64);
        let selector = match &self.label_selector {
            LabelSelectorSource::None => String::new(),
            LabelSelectorSource::Text(path) => {
                path.first(object).and_then(Value::as_str).unwrap_or_default().to_owned()
            }
            LabelSelectorSource::Spec => selector_text(&object["spec"]["selector"]),
        };
        json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1",
            "metadata": {
                "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"],
                "resourceVersion": meta["resourceVersion"], "creationTimestamp": meta["creationTimestamp"],
            },
            "spec": {"replicas": count(&self.spec_replicas)},
            "status": {"replicas": count(&self.status_replicas).unwrap_or(0), "selector": selector},
        })
    }

    pub fn set_replicas(&self, object: &mut Value, replicas: i64) {
        self.spec_replicas.set(object, replicas.into());
    }
}

fn selector_text(selector: &Value) -> String {
    if ["matchLabels", "matchExpressions"].iter().any(|form| !selector[form].is_null()) {
        return LabelSelector::from_object(selector).map(|s| s.to_string()).unwrap_or_default();
    }
    let pairs: Vec<String> = selector
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    pairs.join(",")
}
