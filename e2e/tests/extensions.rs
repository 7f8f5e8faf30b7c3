//! A cluster that its users extend: admission policies, a custom kind of two versions, an API that another server answers
//! for; all by `kubectl`.
use anyhow::{Context, Result, ensure};
use pilothouse_e2e::{Cluster, Kubectl, cluster, eventually};
use serde_json::{Value, json};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

#[test]
fn kubectl_extends_a_cluster() -> Result<()> {
    let cluster = Cluster::start("extensions", &["--no-agent"])?;
    let kubectl = cluster.kubectl();
    policies_judge_and_change(&kubectl)?;
    let server = Server::start(&cluster)?;
    server.stands_behind_a_service(&kubectl)?;
    a_webhook_converts(&kubectl, &server)?;
    another_server_answers(&kubectl, &server)
}

fn apply(kubectl: &Kubectl, objects: &[Value]) -> Result<()> {
    for object in objects {
        kubectl.ok_with_input(&["apply", "-f", "-"], &object.to_string())?;
    }
    Ok(())
}

fn policies_judge_and_change(kubectl: &Kubectl) -> Result<()> {
    const GROUP: &str = "admissionregistration.k8s.io/v1";
    let matching = json!({"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"],
        "operations": ["CREATE", "UPDATE"]}]});
    let validation = json!({"expression": "object.spec.replicas <= 3",
        "messageExpression": "'too many: ' + string(object.spec.replicas)"});
    let annotate = r#"Object{metadata: Object.metadata{annotations: {"mutated-by": "policy"}}}"#;
    apply(
        kubectl,
        &[
            json!({"apiVersion": GROUP, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "few"},
                "spec": {"matchConstraints": matching, "validations": [validation]}}),
            json!({"apiVersion": GROUP, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "few"},
                "spec": {"policyName": "few", "validationActions": ["Deny"]}}),
            json!({"apiVersion": GROUP, "kind": "MutatingAdmissionPolicy", "metadata": {"name": "mark"},
                "spec": {"matchConstraints": matching, "reinvocationPolicy": "Never", "mutations": [
                    {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": annotate}}]}}),
            json!({"apiVersion": GROUP, "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": "mark"},
                "spec": {"policyName": "mark"}}),
        ],
    )?;
    eventually("the refusal", SOON, || {
        let many = ["create", "deployment", "many", "--image=x", "--replicas=4", "--dry-run=server"];
        let said = kubectl.refused(&many, "")?;
        let wanted = "ValidatingAdmissionPolicy 'few' with binding 'few' denied request: too many: 4";
        Ok(said.contains(wanted).then_some(()))
    })?;
    kubectl.ok(&["create", "deployment", "some", "--image=x", "--replicas=2"])?;
    let made = kubectl.json(&["get", "deployment", "some"])?;
    ensure!(made["metadata"]["annotations"]["mutated-by"] == "policy", "{made}");
    let said = kubectl.refused(&["scale", "deployment", "some", "--replicas=9"], "");
    // A scale is another resource, which the policy does not name.
    ensure!(said.is_err(), "{said:?}");
    let mut bad = json!({"apiVersion": GROUP, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "bad"},
        "spec": {"matchConstraints": matching, "validations": [{"expression": "nothing == 1"}]}});
    let said = kubectl.refused(&["apply", "-f", "-"], &bad.to_string())?;
    ensure!(said.contains("undeclared reference to 'nothing' (in container '')"), "{said}");
    bad["spec"]["validations"][0]["expression"] = "object.spec.replicas > '1'".into();
    apply(kubectl, &[bad])?;
    eventually("the warning", SOON, || {
        let policy = kubectl.json(&["get", "validatingadmissionpolicy", "bad"])?;
        let warning = policy["status"]["typeChecking"]["expressionWarnings"][0]["warning"].as_str();
        Ok(warning.filter(|w| w.contains("'_>_' applied to '(int, string)'")).map(drop))
    })
}

/// The server beside the cluster; it ends with the test.
struct Server {
    child: Child,
    port: u16,
    bundle: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(cluster: &Cluster) -> Result<Self> {
        let (key, certificate) = (cluster.dir().join("hooks.key"), cluster.dir().join("hooks.crt"));
        let port_file = cluster.dir().join("hooks.port");
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ])
            .args(["-subj", "/CN=hooks", "-addext", "subjectAltName=DNS:hooks.default.svc"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .stderr(Stdio::null())
            .status()?;
        ensure!(made.success(), "openssl made no certificate");
        let child = Command::new("python3")
            .arg(cluster::checkout().join("e2e/tests/extensions.py"))
            .args([&key, &certificate, &port_file])
            .spawn()?;
        let bundle = Command::new("base64").arg("-w0").arg(&certificate).output()?.stdout;
        let mut server = Self { child, port: 0, bundle: String::from_utf8(bundle)? };
        server.port =
            eventually("the server's port", SOON, || Ok(fs::read_to_string(&port_file)?.parse().ok()))?;
        Ok(server)
    }

    fn stands_behind_a_service(&self, kubectl: &Kubectl) -> Result<()> {
        let labels = json!({"kubernetes.io/service-name": "hooks"});
        apply(
            kubectl,
            &[
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hooks"}, "spec": {"ports": [{"port": 443}]}}),
                json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "hooks", "labels": labels},
                    "addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.1"]}], "ports": [{"port": self.port}]}),
            ],
        )
    }
}

fn a_webhook_converts(kubectl: &Kubectl, server: &Server) -> Result<()> {
    let version = |name: &str, fields: &[&str]| {
        let fields: serde_json::Map<String, Value> =
            fields.iter().map(|field| ((*field).to_owned(), json!({"type": "string"}))).collect();
        json!({"name": name, "served": true, "storage": name == "v1",
            "schema": {"openAPIV3Schema": {"type": "object", "properties": fields}}})
    };
    let service = json!({"namespace": "default", "name": "hooks", "path": "/convert"});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "hosts.stable.example.com"}, "spec": {"group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "hosts", "singular": "host", "kind": "Host"},
            "versions": [version("v1", &["hostPort"]), version("v2", &["host", "port"])],
            "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
                "clientConfig": {"caBundle": server.bundle, "service": service}}}}});
    apply(kubectl, &[definition])?;
    kubectl.ok(&["wait", "--for=condition=Established", "crd/hosts.stable.example.com", "--timeout=30s"])?;
    let host = |version: &str, fields: Value| {
        let mut host = json!({"apiVersion": format!("stable.example.com/{version}"), "kind": "Host", "metadata": {"name": "a"}});
        fields.as_object().into_iter().flatten().for_each(|(key, value)| host[key] = value.clone());
        host
    };
    apply(kubectl, &[host("v1", json!({"hostPort": "localhost:8080"}))])?;
    let port = |resource: &str, path: &str| {
        kubectl.ok(&["get", resource, "a", "-o", &format!("jsonpath={{{path}}}")])
    };
    ensure!(port("hosts.v2.stable.example.com", ".port")? == "8080");
    apply(kubectl, &[host("v2", json!({"host": "localhost", "port": "9090"}))])?;
    ensure!(port("hosts.v1.stable.example.com", ".hostPort")? == "localhost:9090");
    kubectl.ok_with_input(
        &["apply", "--server-side", "--force-conflicts", "-f", "-"],
        &host("v2", json!({"host": "localhost", "port": "1"})).to_string(),
    )?;
    ensure!(port("hosts.v1.stable.example.com", ".hostPort")? == "localhost:1");
    Ok(())
}

fn another_server_answers(kubectl: &Kubectl, server: &Server) -> Result<()> {
    let own = kubectl.ok(&["get", "apiservices"])?;
    let line = |name: &str| own.lines().find(|line| line.starts_with(&format!("{name} "))).map(str::to_owned);
    for name in ["v1.", "v1.apps", "v1.stable.example.com"] {
        let line = line(name).with_context(|| format!("{name} is missing in {own}"))?;
        ensure!(line.contains("Local") && line.contains("True"), "{line}");
    }
    let service = json!({"namespace": "default", "name": "hooks"});
    let object = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1alpha1.wardle.example.com"}, "spec": {"group": "wardle.example.com", "version": "v1alpha1",
            "groupPriorityMinimum": 2000, "versionPriority": 200, "caBundle": server.bundle, "service": service}});
    apply(kubectl, &[object])?;
    kubectl.ok(&[
        "wait",
        "--for=condition=Available",
        "apiservice/v1alpha1.wardle.example.com",
        "--timeout=30s",
    ])?;
    let flunder =
        json!({"apiVersion": "wardle.example.com/v1alpha1", "kind": "Flunder", "metadata": {"name": "f"}});
    kubectl.ok_with_input(&["create", "--validate=false", "-f", "-"], &flunder.to_string())?;
    let made = kubectl.json(&["get", "flunders", "f"])?;
    ensure!(made["metadata"]["annotations"]["made-by"] == "admin", "{made}");
    ensure!(kubectl.ok(&["get", "fl"])?.contains('f'), "its short name");
    let resources = kubectl.ok(&["api-resources", "--api-group=wardle.example.com"])?;
    ensure!(resources.contains("Flunder"), "{resources}");
    let may = kubectl.run(&["auth", "can-i", "list", "flunders.wardle.example.com", "--as=jane"])?;
    ensure!(may.stdout.trim() == "no", "{}", may.stdout);
    Ok(())
}
