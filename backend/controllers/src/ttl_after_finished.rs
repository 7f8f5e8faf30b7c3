//! Removes jobs that ended, so many seconds later (`spec.ttlSecondsAfterFinished`).
use crate::cluster::{Cluster, JOBS};
use crate::cron_job;
use crate::object::*;
use crate::{Action, Controller, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::lifecycle::DeleteOptions;
use pilothouse_api::{Key, Observed};

pub struct TtlAfterFinished;

/// How soon to look again for a cron job that has not taken note of its job.
const NOTE_SECONDS: i64 = 5;

impl Controller for TtlAfterFinished {
    fn name(&self) -> &'static str {
        "ttl-after-finished-controller"
    }

    fn keys(&self, change: &Observed, _cluster: &Cluster) -> Vec<Key> {
        if &*change.key.resource == JOBS { vec![change.key.clone()] } else { Vec::new() }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(JOBS).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(job) = cluster.get(key).filter(|job| !is_deleting(job)) else { return plan };
        let Some(seconds) = job["spec"]["ttlSecondsAfterFinished"].as_i64() else { return plan };
        let ended = ["Complete", "Failed"].iter().filter_map(|how| condition(&job, how));
        let ended = ended.filter(|c| c["status"] == "True").find_map(|c| time(&c["lastTransitionTime"]));
        match ended.map(|at| later(at, seconds)) {
            None => {}
            Some(at) if at > now => plan.check_again(at),
            Some(_) if !cron_job::is_noted(&job, cluster) => plan.check_again(later(now, NOTE_SECONDS)),
            Some(_) => {
                let options = DeleteOptions {
                    uid: Some(uid(&job).to_owned()),
                    resource_version: job["metadata"]["resourceVersion"].as_str().map(str::to_owned),
                    propagation_policy: Some("Foreground".into()),
                    ..DeleteOptions::default()
                };
                plan.actions.push(Action::Delete { key: key.clone(), options });
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::PODS;
    use crate::world::World;
    use serde_json::json;

    #[test]
    fn a_job_goes_with_its_pods_when_its_time_is_up() {
        let mut world = World::new();
        let pod = json!({"restartPolicy": "Never", "containers": [{"name": "main", "image": "work"}]});
        world.create(json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work"},
            "spec": {"ttlSecondsAfterFinished": 60, "template": {"spec": pod}},
        }));
        world.settle();
        world.pass(3600);
        world.converge();
        let (pod, _) = world.all(PODS).remove(0);
        world.finish_pod(&pod, 0);
        world.settle();
        world.pass(59);
        world.settle();
        assert_eq!(world.all(JOBS).len(), 1);
        world.pass(1);
        world.converge();
        assert!(world.all(JOBS).is_empty() && world.all(PODS).is_empty());
    }
}
