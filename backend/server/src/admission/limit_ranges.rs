//! LimitRanger: what containers, pods and claims of a namespace ask for where they ask for nothing, and the bounds of it.
//! After <https://kubernetes.io/docs/concepts/policy/limit-range/>.
use super::{Context, Operation, Outcome, Request, Rule, done};
use pilothouse_api::quantity::Quantity;
use pilothouse_api::usage::{self, Amounts, Bound};
use pilothouse_api::{Status, lifecycle, meta};
use serde_json::{Map, Value};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub struct LimitRanges {
    context: Context,
}

impl LimitRanges {
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    fn limits(&self, namespace: &str) -> Vec<Value> {
        let ranges = self.context.store.list("limitranges", Some(namespace)).objects;
        ranges.iter().map(|range| range.value()).collect()
    }

    fn set(&self, request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        let ranges = self.limits(request.namespace);
        if ranges.is_empty() {
            return Ok(());
        }
        // A limit is the default of its request: without it the range's default would come first.
        lifecycle::complete(request.entry, pod)?;
        for range in &ranges {
            set_defaults(pod, range);
        }
        Ok(())
    }

    fn judge(&self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        let update = request.operation == Operation::Update;
        let checked = match (&*request.entry.resource, request.subresource) {
            ("pods", "") => request.operation == Operation::Create,
            ("pods", "resize") => update,
            ("persistentvolumeclaims", "") => request.operation == Operation::Create || update,
            _ => false,
        };
        if !checked {
            return Ok(());
        }
        for range in self.limits(request.namespace) {
            let errors = match &*request.entry.resource {
                "pods" => pod_errors(&range, &object["spec"]),
                _ => claim_errors(&range, &object["spec"]),
            };
            let why = match errors.as_slice() {
                [] => continue,
                [one] => one.clone(),
                many => format!("[{}]", many.join(", ")),
            };
            return Err(Status::forbidden(&request.entry.resource, meta::name(object), why));
        }
        Ok(())
    }
}

impl Rule for LimitRanges {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn mutate<'a>(&'a self, request: &'a Request<'_>, object: &'a mut Value) -> Outcome<'a> {
        match request.creates("pods") {
            true => done(self.set(request, object)),
            false => done(Ok(())),
        }
    }

    fn validate<'a>(&'a self, request: &'a Request<'_>, object: &'a Value) -> Outcome<'a> {
        done(self.judge(request, object))
    }
}

fn limits_of<'a>(range: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    range["spec"]["limits"].as_array().into_iter().flatten().filter(move |limit| limit["type"] == kind)
}

/// Gives the pod's containers the range's defaults, and says so in an annotation.
fn set_defaults(pod: &mut Value, range: &Value) {
    let mut told = Vec::new();
    for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for container in containers {
            let name = meta_name(container);
            for (bound, source, what) in
                [(Bound::Requests, "defaultRequest", "request"), (Bound::Limits, "default", "limit")]
            {
                let mut set = Vec::new();
                for limit in limits_of(range, "Container") {
                    set.extend(fill(container, bound.field(), &limit[source]));
                }
                if !set.is_empty() {
                    told.push(format!("{} {what} for {word} {name}", set.join(", ")));
                }
            }
        }
    }
    if told.is_empty() {
        return;
    }
    let annotations = object_at(&mut pod["metadata"], "annotations");
    annotations.insert(ANNOTATION.into(), format!("LimitRanger plugin set: {}", told.join("; ")).into());
}

fn meta_name(container: &Value) -> String {
    container["name"].as_str().unwrap_or_default().to_owned()
}

/// The resources that had no amount and got one.
fn fill(container: &mut Value, field: &str, defaults: &Value) -> Vec<String> {
    let Some(defaults) = defaults.as_object().filter(|defaults| !defaults.is_empty()) else {
        return Vec::new();
    };
    let resources = object_at(container, "resources");
    let slot = resources.entry(field).or_insert_with(|| Map::new().into());
    if slot.is_null() {
        *slot = Map::new().into();
    }
    let Some(amounts) = slot.as_object_mut() else { return Vec::new() };
    let mut set = Vec::new();
    for (resource, amount) in defaults {
        if !amounts.contains_key(resource) {
            amounts.insert(resource.clone(), amount.clone());
            set.push(resource.clone());
        }
    }
    set
}

fn object_at<'a>(parent: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    let slot = &mut parent[field];
    if !slot.is_object() {
        *slot = Map::new().into();
    }
    match slot {
        Value::Object(fields) => fields,
        _ => unreachable!("made an object above"),
    }
}

fn pod_errors(range: &Value, spec: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    for limit in limits_of(range, "Container") {
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array().into_iter().flatten() {
                let of = |bound: Bound| usage::amounts(&container["resources"][bound.field()]);
                check(limit, "Container", &of(Bound::Requests), &of(Bound::Limits), &mut errors);
            }
        }
    }
    for limit in limits_of(range, "Pod") {
        let of = |bound: Bound| usage::of_pod(spec, bound);
        check(limit, "Pod", &of(Bound::Requests), &of(Bound::Limits), &mut errors);
    }
    errors
}

fn claim_errors(range: &Value, spec: &Value) -> Vec<String> {
    const KIND: &str = "PersistentVolumeClaim";
    let mut errors = Vec::new();
    let requests = usage::amounts(&spec["resources"]["requests"]);
    for limit in limits_of(range, KIND) {
        for (resource, enforced) in usage::amounts(&limit["min"]) {
            errors.extend(below_min(KIND, &resource, enforced, &requests, &Amounts::new()));
        }
        for (resource, enforced) in usage::amounts(&limit["max"]) {
            let said = match requests.get(&resource) {
                None => "No request is specified".to_owned(),
                Some(request) if *request > enforced => format!("but request is {request}"),
                Some(_) => continue,
            };
            let separator = if said.starts_with("but") { ", " } else { ".  " };
            errors.push(format!("maximum {resource} usage per {KIND} is {enforced}{separator}{said}"));
        }
    }
    errors
}

fn check(limit: &Value, kind: &str, requests: &Amounts, limits: &Amounts, errors: &mut Vec<String>) {
    for (resource, enforced) in usage::amounts(&limit["min"]) {
        errors.extend(below_min(kind, &resource, enforced, requests, limits));
    }
    for (resource, enforced) in usage::amounts(&limit["max"]) {
        errors.extend(above_max(kind, &resource, enforced, requests, limits));
    }
    for (resource, enforced) in usage::amounts(&limit["maxLimitRequestRatio"]) {
        errors.extend(above_ratio(kind, &resource, enforced, requests, limits));
    }
}

fn below_min(
    kind: &str,
    resource: &str,
    enforced: Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let rule = format!("minimum {resource} usage per {kind} is {enforced}");
    match (requests.get(resource), limits.get(resource)) {
        (None, _) => Some(format!("{rule}.  No request is specified")),
        (Some(request), _) if *request < enforced => Some(format!("{rule}, but request is {request}")),
        (_, Some(limit)) if *limit < enforced => Some(format!("{rule}, but limit is {limit}")),
        _ => None,
    }
}

fn above_max(
    kind: &str,
    resource: &str,
    enforced: Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let rule = format!("maximum {resource} usage per {kind} is {enforced}");
    match (requests.get(resource), limits.get(resource)) {
        (_, None) => Some(format!("{rule}.  No limit is specified")),
        (_, Some(limit)) if *limit > enforced => Some(format!("{rule}, but limit is {limit}")),
        (Some(request), _) if *request > enforced => Some(format!("{rule}, but request is {request}")),
        _ => None,
    }
}

#[allow(clippy::cast_precision_loss)] // a ratio is told with six digits
fn above_ratio(
    kind: &str,
    resource: &str,
    enforced: Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let rule = format!("{resource} max limit to request ratio per {kind} is {enforced}, but");
    let of = |amounts: &Amounts| amounts.get(resource).filter(|amount| !amount.is_zero()).copied();
    let Some(request) = of(requests) else {
        return Some(format!("{rule} no request is specified or request is 0"));
    };
    let Some(limit) = of(limits) else {
        return Some(format!("{rule} no limit is specified or limit is 0"));
    };
    let number = |amount: Quantity| match amount.milli() {
        // As many thousandths as a number can hold.
        i64::MAX => amount.value() as f64 * 1000.0,
        milli => milli as f64,
    };
    let ratio = number(limit) / number(request);
    (ratio * 1000.0 > number(enforced)).then(|| format!("{rule} provided ratio is {ratio:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn range(limit: Value) -> Value {
        json!({"spec": {"limits": [limit]}})
    }

    #[test]
    fn containers_get_what_they_do_not_ask_for() {
        let range = range(
            json!({"type": "Container", "default": {"cpu": "500m", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}),
        );
        let mut pod = json!({"metadata": {}, "spec": {
            "containers": [{"name": "a"}, {"name": "b", "resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "2"}}}],
            "initContainers": [{"name": "i", "resources": {"requests": null, "limits": {"cpu": "1", "memory": "1"}}}],
        }});
        set_defaults(&mut pod, &range);
        let resources = |list: &str, i: usize| pod["spec"][list][i]["resources"].clone();
        assert_eq!(
            resources("containers", 0),
            json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "500m", "memory": "1Gi"}})
        );
        assert_eq!(
            resources("containers", 1),
            json!({"requests": {"cpu": "2"}, "limits": {"cpu": "2", "memory": "1Gi"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container a; cpu, memory limit for container a; memory limit for \
             container b; cpu request for init container i"
        );
        let before = pod.clone();
        set_defaults(&mut pod, &range);
        assert_eq!(pod, before, "what is set stays");
    }

    #[test]
    fn bounds_are_told_in_kubernetes_words() {
        let spec = |requests: Value, limits: Value| json!({"containers": [{"name": "a", "resources": {"requests": requests, "limits": limits}}]});
        let none = json!({});
        let rows = [
            ("Container", json!({"min": {"cpu": "1"}}), spec(json!({"cpu": "1"}), json!({"cpu": "2"})), ""),
            (
                "Container",
                json!({"min": {"cpu": "1"}}),
                spec(none.clone(), none.clone()),
                "minimum cpu usage per Container is 1.  No request is specified",
            ),
            (
                "Container",
                json!({"min": {"cpu": "1"}}),
                spec(json!({"cpu": "500m"}), none.clone()),
                "minimum cpu usage per Container is 1, but request is 500m",
            ),
            (
                "Container",
                json!({"max": {"memory": "1Gi"}}),
                spec(none.clone(), json!({"memory": "2Gi"})),
                "maximum memory usage per Container is 1Gi, but limit is 2Gi",
            ),
            (
                "Pod",
                json!({"max": {"cpu": "1"}}),
                spec(json!({"cpu": "1"}), none.clone()),
                "maximum cpu usage per Pod is 1.  No limit is specified",
            ),
            (
                "Container",
                json!({"maxLimitRequestRatio": {"memory": "2"}}),
                spec(json!({"memory": "1Gi"}), json!({"memory": "3Gi"})),
                "memory max limit to request ratio per Container is 2, but provided ratio is 3.000000",
            ),
            (
                "Container",
                json!({"maxLimitRequestRatio": {"cpu": "2"}}),
                spec(json!({"cpu": "0"}), json!({"cpu": "1"})),
                "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
            ),
            (
                "Container",
                json!({"maxLimitRequestRatio": {"cpu": "1500m"}}),
                spec(json!({"cpu": "2"}), json!({"cpu": "3"})),
                "",
            ),
        ];
        for (kind, mut limit, spec, expected) in rows {
            limit["type"] = kind.into();
            assert_eq!(pod_errors(&range(limit), &spec).join("|"), expected);
        }
    }

    #[test]
    fn claims_have_bounds_too() {
        let limit =
            json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}});
        let claim = |storage: &str| json!({"resources": {"requests": {"storage": storage}}});
        assert_eq!(claim_errors(&range(limit.clone()), &claim("2Gi")), Vec::<String>::new());
        assert_eq!(
            claim_errors(&range(limit.clone()), &claim("3Gi")),
            ["maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"]
        );
        assert_eq!(
            claim_errors(&range(limit), &claim("1Mi")),
            ["minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"]
        );
    }
}
