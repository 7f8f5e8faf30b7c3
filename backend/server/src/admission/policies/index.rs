//! The policies and bindings that the store holds, put together.
use super::super::matching::Matcher;
use crate::feed::Observation;
use arc_swap::ArcSwap;
use pilothouse_api::policy::{MutatingPolicy, ValidatingPolicy};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

const VALIDATING: &str = "validatingadmissionpolicies.admissionregistration.k8s.io";
const MUTATING: &str = "mutatingadmissionpolicies.admissionregistration.k8s.io";
const VALIDATING_BINDINGS: &str = "validatingadmissionpolicybindings.admissionregistration.k8s.io";
const MUTATING_BINDINGS: &str = "mutatingadmissionpolicybindings.admissionregistration.k8s.io";
pub const RESOURCES: &[&str] = &[VALIDATING, VALIDATING_BINDINGS, MUTATING, MUTATING_BINDINGS];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sort {
    Mutating,
    Validating,
}

pub enum Program {
    Mutating(MutatingPolicy),
    Validating(ValidatingPolicy),
}

impl Program {
    pub fn ignores_failure(&self) -> bool {
        match self {
            Self::Mutating(policy) => policy.ignores_failure(),
            Self::Validating(policy) => policy.ignores_failure(),
        }
    }
}

pub struct Policy {
    pub name: String,
    pub matcher: Matcher,
    /// `apiVersion` and `kind`.
    pub param_kind: Option<(String, String)>,
    pub program: Program,
}

pub struct Binding {
    pub name: String,
    policy: String,
    /// Narrows the policy's own.
    pub matcher: Option<Matcher>,
    /// Null without.
    pub param_ref: Value,
    /// `Deny`, `Warn`, `Audit`.
    pub actions: Vec<String>,
}

pub struct Bound {
    pub policy: Arc<Policy>,
    pub binding: Arc<Binding>,
}

#[derive(Default)]
pub struct Index {
    policies: BTreeMap<(Sort, String), Arc<Policy>>,
    bindings: BTreeMap<(Sort, String), Arc<Binding>>,
}

impl Index {
    pub fn observe(&mut self, observation: &Observation) {
        let (object, is_gone) = match observation {
            Observation::Reset => return *self = Self::default(),
            Observation::Put(object) => (object, false),
            Observation::Gone(object) => (object, true),
        };
        let resource = &*object.key.resource;
        let sort = match resource {
            VALIDATING | VALIDATING_BINDINGS => Sort::Validating,
            _ => Sort::Mutating,
        };
        let key = (sort, object.key.name.to_string());
        let is_policy = matches!(resource, VALIDATING | MUTATING);
        match (is_policy, is_gone) {
            (true, true) => drop(self.policies.remove(&key)),
            (false, true) => drop(self.bindings.remove(&key)),
            (true, false) => drop(self.policies.insert(key, Arc::new(Policy::new(sort, &object.value())))),
            (false, false) => drop(self.bindings.insert(key, Arc::new(Binding::new(&object.value())))),
        }
    }

    /// In the order of the policies' names, then of the bindings'.
    fn bound(&self, of: Sort) -> Vec<Arc<Bound>> {
        let policies = self.policies.iter().filter(|((sort, _), _)| *sort == of);
        let all = policies.flat_map(|(_, policy)| {
            let bindings = self.bindings.iter();
            let own = bindings.filter(move |((sort, _), b)| *sort == of && b.policy == policy.name);
            own.map(|(_, binding)| Arc::new(Bound { policy: policy.clone(), binding: binding.clone() }))
        });
        all.collect()
    }
}

/// What requests go by.
#[derive(Default)]
pub struct Active {
    mutating: ArcSwap<Vec<Arc<Bound>>>,
    validating: ArcSwap<Vec<Arc<Bound>>>,
}

impl Active {
    pub fn of(&self, sort: Sort) -> Arc<Vec<Arc<Bound>>> {
        match sort {
            Sort::Mutating => self.mutating.load_full(),
            Sort::Validating => self.validating.load_full(),
        }
    }

    pub fn store(&self, index: &Index) {
        self.mutating.store(Arc::new(index.bound(Sort::Mutating)));
        self.validating.store(Arc::new(index.bound(Sort::Validating)));
    }
}

impl Policy {
    fn new(sort: Sort, policy: &Value) -> Self {
        let spec = &policy["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = &spec["paramKind"];
        Self {
            name: text(&policy["metadata"]["name"]),
            matcher: Matcher::of_policy(&spec["matchConstraints"]),
            param_kind: kind.is_object().then(|| (text(&kind["apiVersion"]), text(&kind["kind"]))),
            program: match sort {
                Sort::Mutating => Program::Mutating(MutatingPolicy::new(policy)),
                Sort::Validating => Program::Validating(ValidatingPolicy::new(policy)),
            },
        }
    }
}

impl Binding {
    fn new(binding: &Value) -> Self {
        let spec = &binding["spec"];
        let actions = spec["validationActions"].as_array().into_iter().flatten();
        Self {
            name: binding["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            policy: spec["policyName"].as_str().unwrap_or_default().to_owned(),
            matcher: spec["matchResources"].is_object().then(|| Matcher::of_policy(&spec["matchResources"])),
            param_ref: spec["paramRef"].clone(),
            actions: actions.filter_map(|action| action.as_str().map(str::to_owned)).collect(),
        }
    }
}
