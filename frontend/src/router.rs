//! Addresses: which page is shown, and how links and the back button change that without loading anew.
use crate::api::resource::{escape, unescape};
use crate::context::{remember, remembered, ui};
use leptos::prelude::*;
use wasm_bindgen::closure::Closure;
use wasm_bindgen::{JsCast, JsValue};

/// Where the server serves the dashboard.
const BASE: &str = "/ui";
/// `?namespace=` of "all namespaces".
const ALL: &str = "*";

/// What a pattern's `:names` stand for in an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(&'static str, String)>);

impl Params {
    pub fn get(&self, name: &str) -> String {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    }

    /// `_` stands for "no namespace".
    pub fn namespace(&self) -> String {
        match self.get("namespace") {
            none if none == "_" => String::new(),
            namespace => namespace,
        }
    }
}

/// Whether `path` has the shape of `pattern` (`/pods/:namespace/:name`).
pub fn matches(pattern: &'static str, path: &str) -> Option<Params> {
    let (mut want, mut have) = (pattern.trim_matches('/').split('/'), path.trim_matches('/').split('/'));
    let mut params = Vec::new();
    loop {
        match (want.next(), have.next()) {
            (None, None) => return Some(Params(params)),
            (Some(want), Some(have)) => match want.strip_prefix(':') {
                Some(name) if !have.is_empty() => params.push((name, unescape(have))),
                _ if want == have => {}
                _ => return None,
            },
            _ => return None,
        }
    }
}

/// Reads the address now and whenever it changes.
pub fn start() {
    read();
    let Some(window) = web_sys::window() else { return };
    let Some(document) = window.document() else { return };
    let on_pop = Closure::<dyn FnMut()>::new(read);
    let _ = window.add_event_listener_with_callback("popstate", on_pop.as_ref().unchecked_ref());
    on_pop.forget();
    let on_click = Closure::<dyn FnMut(web_sys::MouseEvent)>::new(|event| follow(&event));
    let _ = document.add_event_listener_with_callback("click", on_click.as_ref().unchecked_ref());
    on_click.forget();
}

/// A plain click on a link of ours; anything else (a new tab, another site) is the browser's.
fn follow(event: &web_sys::MouseEvent) {
    let is_plain = event.button() == 0
        && !(event.meta_key() || event.ctrl_key() || event.shift_key() || event.alt_key());
    if !is_plain || event.default_prevented() {
        return;
    }
    let target = event.target().and_then(|target| target.dyn_into::<web_sys::Element>().ok());
    let Some(link) = target.and_then(|target| target.closest("a[href]").ok().flatten()) else { return };
    let Some(address) = link.get_attribute("href") else { return };
    if link.has_attribute("download") || link.has_attribute("target") {
        return;
    }
    if address.starts_with("/ui/") || address.starts_with('#') {
        event.prevent_default();
        go(&address);
    }
}

/// Shows the page at an address: `/ui/…`, or `#tab` of the present one.
pub fn go(address: &str) {
    let here = ui();
    let (path, tab) = address.split_once('#').unwrap_or((address, ""));
    let path = match path {
        "" => format!("{BASE}{}", here.path.get_untracked()),
        path => path.to_owned(),
    };
    let moved = path.strip_prefix(BASE) != Some(here.path.get_untracked().as_str());
    push(&path, &here.namespace.get_untracked(), tab, Entry::New);
    read();
    here.menu_open.set(false);
    if moved && let Some(window) = web_sys::window() {
        window.scroll_to_with_x_and_y(0.0, 0.0);
        crate::components::shell::focus_main();
    }
}

/// Empty: all namespaces. On the page of one object this leads to the list of its kind.
pub fn choose_namespace(namespace: &str) {
    let here = ui();
    let path = here.path.get_untracked();
    let list = list_of(&path);
    remember("namespace", namespace);
    push(&format!("{BASE}{list}"), namespace, "", if list == path { Entry::Same } else { Entry::New });
    read();
}

/// The list above one object's page; any other path is its own.
fn list_of(path: &str) -> String {
    let segments: Vec<_> = path.trim_matches('/').split('/').collect();
    let kept = if segments[0] == "more" { 4 } else { 1 };
    format!("/{}", segments[..segments.len().min(kept)].join("/"))
}

/// The namespace of the object that a path is about.
fn namespace_of(path: &str) -> Option<String> {
    let segments: Vec<_> = path.trim_matches('/').split('/').collect();
    let namespace = match segments.as_slice() {
        [_, namespace, _] => namespace,
        ["more", _, _, _, namespace, _] => namespace,
        _ => return None,
    };
    (*namespace != "_").then(|| unescape(namespace))
}

fn is_in(path: &str, namespace: &str) -> bool {
    namespace_of(path).is_none_or(|own| own == namespace)
}

enum Entry {
    New,
    /// The back button skips it.
    Same,
}

fn push(path: &str, namespace: &str, tab: &str, entry: Entry) {
    let namespace = if namespace.is_empty() { ALL.to_owned() } else { escape(namespace) };
    let mut address = format!("{path}?namespace={namespace}");
    if !tab.is_empty() {
        address.push('#');
        address.push_str(tab);
    }
    let Some(history) = web_sys::window().and_then(|window| window.history().ok()) else { return };
    let _ = match entry {
        Entry::New => history.push_state_with_url(&JsValue::NULL, "", Some(&address)),
        Entry::Same => history.replace_state_with_url(&JsValue::NULL, "", Some(&address)),
    };
}

fn read() {
    let Some(location) = web_sys::window().map(|window| window.location()) else { return };
    let here = ui();
    let path = location.pathname().unwrap_or_default();
    let path = path.strip_prefix(BASE).filter(|path| !path.is_empty()).unwrap_or("/").to_owned();
    let tab = location.hash().unwrap_or_default().trim_start_matches('#').to_owned();
    let query = location.search().unwrap_or_default();
    match namespace_in(&query) {
        // All of them include the one of the object looked at; another one would mislead.
        Some(namespace) if namespace.is_empty() || is_in(&path, &namespace) => {
            here.namespace.maybe_update(|old| replace(old, namespace));
        }
        other => {
            let chosen = other.or_else(|| remembered("namespace")).unwrap_or_else(|| "default".into());
            let namespace = namespace_of(&path).unwrap_or(chosen);
            push(&format!("{BASE}{path}"), &namespace, &tab, Entry::Same);
            here.namespace.maybe_update(|old| replace(old, namespace));
        }
    }
    here.path.maybe_update(|old| replace(old, path));
    here.tab.maybe_update(|old| replace(old, tab));
}

fn replace(old: &mut String, new: String) -> bool {
    let changed = *old != new;
    *old = new;
    changed
}

fn namespace_in(query: &str) -> Option<String> {
    let pairs = query.trim_start_matches('?').split('&');
    let value = pairs.filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == "namespace")?.1;
    let value = unescape(value);
    Some(if value == ALL { String::new() } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_its_shape_and_names_the_parts() {
        let params = matches("/pods/:namespace/:name", "/pods/a%20b/c").unwrap_or_default();
        assert_eq!((params.get("namespace").as_str(), params.get("name").as_str()), ("a b", "c"));
        assert_eq!(matches("/", "/"), Some(Params::default()));
        for other in ["/", "/pods", "/pods/a", "/pods/a/b/c", "/nodes/a/b", "/pods//b"] {
            assert_eq!(matches("/pods/:namespace/:name", other), None, "{other}");
        }
    }

    #[test]
    fn one_objects_page_belongs_to_a_list() {
        assert_eq!(list_of("/pods/a/b"), "/pods");
        assert_eq!(list_of("/more/core/v1/leases/a/b"), "/more/core/v1/leases");
        assert_eq!(list_of("/"), "/");
    }

    #[test]
    fn an_objects_address_tells_its_namespace() {
        assert_eq!(namespace_of("/pods/a/b"), Some("a".into()));
        assert_eq!(namespace_of("/more/core/v1/leases/a/b"), Some("a".into()));
        for nowhere in ["/", "/pods", "/nodes/_/n", "/more/core/v1/leases", "/secrets/new"] {
            assert_eq!(namespace_of(nowhere), None, "{nowhere}");
        }
        assert!(is_in("/pods", "x") && is_in("/pods/a/b", "a") && !is_in("/pods/a/b", "x"));
    }

    #[test]
    fn the_address_says_which_namespace() {
        assert_eq!(namespace_in("?a=b&namespace=x"), Some("x".into()));
        assert_eq!(namespace_in("?namespace=*"), Some(String::new()));
        assert_eq!(namespace_in(""), None);
    }
}
