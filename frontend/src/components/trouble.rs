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
use std::collections::BTreeMap;
use std::sync::Arc;

/// Pods named of those that fail for the same reason.
const NAMED: usize = 3;

/// On the pod's own page.
pub fn of_pod(object: &Value) -> AnyView {
    let judged = pod::status(object);
    if judged.detail.is_empty() && advice(&judged).is_empty() {
        return ().into_any();
    }
    notice(&judged, ().into_any(), name(object), namespace(object))
}

/// On the page of what owns them: once a reason.
pub fn of_pods(pods: Live) -> AnyView {
    let troubled = Memo::new(move |_| {
        let mut by_reason = BTreeMap::<String, Vec<Arc<Item>>>::new();
        pods.objects.with(|all| {
            for item in all.values() {
                let judged = pod::status(&item.object);
                if matches!(judged.tone, Tone::Bad | Tone::Warn) {
                    by_reason.entry(judged.word).or_default().push(item.clone());
                }
            }
        });
        by_reason
    });
    let row = |items: &Vec<Arc<Item>>| {
        let first = items.first()?;
        let link = |item: &Arc<Item>| {
            let (name, namespace) = (name(&item.object), namespace(&item.object));
            view! { <a href=PODS.object_page(namespace, name)>{name.to_owned()}</a>" " }
        };
        let more = items.len().saturating_sub(NAMED);
        let subject = view! {
            {items.iter().take(NAMED).map(link).collect_view()}
            {(more > 0).then(|| format!("and {more} more"))}
        };
        let (name, namespace) = (name(&first.object), namespace(&first.object));
        Some(notice(&pod::status(&first.object), subject.into_any(), name, namespace))
    };
    (move || troubled.with(|all| all.values().filter_map(row).collect_view())).into_any()
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
