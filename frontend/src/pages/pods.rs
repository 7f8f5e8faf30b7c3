//! Pods: their list, and one of them with its containers and logs.
use super::{Words, list_page, logs, nothing};
use crate::api::resource::{NODES, PODS};
use crate::components::cells::{age, facts, status};
use crate::components::conditions::conditions;
use crate::components::controls::Tab;
use crate::components::detail::{Detail, Loss, about, code, link, page};
use crate::components::trouble;
use crate::router::Params;
use crate::view_model::pod::{self, Container};
use crate::view_model::text;
use leptos::prelude::*;
use serde_json::Value;

pub fn list(_: Params) -> AnyView {
    let words = Words {
        title: "Pods",
        symbol: "pods",
        purpose: "A pod is one running copy: its containers share an address and start and end together. Deployments make them.",
        command: "kubectl run one --image=IMAGE{n}",
    };
    list_page(&PODS, words, "pod-", nothing(), nothing)
}

pub fn detail(params: Params) -> AnyView {
    let detail = Detail::open(&PODS, params.namespace(), params.get("name"));
    let shown = detail.clone();
    let overview = Tab::new("overview", "Overview", move || shown.view(overview));
    let logged = detail.clone();
    let log = Tab::new("logs", "Logs", move || logs::view(&logged));
    page(detail, |object| Some(pod::status(object)), nothing(), Loss::Replaced, vec![overview, log])
}

fn overview(object: &Value) -> AnyView {
    let field = |path: &[&str]| text(object, path).to_owned();
    let extra = vec![
        ("Address", code(&field(&["status", "podIP"]))),
        ("Node", link(&NODES, "", &field(&["spec", "nodeName"]))),
        ("Service account", field(&["spec", "serviceAccountName"]).into_any()),
        ("Quality of service", field(&["status", "qosClass"]).into_any()),
        ("Restart policy", field(&["spec", "restartPolicy"]).into_any()),
    ];
    let containers = pod::containers(object);
    let is_one_of_several = containers.len() > 1;
    let containers = containers.into_iter().map(|each| container(each, is_one_of_several)).collect_view();
    view! {
        {trouble::of_pod(object)}
        <div class="columns">
            <section class="panel"><h2>"Containers"</h2>{containers}</section>
            <div class="stack">{about(object, extra)}{conditions(object)}</div>
        </div>
    }
    .into_any()
}

fn container(container: Container, is_one_of_several: bool) -> AnyView {
    let mut rows =
        vec![("Image", code(&container.image)), ("Restarts", container.restarts.to_string().into_any())];
    let mut add = |name, text: String| {
        if !text.is_empty() {
            rows.push((name, text.into_any()));
        }
    };
    add("Last end", container.last_end);
    add("Ports", container.ports.join(", "));
    add("Resources", container.resources.join(", "));
    // Of one container the page's head says it already.
    if is_one_of_several {
        add("Why", container.status.detail.clone());
    }
    view! {
        <article class="container">
            <header><b>{container.name}</b>{container.is_init.then(|| view! { <span class="badge">"init"</span> })}{status(&container.status)}
                <span class="quiet">{age(container.since)}</span></header>
            {facts(rows)}
        </article>
    }
    .into_any()
}
