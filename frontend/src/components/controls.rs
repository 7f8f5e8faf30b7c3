//! Buttons, fields and tabs.
use super::icon::icon;
use crate::context::ui;
use leptos::prelude::*;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    Primary,
    Plain,
    Danger,
    Quiet,
}

impl Weight {
    fn class(self) -> &'static str {
        match self {
            Weight::Primary => "button primary",
            Weight::Plain => "button",
            Weight::Danger => "button danger",
            Weight::Quiet => "button quiet",
        }
    }
}

/// A button that shows when its work is on the way, and can't be pressed twice.
pub fn button(
    weight: Weight,
    symbol: &'static str,
    label: impl Into<TextProp>,
    test_id: impl Into<String>,
    pending: RwSignal<bool>,
    press: impl Fn() + 'static,
) -> AnyView {
    let (label, test_id) = (label.into(), test_id.into());
    view! {
        <button type="button" class=weight.class() data-testid=test_id aria-busy=move || pending.get().to_string()
            disabled=move || pending.get() on:click=move |_| press()>
            {(!symbol.is_empty()).then(|| icon(symbol))}
            <span>{move || label.get()}</span>
        </button>
    }
    .into_any()
}

/// A button without work that takes time.
pub fn plain_button(
    weight: Weight,
    symbol: &'static str,
    label: impl Into<TextProp>,
    test_id: impl Into<String>,
    press: impl Fn() + 'static,
) -> AnyView {
    button(weight, symbol, label, test_id, RwSignal::new(false), press)
}

/// A symbol alone; the label is for those who can't see it.
pub fn icon_button(
    symbol: &'static str,
    label: impl Into<TextProp>,
    test_id: impl Into<String>,
    press: impl Fn() + 'static,
) -> AnyView {
    let (label, test_id) = (label.into(), test_id.into());
    let title = label.clone();
    view! {
        <button type="button" class="icon-button" data-testid=test_id title=move || title.get()
            aria-label=move || label.get() on:click=move |_| press()>
            {icon(symbol)}
        </button>
    }
    .into_any()
}

pub fn link_button(
    weight: Weight,
    symbol: &'static str,
    label: &'static str,
    test_id: &'static str,
    to: String,
) -> AnyView {
    view! {
        <a class=weight.class() data-testid=test_id href=to>
            {(!symbol.is_empty()).then(|| icon(symbol))}
            <span>{label}</span>
        </a>
    }
    .into_any()
}

/// A label, its control, a hint, and what is wrong with it.
pub fn field(label: &'static str, hint: &'static str, problem: Signal<String>, control: AnyView) -> AnyView {
    view! {
        <label class="field" class:wrong=move || !problem.with(String::is_empty)>
            <span class="field-label">{label}</span>
            {control}
            <span class="field-note" aria-live="polite">
                {move || problem.with(|text| if text.is_empty() { hint.to_owned() } else { text.clone() })}
            </span>
        </label>
    }
    .into_any()
}

/// One line of text.
pub fn input(value: RwSignal<String>, test_id: impl Into<String>, placeholder: &'static str) -> AnyView {
    let test_id = test_id.into();
    view! {
        <input type="text" class="input" data-testid=test_id placeholder=placeholder autocomplete="off" spellcheck="false"
            autocapitalize="off" prop:value=move || value.get() on:input=move |event| value.set(event_target_value(&event))/>
    }
    .into_any()
}

/// A whole number.
pub fn number_input(value: RwSignal<String>, test_id: impl Into<String>, label: &'static str) -> AnyView {
    let test_id = test_id.into();
    view! {
        <input type="number" min="0" step="1" inputmode="numeric" class="input number" data-testid=test_id aria-label=label
            prop:value=move || value.get() on:input=move |event| value.set(event_target_value(&event))/>
    }
    .into_any()
}

/// One of a few; pairs of value and label.
pub fn select(
    value: Signal<String>,
    test_id: impl Into<String>,
    label: &'static str,
    options: Signal<Vec<(String, String)>>,
    choose: impl Fn(String) + 'static,
) -> AnyView {
    let test_id = test_id.into();
    view! {
        <select class="input" data-testid=test_id aria-label=label on:change=move |event| choose(event_target_value(&event))
            prop:value=move || { options.track(); value.get() }>
            {move || {
                let chosen = value.get();
                options.get().into_iter().map(|(value, label)| {
                    let selected = value == chosen;
                    view! { <option value=value selected=selected>{label}</option> }
                }).collect_view()
            }}
        </select>
    }
    .into_any()
}

pub fn toggle(value: RwSignal<bool>, label: &'static str, test_id: &'static str) -> AnyView {
    view! {
        <label class="toggle">
            <input type="checkbox" data-testid=test_id prop:checked=move || value.get()
                on:change=move |event| value.set(event_target_checked(&event))/>
            <span>{label}</span>
        </label>
    }
    .into_any()
}

/// What a tab shows when it is chosen.
pub struct Tab {
    pub id: &'static str,
    pub label: &'static str,
    pub content: Box<dyn Fn() -> AnyView + Send + Sync>,
}

impl Tab {
    pub fn new(
        id: &'static str,
        label: &'static str,
        content: impl Fn() -> AnyView + Send + Sync + 'static,
    ) -> Self {
        Self { id, label, content: Box::new(content) }
    }
}

/// Tabs whose choice stands in the address.
pub fn tabs(tabs: Vec<Tab>) -> AnyView {
    let ids: Vec<_> = tabs.iter().map(|tab| (tab.id, tab.label)).collect();
    let known = ids.clone();
    let chosen = Memo::new(move |_| {
        let tab = ui().tab.get();
        known.iter().position(|(id, _)| *id == tab).unwrap_or(0)
    });
    let links = ids.into_iter().enumerate().map(move |(index, (id, label))| {
        view! {
            <a href=format!("#{id}") class="tab" data-testid=format!("tab-{id}")
                aria-current=move || (chosen.get() == index).then_some("page")>{label}</a>
        }
    });
    view! {
        <nav class="tabs" aria-label="Sections">{links.collect_view()}</nav>
        <div class="tab-content">{move || tabs.get(chosen.get()).map(|tab| (tab.content)())}</div>
    }
    .into_any()
}

/// Puts text on the clipboard and says so.
pub fn copy(text: &str) {
    if let Some(window) = web_sys::window() {
        let _ = window.navigator().clipboard().write_text(text);
        ui().done("Copied");
    }
}

/// A command to copy.
pub fn command(text: impl Into<String>) -> AnyView {
    let text = text.into();
    let shown = text.clone();
    view! {
        <div class="command"><code>{shown}</code>{icon_button("copy", "Copy", "copy", move || copy(&text))}</div>
    }
    .into_any()
}
