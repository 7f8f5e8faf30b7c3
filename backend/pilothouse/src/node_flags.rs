//! What an operator sets of a node: kubelet's flags, by their names.
use anyhow::{Result, anyhow};
use clap::Args;
use pilothouse_node::settings::{self, EvictionRules, Settings, ShutdownGrace};
use std::ffi::OsString;
use std::path::PathBuf;

/// What `up` sets where nothing else is said: a developer's disk is seldom a tenth empty, and the first run must not taint it.
const LOCAL_EVICTION: &str = "memory.available<100Mi,nodefs.available<5%,nodefs.inodesFree<5%,imagefs.available<5%,imagefs.inodesFree<5%";

#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Node")]
pub struct NodeFlags {
    /// Labels of this node, beside those it finds out: key=value,…
    #[arg(long, value_name = "LABELS")]
    pub node_labels: Option<String>,
    /// Taints of this node when it is new: key=value:Effect,…
    #[arg(long, value_name = "TAINTS")]
    pub register_with_taints: Option<String>,
    /// Pods that run here at most
    #[arg(long, value_name = "COUNT")]
    pub max_pods: Option<String>,
    /// What is kept from pods for the machine's own programs: cpu=100m,memory=256Mi,…
    #[arg(long, value_name = "AMOUNTS")]
    pub system_reserved: Option<String>,
    /// Below what a pod is evicted at once: memory.available<100Mi,nodefs.available<10%,…
    #[arg(long, value_name = "THRESHOLDS")]
    pub eviction_hard: Option<String>,
    /// Below what a pod is evicted when that lasts
    #[arg(long, value_name = "THRESHOLDS")]
    pub eviction_soft: Option<String>,
    /// How long that must last: memory.available=1m30s,…
    #[arg(long, value_name = "DURATIONS")]
    pub eviction_soft_grace_period: Option<String>,
    /// What an eviction frees at least: nodefs.available=1Gi,…
    #[arg(long, value_name = "AMOUNTS")]
    pub eviction_minimum_reclaim: Option<String>,
    /// Seconds that a pod evicted for a soft threshold may take to end
    #[arg(long, value_name = "SECONDS")]
    pub eviction_max_pod_grace_period: Option<String>,
    /// How long the node is told to be short after it was last [default: 5m]
    #[arg(long, value_name = "DURATION")]
    pub eviction_pressure_transition_period: Option<String>,
    /// Percent of the disk in use above which images that nobody needs go [default: 85]
    #[arg(long, value_name = "PERCENT")]
    pub image_gc_high_threshold: Option<String>,
    /// Percent of the disk in use down to which they go [default: 80]
    #[arg(long, value_name = "PERCENT")]
    pub image_gc_low_threshold: Option<String>,
    /// How long an image is kept in any case [default: 2m]
    #[arg(long, value_name = "DURATION")]
    pub minimum_image_ttl_duration: Option<String>,
    /// Directory with manifests of pods that run here whether or not there is a server
    #[arg(long, value_name = "DIR")]
    pub pod_manifest_path: Option<String>,
    /// Directory by which storage drivers (CSI) and the node find each other [default: /var/lib/kubelet]
    #[arg(long, value_name = "DIR")]
    pub root_dir: Option<String>,
    /// How long a shutdown of this machine waits for its pods to end; needs systemd's logind
    #[arg(long, value_name = "DURATION")]
    pub shutdown_grace_period: Option<String>,
    /// How much of that is for critical pods, after the others
    #[arg(long, value_name = "DURATION", requires = "shutdown_grace_period")]
    pub shutdown_grace_period_critical_pods: Option<String>,
}

impl NodeFlags {
    /// Every flag that was given, by name.
    fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [
            ("--node-labels", &self.node_labels),
            ("--register-with-taints", &self.register_with_taints),
            ("--max-pods", &self.max_pods),
            ("--system-reserved", &self.system_reserved),
            ("--eviction-hard", &self.eviction_hard),
            ("--eviction-soft", &self.eviction_soft),
            ("--eviction-soft-grace-period", &self.eviction_soft_grace_period),
            ("--eviction-minimum-reclaim", &self.eviction_minimum_reclaim),
            ("--eviction-max-pod-grace-period", &self.eviction_max_pod_grace_period),
            ("--eviction-pressure-transition-period", &self.eviction_pressure_transition_period),
            ("--image-gc-high-threshold", &self.image_gc_high_threshold),
            ("--image-gc-low-threshold", &self.image_gc_low_threshold),
            ("--minimum-image-ttl-duration", &self.minimum_image_ttl_duration),
            ("--pod-manifest-path", &self.pod_manifest_path),
            ("--root-dir", &self.root_dir),
            ("--shutdown-grace-period", &self.shutdown_grace_period),
            ("--shutdown-grace-period-critical-pods", &self.shutdown_grace_period_critical_pods),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }

    /// For the agent that `up` starts.
    pub fn arguments(&self) -> Vec<OsString> {
        let given = self.given().flat_map(|(name, value)| [name.into(), value.into()]);
        let thresholds = ["--eviction-hard".into(), LOCAL_EVICTION.into()];
        given.chain(thresholds.into_iter().filter(|_| self.eviction_hard.is_none())).collect()
    }

    pub fn settings(&self) -> Result<Settings> {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let bad = |flag: &'static str| move |why: String| anyhow!("{flag}: {why}");
        let number = |flag: &'static str, value: &Option<String>, default: u64| match value {
            Some(text) => text.parse().map_err(|_| anyhow!("{flag}: {text:?} is no number")),
            None => Ok(default),
        };
        let seconds = |flag: &'static str, value: &Option<String>, default: i64| match value {
            Some(text) => settings::seconds(text).map_err(|why| anyhow!("{flag}: {why}")),
            None => Ok(default),
        };
        let mut all = Settings::default();
        let hard = self.eviction_hard.as_deref().unwrap_or(settings::DEFAULT_HARD);
        let (soft, grace) = (text(&self.eviction_soft), text(&self.eviction_soft_grace_period));
        let reclaim = text(&self.eviction_minimum_reclaim);
        all.eviction = EvictionRules::parse(hard, &soft, &grace, &reclaim)
            .map_err(|why| anyhow!("--eviction-…: {why}"))?;
        let most = number("--eviction-max-pod-grace-period", &self.eviction_max_pod_grace_period, 0)?;
        all.eviction.max_grace_seconds = i64::try_from(most)?;
        all.eviction.transition_seconds = seconds(
            "--eviction-pressure-transition-period",
            &self.eviction_pressure_transition_period,
            all.eviction.transition_seconds,
        )?;
        let images = &mut all.images;
        images.high_percent =
            number("--image-gc-high-threshold", &self.image_gc_high_threshold, images.high_percent)?;
        images.low_percent =
            number("--image-gc-low-threshold", &self.image_gc_low_threshold, images.low_percent)?;
        if images.low_percent >= images.high_percent || images.high_percent > 100 {
            return Err(anyhow!("--image-gc-low-threshold must be below --image-gc-high-threshold"));
        }
        let ttl = &self.minimum_image_ttl_duration;
        images.least_age_seconds = seconds("--minimum-image-ttl-duration", ttl, images.least_age_seconds)?;
        all.labels = settings::labels(&text(&self.node_labels)).map_err(bad("--node-labels"))?;
        all.taints =
            settings::taints(&text(&self.register_with_taints)).map_err(bad("--register-with-taints"))?;
        all.reserved = settings::reserved(&text(&self.system_reserved)).map_err(bad("--system-reserved"))?;
        all.max_pods = u32::try_from(number("--max-pods", &self.max_pods, all.max_pods.into())?)?;
        let total = seconds("--shutdown-grace-period", &self.shutdown_grace_period, 0)?;
        let critical = &self.shutdown_grace_period_critical_pods;
        let critical = seconds("--shutdown-grace-period-critical-pods", critical, 0)?;
        if critical > total {
            return Err(anyhow!(
                "--shutdown-grace-period-critical-pods must not be above --shutdown-grace-period"
            ));
        }
        all.shutdown_grace = (total > 0).then_some(ShutdownGrace { total, critical });
        all.static_pods = self.pod_manifest_path.as_ref().map(PathBuf::from);
        if let Some(dir) = &self.root_dir {
            all.root_dir = std::path::absolute(dir)?;
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_reach_the_agent_and_are_checked_there() {
        let flags = NodeFlags {
            node_labels: Some("disk=ssd".into()),
            max_pods: Some("40".into()),
            eviction_soft: Some("memory.available<1Gi".into()),
            eviction_soft_grace_period: Some("memory.available=90s".into()),
            ..NodeFlags::default()
        };
        let settings = flags.settings().unwrap();
        assert_eq!((settings.max_pods, settings.labels["disk"].as_str()), (40, "ssd"));
        assert_eq!(settings.eviction.thresholds.len(), 6);
        assert_eq!(flags.arguments().len(), 2 * 5, "and the thresholds of a first run");
        let refused = |flags: NodeFlags| flags.settings().unwrap_err().to_string();
        let bad = NodeFlags { system_reserved: Some("gpu=1".into()), ..NodeFlags::default() };
        assert_eq!(refused(bad), "--system-reserved: \"gpu\" cannot be reserved");
        let grace = |total: &str, critical: &str| NodeFlags {
            shutdown_grace_period: Some(total.into()),
            shutdown_grace_period_critical_pods: Some(critical.into()),
            ..NodeFlags::default()
        };
        let given = grace("1m", "20s").settings().unwrap().shutdown_grace;
        assert_eq!(given, Some(ShutdownGrace { total: 60, critical: 20 }));
        assert!(refused(grace("10s", "20s")).contains("must not be above"));
        assert_eq!(NodeFlags::default().settings().unwrap().shutdown_grace, None);
        let bad = NodeFlags { image_gc_low_threshold: Some("90".into()), ..NodeFlags::default() };
        assert!(refused(bad).contains("must be below"));
    }
}
