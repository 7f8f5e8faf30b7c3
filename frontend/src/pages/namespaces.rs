//! Namespaces: list, create, delete.
use super::{Words, list_page};
use crate::api::resource::NAMESPACES;
use crate::api::{self, DryRun};
use crate::components::controls::{Weight, button, field, input, plain_button};
use crate::components::detail::{Detail, Loss, overview_tab, page};
use crate::context::ui;
use crate::router::{self, Params};
use crate::session::may;
use crate::view_model::workload;
use leptos::prelude::*;
use serde_json::json;

pub fn list(_: Params) -> AnyView {
    let words = Words {
        title: "Namespaces",
        symbol: "namespaces",
        purpose: "A namespace keeps the names, rights and quotas of one team or application apart from the others.",
        command: "kubectl create namespace my-team",
    };
    let open = RwSignal::new(false);
    let bar = move || {
        (move || {
            (may("create", &NAMESPACES, "", "") && !open.get()).then(|| {
                plain_button(Weight::Plain, "plus", "New namespace", "ns-open", move || open.set(true))
            })
        })
        .into_any()
    };
    view! {
        {move || open.get().then(|| create(open))}
        {list_page(&NAMESPACES, words, "", bar(), super::nothing)}
    }
    .into_any()
}

fn create(open: RwSignal<bool>) -> AnyView {
    let name = RwSignal::new(String::new());
    let problem = RwSignal::new(String::new());
    let pending = RwSignal::new(false);
    let save = move || {
        let wanted = name.get_untracked().trim().to_owned();
        if wanted.is_empty() {
            return problem.set("give it a name".into());
        }
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": wanted}});
        let done = format!("Namespace {wanted} created");
        let request = async move {
            let result = api::create(&NAMESPACES, "", &object, DryRun::No).await;
            problem.try_set(result.as_ref().err().map(|error| error.message.clone()).unwrap_or_default());
            result
        };
        ui().write(done, pending, request, move |_| {
            open.try_set(false);
        });
    };
    view! {
        <form class="panel form inline" on:submit=move |event| { event.prevent_default(); save(); }>
            {field("Name of the new namespace", "lower-case letters, digits and dashes", problem.into(), input(name, "ns-name", "my-team"))}
            <div class="actions">
                {button(Weight::Primary, "check", "Create", "ns-create", pending, save)}
                {plain_button(Weight::Plain, "", "Cancel", "ns-cancel", move || open.set(false))}
            </div>
        </form>
    }
    .into_any()
}

pub fn detail(params: Params) -> AnyView {
    let detail = Detail::open(&NAMESPACES, String::new(), params.get("name"));
    let name = detail.name.clone();
    let enter = move || {
        router::choose_namespace(&name);
        router::go("/ui/");
    };
    let actions = plain_button(Weight::Plain, "right", "Work in it", "ns-enter", enter);
    let tabs = vec![overview_tab(&detail)];
    page(detail, |object| Some(workload::namespace(object)), actions, Loss::Final, tabs)
}
