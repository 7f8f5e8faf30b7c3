//! Every other kind the server has, found by discovery: list, detail and editor follow by themselves.
use super::{cluster_title_bar, nothing, title_bar};
use crate::api::Resource;
use crate::api::resource::WITH_PAGES;
use crate::api::watch::Query;
use crate::components::controls::{Weight, link_button};
use crate::components::detail::{Detail, Loss, overview_tab, page as object_page};
use crate::components::icon::icon;
use crate::components::state;
use crate::components::table::{self, List, several_namespaces};
use crate::context::{kubectl_get, ui};
use crate::live;
use crate::router::Params;
use crate::session::{discover, may};
use crate::view_model::columns::from_server;
use crate::view_model::discovery::Found;
use leptos::prelude::*;
use leptos::task::spawn_local;
use std::sync::Arc;

pub fn page(_: Params) -> AnyView {
    spawn_local(discover());
    let filter = RwSignal::new(String::new());
    let kinds = move || {
        let filter = filter.get().to_lowercase();
        let mut kinds: Vec<Found> = ui().kinds.with(|kinds| {
            kinds
                .iter()
                .filter(|found| {
                    found.resource.full_name().contains(&filter)
                        || found.resource.kind.to_lowercase().contains(&filter)
                })
                .cloned()
                .collect()
        });
        kinds.sort_by_key(|found| (found.resource.group.clone(), found.resource.plural.clone()));
        kinds
    };
    view! {
        {title_bar("More resources", create_button())}
        <div class="toolbar">
            <label class="search">
                {icon("search")}
                <input type="search" class="input" placeholder="Filter" aria-label="Filter the kinds" data-testid="filter"
                    prop:value=move || filter.get() on:input=move |event| filter.set(event_target_value(&event))/>
            </label>
        </div>
        <div class="kinds">{move || match ui().kinds.with(Vec::is_empty) {
            true => state::skeleton(6),
            false => kinds().into_iter().map(card).collect_view().into_any(),
        }}</div>
    }
    .into_any()
}

fn create_button() -> AnyView {
    link_button(Weight::Plain, "plus", "Create from YAML", "create-yaml", "/ui/create".into())
}

fn card(found: Found) -> AnyView {
    let resource = found.resource.clone();
    let offered = {
        let resource = resource.clone();
        move || may("list", &resource, "", &ui().namespace.get())
    };
    let group = if resource.group.is_empty() { "core".to_owned() } else { resource.group.to_string() };
    view! {
        <a class="kind" href=resource.list_page() hidden=move || !offered()>
            <b>{resource.kind.to_string()}</b>
            <span>{format!("{group}/{}", resource.version)}</span>
            <span class="quiet">{found.short_names.join(", ")}</span>
        </a>
    }
    .into_any()
}

/// The kind that the address names, as soon as discovery knows it.
fn resource_of(params: &Params) -> Memo<Option<Resource>> {
    let group = params.get("group");
    let (group, version, plural) =
        (if group == "core" { String::new() } else { group }, params.get("version"), params.get("plural"));
    Memo::new(move |_| {
        let known =
            WITH_PAGES.into_iter().find(|r| r.group == group && r.version == version && r.plural == plural);
        let found = |found: &&Found| {
            let resource = &found.resource;
            resource.group == group && resource.version == version && resource.plural == plural
        };
        known
            .cloned()
            .or_else(|| ui().kinds.with(|kinds| kinds.iter().find(found).map(|found| found.resource.clone())))
    })
}

/// Waits for discovery, then shows.
fn with_resource(params: &Params, show: impl Fn(Resource) -> AnyView + Send + 'static) -> AnyView {
    let resource = resource_of(params);
    let plural = params.get("plural");
    (move || match resource.get() {
        Some(resource) => show(resource),
        None if ui().kinds.with(Vec::is_empty) => state::skeleton(6),
        None => state::empty(
            "search",
            format!("This server has no {plural}"),
            "Kinds come and go with CustomResourceDefinitions.",
            None,
            None,
        ),
    })
    .into_any()
}

pub fn list(params: Params) -> AnyView {
    with_resource(&params, |resource| {
        let asked = resource.clone();
        let live = live::watch(Signal::derive(move || {
            let namespace = if asked.namespaced { ui().chosen() } else { None };
            Some(Query { table: true, ..Query::all(&asked, namespace) })
        }));
        let columns = Signal::derive(move || live.columns.with(|columns| from_server(columns)));
        let shown = resource.clone();
        let empty = move || {
            let hint = kubectl_get(&shown, &ui().namespace.get());
            state::empty(
                "more",
                format!("No {}", shown.plural),
                "There are no objects of this kind here.",
                Some(hint),
                None,
            )
        };
        view! {
            {match resource.namespaced {
                true => title_bar(&resource.kind, create_button()),
                false => cluster_title_bar(&resource.kind, create_button()),
            }}
            {table::list(List {
                show_namespace: several_namespaces(&resource),
                resource,
                live,
                columns,
                test_prefix: "",
                empty: Arc::new(empty),
            })}
        }
        .into_any()
    })
}

pub fn detail(params: Params) -> AnyView {
    let (namespace, name) = (params.namespace(), params.get("name"));
    with_resource(&params, move |resource| {
        let detail = Detail::open(&resource, namespace.clone(), name.clone());
        let tabs = vec![overview_tab(&detail)];
        object_page(detail, |_| None, nothing(), Loss::Final, tabs)
    })
}
