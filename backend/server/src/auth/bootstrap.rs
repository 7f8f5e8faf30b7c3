//! What every cluster has from its first moment: namespaces, the service of the API itself, the usual roles.
use super::default_roles;
use crate::admission::SYSTEM_CLASSES;
use crate::objects::{Actor, Part, WriteOptions};
use crate::state::AppState;
use anyhow::Result;
use pilothouse_api::storage::{CLASSES, DEFAULT_CLASS, LOCAL_PATH};
use pilothouse_api::{Key, Reason, meta};
use serde_json::{Value, json};
use std::net::SocketAddrV4;

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
const CLUSTER_ROLES: &str = "clusterroles.rbac.authorization.k8s.io";

/// Makes what is missing; what an administrator changed stays.
pub async fn run(app: &AppState, advertise: Option<SocketAddrV4>) -> Result<()> {
    let actor = Actor::system("bootstrap");
    let is_first_start = app.store.get(&Key::new("namespaces", "", "default")).is_none();
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
    for (resource, object) in pilothouse_controllers::flow_control::defaults() {
        make(app, &actor, resource, "", object).await?;
    }
    if is_first_start {
        make(app, &actor, CLASSES, "", local_path_class()).await?;
    }
    let (address, prefix) = app.network.service_cidr;
    let services =
        json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": [format!("{address}/{prefix}")]}});
    make(app, &actor, "servicecidrs.networking.k8s.io", "", services).await?;
    let (a, b) = (address.octets()[0], address.octets()[1]);
    let service = json!({
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"clusterIP": format!("{a}.{b}.0.1"), "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}]},
    });
    make(app, &actor, "services", "default", service).await?;
    if let Some(address) = advertise {
        advertise_api(app, &actor, address).await?;
    }
    for role in default_roles::roles() {
        make(app, &actor, CLUSTER_ROLES, "", role.object()).await?;
        complete(app, &actor, CLUSTER_ROLES, &role.object()).await?;
    }
    for binding in default_roles::BINDINGS {
        let resource = "clusterrolebindings.rbac.authorization.k8s.io";
        make(app, &actor, resource, "", binding.object()).await?;
        complete(app, &actor, resource, &binding.object()).await?;
    }
    extension_servers(app, &actor).await
}

/// Aggregated servers read whom to believe.
async fn extension_servers(app: &AppState, actor: &Actor) -> Result<()> {
    const NAME: &str = "extension-apiserver-authentication-reader";
    const NAMESPACE: &str = "kube-system";
    let rule = json!({"apiGroups": [""], "resources": ["configmaps"],
        "resourceNames": ["extension-apiserver-authentication"], "verbs": ["get", "list", "watch"]});
    let role = json!({"metadata": {"name": NAME}, "rules": [rule]});
    make(app, actor, "roles.rbac.authorization.k8s.io", NAMESPACE, role).await?;
    let group = "rbac.authorization.k8s.io";
    let user = |name: &str| json!({"kind": "User", "name": name, "apiGroup": group});
    let binding = json!({
        "metadata": {"name": format!("system::{NAME}")},
        "subjects": [user("system:kube-controller-manager"), user("system:kube-scheduler")],
        "roleRef": {"apiGroup": group, "kind": "Role", "name": NAME},
    });
    make(app, actor, "rolebindings.rbac.authorization.k8s.io", NAMESPACE, binding).await
}

/// Storage that needs nothing but the nodes' disks. Whoever removes it has their reasons: it is made once.
fn local_path_class() -> Value {
    json!({
        "metadata": {"name": "local-path", "annotations": {DEFAULT_CLASS[0]: "true"}}, "provisioner": LOCAL_PATH,
        "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true,
    })
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

/// Gives a default role or binding what it lacks, after an upgrade or a slip. Opted out of by the annotation
/// `rbac.authorization.kubernetes.io/autoupdate: "false"`.
async fn complete(app: &AppState, actor: &Actor, resource: &str, wanted: &Value) -> Result<()> {
    let Some(entry) = app.registry.by_resource(resource) else { return Ok(()) };
    let change = |old: &Value| {
        let mut new = old.clone();
        if old["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] == "false" {
            return Ok(new);
        }
        for list in ["rules", "subjects"] {
            for item in wanted[list].as_array().into_iter().flatten() {
                match new[list].as_array_mut() {
                    Some(items) if items.contains(item) => {}
                    Some(items) => items.push(item.clone()),
                    None => new[list] = json!([item]),
                }
            }
        }
        if !wanted["aggregationRule"].is_null() && new["aggregationRule"].is_null() {
            new["aggregationRule"] = wanted["aggregationRule"].clone();
        }
        for map in ["labels", "annotations"] {
            for (key, value) in wanted["metadata"][map].as_object().into_iter().flatten() {
                new["metadata"][map][key] = value.clone();
            }
        }
        Ok(new)
    };
    let options = WriteOptions::default();
    app.objects.update(actor, &entry, "", meta::name(wanted), Part::Spec, &options, change).await?;
    Ok(())
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
