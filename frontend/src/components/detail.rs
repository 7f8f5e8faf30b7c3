//! The frame of one object's page: title, status, actions, tabs; and what every kind has in common.
use super::cells::{self, age, facts, panel, status, tags};
use super::conditions::conditions;
use super::controls::{Tab, Weight, button, tabs};
use super::editor;
use super::events;
use super::state;
use crate::api::watch::{Item, Query};
use crate::api::{self, Resource};
use crate::context::{Question, ui};
use crate::live::{self, Live, State};
use crate::router;
use crate::session::may;
use crate::view_model::status::Status;
use crate::view_model::{list, pairs, text, time, uid};
use leptos::prelude::*;
use serde_json::Value;
use std::sync::Arc;

/// One object, live.
#[derive(Clone)]
pub struct Detail {
    pub resource: Resource,
    pub namespace: String,
    pub name: String,
    pub live: Live,
    pub object: Signal<Option<Arc<Item>>>,
}

impl Detail {
    pub fn open(resource: &Resource, namespace: String, name: String) -> Self {
        let live = live::watch(Signal::stored(Some(Query::one(resource, &namespace, &name))));
        Self { resource: resource.clone(), namespace, name, live, object: live.one() }
    }

    /// Whether the user may, reactive.
    pub fn may(&self, verb: &'static str, subresource: &'static str) -> bool {
        may(verb, &self.resource, subresource, &self.namespace)
    }

    /// A view of the object that is made anew whenever it changes.
    pub fn view(&self, make: impl Fn(&Value) -> AnyView + Send + Sync + 'static) -> AnyView {
        let object = self.object;
        (move || object.with(|item| item.as_ref().map(|item| make(&item.object)))).into_any()
    }
}

/// How much a slip would hurt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// A controller makes it anew.
    Replaced,
    /// It is gone; the name must be typed.
    Final,
}

/// `own` tabs come first, then events and YAML, which every kind has.
pub fn page(
    detail: Detail,
    judge: fn(&Value) -> Option<Status>,
    actions: AnyView,
    loss: Loss,
    own: Vec<Tab>,
) -> AnyView {
    let (object, live) = (detail.object, detail.live);
    let present = Memo::new(move |_| object.with(Option::is_some));
    let seen = Memo::new(move |before: Option<&bool>| before.copied().unwrap_or(false) || present.get());
    let heading = heading(&detail, judge, actions, loss);
    let mut all = own;
    let about = detail.clone();
    all.push(Tab::new("events", "Events", move || {
        events::of_object(about.namespace.clone(), about.name.clone(), about.resource.kind.to_string())
    }));
    let edited = detail.clone();
    all.push(Tab::new("yaml", "YAML", move || editor::edit(&edited)));
    let tabs = tabs(all);
    let missing = detail.clone();
    view! {
        {heading}
        {state::freshness(live)}
        {move || match (live.state.get(), present.get(), seen.get()) {
            (State::Failed(error), false, _) => state::failed(&missing.resource, &error),
            (State::Loading, ..) => state::skeleton(6),
            (_, false, was_there) => gone(&missing, was_there),
            _ => ().into_any(),
        }}
        <div hidden=move || !present.get()>{tabs}</div>
    }
    .into_any()
}

fn gone(detail: &Detail, was_there: bool) -> AnyView {
    let kind = &detail.resource.kind;
    let title = match was_there {
        true => format!("{kind} {} was deleted", detail.name),
        false => format!("There is no {kind} {}", detail.name),
    };
    let back = view! { <a class="button" href=detail.resource.list_page()>"Back to the list"</a> };
    state::empty("file", title, "", None, Some(back.into_any()))
}

fn heading(detail: &Detail, judge: fn(&Value) -> Option<Status>, actions: AnyView, loss: Loss) -> AnyView {
    let object = detail.object;
    let judged =
        move || object.with(|item| item.as_ref().and_then(|item| judge(&item.object)).map(|s| status(&s)));
    let list = detail.resource.list_page();
    let plural = detail.resource.plural.to_string();
    let place = (!detail.namespace.is_empty()).then(|| detail.namespace.clone());
    view! {
        <header class="page-head">
            <div>
                <nav class="crumbs" aria-label="Where you are">
                    <a href=list>{plural}</a>
                    {place.map(|place| view! { <span>{place}</span> })}
                </nav>
                <h1>{detail.name.clone()}{judged}</h1>
            </div>
            <div class="actions">{actions}{delete_button(detail, loss)}</div>
        </header>
    }
    .into_any()
}

fn delete_button(detail: &Detail, loss: Loss) -> AnyView {
    let detail = detail.clone();
    let pending = RwSignal::new(false);
    let shown = detail.clone();
    (move || {
        let (detail, object) = (detail.clone(), detail.object);
        (shown.may("delete", "") && object.with(Option::is_some)).then(move || {
            button(Weight::Danger, "trash", "Delete", "delete", pending, move || {
                ask_delete(&detail, loss, pending)
            })
        })
    })
    .into_any()
}

fn ask_delete(detail: &Detail, loss: Loss, pending: RwSignal<bool>) {
    let Some(item) = detail.object.get_untracked() else { return };
    let (resource, namespace, name) =
        (detail.resource.clone(), detail.namespace.clone(), detail.name.clone());
    let uid = uid(&item.object).to_owned();
    let text = match (loss, resource.plural.as_ref()) {
        (Loss::Replaced, _) => "Its controller, if it has one, makes a new one at once.",
        (_, "namespaces") => "Everything in this namespace is deleted with it. This can't be undone.",
        (_, "deployments") => {
            "Its pods are stopped and deleted with it; a Service in front of them stays. This can't be undone."
        }
        _ => "This can't be undone.",
    };
    ui().question.set(Some(Question {
        title: format!("Delete {} {name}?", resource.kind),
        text: text.into(),
        action: "Delete".into(),
        is_loss: true,
        typed: (loss == Loss::Final).then(|| name.clone()),
        yes: Callback::new(move |()| {
            let (resource, namespace, name, uid) =
                (resource.clone(), namespace.clone(), name.clone(), uid.clone());
            let done = format!("{} {name} is being deleted", resource.kind);
            let list = resource.list_page();
            let request = async move { api::delete(&resource, &namespace, &name, &uid).await };
            ui().write(done, pending, request, move |_| router::go(&list));
        }),
    }));
}

/// Name, labels, owner, age: what every object has.
pub fn about(object: &Value, extra: Vec<(&'static str, AnyView)>) -> AnyView {
    let labels = pairs(object, &["metadata", "labels"]);
    let annotations: Vec<_> = pairs(object, &["metadata", "annotations"])
        .into_iter()
        .filter(|(key, _)| key != "kubectl.kubernetes.io/last-applied-configuration")
        .collect();
    let mut rows = extra;
    if let Some(owner) = list(object, &["metadata", "ownerReferences"]).first() {
        rows.push(("Owner", owner_link(object, owner)));
    }
    rows.push(("Age", age(time::parse(text(object, &["metadata", "creationTimestamp"])))));
    if !labels.is_empty() {
        rows.push(("Labels", tags(labels)));
    }
    if !annotations.is_empty() {
        rows.push(("Annotations", tags(annotations)));
    }
    panel("About", facts(rows))
}

fn owner_link(object: &Value, owner: &Value) -> AnyView {
    let (kind, name) = (text(owner, &["kind"]), text(owner, &["name"]));
    let label = format!("{kind} {name}");
    let known = api::resource::WITH_PAGES.into_iter().find(|resource| resource.kind == kind);
    match known {
        Some(resource) => {
            let namespace = text(object, &["metadata", "namespace"]);
            let namespace = if resource.namespaced { namespace } else { "" };
            view! { <a href=resource.object_page(namespace, name)>{label}</a> }.into_any()
        }
        None => label.into_any(),
    }
}

/// The overview of a kind without one of its own.
pub fn overview_tab(detail: &Detail) -> Tab {
    let detail = detail.clone();
    Tab::new("overview", "Overview", move || {
        detail.view(|object| {
            view! { <div class="columns">{about(object, Vec::new())}{conditions(object)}</div> }.into_any()
        })
    })
}

pub fn link(resource: &Resource, namespace: &str, name: &str) -> AnyView {
    if name.is_empty() {
        return "none".into_any();
    }
    view! { <a href=resource.object_page(namespace, name)>{name.to_owned()}</a> }.into_any()
}

pub fn code(text: &str) -> AnyView {
    cells::cell(&crate::view_model::columns::Cell::Code(text.to_owned()))
}
