//! The files that a node writes into its pods: /etc/resolv.conf, /etc/hosts, /etc/hostname; and what a pod calls itself.
use crate::network::dns;
use crate::runtime::Container;
use crate::volumes::bind;
use anyhow::Result;
use bollard::models::Mount;
use serde_json::Value;
use std::path::Path;

/// What Linux takes as a host name.
const LONGEST_HOSTNAME: usize = 63;
const HOSTS_HEAD: &str = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";

/// The pod's name in its subdomain, where it has one.
fn domain_name(pod: &Value) -> Option<String> {
    let subdomain = pod["spec"]["subdomain"].as_str().filter(|s| !s.is_empty())?;
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    Some(format!("{}.{subdomain}.{namespace}.svc.{}", short_name(pod), dns::DOMAIN))
}

fn short_name(pod: &Value) -> String {
    let own = pod["spec"]["hostname"].as_str().filter(|name| !name.is_empty());
    let name = own.or(pod["metadata"]["name"].as_str()).unwrap_or_default();
    let name: String = name.chars().take(LONGEST_HOSTNAME).collect();
    name.trim_end_matches(['-', '.']).to_owned()
}

pub fn hostname(pod: &Value) -> String {
    match domain_name(pod).filter(|_| pod["spec"]["setHostnameAsFQDN"] == true) {
        Some(full) => full,
        None => short_name(pod),
    }
}

/// The pod's own resolv.conf, hosts and hostname, the same in all its containers. A file that a volume covers is not
/// ours.
pub fn etc(pod_dir: &Path, pod: &Value, spec: &Value, sandbox: &Container) -> Result<Vec<Mount>> {
    let dir = pod_dir.join("etc");
    std::fs::create_dir_all(&dir)?;
    let mut files = vec![("resolv.conf", dns::resolv_conf(pod))];
    match pod["spec"]["hostNetwork"] == true {
        false => {
            files.push(("hosts", hosts(HOSTS_HEAD, pod, Some(&sandbox.address))));
            files.push(("hostname", format!("{}\n", hostname(pod))));
        }
        true if pod["spec"]["hostAliases"].is_array() => {
            let own = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            files.push(("hosts", hosts(&own, pod, None)));
        }
        true => {}
    }
    let mut mounts = Vec::new();
    for (name, text) in files {
        let target = format!("/etc/{name}");
        let covered = spec["volumeMounts"].as_array().into_iter().flatten();
        if covered.into_iter().any(|m| m["mountPath"] == target.as_str()) {
            continue;
        }
        let path = dir.join(name);
        // In place: containers that run have this very file mounted.
        if std::fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            std::fs::write(&path, text)?;
        }
        mounts.push(bind(&path, &target, false));
    }
    Ok(mounts)
}

fn hosts(head: &str, pod: &Value, address: Option<&str>) -> String {
    let mut text = head.to_owned();
    if let Some(address) = address {
        let names =
            domain_name(pod).map_or_else(|| short_name(pod), |full| format!("{full}\t{}", short_name(pod)));
        text.push_str(&format!("{address}\t{names}\n"));
    }
    let aliases = pod["spec"]["hostAliases"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names: Vec<&str> =
            alias["hostnames"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        text.push_str(&format!("{}\t{}\n", alias["ip"].as_str().unwrap_or_default(), names.join("\t")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_is_named_by_its_spec_and_its_subdomain() {
        let pod = |spec: Value| json!({"metadata": {"name": "web-0", "namespace": "shop"}, "spec": spec});
        assert_eq!(hostname(&pod(json!({}))), "web-0");
        assert_eq!(hostname(&pod(json!({"hostname": "db"}))), "db");
        let full = pod(json!({"subdomain": "web", "setHostnameAsFQDN": true,
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        assert_eq!(hostname(&full), "web-0.web.shop.svc.cluster.local");
        let text = hosts("", &full, Some("10.244.0.2"));
        assert!(text.starts_with("10.244.0.2\tweb-0.web.shop.svc.cluster.local\tweb-0\n"), "{text}");
        assert!(text.ends_with("1.2.3.4\ta\tb\n"), "{text}");
    }
}
