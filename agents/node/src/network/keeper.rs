//! Keeps the node's network as it should be: built once the range is known, its rules in step with the
//! services, repaired when another program takes something away.
use super::{Addresses, dns, rules};
use crate::agent::{Agent, NODES, SERVICES, SLICES};
use anyhow::{Result, anyhow};
use pilothouse_api::Ipv4Cidr;
use std::sync::Arc;
use std::time::Duration;

/// Endpoints change in bursts: one transaction for all of a burst.
const BURST: Duration = Duration::from_millis(20);
/// How soon a foreign `nft flush ruleset` is noticed.
const REPAIR_EVERY: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

struct Keeper {
    agent: Arc<Agent>,
    rules: rules::Kept,
    dns: Option<tokio::task::JoinHandle<()>>,
}

/// Runs for ever.
pub async fn serve(agent: Arc<Agent>) {
    let mut keeper = Keeper { agent: agent.clone(), rules: rules::Kept::default(), dns: None };
    let mut repair = tokio::time::interval(REPAIR_EVERY);
    let mut pause = FIRST_PAUSE;
    loop {
        match keeper.refresh().await {
            Ok(()) => {
                *agent.network.trouble.lock() = None;
                pause = FIRST_PAUSE;
            }
            Err(error) => {
                let why = format!("{error:#}");
                tracing::warn!(error = why, again_in = ?pause, "the network is not as it should be");
                *agent.network.trouble.lock() = Some(why);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
        }
        tokio::select! {
            () = agent.network.changed.notified() => tokio::time::sleep(BURST).await,
            _ = repair.tick() => keeper.look_after().await,
        }
    }
}

impl Keeper {
    /// The node's range of pod addresses; None: it has none yet.
    fn range(&self) -> Result<Option<Ipv4Cidr>> {
        let node = self.agent.assigned.lock().get(NODES, "", &self.agent.node);
        let range = node.as_ref().and_then(|node| node["spec"]["podCIDR"].as_str());
        let range = range.filter(|range| !range.is_empty()).map(str::parse);
        range.transpose().map_err(|why: String| anyhow!(why))
    }

    async fn refresh(&mut self) -> Result<()> {
        let Some(range) = self.range()? else { return Ok(()) };
        let agent = &self.agent;
        if !agent.network.is_up() {
            let held = agent.runtime.addresses(&agent.node).await?;
            let addresses = Addresses::new(range, held)?;
            super::set_up(range, addresses.gateway()).await?;
            *agent.network.addresses.lock() = Some(addresses);
            agent.wake_all();
        }
        let (services, slices) = {
            let assigned = agent.assigned.lock();
            (assigned.all(SERVICES), assigned.all(SLICES))
        };
        let doors = self.host_ports();
        let pods = agent.network.pods();
        self.rules.apply(rules::render(&services, &slices, &doors, &agent.node, pods)).await?;
        self.answer_names(dns::Zone::new(services, slices, pods));
        Ok(())
    }

    /// The ports of the node that pods asked for.
    fn host_ports(&self) -> Vec<rules::HostPort> {
        let mut pods = self.agent.assigned.lock().all("pods");
        pods.extend(self.agent.statics.lock().values().cloned());
        let addresses = self.agent.network.addresses.lock();
        let Some(addresses) = addresses.as_ref() else { return Vec::new() };
        let mut doors = Vec::new();
        for pod in &pods {
            if let Some(ip) = addresses.of(pod["metadata"]["uid"].as_str().unwrap_or_default()) {
                doors.extend(rules::HostPort::of(pod, &ip.to_string()));
            }
        }
        doors
    }

    fn answer_names(&mut self, zone: dns::Zone) {
        *self.agent.network.zone.lock() = Arc::new(zone);
        if self.dns.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
            let agent = self.agent.clone();
            let serving = dns::serve(move || agent.network.zone.lock().clone());
            let shutdown = self.agent.shutdown.clone();
            self.dns = Some(tokio::spawn(async move {
                if let Some(Err(error)) = shutdown.run_until_cancelled(serving).await {
                    tracing::error!(%error, "the node's DNS ended");
                }
            }));
        }
    }

    /// What others may have taken away is made again.
    async fn look_after(&mut self) {
        if !self.agent.network.is_up() {
            return;
        }
        if !rules::stand().await {
            tracing::info!("the service rules are gone: they are made again");
            self.rules = rules::Kept::default();
        }
        if let (Ok(Some(range)), Some(gateway)) = (self.range(), self.gateway())
            && let Err(error) = super::set_up(range, gateway).await
        {
            tracing::warn!(error = format!("{error:#}"), "the pods' bridge could not be looked after");
        }
    }

    fn gateway(&self) -> Option<std::net::Ipv4Addr> {
        self.agent.network.addresses.lock().as_ref().map(Addresses::gateway)
    }
}
