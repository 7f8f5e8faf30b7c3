//! Discovery and OpenAPI of aggregated APIs, merged into the server's own.
use super::{Aggregation, RemoteApi};
use futures::future::join_all;
use pilothouse_api::{Registry, meta};
use serde_json::{Map, Value, json};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Versions of each group but core, as clients should prefer them.
pub fn group_versions(aggregation: &Aggregation, registry: &Registry) -> Vec<(String, Vec<String>)> {
    let own = registry.entries().iter().map(|entry| (entry.group.clone(), entry.version.clone()));
    let others = aggregation.remotes().into_iter().map(|(key, _)| key);
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (group, version) in own.chain(others).filter(|(group, _)| !group.is_empty()) {
        let versions = groups.entry(group).or_default();
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    for (group, versions) in &mut groups {
        versions.sort_by(|a, b| meta::compare_versions(b, a));
        versions.sort_by_key(|version| Reverse(aggregation.version_priority(group, version)));
    }
    let mut groups: Vec<(String, Vec<String>)> = groups.into_iter().collect();
    groups.sort_by_key(|(group, _)| Reverse(aggregation.group_priority(group)));
    groups
}

/// Of each aggregated API, one of `versions` in the form of `apidiscovery.k8s.io/v2`. All are asked at the same time.
pub async fn discovered(aggregation: &Aggregation) -> BTreeMap<(String, String), Value> {
    let asked = aggregation.remotes().into_iter().map(|(key, remote)| async move {
        let mut told = json!({"version": key.1, "freshness": "Stale"});
        if let Some(resources) = remote.resources(aggregation).await {
            told["resources"] = aggregated(&key.0, &key.1, &resources.list).into();
            told["freshness"] = if resources.is_stale { "Stale" } else { "Current" }.into();
        }
        (key, told)
    });
    join_all(asked).await.into_iter().collect()
}

/// The resources of an `APIResourceList`, with their subresources below them.
fn aggregated(group: &str, version: &str, list: &Value) -> Vec<Value> {
    let mut resources: Vec<(String, Value)> = Vec::new();
    let kind = |resource: &Value| {
        let text = |field: &str, otherwise: &str| match resource[field].as_str() {
            Some(text) if !text.is_empty() => text.to_owned(),
            _ => otherwise.to_owned(),
        };
        json!({"group": text("group", group), "version": text("version", version), "kind": text("kind", "")})
    };
    for resource in list["resources"].as_array().into_iter().flatten() {
        let name = resource["name"].as_str().unwrap_or_default();
        match name.split_once('/') {
            None => {
                let scope = if resource["namespaced"] == true { "Namespaced" } else { "Cluster" };
                let mut told = json!({
                    "resource": name, "responseKind": kind(resource), "scope": scope,
                    "singularResource": resource["singularName"], "verbs": resource["verbs"],
                });
                for field in ["shortNames", "categories"] {
                    if resource[field].as_array().is_some_and(|names| !names.is_empty()) {
                        told[field] = resource[field].clone();
                    }
                }
                resources.push((name.to_owned(), told));
            }
            Some((parent, subresource)) => {
                let told = json!({
                    "subresource": subresource, "responseKind": kind(resource), "verbs": resource["verbs"],
                });
                let parent = resources.iter_mut().find(|(own, _)| own == parent);
                let Some((_, parent)) = parent else { continue };
                match parent["subresources"].as_array_mut() {
                    Some(all) => all.push(told),
                    None => parent["subresources"] = json!([told]),
                }
            }
        }
    }
    resources.into_iter().map(|(_, resource)| resource).collect()
}

/// Those of the aggregated APIs that answer, by the path of their document of OpenAPI v3 (`apis/group/version`).
pub fn openapi_v3(aggregation: &Aggregation) -> BTreeMap<String, Arc<RemoteApi>> {
    let available = aggregation.remotes().into_iter().filter(|(_, remote)| remote.is_available());
    available.map(|(_, remote)| (remote.root().trim_start_matches('/').to_owned(), remote)).collect()
}

/// Adds what the aggregated APIs say of themselves to the document of OpenAPI v2. A name that is taken keeps its meaning.
pub async fn merge_openapi_v2(aggregation: &Aggregation, document: &mut Value) {
    let available = openapi_v3(aggregation).into_values();
    let asked = available.map(|remote| async move {
        let body = remote.get(aggregation, "/openapi/v2").await.ok()?;
        Some((remote.root(), serde_json::from_slice::<Value>(&body).ok()?))
    });
    for (root, mut own) in join_all(asked).await.into_iter().flatten() {
        let is_own = |name: &str| name == root || name.starts_with(&format!("{root}/"));
        for (part, wanted) in [("paths", &is_own as &dyn Fn(&str) -> bool), ("definitions", &|_: &str| true)]
        {
            let Value::Object(found) = own[part].take() else { continue };
            if !document[part].is_object() {
                document[part] = Value::Object(Map::new());
            }
            let Some(fields) = document[part].as_object_mut() else { continue };
            for (name, value) in found.into_iter().filter(|(name, _)| wanted(name)) {
                fields.entry(name).or_insert(value);
            }
        }
    }
}
