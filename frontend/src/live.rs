//! A watch as a signal: the objects as they are now, and whether that is still so.
use crate::api::ApiError;
use crate::api::watch::{Event, Item, Listing, Query, TableColumn, Watch};
use leptos::prelude::*;
use leptos::task::spawn_local;
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use web_sys::AbortController;

/// By `namespace/name`.
pub type Objects = BTreeMap<String, Arc<Item>>;

/// Waits between tries after a failure grow from the first to the second, in milliseconds.
const RETRY: (u32, u32) = (500, 15_000);
/// Where asking again won't help by itself, rights and kinds may still change.
const RETRY_FINAL: u32 = 30_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Loading,
    Live,
    /// What is shown may be old.
    Reconnecting,
    Failed(ApiError),
}

#[derive(Clone, Copy)]
pub struct Live {
    pub objects: RwSignal<Objects>,
    pub columns: RwSignal<Vec<TableColumn>>,
    pub state: RwSignal<State>,
}

impl Live {
    /// The only object of a watch on one name. `None` while loading and once it is gone.
    pub fn one(self) -> Signal<Option<Arc<Item>>> {
        let objects = self.objects;
        Memo::new(move |_| objects.with(|all| all.values().next().cloned())).into()
    }

    pub fn is_loading(self) -> bool {
        self.state.with(|state| *state == State::Loading)
    }
}

/// Lists and watches whatever `query` says, from now until the owner goes; starts over when `query` changes. `None`
/// watches nothing.
pub fn watch(query: Signal<Option<Query>>) -> Live {
    let live = Live {
        objects: RwSignal::new(Objects::new()),
        columns: RwSignal::new(Vec::new()),
        state: RwSignal::new(State::Loading),
    };
    let current = StoredValue::new_local(None::<Cancel>);
    let query = Memo::new(move |_| query.get());
    Effect::new(move |_| {
        let query = query.get();
        let cancel = Cancel::default();
        current.update_value(|slot| {
            if let Some(old) = slot.replace(cancel.clone()) {
                old.cancel();
            }
        });
        live.objects.update(BTreeMap::clear);
        live.state.set(State::Loading);
        if let Some(query) = query {
            spawn_local(run(query, live, cancel));
        }
    });
    on_cleanup(move || {
        current.try_update_value(|slot| slot.take().inspect(Cancel::cancel));
    });
    live
}

/// Tells a running watch that nobody looks any more.
#[derive(Clone, Default)]
struct Cancel {
    cancelled: Rc<Cell<bool>>,
    abort: Rc<RefCell<Option<AbortController>>>,
}

impl Cancel {
    fn cancel(&self) {
        self.cancelled.set(true);
        if let Some(abort) = self.abort.borrow_mut().take() {
            abort.abort();
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.get()
    }

    fn controller(&self) -> Option<AbortController> {
        let controller = AbortController::new().ok()?;
        *self.abort.borrow_mut() = Some(controller.clone());
        Some(controller)
    }
}

async fn run(query: Query, live: Live, cancel: Cancel) {
    let mut delay = RETRY.0;
    while !cancel.is_cancelled() {
        let result = list_and_watch(&query, live, &cancel, &mut delay).await;
        if cancel.is_cancelled() {
            return;
        }
        let wait = match result {
            Ok(()) => continue,
            Err(error) if error.is_expired() => 0,
            Err(error) if error.is_final() => {
                live.state.try_set(State::Failed(error));
                RETRY_FINAL
            }
            Err(error) => {
                let nothing_shown =
                    live.state.try_with_untracked(|s| matches!(s, State::Loading | State::Failed(_)));
                live.state.try_set(match nothing_shown {
                    Some(true) => State::Failed(error),
                    _ => State::Reconnecting,
                });
                delay
            }
        };
        sleep(wait).await;
        delay = (delay * 2).min(RETRY.1);
    }
}

/// Returns when the state has to be listed anew.
async fn list_and_watch(query: &Query, live: Live, cancel: &Cancel, delay: &mut u32) -> Result<(), ApiError> {
    let listing = query.list().await?;
    if cancel.is_cancelled() {
        return Ok(());
    }
    let mut version = listing.resource_version.clone();
    show(listing, live);
    loop {
        let Some(controller) = cancel.controller() else { return Err(ApiError::unreachable()) };
        let outcome = match query.watch(&version, controller).await {
            Ok(mut watch) => {
                live.state.try_set(State::Live);
                *delay = RETRY.0;
                follow(&mut watch, live, cancel, &mut version).await
            }
            Err(error) => Err(error),
        };
        if cancel.is_cancelled() {
            return Ok(());
        }
        match outcome {
            Ok(()) => {}
            Err(error) if error.is_expired() || error.is_final() => return Err(error),
            Err(_) => {
                live.state.try_set(State::Reconnecting);
                sleep(*delay).await;
                *delay = (*delay * 2).min(RETRY.1);
            }
        }
    }
}

fn show(listing: Listing, live: Live) {
    let objects = listing.items.into_iter().map(|item| (key(&item.object), Arc::new(item))).collect();
    live.columns.try_set(listing.columns);
    live.objects.try_set(objects);
    live.state.try_set(State::Live);
}

async fn follow(
    watch: &mut Watch,
    live: Live,
    cancel: &Cancel,
    version: &mut String,
) -> Result<(), ApiError> {
    while let Some(events) = watch.next().await? {
        if cancel.is_cancelled() {
            return Ok(());
        }
        let quiet = events.iter().all(|event| matches!(event, Event::Bookmark(_)));
        let result = if quiet {
            let mut nothing = Objects::new();
            apply(&mut nothing, version, events)
        } else {
            live.objects.try_update(|objects| apply(objects, version, events)).unwrap_or(Ok(()))
        };
        result?;
    }
    Ok(())
}

/// Brings `objects` and `version` to the state after `events`.
fn apply(objects: &mut Objects, version: &mut String, events: Vec<Event>) -> Result<(), ApiError> {
    for event in events {
        match event {
            Event::Changed(items) => {
                for item in items {
                    advance(version, &item.object);
                    objects.insert(key(&item.object), Arc::new(item));
                }
            }
            Event::Deleted(items) => {
                for item in items {
                    advance(version, &item.object);
                    objects.remove(&key(&item.object));
                }
            }
            Event::Bookmark(seen) => *version = seen,
            Event::Failed(error) => return Err(error),
        }
    }
    Ok(())
}

fn advance(version: &mut String, object: &Value) {
    if let Some(seen) = object["metadata"]["resourceVersion"].as_str() {
        seen.clone_into(version);
    }
}

pub fn key(object: &Value) -> String {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

pub async fn sleep(milliseconds: u32) {
    let promise = js_sys::Promise::new(&mut |resolve, _| {
        if let Some(window) = web_sys::window() {
            let wait = i32::try_from(milliseconds).unwrap_or(i32::MAX);
            let _ = window.set_timeout_with_callback_and_timeout_and_arguments_0(&resolve, wait);
        }
    });
    let _ = wasm_bindgen_futures::JsFuture::from(promise).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn item(name: &str, version: &str) -> Item {
        Item {
            object: json!({"metadata": {"namespace": "n", "name": name, "resourceVersion": version}}),
            cells: vec![],
        }
    }

    #[test]
    fn events_bring_the_objects_to_the_state_after_them() {
        let (mut objects, mut version) = (Objects::new(), "1".to_owned());
        let events = vec![
            Event::Changed(vec![item("a", "2")]),
            Event::Changed(vec![item("b", "3")]),
            Event::Changed(vec![item("a", "4")]),
            Event::Deleted(vec![item("b", "5")]),
            Event::Bookmark("9".into()),
        ];
        assert_eq!(apply(&mut objects, &mut version, events), Ok(()));
        assert_eq!(objects.keys().collect::<Vec<_>>(), ["n/a"]);
        assert_eq!(objects["n/a"].object["metadata"]["resourceVersion"], "4");
        assert_eq!(version, "9");
    }

    #[test]
    fn what_came_before_a_failure_is_kept() {
        let (mut objects, mut version) = (Objects::new(), "1".to_owned());
        let gone = ApiError::from_status(410, None);
        let events = vec![Event::Changed(vec![item("a", "2")]), Event::Failed(gone.clone())];
        assert_eq!(apply(&mut objects, &mut version, events), Err(gone));
        assert_eq!((objects.len(), version.as_str()), (1, "2"));
    }
}
