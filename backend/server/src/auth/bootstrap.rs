//! What every cluster has from its first moment: namespaces, the service of the API itself, the usual roles.
use crate::admission::SYSTEM_CLASSES;
use crate::objects::{Actor, Part, WriteOptions};
use crate::state::AppState;
use anyhow::Result;
use pilothouse_api::{Key, Reason, meta};
use serde_json::{Value, json};
use std::net::SocketAddrV4;

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Makes what is missing; what an administrator changed stays.
pub async fn run(app: &AppState, advertise: Option<SocketAddrV4>) -> Result<()> {
    let actor = Actor::system("bootstrap");
    for namespace in NAMESPACES {
        make(app, &actor, "namespaces", "", json!({"metadata": {"name": namespace}})).await?;
    }
    for (name, value) in SYSTEM_CLASSES {
        let what = match *name {
            "system-node-critical" => "must not be moved from their current node.",
            _ => "must run in the cluster, but can be moved to another node if necessary.",
        };
        let description = format!("Used for system critical pods that {what}");
        let class = json!({"metadata": {"name": name}, "value": value, "description": description});
        make(app, &actor, "priorityclasses.scheduling.k8s.io", "", class).await?;
    }
    let (a, b) = (app.network.service_cidr.0.octets()[0], app.network.service_cidr.0.octets()[1]);
    let service = json!({
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"clusterIP": format!("{a}.{b}.0.1"), "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}]},
    });
    make(app, &actor, "services", "default", service).await?;
    if let Some(address) = advertise {
        advertise_api(app, &actor, address).await?;
    }
    for (name, rules) in roles() {
        let labels = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
        let role = json!({"metadata": {"name": name, "labels": labels}, "rules": rules});
        make(app, &actor, "clusterroles.rbac.authorization.k8s.io", "", role).await?;
    }
    for (name, role, groups) in [
        ("cluster-admin", "cluster-admin", &["system:masters"][..]),
        ("system:discovery", "system:discovery", &["system:authenticated"]),
        ("system:basic-user", "system:basic-user", &["system:authenticated"]),
    ] {
        let subjects: Vec<Value> = groups
            .iter()
            .map(|g| json!({"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": g}))
            .collect();
        let binding = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}, "subjects": subjects,
        });
        make(app, &actor, "clusterrolebindings.rbac.authorization.k8s.io", "", binding).await?;
    }
    Ok(())
}

/// The service has no selector, so what is behind it is written here, and again at each start.
async fn advertise_api(app: &AppState, actor: &Actor, address: SocketAddrV4) -> Result<()> {
    let (ip, port) =
        (address.ip().to_string(), json!({"name": "https", "port": address.port(), "protocol": "TCP"}));
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": &ip}], "ports": [&port]}],
    });
    let slice = json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4", "endpoints": [{"addresses": [&ip], "conditions": {"ready": true}}], "ports": [&port],
    });
    for (resource, object) in [("endpoints", endpoints), ("endpointslices.discovery.k8s.io", slice)] {
        make(app, actor, resource, "default", object.clone()).await?;
        let Some(entry) = app.registry.by_resource(resource) else { continue };
        let renew = |old: &Value| {
            let mut new = old.clone();
            for field in ["subsets", "endpoints", "ports"].into_iter().filter(|f| !object[f].is_null()) {
                new[field] = object[field].clone();
            }
            Ok(new)
        };
        let options = WriteOptions::default();
        app.objects.update(actor, &entry, "default", "kubernetes", Part::Spec, &options, renew).await?;
    }
    Ok(())
}

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

/// The user-facing roles of Kubernetes (`cluster-admin`, `admin`, `edit`, `view`) and what every user may.
fn roles() -> Vec<(&'static str, Vec<Value>)> {
    const CORE: &[&str] = &[
        "configmaps",
        "endpoints",
        "persistentvolumeclaims",
        "pods",
        "replicationcontrollers",
        "replicationcontrollers/scale",
        "serviceaccounts",
        "services",
    ];
    const SEEN: &[&str] = &[
        "events",
        "limitranges",
        "namespaces",
        "pods/log",
        "pods/status",
        "resourcequotas",
        "services/status",
    ];
    const APPS: &[&str] = &[
        "daemonsets",
        "deployments",
        "deployments/scale",
        "replicasets",
        "replicasets/scale",
        "statefulsets",
        "statefulsets/scale",
    ];
    const OTHERS: &[(&str, &[&str])] = &[
        ("autoscaling", &["horizontalpodautoscalers"]),
        ("batch", &["cronjobs", "jobs"]),
        ("policy", &["poddisruptionbudgets"]),
        ("networking.k8s.io", &["ingresses", "networkpolicies"]),
        ("discovery.k8s.io", &["endpointslices"]),
    ];
    let others = |verbs: &'static [&'static str]| {
        OTHERS.iter().map(move |(group, resources)| rule(&[group], resources, verbs))
    };
    let mut view = vec![rule(&[""], CORE, READ), rule(&[""], SEEN, READ), rule(&["apps"], APPS, READ)];
    view.extend(others(READ));
    let mut edit = vec![
        rule(&[""], CORE, WRITE),
        rule(&[""], &["secrets"], WRITE),
        rule(&[""], SEEN, READ),
        rule(
            &[""],
            &[
                "pods/attach",
                "pods/exec",
                "pods/portforward",
                "pods/eviction",
                "pods/proxy",
                "services/proxy",
            ],
            &["create", "get"],
        ),
        rule(&["apps"], APPS, WRITE),
    ];
    edit.extend(others(WRITE));
    let mut admin = edit.clone();
    admin.push(rule(&["rbac.authorization.k8s.io"], &["rolebindings", "roles"], WRITE));
    admin.push(rule(&["authorization.k8s.io"], &["localsubjectaccessreviews"], &["create"]));
    let paths = [
        "/api",
        "/api/*",
        "/apis",
        "/apis/*",
        "/healthz",
        "/livez",
        "/openapi",
        "/openapi/*",
        "/readyz",
        "/version",
        "/version/",
    ];
    vec![
        (
            "cluster-admin",
            vec![rule(&["*"], &["*"], &["*"]), json!({"nonResourceURLs": ["*"], "verbs": ["*"]})],
        ),
        ("admin", admin),
        ("edit", edit),
        ("view", view),
        ("system:discovery", vec![json!({"nonResourceURLs": paths, "verbs": ["get"]})]),
        (
            "system:basic-user",
            vec![
                rule(
                    &["authorization.k8s.io"],
                    &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
                    &["create"],
                ),
                rule(&["authentication.k8s.io"], &["selfsubjectreviews"], &["create"]),
            ],
        ),
    ]
}

async fn make(
    app: &AppState,
    actor: &Actor,
    resource: &str,
    namespace: &str,
    mut object: Value,
) -> Result<()> {
    let Some(entry) = app.registry.by_resource(resource) else { return Ok(()) };
    if app.store.get(&Key::new(resource, namespace, meta::name(&object))).is_some() {
        return Ok(());
    }
    object["apiVersion"] = entry.api_version().into();
    object["kind"] = entry.kind.as_str().into();
    match app.objects.create(actor, &entry, namespace, object, &WriteOptions::default()).await {
        Ok(_) => Ok(()),
        Err(status) if status.reason == Reason::AlreadyExists => Ok(()),
        Err(status) => Err(status.into()),
    }
}
