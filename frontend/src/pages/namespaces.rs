//! Namespaces: list, create, delete.
use super::{Words, cluster_title_bar, list_body};
use crate::api::resource::NAMESPACES;
use crate::api::{self, ApiError, DryRun};
use crate::components::controls::{Weight, button, field, input, plain_button};
use crate::components::detail::{Detail, Loss, overview_tab, page};
use crate::context::ui;
use crate::router::{self, Params};
use crate::session::may;
use crate::view_model::names::{Shape, problem_of_name};
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
        {cluster_title_bar(words.title, bar())}
        {move || open.get().then(|| create(open))}
        {list_body(&NAMESPACES, words, "", super::nothing)}
    }
    .into_any()
}

fn create(open: RwSignal<bool>) -> AnyView {
    let name = RwSignal::new(String::new());
    let problem = RwSignal::new(String::new());
    let pending = RwSignal::new(false);
    let save = move || {
        let wanted = name.get_untracked().trim().to_owned();
        if let Some(wrong) = problem_of_name(&wanted, Shape::Label) {
            return problem.set(wrong.into());
        }
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": wanted}});
        let done = format!("Namespace {wanted} created");
        let refused = move |error: &ApiError| drop(problem.try_set(error.brief()));
        let request = async move { api::create(&NAMESPACES, "", &object, DryRun::No).await };
        ui().submit(done, pending, refused, request, move |_| {
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
