//! The node authorizer: an agent reads what its own pods need and writes its own status, nothing else.
use super::attributes::Attributes;
use crate::feed::Observation;
use parking_lot::RwLock;
use pilothouse_api::selector::FieldSelector;
use pilothouse_store::Object;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub const RESOURCES: &[&str] = &["pods"];
const LEASE_NAMESPACE: &str = "kube-node-lease";
const READ: &[&str] = &["get", "list", "watch"];

/// One object a pod needs: resource, namespace, name.
type Need = (&'static str, String, String);
/// Namespace and name.
type PodName = (Arc<str>, Arc<str>);

#[derive(Default)]
struct Index {
    /// A pod's node and what it needs there.
    pods: HashMap<PodName, (String, Vec<Need>)>,
    /// How many pods of a node need an object.
    needs: HashMap<String, HashMap<Need, usize>>,
}

/// Which objects the pods of each node name. Cheap to clone.
#[derive(Clone, Default)]
pub struct Nodes(Arc<RwLock<Index>>);

impl Nodes {
    pub fn observe(&self, observation: &Observation) {
        let mut index = self.0.write();
        match observation {
            Observation::Reset => *index = Index::default(),
            Observation::Put(object) => index.put(object),
            Observation::Gone(object) => index.remove(object),
        }
    }

    /// Why not, or `Ok`. Facts of NodeRestriction are judged here too: a node writes its own objects only.
    pub fn allows(&self, node: &str, wanted: &Attributes) -> Result<(), &'static str> {
        let verb = &*wanted.verb;
        let reads = READ.contains(&verb);
        match (&*wanted.group, &*wanted.resource, &*wanted.subresource) {
            ("", "secrets" | "configmaps" | "persistentvolumeclaims" | "serviceaccounts", "") if reads => {
                self.needed(node, wanted)
            }
            ("", "serviceaccounts", "token") if verb == "create" => self.needed(node, wanted),
            ("", "pods", "") if verb == "get" => self.own_pod(node, wanted),
            ("", "pods", "") if reads => own_selector(node, &wanted.field_selector),
            ("", "pods", "status") if matches!(verb, "get" | "update" | "patch") => {
                self.own_pod(node, wanted)
            }
            ("", "pods", "") if verb == "delete" => self.own_pod(node, wanted),
            ("", "pods", "eviction") if verb == "create" => self.own_pod(node, wanted),
            ("", "nodes", "") if verb == "create" => Ok(()),
            ("", "nodes", "" | "status") if matches!(verb, "get" | "update" | "patch") => {
                own(node, &wanted.name)
            }
            ("coordination.k8s.io", "leases", "") if verb != "list" && verb != "watch" => {
                match wanted.namespace == LEASE_NAMESPACE && (verb == "create" || wanted.name == node) {
                    true => Ok(()),
                    false => Err("can only access node lease with the same name as the requesting node"),
                }
            }
            ("" | "events.k8s.io", "events", "") if matches!(verb, "create" | "update" | "patch") => Ok(()),
            ("", "services" | "endpoints" | "nodes" | "namespaces", "") if reads => Ok(()),
            ("discovery.k8s.io", "endpointslices", "") if reads => Ok(()),
            ("networking.k8s.io", "networkpolicies", "") if reads => Ok(()),
            ("node.k8s.io", "runtimeclasses", "") | ("storage.k8s.io", "csidrivers", "") if reads => Ok(()),
            ("authentication.k8s.io", "tokenreviews", "") if verb == "create" => Ok(()),
            ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews", "")
                if verb == "create" =>
            {
                Ok(())
            }
            _ => Err(""),
        }
    }

    fn needed(&self, node: &str, wanted: &Attributes) -> Result<(), &'static str> {
        let none = Err("no relationship found between node and this object");
        if wanted.name.is_empty() || wanted.namespace.is_empty() {
            return Err("can only read namespaced object of this type by name");
        }
        let resource = match &*wanted.resource {
            "secrets" => "secrets",
            "configmaps" => "configmaps",
            "persistentvolumeclaims" => "persistentvolumeclaims",
            _ => "serviceaccounts",
        };
        let need = (resource, wanted.namespace.clone(), wanted.name.clone());
        match self.0.read().needs.get(node).is_some_and(|needs| needs.contains_key(&need)) {
            true => Ok(()),
            false => none,
        }
    }

    fn own_pod(&self, node: &str, wanted: &Attributes) -> Result<(), &'static str> {
        let index = self.0.read();
        let place = (Arc::from(&*wanted.namespace), Arc::from(&*wanted.name));
        match index.pods.get(&place) {
            Some((on, _)) if on == node => Ok(()),
            _ => Err("no relationship found between node and this object"),
        }
    }
}

impl Index {
    fn put(&mut self, object: &Object) {
        self.remove(object);
        let pod = object.value();
        let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) else { return };
        let needs: HashSet<Need> = needs(&pod, &object.key.namespace).into_iter().collect();
        for need in &needs {
            *self.needs.entry(node.to_owned()).or_default().entry(need.clone()).or_default() += 1;
        }
        let place = (object.key.namespace.clone(), object.key.name.clone());
        self.pods.insert(place, (node.to_owned(), needs.into_iter().collect()));
    }

    fn remove(&mut self, object: &Object) {
        let place = (object.key.namespace.clone(), object.key.name.clone());
        let Some((node, needs)) = self.pods.remove(&place) else { return };
        let Some(of_node) = self.needs.get_mut(&node) else { return };
        for need in needs {
            if let Some(count) = of_node.get_mut(&need) {
                *count -= 1;
                if *count == 0 {
                    of_node.remove(&need);
                }
            }
        }
        if of_node.is_empty() {
            self.needs.remove(&node);
        }
    }
}

fn own(node: &str, name: &str) -> Result<(), &'static str> {
    match node == name {
        true => Ok(()),
        false => Err("node can only access its own Node object"),
    }
}

fn own_selector(node: &str, selector: &str) -> Result<(), &'static str> {
    let parsed = FieldSelector::parse(selector).ok();
    match parsed.as_ref().and_then(|selector| selector.requires("spec.nodeName")) == Some(node) {
        true => Ok(()),
        false => Err("can only list/watch pods with spec.nodeName field selector"),
    }
}

/// What a pod names in its own namespace.
fn needs(pod: &Value, namespace: &str) -> Vec<Need> {
    let mut found = Vec::new();
    let mut add = |resource: &'static str, name: &Value| {
        if let Some(name) = name.as_str() {
            found.push((resource, namespace.to_owned(), name.to_owned()));
        }
    };
    let spec = &pod["spec"];
    add("serviceaccounts", &spec["serviceAccountName"]);
    for secret in list(&spec["imagePullSecrets"]) {
        add("secrets", &secret["name"]);
    }
    for volume in list(&spec["volumes"]) {
        add("secrets", &volume["secret"]["secretName"]);
        add("configmaps", &volume["configMap"]["name"]);
        add("persistentvolumeclaims", &volume["persistentVolumeClaim"]["claimName"]);
        for source in list(&volume["projected"]["sources"]) {
            add("secrets", &source["secret"]["name"]);
            add("configmaps", &source["configMap"]["name"]);
        }
        if let Some(source) = volume.as_object() {
            for driver in source.values() {
                add("secrets", &driver["secretRef"]["name"]);
            }
        }
    }
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        for container in list(&spec[field]) {
            for env in list(&container["env"]) {
                add("secrets", &env["valueFrom"]["secretKeyRef"]["name"]);
                add("configmaps", &env["valueFrom"]["configMapKeyRef"]["name"]);
            }
            for env in list(&container["envFrom"]) {
                add("secrets", &env["secretRef"]["name"]);
                add("configmaps", &env["configMapRef"]["name"]);
            }
        }
    }
    found
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, node: &str) -> Observation {
        let pod = json!({"spec": {
            "nodeName": node, "serviceAccountName": "default",
            "volumes": [{"secret": {"secretName": "tls"}}, {"projected": {"sources": [{"configMap": {"name": "ca"}}]}}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "db"}}}], "envFrom": [{"configMapRef": {"name": "settings"}}]}],
        }});
        Observation::Put(Arc::new(Object {
            key: pilothouse_api::Key::new("pods", "shop", name),
            uid: "1".into(),
            revision: 1,
            bytes: pod.to_string().into(),
            labels: Default::default(),
            fields: Vec::new(),
        }))
    }

    fn wants(verb: &str, resource: &str, namespace: &str, name: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_node_reads_only_the_secrets_its_pods_name() {
        let nodes = Nodes::default();
        nodes.observe(&pod("a", "n1"));
        for (resource, name) in
            [("secrets", "tls"), ("secrets", "db"), ("configmaps", "ca"), ("configmaps", "settings")]
        {
            assert_eq!(nodes.allows("n1", &wants("get", resource, "shop", name)), Ok(()), "{name}");
            assert!(nodes.allows("n2", &wants("get", resource, "shop", name)).is_err(), "{name}");
        }
        assert!(nodes.allows("n1", &wants("get", "secrets", "shop", "other")).is_err());
        assert!(nodes.allows("n1", &wants("list", "secrets", "shop", "")).is_err());
        assert!(nodes.allows("n1", &wants("get", "secrets", "kube-system", "tls")).is_err());
    }

    #[test]
    fn a_pod_that_left_takes_its_rights_along() {
        let nodes = Nodes::default();
        nodes.observe(&pod("a", "n1"));
        nodes.observe(&pod("b", "n1"));
        nodes.observe(&pod("a", "n2"));
        assert_eq!(nodes.allows("n1", &wants("get", "secrets", "shop", "tls")), Ok(()));
        nodes.observe(&pod("b", "n2"));
        assert!(nodes.allows("n1", &wants("get", "secrets", "shop", "tls")).is_err());
    }

    #[test]
    fn a_node_writes_its_own_status_and_that_of_its_pods() {
        let nodes = Nodes::default();
        nodes.observe(&pod("a", "n1"));
        assert_eq!(nodes.allows("n1", &wants("patch", "pods/status", "shop", "a")), Ok(()));
        assert!(nodes.allows("n2", &wants("patch", "pods/status", "shop", "a")).is_err());
        assert_eq!(nodes.allows("n1", &wants("patch", "nodes/status", "", "n1")), Ok(()));
        assert!(nodes.allows("n1", &wants("patch", "nodes/status", "", "n2")).is_err());
        assert!(nodes.allows("n1", &wants("create", "pods", "shop", "")).is_err());
    }

    #[test]
    fn a_node_lists_only_the_pods_bound_to_it() {
        let nodes = Nodes::default();
        let mut list = wants("list", "pods", "", "");
        assert!(nodes.allows("n1", &list).is_err());
        list.field_selector = "spec.nodeName=n1".into();
        assert_eq!(nodes.allows("n1", &list), Ok(()));
        assert!(nodes.allows("n2", &list).is_err());
    }
}
