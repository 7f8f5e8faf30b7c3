//! A container as Docker is told it: command, environment, mounts, limits and what it may do.
use crate::environment;
use crate::resize;
use crate::runtime::{Container, ObservedPod, State};
use bollard::models::{ContainerCreateBody, DeviceMapping, HostConfig, HostConfigLogConfig, Mount};
use pilothouse_api::quantity::Quantity;
use pilothouse_api::usage::quantity;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// What a container is made of.
pub struct Made<'a> {
    pub pod: &'a Value,
    pub spec: &'a Value,
    pub observed: &'a ObservedPod,
    pub sandbox: &'a Container,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<DeviceMapping>,
    pub labels: HashMap<String, String>,
    /// Where seccomp profiles lie.
    pub data_dir: &'a Path,
    /// None: Docker's default.
    pub runtime: Option<String>,
}

fn strings(list: &Value) -> Option<Vec<String>> {
    list.as_array().map(|items| items.iter().filter_map(|i| i.as_str().map(str::to_owned)).collect())
}

/// A field of the container's security context, else of the pod's.
fn security<'a>(pod: &'a Value, spec: &'a Value, field: &str) -> &'a Value {
    let own = &spec["securityContext"][field];
    if own.is_null() { &pod["spec"]["securityContext"][field] } else { own }
}

/// Holds a container to `runAsNonRoot`. `image_user` is what the image names.
pub fn check_user(pod: &Value, spec: &Value, image_user: &str) -> Result<(), String> {
    if security(pod, spec, "runAsNonRoot") != true {
        return Ok(());
    }
    let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
    let whose = format!(
        "(pod: \"{}_{}({})\", container: {})",
        text("name"),
        text("namespace"),
        text("uid"),
        spec["name"].as_str().unwrap_or_default()
    );
    if let Some(user) = security(pod, spec, "runAsUser").as_i64() {
        return match user {
            0 => Err(format!("container's runAsUser breaks non-root policy {whose}")),
            _ => Ok(()),
        };
    }
    let user = image_user.split(':').next().unwrap_or_default();
    match user.parse::<u32>() {
        Ok(0) => Err(format!("container has runAsNonRoot and image will run as root {whose}")),
        Ok(_) => Ok(()),
        Err(_) if matches!(user, "" | "root") => {
            Err(format!("container has runAsNonRoot and image will run as root {whose}"))
        }
        Err(_) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {whose}"
        )),
    }
}

pub fn render(made: Made<'_>) -> Result<ContainerCreateBody, String> {
    let Made { pod, spec, env, .. } = &made;
    let known: BTreeMap<String, String> = env.iter().cloned().collect();
    let expanded = |list: &Value| {
        let words = strings(list)?;
        let words: Vec<String> = words.iter().map(|w| environment::expand(w, &known)).collect();
        (!words.is_empty()).then_some(words)
    };
    let of = |field: &str| security(pod, spec, field);
    let user = match (of("runAsUser").as_i64(), of("runAsGroup").as_i64()) {
        (Some(user), Some(group)) => Some(format!("{user}:{group}")),
        (Some(user), None) => Some(user.to_string()),
        // Docker takes a group only beside a user.
        (None, Some(group)) => Some(format!("0:{group}")),
        (None, None) => None,
    };
    Ok(ContainerCreateBody {
        image: spec["image"].as_str().map(str::to_owned),
        entrypoint: expanded(&spec["command"]),
        cmd: expanded(&spec["args"]),
        working_dir: spec["workingDir"].as_str().map(str::to_owned),
        env: Some(env.iter().map(|(key, value)| format!("{key}={value}")).collect()),
        user,
        tty: Some(spec["tty"] == true),
        open_stdin: Some(spec["stdin"] == true),
        stdin_once: Some(spec["stdinOnce"] == true),
        stop_signal: spec["lifecycle"]["stopSignal"].as_str().map(str::to_owned),
        labels: Some(made.labels.clone()),
        host_config: Some(host_config(&made)?),
        ..ContainerCreateBody::default()
    })
}

fn host_config(made: &Made<'_>) -> Result<HostConfig, String> {
    let Made { pod, spec, sandbox, mounts, .. } = made;
    let own = &spec["securityContext"];
    let limits = resize::limits_of(spec);
    let set = |value: i64| (value > 0).then_some(value);
    let shared = || Some(format!("container:{}", sandbox.id));
    let host = |field: &str| pod["spec"][field] == true;
    let privileged = own["privileged"] == true;
    let unmasked = own["procMount"] == "Unmasked";
    let groups: Vec<String> = pod["spec"]["securityContext"]["supplementalGroups"]
        .as_array()
        .into_iter()
        .flatten()
        .chain([&pod["spec"]["securityContext"]["fsGroup"]])
        .filter_map(|group| Some(group.as_i64()?.to_string()))
        .collect();
    Ok(HostConfig {
        network_mode: if host("hostNetwork") { Some("host".into()) } else { shared() },
        ipc_mode: if host("hostIPC") { Some("host".into()) } else { shared() },
        pid_mode: pid_mode(made),
        runtime: made.runtime.clone(),
        mounts: Some(mounts.clone()),
        devices: (!made.devices.is_empty()).then(|| made.devices.clone()),
        cpu_shares: set(limits.cpu_shares),
        cpu_period: set(limits.cpu_quota).map(|_| resize::PERIOD_MICROSECONDS),
        cpu_quota: set(limits.cpu_quota),
        memory: set(limits.memory_bytes),
        memory_swap: set(limits.memory_bytes), // no swap on top
        oom_score_adj: Some(oom_score_adjust(made).max(own_oom_score_adjust())),
        privileged: Some(privileged),
        readonly_rootfs: Some(own["readOnlyRootFilesystem"] == true),
        cap_add: strings(&own["capabilities"]["add"]),
        cap_drop: strings(&own["capabilities"]["drop"]),
        group_add: (!groups.is_empty()).then_some(groups),
        masked_paths: unmasked.then(Vec::new),
        readonly_paths: unmasked.then(Vec::new),
        security_opt: security_options(made)?,
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(HashMap::from([("max-size".into(), "10m".into()), ("max-file".into(), "3".into())])),
        }),
        ..HostConfig::default()
    })
}

/// Whose processes a container sees.
fn pid_mode(made: &Made<'_>) -> Option<String> {
    let pod = &made.pod["spec"];
    if pod["hostPID"] == true {
        return Some("host".into());
    }
    if pod["shareProcessNamespace"] == true {
        return Some(format!("container:{}", made.sandbox.id));
    }
    // An ephemeral container looks at the processes of its target.
    let target = made.spec["targetContainerName"].as_str().filter(|target| !target.is_empty())?;
    let target = made.observed.latest(target).filter(|c| c.state == State::Running)?;
    Some(format!("container:{}", target.id))
}

/// Whom the kernel ends first when memory runs out (Kubernetes' quality of service classes).
fn oom_score_adjust(made: &Made<'_>) -> i64 {
    match made.pod["status"]["qosClass"].as_str() {
        Some("Guaranteed") => -997,
        Some("BestEffort") => 1000,
        _ => {
            let requested =
                quantity(&made.spec["resources"]["requests"]["memory"]).map_or(0, Quantity::value);
            let capacity = memory_bytes().max(1);
            (1000 - 1000 * requested.min(capacity) / capacity).clamp(3, 999)
        }
    }
}

fn memory_bytes() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<i64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// A value below our own is not ours to give: where the node is itself a container, the kernel refuses it and
/// the container does not start.
fn own_oom_score_adjust() -> i64 {
    let text = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn security_options(made: &Made<'_>) -> Result<Option<Vec<String>>, String> {
    let mut options = Vec::new();
    if made.spec["securityContext"]["allowPrivilegeEscalation"] == false {
        options.push("no-new-privileges".to_owned());
    }
    let of = |field: &str| security(made.pod, made.spec, field);
    let profile = of("seccompProfile");
    match profile["type"].as_str() {
        Some("Unconfined") => options.push("seccomp=unconfined".to_owned()),
        Some("Localhost") => {
            let name = profile["localhostProfile"].as_str().unwrap_or_default();
            if name.split('/').any(|part| part == "..") || name.starts_with('/') {
                return Err(format!("seccomp profile {name:?} leads out of the profiles' directory"));
            }
            let path = made.data_dir.join("seccomp").join(name);
            let text = std::fs::read_to_string(&path)
                .map_err(|e| format!("cannot load seccomp profile {:?}: {e}", path.display()))?;
            options.push(format!("seccomp={text}"));
        }
        // The runtime's own profile, as with kubelet's --seccomp-default.
        _ => {}
    }
    let profile = of("appArmorProfile");
    match (profile["type"].as_str(), profile["localhostProfile"].as_str()) {
        (Some("Unconfined"), _) => options.push("apparmor=unconfined".to_owned()),
        (Some("Localhost"), Some(name)) => options.push(format!("apparmor={name}")),
        _ => {}
    }
    for field in ["user", "role", "type", "level"] {
        if let Some(value) = of("seLinuxOptions")[field].as_str().filter(|v| !v.is_empty()) {
            options.push(format!("label={field}:{value}"));
        }
    }
    Ok((!options.is_empty()).then_some(options))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rendered(pod_spec: Value, spec: Value) -> ContainerCreateBody {
        let pod = json!({"metadata": {"name": "p"}, "spec": pod_spec, "status": {"qosClass": "BestEffort"}});
        let sandbox = Container { id: "box".into(), ..Container::default() };
        let made = Made {
            pod: &pod,
            spec: &spec,
            observed: &ObservedPod::default(),
            sandbox: &sandbox,
            env: vec![("A".into(), "1".into())],
            mounts: Vec::new(),
            devices: Vec::new(),
            labels: HashMap::new(),
            data_dir: Path::new("/nowhere"),
            runtime: None,
        };
        render(made).unwrap()
    }

    #[test]
    fn the_containers_own_security_context_goes_before_the_pods() {
        let made = rendered(
            json!({"securityContext": {"runAsUser": 1000, "runAsGroup": 2000, "fsGroup": 3000, "supplementalGroups": [4000],
                "seccompProfile": {"type": "Unconfined"}}}),
            json!({"securityContext": {"runAsUser": 7, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}),
        );
        let host = made.host_config.unwrap();
        assert_eq!(made.user.unwrap(), "7:2000");
        assert_eq!(host.group_add.unwrap(), ["4000", "3000"]);
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges", "seccomp=unconfined"]);
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert_eq!(host.oom_score_adj, Some(1000));
        assert_eq!(host.network_mode.unwrap(), "container:box");
    }

    #[test]
    fn commands_know_the_environment() {
        let made = rendered(json!({"hostPID": true}), json!({"command": ["echo", "$(A)"], "args": []}));
        assert_eq!(made.entrypoint.unwrap(), ["echo", "1"]);
        assert_eq!((made.cmd, made.host_config.unwrap().pid_mode), (None, Some("host".into())));
    }

    #[test]
    fn run_as_non_root_holds_where_it_can_be_known() {
        let check = |user: Value, image: &str| {
            let spec = json!({"name": "c", "securityContext": {"runAsNonRoot": true, "runAsUser": user}});
            check_user(&json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}}), &spec, image)
        };
        assert_eq!(check(json!(1000), ""), Ok(()));
        assert_eq!(check(Value::Null, "1000:1000"), Ok(()));
        let root = "container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)";
        for image in ["", "root", "0", "0:0"] {
            assert_eq!(check(Value::Null, image).unwrap_err(), root, "{image}");
        }
        assert!(check(json!(0), "").unwrap_err().starts_with("container's runAsUser breaks non-root policy"));
        assert!(check(Value::Null, "web").unwrap_err().contains("non-numeric user (web)"));
    }
}
