//! `kubectl` of three versions, unmodified: what its own command tests (test/cmd of Kubernetes) expect of a server.
use anyhow::{Context, Result, ensure};
use pilothouse_e2e::{Cluster, Kubectl, cluster};
use std::path::{Path, PathBuf};

/// The versions that `./dev test` fetches.
fn versions() -> Result<Vec<PathBuf>> {
    let tools = cluster::checkout().join(".tools");
    let mut found: Vec<PathBuf> = std::fs::read_dir(&tools)
        .with_context(|| format!("{} is missing: ./dev test fetches it", tools.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|dir| dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kubectl-1.")))
        .map(|dir| dir.join("kubectl"))
        .collect();
    found.sort();
    ensure!(found.len() >= 3, "three versions are to be tried, {} has {found:?}", tools.display());
    Ok(found)
}

/// One version's run, in a namespace of its own.
struct Run {
    kubectl: Kubectl,
    name: String,
    dir: PathBuf,
}

impl Run {
    fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.dir.join(format!("{}-{name}", self.name));
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// The command succeeds and prints `expected`.
    fn prints(&self, command: &str, expected: &str) -> Result<()> {
        let output = self.kubectl.run(&words(command))?;
        let said = format!("{}{}", output.stdout, output.stderr);
        ensure!(output.success && said.contains(expected), "`{command}` was to print {expected:?}: {said}");
        Ok(())
    }

    /// The command fails and says why.
    fn refuses(&self, command: &str, expected: &str) -> Result<()> {
        let output = self.kubectl.run(&words(command))?;
        let said = format!("{}{}", output.stdout, output.stderr);
        ensure!(
            !output.success && said.contains(expected),
            "`{command}` was to fail with {expected:?}: {said}"
        );
        Ok(())
    }
}

/// Words at spaces; what stands in quotes stays together.
fn words(command: &str) -> Vec<&str> {
    let parts = command.split('\'').enumerate();
    parts
        .flat_map(|(index, part)| match index % 2 {
            0 => part.split_whitespace().collect::<Vec<_>>(),
            _ => vec![part],
        })
        .collect()
}

#[test]
fn three_versions_of_kubectl_do_what_their_own_tests_ask_for() -> Result<()> {
    let cluster = Cluster::start("versions", &["--no-agent"])?;
    for program in versions()? {
        let name = program.parent().and_then(Path::file_name).context("a directory")?;
        let name = name.to_string_lossy().replace('.', "-");
        let whole = cluster.kubectl().with_program(program.clone());
        whole.ok(&["create", "namespace", &name])?;
        let run = Run { kubectl: whole.in_namespace(&name), name, dir: cluster.dir().to_owned() };
        all(&run).with_context(|| program.display().to_string())?;
        whole.ok(&["delete", "namespace", &run.name, "--timeout=60s"])?;
    }
    Ok(())
}

fn all(run: &Run) -> Result<()> {
    finds_out_what_there_is(run)?;
    creates_changes_and_watches_pods(run)?;
    applies_prunes_and_shows_differences(run)?;
    steers_workloads(run)?;
    makes_everything_it_has_a_word_for(run)?;
    asks_about_rights(run)?;
    works_with_custom_kinds(run)?;
    sees_to_nodes(run)
}

fn finds_out_what_there_is(run: &Run) -> Result<()> {
    run.prints("version", "Server Version: v1.36")?;
    run.prints("api-resources -o wide", "deployments")?;
    run.prints("api-versions", "apps/v1")?;
    run.prints("explain pods.spec.containers", "FIELD: containers")?;
    run.prints("explain deployments --recursive", "matchExpressions")?;
    run.prints("get --raw /readyz?verbose", "[+]etcd ok")?;
    run.prints("cluster-info", "control plane")?;
    run.prints("get pods", "No resources found")?;
    run.refuses("get pods abc", "pods \"abc\" not found")?;
    run.refuses("get foobar", "the server doesn't have a resource type")?;
    run.prints("--v=6 get clusterrole --chunk-size=10", "/v1/clusterroles?continue=")?;
    run.prints("get namespaces --chunk-size=1 --no-headers", "kube-system")?;
    run.refuses("get pods --field-selector=foo=bar", "field label not supported")
}

fn creates_changes_and_watches_pods(run: &Run) -> Result<()> {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {name: l}}\nspec: {containers: [{name: c, image: x}]}\n";
    let file = run.file("pod.yaml", pod)?;
    run.prints(&format!("apply -f {file}"), "pod/p created")?;
    run.prints(
        "get pod p --show-managed-fields -o jsonpath={.metadata.managedFields[*].manager}",
        "kubectl-client-side-apply",
    )?;
    run.prints("apply view-last-applied pod/p", "name: l")?;
    run.prints("get pods -w --request-timeout=1", "STATUS")?;
    run.prints("get pods/p -o name -w --request-timeout=1", "pod/p")?;
    run.prints("get pod p --subresource=status", "p")?;
    run.refuses("get pod p --subresource=scale", "the server could not find the requested resource")?;
    run.prints("get pods --sort-by={.metadata.name} -o wide", "NOMINATED NODE")?;
    run.prints("label pod p a=b", "labeled")?;
    run.refuses("label pod p a=c", "already has a value")?;
    run.refuses("label pod p a=d --overwrite --resource-version=1", "the object has been modified")?;
    run.prints("annotate pods --all x=y", "annotated")?;
    run.prints("patch pod p -p {\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"y\"}]}}", "patched")?;
    let change = "[{\"op\":\"replace\",\"path\":\"/spec/containers/0/image\",\"value\":\"z\"}]";
    run.prints(&format!("patch pod p --type=json -p {change}"), "patched")?;
    let status = "{\"status\":{\"conditions\":[{\"type\":\"X\",\"status\":\"True\"}]}}";
    run.prints(&format!("patch pod p --subresource=status --type=merge -p {status}"), "patched")?;
    run.refuses("patch pod p -p {\"spec\":{\"hostname\":\"h\"}}", "pod updates may not change fields")?;
    run.prints("set image pod/p c=w", "image updated")?;
    run.prints(&format!("replace --force --grace-period=0 -f {file}"), "replaced")?;
    let unknown = run.file("unknown.yaml", &pod.replace("spec: {", "spec: {foo: 1, "))?;
    run.refuses(&format!("create -f {unknown}"), "unknown field \"spec.foo\"")?;
    run.prints("delete pod p --grace-period=0 --force", "deleted")
}

const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  selector: {matchLabels: {app: d}}\n  \
    template:\n    metadata: {labels: {app: d}}\n    spec:\n      containers: [{name: c, image: x, volumeMounts: [{name: v, \
    mountPath: /v}]}]\n      volumes: [{name: v, emptyDir: {}}]\n";

fn applies_prunes_and_shows_differences(run: &Run) -> Result<()> {
    let first = run.file("d1.yaml", DEPLOYMENT)?;
    run.prints(&format!("apply -f {first}"), "created")?;
    run.prints(&format!("apply -f {first}"), "unchanged")?;
    run.prints("get deployment d -o yaml", "maxSurge")?;
    let second = DEPLOYMENT.replace("emptyDir: {}", "hostPath: {path: /tmp}").replace(
        "\nspec:\n  selector",
        "\nspec:\n  strategy: {type: Recreate, rollingUpdate: null}\n  selector",
    );
    let second = run.file("d2.yaml", &second)?;
    run.refuses(&format!("diff -f {second}"), "path: /tmp")?;
    run.prints(&format!("apply -f {second}"), "configured")?;
    let spec = run.kubectl.ok(&["get", "deployment", "d", "-o", "jsonpath={.spec}"])?;
    ensure!(!spec.contains("maxSurge") && !spec.contains("emptyDir"), "defaults of before are left: {spec}");
    let other = run.file("d3.yaml", &std::fs::read_to_string(&second)?.replace("image: x", "image: z"))?;
    let applying = format!("apply --server-side --field-manager=other -f {other}");
    run.refuses(&applying, "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\"")?;
    run.prints(&format!("{applying} --force-conflicts"), "serverside-applied")?;
    let unknown = run.file("d4.yaml", &DEPLOYMENT.replace("image: x", "imagee: x"))?;
    let applying = format!("apply --server-side --validate=false -f {unknown}");
    run.refuses(&applying, "field not declared in schema")?;

    let map = |name: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{prune: \"true\"}}}}\n")
    };
    let (a, b) = (run.file("a.yaml", &map("a"))?, run.file("b.yaml", &map("b"))?);
    run.prints(&format!("apply --prune -l prune=true -f {a}"), "configmap/a created")?;
    run.prints(&format!("apply --prune -l prune=true -f {b}"), "configmap/a pruned")?;
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: None, ports: [{port: 80}]}\n";
    let headless = run.file("s1.yaml", service)?;
    let addressed = run.file("s2.yaml", &service.replace("None", "10.96.77.7"))?;
    run.prints(&format!("apply -f {headless}"), "created")?;
    run.refuses(&format!("apply -f {addressed}"), "may not change once set")?;
    run.prints(&format!("apply -f {addressed} --force"), "service/s")?;
    run.prints("delete service s", "deleted")
}

fn steers_workloads(run: &Run) -> Result<()> {
    run.prints("create deployment web --image=x --replicas=2 --port=80", "created")?;
    run.prints("expose deployment web --port=80 --target-port=8080", "exposed")?;
    run.prints("scale deployment web --replicas=3 --current-replicas=2", "scaled")?;
    run.refuses(
        "scale deployment web --replicas=3 --current-replicas=9",
        "Expected replicas to be 9, was 3",
    )?;
    run.prints("autoscale deployment web --min=1 --max=3", "autoscaled")?;
    run.prints("get hpa web", "Deployment/web")?;
    run.prints("set resources deployment/web --limits=cpu=200m", "resource requirements updated")?;
    run.prints("set env deployment/web A=B", "env updated")?;
    run.prints("rollout history deployment/web", "REVISION")?;
    run.prints("rollout undo deployment/web", "rolled back")?;
    run.prints("rollout restart deployment/web", "restarted")?;
    run.prints("rollout pause deployment/web", "paused")?;
    run.prints("rollout resume deployment/web", "resumed")?;
    run.prints("describe deployment web", "StrategyType:")?;
    run.prints("get all", "deployment.apps/web")?;
    run.prints("delete deployment web --dry-run=server", "deleted")?;
    run.prints("delete deployment,service,hpa web", "deleted")
}

fn makes_everything_it_has_a_word_for(run: &Run) -> Result<()> {
    for command in [
        "create secret generic s1 --from-literal=a=b",
        "create secret docker-registry d1 --docker-username=u --docker-password=p",
        "create configmap c1 --from-literal=a=b",
        "create quota q1 --hard=pods=50",
        "create cronjob cj --image=x --schedule '* * * * *'",
        "create job j1 --image=x",
        "create job j2 --from=cronjob/cj",
        "create ingress i1 --rule=example.com/bar=svc1:8080",
        "create pdb p1 --selector=a=b --min-available=1",
        "create service externalname e1 --external-name=a.b",
        "create service nodeport n1 --tcp=80",
        "create service clusterip c1 --tcp=80 --clusterip=None",
    ] {
        run.prints(command, "created")?;
    }
    run.prints("delete configmap c1", "deleted")?;
    run.refuses("delete configmap c1", "NotFound")
}

fn asks_about_rights(run: &Run) -> Result<()> {
    let bob = format!("system:serviceaccount:{}:bob", run.name);
    run.prints("create serviceaccount bob", "created")?;
    run.prints("create role reader --verb=get,list --resource=pods", "created")?;
    run.prints(
        &format!("create rolebinding reader --role=reader --serviceaccount={}:bob", run.name),
        "created",
    )?;
    run.prints(&format!("auth can-i list pods --as={bob}"), "yes")?;
    run.refuses(&format!("auth can-i list secrets --as={bob}"), "no")?;
    run.prints(&format!("auth can-i --list --as={bob}"), "pods")?;
    run.refuses(&format!("get secrets --as={bob}"), "cannot list resource \"secrets\"")?;
    run.prints("auth whoami", "admin")?;
    run.prints("create token bob", "eyJ")
}

fn works_with_custom_kinds(run: &Run) -> Result<()> {
    let group = format!("{}.example.com", run.name);
    let definition = format!(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: foos.{group}}}\nspec:\n  \
         group: {group}\n  scope: Namespaced\n  names: {{plural: foos, kind: Foo, categories: [all]}}\n  versions:\n  \
         - name: v1\n    served: true\n    storage: true\n    additionalPrinterColumns: [{{name: Some, type: string, \
         jsonPath: .some}}]\n    schema: {{openAPIV3Schema: {{type: object, properties: {{some: {{type: string, \
         description: Words}}, free: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}}}}}\n"
    );
    let definition = run.file("crd.yaml", &definition)?;
    run.prints(&format!("apply -f {definition}"), "created")?;
    run.prints(&format!("wait --for=condition=Established crd/foos.{group} --timeout=20s"), "condition met")?;
    let object = format!(
        "apiVersion: {group}/v1\nkind: Foo\nmetadata: {{name: f}}\nsome: one\nfree: {{a: 1, b: 2}}\n"
    );
    let first = run.file("f1.yaml", &object)?;
    let second = run.file("f2.yaml", &object.replace(", b: 2", ""))?;
    run.prints(&format!("apply -f {first}"), "created")?;
    run.prints(&format!("apply -f {second}"), "configured")?;
    run.prints(&format!("get foos.v1.{group} f -o jsonpath={{.free}}"), "{\"a\":1}")?;
    run.prints(&format!("get foos.{group}"), "SOME")?;
    run.prints(&format!("explain foos.some --api-version={group}/v1"), "Words")?;
    run.refuses(&format!("patch foos.{group} f -p {{\"some\":\"x\"}}"), "unknown format")?;
    run.prints(&format!("patch foos.{group} f --type=merge -p {{\"some\":\"two\"}}"), "patched")?;
    run.prints(&format!("wait --for=jsonpath={{.some}}=two foos.{group}/f --timeout=10s"), "condition met")?;
    run.prints(&format!("delete foos.{group} --all --cascade=foreground --timeout=20s"), "deleted")?;
    run.prints(&format!("delete crd foos.{group} --timeout=30s"), "deleted")
}

fn sees_to_nodes(run: &Run) -> Result<()> {
    let node = format!("{}-node", run.name);
    let file = run.file("node.yaml", &format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\n"))?;
    run.prints(&format!("create -f {file}"), "created")?;
    run.prints(&format!("taint node {node} dedicated=x:NoSchedule"), "tainted")?;
    run.prints(&format!("cordon {node}"), "cordoned")?;
    run.prints(&format!("drain {node} --ignore-daemonsets"), "drained")?;
    run.prints(&format!("uncordon {node}"), "uncordoned")?;
    run.prints(&format!("delete node {node}"), "deleted")
}
