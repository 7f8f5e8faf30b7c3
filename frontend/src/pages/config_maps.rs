//! ConfigMaps: settings and files for pods.
use super::{Words, list_page, nothing, title_bar};
use crate::api::resource::CONFIG_MAPS;
use crate::components::controls::{Tab, Weight, link_button, plain_button};
use crate::components::detail::{Detail, Loss, about, page};
use crate::components::key_values;
use crate::context::ui;
use crate::router::Params;
use crate::session::may;
use crate::view_model::key_values::Holder;
use leptos::prelude::*;

pub fn list(_: Params) -> AnyView {
    let words = Words {
        title: "ConfigMaps",
        symbol: "configmaps",
        purpose: "A ConfigMap holds settings and whole files that pods read as variables or mount.",
        command: "kubectl create configmap my-settings --from-literal=level=info{n}",
    };
    let new = |test_id| {
        (move || {
            may("create", &CONFIG_MAPS, "", &ui().namespace.get()).then(|| {
                link_button(Weight::Plain, "plus", "New ConfigMap", test_id, "/ui/configmaps/new".into())
            })
        })
        .into_any()
    };
    list_page(&CONFIG_MAPS, words, "", new("configmap-new"), move || new("configmap-first"))
}

pub fn create(_: Params) -> AnyView {
    view! { {title_bar("New ConfigMap", nothing())}<section class="panel">{key_values::create(Holder::ConfigMap)}</section> }.into_any()
}

pub fn detail(params: Params) -> AnyView {
    let detail = Detail::open(&CONFIG_MAPS, params.namespace(), params.get("name"));
    let shown = detail.clone();
    let overview = Tab::new("overview", "Data", move || data(&shown));
    page(detail, |_| None, nothing(), Loss::Final, vec![overview])
}

fn data(detail: &Detail) -> AnyView {
    let editing = RwSignal::new(false);
    let close = move || {
        editing.try_set(false);
    };
    let facts = detail.view(|object| {
        let kind = object["type"].as_str().map(|kind| ("Type", kind.to_owned().into_any()));
        about(object, kind.into_iter().collect())
    });
    let detail = detail.clone();
    view! {
        <section class="panel">
            <h2>"Data"</h2>
            {move || match editing.get() {
                true => key_values::edit(&detail, Holder::ConfigMap, close),
                false => {
                    let may_edit = detail.may("patch", "");
                    view! {
                        {detail.view(|object| key_values::read(object, Holder::ConfigMap))}
                        {may_edit.then(|| view! {
                            <div class="actions">{plain_button(Weight::Plain, "edit", "Edit", "kv-edit", move || editing.set(true))}</div>
                        })}
                    }.into_any()
                }
            }}
        </section>
        {facts}
    }
    .into_any()
}
