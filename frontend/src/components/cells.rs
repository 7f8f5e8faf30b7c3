//! Statuses, ages and other small facts.
use crate::context::ui;
use crate::view_model::columns::Cell;
use crate::view_model::status::Status;
use crate::view_model::time::human_span;
use leptos::prelude::*;

pub fn status(status: &Status) -> AnyView {
    let title = (!status.detail.is_empty()).then(|| status.detail.clone());
    view! {
        <span class=format!("status {}", status.tone.class()) title=title><i aria-hidden="true"></i>{status.word.clone()}</span>
    }
    .into_any()
}

/// Counts on by itself.
pub fn age(since: Option<i64>) -> AnyView {
    let Some(since) = since else { return ().into_any() };
    let exact: String =
        js_sys::Date::new(&wasm_bindgen::JsValue::from_f64(exact(since))).to_iso_string().into();
    view! { <time datetime=exact.clone() title=exact>{move || human_span(ui().now.get() - since)}</time> }
        .into_any()
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds of a date are exact in a double")]
fn exact(millis: i64) -> f64 {
    millis as f64
}

pub fn cell(cell: &Cell) -> AnyView {
    match cell {
        Cell::Text(text) => text.clone().into_any(),
        Cell::Code(text) => view! { <code title=text.clone()>{text.clone()}</code> }.into_any(),
        Cell::Number(number) => number.to_string().into_any(),
        Cell::Of(part, whole) => {
            let class = if part == whole { "of" } else { "of short" };
            view! { <span class=class>{format!("{part}/{whole}")}</span> }.into_any()
        }
        Cell::Status(value) => status(value),
        Cell::Age(since) => age(*since),
    }
}

/// Labels and annotations.
pub fn tags(pairs: Vec<(String, String)>) -> AnyView {
    let tag = |(key, value): (String, String)| view! { <li><b>{key}</b><span>{value}</span></li> };
    view! { <ul class="tags">{pairs.into_iter().map(tag).collect_view()}</ul> }.into_any()
}

/// Names and values, one under the other.
pub fn facts(facts: Vec<(&'static str, AnyView)>) -> AnyView {
    let fact = |(name, value)| view! { <div><dt>{name}</dt><dd>{value}</dd></div> };
    view! { <dl class="facts">{facts.into_iter().map(fact).collect_view()}</dl> }.into_any()
}

/// A part of a whole as a bar; the words carry the meaning.
pub fn meter(percent: i64, label: String) -> AnyView {
    let class = match percent {
        91.. => "meter bad",
        76.. => "meter warn",
        _ => "meter",
    };
    view! {
        <div class=class><div class="meter-bar"><div style=format!("width:{percent}%")></div></div><span>{label}</span></div>
    }
    .into_any()
}

pub fn panel(title: &'static str, content: AnyView) -> AnyView {
    view! { <section class="panel"><h2>{title}</h2>{content}</section> }.into_any()
}
