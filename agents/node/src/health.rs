//! The health of a pod's running containers: their probes run beside the pod's worker and tell it what
//! changes.
use crate::agent::Agent;
use crate::pod_sync::{Health, Unhealthy, spec_of};
use crate::pod_worker::Worker;
use crate::probes::{self, Target};
use crate::runtime::{Container, ObservedPod, State};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// Starts the probes of containers that run, ends those of containers that are gone.
pub fn watch(
    agent: &Arc<Agent>,
    worker: &Arc<Worker>,
    pod: &Arc<Value>,
    observed: &ObservedPod,
    probing: &mut HashMap<String, tokio::task::AbortHandle>,
) {
    let running: HashMap<&str, &Container> = observed
        .containers
        .iter()
        .filter(|c| c.state == State::Running)
        .map(|c| (c.id.as_str(), c))
        .collect();
    probing.retain(|id, task| {
        let keep = running.contains_key(id.as_str());
        if !keep {
            task.abort();
        }
        keep
    });
    worker.memory.lock().health.retain(|id, _| running.contains_key(id.as_str()));
    for container in running.values() {
        if probing.contains_key(&container.id) {
            continue;
        }
        let Some(spec) = spec_of(pod, &container.name) else { continue };
        // A hook that failed has said so already.
        worker.memory.lock().health.entry(container.id.clone()).or_insert_with(|| Health {
            started: spec["startupProbe"].is_null(),
            ready: spec["readinessProbe"].is_null(),
            unhealthy: None,
        });
        let probed = Probed {
            agent: agent.clone(),
            worker: worker.clone(),
            pod: pod.clone(),
            spec: spec.clone(),
            container: (*container).clone(),
            address: agent.pod_ip(pod, observed).to_owned(),
        };
        let task = tokio::spawn(async move { probed.run().await });
        probing.insert(container.id.clone(), task.abort_handle());
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    fn field(self) -> &'static str {
        match self {
            Self::Startup => "startupProbe",
            Self::Readiness => "readinessProbe",
            Self::Liveness => "livenessProbe",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// One running container with probes.
struct Probed {
    agent: Arc<Agent>,
    worker: Arc<Worker>,
    pod: Arc<Value>,
    spec: Value,
    container: Container,
    address: String,
}

impl Probed {
    /// A pod that is to end is not restarted, so it is not asked whether it should be; whether it serves is asked to the last.
    async fn run(&self) {
        tokio::select! {
            () = self.repeat(Kind::Startup) => {}
            () = self.worker.is_to_end() => return,
        }
        let liveness = async {
            tokio::select! {
                () = self.repeat(Kind::Liveness) => {}
                () = self.worker.is_to_end() => {}
            }
        };
        tokio::join!(self.repeat(Kind::Readiness), liveness);
    }

    /// One kind of probe, again and again. The startup probe ends with its first success.
    async fn repeat(&self, kind: Kind) {
        let probe = &self.spec[kind.field()];
        if !probe.is_object() {
            return;
        }
        let target = Target {
            docker: &self.agent.runtime,
            container: &self.spec,
            id: &self.container.id,
            address: &self.address,
        };
        let (mut failures, mut successes) = (0, 0);
        tokio::time::sleep(probes::initial_delay(probe)).await;
        loop {
            match probes::probe(&target, probe).await {
                Ok(warning) => {
                    (failures, successes) = (0, successes + 1);
                    if let Some(warning) = warning {
                        let message = format!("{} probe warning: {warning}", kind.word());
                        let container = Some(self.container.name.as_str());
                        self.agent.event(&self.pod, container, "Warning", "ProbeWarning", message);
                    }
                }
                Err(failed) if failed.unknown => {
                    let message = format!("{} probe errored: {}", kind.word(), failed.why);
                    self.agent.event(&self.pod, Some(&self.container.name), "Warning", "Unhealthy", message);
                }
                Err(failed) => {
                    (failures, successes) = (failures + 1, 0);
                    let message = format!("{} probe failed: {}", kind.word(), failed.why);
                    self.agent.event(&self.pod, Some(&self.container.name), "Warning", "Unhealthy", message);
                }
            }
            let good = successes >= probes::threshold(probe, "successThreshold", 1);
            let bad = failures >= probes::threshold(probe, "failureThreshold", 3);
            if !self.note(kind, good, bad) || (kind == Kind::Startup && good) {
                return;
            }
            tokio::time::sleep(probes::period(probe)).await;
        }
    }

    /// Keeps what a try came to, and wakes the worker where that changes something. False: the container is
    /// gone.
    fn note(&self, kind: Kind, good: bool, bad: bool) -> bool {
        let mut memory = self.worker.memory.lock();
        let Some(health) = memory.health.get_mut(&self.container.id) else { return false };
        let before = health.clone();
        match kind {
            Kind::Startup if good => health.started = true,
            Kind::Readiness if good => health.ready = true,
            Kind::Readiness if bad => health.ready = false,
            Kind::Startup | Kind::Liveness if bad && health.unhealthy.is_none() => {
                let word = kind.word().to_lowercase();
                health.unhealthy = Some(Unhealthy {
                    why: format!("Container {} failed {word} probe, will be restarted", self.container.name),
                    grace_seconds: self.spec[kind.field()]["terminationGracePeriodSeconds"].as_i64(),
                });
            }
            _ => {}
        }
        if *health != before {
            self.worker.wake.notify_one();
        }
        true
    }
}
