//! Going anywhere by typing a few letters of its name: pages, namespaces, objects. Opened by Ctrl-K.
use super::icon::icon;
use super::shell::SECTIONS;
use crate::api::resource::{
    CONFIG_MAPS, DEPLOYMENTS, NAMESPACES, NODES, PODS, REPLICA_SETS, SECRETS, SERVICES,
};
use crate::api::{self, Resource};
use crate::context::{Session, ui};
use crate::router;
use crate::view_model::palette::{Place, best};
use crate::view_model::{list, name, namespace};
use leptos::html::{Dialog, Input};
use leptos::prelude::*;
use leptos::task::spawn_local;
use wasm_bindgen::JsCast;
use wasm_bindgen::closure::Closure;

/// Objects asked for of each kind: enough to find by name, cheap to ask for.
const MOST: u32 = 500;
static SEARCHED: [&Resource; 7] =
    [&DEPLOYMENTS, &SERVICES, &PODS, &NODES, &CONFIG_MAPS, &SECRETS, &REPLICA_SETS];

pub fn open() {
    // Nothing to go to yet for those who are not signed in.
    if ui().session.with_untracked(|session| matches!(session, Session::SignedIn { .. })) {
        ui().palette_open.set(true);
    }
}

/// Ctrl-K or Command-K from anywhere; `/` leads to the list's filter.
pub fn listen() {
    let on_key = Closure::<dyn FnMut(web_sys::KeyboardEvent)>::new(|event: web_sys::KeyboardEvent| {
        let target = event.target().and_then(|target| target.dyn_into::<web_sys::Element>().ok());
        let is_typing =
            target.is_some_and(|target| target.matches("input, textarea, select").unwrap_or(false));
        match event.key().as_str() {
            "k" if event.ctrl_key() || event.meta_key() => open(),
            "/" if !is_typing => match filter() {
                Some(filter) => drop(filter.focus()),
                None => return,
            },
            _ => return,
        }
        event.prevent_default();
    });
    if let Some(window) = web_sys::window() {
        let _ = window.add_event_listener_with_callback("keydown", on_key.as_ref().unchecked_ref());
    }
    on_key.forget();
}

fn filter() -> Option<web_sys::HtmlElement> {
    let document = web_sys::window()?.document()?;
    document.query_selector("[data-testid=filter]").ok()??.dyn_into().ok()
}

pub fn host() -> AnyView {
    let dialog = NodeRef::<Dialog>::new();
    let field = NodeRef::<Input>::new();
    let opened = ui().palette_open;
    let (typed, chosen) = (RwSignal::new(String::new()), RwSignal::new(0usize));
    let objects = RwSignal::new(Vec::<Place>::new());
    let found = Memo::new(move |_| {
        let mut places = pages();
        objects.with(|objects| places.extend(objects.iter().cloned()));
        typed.with(|typed| best(&places, typed))
    });
    Effect::new(move |_| {
        let Some(dialog) = dialog.get() else { return };
        match opened.get() {
            true if !dialog.open() => {
                typed.set(String::new());
                chosen.set(0);
                let _ = dialog.show_modal();
                if let Some(field) = field.get_untracked() {
                    let _ = field.focus();
                }
                spawn_local(look_for(objects));
            }
            false => dialog.close(),
            true => {}
        }
    });
    let go = move |to: &str| {
        opened.set(false);
        router::go(to);
    };
    let on_key = move |event: web_sys::KeyboardEvent| {
        let count = found.with_untracked(Vec::len).max(1);
        match event.key().as_str() {
            "ArrowDown" => chosen.update(|chosen| *chosen = (*chosen + 1) % count),
            "ArrowUp" => chosen.update(|chosen| *chosen = (*chosen + count - 1) % count),
            "Enter" => {
                let place = found.with_untracked(|found| found.get(chosen.get_untracked()).cloned());
                if let Some(place) = place {
                    go(&place.to);
                }
            }
            _ => return,
        }
        event.prevent_default();
    };
    let row = move |(index, place): (usize, Place)| {
        let is_chosen = move || chosen.get() == index;
        let to = place.to.clone();
        view! {
            <li id=format!("place-{index}") role="option" aria-selected=move || is_chosen().to_string()
                on:mousemove=move |_| chosen.set(index) on:click=move |_| go(&to)>
                <b>{place.name}</b><span>{place.about}</span>
            </li>
        }
    };
    view! {
        <dialog class="palette" node_ref=dialog aria-label="Go to" on:close=move |_| opened.set(false)
            on:click=move |event| { if event.target() == event.current_target() { opened.set(false); } }>
            <label class="search">
                {icon("search")}
                <input type="text" class="input" node_ref=field placeholder="Go to a page, namespace or object" aria-label="Go to"
                    role="combobox" aria-expanded="true" aria-controls="places" autocomplete="off" spellcheck="false" data-testid="palette"
                    aria-activedescendant=move || format!("place-{}", chosen.get()) prop:value=move || typed.get()
                    on:input=move |event| { chosen.set(0); typed.set(event_target_value(&event)); } on:keydown=on_key/>
            </label>
            <ul id="places" role="listbox" aria-label="Places">{move || found.get().into_iter().enumerate().map(row).collect_view()}</ul>
            {move || found.with(Vec::is_empty).then(|| view! { <p class="quiet" role="status">"Nothing of that name that you may see."</p> })}
        </dialog>
    }
    .into_any()
}

/// What the menu offers, and the namespaces.
fn pages() -> Vec<Place> {
    let page = |name: &str, to: String| Place { name: name.to_owned(), about: "page".into(), to };
    let mut out = vec![page("Overview", "/ui/".into()), page("Deploy an image", "/ui/deploy".into())];
    for (label, _, resource) in SECTIONS.iter().flat_map(|section| section.links) {
        out.push(page(label, resource.list_page()));
    }
    out.extend([
        page("Events", "/ui/events".into()),
        page("Create from YAML", "/ui/create".into()),
        page("More resources", "/ui/more".into()),
    ]);
    ui().namespaces.with(|names| {
        out.extend(names.iter().map(|name| Place {
            name: name.clone(),
            about: "Namespace".into(),
            to: NAMESPACES.object_page("", name),
        }));
    });
    out
}

/// Asked for anew at each opening; what may not be listed is left out.
async fn look_for(objects: RwSignal<Vec<Place>>) {
    let of_kind = async |resource: &'static Resource| {
        let path = format!("{}?limit={MOST}", resource.collection(None));
        let listed = api::get(&path).await.unwrap_or_default();
        let place = |object: &serde_json::Value| {
            let about = match namespace(object) {
                "" => resource.kind.to_string(),
                namespace => format!("{} in {namespace}", resource.kind),
            };
            let to = resource.object_page(namespace(object), name(object));
            Place { name: name(object).to_owned(), about, to }
        };
        list(&listed, &["items"]).iter().map(place).collect::<Vec<_>>()
    };
    let all = futures::future::join_all(SEARCHED.into_iter().map(of_kind)).await;
    objects.try_set(all.into_iter().flatten().collect());
}
