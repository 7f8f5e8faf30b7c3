//! Admission rules as clients meet them.
use crate::testing::{Api, eventually};
use axum::http::StatusCode;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "a", "image": "b"}]}})
}

fn quota(name: &str, hard: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"hard": hard}})
}

#[tokio::test]
async fn a_quota_is_charged_with_the_pod_and_refuses_the_one_too_many() {
    let api = Api::start().await;
    api.make(QUOTAS, quota("q", json!({"pods": "2", "requests.cpu": "1"}))).await;
    let mut busy = pod("a");
    let missing = api.call("POST", PODS, busy.clone()).await;
    assert_eq!(
        missing.message(),
        r#"pods "a" is forbidden: failed quota: q: must specify requests.cpu for: a"#
    );
    api.make(QUOTAS, quota("limits", json!({"limits.memory": "1Gi"}))).await;
    busy["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "600m"}});
    let missing = api.call("POST", PODS, busy.clone()).await;
    assert_eq!(
        missing.message(),
        r#"pods "a" is forbidden: failed quota: limits: must specify limits.memory for: a"#
    );
    api.call("DELETE", &format!("{QUOTAS}/limits"), Value::Null).await;
    api.make(PODS, busy.clone()).await;
    busy["metadata"]["name"] = "b".into();
    let refused = api.call("POST", PODS, busy.clone()).await;
    assert_eq!(refused.code, StatusCode::FORBIDDEN);
    assert_eq!(
        refused.message(),
        r#"pods "b" is forbidden: exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1"#
    );
    busy["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "400m"}});
    let tried = api.call("POST", &format!("{PODS}?dryRun=All"), busy.clone()).await;
    assert_eq!(tried.code, StatusCode::CREATED);
    api.make(PODS, busy).await;
    let status = api.call("GET", &format!("{QUOTAS}/q"), Value::Null).await.body["status"].clone();
    assert_eq!(
        status,
        json!({"hard": {"pods": "2", "requests.cpu": "1"}, "used": {"pods": "2", "requests.cpu": "1"}})
    );
}

#[tokio::test]
async fn many_writers_at_once_never_overrun_a_quota() {
    let api = Api::start().await;
    api.make(QUOTAS, quota("q", json!({"pods": "7"}))).await;
    let path = "/api/v1/namespaces/default/configmaps";
    api.make(QUOTAS, quota("maps", json!({"count/configmaps": "3"}))).await;
    let pods =
        futures::future::join_all((0..30).map(|i| api.call("POST", PODS, pod(&format!("p{i}"))))).await;
    assert_eq!(pods.iter().filter(|answer| answer.code == StatusCode::CREATED).count(), 7);
    let refused = pods.iter().find(|answer| answer.code != StatusCode::CREATED).unwrap();
    assert!(
        refused.message().ends_with("exceeded quota: q, requested: pods=1, used: pods=7, limited: pods=7"),
        "{}",
        refused.message()
    );
    let map = |i: usize| json!({"metadata": {"name": format!("m{i}")}});
    let maps = futures::future::join_all((0..9).map(|i| api.call("POST", path, map(i)))).await;
    assert_eq!(maps.iter().filter(|answer| answer.code == StatusCode::CREATED).count(), 3);
}

#[tokio::test]
async fn two_servers_on_one_store_share_a_quota() {
    let api = Api::start().await;
    api.make(QUOTAS, quota("q", json!({"pods": "5"}))).await;
    let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let store = crate::ClusterStore { store: api.state.store.clone(), registry: api.state.registry.clone() };
    let (other, _followers) =
        crate::build(store, pem.as_bytes(), crate::ClusterNetwork::default(), "").unwrap();
    let entry = api.state.registry.by_resource("pods").unwrap();
    let actor = crate::objects::Actor::system("test");
    let options = crate::objects::WriteOptions::default();
    let writes = (0..20).map(|i| {
        let objects = if i % 2 == 0 { &api.state.objects } else { &other.objects };
        objects.create(&actor, &entry, "default", pod(&format!("p{i}")), &options)
    });
    let outcomes = futures::future::join_all(writes).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 5);
}

#[tokio::test]
async fn services_and_claims_count_by_what_they_take() {
    let api = Api::start().await;
    let hard = json!({"services.nodeports": "1", "requests.storage": "3Gi", "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1"});
    api.make(QUOTAS, quota("q", hard)).await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    api.make(services, service("a")).await;
    let refused = api.call("POST", services, service("b")).await;
    assert!(
        refused.message().contains("exceeded quota: q, requested: services.nodeports=1"),
        "{}",
        refused.message()
    );
    let plain = json!({"metadata": {"name": "c"}, "spec": {"ports": [{"port": 80}]}});
    api.make(services, plain).await;
    let changed = api.call("PATCH", &format!("{services}/c"), json!({"spec": {"type": "NodePort"}})).await;
    assert!(changed.message().contains("exceeded quota"), "{}", changed.message());
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = |name: &str, class: &str| {
        let resources = json!({"requests": {"storage": "2Gi"}});
        json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": resources}})
    };
    api.make(claims, claim("a", "gold")).await;
    let refused = api.call("POST", claims, claim("b", "gold")).await;
    assert_eq!(
        refused.message(),
        "persistentvolumeclaims \"b\" is forbidden: exceeded quota: q, requested: \
         gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,requests.storage=2Gi, used: \
         gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,requests.storage=2Gi, limited: \
         gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,requests.storage=3Gi"
    );
}

#[tokio::test]
async fn a_limit_range_fills_in_and_holds_its_bounds() {
    let api = Api::start().await;
    let limit = json!({"type": "Container", "default": {"memory": "512Mi"}, "defaultRequest": {"cpu": "100m"}, "max": {"memory": "1Gi"}});
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [limit]}});
    api.make("/api/v1/namespaces/default/limitranges", range).await;
    let made = api.make(PODS, pod("a")).await;
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "512Mi"}})
    );
    let mut greedy = pod("b");
    greedy["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "2Gi"}});
    let refused = api.call("POST", PODS, greedy).await;
    assert_eq!(
        refused.message(),
        r#"pods "b" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi"#
    );
}

#[tokio::test]
async fn a_namespaces_labels_say_what_its_pods_may_do() {
    let api = Api::start().await;
    let labels = |enforce: &str, warn: &str| json!({"pod-security.kubernetes.io/enforce": enforce, "pod-security.kubernetes.io/warn": warn});
    let namespace = json!({"metadata": {"name": "safe", "labels": labels("baseline", "restricted")}});
    api.make("/api/v1/namespaces", namespace).await;
    let pods = "/api/v1/namespaces/safe/pods";
    let mut open = pod("open");
    open["spec"]["hostNetwork"] = true.into();
    let refused = api.call("POST", pods, open).await;
    assert_eq!(
        refused.message(),
        r#"pods "open" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)"#
    );
    let made = api.call("POST", pods, pod("plain")).await;
    assert_eq!(made.code, StatusCode::CREATED);
    assert_eq!(made.warnings().len(), 1);
    assert!(
        made.warnings()[0].starts_with(r#""would violate PodSecurity \"restricted:latest\": allowPriv"#),
        "{:?}",
        made.warnings()
    );
    let template = json!({"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "a", "image": "b"}], "hostPID": true}});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": template}});
    let made = api.call("POST", "/apis/apps/v1/namespaces/safe/deployments", deployment).await;
    assert_eq!((made.code, made.warnings().len()), (StatusCode::CREATED, 1), "templates are only warned of");
    let stricter = json!({"metadata": {"labels": labels("restricted", "restricted")}});
    let told = api.call("PATCH", "/api/v1/namespaces/safe", stricter).await;
    assert_eq!(
        told.warnings(),
        [
            r#""existing pods in namespace \"safe\" violate the new PodSecurity enforce level \"restricted:latest\"""#,
            r#""plain: allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile""#,
        ]
    );
    let wrong = json!({"metadata": {"labels": labels("strict", "restricted")}});
    assert_eq!(
        api.call("PATCH", "/api/v1/namespaces/safe", wrong).await.code,
        StatusCode::UNPROCESSABLE_ENTITY
    );
}

#[tokio::test]
async fn there_is_one_default_priority_and_the_systems_classes_stay() {
    let api = Api::start().await;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let class = |name: &str| json!({"metadata": {"name": name}, "value": 7, "globalDefault": true});
    api.make(classes, class("a")).await;
    let refused = api.call("POST", classes, class("b")).await;
    assert_eq!(
        refused.message(),
        "priorityclasses.scheduling.k8s.io \"b\" is forbidden: PriorityClass a is already marked as default. Only one \
         default can exist"
    );
    assert_eq!(api.make(PODS, pod("p")).await["spec"]["priority"], 7);
    let system = format!("{classes}/system-node-critical");
    assert_eq!(api.call("GET", &system, Value::Null).await.body["value"], 2_000_001_000);
    assert_eq!(api.call("DELETE", &system, Value::Null).await.code, StatusCode::FORBIDDEN);
}

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

#[tokio::test]
async fn nobody_grants_what_they_do_not_have() {
    let api = Api::start().await;
    let jane = ("jane", &[][..]);
    let manage = json!({"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["create", "update", "patch", "get"]});
    let pods = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
    api.make(
        &format!("{RBAC}/namespaces/default/roles"),
        json!({"metadata": {"name": "lead"}, "rules": [manage, pods]}),
    )
    .await;
    let binding = |name: &str, role: &str, subject: &str| {
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role});
        json!({"metadata": {"name": name}, "roleRef": role, "subjects": [{"kind": "User", "name": subject}]})
    };
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    api.make(&bindings, binding("lead", "lead", "jane")).await;
    let roles = format!("{RBAC}/namespaces/default/roles");
    let role = |name: &str, resources: Value| json!({"metadata": {"name": name}, "rules": [{"apiGroups": [""], "resources": resources, "verbs": ["get"]}]});
    crate::testing::eventually("jane's rights", async || {
        api.call_as(jane, "GET", &format!("{roles}/lead"), Value::Null).await.code == StatusCode::OK
    })
    .await;
    let made = api.call_as(jane, "POST", &roles, role("mine", json!(["pods"]))).await;
    assert_eq!(made.code, StatusCode::CREATED, "{}", made.body);
    let refused = api.call_as(jane, "POST", &roles, role("more", json!(["pods", "secrets"]))).await;
    assert_eq!(
        refused.message(),
        "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) is \
         attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], \
         Verbs:[\"get\"]}"
    );
    api.make(&roles, role("secrets", json!(["secrets"]))).await;
    let refused = api.call_as(jane, "POST", &bindings, binding("self", "secrets", "jane")).await;
    assert_eq!(refused.code, StatusCode::FORBIDDEN, "{}", refused.body);
    let bind = json!({"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "resourceNames": ["secrets"], "verbs": ["bind"]});
    api.make(&roles, json!({"metadata": {"name": "binder"}, "rules": [bind]})).await;
    api.make(&bindings, binding("binder", "binder", "jane")).await;
    crate::testing::eventually("the right to bind", async || {
        api.call_as(jane, "POST", &bindings, binding("joe", "secrets", "joe")).await.code
            != StatusCode::FORBIDDEN
    })
    .await;
    let aggregate =
        json!({"metadata": {"name": "a"}, "aggregationRule": {"clusterRoleSelectors": []}, "rules": []});
    let refused = api.call_as(jane, "POST", &format!("{RBAC}/clusterroles"), aggregate).await;
    assert_eq!(refused.code, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn default_roles_are_there_and_come_back_whole() {
    let api = Api::start().await;
    let path = format!("{RBAC}/clusterroles/system:aggregate-to-view");
    let whole = api.call("GET", &path, Value::Null).await.body["rules"].clone();
    api.call("PATCH", &path, json!({"rules": []})).await;
    crate::auth::bootstrap::run(&api.state, None).await.unwrap();
    assert_eq!(api.call("GET", &path, Value::Null).await.body["rules"], whole);
    let own = json!({"metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}, "rules": []});
    api.call("PATCH", &path, own).await;
    crate::auth::bootstrap::run(&api.state, None).await.unwrap();
    assert_eq!(api.call("GET", &path, Value::Null).await.body["rules"], json!([]));
}

#[tokio::test]
async fn the_issuer_of_tokens_tells_its_keys_to_whom_rbac_lets() {
    let api = Api::start().await;
    let keys = api.call("GET", "/openid/v1/jwks", Value::Null).await;
    assert_eq!(keys.headers["content-type"], "application/jwk-set+json");
    assert_eq!(keys.body["keys"][0]["use"], "sig");
    let discovery = "/.well-known/openid-configuration";
    let account = ("system:serviceaccount:a:b", &["system:serviceaccounts"][..]);
    crate::testing::eventually("the default binding", async || {
        let known = api.call_as(account, "GET", discovery, Value::Null).await;
        known.body["issuer"] == "https://kubernetes.default.svc.cluster.local"
    })
    .await;
    let anonymous = api.send(None, "GET", discovery, Value::Null).await;
    assert_eq!(anonymous.code, StatusCode::FORBIDDEN);
    assert_eq!(
        anonymous.message(),
        r#"forbidden: User "system:anonymous" cannot get path "/.well-known/openid-configuration""#
    );
    let open = json!({"metadata": {"name": "open"}, "subjects": [{"kind": "Group", "name": "system:unauthenticated", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:service-account-issuer-discovery"}});
    api.make(&format!("{RBAC}/clusterrolebindings"), open).await;
    crate::testing::eventually("the binding", async || {
        api.send(None, "GET", discovery, Value::Null).await.code == StatusCode::OK
    })
    .await;
    assert_eq!(api.send(None, "GET", "/api/v1/pods", Value::Null).await.code, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_pod_takes_over_what_its_runtime_class_costs_and_where_it_runs() {
    let api = Api::start().await;
    let classes = "/apis/node.k8s.io/v1/runtimeclasses";
    let scheduling = json!({"nodeSelector": {"sandbox": "yes"}, "tolerations": [{"key": "sandbox", "operator": "Exists"}]});
    let overhead = json!({"podFixed": {"cpu": "10m", "memory": "1Mi"}});
    api.make(classes, json!({"metadata": {"name": "boxed"}, "handler": "kata", "overhead": overhead, "scheduling": scheduling}))
        .await;
    let mut boxed = pod("a");
    boxed["spec"]["runtimeClassName"] = "boxed".into();
    let spec = api.make(PODS, boxed.clone()).await["spec"].clone();
    assert_eq!(spec["overhead"], json!({"cpu": "10m", "memory": "1Mi"}));
    assert_eq!(spec["nodeSelector"], json!({"sandbox": "yes"}));
    assert!(spec["tolerations"].as_array().unwrap().iter().any(|t| t["key"] == "sandbox"));
    let refused = async |change: &dyn Fn(&mut Value)| {
        let mut pod = boxed.clone();
        pod["metadata"]["name"] = "b".into();
        change(&mut pod["spec"]);
        let answer = api.call("POST", PODS, pod).await;
        assert_eq!(answer.code, StatusCode::FORBIDDEN, "{}", answer.body);
        answer.message().to_owned()
    };
    let gone = refused(&|spec| spec["runtimeClassName"] = "gone".into()).await;
    assert_eq!(gone, r#"pods "b" is forbidden: pod rejected: RuntimeClass "gone" not found"#);
    let conflict = refused(&|spec| spec["nodeSelector"] = json!({"sandbox": "no"})).await;
    assert!(
        conflict.contains(r#"conflict: runtimeClass.scheduling.nodeSelector[sandbox] = "yes""#),
        "{conflict}"
    );
    let cheaper = refused(&|spec| spec["overhead"] = json!({"cpu": "1m"})).await;
    assert!(cheaper.contains("doesn't match RuntimeClass's defined Overhead"), "{cheaper}");
    let alone = |spec: &mut Value| {
        spec["runtimeClassName"] = Value::Null;
        spec["overhead"] = json!({"cpu": "1m"});
    };
    assert!(refused(&alone).await.contains("without corresponding RuntimeClass"));
}

#[tokio::test]
async fn a_claim_takes_the_default_class_is_held_by_its_finalizer_and_grows_where_its_class_lets_it() {
    const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
    let api = Api::start().await;
    let claim = |name: &str| json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let classes = "/apis/storage.k8s.io/v1/storageclasses";
    let marked = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    api.call("DELETE", &format!("{classes}/local-path"), Value::Null).await;
    api.make(CLAIMS, claim("early")).await;
    api.make(classes, json!({"metadata": {"name": "std", "annotations": marked}, "provisioner": "x"})).await;
    api.make(CLAIMS, claim("late")).await;
    let get = async |name: &str| api.call("GET", &format!("{CLAIMS}/{name}"), Value::Null).await.body;
    assert!(get("early").await["spec"]["storageClassName"].is_null());
    let late = get("late").await;
    assert_eq!(late["spec"]["storageClassName"], "std");
    assert_eq!(late["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let mut bound = late.clone();
    bound["status"]["phase"] = "Bound".into();
    let bound = api.call("PUT", &format!("{CLAIMS}/late/status"), bound).await.body;
    let mut larger = bound.clone();
    larger["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
    let refused = api.call("PUT", &format!("{CLAIMS}/late"), larger.clone()).await;
    assert_eq!(
        refused.message(),
        "persistentvolumeclaims \"late\" is forbidden: only dynamically provisioned pvc can be resized and the storageclass \
         that provisions the pvc must support resize"
    );
    let mut class = api.call("GET", &format!("{classes}/std"), Value::Null).await.body;
    class["allowVolumeExpansion"] = true.into();
    api.call("PUT", &format!("{classes}/std"), class).await;
    assert_eq!(api.call("PUT", &format!("{CLAIMS}/late"), larger).await.code, StatusCode::OK);
}

#[tokio::test]
async fn an_ingress_without_a_class_gets_the_newest_default() {
    const INGRESSES: &str = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
    let api = Api::start().await;
    let class = |name: &str, default: &str| {
        let marks = json!({"ingressclass.kubernetes.io/is-default-class": default});
        json!({"metadata": {"name": name, "annotations": marks}, "spec": {"controller": "example.com/c"}})
    };
    let ingress = |name: &str| {
        let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
        json!({"metadata": {"name": name}, "spec": {"defaultBackend": backend}})
    };
    let classes = "/apis/networking.k8s.io/v1/ingressclasses";
    api.make(classes, class("other", "false")).await;
    assert!(api.make(INGRESSES, ingress("early")).await["spec"]["ingressClassName"].is_null());
    // Made in the same second, so that the name counts.
    api.make(classes, class("b", "true")).await;
    api.make(classes, class("a", "true")).await;
    let got = api.make(INGRESSES, ingress("late")).await["spec"]["ingressClassName"].clone();
    assert!(got == "a" || got == "b", "{got}");
    let mut own = ingress("own");
    own["spec"]["ingressClassName"] = "other".into();
    assert_eq!(api.make(INGRESSES, own).await["spec"]["ingressClassName"], "other");
    let mut old = ingress("old");
    old["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "nginx"});
    assert!(api.make(INGRESSES, old).await["spec"]["ingressClassName"].is_null());
}

#[tokio::test]
async fn a_service_may_have_an_address_of_any_range_that_is_ready() {
    const SERVICES: &str = "/api/v1/namespaces/default/services";
    const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
    let api = Api::start().await;
    let own = api.call("GET", &format!("{RANGES}/kubernetes"), Value::Null).await.body;
    assert_eq!(own["spec"]["cidrs"], json!(["10.96.0.0/16"]));
    let service =
        json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "203.0.113.10", "ports": [{"port": 80}]}});
    let early = api.call("POST", SERVICES, service.clone()).await;
    assert!(early.message().contains("not in the valid range"), "{}", early.body);
    api.run_loops();
    api.make(RANGES, json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["203.0.113.0/24"]}})).await;
    eventually("the range is ready", async || {
        api.call("POST", SERVICES, service.clone()).await.code == StatusCode::CREATED
    })
    .await;
    let mut taken = service.clone();
    taken["metadata"]["name"] = "t".into();
    let twice = api.call("POST", SERVICES, taken).await;
    assert!(twice.message().contains("already allocated"), "{}", twice.body);
}
