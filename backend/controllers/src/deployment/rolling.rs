//! How sizes move: proportional scaling, rolling updates, recreation.
use super::{DESIRED, MAX, Rollout};
use crate::object::uid;
use crate::pod::Pod;
use std::cmp::Reverse;

impl Rollout<'_> {
    /// Someone changed `spec.replicas`: the sets still carry the number they were scaled for.
    pub(super) fn is_scaling_event(&self) -> bool {
        let mut active = self.sets.iter().filter(|set| set.replicas() > 0);
        active.any(|set| set.annotated(DESIRED).is_some_and(|desired| desired != self.desired()))
    }

    /// Follows `spec.replicas` without moving the rollout on: over all active sets in proportion to their size.
    pub(super) fn scale(&mut self) {
        let mut active: Vec<usize> = (0..self.sets.len()).filter(|i| self.sets[*i].replicas() > 0).collect();
        match active[..] {
            // None is active: the new one, else the latest, takes it all.
            [] => {
                let latest = self.new.or(self.sets.len().checked_sub(1)).filter(|_| self.created.is_none());
                if let Some(only) = latest.filter(|at| !self.recreates() || !self.other_pods_exist(Some(*at)))
                {
                    self.resize(only, self.desired());
                }
                return;
            }
            [only] => return self.resize(only, self.desired()),
            _ => {}
        }
        if self.new.is_some_and(|at| self.is_saturated(at)) {
            active.retain(|at| Some(*at) != self.new);
            return active.into_iter().for_each(|at| self.resize(at, 0));
        }
        if self.recreates() {
            return;
        }
        let to_add = self.max_total() - self.total();
        // Growth favours the newer of equals, shrinking the older.
        match to_add > 0 {
            true => active.sort_by_key(|at| (Reverse(self.sets[*at].replicas()), Reverse(*at))),
            false => active.sort_by_key(|at| (Reverse(self.sets[*at].replicas()), *at)),
        }
        let mut added = 0;
        let mut sizes = Vec::with_capacity(active.len());
        for at in &active {
            let share = self.share(*at).clamp((to_add - added).min(0), (to_add - added).max(0));
            added += share;
            sizes.push(self.sets[*at].replicas() + share);
        }
        if let Some(largest) = sizes.first_mut() {
            *largest = (*largest + to_add - added).max(0);
        }
        for (at, size) in active.into_iter().zip(sizes) {
            self.resize(at, size);
        }
    }

    /// By how much a set should change so that it keeps its part of the whole.
    fn share(&self, at: usize) -> i64 {
        let size = self.sets[at].replicas();
        if self.desired() == 0 {
            return -size;
        }
        let before = self.sets[at].annotated(MAX).unwrap_or_else(|| self.total()).max(1);
        (size * self.max_total() * 2 + before) / (before * 2) - size
    }

    /// It has its full size for the deployment as it was before, and all of it serves.
    fn is_saturated(&self, at: usize) -> bool {
        let set = &self.sets[at];
        set.replicas() == self.desired()
            && set.annotated(DESIRED) == Some(self.desired())
            && set.available() == self.desired()
    }

    /// Pods of other templates than the one of `sets[wanted]`: of other sets, and of sets that are gone before their pods.
    pub(super) fn other_pods_exist(&self, wanted: Option<usize>) -> bool {
        if self.sets.iter().enumerate().any(|(at, set)| Some(at) != wanted && set.replicas() > 0) {
            return true;
        }
        let Some(selector) = self.cluster.selector(self.key) else {
            return false;
        };
        let is_other = |pod: &Pod| {
            let Some(owner) = pod.controller.as_ref().filter(|owner| &*owner.kind == "ReplicaSet") else {
                return false;
            };
            match self.sets.iter().position(|set| uid(&set.seen) == &*owner.uid) {
                Some(at) => Some(at) != wanted,
                None => self.cluster.by_uid(&owner.uid).is_none(),
            }
        };
        let pods = self.cluster.selected_pods(&self.key.namespace, selector);
        pods.iter().any(|(_, pod)| !pod.is_terminal() && is_other(pod))
    }

    pub(super) fn recreate(&mut self) {
        let old: Vec<usize> =
            (0..self.sets.len()).filter(|i| Some(*i) != self.new && self.sets[*i].replicas() > 0).collect();
        if !old.is_empty() {
            return old.into_iter().for_each(|at| self.resize(at, 0));
        }
        if let Some(new) = self.new.filter(|new| !self.other_pods_exist(Some(*new))) {
            self.resize(new, self.desired());
        }
    }

    /// One step of a rolling update: the new set up as far as the surge allows, else old ones down as far as
    /// availability allows.
    pub(super) fn roll(&mut self) {
        let Some(new) = self.new else { return };
        let size = self.sets[new].replicas();
        let target = match size > self.desired() {
            true => self.desired(),
            false => size + (self.max_total() - self.total()).clamp(0, self.desired() - size),
        };
        self.resize(new, target);
        if target == size {
            self.scale_down_old(new);
        }
    }

    fn scale_down_old(&mut self, new: usize) {
        let old: Vec<usize> =
            (0..self.sets.len()).filter(|i| *i != new && self.sets[*i].replicas() > 0).collect();
        let min_available = self.desired() - self.bounds().1;
        let new_unavailable = self.sets[new].replicas() - self.sets[new].available();
        let mut room = self.total() - min_available - new_unavailable;
        if room <= 0 {
            return;
        }
        let mut sizes: Vec<i64> = old.iter().map(|at| self.sets[*at].replicas()).collect();
        // Unhealthy old pods serve nobody: they go first, and cost no availability.
        for (at, size) in old.iter().zip(&mut sizes) {
            let gone = (*size - self.sets[*at].available()).clamp(0, room);
            *size -= gone;
            room -= gone;
        }
        let available: i64 = self.sets.iter().map(super::Set::available).sum();
        let mut spare = (available - min_available).max(0);
        for size in &mut sizes {
            let gone = (*size).min(spare);
            *size -= gone;
            spare -= gone;
        }
        for (at, size) in old.into_iter().zip(sizes) {
            self.resize(at, size);
        }
    }
}
