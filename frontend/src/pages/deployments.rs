//! Deployments: their list, and one of them with its rollout.
use super::{Words, list_page, nothing};
use crate::api;
use crate::api::resource::{DEPLOYMENTS, PODS, REPLICA_SETS};
use crate::api::watch::Query;
use crate::components::cells::{age, facts, meter, panel, status};
use crate::components::conditions::conditions;
use crate::components::controls::{Tab, Weight, button, input, link_button, number_input};
use crate::components::detail::{Detail, Loss, about, code, link, page};
use crate::components::table::{self, List};
use crate::components::{icon::icon, state, trouble};
use crate::context::{Question, now_text, ui};
use crate::live::{self, Live};
use crate::router::Params;
use crate::session::may;
use crate::view_model::columns::{known, labels};
use crate::view_model::rollout::{self, Revision, history};
use crate::view_model::workload::{self, Replicas};
use crate::view_model::{list as items, pairs, text, units};
use leptos::prelude::*;
use serde_json::Value;
use std::sync::Arc;

pub fn list(_: Params) -> AnyView {
    let words = Words {
        title: "Deployments",
        symbol: "deployments",
        purpose: "A Deployment runs copies of an image, replaces broken ones, and rolls out new versions without a gap.",
        command: "kubectl create deployment web --image=IMAGE{n}",
    };
    list_page(&DEPLOYMENTS, words, "", nothing(), || {
        (move || {
            may("create", &DEPLOYMENTS, "", &ui().namespace.get()).then(|| {
                link_button(Weight::Plain, "plus", "Deploy an image", "deploy-first", "/ui/deploy".into())
            })
        })
        .into_any()
    })
}

pub fn detail(params: Params) -> AnyView {
    let detail = Detail::open(&DEPLOYMENTS, params.namespace(), params.get("name"));
    let selector = selector(&detail);
    let sets = children(&detail, &REPLICA_SETS, selector);
    let pods = children(&detail, &PODS, selector);
    let tabs = vec![overview(&detail, pods), history_tab(&detail, sets)];
    page(detail.clone(), |object| Some(workload::deployment(object)), actions(&detail), Loss::Final, tabs)
}

/// The Deployment's selector as the label selector of a query.
fn selector(detail: &Detail) -> Memo<Option<String>> {
    let object = detail.object;
    Memo::new(move |_| {
        object.with(|item| {
            let item = item.as_ref()?;
            Some(labels(&pairs(&item.object, &["spec", "selector", "matchLabels"])).replace(", ", ","))
        })
    })
}

fn children(detail: &Detail, resource: &'static api::Resource, selector: Memo<Option<String>>) -> Live {
    let namespace = detail.namespace.clone();
    live::watch(Signal::derive(move || {
        let label_selector = selector.get()?;
        Some(Query { label_selector, ..Query::all(resource, Some(namespace.clone())) })
    }))
}

fn actions(detail: &Detail) -> AnyView {
    let (restarting, pausing) = (RwSignal::new(false), RwSignal::new(false));
    let detail = detail.clone();
    let object = detail.object;
    let is_paused = Memo::new(move |_| {
        object.with(|item| item.as_ref().is_some_and(|item| item.object["spec"]["paused"] == true))
    });
    (move || {
        if !detail.may("patch", "") {
            return ().into_any();
        }
        let restart = {
            let detail = detail.clone();
            move || send(&detail, "Every pod is being replaced", restarting, rollout::restart(&now_text()))
        };
        let pause = {
            let detail = detail.clone();
            move || {
                let paused = !is_paused.get_untracked();
                let done = if paused { "Paused: changes wait" } else { "Resumed" };
                send(&detail, done, pausing, rollout::pause(paused));
            }
        };
        let (symbol, label) = if is_paused.get() { ("play", "Resume") } else { ("pause", "Pause") };
        view! {
            {button(Weight::Plain, "restart", "Restart", "restart", restarting, restart)}
            {button(Weight::Plain, symbol, label, "pause", pausing, pause)}
        }
        .into_any()
    })
    .into_any()
}

fn send(detail: &Detail, done: &'static str, pending: RwSignal<bool>, patch: Value) {
    let (namespace, name) = (detail.namespace.clone(), detail.name.clone());
    let request = async move { api::patch(&DEPLOYMENTS, &namespace, &name, "", &patch).await };
    ui().write(done, pending, request, |_| ());
}

fn overview(detail: &Detail, pods: Live) -> Tab {
    let detail = detail.clone();
    Tab::new("overview", "Overview", move || {
        let facts = detail.view(|object| {
            let template = &object["spec"]["template"];
            let images = rollout::images(template).iter().map(|image| code(image)).collect_view().into_any();
            let strategy = match text(object, &["spec", "strategy", "type"]) {
                "" => "RollingUpdate",
                strategy => strategy,
            };
            let selector = labels(&pairs(object, &["spec", "selector", "matchLabels"]));
            let extra = vec![
                ("Images", images),
                ("Strategy", strategy.to_owned().into_any()),
                ("Selector", code(&selector)),
            ];
            view! { {about(object, extra)}{conditions(object)} }.into_any()
        });
        view! {
            {trouble::of_pods(pods)}
            <div class="columns wide-first">
                <div class="stack">
                    <div class="pair">{rollout_panel(&detail)}<div class="stack">{scale_panel(&detail)}{images_panel(&detail)}</div></div>
                    <section class="panel"><h2>"Pods"</h2>{pod_list(pods)}</section>
                </div>
                <div class="stack">{facts}</div>
            </div>
        }
        .into_any()
    })
}

fn rollout_panel(detail: &Detail) -> AnyView {
    let content = detail.view(|object| {
        let replicas = Replicas::of(object);
        let row = |name: &str, part: i64| {
            meter_of(part, replicas.wanted, format!("{part} of {} {name}", replicas.wanted))
        };
        let verdict = workload::deployment(object);
        view! {
            <p class="rollout-status" data-testid="rollout-status" role="status">{status(&verdict)}" "<span>{verdict.detail.clone()}</span></p>
            {row("updated", replicas.updated)}{row("ready", replicas.ready)}{row("available", replicas.available)}
        }
        .into_any()
    });
    panel("Rollout", content)
}

/// A bar that is good when full: other than with capacity.
fn meter_of(part: i64, whole: i64, label: String) -> AnyView {
    view! { <div class="full-is-good" class:full=(part >= whole)>{meter(if whole == 0 { 100 } else { units::percent(part, whole) }, label)}</div> }.into_any()
}

fn scale_panel(detail: &Detail) -> AnyView {
    let value = RwSignal::new(String::new());
    let pending = RwSignal::new(false);
    let object = detail.object;
    let wanted = Memo::new(move |_| {
        object.with(|item| item.as_ref().map_or(0, |item| Replicas::of(&item.object).wanted))
    });
    Effect::new(move |_| value.set(wanted.get().to_string()));
    let step = move |by: i64| {
        let now = value.with_untracked(|value| value.parse::<i64>()).unwrap_or(0);
        value.set((now + by).max(0).to_string());
    };
    let target = detail.clone();
    let apply = move || {
        let Ok(replicas) = value.with_untracked(|value| value.parse::<u32>()) else {
            return ui().failed("The number of pods is a whole number, 0 or more.");
        };
        let (namespace, name) = (target.namespace.clone(), target.name.clone());
        let request = async move {
            api::patch(&DEPLOYMENTS, &namespace, &name, "scale", &rollout::scale(replicas)).await
        };
        ui().write(format!("Scaling to {replicas}"), pending, request, |_| ());
    };
    let can = detail.clone();
    let control = move || {
        let apply = apply.clone();
        if !can.may("patch", "scale") {
            return view! { <p class="quiet">{move || format!("{} pods wanted. You may not change that.", wanted.get())}</p> }.into_any();
        }
        view! {
            <form class="scale" on:submit=move |event| event.prevent_default()>
                <button type="button" class="icon-button" aria-label="One fewer" on:click=move |_| step(-1)>"−"</button>
                {number_input(value, "scale-value", "Number of pods")}
                <button type="button" class="icon-button" aria-label="One more" on:click=move |_| step(1)>{icon("plus")}</button>
                {button(Weight::Primary, "", "Scale", "scale-apply", pending, apply)}
            </form>
        }
        .into_any()
    };
    panel("Scale", control.into_any())
}

/// The containers' images, each to be replaced by another: a new revision.
fn images_panel(detail: &Detail) -> AnyView {
    let (object, pending) = (detail.object, RwSignal::new(false));
    let present = Memo::new(move |_| {
        object.with(|item| {
            let Some(item) = item else { return Vec::new() };
            let containers = items(&item.object, &["spec", "template", "spec", "containers"]);
            let part = |container: &Value, name| text(container, &[name]).to_owned();
            containers.iter().map(|each| (part(each, "name"), part(each, "image"))).collect::<Vec<_>>()
        })
    });
    let detail = detail.clone();
    // Made anew when the images change, by whomever: what is typed then would be about others.
    let form = move || {
        let may_change = detail.may("patch", "");
        let containers = present.get();
        let is_alone = containers.len() == 1;
        let drafts: Vec<_> = containers.iter().map(|(_, image)| RwSignal::new(image.clone())).collect();
        let changed = {
            let (containers, drafts) = (containers.clone(), drafts.clone());
            move || {
                let drafts = drafts.iter().map(|draft| draft.get().trim().to_owned());
                let pairs = containers.iter().zip(drafts).enumerate();
                let is_other = |(place, ((_, image), draft)): (usize, (&(String, String), String))| {
                    (!draft.is_empty() && draft != *image).then_some((place, draft))
                };
                pairs.filter_map(is_other).collect::<Vec<_>>()
            }
        };
        let roll_out = {
            let (detail, changed) = (detail.clone(), changed.clone());
            move || {
                let (changed, item) = (untrack(&changed), detail.object.get_untracked());
                let Some(item) = item.filter(|_| !changed.is_empty()) else { return };
                send(&detail, "Rolling out", pending, rollout::set_images(&item.object, &changed));
            }
        };
        let row = |(place, ((name, _), draft)): (usize, (&(String, String), &RwSignal<String>))| {
            let label = if is_alone { "Image".to_owned() } else { format!("Image of {name}") };
            let control = input(*draft, format!("image-{place}"), "registry/name:tag");
            view! { <label class="field"><span class="field-label">{label}</span>{control}</label> }
        };
        let press = roll_out.clone();
        view! {
            <form class="form" on:submit=move |event| { event.prevent_default(); roll_out(); }>
                <fieldset class="plain" disabled=!may_change>{containers.iter().zip(&drafts).enumerate().map(row).collect_view()}</fieldset>
                <div hidden=move || changed().is_empty()>{button(Weight::Primary, "", "Roll out", "image-apply", pending, press)}</div>
            </form>
        }
        .into_any()
    };
    panel("Version", form.into_any())
}

/// The pods of one owner, as a list without a page of its own.
pub fn pod_list(pods: Live) -> AnyView {
    table::list(List {
        resource: PODS.clone(),
        live: pods,
        columns: Signal::stored(known("pods").unwrap_or_default()),
        show_namespace: Signal::stored(false),
        test_prefix: "pod-",
        empty: Arc::new(|| view! { <p class="quiet">"No pods right now."</p> }.into_any()),
    })
}

fn history_tab(detail: &Detail, sets: Live) -> Tab {
    let detail = detail.clone();
    Tab::new("history", "History", move || {
        let object = detail.object;
        let revisions = Memo::new(move |_| {
            object.with(|item| {
                let Some(item) = item else { return Vec::new() };
                sets.objects.with(|sets| history(&item.object, sets.values().map(|item| &item.object)))
            })
        });
        let detail = detail.clone();
        (move || {
            if sets.is_loading() {
                return state::skeleton(3);
            }
            let may_undo = detail.may("patch", "");
            let rows = revisions
                .get()
                .into_iter()
                .map(|revision| revision_view(&detail, revision, may_undo))
                .collect_view();
            view! { <ol class="history" data-testid="history">{rows}</ol> }.into_any()
        })
        .into_any()
    })
}

fn revision_view(detail: &Detail, revision: Revision, may_undo: bool) -> AnyView {
    let number = revision.number;
    let images = revision.images.iter().map(|image| code(image)).collect_view();
    let cause = match revision.change_cause.as_str() {
        "" => "no change cause noted".to_owned(),
        cause => cause.to_owned(),
    };
    let set = link(&REPLICA_SETS, &detail.namespace, &revision.replica_set);
    let rows = vec![("Images", images.into_any()), ("Change cause", cause.into_any()), ("ReplicaSet", set)];
    let (is_current, pods, created) = (revision.is_current, revision.pods, revision.created);
    let undo = (may_undo && !is_current).then(|| undo_button(detail, revision));
    view! {
        <li class:current=is_current data-testid=format!("revision-{number}")>
            <header>
                <b>{format!("Revision {number}")}</b>
                {is_current.then(|| view! { <span class="badge">"current"</span> })}
                {(pods > 0).then(|| view! { <span class="badge">{if pods == 1 { "1 pod".to_owned() } else { format!("{pods} pods") }}</span> })}
                <span class="quiet">{age(created)}</span>
                <div class="grow"></div>
                {undo}
            </header>
            {facts(rows)}
        </li>
    }
    .into_any()
}

fn undo_button(detail: &Detail, revision: Revision) -> AnyView {
    let pending = RwSignal::new(false);
    let (detail, number) = (detail.clone(), revision.number);
    let ask = move || {
        let (detail, revision) = (detail.clone(), revision.clone());
        ui().question.set(Some(Question {
            title: format!("Go back to revision {number}?"),
            text: format!("{} rolls out {} again.", detail.name, revision.images.join(", ")),
            action: "Roll back".into(),
            is_loss: false,
            typed: None,
            yes: Callback::new(move |()| {
                let Some(item) = detail.object.get_untracked() else { return };
                send(&detail, "Rolling back", pending, rollout::undo(&item.object, &revision));
            }),
        }));
    };
    button(Weight::Plain, "undo", "Roll back to this", format!("undo-{number}"), pending, ask)
}
