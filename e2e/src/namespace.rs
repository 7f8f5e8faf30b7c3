//! A namespace of one test's own, removed at its end.
use crate::{Cluster, Kubectl};
use anyhow::Result;
use std::ops::Deref;

pub struct Namespace {
    pub name: String,
    kubectl: Kubectl,
    whole: Kubectl,
}

impl Namespace {
    pub fn create(cluster: &Cluster, name: &str) -> Result<Self> {
        let whole = cluster.kubectl();
        let manifest = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
        whole.ok_with_input(&["apply", "-f", "-"], &manifest)?;
        Ok(Self { name: name.to_owned(), kubectl: whole.in_namespace(name), whole })
    }
}

impl Deref for Namespace {
    type Target = Kubectl;
    fn deref(&self) -> &Kubectl {
        &self.kubectl
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.whole.run(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}
