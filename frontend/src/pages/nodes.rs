//! Nodes: the machines.
use super::deployments::pod_list;
use super::{Words, list_page, nothing};
use crate::api;
use crate::api::resource::{NODES, PODS};
use crate::api::watch::Query;
use crate::components::cells::{meter, panel};
use crate::components::conditions::conditions;
use crate::components::controls::{Tab, Weight, button};
use crate::components::detail::{Detail, Loss, about, page};
use crate::context::ui;
use crate::live::{self, Live};
use crate::router::Params;
use crate::view_model::overview::{allocatable, requested};
use crate::view_model::{text, units, workload};
use leptos::prelude::*;
use serde_json::{Value, json};

pub fn list(_: Params) -> AnyView {
    let words = Words {
        title: "Nodes",
        symbol: "nodes",
        purpose: "A node is a machine that runs pods. It joins when an agent on it dials this server.",
        command: "",
    };
    list_page(&NODES, words, "", nothing(), nothing)
}

pub fn detail(params: Params) -> AnyView {
    let detail = Detail::open(&NODES, String::new(), params.get("name"));
    let name = detail.name.clone();
    let pods = live::watch(Signal::derive(move || {
        Some(Query { field_selector: format!("spec.nodeName={name}"), ..Query::all(&PODS, None) })
    }));
    let shown = detail.clone();
    let overview = Tab::new("overview", "Overview", move || {
        let facts = shown.view(|object| view! { {about(object, machine(object))} }.into_any());
        let stand = shown.view(conditions);
        view! {
            <div class="columns"><div class="stack">{requests(&shown, pods)}{stand}</div>{facts}</div>
            <section class="panel"><h2>"Pods"</h2>{pod_list(pods)}</section>
        }
        .into_any()
    });
    page(detail.clone(), |object| Some(workload::node(object)), cordon(&detail), Loss::Final, vec![overview])
}

fn machine(object: &Value) -> Vec<(&'static str, AnyView)> {
    let fact = |label: &'static str, field: &str| {
        (label, text(object, &["status", "nodeInfo", field]).to_owned().into_any())
    };
    vec![
        fact("Version", "kubeletVersion"),
        fact("Runtime", "containerRuntimeVersion"),
        fact("System", "osImage"),
        fact("Kernel", "kernelVersion"),
        fact("Architecture", "architecture"),
        ("Pod addresses", text(object, &["spec", "podCIDR"]).to_owned().into_any()),
    ]
}

fn requests(detail: &Detail, pods: Live) -> AnyView {
    let (object, name) = (detail.object, detail.name.clone());
    let content = move || {
        let have =
            object.with(|item| item.as_ref().map(|item| allocatable(&item.object)).unwrap_or_default());
        let want = pods.objects.with(|all| requested(all.values().map(|item| &item.object), &name));
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
    panel("Requested by its pods", content.into_any())
}

/// Whether the scheduler may use the node.
fn cordon(detail: &Detail) -> AnyView {
    let pending = RwSignal::new(false);
    let detail = detail.clone();
    let object = detail.object;
    let is_off = Memo::new(move |_| {
        object.with(|item| item.as_ref().is_some_and(|i| i.object["spec"]["unschedulable"] == true))
    });
    (move || {
        let name = detail.name.clone();
        let press = move || {
            let off = !is_off.get_untracked();
            let (name, patch) = (
                name.clone(),
                json!({"spec": {"unschedulable": if off { json!(true) } else { Value::Null }}}),
            );
            let done = if off { "Takes no new pods" } else { "Takes pods again" };
            ui().write(done, pending, async move { api::patch(&NODES, "", &name, "", &patch).await }, |_| ());
        };
        let (symbol, label) = if is_off.get() { ("play", "Uncordon") } else { ("pause", "Cordon") };
        detail.may("patch", "").then(|| button(Weight::Plain, symbol, label, "cordon", pending, press))
    })
    .into_any()
}
