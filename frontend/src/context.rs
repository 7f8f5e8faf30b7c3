//! What every part of the dashboard shares: where we are, who we are, what time it is, and what to tell.
use crate::api::{ApiError, Resource};
use crate::view_model::discovery::Found;
use crate::view_model::rules::Rules;
use leptos::prelude::*;
use std::cell::OnceCell;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Session {
    /// Not asked yet.
    Unknown,
    SignedOut,
    SignedIn {
        username: String,
        is_administrator: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    Done,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toast {
    pub id: u32,
    pub tell: Tell,
    pub text: String,
}

/// A question before something that can't be undone.
#[derive(Clone)]
pub struct Question {
    pub title: String,
    pub text: String,
    pub action: String,
    /// Something is lost by it.
    pub is_loss: bool,
    /// Must be typed first, where a slip would hurt.
    pub typed: Option<String>,
    pub yes: Callback<()>,
}

/// Copies share the same signals. They live as long as the program.
#[derive(Clone, Copy)]
pub struct Ui {
    /// The page's address without `/ui`, `/pods/default/web`.
    pub path: RwSignal<String>,
    /// The address's fragment.
    pub tab: RwSignal<String>,
    /// Empty: all namespaces.
    pub namespace: RwSignal<String>,
    pub session: RwSignal<Session>,
    pub namespaces: RwSignal<Vec<String>>,
    pub kinds: RwSignal<Vec<Found>>,
    pub rules: RwSignal<BTreeMap<String, Rules>>,
    pub cluster_rights: RwSignal<BTreeMap<String, bool>>,
    pub asked_rights: StoredValue<Vec<String>>,
    pub toasts: RwSignal<Vec<Toast>>,
    pub question: RwSignal<Option<Question>>,
    /// Milliseconds since 1970, once a second.
    pub now: RwSignal<i64>,
    /// Writes on their way.
    pub busy: RwSignal<u32>,
    pub menu_open: RwSignal<bool>,
    pub palette_open: RwSignal<bool>,
    /// `light`, `dark`, or empty for what the system says.
    pub theme: RwSignal<String>,
}

thread_local! {
    static UI: OnceCell<Ui> = const { OnceCell::new() };
}

/// The first call must come while the root's owner is active: `app::mount` makes it.
pub fn ui() -> Ui {
    UI.with(|ui| *ui.get_or_init(Ui::new))
}

impl Ui {
    fn new() -> Self {
        Self {
            path: RwSignal::new("/".into()),
            tab: RwSignal::new(String::new()),
            namespace: RwSignal::new(String::new()),
            session: RwSignal::new(Session::Unknown),
            namespaces: RwSignal::new(Vec::new()),
            kinds: RwSignal::new(Vec::new()),
            rules: RwSignal::new(BTreeMap::new()),
            cluster_rights: RwSignal::new(BTreeMap::new()),
            asked_rights: StoredValue::new(Vec::new()),
            toasts: RwSignal::new(Vec::new()),
            question: RwSignal::new(None),
            now: RwSignal::new(now()),
            busy: RwSignal::new(0),
            menu_open: RwSignal::new(false),
            palette_open: RwSignal::new(false),
            theme: RwSignal::new(remembered("theme").unwrap_or_default()),
        }
    }

    /// The namespace for requests; `None` for all.
    pub fn chosen(self) -> Option<String> {
        Some(self.namespace.get()).filter(|namespace| !namespace.is_empty())
    }

    pub fn done(self, text: impl Into<String>) {
        self.tell(Tell::Done, text.into());
    }

    pub fn failed(self, text: impl Into<String>) {
        self.tell(Tell::Failed, text.into());
    }

    fn tell(self, tell: Tell, text: String) {
        let id = self.toasts.with_untracked(|toasts| toasts.last().map_or(0, |toast| toast.id + 1));
        self.toasts.update(|toasts| toasts.push(Toast { id, tell, text }));
        let shown = if tell == Tell::Done { 5000 } else { 12_000 };
        leptos::task::spawn_local(async move {
            crate::live::sleep(shown).await;
            self.toasts.update(|toasts| toasts.retain(|toast| toast.id != id));
        });
    }

    /// Runs a write: shows that it is on its way, and then how it ended. `then` only after success.
    pub fn write<T: 'static>(
        self,
        done: impl Into<String>,
        pending: RwSignal<bool>,
        request: impl Future<Output = Result<T, ApiError>> + 'static,
        then: impl FnOnce(T) + 'static,
    ) {
        self.submit(done, pending, move |error| self.failed(error.brief()), request, then);
    }

    /// As [`Ui::write`], for forms that show themselves what went wrong.
    pub fn submit<T: 'static>(
        self,
        done: impl Into<String>,
        pending: RwSignal<bool>,
        refused: impl FnOnce(&ApiError) + 'static,
        request: impl Future<Output = Result<T, ApiError>> + 'static,
        then: impl FnOnce(T) + 'static,
    ) {
        let done = done.into();
        pending.set(true);
        self.busy.update(|busy| *busy += 1);
        leptos::task::spawn_local(async move {
            let result = request.await;
            self.busy.update(|busy| *busy = busy.saturating_sub(1));
            pending.try_set(false);
            match result {
                Ok(value) => {
                    self.done(done);
                    then(value);
                }
                Err(error) => refused(&error),
            }
        });
    }
}

pub fn now() -> i64 {
    #[allow(clippy::cast_possible_truncation, reason = "a date fits for 285 million years")]
    let now = js_sys::Date::now() as i64;
    now
}

/// As Kubernetes writes times.
pub fn now_text() -> String {
    let text: String = js_sys::Date::new_0().to_iso_string().into();
    format!("{}Z", text.get(..19).unwrap_or_default())
}

/// What this browser kept from the last visit.
pub fn remembered(name: &str) -> Option<String> {
    storage()?.get_item(&format!("pilothouse.{name}")).ok()?
}

pub fn remember(name: &str, value: &str) {
    if let Some(storage) = storage() {
        let _ = storage.set_item(&format!("pilothouse.{name}"), value);
    }
}

fn storage() -> Option<web_sys::Storage> {
    web_sys::window()?.local_storage().ok()?
}

/// `kubectl`'s words for a kind in a namespace, for the empty states.
pub fn kubectl_get(resource: &Resource, namespace: &str) -> String {
    let place = match (resource.namespaced, namespace) {
        (false, _) => String::new(),
        (true, "") => " --all-namespaces".into(),
        (true, namespace) => format!(" -n {namespace}"),
    };
    format!("kubectl get {}{place}", resource.full_name())
}
