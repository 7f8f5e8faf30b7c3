//! Workloads that people rely on while they change: rollouts under load, bad images, autoscaling, draining, schedules.
use anyhow::{Context, Result, ensure};
use pilothouse_e2e::{Cluster, IMAGE, Kubectl, Namespace, cluster, eventually};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What takes rounds of a clock: measuring and autoscaling every 10 to 15 s, a schedule of once a minute.
const PATIENCE: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(60);
const PORT: &str = "30090";

/// One cluster for all of them: starting one costs more.
#[test]
fn workloads_keep_serving_while_they_change() -> Result<()> {
    let script = cluster::checkout().join("examples/build-images.sh");
    ensure!(Command::new(script).status()?.success(), "the example image was not built");
    let cluster = Cluster::start("workloads", &[])?;
    let schedule = Namespace::create(&cluster, "schedule")?;
    // Begun first: it fires within a minute, whatever happens meanwhile.
    schedule.ok(&["create", "cronjob", "tick", "--image", IMAGE, "--schedule=* * * * *", "--", "true"])?;
    let web = Namespace::create(&cluster, "web")?;
    serve(&web)?;
    a_rollout_under_load_loses_no_request(&web)?;
    a_bad_image_stops_within_bounds_and_undo_restores(&web)?;
    an_autoscaler_follows_the_load(&cluster)?;
    a_drain_respects_a_budget(&cluster)?;
    eventually("the schedule's job", PATIENCE, || {
        let done = schedule.ok(&["get", "jobs", "-o", "jsonpath={.items[*].status.succeeded}"])?;
        Ok(done.contains('1').then_some(()))
    })
}

/// Three pods that are told to end two seconds before they are: what leads to them is gone by then.
fn serve(ns: &Kubectl) -> Result<()> {
    let manifest = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  replicas: 3\n  progressDeadlineSeconds: 15\n  \
         selector: {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    spec:\n      \
         terminationGracePeriodSeconds: 3\n      containers:\n      - name: web\n        image: {IMAGE}\n        \
         command: [httpd, -f, -p, '8080', -h, /etc]\n        ports: [{{containerPort: 8080}}]\n        \
         readinessProbe: {{httpGet: {{port: 8080, path: /passwd}}, periodSeconds: 1}}\n        \
         lifecycle: {{preStop: {{sleep: {{seconds: 2}}}}}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec:\n  type: NodePort\n  selector: {{app: web}}\n  \
         ports: [{{port: 80, targetPort: 8080, nodePort: {PORT}}}]\n"
    );
    ns.ok_with_input(&["apply", "-f", "-"], &manifest)?;
    ns.ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    eventually("the first answer", SOON, || Ok(request().is_ok().then_some(())))
}

fn request() -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", PORT.parse()?)).context("connecting")?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /passwd HTTP/1.0\r\n\r\n").context("asking")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("reading")?;
    ensure!(answer.contains(" 200 ") && answer.contains("root:"), "answered {answer:?}");
    Ok(())
}

/// Requests one after the other, on two threads, until it is stopped.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start() -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..2).map(|_| {
            let (stop, served) = (stop.clone(), served.clone());
            std::thread::spawn(move || {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match request() {
                        Ok(()) => drop(served.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failures.push(format!("{error:#}")),
                    }
                    // A steady load, not as many as the machine can: the rollout needs it, too.
                    std::thread::sleep(Duration::from_millis(5));
                }
                failures
            })
        });
        Self { threads: threads.collect(), stop, served }
    }

    /// How many were served; a failed one is an error.
    fn finish(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for thread in self.threads {
            failures.extend(thread.join().map_err(|_| anyhow::anyhow!("a thread of the load panicked"))?);
        }
        let served = self.served.load(Ordering::Relaxed);
        ensure!(
            failures.is_empty(),
            "{} of {served} requests failed: {:?}",
            failures.len(),
            failures.first()
        );
        Ok(served)
    }
}

fn a_rollout_under_load_loses_no_request(ns: &Kubectl) -> Result<()> {
    let load = Load::start();
    let before = ns.ok(&["get", "pods", "-o", "name"])?;
    ns.ok(&["set", "env", "deployment/web", "COLOUR=blue"])?;
    ns.ok(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
    eventually("the end of the old pods", SOON, || {
        let now = ns.ok(&["get", "pods", "-o", "name"])?;
        Ok(before.lines().all(|pod| !now.contains(pod)).then_some(()))
    })?;
    let served = load.finish()?;
    ensure!(served > 100, "only {served} requests were served");
    Ok(())
}

fn a_bad_image_stops_within_bounds_and_undo_restores(ns: &Kubectl) -> Result<()> {
    let load = Load::start();
    // A registry that refuses at once, and needs no network.
    ns.ok(&["set", "image", "deployment/web", "web=127.0.0.1:1/missing:1"])?;
    let stuck = ns.run(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    ensure!(!stuck.success && stuck.stderr.contains("exceeded its progress deadline"), "{stuck:?}");
    let counts = "jsonpath={.status.availableReplicas} {.status.updatedReplicas} {.status.replicas}";
    let counts = ns.ok(&["get", "deployment", "web", "-o", counts])?;
    ensure!(counts == "3 1 4", "available, updated and all: {counts}");
    ns.ok(&["rollout", "undo", "deployment/web"])?;
    ns.ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    load.finish()?;
    Ok(())
}

fn an_autoscaler_follows_the_load(cluster: &Cluster) -> Result<()> {
    let ns = Namespace::create(cluster, "scaled")?;
    let busy = "while true; do if [ -e /tmp/busy ]; then i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; else sleep 0.2; fi; done";
    let manifest = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: busy}}\nspec:\n  replicas: 1\n  selector: {{matchLabels: {{app: busy}}}}\n  \
         template:\n    metadata: {{labels: {{app: busy}}}}\n    spec:\n      terminationGracePeriodSeconds: 0\n      containers:\n      \
         - name: main\n        image: {IMAGE}\n        command: [sh, -c, '{busy}']\n        \
         resources: {{requests: {{cpu: 50m}}, limits: {{cpu: 250m}}}}\n"
    );
    ns.ok_with_input(&["apply", "-f", "-"], &manifest)?;
    ns.ok(&["autoscale", "deployment", "busy", "--min=1", "--max=3", "--cpu-percent=100"])?;
    // Down at once: the default waits five minutes.
    let hurry = r#"{"spec":{"behavior":{"scaleDown":{"stabilizationWindowSeconds":0}}}}"#;
    ns.ok(&["patch", "hpa", "busy", "--type=merge", "-p", hurry])?;
    ns.ok(&["rollout", "status", "deployment/busy", "--timeout=60s"])?;
    let pod = ns.ok(&["get", "pods", "-o", "name"])?;
    ns.ok(&["exec", pod.trim(), "--", "touch", "/tmp/busy"])?;
    let replicas = ["get", "deployment", "busy", "-o", "jsonpath={.spec.replicas}"];
    eventually("more replicas", PATIENCE, || Ok((ns.ok(&replicas)? == "3").then_some(())))?;
    what_is_used_is_shown(cluster, &ns)?;
    let described = ns.ok(&["describe", "hpa", "busy"])?;
    ensure!(described.contains("SuccessfulRescale") && described.contains("ValidMetricFound"), "{described}");
    ns.ok(&["exec", pod.trim(), "--", "rm", "/tmp/busy"])?;
    eventually("fewer replicas", PATIENCE, || Ok((ns.ok(&replicas)? == "1").then_some(())))
}

fn what_is_used_is_shown(cluster: &Cluster, ns: &Kubectl) -> Result<()> {
    let shown = ns.ok(&["get", "hpa", "busy", "--no-headers"])?;
    ensure!(
        shown.contains("Deployment/busy") && shown.contains("%/100%") && !shown.contains("unknown"),
        "{shown}"
    );
    let nodes = eventually("top nodes", SOON, || {
        Ok(Some(cluster.kubectl().ok(&["top", "nodes", "--no-headers"])?))
    })?;
    ensure!(nodes.contains("Mi") && !nodes.contains("unknown"), "{nodes}");
    eventually("top pods of every namespace", SOON, || {
        let pods = cluster.kubectl().ok(&["top", "pods", "-A", "--containers", "--no-headers"])?;
        Ok((pods.contains("busy-") && pods.contains("web-")).then_some(()))
    })?;
    let selected = ns.ok(&["top", "pods", "-l", "app=other"]);
    ensure!(!selected.is_ok_and(|pods| pods.contains("busy-")), "a label selector selects");
    Ok(())
}

fn a_drain_respects_a_budget(cluster: &Cluster) -> Result<()> {
    let ns = Namespace::create(cluster, "guarded")?;
    let node = cluster.kubectl().ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    ns.ok(&["create", "deployment", "guarded", "--image", IMAGE, "--replicas=2", "--", "sleep", "600"])?;
    ns.ok(&["create", "pdb", "guarded", "--selector=app=guarded", "--min-available=1"])?;
    ns.ok(&["rollout", "status", "deployment/guarded", "--timeout=60s"])?;
    eventually("the budget's verdict", SOON, || {
        let allowed = ns.ok(&["get", "pdb", "guarded", "-o", "jsonpath={.status.disruptionsAllowed}"])?;
        Ok((allowed == "1").then_some(()))
    })?;
    let drain = ["drain", &node, "--pod-selector=app=guarded", "--timeout=5s", "--grace-period=1"];
    let held = cluster.kubectl().run(&drain)?;
    ensure!(!held.success && held.stderr.contains("would violate the pod's disruption budget"), "{held:?}");
    // One went, its successor has no node to go to, and the other stays.
    let running =
        ["get", "pods", "--field-selector=status.phase=Running", "-o", "jsonpath={.items[*].metadata.name}"];
    ensure!(ns.ok(&running)?.split_whitespace().count() == 1, "{}", ns.ok(&["get", "pods"])?);
    cluster.kubectl().ok(&["uncordon", &node])?;
    ns.ok(&["rollout", "status", "deployment/guarded", "--timeout=60s"])?;
    Ok(())
}
