//! The roles and bindings that Kubernetes brings along: <https://kubernetes.io/docs/reference/access-authn-authz/rbac/>.
use serde_json::{Value, json};

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const GROUP: &str = "rbac.authorization.k8s.io";
const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";

/// A ClusterRole.
pub struct Role {
    pub name: &'static str,
    pub rules: Vec<Value>,
    /// The user-facing role it adds to.
    part_of: &'static str,
    /// The user-facing role it is made of others for.
    gathers: &'static str,
}

impl Role {
    pub fn object(&self) -> Value {
        let mut labels = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
        if !self.part_of.is_empty() {
            labels[format!("{AGGREGATE}{}", self.part_of)] = "true".into();
        }
        let annotations = json!({"rbac.authorization.kubernetes.io/autoupdate": "true"});
        let metadata = json!({"name": self.name, "labels": labels, "annotations": annotations});
        let mut role = json!({"metadata": metadata, "rules": self.rules});
        if !self.gathers.is_empty() {
            let label = format!("{AGGREGATE}{}", self.gathers);
            role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
        }
        role
    }
}

/// A ClusterRoleBinding: kind and name of its subjects, service accounts as `namespace/name`.
pub struct Binding {
    pub name: &'static str,
    subjects: &'static [(&'static str, &'static str)],
}

impl Binding {
    pub fn object(&self) -> Value {
        let subject = |(kind, name): &(&str, &str)| match name.split_once('/') {
            Some((namespace, name)) => json!({"kind": kind, "namespace": namespace, "name": name}),
            None => json!({"kind": kind, "apiGroup": GROUP, "name": name}),
        };
        json!({
            "metadata": {
                "name": self.name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
                "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
            },
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": self.name},
            "subjects": self.subjects.iter().map(subject).collect::<Vec<_>>(),
        })
    }
}

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

fn named(groups: &[&str], resources: &[&str], names: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "resourceNames": names, "verbs": verbs})
}

fn paths(paths: &[&str]) -> Value {
    json!({"nonResourceURLs": paths, "verbs": ["get"]})
}

fn role(name: &'static str, rules: Vec<Value>) -> Role {
    Role { name, rules, part_of: "", gathers: "" }
}

/// Part of a user-facing role.
fn part(of: &'static str, name: &'static str, rules: Vec<Value>) -> Role {
    Role { name, rules, part_of: of, gathers: "" }
}

/// A user-facing role; its rules are those of its parts.
fn gathering(name: &'static str, part_of: &'static str) -> Role {
    Role { name, rules: Vec::new(), part_of, gathers: name }
}

fn events() -> Value {
    rule(&["", "events.k8s.io"], &["events"], &["create", "patch", "update"])
}

const APPS: &[&str] = &[
    "daemonsets",
    "deployments",
    "deployments/scale",
    "replicasets",
    "replicasets/scale",
    "statefulsets",
    "statefulsets/scale",
];
const CORE: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "replicationcontrollers",
    "replicationcontrollers/scale",
    "serviceaccounts",
    "services",
];

fn edit_rules() -> Vec<Value> {
    vec![
        rule(
            &[""],
            &["pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"],
            READ,
        ),
        rule(&[""], &["serviceaccounts"], &["impersonate"]),
        rule(
            &[""],
            &["pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "pods/resize"],
            WRITE,
        ),
        rule(&[""], &["pods/eviction", "serviceaccounts/token"], &["create"]),
        rule(&[""], CORE, WRITE),
        rule(&[""], &["endpoints", "events", "secrets", "services/proxy"], WRITE),
        rule(&["apps"], APPS, WRITE),
        rule(&["apps"], &["deployments/rollback"], WRITE),
        rule(&["autoscaling"], &["horizontalpodautoscalers"], WRITE),
        rule(&["batch"], &["cronjobs", "jobs"], WRITE),
        rule(&["policy"], &["poddisruptionbudgets"], WRITE),
        rule(&["networking.k8s.io"], &["ingresses", "networkpolicies"], WRITE),
        rule(&["coordination.k8s.io"], &["leases"], ALL),
        rule(&["resource.k8s.io"], &["resourceclaims", "resourceclaimtemplates"], WRITE),
    ]
}

fn view_rules() -> Vec<Value> {
    let status = |resources: &[&str]| {
        resources.iter().map(|resource| format!("{resource}/status")).collect::<Vec<_>>()
    };
    let with_status = |resources: &[&'static str], of: &[&str]| {
        let mut all: Vec<String> = resources.iter().map(|resource| (*resource).to_owned()).collect();
        all.extend(status(of));
        all
    };
    let read = |group: &str, resources: Vec<String>| json!({"apiGroups": [group], "resources": resources, "verbs": READ});
    vec![
        read("", with_status(CORE, &["persistentvolumeclaims", "replicationcontrollers", "services"])),
        read(
            "",
            with_status(
                &[
                    "bindings",
                    "endpoints",
                    "events",
                    "limitranges",
                    "namespaces",
                    "pods",
                    "pods/log",
                    "resourcequotas",
                ],
                &["namespaces", "pods", "resourcequotas"],
            ),
        ),
        read("discovery.k8s.io", vec!["endpointslices".into()]),
        read(
            "apps",
            with_status(
                &[APPS, &["controllerrevisions"]].concat(),
                &["daemonsets", "deployments", "replicasets", "statefulsets"],
            ),
        ),
        read("autoscaling", with_status(&["horizontalpodautoscalers"], &["horizontalpodautoscalers"])),
        read("batch", with_status(&["cronjobs", "jobs"], &["cronjobs", "jobs"])),
        read("policy", with_status(&["poddisruptionbudgets"], &["poddisruptionbudgets"])),
        read("networking.k8s.io", with_status(&["ingresses", "networkpolicies"], &["ingresses"])),
        read(
            "resource.k8s.io",
            with_status(&["resourceclaims", "resourceclaimtemplates"], &["resourceclaims"]),
        ),
    ]
}

/// What a node may do by its role; which objects of it is the node authorizer's to say.
fn node_rules() -> Vec<Value> {
    vec![
        rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
        rule(&["authorization.k8s.io"], &["localsubjectaccessreviews", "subjectaccessreviews"], &["create"]),
        rule(&[""], &["services"], READ),
        rule(&[""], &["nodes"], &["create", "get", "list", "watch", "patch", "update"]),
        rule(&[""], &["nodes/status"], &["patch", "update"]),
        events(),
        rule(&[""], &["pods"], &["create", "delete", "get", "list", "watch"]),
        rule(&[""], &["pods/status"], &["patch", "update"]),
        rule(&[""], &["pods/eviction"], &["create"]),
        rule(&[""], &["configmaps", "secrets"], READ),
        rule(&[""], &["persistentvolumeclaims", "persistentvolumes"], &["get"]),
        rule(&[""], &["persistentvolumeclaims/status"], &["get", "patch", "update"]),
        rule(&[""], &["endpoints"], &["get"]),
        rule(&["certificates.k8s.io"], &["certificatesigningrequests"], &["create", "get", "list", "watch"]),
        rule(&["coordination.k8s.io"], &["leases"], &["create", "delete", "get", "patch", "update"]),
        rule(&["storage.k8s.io"], &["volumeattachments"], &["get"]),
        rule(&[""], &["serviceaccounts/token"], &["create"]),
        rule(&["storage.k8s.io"], &["csidrivers"], READ),
        rule(&["storage.k8s.io"], &["csinodes"], &["create", "delete", "get", "patch", "update"]),
        rule(&["node.k8s.io"], &["runtimeclasses"], READ),
        rule(&["resource.k8s.io"], &["resourceclaims"], &["get"]),
        rule(&["resource.k8s.io"], &["resourceslices"], &["deletecollection"]),
    ]
}

pub fn roles() -> Vec<Role> {
    let mut roles = user_facing();
    roles.extend(discovery());
    roles.extend(components());
    roles.extend(certificates());
    roles
}

fn user_facing() -> Vec<Role> {
    vec![
        role(
            "cluster-admin",
            vec![rule(&["*"], &["*"], &["*"]), json!({"nonResourceURLs": ["*"], "verbs": ["*"]})],
        ),
        gathering("admin", ""),
        gathering("edit", "admin"),
        gathering("view", "edit"),
        part(
            "admin",
            "system:aggregate-to-admin",
            vec![
                rule(&["authorization.k8s.io"], &["localsubjectaccessreviews"], &["create"]),
                rule(&[GROUP], &["rolebindings", "roles"], ALL),
            ],
        ),
        part("edit", "system:aggregate-to-edit", edit_rules()),
        part("view", "system:aggregate-to-view", view_rules()),
        // As metrics-server brings it along.
        part(
            "view",
            "system:aggregated-metrics-reader",
            vec![rule(&["metrics.k8s.io"], &["nodes", "pods"], READ)],
        ),
    ]
}

fn discovery() -> Vec<Role> {
    let seen =
        ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz"];
    let discovery = [&seen[..], &["/version", "/version/"]].concat();
    let health =
        ["/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis", "/readyz", "/readyz/*"];
    let reviews = ["selfsubjectaccessreviews", "selfsubjectrulesreviews"];
    vec![
        role("system:discovery", vec![paths(&discovery)]),
        role("system:monitoring", vec![paths(&health)]),
        role(
            "system:public-info-viewer",
            vec![paths(&["/healthz", "/livez", "/readyz", "/version", "/version/"])],
        ),
        role(
            "system:service-account-issuer-discovery",
            vec![paths(&[
                "/.well-known/openid-configuration",
                "/.well-known/openid-configuration/",
                "/openid/v1/jwks",
                "/openid/v1/jwks/",
            ])],
        ),
        role(
            "system:basic-user",
            vec![
                rule(&["authorization.k8s.io"], &reviews, &["create"]),
                rule(&["authentication.k8s.io"], &["selfsubjectreviews"], &["create"]),
            ],
        ),
    ]
}

fn components() -> Vec<Role> {
    let tokens = rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]);
    let access = rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]);
    let lead = |name: &str| {
        [
            rule(&["coordination.k8s.io"], &["leases"], &["create"]),
            named(&["coordination.k8s.io"], &["leases"], &[name], &["get", "update"]),
        ]
    };
    let mut manager = vec![
        events(),
        rule(&[""], &["secrets", "serviceaccounts"], &["create"]),
        rule(&[""], &["secrets"], &["delete"]),
        rule(&[""], &["configmaps", "namespaces", "secrets", "serviceaccounts"], &["get"]),
        rule(&[""], &["secrets", "serviceaccounts"], &["update"]),
        tokens.clone(),
        access.clone(),
        rule(&["*"], &["*"], &["list", "watch"]),
        rule(&[""], &["serviceaccounts/token"], &["create"]),
    ];
    manager.extend(lead("kube-controller-manager"));
    let mut scheduler = vec![
        events(),
        rule(&[""], &["nodes"], READ),
        rule(&[""], &["pods"], &["delete", "get", "list", "watch"]),
        rule(&[""], &["bindings", "pods/binding"], &["create"]),
        rule(&[""], &["pods/status"], &["patch", "update"]),
        rule(&[""], &["replicationcontrollers", "services", "namespaces"], READ),
        rule(&["apps"], &["replicasets", "statefulsets"], READ),
        rule(&["policy"], &["poddisruptionbudgets"], READ),
        rule(&[""], &["persistentvolumeclaims", "persistentvolumes"], READ),
        rule(
            &["storage.k8s.io"],
            &["csidrivers", "csinodes", "csistoragecapacities", "storageclasses"],
            READ,
        ),
        tokens.clone(),
        access.clone(),
    ];
    scheduler.extend(lead("kube-scheduler"));
    vec![
        role("system:node", node_rules()),
        role(
            "system:node-problem-detector",
            vec![rule(&[""], &["nodes"], &["get"]), rule(&[""], &["nodes/status"], &["patch"]), events()],
        ),
        role(
            "system:node-proxier",
            vec![
                rule(&[""], &["endpoints", "services"], &["list", "watch"]),
                rule(&[""], &["nodes"], READ),
                events(),
                rule(&["discovery.k8s.io"], &["endpointslices"], &["list", "watch"]),
                rule(&["networking.k8s.io"], &["servicecidrs"], &["list", "watch"]),
            ],
        ),
        role(
            "system:node-bootstrapper",
            vec![rule(
                &["certificates.k8s.io"],
                &["certificatesigningrequests"],
                &["create", "get", "list", "watch"],
            )],
        ),
        role(
            "system:kubelet-api-admin",
            vec![
                rule(&[""], &["nodes"], READ),
                rule(&[""], &["nodes"], &["proxy"]),
                rule(&[""], &["nodes/log", "nodes/metrics", "nodes/proxy", "nodes/stats"], &["*"]),
            ],
        ),
        role("system:auth-delegator", vec![tokens, access]),
        role("system:kube-aggregator", vec![rule(&[""], &["endpoints", "services"], READ)]),
        role("system:kube-controller-manager", manager),
        role("system:kube-scheduler", scheduler),
        role(
            "system:kube-dns",
            vec![
                rule(&[""], &["endpoints", "services"], &["list", "watch"]),
                rule(&["discovery.k8s.io"], &["endpointslices"], &["list", "watch"]),
            ],
        ),
        role(
            "system:persistent-volume-provisioner",
            vec![
                rule(&[""], &["persistentvolumes"], &["create", "delete", "get", "list", "watch"]),
                rule(&[""], &["persistentvolumeclaims"], &["get", "list", "update", "watch"]),
                rule(&["storage.k8s.io"], &["storageclasses"], READ),
                rule(&[""], &["events"], &["watch"]),
                events(),
            ],
        ),
        role(
            "system:volume-scheduler",
            vec![
                rule(&[""], &["persistentvolumes"], &["get", "list", "patch", "update", "watch"]),
                rule(&["storage.k8s.io"], &["storageclasses"], READ),
                rule(&[""], &["persistentvolumeclaims"], &["get", "list", "patch", "update", "watch"]),
            ],
        ),
    ]
}

fn certificates() -> Vec<Role> {
    const GROUP: &[&str] = &["certificates.k8s.io"];
    let create = |resource: &str| vec![rule(GROUP, &[resource], &["create"])];
    let approver = |signer: &str| vec![named(GROUP, &["signers"], &[signer], &["approve"])];
    vec![
        role(
            "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
            create("certificatesigningrequests/nodeclient"),
        ),
        role(
            "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
            create("certificatesigningrequests/selfnodeclient"),
        ),
        role(
            "system:certificates.k8s.io:kube-apiserver-client-approver",
            approver("kubernetes.io/kube-apiserver-client"),
        ),
        role(
            "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
            approver("kubernetes.io/kube-apiserver-client-kubelet"),
        ),
        role(
            "system:certificates.k8s.io:kubelet-serving-approver",
            approver("kubernetes.io/kubelet-serving"),
        ),
        role("system:certificates.k8s.io:legacy-unknown-approver", approver("kubernetes.io/legacy-unknown")),
    ]
}

pub const BINDINGS: &[Binding] = &[
    Binding { name: "cluster-admin", subjects: &[("Group", "system:masters")] },
    Binding { name: "system:monitoring", subjects: &[("Group", "system:monitoring")] },
    Binding { name: "system:discovery", subjects: &[("Group", "system:authenticated")] },
    Binding { name: "system:basic-user", subjects: &[("Group", "system:authenticated")] },
    Binding {
        name: "system:public-info-viewer",
        subjects: &[("Group", "system:authenticated"), ("Group", "system:unauthenticated")],
    },
    Binding { name: "system:node", subjects: &[] },
    Binding { name: "system:node-proxier", subjects: &[("User", "system:kube-proxy")] },
    Binding {
        name: "system:kube-controller-manager",
        subjects: &[("User", "system:kube-controller-manager")],
    },
    Binding { name: "system:kube-scheduler", subjects: &[("User", "system:kube-scheduler")] },
    Binding { name: "system:volume-scheduler", subjects: &[("User", "system:kube-scheduler")] },
    Binding { name: "system:kube-dns", subjects: &[("ServiceAccount", "kube-system/kube-dns")] },
    Binding {
        name: "system:service-account-issuer-discovery",
        subjects: &[("Group", "system:serviceaccounts")],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_role_has_one_name_and_every_binding_a_role() {
        let roles = roles();
        let names: BTreeSet<&str> = roles.iter().map(|role| role.name).collect();
        assert_eq!(names.len(), roles.len());
        for binding in BINDINGS {
            assert!(names.contains(binding.name), "{}", binding.name);
        }
    }
}
