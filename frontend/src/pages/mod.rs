//! The pages.
pub mod config_maps;
pub mod create;
pub mod deploy;
pub mod deployments;
pub mod events;
pub mod logs;
pub mod more;
pub mod namespaces;
pub mod nodes;
pub mod overview;
pub mod pods;
pub mod replica_sets;
pub mod secrets;
pub mod services;
pub mod sign_in;

use crate::api::Resource;
use crate::api::watch::Query;
use crate::components::state;
use crate::components::table::{self, List, several_namespaces};
use crate::context::{kubectl_get, ui};
use crate::live;
use crate::view_model::columns::known;
use leptos::prelude::*;
use std::sync::Arc;

/// What a list says about its kind.
pub struct Words {
    pub title: &'static str,
    pub symbol: &'static str,
    /// What the kind is for, where there is none.
    pub purpose: &'static str,
    /// How to make one in a terminal; `{n}` becomes the namespace's option.
    pub command: &'static str,
}

/// The page of all objects of a known kind, in the chosen namespace.
pub fn list_page(
    resource: &'static Resource,
    words: Words,
    test_prefix: &'static str,
    beside_title: AnyView,
    first_steps: impl Fn() -> AnyView + Send + Sync + 'static,
) -> AnyView {
    let title_bar = if resource.namespaced { title_bar } else { cluster_title_bar };
    view! {
        {title_bar(words.title, beside_title)}
        {list_body(resource, words, test_prefix, first_steps)}
    }
    .into_any()
}

/// The list without its head.
pub fn list_body(
    resource: &'static Resource,
    words: Words,
    test_prefix: &'static str,
    first_steps: impl Fn() -> AnyView + Send + Sync + 'static,
) -> AnyView {
    let namespaced = resource.namespaced;
    let query = Signal::derive(move || {
        let namespace = if namespaced { ui().chosen() } else { None };
        Some(Query::all(resource, namespace))
    });
    let live = live::watch(query);
    let Words { title, symbol, purpose, command } = words;
    let empty = move || {
        let namespace = if namespaced { ui().namespace.get() } else { String::new() };
        let option = if namespace.is_empty() { String::new() } else { format!(" -n {namespace}") };
        let hint = match command {
            "" => kubectl_get(resource, &namespace),
            command => command.replace("{n}", &option),
        };
        let place = if namespace.is_empty() { String::new() } else { format!(" in {namespace}") };
        state::empty(symbol, format!("No {title}{place}"), purpose, Some(hint), Some(first_steps()))
    };
    table::list(List {
        resource: resource.clone(),
        live,
        columns: Signal::stored(known(&resource.plural).unwrap_or_default()),
        show_namespace: several_namespaces(resource),
        test_prefix,
        empty: Arc::new(empty),
    })
}

/// The head of a page about the chosen namespace.
pub fn title_bar(title: &str, actions: AnyView) -> AnyView {
    let place = Signal::derive(|| match ui().namespace.get() {
        all if all.is_empty() => "all namespaces".to_owned(),
        namespace => namespace,
    });
    head(title.to_owned(), place, actions)
}

/// The head of a page about what belongs to no namespace.
pub fn cluster_title_bar(title: &str, actions: AnyView) -> AnyView {
    head(title.to_owned(), Signal::stored("whole cluster".to_owned()), actions)
}

fn head(title: String, place: Signal<String>, actions: AnyView) -> AnyView {
    view! {
        <header class="page-head">
            <div><p class="crumbs"><span>{move || place.get()}</span></p><h1>{title}</h1></div>
            <div class="actions">{actions}</div>
        </header>
    }
    .into_any()
}

pub fn nothing() -> AnyView {
    ().into_any()
}
