//! Pods: their list, and one of them with its containers and logs.
use super::{Words, list_page, logs, nothing};
use crate::api::resource::{NODES, PODS};
use crate::components::cells::{age, facts, status};
use crate::components::conditions::conditions;
use crate::components::controls::Tab;
use crate::components::detail::{Detail, Loss, about, code, link, page};
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
        ("Class of service", field(&["status", "qosClass"]).into_any()),
        ("Restart policy", field(&["spec", "restartPolicy"]).into_any()),
    ];
    let judged = pod::status(object);
    let why = (!judged.detail.is_empty()).then(|| {
        view! { <p class=format!("notice {}", judged.tone.class())><b>{judged.word.clone()}</b>" "{judged.detail.clone()}</p> }
    });
    view! {
        {why}
        <div class="columns">
            <section class="panel"><h2>"Containers"</h2>{pod::containers(object).into_iter().map(container).collect_view()}</section>
            <div class="stack">{about(object, extra)}{conditions(object)}</div>
        </div>
    }
    .into_any()
}

fn container(container: Container) -> AnyView {
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
    add("Why", container.status.detail.clone());
    view! {
        <article class="container">
            <header><b>{container.name}</b>{container.is_init.then(|| view! { <span class="badge">"init"</span> })}{status(&container.status)}
                <span class="quiet">{age(container.since)}</span></header>
            {facts(rows)}
        </article>
    }
    .into_any()
}
