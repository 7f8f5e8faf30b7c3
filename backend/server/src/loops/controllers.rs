//! The one shell of all controllers: feed, view, keys, plans, writes; and the barrier that keeps a controller from
//! deciding on a view that lacks its own last writes.
use super::events::EventRecorder;
use super::feed::{Feed, Step};
use super::metrics_apis::MetricsApis;
use super::work_queue::{Task, WorkQueue};
use crate::metrics::Metrics;
use crate::objects::{self, Actor, Objects, WriteOptions};
use pilothouse_api::jiff::Timestamp;
use pilothouse_api::{Key, Observed, Reason, Revision, Status};
use pilothouse_controllers::cluster::HORIZONTAL_POD_AUTOSCALERS;
use pilothouse_controllers::horizontal_pod_autoscaler::{self, Answers, Memory};
use pilothouse_controllers::{Action, Cluster, Controller, Part, Plan, Settings};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Plans carried out at the same time: enough to fill the store's write groups.
const CONCURRENCY: usize = 64;
/// Every key is visited at least so often, whatever was missed.
const RESYNC: Duration = Duration::from_secs(300);
/// How often autoscalers are shown what is used: several times in their own period.
const MEASURE: Duration = Duration::from_secs(5);
/// How often other metrics are asked for: the autoscalers' own period.
const ASK: Duration = Duration::from_secs(15);

pub async fn run(
    objects: Objects,
    metrics: Metrics,
    apis: MetricsApis,
    settings: Settings,
    events: EventRecorder,
    shutdown: CancellationToken,
) {
    let mut shell = Shell {
        controllers: pilothouse_controllers::all().into_iter().map(Arc::from).collect(),
        feed: Feed::new(objects.store().clone(), None),
        cluster: Cluster::new(settings),
        queue: WorkQueue::default(),
        running: JoinSet::new(),
        tasks: HashMap::new(),
        waiting: Vec::new(),
        objects,
        metrics,
        apis: Some(apis),
        asking: JoinSet::new(),
        asked_at: None,
        events,
    };
    shell.run(shutdown).await;
}

/// What became of a plan.
struct Outcome {
    task: Task,
    /// The view must reach this before the key runs again.
    written: Revision,
    failed: bool,
    /// Why something could not be created: a quota, an admission rule, a mistake in a template.
    refusal: Option<String>,
    memory: Option<Memory>,
    told: Option<String>,
    check_again_at: Option<Timestamp>,
}

impl Outcome {
    fn new(task: Task, check_again_at: Option<Timestamp>) -> Self {
        Self { task, written: 0, failed: false, refusal: None, memory: None, told: None, check_again_at }
    }

    /// Of a plan whose actions are yet to be written.
    fn of(task: Task, plan: &mut Plan) -> Self {
        let told = plan.told.take().map(|(_, _, message)| message);
        Self { told, memory: plan.memory.take(), ..Self::new(task, plan.check_again_at) }
    }
}

struct Shell {
    controllers: Vec<Arc<dyn Controller>>,
    feed: Feed,
    cluster: Cluster,
    queue: WorkQueue,
    running: JoinSet<Outcome>,
    /// Whose plans are running: a plan that panics must give its key back.
    tasks: HashMap<tokio::task::Id, Task>,
    /// Carried out, but not seen yet: the barrier.
    waiting: Vec<Outcome>,
    objects: Objects,
    metrics: Metrics,
    /// None: nobody is asked.
    apis: Option<MetricsApis>,
    /// What autoscalers want to know of others: one round of questions at a time.
    asking: JoinSet<Answers>,
    asked_at: Option<Instant>,
    events: EventRecorder,
}

impl Shell {
    async fn run(&mut self, shutdown: CancellationToken) {
        let mut resync = tokio::time::interval(RESYNC);
        resync.tick().await;
        let mut measure = tokio::time::interval(MEASURE);
        measure.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.start_due();
            let timer = sleep_until(self.queue.next_at());
            tokio::select! {
                () = shutdown.cancelled() => return,
                step = self.feed.next() => self.observe(step),
                Some(done) = self.running.join_next_with_id(), if !self.running.is_empty() => self.joined(done),
                () = timer => {}
                _ = resync.tick() => self.visit_all(),
                _ = measure.tick() => self.measure(),
                Some(answers) = self.asking.join_next(), if !self.asking.is_empty() => {
                    self.cluster.answers = answers.unwrap_or_default();
                }
            }
        }
    }

    fn observe(&mut self, step: Step) {
        match step {
            Step::Snapshot(state) => {
                self.cluster = self.cluster.emptied();
                let now = Timestamp::now();
                for change in state.changes() {
                    self.cluster.apply(&change, now);
                }
                self.visit_all();
            }
            Step::Changes(changes) => {
                changes.iter().for_each(|change| self.apply(&change));
                self.cluster.revision = self.cluster.revision.max(changes.revision);
            }
            Step::Quiet(revision) => self.cluster.revision = self.cluster.revision.max(revision),
        }
        let reached = self.cluster.revision;
        let (seen, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|w| w.written <= reached);
        self.waiting = waiting;
        for outcome in seen {
            self.finish(outcome);
        }
    }

    fn apply(&mut self, change: &Observed) {
        self.cluster.apply(change, Timestamp::now());
        if &*change.key.resource == HORIZONTAL_POD_AUTOSCALERS && change.previous.is_none() {
            // The first autoscaler must not find nothing measured.
            self.measure();
        }
        for (i, controller) in self.controllers.iter().enumerate() {
            for key in controller.keys(change, &self.cluster) {
                self.queue.add((i, key));
            }
        }
    }

    /// What is used is an observation like others; only autoscalers read it.
    fn measure(&mut self) {
        if self.cluster.count(HORIZONTAL_POD_AUTOSCALERS) == 0 {
            return;
        }
        self.cluster.measure(self.metrics.all());
        let is_due = self.asked_at.is_none_or(|at| at.elapsed() >= ASK);
        if let Some(apis) = self.apis.clone().filter(|_| is_due && self.asking.is_empty()) {
            self.asked_at = Some(Instant::now());
            let questions = horizontal_pod_autoscaler::questions(&self.cluster);
            if questions.is_empty() {
                self.cluster.answers.clear();
            } else {
                self.asking.spawn(apis.answers(questions, self.objects.registry()));
            }
        }
    }

    fn visit_all(&mut self) {
        for (i, controller) in self.controllers.iter().enumerate() {
            for key in controller.all_keys(&self.cluster) {
                self.queue.add((i, key));
            }
        }
    }

    fn start_due(&mut self) {
        let now = Timestamp::now();
        while self.running.len() < CONCURRENCY {
            let Some(task) = self.queue.next(now) else { return };
            let controller = &self.controllers[task.0];
            let mut plan = controller.reconcile(&task.1, &self.cluster, now);
            if plan.is_empty() {
                self.finish(Outcome::of(task, &mut plan));
                continue;
            }
            let actor = Actor::system(&format!("controller:{}", controller.name()));
            let carrying = carry_out(
                self.objects.clone(),
                self.events.clone(),
                actor,
                controller.name(),
                task.clone(),
                plan,
            );
            let id = self.running.spawn(carrying).id();
            self.tasks.insert(id, task);
        }
    }

    fn joined(&mut self, done: Result<(tokio::task::Id, Outcome), tokio::task::JoinError>) {
        match done {
            Ok((id, outcome)) => {
                self.tasks.remove(&id);
                self.settle(outcome);
            }
            Err(error) => {
                tracing::error!(%error, "a plan was not carried out");
                if let Some(task) = self.tasks.remove(&error.id()) {
                    self.finish(Outcome { failed: true, ..Outcome::new(task, None) });
                }
            }
        }
    }

    fn settle(&mut self, outcome: Outcome) {
        if outcome.written > self.cluster.revision {
            self.waiting.push(outcome);
        } else {
            self.finish(outcome);
        }
    }

    fn finish(&mut self, outcome: Outcome) {
        let (controller, key) = &outcome.task;
        let name = self.controllers[*controller].name();
        self.cluster.note_outcome(name, key, outcome.refusal.as_deref());
        if !outcome.failed {
            self.cluster.note_told(name, key, outcome.told.as_deref());
            if let Some(memory) = outcome.memory {
                self.cluster.remember(key, memory);
            }
        }
        self.queue.done(&outcome.task, outcome.failed, Timestamp::now());
        if let Some(at) = outcome.check_again_at {
            self.queue.add_at(outcome.task, at);
        }
    }
}

async fn sleep_until(at: Option<Timestamp>) {
    match at {
        None => std::future::pending().await,
        Some(at) => {
            let wait = at.duration_since(Timestamp::now());
            tokio::time::sleep(Duration::try_from(wait).unwrap_or_default()).await;
        }
    }
}

/// Runs of writes that do not depend on each other go to the store together; an update of what an earlier action of the
/// plan touched waits for it.
async fn carry_out(
    objects: Objects,
    events: EventRecorder,
    actor: Actor,
    controller: &'static str,
    task: Task,
    mut plan: Plan,
) -> Outcome {
    let mut outcome = Outcome::of(task, &mut plan);
    let writes: Vec<&Action> =
        plan.actions.iter().filter(|action| !matches!(action, Action::Event { .. })).collect();
    let carried = writes.iter().map(|action| carry_out_one(&objects, &actor, action));
    let done = futures::future::join_all(carried).await;
    for (action, result) in writes.into_iter().zip(done) {
        match result {
            Ok(revision) => outcome.written = outcome.written.max(revision),
            // Somebody was faster: what is to be done is decided anew on what they wrote.
            Err(status) if expected(&status) => {
                outcome.failed = true;
                outcome.written = outcome.written.max(objects.store().revision());
            }
            Err(status) => {
                // Whether it was written may be unknown. Decided anew on a view that lacks it, it would be done twice.
                let reached = objects.store().fresh().await.unwrap_or_else(|_| objects.store().revision());
                outcome.written = outcome.written.max(reached);
                tracing::warn!(controller, key = %outcome.task.1, error = %status, "a plan failed");
                outcome.failed = true;
                if let Action::Create { object, .. } = action {
                    tell_refusal(&events, object, &status, controller);
                    outcome.refusal = Some(status.message);
                }
            }
        }
    }
    if !outcome.failed {
        for action in plan.actions {
            if let Action::Event { about, r#type, reason, message } = action {
                events.record(about, r#type, reason, message, controller);
            }
        }
    }
    outcome
}

/// What may not be made is told about the object that wanted it: whoever asks why pods are missing looks there.
fn tell_refusal(events: &EventRecorder, object: &Value, status: &Status, controller: &'static str) {
    let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    let Some(owner) = owners.into_iter().find(|owner| owner["controller"] == true) else { return };
    let about = json!({
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["name"], "uid": owner["uid"],
        "namespace": object["metadata"]["namespace"],
    });
    events.record(
        about,
        "Warning",
        "FailedCreate",
        format!("Error creating: {}", status.message),
        controller,
    );
}

fn expected(status: &Status) -> bool {
    matches!(status.reason, Reason::Conflict | Reason::NotFound | Reason::AlreadyExists)
        // A namespace on its way out takes nothing new.
        || status.message.contains("because it is being terminated")
}

async fn carry_out_one(objects: &Objects, actor: &Actor, action: &Action) -> Result<Revision, Status> {
    let entry = |key: &Key| {
        objects
            .registry()
            .by_resource(&key.resource)
            .cloned()
            .ok_or_else(|| Status::not_found(&key.resource, &key.name))
    };
    let mut options = WriteOptions::default();
    if let Action::Update { part: Part::Scale, .. } = action {
        options.subresource = "scale".into();
    }
    match action {
        Action::Create { key, object } => {
            let written =
                objects.create(actor, &*entry(key)?, &key.namespace, object.clone(), &options).await?;
            Ok(written.revision)
        }
        Action::Update { key, object, part } => {
            let part = match part {
                Part::Spec | Part::Scale => objects::Part::Spec,
                Part::Status => objects::Part::Status,
                Part::Whole => objects::Part::Whole,
            };
            let entry = entry(key)?;
            let mut object = object.clone();
            if entry.rules.is_custom() {
                // It may still be stored in the version that was the stored one once.
                object["apiVersion"] = entry.api_version().into();
            }
            let change = |_: &Value| Ok(object.clone());
            let written =
                objects.update(actor, &entry, &key.namespace, &key.name, part, &options, change).await?;
            Ok(written.revision)
        }
        Action::Delete { key, options: delete } => {
            let deleted =
                objects.delete(actor, &*entry(key)?, &key.namespace, &key.name, delete, &options).await;
            match deleted {
                Ok(deleted) => Ok(deleted.object.revision),
                Err(status) if status.reason == Reason::NotFound => Ok(0),
                Err(status) => Err(status),
            }
        }
        Action::Event { .. } => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClusterNetwork, ClusterStore, build};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;

    /// A write path on an empty memory store with the namespace `default`.
    async fn objects() -> Objects {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let (state, followers) =
            build(ClusterStore::memory(), pem.as_bytes(), ClusterNetwork::default(), "").unwrap();
        followers.into_iter().for_each(|follower| drop(tokio::spawn(follower)));
        make(
            &state.objects,
            "namespaces",
            "",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}),
        )
        .await;
        state.objects.clone()
    }

    async fn make(objects: &Objects, resource: &str, namespace: &str, object: Value) {
        let entry = objects.registry().by_resource(resource).cloned().unwrap();
        objects
            .create(&Actor::system("test"), &entry, namespace, object, &WriteOptions::default())
            .await
            .unwrap();
    }

    fn shell(objects: &Objects, controller: impl Controller + 'static) -> Shell {
        Shell {
            controllers: vec![Arc::new(controller)],
            feed: Feed::new(objects.store().clone(), None),
            cluster: Cluster::default(),
            queue: WorkQueue::default(),
            running: JoinSet::new(),
            tasks: HashMap::new(),
            waiting: Vec::new(),
            objects: objects.clone(),
            metrics: Metrics::default(),
            apis: None,
            asking: JoinSet::new(),
            asked_at: None,
            events: EventRecorder::start(objects.clone(), CancellationToken::new()),
        }
    }

    fn the_key() -> Key {
        Key::new("namespaces", "", "default")
    }

    /// Wants one ConfigMap of whatever name: a run that does not see the last one's write makes another.
    struct WantsOne;

    impl Controller for WantsOne {
        fn name(&self) -> &'static str {
            "wants-one"
        }
        fn keys(&self, _: &Observed, _: &Cluster) -> Vec<Key> {
            vec![the_key()]
        }
        fn all_keys(&self, _: &Cluster) -> Vec<Key> {
            vec![the_key()]
        }
        fn reconcile(&self, _: &Key, cluster: &Cluster, _: Timestamp) -> Plan {
            let mut plan = Plan::default();
            if cluster.contains(&the_key()) && cluster.keys_in("configmaps", "default").next().is_none() {
                let object =
                    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "one-"}});
                plan.actions.push(Action::Create { key: Key::new("configmaps", "default", ""), object });
            }
            plan
        }
    }

    #[tokio::test]
    async fn a_key_is_not_run_again_before_the_view_holds_its_last_write() {
        let objects = objects().await;
        let stop = CancellationToken::new();
        let mut shell = shell(&objects, WantsOne);
        let running = tokio::spawn({
            let stop = stop.clone();
            async move {
                shell.run(stop).await;
                shell
            }
        });
        for n in 0..100 {
            let secret =
                json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("noise-{n}")}});
            make(&objects, "secrets", "default", secret).await;
        }
        while objects.store().list("configmaps", None).objects.is_empty() {
            objects.store().wait_for(objects.store().revision() + 1).await.unwrap();
        }
        stop.cancel();
        running.await.unwrap();
        assert_eq!(objects.store().list("configmaps", None).objects.len(), 1);
    }

    /// Plans on a version long gone, the first time.
    struct Stale(Arc<AtomicUsize>, Arc<Notify>);

    impl Controller for Stale {
        fn name(&self) -> &'static str {
            "stale"
        }
        fn keys(&self, _: &Observed, _: &Cluster) -> Vec<Key> {
            Vec::new()
        }
        fn all_keys(&self, _: &Cluster) -> Vec<Key> {
            vec![the_key()]
        }
        fn reconcile(&self, key: &Key, cluster: &Cluster, _: Timestamp) -> Plan {
            let mut plan = Plan::default();
            if self.0.fetch_add(1, Ordering::SeqCst) > 0 {
                self.1.notify_one();
                return plan;
            }
            let mut object = Value::clone(&cluster.get(key).unwrap());
            object["metadata"]["resourceVersion"] = "999999".into();
            object["metadata"]["labels"]["late"] = "yes".into();
            plan.actions.push(Action::Update { key: key.clone(), object, part: Part::Spec });
            plan
        }
    }

    #[tokio::test]
    async fn a_conflict_drops_the_plan_and_the_next_run_comes_without_any_change() {
        let objects = objects().await;
        let (runs, again) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let mut shell = shell(&objects, Stale(runs.clone(), again.clone()));
        let running = tokio::spawn(async move { shell.run(CancellationToken::new()).await });
        tokio::time::timeout(Duration::from_secs(10), again.notified()).await.unwrap();
        running.abort();
        let namespace = objects.store().get(&the_key()).unwrap().value();
        assert_eq!(namespace["metadata"]["labels"]["late"], Value::Null);
        assert_eq!(runs.load(Ordering::SeqCst), 2);
    }

    fn panics() -> Outcome {
        panic!("a plan that panics, on purpose");
    }

    #[tokio::test]
    async fn a_plan_that_panics_gives_its_key_back() {
        let objects = objects().await;
        let mut shell = shell(&objects, WantsOne);
        shell.queue.add((0, the_key()));
        let task = shell.queue.next(Timestamp::now()).unwrap();
        let id = shell.running.spawn(async { panics() }).id();
        shell.tasks.insert(id, task);
        let done = shell.running.join_next_with_id().await.unwrap();
        shell.joined(done);
        assert!(shell.queue.next_at().is_some());
    }
}
