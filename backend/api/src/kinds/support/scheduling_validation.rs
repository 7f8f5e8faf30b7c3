//! Rules of the fields of a pod's spec that tell where it may run: tolerations, affinity, spreading.
use super::{label_selector, one_of};
use crate::meta;
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{
    NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSpec, Toleration,
    WeightedPodAffinityTerm,
};
use std::collections::BTreeSet;

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub fn validate(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    for (i, toleration) in spec.tolerations.iter().flatten().enumerate() {
        validate_toleration(toleration, &path.child("tolerations").index(i), errors);
    }
    if let Some(affinity) = &spec.affinity {
        let path = path.child("affinity");
        if let Some(node) = &affinity.node_affinity {
            validate_node_affinity(node, &path.child("nodeAffinity"), errors);
        }
        let pods = affinity.pod_affinity.as_ref().map(|a| {
            (
                "podAffinity",
                &a.required_during_scheduling_ignored_during_execution,
                &a.preferred_during_scheduling_ignored_during_execution,
            )
        });
        let others = affinity.pod_anti_affinity.as_ref().map(|a| {
            (
                "podAntiAffinity",
                &a.required_during_scheduling_ignored_during_execution,
                &a.preferred_during_scheduling_ignored_during_execution,
            )
        });
        for (field, required, preferred) in pods.into_iter().chain(others) {
            validate_pod_affinity(required, preferred, &path.child(field), errors);
        }
    }
    validate_spreading(spec, &path.child("topologySpreadConstraints"), errors);
    let mut gates = BTreeSet::new();
    for (i, gate) in spec.scheduling_gates.iter().flatten().enumerate() {
        let path = path.child("schedulingGates").index(i);
        if let Err(why) = meta::qualified_name(&gate.name) {
            errors.invalid(&path.child("name"), gate.name.as_str(), why);
        }
        if !gates.insert(&gate.name) {
            errors.duplicate(&path, gate.name.as_str());
        }
    }
    if spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty())
        && spec.node_name.as_deref().is_some_and(|n| !n.is_empty())
    {
        errors
            .forbidden(&path.child("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
}

pub fn validate_toleration(toleration: &Toleration, path: &Path, errors: &mut FieldErrors) {
    let key = toleration.key.as_deref().unwrap_or_default();
    let operator = toleration.operator.as_deref().unwrap_or_default();
    let value = toleration.value.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    if !key.is_empty()
        && let Err(why) = meta::qualified_name(key)
    {
        errors.invalid(&path.child("key"), key, why);
    }
    if key.is_empty() && operator != "Exists" {
        errors.invalid(
            &path.child("operator"),
            operator,
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        );
    }
    if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
        errors.invalid(
            &path.child("effect"),
            effect,
            "effect must be 'NoExecute' when `tolerationSeconds` is set",
        );
    }
    match operator {
        "" | "Equal" => {
            if let Err(why) = meta::label_value(value) {
                errors.invalid(&path.child("operator"), value, why);
            }
        }
        "Exists" if !value.is_empty() => {
            errors.invalid(&path.child("operator"), value, "value must be empty when `operator` is 'Exists'");
        }
        "Exists" => {}
        other => errors.not_supported(&path.child("operator"), other, &["Equal", "Exists"]),
    }
    if !effect.is_empty() {
        one_of(Some(effect), EFFECTS, &path.child("effect"), errors);
    }
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn validate_weight(weight: i32, path: &Path, errors: &mut FieldErrors) {
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

fn validate_node_affinity(affinity: &NodeAffinity, path: &Path, errors: &mut FieldErrors) {
    if let Some(required) = &affinity.required_during_scheduling_ignored_during_execution {
        let path = path.child(REQUIRED).child("nodeSelectorTerms");
        if required.node_selector_terms.is_empty() {
            errors.required(&path, "must have at least one node selector term");
        }
        for (i, term) in required.node_selector_terms.iter().enumerate() {
            validate_term(term, &path.index(i), errors);
        }
    }
    let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
    for (i, term) in preferred.enumerate() {
        let path = path.child(PREFERRED).index(i);
        validate_weight(term.weight, &path, errors);
        validate_term(&term.preference, &path.child("preference"), errors);
    }
}

/// Also of a PersistentVolume's node affinity.
pub fn validate_term(term: &NodeSelectorTerm, path: &Path, errors: &mut FieldErrors) {
    for (i, rule) in term.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(i);
        validate_requirement(rule, &path, errors);
        if let Err(why) = meta::qualified_name(&rule.key) {
            errors.invalid(&path.child("key"), rule.key.as_str(), why);
        }
    }
    for (i, rule) in term.match_fields.iter().flatten().enumerate() {
        let path = path.child("matchFields").index(i);
        if rule.key != "metadata.name" {
            errors.invalid(&path.child("key"), rule.key.as_str(), "not a valid field selector key");
        }
        validate_requirement(rule, &path, errors);
    }
}

fn validate_requirement(rule: &NodeSelectorRequirement, path: &Path, errors: &mut FieldErrors) {
    let values = path.child("values");
    let count = rule.values.as_ref().map_or(0, Vec::len);
    match (rule.operator.as_str(), count) {
        ("In" | "NotIn", 0) => {
            errors.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        ("Exists" | "DoesNotExist", 1..) => {
            errors.forbidden(&values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        ("Gt" | "Lt", count) if count != 1 => {
            errors.required(&values, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        ("In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt", _) => {}
        (other, _) => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
}

fn validate_pod_affinity(
    required: &Option<Vec<PodAffinityTerm>>,
    preferred: &Option<Vec<WeightedPodAffinityTerm>>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    for (i, term) in required.iter().flatten().enumerate() {
        validate_pod_term(term, &path.child(REQUIRED).index(i), errors);
    }
    for (i, term) in preferred.iter().flatten().enumerate() {
        let path = path.child(PREFERRED).index(i);
        validate_weight(term.weight, &path, errors);
        validate_pod_term(&term.pod_affinity_term, &path.child("podAffinityTerm"), errors);
    }
}

fn validate_pod_term(term: &PodAffinityTerm, path: &Path, errors: &mut FieldErrors) {
    for (field, selector) in
        [("labelSelector", &term.label_selector), ("namespaceSelector", &term.namespace_selector)]
    {
        if let Some(selector) = selector {
            label_selector::validate(selector, &path.child(field), errors);
        }
    }
    for (i, namespace) in term.namespaces.iter().flatten().enumerate() {
        if let Err(why) = meta::dns_label(namespace) {
            errors.invalid(&path.child("namespaces").index(i), namespace.as_str(), why);
        }
    }
    topology_key(&term.topology_key, "can not be empty", &path.child("topologyKey"), errors);
}

fn topology_key(key: &str, when_empty: &str, path: &Path, errors: &mut FieldErrors) {
    if key.is_empty() {
        errors.required(path, when_empty);
    } else if let Err(why) = meta::qualified_name(key) {
        errors.invalid(path, key, why);
    }
}

fn validate_spreading(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (i, rule) in spec.topology_spread_constraints.iter().flatten().enumerate() {
        let path = path.index(i);
        if rule.max_skew <= 0 {
            errors.invalid(&path.child("maxSkew"), rule.max_skew, "must be greater than zero");
        }
        topology_key(&rule.topology_key, "can not be empty", &path.child("topologyKey"), errors);
        let policies = ["DoNotSchedule", "ScheduleAnyway"];
        one_of(Some(&rule.when_unsatisfiable), &policies, &path.child("whenUnsatisfiable"), errors);
        if !seen.insert((&rule.topology_key, &rule.when_unsatisfiable)) {
            let pair = format!("{{{}, {}}}", rule.topology_key, rule.when_unsatisfiable);
            errors.duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), pair);
        }
        if let Some(least) = rule.min_domains {
            if least <= 0 {
                errors.invalid(&path.child("minDomains"), least, "must be greater than zero");
            }
            if rule.when_unsatisfiable != "DoNotSchedule" {
                let detail = format!(
                    "can only use minDomains if whenUnsatisfiable={}, not {}",
                    "DoNotSchedule", rule.when_unsatisfiable
                );
                errors.invalid(&path.child("minDomains"), least, detail);
            }
        }
        let honor = ["Honor", "Ignore"];
        one_of(rule.node_affinity_policy.as_deref(), &honor, &path.child("nodeAffinityPolicy"), errors);
        one_of(rule.node_taints_policy.as_deref(), &honor, &path.child("nodeTaintsPolicy"), errors);
        if let Some(selector) = &rule.label_selector {
            label_selector::validate(selector, &path.child("labelSelector"), errors);
        }
    }
}
