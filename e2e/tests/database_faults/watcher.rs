//! One client that lists and watches, resumes where its watch ended, and lists again where it is told to.
use crate::history::{Event, Kind, name_of, number_of, revision_of};
use crate::{NAMESPACES, writer};
use anyhow::{Context, Result, bail, ensure};
use futures::AsyncBufReadExt;
use futures::TryStreamExt;
use kube::core::Request;
use kube::core::params::{ListParams, WatchParams};
use kube::{Client, Error};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What every namespace gets when all is written.
pub const END: &str = "zz-end";
/// Short, so that watches are resumed all the time.
const SECONDS: u32 = 2;
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub struct Scope {
    namespace: Option<&'static str>,
    selector: Option<String>,
}

impl Scope {
    pub fn all() -> Vec<Self> {
        let everything = Self { namespace: None, selector: None };
        let even = Self { selector: Some(format!("{}=even", writer::PARITY)), ..everything.clone() };
        let namespaces = NAMESPACES.map(|namespace| Self { namespace: Some(namespace), selector: None });
        [vec![everything.clone(), everything, even], namespaces.into()].concat()
    }

    fn holds(&self, object: &Value) -> bool {
        let namespace = object["metadata"]["namespace"].as_str();
        let parity = object["metadata"]["labels"][writer::PARITY].as_str();
        self.namespace.is_none_or(|own| Some(own) == namespace)
            && (self.selector.is_none() || parity == Some("even"))
    }
}

pub struct Watcher {
    client: Client,
    pub scope: Scope,
    request: Request,
    state: BTreeMap<String, Value>,
    pub seen: Vec<Event>,
    revision: u64,
    lists: usize,
    watches: usize,
    refusals: usize,
    cuts: usize,
}

impl fmt::Display for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, seen, watches, lists, refusals, cuts, .. } = self;
        write!(
            f,
            "{:?} {:?}: {} events in {watches} watches, {lists} lists, {refusals} refusals, {cuts} cuts",
            scope.namespace,
            scope.selector,
            seen.len()
        )
    }
}

impl Watcher {
    /// With its first list made: what is written from now on, it sees.
    pub async fn start(client: Client, scope: Scope) -> Result<Self> {
        let path = match scope.namespace {
            Some(namespace) => format!("/api/v1/namespaces/{namespace}/configmaps"),
            None => "/api/v1/configmaps".to_owned(),
        };
        let mut watcher = Self {
            client,
            scope,
            request: Request::new(path),
            state: BTreeMap::new(),
            seen: Vec::new(),
            revision: 0,
            lists: 0,
            watches: 0,
            refusals: 0,
            cuts: 0,
        };
        watcher.list().await?;
        Ok(watcher)
    }

    /// Whether it never had to list again, so that its events are all there were.
    pub fn saw_everything(&self) -> bool {
        self.lists == 1 && self.scope.namespace.is_none() && self.scope.selector.is_none()
    }

    /// Until told that all is written, and the end was seen.
    pub async fn run(mut self, ended: tokio::sync::watch::Receiver<bool>) -> Result<Self> {
        let scope = self.scope.clone();
        while !(*ended.borrow() && self.has_seen_the_end()) {
            self.step().await.with_context(|| format!("{scope:?}"))?;
        }
        Ok(self)
    }

    fn has_seen_the_end(&self) -> bool {
        let own =
            NAMESPACES.iter().filter(|namespace| self.scope.namespace.is_none_or(|own| own == **namespace));
        own.into_iter().all(|namespace| self.state.contains_key(&format!("{namespace}/{END}")))
    }

    /// A list where there is none yet, else one watch to its end.
    async fn step(&mut self) -> Result<()> {
        let outcome = match self.revision {
            0 => self.list().await,
            _ => self.watch().await,
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(error) => match error.downcast::<Error>() {
                Ok(Error::Api(status)) if status.code == 410 => {
                    self.revision = 0;
                    Ok(())
                }
                Ok(Error::Api(status)) if matches!(status.code, 429 | 503 | 504) => {
                    let details = status.details.as_ref();
                    ensure!(details.is_some_and(|d| d.retry_after_seconds > 0), "{status:?}");
                    self.refusals += 1;
                    tokio::time::sleep(PAUSE).await;
                    Ok(())
                }
                Ok(other) => Err(other.into()),
                Err(other) => Err(other),
            },
        }
    }

    async fn list(&mut self) -> Result<()> {
        let mut params = ListParams::default();
        params.label_selector.clone_from(&self.scope.selector);
        let list: Value = self.client.request(self.request.list(&params)?).await?;
        let revision = revision_of(&list)?;
        let newest = self.seen.last().map_or(0, |event| event.revision);
        ensure!(revision >= newest, "a list of {revision} after an event of {newest}");
        let items = list["items"].as_array().context("a list without items")?;
        self.state = items.iter().map(|object| (name_of(object), object.clone())).collect();
        self.revision = revision;
        self.lists += 1;
        Ok(())
    }

    async fn watch(&mut self) -> Result<()> {
        let mut params = WatchParams::default().timeout(SECONDS);
        params.label_selector.clone_from(&self.scope.selector);
        let request = self.request.watch(&params, &self.revision.to_string())?;
        let lines = self.client.request_stream(request).await?.lines();
        self.watches += 1;
        let mut lines = std::pin::pin!(lines);
        loop {
            match lines.try_next().await {
                Ok(Some(line)) => self.take(serde_json::from_str(&line).context(line)?)?,
                Ok(None) => return Ok(()),
                Err(_) => {
                    self.cuts += 1;
                    return Ok(());
                }
            }
        }
    }

    fn take(&mut self, event: Value) -> Result<()> {
        let object = &event["object"];
        let kind = match event["type"].as_str() {
            Some("ADDED") => Kind::Added,
            Some("MODIFIED") => Kind::Modified,
            Some("DELETED") => Kind::Deleted,
            Some("BOOKMARK") => {
                let revision = revision_of(object)?;
                ensure!(revision >= self.revision, "a bookmark of {revision} after {}", self.revision);
                self.revision = revision;
                return Ok(());
            }
            Some("ERROR") if object["code"] == 410 => {
                self.revision = 0;
                return Ok(());
            }
            _ => bail!("{event}"),
        };
        let (name, revision) = (name_of(object), revision_of(object)?);
        ensure!(revision > self.revision, "{kind:?} {name} of {revision} after {}", self.revision);
        self.revision = revision;
        let was_there = match kind {
            Kind::Deleted => self.state.remove(&name),
            Kind::Added | Kind::Modified => self.state.insert(name.clone(), object.clone()),
        };
        ensure!(
            was_there.is_some() == (kind != Kind::Added),
            "{kind:?} {name} of {revision}, and it was {was_there:?}"
        );
        self.seen.push(Event { kind, object: name, number: number_of(object), revision });
        Ok(())
    }

    /// Its events lead to what the list says.
    pub fn has_arrived_at(&self, list: &[Value]) -> Result<()> {
        let own = list.iter().filter(|object| self.scope.holds(object));
        let wanted: BTreeMap<String, u64> =
            own.map(|object| Ok((name_of(object), revision_of(object)?))).collect::<Result<_>>()?;
        let found = self.state.iter().map(|(name, object)| Ok((name.clone(), revision_of(object)?)));
        let found: BTreeMap<String, u64> = found.collect::<Result<_>>()?;
        ensure!(found == wanted, "{:?} arrived at {found:?}, not {wanted:?}", self.scope);
        Ok(())
    }
}
