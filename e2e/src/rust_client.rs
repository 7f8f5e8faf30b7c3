//! kube-rs, as programs in Rust use it.
use crate::Cluster;
use anyhow::Result;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// A client with the administrator's rights.
pub async fn client(cluster: &Cluster) -> Result<Client> {
    Ok(Client::try_from(config(cluster).await?)?)
}

/// The same, but nothing is tried again by itself: its caller sees every answer.
pub async fn client_without_retries(cluster: &Cluster) -> Result<Client> {
    let mut config = config(cluster).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

async fn config(cluster: &Cluster) -> Result<Config> {
    let kubeconfig = Kubeconfig::read_from(cluster.dir().join("data/kubeconfig"))?;
    Ok(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
}
