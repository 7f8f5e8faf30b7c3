//! What goes wrong on a node: containers that die, fill, hang; a registry that is silent; a Docker daemon that restarts; a server
//! that is away. Whatever it is, it is shown as Kubernetes shows it, and nothing is started twice.
use anyhow::{Context, Result, anyhow, ensure};
use pilothouse_e2e::{Cluster, Docker, IMAGE, Namespace, cluster, eventually};
use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(90);
/// How long the server is away.
const ABSENCE: Duration = Duration::from_secs(60);
/// Probes come every second and fail a container after three: a daemon that is away for longer must not look like that.
const DAEMON_ABSENCE: Duration = Duration::from_secs(6);

/// One daemon and one cluster for all: starting them costs more than most of the stories.
#[test]
fn a_node_bears_what_goes_wrong_on_it() -> Result<()> {
    let mut docker = Docker::start(&[])?;
    let script = cluster::checkout().join("examples/build-images.sh");
    ensure!(Command::new(script).env("DOCKER_HOST", docker.host()).status()?.success(), "no example image");
    // How full this machine's disk is, is not what is asked here.
    let flags = ["--docker-host", &docker.host(), "--eviction-hard", "memory.available<10Mi"];
    let mut cluster = Cluster::start("node-faults", &flags)?;
    cluster.detach_agent()?;
    let outcome = stories(&mut cluster, &mut docker);
    if outcome.is_err() {
        // Nobody sees it where the test passes.
        eprintln!("{}", fs::read_to_string(cluster.dir().join("data/agent.log"))?);
    }
    outcome?;
    ensure!(cluster.agent_lives()?, "the agent has ended");
    Ok(())
}

fn stories(cluster: &mut Cluster, docker: &mut Docker) -> Result<()> {
    {
        let (cluster, docker) = (&*cluster, &*docker);
        let all: [fn(&Cluster, &Docker) -> Result<()>; 5] = [
            who_takes_too_much_memory_is_ended_and_counted,
            who_fills_its_volume_is_evicted,
            who_crashes_waits_longer_each_time,
            a_probe_that_hangs_is_given_up,
            a_silent_registry_holds_up_nobody_else,
        ];
        thread::scope(|scope| {
            let running: Vec<_> =
                all.iter().map(|story| scope.spawn(move || story(cluster, docker))).collect();
            let ended = running
                .into_iter()
                .map(|one| one.join().unwrap_or_else(|_| Err(anyhow!("a story panicked"))));
            let failed: Vec<String> =
                ended.filter_map(|one| one.err().map(|why| format!("{why:#}"))).collect();
            ensure!(failed.is_empty(), "{}", failed.join("\n"));
            Ok(())
        })?;
        node_is_ready(cluster)?;
    }
    a_daemon_that_took_its_containers_along_gets_them_anew(cluster, docker)?;
    a_daemon_that_left_its_containers_running_finds_them_so(cluster, docker)?;
    what_runs_goes_on_while_the_server_is_away(cluster, docker)
}

fn node_is_ready(cluster: &Cluster) -> Result<()> {
    let nodes = cluster.kubectl().json(&["get", "nodes"])?;
    let conditions = &nodes["items"][0]["status"]["conditions"];
    let ready = conditions.as_array().into_iter().flatten().find(|c| c["type"] == "Ready");
    ensure!(ready.is_some_and(|ready| ready["status"] == "True"), "{conditions}");
    Ok(())
}

/// A pod of one container, `main`.
fn pod(name: &str, container: Value) -> Value {
    let mut main = json!({"name": "main", "image": IMAGE});
    for (field, value) in container.as_object().into_iter().flatten() {
        main[field] = value.clone();
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [main], "terminationGracePeriodSeconds": 1}})
}

fn with_volume(mut pod: Value, path: &str, source: Value) -> Value {
    let mut volume = source;
    volume["name"] = "data".into();
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": path}]);
    pod["spec"]["volumes"] = json!([volume]);
    pod
}

fn create(ns: &Namespace, pod: &Value) -> Result<()> {
    ns.ok_with_input(&["create", "-f", "-"], &pod.to_string()).map(drop)
}

/// The pod, once it is as it should be.
fn pod_once(ns: &Namespace, name: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut seen = Value::Null;
    let found = eventually(name, SOON, || {
        seen = ns.json(&["get", "pod", name])?;
        Ok(is_so(&seen).then(|| seen.clone()))
    });
    found.with_context(|| format!("{name} was seen last with {}", seen["status"]))
}

/// The state of the only container.
fn container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

fn restarts(pod: &Value) -> u64 {
    container(pod)["restartCount"].as_u64().unwrap_or(0)
}

fn waits_for(pod: &Value) -> &str {
    container(pod)["state"]["waiting"]["reason"].as_str().unwrap_or_default()
}

fn is_ready(pod: &Value) -> bool {
    container(pod)["ready"] == true
}

fn who_takes_too_much_memory_is_ended_and_counted(cluster: &Cluster, _: &Docker) -> Result<()> {
    let ns = Namespace::create(cluster, "memory")?;
    let limits = json!({"limits": {"memory": "20Mi"}});
    create(&ns, &pod("greedy", json!({"command": ["tail", "/dev/zero"], "resources": limits})))?;
    let killed = |pod: &Value| {
        let ended = &container(pod)["lastState"]["terminated"];
        ended["reason"] == "OOMKilled" && ended["exitCode"] == 137
    };
    pod_once(&ns, "greedy", |pod| killed(pod) && restarts(pod) >= 1).map(drop)
}

fn who_fills_its_volume_is_evicted(cluster: &Cluster, docker: &Docker) -> Result<()> {
    let ns = Namespace::create(cluster, "disk")?;
    let fill = ["sh", "-c", "head -c 3000000 /dev/zero >/data/file; sleep 3600"];
    let full = with_volume(
        pod("full", json!({"command": fill})),
        "/data",
        json!({"emptyDir": {"sizeLimit": "1Mi"}}),
    );
    create(&ns, &full)?;
    let seen = pod_once(&ns, "full", |pod| pod["status"]["phase"] == "Failed")?;
    let status = &seen["status"];
    let message = status["message"].as_str().unwrap_or_default();
    ensure!(status["reason"] == "Evicted", "{status}");
    ensure!(message.contains("Usage of EmptyDir volume \"data\" exceeds the limit \"1Mi\""), "{message}");
    eventually("nothing of it runs", SOON, || {
        let left = docker.ok(&["ps", "-q", "--filter", "label=io.kubernetes.pod.namespace=disk"])?;
        Ok(left.is_empty().then_some(()))
    })
}

fn who_crashes_waits_longer_each_time(cluster: &Cluster, _: &Docker) -> Result<()> {
    let ns = Namespace::create(cluster, "crash")?;
    let dir = starts_dir(cluster)?;
    let crash = ["sh", "-c", "date +%s >>/starts/crash; exit 3"];
    create(&ns, &with_volume(pod("loop", json!({"command": crash})), "/starts", host_path(&dir)))?;
    let seen = pod_once(&ns, "loop", |pod| waits_for(pod) == "CrashLoopBackOff" && restarts(pod) >= 2)?;
    let message = container(&seen)["state"]["waiting"]["message"].as_str().unwrap_or_default();
    ensure!(message.starts_with("back-off 20s restarting failed container=main"), "{message}");
    let shown = ns.ok(&["get", "pods", "--no-headers"])?;
    ensure!(shown.contains("CrashLoopBackOff"), "{shown}");
    pod_once(&ns, "loop", |pod| restarts(pod) >= 3)?;
    let times: Vec<i64> =
        fs::read_to_string(dir.join("crash"))?.lines().map(str::parse).collect::<Result<_, _>>()?;
    let waits: Vec<i64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // The first restart is immediate; times are whole seconds.
    ensure!(waits.len() == 3 && waits[1] >= 9 && waits[2] >= 19, "{waits:?}");
    Ok(())
}

fn a_probe_that_hangs_is_given_up(cluster: &Cluster, docker: &Docker) -> Result<()> {
    let ns = Namespace::create(cluster, "probe")?;
    let probe = json!({"exec": {"command": ["sleep", "77"]}, "timeoutSeconds": 1, "periodSeconds": 1, "failureThreshold": 3});
    create(&ns, &pod("hung", json!({"command": ["sleep", "3600"], "livenessProbe": probe})))?;
    pod_once(&ns, "hung", |pod| restarts(pod) >= 1)?;
    let events = ns.ok(&["get", "events"])?;
    ensure!(events.contains("Liveness probe failed: command timed out"), "{events}");
    ensure!(events.contains("failed liveness probe, will be restarted"), "{events}");
    // One is under way, and another may be about to be ended.
    let id = docker.ok(&["ps", "-q", "--filter", "name=k8s_main_hung_probe_"])?;
    let tries = docker.ok(&["top", &id, "-eo", "pid,args"])?.matches("sleep 77").count();
    ensure!(tries <= 2, "{tries} tries are left in the container");
    Ok(())
}

fn a_silent_registry_holds_up_nobody_else(cluster: &Cluster, _: &Docker) -> Result<()> {
    let ns = Namespace::create(cluster, "pull")?;
    // Takes connections into its queue and never answers.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let image = format!("{}/never:1", silent.local_addr()?);
    for name in ["stuck", "unwanted"] {
        create(&ns, &pod(name, json!({"image": image})))?;
    }
    let pulling = |pod: &Value| waits_for(pod) == "ContainerCreating";
    for name in ["stuck", "unwanted"] {
        pod_once(&ns, name, pulling)?;
    }
    // The next one's pull has its answer meanwhile.
    create(&ns, &pod("refused", json!({"image": "127.0.0.1:1/none:1"})))?;
    let failed = |pod: &Value| ["ErrImagePull", "ImagePullBackOff"].contains(&waits_for(pod));
    pod_once(&ns, "refused", failed)?;
    let stuck = ns.json(&["get", "pod", "stuck"])?;
    ensure!(pulling(&stuck), "{}", stuck["status"]);
    ns.ok(&["delete", "pod", "unwanted", "--timeout=10s"])?;
    pod_once(&ns, "stuck", failed)?;
    pod_once(&ns, "stuck", |pod| waits_for(pod) == "ImagePullBackOff")?;
    let events = ns.ok(&["get", "events"])?;
    ensure!(events.contains("Failed to pull image"), "{events}");
    Ok(())
}

/// Where containers write down that they started.
fn starts_dir(cluster: &Cluster) -> Result<std::path::PathBuf> {
    let dir = cluster.dir().join("starts");
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

fn host_path(dir: &Path) -> Value {
    json!({"hostPath": {"path": dir}})
}

/// A pod that writes down each start and each of its probes; it ends after `life` seconds.
fn witness(name: &str, dir: &Path, life: u32) -> Value {
    let script = format!(
        "echo started >>/starts/{name}; trap 'exit 0' TERM; i=0; while [ $i -lt {} ]; do sleep 0.2; i=$((i+1)); done; exit 1",
        life * 5
    );
    let probe = json!({"exec": {"command": ["sh", "-c", format!("echo probed >>/starts/{name}.probes")]},
        "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 3});
    let container = json!({"command": ["sh", "-c", script], "livenessProbe": probe, "readinessProbe": probe});
    with_volume(pod(name, container), "/starts", host_path(dir))
}

fn lines(file: &Path) -> Result<Vec<String>> {
    Ok(fs::read_to_string(file)?.lines().map(str::to_owned).collect())
}

/// Nothing was started twice, and the API counts what was started.
fn ensure_counted(ns: &Namespace, docker: &Docker, dir: &Path, name: &str) -> Result<()> {
    eventually("restarts are counted", SOON, || {
        let starts = lines(&dir.join(name))?;
        let running = docker.ok(&["ps", "-q", "--filter", &format!("name=k8s_main_{name}_")])?;
        ensure!(running.lines().count() <= 1, "{name} runs twice");
        let counted = restarts(&ns.json(&["get", "pod", name])?);
        Ok((counted + 1 == starts.len() as u64).then_some(()))
    })
}

/// The container of a pod and its first process.
fn process(docker: &Docker, name: &str) -> Result<(String, String)> {
    let id = docker.ok(&["ps", "-q", "--no-trunc", "--filter", &format!("name=k8s_main_{name}_")])?;
    let pid = docker.ok(&["inspect", "--format", "{{.State.Pid}}", &id])?;
    Ok((id, pid))
}

fn a_daemon_that_took_its_containers_along_gets_them_anew(
    cluster: &mut Cluster,
    docker: &mut Docker,
) -> Result<()> {
    let ns = Namespace::create(cluster, "daemon")?;
    let dir = starts_dir(cluster)?;
    create(&ns, &witness("taken", &dir, 3600))?;
    pod_once(&ns, "taken", is_ready)?;
    docker.stop()?;
    thread::sleep(DAEMON_ABSENCE);
    node_is_ready(cluster)?; // so short an absence is no news
    docker.resume(&["--live-restore"])?;
    pod_once(&ns, "taken", |pod| is_ready(pod) && restarts(pod) == 1)?;
    ensure_counted(&ns, docker, &dir, "taken")?;
    node_is_ready(cluster)
}

fn a_daemon_that_left_its_containers_running_finds_them_so(
    cluster: &mut Cluster,
    docker: &mut Docker,
) -> Result<()> {
    let ns = Namespace::create(cluster, "daemon-live")?;
    let dir = starts_dir(cluster)?;
    for name in ["left", "died"] {
        create(&ns, &witness(name, &dir, 3600))?;
    }
    for name in ["left", "died"] {
        pod_once(&ns, name, is_ready)?;
    }
    let (left, died) = (process(docker, "left")?, process(docker, "died")?);
    docker.kill()?;
    ensure!(Command::new("kill").args(["-9", &died.1]).status()?.success());
    thread::sleep(DAEMON_ABSENCE);
    node_is_ready(cluster)?;
    docker.resume(&["--live-restore"])?;
    pod_once(&ns, "died", |pod| is_ready(pod) && restarts(pod) == 1)?;
    pod_once(&ns, "left", |pod| is_ready(pod) && restarts(pod) == 0)?;
    ensure!(process(docker, "left")? == left, "a container that ran was touched");
    for name in ["left", "died"] {
        ensure_counted(&ns, docker, &dir, name)?;
    }
    node_is_ready(cluster)
}

fn what_runs_goes_on_while_the_server_is_away(cluster: &mut Cluster, docker: &mut Docker) -> Result<()> {
    let ns = Namespace::create(cluster, "away")?;
    let dir = starts_dir(cluster)?;
    for (name, life) in [("steady", 3600), ("killed", 3600), ("crashing", 5)] {
        create(&ns, &witness(name, &dir, life))?;
    }
    for name in ["steady", "killed"] {
        pod_once(&ns, name, is_ready)?;
    }
    pod_once(&ns, "crashing", |pod| pod["status"]["phase"] == "Running")?;
    let steady = process(docker, "steady")?;
    cluster.kill()?;
    let crashed = lines(&dir.join("crashing"))?.len();
    let probed = || Ok::<_, anyhow::Error>(lines(&dir.join("steady.probes"))?.len());
    thread::sleep(ABSENCE / 4);
    docker.ok(&["kill", &process(docker, "killed")?.0])?;
    let before = probed()?;
    thread::sleep(ABSENCE - ABSENCE / 4);
    ensure!(probed()? > before + 10, "probes do not go on");
    ensure!(process(docker, "steady")? == steady, "a container that ran was touched");
    ensure!(lines(&dir.join("killed"))?.len() == 2, "what died was not started again");
    ensure!(lines(&dir.join("crashing"))?.len() > crashed, "what crashed was not started again");
    cluster.resume()?;
    pod_once(&ns, "killed", |pod| is_ready(pod) && restarts(pod) == 1)?;
    for name in ["steady", "killed", "crashing"] {
        ensure_counted(&ns, docker, &dir, name)?;
    }
    ensure!(process(docker, "steady")? == steady, "a container that ran was touched");
    eventually("the node is ready", SOON, || Ok(node_is_ready(cluster).is_ok().then_some(())))
}
