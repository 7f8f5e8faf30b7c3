//! The question before something that can't be undone.
use super::controls::{Weight, input, plain_button};
use crate::context::{Question, ui};
use leptos::html::Dialog;
use leptos::prelude::*;

/// Sits in the shell and shows whatever `ui().question` asks. The browser's own dialog: focus stays inside, Escape
/// closes.
pub fn host() -> AnyView {
    let dialog = NodeRef::<Dialog>::new();
    let question = ui().question;
    Effect::new(move |_| {
        let Some(dialog) = dialog.get() else { return };
        match question.with(Option::is_some) {
            true if !dialog.open() => drop(dialog.show_modal()),
            false => dialog.close(),
            true => {}
        }
    });
    view! {
        <dialog class="dialog" node_ref=dialog aria-labelledby="question-title" on:close=move |_| question.set(None)>
            {move || question.get().map(content)}
        </dialog>
    }
    .into_any()
}

fn content(question: Question) -> AnyView {
    let typed = RwSignal::new(String::new());
    let wanted = question.typed.clone();
    let is_missing = move || wanted.as_ref().is_some_and(|wanted| typed.with(|typed| typed != wanted));
    let close = || ui().question.set(None);
    let confirm = {
        let is_missing = is_missing.clone();
        move || {
            if !is_missing() {
                let yes = question.yes;
                close();
                yes.run(());
            }
        }
    };
    let press = confirm.clone();
    view! {
        <form method="dialog" on:submit=move |event| { event.prevent_default(); confirm(); }>
            <h2 id="question-title">{question.title}</h2>
            <p>{question.text}</p>
            {question.typed.map(|name| view! {
                <label class="field">
                    <span class="field-label">"Type " <code>{name}</code> " to confirm"</span>
                    {input(typed, "confirm-name", "")}
                </label>
            })}
            <div class="actions end">
                {plain_button(Weight::Plain, "", "Cancel", "confirm-cancel", close)}
                <button type="button" class=if question.is_loss { "button danger" } else { "button primary" } data-testid="confirm-yes" disabled=is_missing
                    on:click=move |_| press()>{question.action}</button>
            </div>
        </form>
    }
    .into_any()
}
