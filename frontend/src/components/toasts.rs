//! How things that were asked for ended.
use super::controls::icon_button;
use super::icon::icon;
use crate::context::{Tell, Toast, ui};
use leptos::prelude::*;

pub fn host() -> AnyView {
    view! {
        <div class="toasts" role="status" aria-live="polite" data-testid="toasts">
            <For each=move || ui().toasts.get() key=|toast| toast.id children=toast/>
        </div>
    }
    .into_any()
}

fn toast(toast: Toast) -> AnyView {
    let (class, symbol) = match toast.tell {
        Tell::Done => ("toast good", "check"),
        Tell::Failed => ("toast bad", "alert"),
    };
    let id = toast.id;
    let dismiss = move || ui().toasts.update(|toasts| toasts.retain(|toast| toast.id != id));
    view! {
        <div class=class>{icon(symbol)}<span>{toast.text}</span>{icon_button("close", "Dismiss", "toast-close", dismiss)}</div>
    }
    .into_any()
}
