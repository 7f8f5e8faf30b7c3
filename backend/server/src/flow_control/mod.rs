//! API priority and fairness: every request belongs to a flow of some priority, and no flow can take all seats. After
//! <https://kubernetes.io/docs/concepts/cluster-administration/flow-control/>. What runs and who waits is decided in
//! `level.rs`; here are the objects that say so, the waiting, and the clock.
mod demand;
mod level;
mod metrics;
mod rules;

use crate::auth::Attributes;
use crate::feed::Observation;
use crate::objects::Actor;
use arc_swap::ArcSwap;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use demand::{Share, share_out};
use level::{Arrival, Level, Queueing, Seats, Ticket};
use parking_lot::Mutex;
use pilothouse_api::{Reason, Status, meta};
use pilothouse_controllers::flow_control as defaults;
use rules::Schema;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

pub const RESOURCES: &[&str] = &[defaults::FLOW_SCHEMAS, defaults::PRIORITY_LEVELS];

/// Requests that run at once where nobody says otherwise: Kubernetes' 400 reading and 200 changing ones.
pub const SEATS: u32 = 600;
/// A quarter of the minute that Kubernetes gives a whole request.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
const RETRY_AFTER_SECONDS: u32 = 1;
/// How often idle levels lend anew.
const SHARING: Duration = Duration::from_secs(10);
/// No request takes more than this part of its level.
const WIDEST_PERCENT: u32 = 15;

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// Cheap to clone.
#[derive(Clone)]
pub struct FlowControl(Arc<Inner>);

struct Inner {
    table: ArcSwap<Table>,
    known: Mutex<Known>,
    begun: Instant,
    seats: AtomicU32,
}

/// What requests are matched against.
#[derive(Default)]
struct Table {
    /// In the order in which they are asked; the last takes everybody.
    schemas: Vec<Arc<Schema<Priority>>>,
    levels: BTreeMap<String, Arc<Priority>>,
}

/// The objects as they are stored, by name.
#[derive(Default)]
struct Known {
    schemas: BTreeMap<String, Stored>,
    levels: BTreeMap<String, Stored>,
}

#[derive(Clone)]
struct Stored {
    uid: String,
    object: Value,
}

/// flowcontrol/v1 `PriorityLevelConfigurationSpec`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LevelSpec {
    limited: Option<Limited>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Limited {
    nominal_concurrency_shares: u32,
    lendable_percent: u32,
    borrowing_limit_percent: Option<u32>,
    limit_response: LimitResponse,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LimitResponse {
    queuing: Option<Queuing>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Queuing {
    queues: u32,
    hand_size: u32,
    queue_length_limit: u32,
}

impl Limited {
    fn queueing(&self) -> Queueing {
        match &self.limit_response.queuing {
            None => Queueing::REJECT,
            Some(q) => Queueing { queues: q.queues, hand_size: q.hand_size, length: q.queue_length_limit },
        }
    }
}

/// A PriorityLevelConfiguration at work.
struct Priority {
    name: String,
    uid: HeaderValue,
    /// None: exempt from every limit.
    limited: Option<AtLimit>,
    begun: Instant,
    running: AtomicU32,
    dispatched: AtomicU64,
    refused: AtomicU64,
    timed_out: AtomicU64,
}

struct AtLimit {
    level: Mutex<Level<oneshot::Sender<Permit>>>,
    nominal: AtomicU32,
    least: AtomicU32,
    most: AtomicU32,
}

/// Where a request belongs.
pub struct Flow {
    schema: Arc<Schema<Priority>>,
    hash: u64,
}

/// Held while a request runs; dropping it lets the next one in.
pub struct Permit {
    priority: Arc<Priority>,
    /// None of an exempt level.
    seats: Option<Seats>,
}

impl Default for FlowControl {
    fn default() -> Self {
        let (table, known, seats) = (ArcSwap::default(), Mutex::default(), AtomicU32::new(SEATS));
        let control = Self(Arc::new(Inner { table, known, begun: Instant::now(), seats }));
        control.rebuild(&control.0.known.lock());
        control
    }
}

impl FlowControl {
    /// How many requests all levels together run at once.
    pub fn set_seats(&self, seats: u32) {
        self.0.seats.store(seats.max(1), Ordering::Relaxed);
        self.rebuild(&self.0.known.lock());
    }

    pub fn observe(&self, observation: &Observation) {
        let mut known = self.0.known.lock();
        let (object, is_gone) = match observation {
            Observation::Reset => {
                *known = Known::default();
                return self.rebuild(&known);
            }
            Observation::Put(object) => (object, false),
            Observation::Gone(object) => (object, true),
        };
        let objects = match &*object.key.resource {
            defaults::FLOW_SCHEMAS => &mut known.schemas,
            _ => &mut known.levels,
        };
        match is_gone {
            true => drop(objects.remove(&*object.key.name)),
            false => {
                let stored = Stored { uid: object.uid.to_string(), object: object.value() };
                objects.insert(object.key.name.to_string(), stored);
            }
        }
        self.rebuild(&known);
    }

    /// Lends the seats of idle levels to busy ones, now and then.
    pub async fn run(self) {
        let mut turn = tokio::time::interval(SHARING);
        loop {
            turn.tick().await;
            self.share();
        }
    }

    fn share(&self) {
        let now = self.0.begun.elapsed();
        let table = self.0.table.load();
        let limited: Vec<(&Arc<Priority>, &AtLimit)> =
            table.levels.values().filter_map(|level| Some((level, level.limited.as_ref()?))).collect();
        let shares: Vec<Share> = limited
            .iter()
            .map(|(_, limit)| Share {
                nominal: limit.nominal.load(Ordering::Relaxed),
                least: limit.least.load(Ordering::Relaxed),
                most: limit.most.load(Ordering::Relaxed),
                wanted: limit.level.lock().demand().take(now),
            })
            .collect();
        let seats = share_out(self.0.seats.load(Ordering::Relaxed), &shares);
        for ((priority, limit), seats) in limited.into_iter().zip(seats) {
            limit.level.lock().set_seats(now, seats);
            priority.start_waiting();
        }
    }

    /// Where the request belongs. One that matches nothing is caught by the last schema.
    pub fn classify(&self, actor: &Actor, wanted: &Attributes) -> Option<Flow> {
        let table = self.0.table.load();
        let found = table.schemas.iter().find(|schema| schema.matches(actor, wanted));
        let schema = found.or(table.schemas.last())?.clone();
        let hash = if schema.level.limited.is_some() { schema.flow(actor, wanted) } else { 0 };
        Some(Flow { schema, hash })
    }

    /// Levels keep their queues and who is in them.
    fn rebuild(&self, known: &Known) {
        let old = self.0.table.load();
        let (mut schemas, mut levels) = (known.schemas.clone(), known.levels.clone());
        // These two always hold, also while nobody has stored them yet.
        for (resource, object) in defaults::mandatory() {
            let objects = if resource == defaults::FLOW_SCHEMAS { &mut schemas } else { &mut levels };
            let name = meta::name(&object).to_owned();
            objects.entry(name).or_insert(Stored { uid: String::new(), object });
        }
        let specs: BTreeMap<&String, Option<Limited>> = levels
            .iter()
            .map(|(name, level)| {
                let spec = LevelSpec::deserialize(&level.object["spec"]).unwrap_or_default();
                (name, spec.limited)
            })
            .collect();
        let shares = specs.values().flatten().map(|l| l.nominal_concurrency_shares).sum::<u32>().max(1);
        let seats = self.0.seats.load(Ordering::Relaxed);
        let mut table = Table::default();
        for (name, limited) in specs {
            let uid = &levels[name].uid;
            let same =
                |old: &&Arc<Priority>| old.uid == uid.as_str() && old.limited.is_some() == limited.is_some();
            let priority = match old.levels.get(name).filter(same) {
                Some(priority) => priority.clone(),
                None => Arc::new(Priority::new(name, uid, limited.is_some(), self.0.begun)),
            };
            if let Some(limited) = &limited {
                priority.limit(limited, shares, seats);
            }
            table.levels.insert(name.clone(), priority);
        }
        for (name, stored) in &schemas {
            let Some(spec) = rules::spec(&stored.object) else { continue };
            // One that names no level there is waits until there is.
            let Some(level) = table.levels.get(&spec.priority_level_configuration.name) else { continue };
            table.schemas.push(Arc::new(Schema::new(name, &stored.uid, spec, level.clone())));
        }
        table.schemas.sort_by(|a, b| a.rank().cmp(&b.rank()));
        self.0.table.store(Arc::new(table));
    }
}

impl Priority {
    fn new(name: &str, uid: &str, is_limited: bool, begun: Instant) -> Self {
        let limited = is_limited.then(|| AtLimit {
            level: Mutex::new(Level::new(0, Queueing::REJECT, begun.elapsed())),
            nominal: AtomicU32::new(0),
            least: AtomicU32::new(0),
            most: AtomicU32::new(0),
        });
        Self {
            name: name.to_owned(),
            uid: HeaderValue::from_str(uid).unwrap_or(HeaderValue::from_static("")),
            limited,
            begun,
            running: AtomicU32::new(0),
            dispatched: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            timed_out: AtomicU64::new(0),
        }
    }

    /// Its part of all seats, of which it lends and borrows as it is allowed to.
    fn limit(self: &Arc<Self>, spec: &Limited, shares: u32, seats: u32) {
        let Some(limit) = &self.limited else { return };
        let part = |whole: u32, part: u32, of: u32| u64::from(whole) * u64::from(part) / u64::from(of);
        let own = u64::from(seats) * u64::from(spec.nominal_concurrency_shares);
        let nominal = u32::try_from(own.div_ceil(u64::from(shares))).unwrap_or(u32::MAX);
        let percent = |percent: u32| u32::try_from(part(nominal, percent, 100)).unwrap_or(u32::MAX);
        let most = spec.borrowing_limit_percent.map_or(seats, |p| nominal.saturating_add(percent(p)));
        limit.least.store(nominal - percent(spec.lendable_percent.min(100)), Ordering::Relaxed);
        limit.most.store(most, Ordering::Relaxed);
        let before = limit.nominal.swap(nominal, Ordering::Relaxed);
        let now = self.begun.elapsed();
        let mut level = limit.level.lock();
        level.set_queueing(now, spec.queueing());
        if before != nominal {
            level.set_seats(now, nominal);
        }
        drop(level);
        self.start_waiting();
    }

    fn permit(self: &Arc<Self>, seats: Option<Seats>) -> Permit {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.dispatched.fetch_add(1, Ordering::Relaxed);
        Permit { priority: self.clone(), seats }
    }

    /// Lets in whoever may run now.
    fn start_waiting(self: &Arc<Self>) {
        let Some(limit) = &self.limited else { return };
        loop {
            let next = limit.level.lock().next(self.begun.elapsed());
            let Some((waiter, seats)) = next else { return };
            // Who waited may have left just now. The lock is free here: the permit may be dropped on the way.
            if let Err(mut unwanted) = waiter.send(self.permit(Some(seats)))
                && let Some(seats) = unwanted.seats.take()
            {
                limit.level.lock().finish(self.begun.elapsed(), seats);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.priority.running.fetch_sub(1, Ordering::Relaxed);
        let (Some(seats), Some(limit)) = (self.seats.take(), &self.priority.limited) else { return };
        let mut level = limit.level.lock();
        level.finish(self.priority.begun.elapsed(), seats);
        let somebody_waits = level.waiting() > 0;
        drop(level);
        if somebody_waits {
            self.priority.start_waiting();
        }
    }
}

/// A place in a queue, given up when dropped.
struct Place<'a> {
    priority: &'a Arc<Priority>,
    limit: &'a AtLimit,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let gone = self.limit.level.lock().give_up(self.priority.begun.elapsed(), self.ticket);
        // It may have been wide, and others waited behind it.
        if gone {
            self.priority.start_waiting();
        }
    }
}

impl Flow {
    /// Tells the client where its request belonged.
    pub fn mark(&self, headers: &mut HeaderMap) {
        headers.insert(SCHEMA_UID, self.schema.uid.clone());
        headers.insert(LEVEL_UID, self.schema.level.uid.clone());
    }

    /// Waits for the request's turn. Errors: TooManyRequests where its queue is full, or the turn does not come in time.
    pub async fn enter(&self, width: u32) -> Result<Permit, Status> {
        let priority = &self.schema.level;
        let Some(limit) = &priority.limited else { return Ok(priority.permit(None)) };
        let widest = limit.nominal.load(Ordering::Relaxed) * WIDEST_PERCENT / 100;
        let width = width.min(widest).max(1);
        let mut turn = None;
        let arrival = limit.level.lock().arrive(priority.begun.elapsed(), self.hash, width, || {
            let (sender, receiver) = oneshot::channel();
            turn = Some(receiver);
            sender
        });
        match (arrival, turn) {
            (Arrival::Runs(seats), _) => Ok(priority.permit(Some(seats))),
            (Arrival::Waits(ticket), Some(turn)) => {
                let _place = Place { priority, limit, ticket };
                match tokio::time::timeout(LONGEST_WAIT, turn).await {
                    Ok(Ok(permit)) => Ok(permit),
                    _ => {
                        priority.timed_out.fetch_add(1, Ordering::Relaxed);
                        Err(too_many())
                    }
                }
            }
            (Arrival::Refused | Arrival::Waits(_), _) => {
                priority.refused.fetch_add(1, Ordering::Relaxed);
                Err(too_many())
            }
        }
    }
}

fn too_many() -> Status {
    let mut status = Status::new(Reason::TooManyRequests, "Too many requests, please try again later.");
    status.details.retry_after_seconds = Some(RETRY_AFTER_SECONDS);
    status
}

#[cfg(test)]
mod tests;
