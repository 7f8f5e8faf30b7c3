//! Pods that are not as they should be: why, and what helps.
use super::cells::status;
use crate::api::resource::PODS;
use crate::api::watch::Item;
use crate::live::Live;
use crate::view_model::pod::{self, advice};
use crate::view_model::status::{Status, Tone};
use crate::view_model::{name, namespace};
use leptos::prelude::*;
use serde_json::Value;
use std::sync::Arc;

/// More of one owner's pods fail for the same reason anyway.
const SHOWN: usize = 3;

/// On the pod's own page.
pub fn of_pod(object: &Value) -> AnyView {
    let judged = pod::status(object);
    if judged.detail.is_empty() && advice(&judged).is_empty() {
        return ().into_any();
    }
    notice(&judged, ().into_any(), name(object), namespace(object))
}

/// On the page of what owns them.
pub fn of_pods(pods: Live) -> AnyView {
    let troubled = Memo::new(move |_| {
        let is_troubled =
            |item: &&Arc<Item>| matches!(pod::status(&item.object).tone, Tone::Bad | Tone::Warn);
        pods.objects.with(|all| all.values().filter(is_troubled).cloned().collect::<Vec<_>>())
    });
    let row = |item: &Arc<Item>| {
        let (name, namespace) = (name(&item.object), namespace(&item.object));
        let link = view! { <a href=PODS.object_page(namespace, name)>{name.to_owned()}</a> };
        notice(&pod::status(&item.object), link.into_any(), name, namespace)
    };
    (move || troubled.with(|all| all.iter().take(SHOWN).map(row).collect_view())).into_any()
}

fn notice(judged: &Status, subject: AnyView, name: &str, namespace: &str) -> AnyView {
    let help = advice(judged);
    let to_log = help.contains("log").then(|| {
        view! { <a class="button" data-testid="open-log" href=format!("{}#logs", PODS.object_page(namespace, name))>"Open the log"</a> }
    });
    view! {
        <div class=format!("notice trouble {}", judged.tone.class()) data-testid="trouble">
            <div class="trouble-words">
                <p>{status(&Status { detail: String::new(), ..judged.clone() })}" "{subject}</p>
                <p class="trouble-detail">{judged.detail.clone()}</p>
                {(!help.is_empty()).then(|| view! { <p><b>{help}</b></p> })}
            </div>
            {to_log}
        </div>
    }
    .into_any()
}
