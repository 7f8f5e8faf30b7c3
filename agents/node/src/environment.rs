//! A container's environment: literal values, references to ConfigMaps, Secrets and the pod's own fields,
//! services.
use base64::Engine;
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::quantity::Quantity;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Looks an object up by resource, namespace and name.
type Find<'a> = Box<dyn Fn(&str, &str, &str) -> Option<Arc<Value>> + Send + Sync + 'a>;
/// Looks a service account token up by audience and seconds, and until when it holds.
type Token<'a> = Box<dyn Fn(&str, i64) -> Option<(String, Timestamp)> + Send + Sync + 'a>;

/// What references are looked up in.
pub struct Sources<'a> {
    /// The pod's own.
    pub namespace: &'a str,
    pub any: Find<'a>,
    pub token: Token<'a>,
    pub services: Vec<Arc<Value>>,
    pub pod_ip: &'a str,
    pub host_ip: &'a str,
    pub node: Arc<Value>,
}

impl Sources<'_> {
    /// An object of the pod's namespace.
    pub fn find(&self, resource: &str, name: &str) -> Option<Arc<Value>> {
        (self.any)(resource, self.namespace, name)
    }
}

/// The variables in order; an error is a `CreateContainerConfigError`.
pub fn build(pod: &Value, container: &Value, sources: &Sources<'_>) -> Result<Vec<(String, String)>, String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    // Without links only the API is named.
    let namespace = if pod["spec"]["enableServiceLinks"] == false { "" } else { namespace };
    all.extend(service_links(&sources.services, namespace));
    for source in container["envFrom"].as_array().into_iter().flatten() {
        let prefix = source["prefix"].as_str().unwrap_or_default();
        for (field, resource) in [("configMapRef", "configmaps"), ("secretRef", "secrets")] {
            let reference = &source[field];
            let Some(name) = reference["name"].as_str() else { continue };
            match sources.find(resource, name) {
                Some(object) => {
                    let keys = object["data"].as_object().into_iter().flatten();
                    all.extend(keys.filter_map(|(key, _)| {
                        Some((format!("{prefix}{key}"), value_of(&object, resource, key)?))
                    }));
                }
                None if reference["optional"] == true => {}
                None => return Err(format!("{} {name:?} not found", resource.trim_end_matches('s'))),
            }
        }
    }
    let mut ordered: Vec<(String, String)> = all.clone().into_iter().collect();
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().unwrap_or_default().to_owned();
        let value = match &variable["valueFrom"] {
            Value::Null => Some(expand(variable["value"].as_str().unwrap_or_default(), &all)),
            from => referenced(pod, container, from, sources)?,
        };
        let Some(value) = value else { continue };
        ordered.retain(|(existing, _)| *existing != name);
        all.insert(name.clone(), value.clone());
        ordered.push((name, value));
    }
    Ok(ordered)
}

fn value_of(object: &Value, resource: &str, key: &str) -> Option<String> {
    let text = object["data"][key].as_str()?;
    if resource == "configmaps" {
        return Some(text.to_owned());
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn referenced(
    pod: &Value,
    container: &Value,
    from: &Value,
    sources: &Sources<'_>,
) -> Result<Option<String>, String> {
    for (field, resource, kind) in
        [("configMapKeyRef", "configmaps", "configmap"), ("secretKeyRef", "secrets", "secret")]
    {
        let reference = &from[field];
        if reference.is_null() {
            continue;
        }
        let (name, key) =
            (reference["name"].as_str().unwrap_or_default(), reference["key"].as_str().unwrap_or_default());
        let object = sources.find(resource, name);
        let value = object.as_ref().and_then(|object| value_of(object, resource, key));
        return match (value, object) {
            (Some(value), _) => Ok(Some(value)),
            (None, _) if reference["optional"] == true => Ok(None),
            (None, None) => Err(format!("{kind} {name:?} not found")),
            (None, Some(_)) => Err(format!("couldn't find key {key} in {kind} {name}")),
        };
    }
    if let Some(path) = from["fieldRef"]["fieldPath"].as_str() {
        return field(pod, path, sources).map(Some).ok_or_else(|| format!("unsupported fieldPath: {path}"));
    }
    let resource = &from["resourceFieldRef"];
    Ok(resource_field(pod, container, resource, &sources.node))
}

/// A field of the pod, as the downward API names it.
pub fn field(pod: &Value, path: &str, sources: &Sources<'_>) -> Option<String> {
    let text = |value: &Value| Some(value.as_str().unwrap_or_default().to_owned());
    match path {
        "metadata.name" => text(&pod["metadata"]["name"]),
        "metadata.namespace" => text(&pod["metadata"]["namespace"]),
        "metadata.uid" => text(&pod["metadata"]["uid"]),
        "spec.nodeName" => text(&pod["spec"]["nodeName"]),
        "spec.serviceAccountName" => text(&pod["spec"]["serviceAccountName"]),
        "status.podIP" | "status.podIPs" => Some(sources.pod_ip.to_owned()),
        "status.hostIP" | "status.hostIPs" => Some(sources.host_ip.to_owned()),
        "metadata.labels" | "metadata.annotations" => {
            let map = pod["metadata"][path.trim_start_matches("metadata.")].as_object();
            let sorted: BTreeMap<_, _> = map.into_iter().flatten().collect();
            let line = |(key, value): (&String, &Value)| {
                format!("{key}={}", quoted(value.as_str().unwrap_or_default()))
            };
            Some(sorted.into_iter().map(line).collect::<Vec<_>>().join("\n"))
        }
        path => {
            let (map, key) = path.strip_suffix("']")?.split_once("['")?;
            let map = map.strip_prefix("metadata.").filter(|m| matches!(*m, "labels" | "annotations"))?;
            text(&pod["metadata"][map][key])
        }
    }
}

/// In double quotes, as Go's `%q` has it: what is read line by line has one line a pair.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// A container's own request or limit, in units of the divisor; without a limit the node's.
pub fn resource_field(pod: &Value, container: &Value, reference: &Value, node: &Value) -> Option<String> {
    let name = reference["containerName"].as_str().unwrap_or_default();
    let lists = ["containers", "initContainers"].into_iter();
    let mut all = lists.flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
    let named = all.find(|c| c["name"] == name);
    let container = named.unwrap_or(container);
    let (section, resource) = reference["resource"].as_str()?.split_once('.')?;
    let text = |value: &Value| {
        value.as_str().map(str::to_owned).or_else(|| value.as_number().map(ToString::to_string))
    };
    let amount = text(&container["resources"][section][resource])
        .or_else(|| (section == "limits").then(|| text(&node["status"]["allocatable"][resource])).flatten());
    let amount = amount.and_then(|a| Quantity::parse(&a)).unwrap_or(Quantity::ZERO);
    let divisor = text(&reference["divisor"]).and_then(|d| Quantity::parse(&d)).filter(|d| !d.is_zero());
    let divisor = divisor.unwrap_or(Quantity::from_milli(1000));
    let (amount, divisor) =
        if resource == "cpu" { (amount.milli(), divisor.milli()) } else { (amount.value(), divisor.value()) };
    let divisor = divisor.max(1);
    Some(((amount + divisor - 1) / divisor).to_string())
}

/// `$(NAME)` by what is known; `$$` is a dollar sign, an unknown name stays as it is.
pub fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    expand_with(text, |name| known.get(name).cloned())
}

/// The same where every name must have a value: half a path would be another one.
pub fn expand_whole(text: &str, known: &BTreeMap<String, String>) -> Result<String, String> {
    let mut missing = BTreeSet::new();
    let expanded = expand_with(text, |name| {
        let value = known.get(name).filter(|value| !value.is_empty());
        if value.is_none() {
            missing.insert(name.to_owned());
        }
        value.cloned()
    });
    match missing.is_empty() {
        true => Ok(expanded),
        false => Err(format!("missing value for {}", missing.into_iter().collect::<Vec<_>>().join(", "))),
    }
}

fn expand_with(text: &str, mut value_of: impl FnMut(&str) -> Option<String>) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match value_of(name) {
                Some(value) => result.push_str(&value),
                None => result.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            result.push('$');
        }
    }
    result + rest
}

/// `WEB_SERVICE_HOST` and its like for every service of the namespace, and for the API.
fn service_links(services: &[Arc<Value>], namespace: &str) -> BTreeMap<String, String> {
    let mut links = BTreeMap::new();
    let seen = |s: &&Arc<Value>| {
        let meta = &s["metadata"];
        meta["namespace"] == namespace || (meta["namespace"] == "default" && meta["name"] == "kubernetes")
    };
    for service in services.iter().filter(seen) {
        let ip = service["spec"]["clusterIP"].as_str().unwrap_or_default();
        let (Some(name), false) = (service["metadata"]["name"].as_str(), matches!(ip, "" | "None")) else {
            continue;
        };
        let name = name.to_uppercase().replace(['-', '.'], "_");
        links.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
        for (i, port) in service["spec"]["ports"].as_array().into_iter().flatten().enumerate() {
            let number = port["port"].as_i64().unwrap_or(0);
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            if i == 0 {
                links.insert(format!("{name}_SERVICE_PORT"), number.to_string());
                links.insert(format!("{name}_PORT"), format!("{}://{ip}:{number}", protocol.to_lowercase()));
            }
            if let Some(port_name) = port["name"].as_str().filter(|n| !n.is_empty()) {
                links.insert(
                    format!("{name}_SERVICE_PORT_{}", port_name.to_uppercase().replace('-', "_")),
                    number.to_string(),
                );
            }
            let prefix = format!("{name}_PORT_{number}_{protocol}");
            links.insert(prefix.clone(), format!("{}://{ip}:{number}", protocol.to_lowercase()));
            links.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
            links.insert(format!("{prefix}_PORT"), number.to_string());
            links.insert(format!("{prefix}_ADDR"), ip.to_owned());
        }
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(container: Value) -> Result<Vec<(String, String)>, String> {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "labels": {"app": "web"}}, "spec": {"containers": [container.clone()]}});
        let any = |resource: &str, _: &str, name: &str| -> Option<Arc<Value>> {
            match (resource, name) {
                ("configmaps", "c") => Some(Arc::new(json!({"data": {"K": "plain"}}))),
                ("secrets", "s") => Some(Arc::new(json!({"data": {"K": "aHVzaA=="}}))),
                _ => None,
            }
        };
        let sources = Sources {
            namespace: "n",
            any: Box::new(any),
            token: Box::new(|_, _| None),
            services: Vec::new(),
            pod_ip: "10.0.0.2",
            host_ip: "1.2.3.4",
            node: Arc::default(),
        };
        build(&pod, &container, &sources)
    }

    #[test]
    fn values_come_from_maps_secrets_fields_and_each_other() {
        let env = of(json!({"resources": {"limits": {"memory": "64Mi"}}, "envFrom": [{"prefix": "C_", "configMapRef": {"name": "c"}}], "env": [
            {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(NO)-$$(A)"},
            {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "K"}}},
            {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "M", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}}]})).unwrap();
        let expected =
            [("C_K", "plain"), ("A", "1"), ("B", "1-$(NO)-$(A)"), ("S", "hush"), ("L", "web"), ("M", "64")];
        assert_eq!(env, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn a_map_of_the_pod_is_a_line_a_pair_with_quoted_values() {
        let pod = json!({"metadata": {"labels": {"b": "two", "a": "one"}, "annotations": {"k": "say \"hi\"\nüber\u{1}"}}});
        let sources = Sources {
            namespace: "n",
            any: Box::new(|_, _, _| None),
            token: Box::new(|_, _| None),
            services: Vec::new(),
            pod_ip: "",
            host_ip: "",
            node: Arc::default(),
        };
        assert_eq!(field(&pod, "metadata.labels", &sources).unwrap(), "a=\"one\"\nb=\"two\"");
        let annotations = field(&pod, "metadata.annotations", &sources).unwrap();
        assert_eq!(annotations, r#"k="say \"hi\"\nüber\x01""#);
        assert_eq!(field(&pod, "metadata.labels['a']", &sources).unwrap(), "one");
    }

    #[test]
    fn a_volume_tells_the_resources_of_an_init_container_too() {
        let pod = json!({"spec": {"containers": [{"name": "main"}],
            "initContainers": [{"name": "first", "resources": {"limits": {"cpu": "1500m"}}}]}});
        let reference = json!({"containerName": "first", "resource": "limits.cpu"});
        assert_eq!(resource_field(&pod, &Value::Null, &reference, &Value::Null).unwrap(), "2");
    }

    #[test]
    fn what_is_missing_is_named_unless_it_is_optional() {
        let missing = |optional: bool| json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "x", "key": "k", "optional": optional}}}]});
        assert_eq!(of(missing(false)).unwrap_err(), "secret \"x\" not found");
        assert_eq!(of(missing(true)).unwrap(), []);
    }
}
