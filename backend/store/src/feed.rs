//! Watches: bounded queues of changes, one a watcher, so that a slow one holds up nobody.
use crate::Change;
use crate::follow::Follower;
use pilothouse_api::Revision;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// Changes that may wait for one watcher. A watcher that is further behind starts over with a list, which is cheaper
/// than the memory.
const QUEUE: usize = 8192;

/// Kubernetes sends bookmarks about once a minute.
const PROGRESS: Duration = Duration::from_secs(50);

/// What [`Watch::next`] yields.
#[derive(Debug)]
pub enum WatchItem {
    Change(Change),
    /// Everything up to this revision has been yielded: what a bookmark may say.
    Progress(Revision),
    /// The watcher was too slow, or the store lost continuity: list again.
    Lagged,
}

/// Everybody who is told of changes.
#[derive(Default)]
pub struct Subscribers {
    by_resource: HashMap<Arc<str>, Vec<Subscriber>>,
    of_everything: Vec<Subscriber>,
    followers: Vec<Follower>,
}

impl Subscribers {
    pub fn add(&mut self, subscriber: Subscriber) {
        match &subscriber.resource {
            Some(resource) => self.by_resource.entry(resource.clone()).or_default().push(subscriber),
            None => self.of_everything.push(subscriber),
        }
    }

    pub fn add_follower(&mut self, follower: Follower) {
        self.followers.push(follower);
    }

    pub fn tell(&mut self, change: &Change) {
        self.followers.retain(|follower| follower.tell(change));
        if let Some(subscribers) = self.by_resource.get_mut(&change.object.key.resource) {
            subscribers.retain(|subscriber| subscriber.tell(change));
        }
        self.of_everything.retain(|subscriber| subscriber.tell(change));
    }

    /// Ends all watches: the log has a gap, so each has to start over with a list.
    pub fn lose_all(&mut self) {
        let gone = std::mem::take(self);
        gone.followers.iter().for_each(Follower::lose);
        for subscriber in gone.by_resource.into_values().flatten().chain(gone.of_everything) {
            subscriber.lagged.store(true, Ordering::Release);
        }
    }
}

/// The sending half of a watch.
pub struct Subscriber {
    resource: Option<Arc<str>>,
    namespace: Option<Arc<str>>,
    sender: mpsc::Sender<Change>,
    lagged: Arc<AtomicBool>,
}

impl Subscriber {
    pub fn wants(&self, change: &Change) -> bool {
        let key = &change.object.key;
        self.resource.as_ref().is_none_or(|resource| *resource == key.resource)
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
    }

    /// Whether the subscriber is still to be kept.
    fn tell(&self, change: &Change) -> bool {
        if !self.wants(change) {
            return !self.sender.is_closed();
        }
        match self.sender.try_send(change.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lagged.store(true, Ordering::Release);
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}

/// A stream of changes after a revision. Dropping it ends the watch.
pub struct Watch {
    missed: VecDeque<Change>,
    receiver: mpsc::Receiver<Change>,
    lagged: Arc<AtomicBool>,
    revision: watch::Receiver<Revision>,
    /// When to tell how far the watch has come. Made by the first wait, and one for all of them: a timer a change would
    /// cost more than the change.
    progress: Option<Interval>,
}

pub fn pair(
    resource: Option<&str>,
    namespace: Option<&str>,
    revision: watch::Receiver<Revision>,
) -> (Subscriber, Watch) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let lagged = Arc::new(AtomicBool::new(false));
    let subscriber = Subscriber {
        resource: resource.map(Arc::from),
        namespace: namespace.map(Arc::from),
        sender,
        lagged: lagged.clone(),
    };
    (subscriber, Watch { missed: VecDeque::new(), receiver, lagged, revision, progress: None })
}

impl Watch {
    pub(crate) fn with_missed(mut self, missed: VecDeque<Change>) -> Self {
        self.missed = missed;
        self
    }

    /// Waits for the next change; every now and then, where none waits, tells how far the watch has come. Cancel safe.
    pub async fn next(&mut self) -> WatchItem {
        if let Some(change) = self.missed.pop_front() {
            return WatchItem::Change(change);
        }
        let progress = self.progress.get_or_insert_with(|| {
            let mut interval = interval_at(Instant::now() + PROGRESS, PROGRESS);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        tokio::select! {
            biased;
            change = self.receiver.recv() => change.map_or(WatchItem::Lagged, WatchItem::Change),
            _ = progress.tick() => self.try_next(),
        }
    }

    /// What is there without waiting; [`WatchItem::Progress`] when the queue is empty.
    pub fn try_next(&mut self) -> WatchItem {
        if let Some(change) = self.missed.pop_front() {
            return WatchItem::Change(change);
        }
        // The revision is published after its changes are queued, so an empty queue, seen afterwards, proves that all
        // of them were yielded.
        let revision = *self.revision.borrow();
        match self.receiver.try_recv() {
            Ok(change) => WatchItem::Change(change),
            Err(mpsc::error::TryRecvError::Empty) if !self.lagged.load(Ordering::Acquire) => {
                WatchItem::Progress(revision)
            }
            Err(_) => WatchItem::Lagged,
        }
    }
}
