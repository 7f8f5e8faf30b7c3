//! What writers tried and were told, held against what watchers saw and what is there at the end.
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::HashMap;

/// One write that was sent.
#[derive(Debug)]
pub struct Attempt {
    /// namespace/name.
    pub object: String,
    /// Rises with every attempt of a writer; what is written says it.
    pub number: u64,
    pub deletes: bool,
    pub outcome: Outcome,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, at this revision; a deletion's is not told.
    Acknowledged(Option<u64>),
    /// It may have happened.
    InDoubt,
    /// It has not happened.
    Refused,
}

/// One event of a watch.
#[derive(Debug)]
pub struct Event {
    pub kind: Kind,
    pub object: String,
    pub number: Option<u64>,
    pub revision: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Added,
    Modified,
    Deleted,
}

pub fn name_of(object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}

pub fn number_of(object: &Value) -> Option<u64> {
    object["data"]["number"].as_str()?.parse().ok()
}

pub fn revision_of(object: &Value) -> Result<u64> {
    let text = object["metadata"]["resourceVersion"].as_str().context("no resourceVersion")?;
    Ok(text.parse()?)
}

fn by_object<T>(all: &[T], object: impl Fn(&T) -> &str) -> HashMap<&str, Vec<&T>> {
    let mut sorted: HashMap<&str, Vec<&T>> = HashMap::new();
    for one in all {
        sorted.entry(object(one)).or_default().push(one);
    }
    sorted
}

/// Every object is as its writer was told last, or as a later attempt would have left it.
pub fn nothing_acknowledged_is_missing(attempts: &[Attempt], list: &[Value]) -> Result<()> {
    let there: HashMap<String, Option<u64>> =
        list.iter().map(|object| (name_of(object), number_of(object))).collect();
    for (name, attempts) in by_object(attempts, |attempt| &attempt.object) {
        let last = attempts.iter().rposition(|attempt| matches!(attempt.outcome, Outcome::Acknowledged(_)));
        // What is in doubt since then may have happened, in order.
        let since = &attempts[last.map_or(0, |last| last + 1)..];
        let before = last.map(|last| attempts[last]).filter(|attempt| !attempt.deletes);
        let mut possible = vec![before.map(|attempt| attempt.number)];
        for attempt in since.iter().filter(|attempt| attempt.outcome == Outcome::InDoubt) {
            possible.push((!attempt.deletes).then_some(attempt.number));
        }
        let found = there.get(name).copied().flatten();
        ensure!(possible.contains(&found), "{name} is {found:?}, which should be one of {possible:?}");
    }
    Ok(())
}

/// The events are those of the attempts: all that were acknowledged, none that were refused, in order.
pub fn follows(attempts: &[Attempt], events: &[Event]) -> Result<()> {
    let mut events_of = by_object(events, |event| &event.object);
    for (name, attempts) in by_object(attempts, |attempt| &attempt.object) {
        let events = events_of.remove(name).unwrap_or_default();
        object_follows(&attempts, &events).with_context(|| name.to_owned())?;
    }
    Ok(())
}

fn object_follows(attempts: &[&Attempt], events: &[&Event]) -> Result<()> {
    let tried: HashMap<u64, &Attempt> = attempts
        .iter()
        .filter(|attempt| !attempt.deletes)
        .map(|attempt| (attempt.number, *attempt))
        .collect();
    let mut last = 0;
    let mut written = HashMap::new();
    for event in events.iter().filter(|event| event.kind != Kind::Deleted) {
        let number = event.number.context("an object without number")?;
        let attempt = tried.get(&number).with_context(|| format!("nobody tried {event:?}"))?;
        ensure!(attempt.outcome != Outcome::Refused, "{event:?} was refused");
        ensure!(number > last, "{event:?} came after {last}");
        last = number;
        written.insert(number, event.revision);
    }
    for attempt in attempts {
        let Outcome::Acknowledged(revision) = attempt.outcome else { continue };
        if !attempt.deletes {
            let seen = written.get(&attempt.number).copied();
            ensure!(seen.is_some() && seen == revision, "{attempt:?} was seen at {seen:?}");
            continue;
        }
        // Between the last state before and the first after, it was gone.
        let before = |event: &&&Event| event.number.is_some_and(|number| number < attempt.number);
        let gone = events.iter().take_while(before).last().is_some_and(|event| event.kind == Kind::Deleted);
        ensure!(gone, "{attempt:?} was not seen");
    }
    Ok(())
}
