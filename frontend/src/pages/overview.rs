//! The health of the cluster at a glance.
use super::title_bar;
use crate::api::Resource;
use crate::api::resource::{DEPLOYMENTS, EVENTS, NODES, PODS};
use crate::api::watch::Query;
use crate::components::cells::{meter, status};
use crate::components::controls::{Weight, link_button};
use crate::components::icon::icon;
use crate::components::{events, state};
use crate::context::ui;
use crate::live::{self, Live, Objects, State};
use crate::router::Params;
use crate::session::may;
use crate::view_model::overview::{Capacity, Concern, allocatable, concerns, plus, pod_counts, requested};
use crate::view_model::status::Tone;
use crate::view_model::{units, workload};
use leptos::prelude::*;
use serde_json::Value;

/// More concerns than these are counted, not listed.
const CONCERNS_SHOWN: usize = 12;

#[derive(Clone, Copy)]
struct Parts {
    nodes: Live,
    deployments: Live,
    pods: Live,
}

pub fn page(_: Params) -> AnyView {
    let of_namespace = |resource: &'static Resource| {
        live::watch(Signal::derive(move || Some(Query::all(resource, ui().chosen()))))
    };
    let nodes = live::watch(Signal::derive(|| may("list", &NODES, "", "").then(|| Query::all(&NODES, None))));
    let parts = Parts { nodes, deployments: of_namespace(&DEPLOYMENTS), pods: of_namespace(&PODS) };
    let warnings = live::watch(Signal::derive(|| {
        Some(Query { field_selector: "type=Warning".into(), ..Query::all(&EVENTS, ui().chosen()) })
    }));
    view! {
        {title_bar("Overview", ().into_any())}
        {state::freshness(parts.pods)}
        {verdict(parts)}
        <div class="tiles">{nodes_tile(parts)}{deployments_tile(parts)}{pods_tile(parts)}{requests_tile(parts)}</div>
        <section class="panel">
            <h2>"Recent warnings"</h2>
            {events::table(warnings, "No warnings in the last hour.", |event| event["type"] == "Warning")}
        </section>
    }
    .into_any()
}

fn values(objects: &Objects) -> impl Iterator<Item = &Value> {
    objects.values().map(|item| &item.object)
}

fn verdict(parts: Parts) -> AnyView {
    let found = Memo::new(move |_| {
        parts.nodes.objects.with(|nodes| {
            parts.deployments.objects.with(|deployments| {
                parts.pods.objects.with(|pods| concerns(values(nodes), values(deployments), values(pods)))
            })
        })
    });
    let is_loading = move || parts.pods.is_loading() || parts.deployments.is_loading();
    let is_empty = move || {
        parts.deployments.objects.with(Objects::is_empty) && parts.pods.objects.with(Objects::is_empty)
    };
    (move || {
        if is_loading() {
            return state::skeleton(1);
        }
        found.with(|found| match found.len() {
            0 if is_empty() => welcome(),
            0 => view! {
                <div class="verdict good" role="status" data-testid="verdict">{icon("check")}<div><b>"All is well"</b>
                    <span>"Every node is ready, every Deployment available, every pod as it should be."</span></div></div>
            }
            .into_any(),
            count => trouble(found, count),
        })
    })
    .into_any()
}

fn welcome() -> AnyView {
    let namespace = ui().namespace.get();
    let place = if namespace.is_empty() { String::new() } else { format!(" -n {namespace}") };
    let title = match namespace.as_str() {
        "" => "The cluster is ready and empty".to_owned(),
        namespace => format!("Nothing runs in {namespace} yet"),
    };
    let action = may("create", &DEPLOYMENTS, "", &namespace).then(|| {
        link_button(Weight::Primary, "plus", "Deploy an image", "deploy-first", "/ui/deploy".into())
    });
    let hint = format!("kubectl create deployment web --image=IMAGE{place}");
    state::empty(
        "wheel",
        title,
        "Deploy a first image: a Deployment keeps its pods running, replaces broken ones and rolls out new versions.",
        Some(hint),
        action,
    )
}

fn trouble(found: &[Concern], count: usize) -> AnyView {
    let row = |concern: &Concern| {
        let to = concern.resource.object_page(&concern.namespace, &concern.name);
        view! {
            <li>
                {status(&concern.status)}
                <a href=to>{format!("{} {}", concern.resource.kind, concern.name)}</a>
                <span class="quiet">{concern.status.detail.clone()}</span>
            </li>
        }
    };
    let class = if found.iter().any(|concern| concern.status.tone == Tone::Bad) {
        "verdict bad"
    } else {
        "verdict warn"
    };
    let title =
        if count == 1 { "One thing needs a look".to_owned() } else { format!("{count} things need a look") };
    let rest = count.saturating_sub(CONCERNS_SHOWN);
    view! {
        <div class=class role="status" data-testid="verdict">{icon("alert")}<div><b>{title}</b>
            <ul>{found.iter().take(CONCERNS_SHOWN).map(row).collect_view()}</ul>
            {(rest > 0).then(|| format!("and {rest} more"))}
        </div></div>
    }
    .into_any()
}

fn tile(
    title: &'static str,
    to: String,
    live: Live,
    content: impl Fn() -> AnyView + Send + 'static,
) -> AnyView {
    view! {
        <a class="tile" href=to>
            <h2>{title}</h2>
            {move || match live.state.get() {
                State::Loading => view! { <div class="skeleton tall"></div> }.into_any(),
                State::Failed(error) => view! { <p class="quiet">{error.message}</p> }.into_any(),
                _ => content(),
            }}
        </a>
    }
    .into_any()
}

fn big(number: usize, of: Option<usize>, label: &'static str) -> AnyView {
    view! { <p class="big"><b>{number}</b>{of.map(|of| format!("/{of}"))}<span>{label}</span></p> }.into_any()
}

fn nodes_tile(parts: Parts) -> AnyView {
    let shown = move || may("list", &NODES, "", "");
    let nodes = parts.nodes.objects;
    let content = move || {
        nodes.with(|nodes| {
            let ready = values(nodes).filter(|node| workload::node(node).tone == Tone::Good).count();
            big(ready, Some(nodes.len()), "ready")
        })
    };
    view! { <div class="tile-slot" hidden=move || !shown()>{tile("Nodes", NODES.list_page(), parts.nodes, content)}</div> }.into_any()
}

fn deployments_tile(parts: Parts) -> AnyView {
    let deployments = parts.deployments.objects;
    let content = move || {
        deployments.with(|all| {
            let settled = values(all)
                .filter(|d| matches!(workload::deployment(d).tone, Tone::Good | Tone::Muted))
                .count();
            let busy = values(all).filter(|d| workload::deployment(d).tone == Tone::Busy).count();
            let note = (busy > 0).then(|| view! { <p class="quiet">{format!("{busy} rolling out")}</p> });
            view! { {big(settled, Some(all.len()), "available")}{note} }.into_any()
        })
    };
    tile("Deployments", DEPLOYMENTS.list_page(), parts.deployments, content)
}

fn pods_tile(parts: Parts) -> AnyView {
    let pods = parts.pods.objects;
    let content = move || {
        pods.with(|all| {
            let counts = pod_counts(values(all));
            let names =
                [("good", "ready"), ("busy", "starting or ending"), ("bad", "failing"), ("muted", "done")];
            let part = |(count, (class, _)): (usize, (&'static str, &str))| {
                (count > 0).then(|| view! { <i class=class style=format!("flex-grow:{count}")></i> })
            };
            let legend = |(count, (class, name)): (usize, (&'static str, &'static str))| {
                (count > 0).then(|| view! { <li class=class>{format!("{count} {name}")}</li> })
            };
            let parts = counts.into_iter().zip(names);
            view! {
                {big(all.len(), None, if all.len() == 1 { "pod" } else { "pods" })}
                <div class="parts" aria-hidden="true">{parts.clone().map(part).collect_view()}</div>
                <ul class="legend">{parts.map(legend).collect_view()}</ul>
            }
            .into_any()
        })
    };
    tile("Pods", PODS.list_page(), parts.pods, content)
}

fn requests_tile(parts: Parts) -> AnyView {
    let (nodes, pods) = (parts.nodes.objects, parts.pods.objects);
    let shown = move || may("list", &NODES, "", "");
    let content = move || {
        let have = nodes.with(|all| values(all).map(allocatable).fold(Capacity::default(), plus));
        let want = pods.with(|all| requested(values(all), ""));
        let cpu = format!("CPU {} of {} cores", units::cores(want.milli_cpu), units::cores(have.milli_cpu));
        let memory =
            format!("Memory {} of {}", units::bytes(want.memory_bytes), units::bytes(have.memory_bytes));
        view! {
            {meter(units::percent(want.milli_cpu, have.milli_cpu), cpu)}
            {meter(units::percent(want.memory_bytes, have.memory_bytes), memory)}
            {meter(units::percent(want.pods, have.pods), format!("Pods {} of {}", want.pods, have.pods))}
        }
        .into_any()
    };
    view! { <div class="tile-slot" hidden=move || !shown()>{tile("Requested", NODES.list_page(), parts.nodes, content)}</div> }.into_any()
}
