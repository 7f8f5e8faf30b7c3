//! The route table: one page is one file and one line here.
//!
//! Test ids that end-to-end tests may rely on:
//! sign in: `login-username login-password login-submit`; frame: `namespace-picker signed-in-as sign-out theme toasts`;
//! lists: `filter objects empty row-<name> pod-row-<name>`; any object: `delete confirm-name confirm-yes confirm-cancel`,
//! `tab-<id>`, `yaml yaml-review diff yaml-apply problem`; deploy: `deploy-open deploy-name deploy-image deploy-replicas
//! deploy-command deploy-add-port deploy-port-0 deploy-service-port-0 deploy-service-type deploy-add-env deploy-env-name-0
//! deploy-env-from-0 deploy-env-value-0 deploy-env-key-0 deploy-cpu-request deploy-memory-limit … deploy-preview deploy-check
//! deploy-submit`; Deployment: `scale-value scale-apply restart pause rollout-status undo-<revision>`; logs: `logs-view
//! logs-container logs-search logs-pause logs-previous logs-download`; Secrets and ConfigMaps: `secret-new configmap-new
//! kv-name kv-namespace secret-type secret-key-0 secret-value-0 kv-add kv-save kv-edit secret-reveal secret-value`;
//! Namespaces: `ns-open ns-name ns-create`; Deployment's version: `image-0 image-apply`; pods in trouble: `trouble open-log`;
//! going anywhere: `palette-open palette`.
use crate::components::palette;
use crate::components::shell::{overlays, shell};
use crate::components::state::{empty, skeleton};
use crate::context::{Session, now, ui};
use crate::pages;
use crate::router::{self, Params, matches};
use crate::session;
use leptos::prelude::*;
use wasm_bindgen::JsCast;
use wasm_bindgen::closure::Closure;

type Page = fn(Params) -> AnyView;

const ROUTES: &[(&str, &str, Page)] = &[
    ("/", "Overview", pages::overview::page),
    ("/deploy", "Deploy", pages::deploy::page),
    ("/deployments", "Deployments", pages::deployments::list),
    ("/deployments/:namespace/:name", "Deployment", pages::deployments::detail),
    ("/replicasets", "ReplicaSets", pages::replica_sets::list),
    ("/replicasets/:namespace/:name", "ReplicaSet", pages::replica_sets::detail),
    ("/pods", "Pods", pages::pods::list),
    ("/pods/:namespace/:name", "Pod", pages::pods::detail),
    ("/services", "Services", pages::services::list),
    ("/services/:namespace/:name", "Service", pages::services::detail),
    ("/configmaps", "ConfigMaps", pages::config_maps::list),
    ("/configmaps/new", "New ConfigMap", pages::config_maps::create),
    ("/configmaps/:namespace/:name", "ConfigMap", pages::config_maps::detail),
    ("/secrets", "Secrets", pages::secrets::list),
    ("/secrets/new", "New Secret", pages::secrets::create),
    ("/secrets/:namespace/:name", "Secret", pages::secrets::detail),
    ("/nodes", "Nodes", pages::nodes::list),
    ("/nodes/:namespace/:name", "Node", pages::nodes::detail),
    ("/namespaces", "Namespaces", pages::namespaces::list),
    ("/namespaces/:namespace/:name", "Namespace", pages::namespaces::detail),
    ("/events", "Events", pages::events::page),
    ("/more", "More resources", pages::more::page),
    ("/more/:group/:version/:plural", "", pages::more::list),
    ("/more/:group/:version/:plural/:namespace/:name", "", pages::more::detail),
    ("/create", "Create from YAML", pages::create::page),
];

pub fn mount() {
    if let Some(boot) = web_sys::window().and_then(|w| w.document()).and_then(|d| d.get_element_by_id("boot"))
    {
        boot.remove();
    }
    mount_to_body(|| {
        ui();
        tick();
        router::start();
        session::start();
        palette::listen();
        apply_theme();
        view! { {gate} {overlays()} }
    });
}

/// Nothing of the cluster is shown to those who are not signed in.
fn gate() -> AnyView {
    enum Gate {
        Wait,
        SignIn,
        Open,
    }
    impl PartialEq for Gate {
        fn eq(&self, other: &Self) -> bool {
            std::mem::discriminant(self) == std::mem::discriminant(other)
        }
    }
    let gate = Memo::new(|_| match ui().session.get() {
        Session::Unknown => Gate::Wait,
        Session::SignedOut => Gate::SignIn,
        Session::SignedIn { .. } => Gate::Open,
    });
    (move || {
        gate.with(|gate| match gate {
            Gate::Wait => ().into_any(),
            Gate::SignIn => pages::sign_in::page(),
            Gate::Open => shell(current),
        })
    })
    .into_any()
}

/// The page that the address names.
fn current() -> AnyView {
    // A memo of the choice, so that a change of namespace alone rebuilds no page.
    let path = ui().path;
    (move || {
        let path = path.get();
        if untrack(|| ui().session.get()) == Session::Unknown {
            return skeleton(4);
        }
        let found = ROUTES
            .iter()
            .find_map(|(pattern, title, page)| matches(pattern, &path).map(|params| (*title, *page, params)));
        match found {
            Some((title, page, params)) => {
                let subject = [params.get("name"), params.get("plural"), title.to_owned()];
                name_window(subject.iter().find(|part| !part.is_empty()).map_or("", String::as_str));
                page(params)
            }
            None => empty(
                "search",
                "There is nothing at this address".into(),
                "The menu leads to everything there is.",
                None,
                None,
            ),
        }
    })
    .into_any()
}

fn name_window(subject: &str) {
    if let Some(document) = web_sys::window().and_then(|window| window.document()) {
        document.set_title(&format!("{subject} · Pilothouse"));
    }
}

fn apply_theme() {
    Effect::new(|_| {
        let theme = ui().theme.get();
        let root = web_sys::window()
            .and_then(|window| window.document())
            .and_then(|document| document.document_element());
        let Some(root) = root else { return };
        let _ = match theme.is_empty() {
            true => root.remove_attribute("data-theme"),
            false => root.set_attribute("data-theme", &theme),
        };
    });
}

/// Ages count on.
fn tick() {
    let tick = Closure::<dyn FnMut()>::new(|| ui().now.set(now()));
    if let Some(window) = web_sys::window() {
        let _ = window
            .set_interval_with_callback_and_timeout_and_arguments_0(tick.as_ref().unchecked_ref(), 1000);
    }
    tick.forget();
}
