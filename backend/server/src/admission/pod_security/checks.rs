//! The checks of the Pod Security Standards: <https://kubernetes.io/docs/concepts/security/pod-security-standards/>.
//!
//! Each is told its version of the standards (the minor number), for what a cluster was promised must not change with it.
use serde_json::Value;
use std::collections::BTreeSet;

/// Why a pod does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub reason: &'static str,
    pub detail: String,
}

fn finding(reason: &'static str, detail: String) -> Option<Finding> {
    Some(Finding { reason, detail })
}

/// One check: since which version, in whose place of the baseline, and what it asks of annotations and spec.
pub struct Check {
    since: u32,
    /// The baseline check that this stricter one makes superfluous.
    overrides: &'static str,
    name: &'static str,
    run: fn(&Pod<'_>, u32) -> Option<Finding>,
}

const fn check(name: &'static str, since: u32, run: fn(&Pod<'_>, u32) -> Option<Finding>) -> Check {
    Check { since, overrides: "", name, run }
}

const fn instead_of(overrides: &'static str, mut check: Check) -> Check {
    check.overrides = overrides;
    check
}

const BASELINE: &[Check] = &[
    check("appArmorProfile", 0, app_armor),
    check("capabilities", 0, added_capabilities),
    check("hostNamespaces", 0, host_namespaces),
    check("hostPathVolumes", 0, host_paths),
    check("hostPorts", 0, host_ports),
    check("hostProbesAndHostLifecycle", 34, probe_hosts),
    check("privileged", 0, privileged),
    check("procMount", 0, proc_mount_baseline),
    check("seLinuxOptions", 0, se_linux),
    check("seccompProfile", 0, seccomp_baseline),
    check("sysctls", 0, sysctls),
    check("windowsHostProcess", 0, host_process),
];

const RESTRICTED: &[Check] = &[
    check("allowPrivilegeEscalation", 8, privilege_escalation),
    instead_of("capabilities", check("capabilities_restricted", 22, dropped_capabilities)),
    instead_of("procMount", check("procMount_restricted", 0, proc_mount)),
    instead_of("hostPathVolumes", check("restrictedVolumes", 0, volumes)),
    check("runAsNonRoot", 0, run_as_non_root),
    check("runAsUser", 23, run_as_user),
    instead_of("seccompProfile", check("seccompProfile_restricted", 19, seccomp_restricted)),
];

/// Everything about the pod that `baseline` forbids, in the version `minor`.
pub fn baseline(pod: &Pod<'_>, minor: u32) -> Vec<Finding> {
    let applies = BASELINE.iter().filter(|check| check.since <= minor);
    applies.filter_map(|check| (check.run)(pod, minor)).collect()
}

/// Everything that `restricted` forbids, what `baseline` forbids included.
pub fn restricted(pod: &Pod<'_>, minor: u32) -> Vec<Finding> {
    let stricter = || RESTRICTED.iter().filter(|check| check.since <= minor);
    let applies = BASELINE.iter().filter(|check| check.since <= minor);
    let kept = applies.filter(|check| !stricter().any(|other| other.overrides == check.name));
    kept.chain(stricter()).filter_map(|check| (check.run)(pod, minor)).collect()
}

/// A pod, or what a template makes.
pub struct Pod<'a> {
    pub metadata: &'a Value,
    pub spec: &'a Value,
}

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec;
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        lists.into_iter().flat_map(move |list| spec[list].as_array().into_iter().flatten())
    }

    /// The names of the containers that are bad.
    fn bad(&self, is_bad: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|container| is_bad(container)).map(name).collect()
    }

    fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// Root in such a pod is nobody on the node.
    fn has_own_users(&self) -> bool {
        self.spec["hostUsers"] == false
    }
}

fn name(container: &Value) -> &str {
    container["name"].as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn plural(one: &'static str, many: &'static str, count: usize) -> &'static str {
    if count == 1 { one } else { many }
}

fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    items.join(", ")
}

/// `container "a"`, `containers "a", "b"`.
fn of_containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// `pod and containers "a", "b"`; None where nobody is to blame.
fn setters(pod: bool, containers: &[&str]) -> Option<String> {
    let pod = pod.then(|| "pod".to_owned());
    let containers = (!containers.is_empty()).then(|| of_containers(containers));
    let all: Vec<String> = pod.into_iter().chain(containers).collect();
    (!all.is_empty()).then(|| all.join(" and "))
}

const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

fn app_armor(pod: &Pod<'_>, _minor: u32) -> Option<Finding> {
    let mut bad_values = BTreeSet::new();
    let mut is_bad = |of: &Value| {
        let profile = &of["securityContext"]["appArmorProfile"]["type"];
        let bad = profile.is_string() && !matches!(text(profile), "RuntimeDefault" | "Localhost");
        if bad {
            bad_values.insert(text(profile).to_owned());
        }
        bad
    };
    let of_pod = is_bad(pod.spec);
    let containers: Vec<&str> = pod.containers().filter(|c| is_bad(c)).map(name).collect();
    let annotations = pod.metadata["annotations"].as_object().into_iter().flatten();
    let annotations: BTreeSet<String> = annotations
        .filter(|(key, value)| {
            let value = text(value);
            let fine = value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
            key.starts_with(APP_ARMOR_ANNOTATION) && !fine
        })
        .map(|(key, value)| format!("{key}={:?}", text(value)))
        .collect();
    let annotated =
        (!annotations.is_empty()).then(|| plural("annotation", "annotations", annotations.len()).to_owned());
    let blamed: Vec<String> = setters(of_pod, &containers).into_iter().chain(annotated).collect();
    if blamed.is_empty() {
        return None;
    }
    let values: Vec<String> = bad_values.into_iter().chain(annotations).collect();
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    finding(
        reason,
        format!("{} must not set AppArmor profile type to {}", blamed.join(" and "), quoted(values)),
    )
}

const DEFAULT_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

fn adds_beyond<'a>(container: &'a Value, allowed: &'a [&str]) -> impl Iterator<Item = &'a str> {
    let added = list(&container["securityContext"]["capabilities"]["add"]).map(text);
    added.filter(|capability| !allowed.contains(capability))
}

/// Who adds what must not be added.
fn adders<'a>(pod: &Pod<'a>, allowed: &[&str]) -> Option<String> {
    let names = pod.bad(|container| adds_beyond(container, allowed).next().is_some());
    if names.is_empty() {
        return None;
    }
    let added: BTreeSet<&str> =
        pod.containers().flat_map(|container| adds_beyond(container, allowed)).collect();
    let who = of_containers(&names);
    Some(format!("{who} must not include {} in securityContext.capabilities.add", quoted(added)))
}

fn added_capabilities(pod: &Pod<'_>, _minor: u32) -> Option<Finding> {
    finding("non-default capabilities", adders(pod, DEFAULT_CAPABILITIES)?)
}

fn dropped_capabilities(pod: &Pod<'_>, minor: u32) -> Option<Finding> {
    if minor >= 25 && pod.is_windows() {
        return None;
    }
    let drops_all = |container: &Value| {
        list(&container["securityContext"]["capabilities"]["drop"]).any(|capability| capability == "ALL")
    };
    let missing = pod.bad(|container| !drops_all(container));
    let missing = (!missing.is_empty())
        .then(|| format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", of_containers(&missing)));
    let details: Vec<String> = missing.into_iter().chain(adders(pod, &["NET_BIND_SERVICE"])).collect();
    if details.is_empty() {
        return None;
    }
    finding("unrestricted capabilities", details.join("; "))
}

fn host_namespaces(pod: &Pod<'_>, _minor: u32) -> Option<Finding> {
    let fields = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.spec[*field] == true);
    let set: Vec<String> = fields.map(|field| format!("{field}=true")).collect();
    if set.is_empty() {
        return None;
    }
    finding("host namespaces", set.join(", "))
}

fn host_paths(pod: &Pod<'_>, _minor: u32) -> Option<Finding> {
    let bad = list(&pod.spec["volumes"]).filter(|volume| !volume["hostPath"].is_null());
    let names: Vec<&str> = bad.map(name).collect();
    if names.is_empty() {
        return None;
    }
    finding("hostPath volumes", format!("{} {}", plural("volume", "volumes", names.len()), quoted(names)))
}

fn host_ports(pod: &Pod<'_>, _minor: u32) -> Option<Finding> {
    fn ports(container: &Value) -> impl Iterator<Item = String> {
        let ports = list(&container["ports"]).filter_map(|port| port["hostPort"].as_i64());
        ports.filter(|port| *port != 0).map(|port| port.to_string())
    }
    let names = pod.bad(|container| ports(container).next().is_some());
    if names.is_empty() {
        return None;
    }
    let used: BTreeSet<String> = pod.containers().flat_map(ports).collect();
    let word = plural("hostPort", "hostPorts", used.len());
    let used: Vec<String> = used.into_iter().collect();
    let uses = plural("uses", "use", names.len());
    finding("hostPort", format!("{} {uses} {word} {}", of_containers(&names), used.join(", ")))
}

fn probe_hosts(pod: &Pod<'_>, _minor: u32) -> Option<Finding> {
    fn hosts(container: &Value) -> impl Iterator<Item = &str> {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|probe| &container[probe]);
        let hooks = ["postStart", "preStop"].map(|hook| &container["lifecycle"][hook]);
        let handlers = probes.into_iter().chain(hooks);
        let hosts =
            handlers.flat_map(|handler| ["httpGet", "tcpSocket"].map(|kind| text(&handler[kind]["host"])));
        hosts.filter(|host| !host.is_empty())
    }
    let names = pod.bad(|container| hosts(container).next().is_some());
    if names.is_empty() {
        return None;
    }
    let names: BTreeSet<&str> = names.into_iter().collect();
    let names: Vec<&str> = names.into_iter().collect();
    let used: BTreeSet<&str> = pod.containers().flat_map(hosts).collect();
    let word = plural("probe or lifecycle host", "probe or lifecycle hosts", used.len());
    let uses = plural("uses", "use", names.len());
    finding("probe or lifecycle host", format!("{} {uses} {word} {}", of_containers(&names), quoted(used)))
}

fn privileged(pod: &Pod<'_>, _minor: u32) -> Option<Finding> {
    let names = pod.bad(|container| container["securityContext"]["privileged"] == true);
    if names.is_empty() {
        return None;
    }
    finding("privileged", format!("{} must not set securityContext.privileged=true", of_containers(&names)))
}

fn proc_mount_baseline(pod: &Pod<'_>, minor: u32) -> Option<Finding> {
    if minor >= 35 && pod.has_own_users() {
        return None;
    }
    proc_mount(pod, minor)
}

fn proc_mount(pod: &Pod<'_>, _minor: u32) -> Option<Finding> {
    fn other(container: &Value) -> Option<&str> {
        container["securityContext"]["procMount"].as_str().filter(|mount| *mount != "Default")
    }
    let names = pod.bad(|container| other(container).is_some());
    if names.is_empty() {
        return None;
    }
    let mounts: BTreeSet<&str> = pod.containers().filter_map(other).collect();
    let who = of_containers(&names);
    finding("procMount", format!("{who} must not set securityContext.procMount to {}", quoted(mounts)))
}

fn se_linux(pod: &Pod<'_>, minor: u32) -> Option<Finding> {
    let allowed = |kind: &str| {
        matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || (minor >= 31 && kind == "container_engine_t")
    };
    let options = |of: &Value| of["securityContext"]["seLinuxOptions"].clone();
    let is_bad = |of: &Value| {
        let options = options(of);
        let sets = |field: &str| !text(&options[field]).is_empty();
        !allowed(text(&options["type"])) || sets("user") || sets("role")
    };
    let blamed = setters(is_bad(pod.spec), &pod.bad(is_bad))?;
    let all = || std::iter::once(pod.spec).chain(pod.containers()).map(options);
    let types: BTreeSet<String> =
        all().map(|o| text(&o["type"]).to_owned()).filter(|kind| !allowed(kind)).collect();
    let sets = |field: &str| all().any(|options| !text(&options[field]).is_empty());
    let mut told = Vec::new();
    if !types.is_empty() {
        told.push(format!("{} {}", plural("type", "types", types.len()), quoted(&types)));
    }
    for field in ["user", "role"] {
        if sets(field) {
            told.push(format!("{field} may not be set"));
        }
    }
    let detail = format!("{blamed} set forbidden securityContext.seLinuxOptions: {}", told.join("; "));
    finding("seLinuxOptions", detail)
}

fn seccomp_type(of: &Value) -> Option<&str> {
    let profile = &of["securityContext"]["seccompProfile"];
    profile.is_object().then(|| text(&profile["type"]))
}

fn is_confined(profile: &str) -> bool {
    matches!(profile, "RuntimeDefault" | "Localhost")
}

/// Who sets a profile that is none.
fn seccomp_setters(pod: &Pod<'_>) -> Option<Finding> {
    let is_bad = |of: &Value| seccomp_type(of).is_some_and(|profile| !is_confined(profile));
    let blamed = setters(is_bad(pod.spec), &pod.bad(is_bad))?;
    let all = std::iter::once(pod.spec).chain(pod.containers());
    let values: BTreeSet<&str> =
        all.filter_map(seccomp_type).filter(|profile| !is_confined(profile)).collect();
    let detail = format!("{blamed} must not set securityContext.seccompProfile.type to {}", quoted(values));
    finding("seccompProfile", detail)
}

const SECCOMP_POD_ANNOTATION: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER_ANNOTATION: &str = "container.seccomp.security.alpha.kubernetes.io/";

fn seccomp_baseline(pod: &Pod<'_>, minor: u32) -> Option<Finding> {
    if minor >= 19 {
        return seccomp_setters(pod);
    }
    let of_containers = pod.containers().map(|c| format!("{SECCOMP_CONTAINER_ANNOTATION}{}", name(c)));
    let keys = std::iter::once(SECCOMP_POD_ANNOTATION.to_owned()).chain(of_containers);
    let bad: BTreeSet<String> = keys
        .filter_map(|key| {
            let value = pod.metadata["annotations"][&key].as_str()?;
            let fine =
                matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
            (!fine).then(|| format!("{key}={value:?}"))
        })
        .collect();
    if bad.is_empty() {
        return None;
    }
    let word = plural("annotation", "annotations", bad.len());
    finding("seccompProfile", format!("forbidden {word} {}", bad.into_iter().collect::<Vec<_>>().join(", ")))
}

fn seccomp_restricted(pod: &Pod<'_>, minor: u32) -> Option<Finding> {
    if minor >= 25 && pod.is_windows() {
        return None;
    }
    if let Some(bad) = seccomp_setters(pod) {
        return Some(bad);
    }
    if seccomp_type(pod.spec).is_some() {
        return None;
    }
    let missing = pod.bad(|container| seccomp_type(container).is_none());
    if missing.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        of_containers(&missing)
    );
    finding("seccompProfile", detail)
}

/// Sysctls that concern the pod alone, with the version that allowed them.
const SAFE_SYSCTLS: &[(&str, u32)] = &[
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls(pod: &Pod<'_>, minor: u32) -> Option<Finding> {
    let safe = |sysctl: &str| SAFE_SYSCTLS.iter().any(|(name, since)| *name == sysctl && *since <= minor);
    let set = list(&pod.spec["securityContext"]["sysctls"]).map(name);
    let bad: Vec<&str> = set.filter(|sysctl| !safe(sysctl)).collect();
    if bad.is_empty() {
        return None;
    }
    finding("forbidden sysctls", bad.join(", "))
}

fn host_process(pod: &Pod<'_>, _minor: u32) -> Option<Finding> {
    let is_bad = |of: &Value| of["securityContext"]["windowsOptions"]["hostProcess"] == true;
    let blamed = setters(is_bad(pod.spec), &pod.bad(is_bad))?;
    finding("hostProcess", format!("{blamed} must not set securityContext.windowsOptions.hostProcess=true"))
}

fn privilege_escalation(pod: &Pod<'_>, minor: u32) -> Option<Finding> {
    if minor >= 25 && pod.is_windows() {
        return None;
    }
    let names = pod.bad(|container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    if names.is_empty() {
        return None;
    }
    let who = of_containers(&names);
    let detail = format!("{who} must set securityContext.allowPrivilegeEscalation=false");
    finding("allowPrivilegeEscalation != false", detail)
}

fn volumes(pod: &Pod<'_>, _minor: u32) -> Option<Finding> {
    const ALLOWED: &[&str] = &[
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let is_allowed = |volume: &Value| ALLOWED.iter().any(|source| !volume[*source].is_null());
    let volumes = list(&pod.spec["volumes"]).filter(|volume| !is_allowed(volume));
    let bad: BTreeSet<(&str, &str)> = volumes.map(|volume| (name(volume), source(volume))).collect();
    if bad.is_empty() {
        return None;
    }
    let types: BTreeSet<&str> = bad.iter().map(|(_, source)| *source).collect();
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", bad.len()),
        quoted(bad.iter().map(|(name, _)| *name)),
        plural("uses", "use", bad.len()),
        plural("restricted volume type", "restricted volume types", types.len()),
        quoted(&types)
    );
    finding("restricted volume types", detail)
}

fn source(volume: &Value) -> &str {
    let fields = volume.as_object().into_iter().flatten().map(|(field, _)| field.as_str());
    fields.into_iter().find(|field| *field != "name").unwrap_or("unknown")
}

fn run_as_non_root(pod: &Pod<'_>, minor: u32) -> Option<Finding> {
    if minor >= 35 && pod.has_own_users() {
        return None;
    }
    let told = |of: &Value| of["securityContext"]["runAsNonRoot"].as_bool();
    let reason = "runAsNonRoot != true";
    if let Some(blamed) = setters(told(pod.spec) == Some(false), &pod.bad(|c| told(c) == Some(false))) {
        return finding(reason, format!("{blamed} must not set securityContext.runAsNonRoot=false"));
    }
    if told(pod.spec) == Some(true) {
        return None;
    }
    let missing = pod.bad(|container| told(container).is_none());
    if missing.is_empty() {
        return None;
    }
    let who = of_containers(&missing);
    finding(reason, format!("pod or {who} must set securityContext.runAsNonRoot=true"))
}

fn run_as_user(pod: &Pod<'_>, minor: u32) -> Option<Finding> {
    if minor >= 35 && pod.has_own_users() {
        return None;
    }
    let is_bad = |of: &Value| of["securityContext"]["runAsUser"].as_i64() == Some(0);
    let blamed = setters(is_bad(pod.spec), &pod.bad(is_bad))?;
    finding("runAsUser=0", format!("{blamed} must not set runAsUser=0"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LATEST: u32 = 36;

    fn told(findings: &[Finding]) -> String {
        let each = findings.iter().map(|f| format!("{} ({})", f.reason, f.detail));
        each.collect::<Vec<_>>().join(", ")
    }

    fn baseline_of(spec: Value) -> String {
        told(&baseline(&Pod { metadata: &json!({}), spec: &spec }, LATEST))
    }

    fn restricted_of(spec: Value, minor: u32) -> String {
        told(&restricted(&Pod { metadata: &json!({}), spec: &spec }, minor))
    }

    /// A pod spec that `restricted` allows.
    fn good() -> Value {
        let context = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        json!({
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": context}],
        })
    }

    #[test]
    fn what_is_careful_fits_every_level() {
        assert_eq!(restricted_of(good(), LATEST), "");
        assert_eq!(baseline_of(json!({"containers": [{"name": "a"}]})), "");
    }

    #[test]
    fn an_ordinary_pod_is_told_all_that_restricted_wants() {
        assert_eq!(
            restricted_of(json!({"containers": [{"name": "nginx"}]}), LATEST),
            r#"allowPrivilegeEscalation != false (container "nginx" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "nginx" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or container "nginx" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container "nginx" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#
        );
    }

    #[test]
    fn each_baseline_check_says_who_and_what() {
        let of = |context: Value| json!({"containers": [{"name": "a", "securityContext": context}]});
        let rows = [
            (
                json!({"hostNetwork": true, "hostPID": true, "containers": [{"name": "a"}]}),
                "host namespaces (hostNetwork=true, hostPID=true)",
            ),
            (
                of(json!({"privileged": true})),
                r#"privileged (container "a" must not set securityContext.privileged=true)"#,
            ),
            (
                of(json!({"capabilities": {"add": ["NET_ADMIN", "KILL"]}})),
                r#"non-default capabilities (container "a" must not include "NET_ADMIN" in securityContext.capabilities.add)"#,
            ),
            (
                json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "hostPath": {"path": "/"}}]}),
                r#"hostPath volumes (volumes "v", "w")"#,
            ),
            (
                json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 443}]}]}),
                r#"hostPort (container "a" uses hostPorts 443, 80)"#,
            ),
            (
                json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "10.0.0.1"}}}]}),
                r#"probe or lifecycle host (container "a" uses probe or lifecycle host "10.0.0.1")"#,
            ),
            (
                of(json!({"procMount": "Unmasked"})),
                r#"procMount (container "a" must not set securityContext.procMount to "Unmasked")"#,
            ),
            (
                of(json!({"seLinuxOptions": {"type": "spc_t", "user": "u"}})),
                r#"seLinuxOptions (container "a" set forbidden securityContext.seLinuxOptions: type "spc_t"; user may not be set)"#,
            ),
            (
                json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}, "containers": [
                    {"name": "a", "securityContext": {"seccompProfile": {"type": "Unconfined"}}}]}),
                r#"seccompProfile (pod and container "a" must not set securityContext.seccompProfile.type to "Unconfined")"#,
            ),
            (
                json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"}]}}),
                "forbidden sysctls (kernel.msgmax)",
            ),
            (
                of(json!({"windowsOptions": {"hostProcess": true}})),
                r#"hostProcess (container "a" must not set securityContext.windowsOptions.hostProcess=true)"#,
            ),
            (
                of(json!({"appArmorProfile": {"type": "Unconfined"}})),
                r#"forbidden AppArmor profile (container "a" must not set AppArmor profile type to "Unconfined")"#,
            ),
        ];
        for (spec, expected) in rows {
            assert_eq!(baseline_of(spec), expected);
        }
        let annotated =
            json!({"annotations": {"container.apparmor.security.beta.kubernetes.io/a": "unconfined"}});
        let found = baseline(&Pod { metadata: &annotated, spec: &json!({}) }, LATEST);
        assert_eq!(found[0].reason, "forbidden AppArmor profile");
    }

    #[test]
    fn restricted_says_more_where_it_is_stricter_and_nothing_twice() {
        let mut spec = good();
        spec["volumes"] = json!([{"name": "v", "hostPath": {"path": "/"}}, {"name": "n", "nfs": {}}, {"name": "e", "emptyDir": {}}]);
        spec["containers"][0]["securityContext"]["capabilities"]["add"] =
            json!(["NET_ADMIN", "NET_BIND_SERVICE"]);
        spec["containers"][0]["securityContext"]["runAsUser"] = json!(0);
        assert_eq!(
            restricted_of(spec, LATEST),
            r#"unrestricted capabilities (container "a" must not include "NET_ADMIN" in securityContext.capabilities.add), restricted volume types (volumes "n", "v" use restricted volume types "hostPath", "nfs"), runAsUser=0 (container "a" must not set runAsUser=0)"#
        );
    }

    #[test]
    fn an_older_version_asks_what_it_asked_then() {
        let mut spec = good();
        spec["containers"][0]["securityContext"]["runAsUser"] = json!(0);
        assert_eq!(restricted_of(spec.clone(), 22), "");
        assert_ne!(restricted_of(spec.clone(), 23), "");
        spec["hostUsers"] = false.into();
        assert_ne!(restricted_of(spec.clone(), 34), "");
        assert_eq!(restricted_of(spec, 35), "", "root of a pod with users of its own is nobody outside");
        let windows = json!({"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true}, "containers": [{"name": "a"}]});
        assert_eq!(restricted_of(windows.clone(), 25), "");
        assert_ne!(restricted_of(windows, 24), "");
        let sysctl = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}});
        let pod = Pod { metadata: &json!({}), spec: &sysctl };
        assert_eq!((baseline(&pod, 31).len(), baseline(&pod, 32).len()), (1, 0));
    }
}
