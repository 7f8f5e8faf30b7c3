//! Any object from YAML.
use super::{nothing, title_bar};
use crate::components::editor;
use crate::context::ui;
use crate::router::Params;
use leptos::prelude::*;

pub fn page(_: Params) -> AnyView {
    let namespace = match ui().namespace.get_untracked() {
        all if all.is_empty() => "default".to_owned(),
        namespace => namespace,
    };
    let start = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: example\n  namespace: {namespace}\ndata:\n  key: value\n"
    );
    view! {
        {title_bar("Create from YAML", nothing())}
        <p class="quiet">"Paste one object. The server tries it first and shows what would be kept, defaults included."</p>
        {editor::create(start)}
    }
    .into_any()
}
