//! The claims of a StatefulSet's pods: made before the pod, kept or removed as the retention policy says.
use super::{Member, Run, STATEFUL_SETS};
use crate::cluster::{CLAIMS, Cluster};
use crate::object::*;
use crate::{Part, Plan};
use pilothouse_api::Key;
use serde_json::{Value, json};
use std::sync::Arc;

/// The sets that a claim might belong to by its name, `template-set-ordinal`: any of the three may hold a dash.
pub fn sets_of(claim: &Key, cluster: &Cluster) -> Vec<Key> {
    let Some((rest, ordinal)) = claim.name.rsplit_once('-') else { return Vec::new() };
    if ordinal.parse::<i64>().is_err() {
        return Vec::new();
    }
    let sets = rest
        .match_indices('-')
        .map(|(at, _)| Key::new(STATEFUL_SETS, claim.namespace.clone(), &rest[at + 1..]));
    sets.filter(|set| cluster.contains(set)).collect()
}

impl<'a> Run<'a> {
    /// The names of its templates and of the claims made of them.
    fn claims_of(&self, ordinal: i64) -> impl Iterator<Item = (&'a Value, Key)> {
        let templates = self.set["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten();
        let (set, namespace) = (self.key.name.clone(), self.key.namespace.clone());
        templates.map(move |template| {
            let claim = format!("{}-{set}-{ordinal}", name(template));
            (template, Key::new(CLAIMS, namespace.clone(), claim))
        })
    }

    /// Makes the claims that are missing. Whether all were there already, and stay.
    pub(super) fn create_claims(&self, ordinal: i64, plan: &mut Plan) -> bool {
        let mut complete = true;
        for (template, key) in self.claims_of(ordinal) {
            if self.cluster.contains(&key) {
                complete &= !self.is_leaving(ordinal, &key);
                continue;
            }
            complete = false;
            let mut metadata = template["metadata"].clone();
            metadata["name"] = (*key.name).into();
            metadata["namespace"] = (*key.namespace).into();
            if !metadata["labels"].is_object() {
                metadata["labels"] = json!({});
            }
            for (label, value) in
                self.set["spec"]["selector"]["matchLabels"].as_object().into_iter().flatten()
            {
                metadata["labels"][label] = value.clone();
            }
            if self.goes_with("whenDeleted") {
                metadata["ownerReferences"] = json!([controller_reference(self.set)]);
            }
            let message = format!(
                "create Claim {} Pod {} in StatefulSet {} success",
                key.name,
                self.pod_name(ordinal),
                self.key.name
            );
            plan.event(self.set, "Normal", "SuccessfulCreate", message);
            let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": template["spec"]});
            plan.create(key, claim);
        }
        complete
    }

    /// A claim on its way out, or one that belongs to an earlier pod of this name and goes with that: a new pod must not
    /// take it up.
    fn is_leaving(&self, ordinal: i64, key: &Key) -> bool {
        let is_gone = |uid: &Arc<str>| self.cluster.by_uid(uid).is_none();
        if self.cluster.is_deleting(key) {
            return true;
        }
        if !self.cluster.owner_uids(key).iter().any(is_gone) {
            return false;
        }
        let Some(claim) = self.cluster.get(key) else { return false };
        let pod = self.pod_name(ordinal);
        owners(&claim).any(|owner| {
            owner["kind"] == "Pod"
                && owner["name"] == *pod
                && self.cluster.by_uid(text(owner, "uid")).is_none()
        })
    }

    /// The pod's volumes of the templates' names are its claims, whatever the template says.
    pub(super) fn mount_claims(&self, ordinal: i64, pod: &mut Value) {
        let mut volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
        for (template, key) in self.claims_of(ordinal) {
            volumes.retain(|volume| volume["name"] != *name(template));
            let claim = json!({"claimName": &*key.name});
            volumes.push(json!({"name": name(template), "persistentVolumeClaim": claim}));
        }
        if !volumes.is_empty() {
            pod["spec"]["volumes"] = volumes.into();
        }
    }

    fn goes_with(&self, event: &str) -> bool {
        self.set["spec"]["persistentVolumeClaimRetentionPolicy"][event] == "Delete"
    }

    /// Whom a claim should belong to: its pod, if that is about to be scaled away and takes it along; or the set.
    fn claim_owner(&self, ordinal: i64, member: &Member<'_>) -> Option<Arc<str>> {
        if self.goes_with("whenScaled") && !self.is_wanted(ordinal) {
            return self.cluster.uid(member.key).cloned();
        }
        self.goes_with("whenDeleted").then(|| uid(self.set).into())
    }

    fn has_right_owner(&self, claim: &Key, wanted: Option<&Arc<str>>, member: &Member<'_>) -> bool {
        let owners = self.cluster.owner_uids(claim);
        let ours = |owner: &&Arc<str>| {
            ***owner == *uid(self.set) || self.cluster.uid(member.key).is_some_and(|pod| pod == *owner)
        };
        let controls = wanted.is_none() || self.cluster.controller_uid(claim) == wanted;
        controls && owners.iter().filter(ours).eq(wanted)
    }

    /// Writes on the claims of pods what they go with. A pod that is ending counts, too: its claims may have to go with it,
    /// or to be kept after all for the next one of its name.
    pub(super) fn claims_follow_retention(&self, plan: &mut Plan) {
        for (ordinal, member) in &self.members {
            let wanted = self.claim_owner(*ordinal, member);
            for (_, key) in self.claims_of(*ordinal) {
                if !self.cluster.contains(&key) || self.has_right_owner(&key, wanted.as_ref(), member) {
                    continue;
                }
                let (Some(claim), Some(pod)) = (self.cluster.get(&key), self.cluster.get(member.key)) else {
                    continue;
                };
                let is_foreign = |owner: &Value| owner["uid"] != *uid(self.set) && owner["uid"] != *uid(&pod);
                if controller_of(&claim).is_some_and(is_foreign) {
                    continue; // Somebody else's: theirs to keep or to remove.
                }
                let free = released(&released(&claim, uid(self.set)), uid(&pod));
                let next = match &wanted {
                    None => free,
                    Some(owner) if **owner == *uid(&pod) => adopted(&free, &pod),
                    Some(_) => adopted(&free, self.set),
                };
                plan.update(key, next, Part::Spec);
            }
        }
    }

    /// Whether the claims of a pod that is to be scaled away carry what the retention policy wants.
    pub(super) fn claims_are_ready_to_go(&self, ordinal: i64, member: &Member<'_>) -> bool {
        let wanted = self.claim_owner(ordinal, member);
        self.claims_of(ordinal).all(|(_, key)| {
            !self.cluster.contains(&key)
                || self.has_right_owner(&key, wanted.as_ref(), member)
                || self.is_foreign(&key)
        })
    }

    fn is_foreign(&self, claim: &Key) -> bool {
        self.cluster
            .get(claim)
            .as_deref()
            .and_then(controller_of)
            .is_some_and(|owner| owner["uid"] != *uid(self.set) && owner["kind"] != "Pod")
    }
}
