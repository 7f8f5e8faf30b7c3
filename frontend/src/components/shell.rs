//! The frame around every page: navigation, namespace picker, who is signed in.
use super::controls::{Weight, icon_button, link_button};
use super::icon::icon;
use super::{dialog, palette, toasts};
use crate::api::Resource;
use crate::api::resource::{
    CONFIG_MAPS, DEPLOYMENTS, NAMESPACES, NODES, PODS, REPLICA_SETS, SECRETS, SERVICES,
};
use crate::api::watch::Query;
use crate::context::{Session, remember, ui};
use crate::live::{self, State};
use crate::router;
use crate::session::{may, sign_out};
use leptos::prelude::*;

pub struct Section {
    title: &'static str,
    pub links: &'static [(&'static str, &'static str, &'static Resource)],
}

/// Label, icon and kind: a kind that the user may not list is not offered.
pub static SECTIONS: [Section; 4] = [
    Section {
        title: "Workloads",
        links: &[
            ("Deployments", "deployments", &DEPLOYMENTS),
            ("Pods", "pods", &PODS),
            ("ReplicaSets", "replicasets", &REPLICA_SETS),
        ],
    },
    Section { title: "Network", links: &[("Services", "services", &SERVICES)] },
    Section {
        title: "Configuration",
        links: &[("ConfigMaps", "configmaps", &CONFIG_MAPS), ("Secrets", "secrets", &SECRETS)],
    },
    Section {
        title: "Cluster",
        links: &[("Nodes", "nodes", &NODES), ("Namespaces", "namespaces", &NAMESPACES)],
    },
];

pub fn shell(page: impl Fn() -> AnyView + Send + 'static) -> AnyView {
    watch_namespaces();
    let open = ui().menu_open;
    let busy = move || if ui().busy.get() > 0 { "progress on" } else { "progress" };
    view! {
        <a class="skip" href="#main" on:click=|event| { event.prevent_default(); focus_main(); }>"Skip to the content"</a>
        <div class=busy role="presentation"></div>
        <aside class="side" class:open=move || open.get()>
            <div class="brand"><a href="/ui/">{icon("wheel")}<span>"Pilothouse"</span></a>
                {icon_button("close", "Close the menu", "menu-close", move || open.set(false))}</div>
            {go_to()}
            {picker()}
            {deploy_button("deploy-open")}
            {navigation()}
            {who()}
        </aside>
        <div class="veil" class:open=move || open.get() on:click=move |_| open.set(false)></div>
        <div class="content">
            <header class="top">
                {icon_button("menu", "Open the menu", "menu-open", move || open.set(true))}
                <a class="top-brand" href="/ui/">{icon("wheel")}"Pilothouse"</a>
                <div class="grow"></div>
                {deploy_button("deploy-open-top")}
            </header>
            <main id="main" tabindex="-1">{page}</main>
        </div>
        {palette::host()}
    }
    .into_any()
}

fn go_to() -> AnyView {
    view! {
        <button type="button" class="go-to" data-testid="palette-open" aria-keyshortcuts="Control+K" on:click=|_| palette::open()>
            {icon("search")}<span>"Go to …"</span><kbd aria-hidden="true">"Ctrl K"</kbd>
        </button>
    }
    .into_any()
}

fn deploy_button(test_id: &'static str) -> AnyView {
    (move || {
        may("create", &DEPLOYMENTS, "", &ui().namespace.get())
            .then(|| link_button(Weight::Primary, "plus", "Deploy", test_id, "/ui/deploy".into()))
    })
    .into_any()
}

/// Over every page, the sign-in page too.
pub fn overlays() -> AnyView {
    view! { {toasts::host()} {dialog::host()} }.into_any()
}

/// Also after going to another page: the link that led here is gone, and with it the place in the page.
pub fn focus_main() {
    use wasm_bindgen::JsCast;
    let main = web_sys::window().and_then(|w| w.document()).and_then(|d| d.get_element_by_id("main"));
    if let Some(main) = main.and_then(|main| main.dyn_into::<web_sys::HtmlElement>().ok()) {
        let _ = main.focus();
    }
}

/// Feeds the picker. Who may not list namespaces keeps the ones already in use.
fn watch_namespaces() {
    let live = live::watch(Signal::stored(Some(Query::all(&NAMESPACES, None))));
    Effect::new(move |_| {
        let chosen = ui().namespace.get();
        let mut names: Vec<String> =
            live.objects.with(|all| all.keys().map(|key| key.trim_start_matches('/').to_owned()).collect());
        if live.state.get() != State::Live && names.is_empty() {
            names = vec!["default".into()];
        }
        if !chosen.is_empty() && !names.contains(&chosen) {
            names.push(chosen);
        }
        names.sort();
        ui().namespaces.set(names);
    });
}

fn picker() -> AnyView {
    let option = |value: String, label: String| {
        let chosen = value.clone();
        let selected = move || ui().namespace.with(|namespace| *namespace == chosen);
        view! { <option value=value selected=selected>{label}</option> }
    };
    view! {
        <label class="picker">
            <span>"Namespace"</span>
            <select data-testid="namespace-picker" on:change=|event| router::choose_namespace(&event_target_value(&event))
                prop:value=move || { ui().namespaces.track(); ui().namespace.get() }>
                {option(String::new(), "All namespaces".into())}
                {move || ui().namespaces.get().into_iter().map(|name| option(name.clone(), name)).collect_view()}
            </select>
        </label>
    }
    .into_any()
}

fn navigation() -> AnyView {
    let section = |section: &'static Section| {
        view! {
            <h2>{section.title}</h2>
            <ul>{section.links.iter().map(|(label, symbol, resource)| {
                let offered = move || may("list", resource, "", &ui().namespace.get());
                view! { <li hidden=move || !offered()>{link(label, symbol, resource.list_page())}</li> }
            }).collect_view()}</ul>
        }
    };
    view! {
        <nav aria-label="Main">
            <ul><li>{link("Overview", "overview", "/ui/".into())}</li></ul>
            {SECTIONS.iter().map(section).collect_view()}
            <h2>"Everything else"</h2>
            <ul><li>{link("Events", "events", "/ui/events".into())}</li><li>{link("More resources", "more", "/ui/more".into())}</li></ul>
        </nav>
    }
    .into_any()
}

fn link(label: &'static str, symbol: &'static str, to: String) -> AnyView {
    let path = to.trim_start_matches("/ui").to_owned();
    let is_here = move || {
        ui().path.with(|here| match path.as_str() {
            "/" => here == "/",
            path => here == path || here.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')),
        })
    };
    view! { <a href=to aria-current=move || is_here().then_some("page")>{icon(symbol)}<span>{label}</span></a> }.into_any()
}

fn who() -> AnyView {
    let name = move || match ui().session.get() {
        Session::SignedIn { username, .. } => username,
        _ => String::new(),
    };
    view! {
        <div class="who"><span title="Signed in as" data-testid="signed-in-as">{name}</span>
            {theme_button()}{icon_button("out", "Sign out", "sign-out", sign_out)}</div>
    }
    .into_any()
}

fn is_dark() -> bool {
    match ui().theme.get().as_str() {
        "dark" => true,
        "light" => false,
        _ => web_sys::window()
            .and_then(|window| window.match_media("(prefers-color-scheme: dark)").ok().flatten())
            .is_some_and(|query| query.matches()),
    }
}

pub fn theme_button() -> AnyView {
    let turn = || {
        let theme = if untrack(is_dark) { "light" } else { "dark" };
        remember("theme", theme);
        ui().theme.set(theme.into());
    };
    (move || match is_dark() {
        true => icon_button("sun", "Light colours", "theme", turn),
        false => icon_button("moon", "Dark colours", "theme", turn),
    })
    .into_any()
}
