//! Services: stable names and addresses in front of pods.
use super::deployments::pod_list;
use super::{Words, list_page, nothing};
use crate::api::resource::{PODS, SERVICES};
use crate::api::watch::Query;
use crate::components::controls::{Tab, command};
use crate::components::detail::{Detail, Loss, about, code, page};
use crate::live;
use crate::router::Params;
use crate::view_model::columns::{labels, ports};
use crate::view_model::{list as items, name, namespace, number, pairs, text};
use leptos::prelude::*;
use serde_json::Value;

pub fn list(_: Params) -> AnyView {
    let words = Words {
        title: "Services",
        symbol: "services",
        purpose: "A Service gives pods one name and address, and spreads connections over those that are ready.",
        command: "kubectl expose deployment web --port=80{n}",
    };
    list_page(&SERVICES, words, "", nothing(), nothing)
}

pub fn detail(params: Params) -> AnyView {
    let detail = Detail::open(&SERVICES, params.namespace(), params.get("name"));
    let (object, namespace) = (detail.object, detail.namespace.clone());
    let selector = Memo::new(move |_| {
        object.with(|item| {
            let pairs = pairs(&item.as_ref()?.object, &["spec", "selector"]);
            (!pairs.is_empty()).then(|| labels(&pairs).replace(", ", ","))
        })
    });
    let pods = live::watch(Signal::derive(move || {
        Some(Query { label_selector: selector.get()?, ..Query::all(&PODS, Some(namespace.clone())) })
    }));
    let shown = detail.clone();
    let overview = Tab::new("overview", "Overview", move || {
        let facts = shown.view(overview);
        let behind = move || match selector.with(Option::is_some) {
            true => pod_list(pods),
            false => view! { <p class="quiet">"It selects no pods by itself."</p> }.into_any(),
        };
        view! { {facts}<section class="panel"><h2>"Pods behind it"</h2>{behind}</section> }.into_any()
    });
    page(detail, |_| None, nothing(), Loss::Final, vec![overview])
}

fn overview(object: &Value) -> AnyView {
    let field = |path: &[&str]| text(object, path).to_owned();
    let extra = vec![
        ("Type", field(&["spec", "type"]).into_any()),
        ("Name in the cluster", code(&format!("{}.{}.svc.cluster.local", name(object), namespace(object)))),
        ("Cluster address", code(&field(&["spec", "clusterIP"]))),
        ("Ports", code(&ports(object))),
        ("Selector", code(&labels(&pairs(object, &["spec", "selector"])))),
    ];
    let port =
        items(object, &["spec", "ports"]).first().and_then(|port| number(port, &["port"])).unwrap_or(80);
    let forward =
        format!("kubectl port-forward -n {} service/{} 8080:{port}", namespace(object), name(object));
    view! {
        <div class="columns">
            {about(object, extra)}
            <section class="panel"><h2>"Reach it from your machine"</h2>{command(forward)}</section>
        </div>
    }
    .into_any()
}
