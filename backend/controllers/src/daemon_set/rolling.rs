//! How a DaemonSet's pods are replaced by those of a new template, within the bounds.
use super::{Member, Run, Wish};
use crate::object::*;

impl<'a> Run<'a> {
    /// Nodes that may have two pods, and nodes that may serve nobody. Both round up, and one of them is at least one.
    pub(super) fn bounds(&self) -> (i64, i64) {
        let rolling = &self.set["spec"]["updateStrategy"]["rollingUpdate"];
        let wanted = self.nodes.values().filter(|(wish, _)| *wish == Wish::Run).count();
        let total = i64::try_from(wanted).unwrap_or(i64::MAX);
        let surge = bound(&rolling["maxSurge"], total, true);
        let unavailable = if rolling["maxUnavailable"].is_null() {
            1
        } else {
            bound(&rolling["maxUnavailable"], total, true)
        };
        (surge, if surge == 0 { unavailable.max(1) } else { unavailable })
    }

    pub(super) fn roll(&mut self) {
        let (surge, unavailable) = self.bounds();
        if surge > 0 { self.roll_with_surge(surge) } else { self.roll_within_unavailable(unavailable) }
    }

    /// The pods of a node that live on after this plan: of the new template and of an old one.
    fn pair(&self, members: &[Member<'a>]) -> (Option<Member<'a>>, Option<Member<'a>>) {
        let lives = |m: &&Member<'a>| m.pod.is_active() && !self.doomed.contains(m.key);
        let new = members.iter().filter(lives).find(|m| self.is_new(m)).copied();
        let old = members.iter().filter(lives).find(|m| !self.is_new(m)).copied();
        (new, old)
    }

    /// An old pod that does not serve goes at once; of those that serve as many as may be missing.
    fn roll_within_unavailable(&mut self, bound: i64) {
        let mut down = 0;
        let (mut replaced, mut candidates) = (Vec::new(), Vec::new());
        for (_, members) in self.nodes.values().filter(|(wish, _)| *wish == Wish::Run) {
            match self.pair(members) {
                (None, Some(old)) if old.is_available => candidates.push(old.key),
                (None, Some(old)) => {
                    down += 1;
                    replaced.push(old.key);
                }
                (new, _) => down += i64::from(!new.is_some_and(|new| new.is_available)),
            }
        }
        let room = usize::try_from(bound - down).unwrap_or(0);
        self.doomed.extend(replaced.into_iter().chain(candidates.into_iter().take(room)));
    }

    /// A new pod beside the old one; the old one goes when the new one serves ([`Run::keep_one_on_each_node`]).
    fn roll_with_surge(&mut self, bound: i64) {
        let mut surging = 0;
        let (mut at_once, mut candidates) = (Vec::new(), Vec::new());
        for (node, (_, members)) in self.nodes.iter().filter(|(_, (wish, _))| *wish == Wish::Run) {
            match self.pair(members) {
                // A new pod that is on its way out, or failed, is in the place of the next.
                (None, Some(_)) if members.iter().any(|m| self.is_new(m)) => surging += 1,
                // So is one that this plan takes away: the writes of a plan land in any order.
                (None, Some(_)) if members.iter().filter(|m| m.pod.is_active()).count() > 1 => surging += 1,
                (None, Some(old)) if old.is_available => candidates.push(*node),
                (None, Some(_)) => at_once.push(*node),
                (Some(_), Some(_)) => surging += 1,
                _ => {}
            }
        }
        let room = usize::try_from(bound - surging).unwrap_or(0);
        self.chosen.extend(at_once.into_iter().chain(candidates.into_iter().take(room)));
    }
}
