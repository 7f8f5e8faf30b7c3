//! DaemonSet: one pod of a template on every node that fits (`daemon_controller.go` and `update.go` of Kubernetes).
mod placement;
mod rolling;
#[cfg(test)]
mod tests;

use crate::cluster::{CONTROLLER_REVISIONS, Cluster, NODES, PODS};
use crate::history::History;
use crate::node::Node;
use crate::object::*;
use crate::pod::Pod;
use crate::workload::{
    BURST, Names, Pods, REVISION_LABEL, burst, claim, is_available, owner_keys, pod_from_template,
};
use crate::{Controller, Part, Plan};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed};
use placement::Placement;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub struct DaemonSets;

const NAME: &str = "daemon-set-controller";
const DAEMON_SETS: &str = "daemonsets.apps";
const KIND: &str = "DaemonSet";
const GENERATION: &str = "deprecated.daemonset.template.generation";
/// A pod that failed is replaced only so long after it was made: one that the node refuses again and again must not keep
/// the whole cluster busy.
const RETRY_SECONDS: i64 = 30;

impl Controller for DaemonSets {
    fn name(&self) -> &'static str {
        NAME
    }

    fn keys(&self, change: &Observed, cluster: &Cluster) -> Vec<Key> {
        match &*change.key.resource {
            DAEMON_SETS => vec![change.key.clone()],
            PODS | CONTROLLER_REVISIONS => owner_keys(change, KIND, DAEMON_SETS, cluster),
            // A node tells its state every few seconds; what decides about pods changes seldom.
            NODES => {
                let facts = |node: &Option<_>| node.as_deref().map(Node::new);
                match facts(&change.object) == facts(&change.previous) {
                    true => Vec::new(),
                    false => cluster.keys(DAEMON_SETS).collect(),
                }
            }
            _ => Vec::new(),
        }
    }

    fn all_keys(&self, cluster: &Cluster) -> Vec<Key> {
        cluster.keys(DAEMON_SETS).collect()
    }

    fn reconcile(&self, key: &Key, cluster: &Cluster, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(set) = cluster.get(key) else { return plan };
        let Some(selector) = cluster.selector(key) else { return plan };
        let pods = claim(&set, selector, cluster, &mut plan, |_, _| true);
        let Some(mut history) = History::observe(&set, key, cluster, &mut plan) else { return plan };
        if !plan.is_empty() || is_deleting(&set) {
            return plan;
        }
        let Some(revision) = history.newest(&set, REVISION_LABEL, cluster, &mut plan) else {
            if history.collisions != count(&set["status"]["collisionCount"]) {
                let mut next = Value::clone(&set);
                next["status"]["collisionCount"] = history.collisions.into();
                plan.update(key.clone(), next, Part::Status);
            }
            return plan;
        };
        let hash = text(&revision.object["metadata"]["labels"], REVISION_LABEL).to_owned();
        let mut run = Run::new(key, &set, cluster, now, hash, pods, &mut plan);
        run.keep_one_on_each_node(&mut plan);
        if set["spec"]["updateStrategy"]["type"] != "OnDelete" {
            run.roll();
        }
        run.write_pods(&mut plan);
        run.write_status(history.collisions, &mut plan);
        let hashes: BTreeSet<&str> = run.all_pods().map(|p| p.hash()).chain([&*run.hash]).collect();
        let is_live = |object: &Value| hashes.contains(text(&object["metadata"]["labels"], REVISION_LABEL));
        let live = history.revisions.iter().filter(|revision| is_live(&revision.object));
        history.clean_up(&set, &live.map(|revision| revision.name()).collect(), &mut plan);
        plan
    }
}

/// A pod as the set sees it.
#[derive(Clone, Copy)]
struct Member<'a> {
    key: &'a Key,
    pod: &'a Pod,
    is_available: bool,
}

impl Member<'_> {
    fn hash(&self) -> &str {
        self.pod.labels.get(REVISION_LABEL).map_or("", String::as_str)
    }
}

/// What the set wants of a node.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wish {
    /// A pod runs here.
    Run,
    /// One that is here may go on; none is started.
    Keep,
    None,
}

struct Run<'a> {
    key: &'a Key,
    set: &'a Value,
    cluster: &'a Cluster,
    now: Timestamp,
    /// Of today's template.
    hash: String,
    /// Every node that is wanted or has pods.
    nodes: BTreeMap<&'a str, (Wish, Vec<Member<'a>>)>,
    doomed: BTreeSet<&'a Key>,
    /// Nodes that get a pod.
    chosen: BTreeSet<&'a str>,
}

impl<'a> Run<'a> {
    fn new(
        key: &'a Key,
        set: &'a Value,
        cluster: &'a Cluster,
        now: Timestamp,
        hash: String,
        pods: Pods<'a>,
        plan: &mut Plan,
    ) -> Self {
        let placement = Placement::of(&set["spec"]["template"]["spec"]);
        let mut nodes: BTreeMap<&str, (Wish, Vec<Member<'_>>)> = cluster
            .nodes()
            .map(|(name, node)| (name, (placement.wish(name, node), Vec::new())))
            .filter(|(_, (wish, _))| *wish != Wish::None)
            .collect();
        let min_ready = count(&set["spec"]["minReadySeconds"]);
        for (pod_key, pod) in pods {
            // One without a node and without a wish for one is nobody's; the scheduler would put it anywhere.
            let node = pod.node.as_deref().or(pod.target.as_deref()).unwrap_or_default();
            let wish = || cluster.node(node).map_or(Wish::None, |facts| placement.wish(node, facts));
            let is_available = !pod.is_deleting && is_available(pod, min_ready, now, plan);
            let (_, members) = nodes.entry(node).or_insert_with(|| (wish(), Vec::new()));
            members.push(Member { key: pod_key, pod, is_available });
        }
        for (_, members) in nodes.values_mut() {
            members.sort_by_key(|m| (m.pod.node.is_none(), m.pod.created, m.key));
        }
        Self { key, set, cluster, now, hash, nodes, doomed: BTreeSet::new(), chosen: BTreeSet::new() }
    }

    fn all_pods(&self) -> impl Iterator<Item = &Member<'a>> {
        self.nodes.values().flat_map(|(_, members)| members)
    }

    fn is_new(&self, member: &Member<'_>) -> bool {
        member.hash() == self.hash
    }

    /// A pod where one is wanted, none where it is not, and never two but while one takes over from the other.
    fn keep_one_on_each_node(&mut self, plan: &mut Plan) {
        for (node, (wish, members)) in &self.nodes {
            if *wish == Wish::None {
                self.doomed.extend(members.iter().filter(|m| !m.pod.is_deleting).map(|m| m.key));
                continue;
            }
            if members.is_empty() {
                self.chosen.insert(node);
                continue;
            }
            let mut running = Vec::new();
            for member in members.iter().filter(|m| !m.pod.is_deleting) {
                if !member.pod.is_terminal() {
                    running.push(member);
                    continue;
                }
                let retry_at = later(member.pod.created.unwrap_or(self.now), RETRY_SECONDS);
                if retry_at > self.now {
                    plan.check_again(retry_at);
                } else {
                    self.doomed.insert(member.key);
                }
            }
            let surplus = match self.bounds().0 {
                0 => running.into_iter().skip(1).collect(),
                _ => self.surplus_of_surge(running),
            };
            self.doomed.extend(surplus.into_iter().map(|member| member.key));
        }
    }

    /// With a surge there may be two: the oldest of the new template, and until that serves one of an old template: one
    /// that is ready, if there is one.
    fn surplus_of_surge<'m>(&self, running: Vec<&'m Member<'a>>) -> Vec<&'m Member<'a>> {
        let (new, mut old): (Vec<&Member<'_>>, Vec<&Member<'_>>) =
            running.into_iter().partition(|member| self.is_new(member));
        old.sort_by_key(|member| !member.pod.is_ready());
        let taken_over = old.first().is_some_and(|old| !old.pod.is_ready())
            || new.first().is_some_and(|new| new.is_available);
        let kept_old = usize::from(new.is_empty() || !taken_over);
        new.into_iter().skip(1).chain(old.into_iter().skip(kept_old)).collect()
    }

    fn write_pods(&self, plan: &mut Plan) {
        for key in self.doomed.iter().take(BURST) {
            let Some(object) = self.cluster.get(key) else { continue };
            plan.delete((*key).clone(), &object);
            plan.event(self.set, "Normal", "SuccessfulDelete", format!("Deleted pod: {}", key.name));
        }
        let count = self.chosen.len().min(burst(NAME, self.key, self.cluster));
        let names = Names::new(self.set, self.cluster).free(name(self.set), count);
        for (node, pod_name) in self.chosen.iter().zip(names) {
            let key = Key::new(PODS, self.key.namespace.clone(), pod_name.as_str());
            plan.create(key, self.new_pod(node, &pod_name));
            plan.event(self.set, "Normal", "SuccessfulCreate", format!("Created pod: {pod_name}"));
        }
    }

    fn new_pod(&self, node: &str, pod_name: &str) -> Value {
        let mut pod = pod_from_template(self.set, pod_name);
        pod["metadata"]["labels"][REVISION_LABEL] = self.hash.as_str().into();
        if let Some(generation) = annotation(self.set, GENERATION) {
            pod["metadata"]["labels"]["pod-template-generation"] = generation.into();
        }
        placement::tie_to_node(&mut pod["spec"], node);
        pod
    }

    fn write_status(&self, collisions: i64, plan: &mut Plan) {
        let (mut desired, mut current, mut stray) = (0, 0, 0);
        let (mut ready, mut available, mut updated) = (0, 0, 0);
        for (wish, members) in self.nodes.values() {
            if *wish != Wish::Run {
                stray += i64::from(!members.is_empty());
                continue;
            }
            desired += 1;
            current += i64::from(!members.is_empty());
            ready += i64::from(members.iter().any(|m| m.pod.is_ready() && !m.pod.is_deleting));
            available += i64::from(members.iter().any(|m| m.is_available));
            updated += i64::from(members.iter().any(|m| self.is_new(m) && !m.pod.is_deleting));
        }
        let mut status = json!({
            "observedGeneration": self.set["metadata"]["generation"], "desiredNumberScheduled": desired,
            "currentNumberScheduled": current, "numberMisscheduled": stray, "numberReady": ready,
        });
        let counts = [
            ("updatedNumberScheduled", updated),
            ("numberAvailable", available),
            ("numberUnavailable", desired - available),
            ("collisionCount", collisions),
        ];
        for (field, value) in counts.into_iter().filter(|(_, value)| *value > 0) {
            status[field] = value.into();
        }
        if self.set["status"]["conditions"].is_array() {
            status["conditions"] = self.set["status"]["conditions"].clone();
        }
        if let Some(next) = with_status(self.set, status) {
            plan.update(self.key.clone(), next, Part::Status);
        }
    }
}
