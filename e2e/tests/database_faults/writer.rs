//! One client that creates, updates, patches and deletes objects of its own, and remembers what it was told.
use crate::history::{Attempt, Outcome, revision_of};
use crate::{NAMESPACES, Run};
use anyhow::{Context, Result, bail, ensure};
use kube::Client;
use kube::client::Body;
use kube::core::Request;
use kube::core::params::{DeleteParams, GetParams, Patch, PatchParams, PostParams};
use pilothouse_e2e::simulation::random::Random;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const OBJECTS: usize = 4;
/// The label that half of all writes change, for a watch that selects by it.
pub const PARITY: &str = "parity";
/// Clients are told to wait a second; these press harder.
const PAUSE: Duration = Duration::from_millis(100);
/// Longer than any wait of the server's: without an answer by then there never is one.
const ANSWER: Duration = Duration::from_secs(45);

enum Known {
    Absent,
    At(u64),
    /// After an attempt in doubt.
    Unknown,
}

struct Item {
    name: String,
    known: Known,
    /// Whether something in doubt may have changed it since it was last known.
    doubted: bool,
}

pub struct Writer {
    id: usize,
    client: Client,
    run: Arc<Run>,
    path: String,
    namespace: &'static str,
    items: Vec<Item>,
    random: Random,
    number: u64,
    attempts: Vec<Attempt>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// How an object is now.
    Look,
    Create,
    Replace(u64),
    Patch,
    Delete,
}

/// What a request came to.
enum Answer {
    Done(Value),
    Missing,
    Conflict,
    TryAgain,
}

impl Writer {
    pub fn new(id: usize, client: Client, run: Arc<Run>) -> Self {
        let namespace = NAMESPACES[id % NAMESPACES.len()];
        let item = |n| Item { name: format!("writer{id}-{n}"), known: Known::Absent, doubted: false };
        Self {
            id,
            client,
            run,
            path: format!("/api/v1/namespaces/{namespace}/configmaps"),
            namespace,
            items: (0..OBJECTS).map(item).collect(),
            random: Random::new(id as u64),
            number: 0,
            attempts: Vec::new(),
        }
    }

    /// Until told to stop; everything that was tried.
    pub async fn run(mut self) -> Result<Vec<Attempt>> {
        while !self.run.stop.load(Ordering::Relaxed) {
            let item = self.random.below(OBJECTS);
            let name = self.items[item].name.clone();
            self.step(item).await.with_context(|| format!("writer {}, {name}", self.id))?;
        }
        Ok(self.attempts)
    }

    async fn step(&mut self, item: usize) -> Result<()> {
        let Item { name, known, .. } = &self.items[item];
        let path = Request::new(self.path.clone());
        self.number += 1;
        let ask = match *known {
            Known::Unknown => Ask::Look,
            Known::Absent => Ask::Create,
            Known::At(revision) => match self.random.below(10) {
                0..5 => Ask::Replace(revision),
                5..8 => Ask::Patch,
                _ => Ask::Delete,
            },
        };
        let request = match ask {
            Ask::Look => path.get(name, &GetParams::default()),
            Ask::Create => path.create(&PostParams::default(), self.object(name, None).to_string().into()),
            Ask::Replace(revision) => {
                let object = self.object(name, Some(revision));
                path.replace(name, &PostParams::default(), object.to_string().into())
            }
            Ask::Patch => path.patch(name, &PatchParams::default(), &Patch::Merge(&self.object(name, None))),
            Ask::Delete => path.delete(name, &DeleteParams::default()),
        }?;
        let sent = tokio::time::timeout(ANSWER, self.client.send(request.map(Body::from)));
        let response = sent.await.context("no answer")?.with_context(|| format!("{ask:?}"))?;
        let (code, retry_after) =
            (response.status().as_u16(), response.headers().contains_key("retry-after"));
        let body = response.into_body().collect_bytes().await?;
        let answer = match code {
            200 | 201 => Answer::Done(serde_json::from_slice(&body)?),
            404 => Answer::Missing,
            409 => Answer::Conflict,
            429 | 503 | 504 if retry_after => Answer::TryAgain,
            // Neither an outcome nor a call to come again.
            _ => bail!("{ask:?}: {code} {}", String::from_utf8_lossy(&body)),
        };
        let pause = matches!(answer, Answer::TryAgain);
        self.told(item, ask, answer).with_context(|| String::from_utf8_lossy(&body).into_owned())?;
        if pause {
            self.run.refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    fn object(&self, name: &str, revision: Option<u64>) -> Value {
        let parity = if self.number.is_multiple_of(2) { "even" } else { "odd" };
        let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": self.namespace, "labels": {PARITY: parity}},
            "data": {"number": self.number.to_string()}});
        if let Some(revision) = revision {
            object["metadata"]["resourceVersion"] = revision.to_string().into();
        }
        object
    }

    /// Takes down what became of an attempt. Nobody else writes the object, so only what was in doubt can be in its way.
    fn told(&mut self, item: usize, ask: Ask, answer: Answer) -> Result<()> {
        let item = &mut self.items[item];
        if ask == Ask::Look {
            item.known = match answer {
                Answer::Done(object) => Known::At(revision_of(&object)?),
                Answer::Missing => Known::Absent,
                Answer::TryAgain => Known::Unknown,
                Answer::Conflict => bail!("a GET met a conflict"),
            };
            return Ok(());
        }
        let deletes = ask == Ask::Delete;
        let outcome = match answer {
            Answer::Done(object) => {
                let revision = if deletes { None } else { Some(revision_of(&object)?) };
                item.known = revision.map_or(Known::Absent, Known::At);
                item.doubted = false;
                self.run.acknowledged[self.id].fetch_add(1, Ordering::Relaxed);
                Outcome::Acknowledged(revision)
            }
            Answer::Missing | Answer::Conflict => {
                ensure!(item.doubted, "{ask:?} number {} met a change that nobody made", self.number);
                item.known = Known::Unknown;
                Outcome::Refused
            }
            Answer::TryAgain => {
                item.known = Known::Unknown;
                item.doubted = true;
                Outcome::InDoubt
            }
        };
        let object = format!("{}/{}", self.namespace, item.name);
        self.attempts.push(Attempt { object, number: self.number, deletes, outcome });
        Ok(())
    }
}
