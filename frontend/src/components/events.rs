//! Events, newest first.
use super::cells::{age, status};
use super::state;
use crate::api::resource::{EVENTS, WITH_PAGES};
use crate::api::watch::Query;
use crate::live::{Live, State, watch};
use crate::view_model::status::{Status, Tone};
use crate::view_model::{number, overview, text};
use leptos::prelude::*;
use serde_json::Value;

/// More are not read anyway.
const SHOWN: usize = 100;

/// Of one object.
pub fn of_object(namespace: String, name: String, kind: String) -> AnyView {
    let query = Query {
        field_selector: format!("involvedObject.name={name},involvedObject.kind={kind}"),
        ..Query::all(&EVENTS, Some(namespace).filter(|namespace| !namespace.is_empty()))
    };
    let live = watch(Signal::stored(Some(query)));
    table(live, "Nothing happened to this object lately. Events are kept for an hour.", |_| true)
}

pub fn table(live: Live, nothing: &'static str, wanted: fn(&Value) -> bool) -> AnyView {
    let rows = Memo::new(move |_| {
        live.objects.with(|all| {
            let mut events: Vec<_> = all.values().filter(|item| wanted(&item.object)).cloned().collect();
            events.sort_by_key(|item| std::cmp::Reverse(overview::event_time(&item.object)));
            events.truncate(SHOWN);
            events
        })
    });
    view! {
        {state::freshness(live)}
        {move || match live.state.get() {
            State::Loading => state::skeleton(3),
            State::Failed(error) => state::failed(&EVENTS, &error),
            _ if rows.with(Vec::is_empty) => view! { <p class="quiet">{nothing}</p> }.into_any(),
            _ => view! {
                <table class="small stacks events">
                    <thead><tr>
                        <th scope="col">"Type"</th><th scope="col">"Object"</th><th scope="col">"What happened"</th>
                        <th scope="col" class="r2">"Times"</th><th scope="col">"Last"</th>
                    </tr></thead>
                    <tbody>{rows.get().iter().map(|item| row(&item.object)).collect_view()}</tbody>
                </table>
            }.into_any(),
        }}
    }
    .into_any()
}

/// Leads to the object where its kind has a page.
fn object_link(kind: &str, namespace: &str, name: &str) -> AnyView {
    let label = format!("{kind} {name}");
    match WITH_PAGES.into_iter().find(|resource| resource.kind == kind) {
        Some(resource) => {
            let namespace = if resource.namespaced { namespace } else { "" };
            view! { <a href=resource.object_page(namespace, name)>{label}</a> }.into_any()
        }
        None => label.into_any(),
    }
}

fn row(event: &Value) -> impl IntoView + use<> {
    let kind = match text(event, &["type"]) {
        "Warning" => Status::new(Tone::Warn, "Warning"),
        kind => Status::new(Tone::Muted, kind),
    };
    let about = |name: &str| text(event, &["involvedObject", name]);
    let count = number(event, &["series", "count"]).or_else(|| number(event, &["count"])).unwrap_or(1);
    view! {
        <tr>
            <td>{status(&kind)}</td>
            <td class="wrap">{object_link(about("kind"), about("namespace"), about("name"))}</td>
            <td class="wrap"><b>{text(event, &["reason"]).to_owned()}</b>" "{text(event, &["message"]).to_owned()}</td>
            <td class="r2">{count.to_string()}</td>
            <td>{age(Some(overview::event_time(event)))}</td>
        </tr>
    }
}
