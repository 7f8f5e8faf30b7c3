//! ReplicaSets: a Deployment's revisions, or sets of pods on their own.
use super::deployments::pod_list;
use super::{Words, list_page, nothing};
use crate::api::resource::{PODS, REPLICA_SETS};
use crate::api::watch::Query;
use crate::components::conditions::conditions;
use crate::components::controls::Tab;
use crate::components::detail::{Detail, Loss, about, code, page};
use crate::live;
use crate::router::Params;
use crate::view_model::columns::labels;
use crate::view_model::{pairs, rollout, workload};
use leptos::prelude::*;

pub fn list(_: Params) -> AnyView {
    let words = Words {
        title: "ReplicaSets",
        symbol: "replicasets",
        purpose: "A ReplicaSet keeps a number of equal pods. Deployments make them: one for each revision.",
        command: "",
    };
    list_page(&REPLICA_SETS, words, "", nothing(), nothing)
}

pub fn detail(params: Params) -> AnyView {
    let detail = Detail::open(&REPLICA_SETS, params.namespace(), params.get("name"));
    let (object, namespace) = (detail.object, detail.namespace.clone());
    let pods = live::watch(Signal::derive(move || {
        let label_selector = object.with(|item| {
            let labels = labels(&pairs(&item.as_ref()?.object, &["spec", "selector", "matchLabels"]));
            Some(labels.replace(", ", ","))
        })?;
        Some(Query { label_selector, ..Query::all(&PODS, Some(namespace.clone())) })
    }));
    let shown = detail.clone();
    let overview = Tab::new("overview", "Overview", move || {
        let facts = shown.view(|object| {
            let images =
                rollout::images(&object["spec"]["template"]).iter().map(|image| code(image)).collect_view();
            let count = workload::Replicas::of(object);
            let ready = format!("{} of {}", count.ready, count.wanted);
            let extra = vec![("Images", images.into_any()), ("Ready", ready.into_any())];
            view! { <div class="columns">{about(object, extra)}{conditions(object)}</div> }.into_any()
        });
        view! { {facts}<section class="panel"><h2>"Pods"</h2>{pod_list(pods)}</section> }.into_any()
    });
    page(detail, |object| Some(workload::replica_set(object)), nothing(), Loss::Replaced, vec![overview])
}
