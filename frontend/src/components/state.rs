//! What stands where objects will: loading, empty, failed, out of date.
use super::controls::command;
use super::icon::icon;
use crate::api::{ApiError, Resource};
use crate::context::{kubectl_get, ui};
use crate::live::{Live, State};
use leptos::prelude::*;

/// Grey bars of the size of what comes.
pub fn skeleton(rows: usize) -> AnyView {
    let row = |_| view! { <div class="skeleton"></div> };
    view! { <div class="skeletons" role="status" aria-label="Loading">{(0..rows).map(row).collect_view()}</div> }.into_any()
}

/// An empty place that says what belongs here and how it comes about.
pub fn empty(
    symbol: &'static str,
    title: String,
    text: &'static str,
    hint: Option<String>,
    action: Option<AnyView>,
) -> AnyView {
    view! {
        <div class="empty" data-testid="empty">
            {icon(symbol)}
            <h2>{title}</h2>
            <p>{text}</p>
            {action}
            {hint.map(|hint| view! { <p class="hint">"or in a terminal"</p>{command(hint)} })}
        </div>
    }
    .into_any()
}

pub fn failed(resource: &Resource, error: &ApiError) -> AnyView {
    let title = match error.code {
        403 => format!("You may not see {} here", resource.plural),
        404 => format!("This server has no {}", resource.plural),
        _ => format!("{} can't be loaded", resource.plural),
    };
    let hint = kubectl_get(resource, &ui().namespace.get_untracked());
    view! {
        <div class="empty" role="alert">{icon("alert")}<h2>{title}</h2><p>{error.message.clone()}</p>{command(hint)}</div>
    }
    .into_any()
}

/// A line above what may be old.
pub fn freshness(live: Live) -> AnyView {
    view! {
        <div role="status" aria-live="polite">
            {move || (live.state.get() == State::Reconnecting).then(|| view! {
                <div class="notice warn">{icon("alert")}"Connection lost. This is the last known state; reconnecting …"</div>
            })}
        </div>
    }
    .into_any()
}
