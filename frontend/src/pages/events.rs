//! What happened lately.
use super::title_bar;
use crate::api::resource::EVENTS;
use crate::api::watch::Query;
use crate::components::controls::toggle;
use crate::components::events;
use crate::context::ui;
use crate::live;
use crate::router::Params;
use leptos::prelude::*;

pub fn page(_: Params) -> AnyView {
    let only_warnings = RwSignal::new(false);
    let live = live::watch(Signal::derive(move || {
        let field_selector = if only_warnings.get() { "type=Warning".to_owned() } else { String::new() };
        Some(Query { field_selector, ..Query::all(&EVENTS, ui().chosen()) })
    }));
    view! {
        {title_bar("Events", toggle(only_warnings, "Only warnings", "events-warnings"))}
        <section class="panel">{events::table(live, "Nothing happened in the last hour.", |_| true)}</section>
    }
    .into_any()
}
