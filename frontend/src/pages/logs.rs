//! A container's log, followed. Lines go straight to the page: a signal a line would be slow.
use crate::api::resource::PODS;
use crate::api::watch::Lines;
use crate::api::{ApiError, ByteStream};
use crate::components::controls::{Weight, plain_button, select, toggle};
use crate::components::detail::Detail;
use crate::context::ui;
use crate::live::sleep;
use crate::session::may;
use crate::view_model::log::{MAX_LINES, Window, html};
use crate::view_model::pod;
use leptos::html;
use leptos::prelude::*;
use leptos::task::spawn_local;
use wasm_bindgen::{JsCast, JsValue};
use web_sys::AbortController;

/// Lines from before that the first look shows.
const TAIL: u32 = 1000;
const RETRY: u32 = 2000;

#[derive(Clone, PartialEq, Eq)]
struct Wanted {
    namespace: String,
    pod: String,
    container: String,
    previous: bool,
}

impl Wanted {
    fn path(&self) -> String {
        let follow = if self.previous { "previous=true" } else { "follow=true" };
        let pod = PODS.object(&self.namespace, &self.pod);
        format!("{pod}/log?container={}&{follow}&tailLines={TAIL}&timestamps=true", self.container)
    }
}

/// What the view consists of; copies share it.
#[derive(Clone, Copy)]
struct Log {
    window: StoredValue<Window, LocalStorage>,
    frame: NodeRef<html::Pre>,
    search: RwSignal<String>,
    times: RwSignal<bool>,
    paused: RwSignal<bool>,
    /// Lines that came while paused.
    waiting: RwSignal<usize>,
    note: RwSignal<String>,
}

pub fn view(detail: &Detail) -> AnyView {
    if !may("get", &PODS, "log", &detail.namespace) {
        return view! { <p class="notice">"You may not read this pod's logs."</p> }.into_any();
    }
    let object = detail.object;
    let names = Memo::new(move |_| {
        let containers =
            object.with(|item| item.as_ref().map(|item| pod::containers(&item.object)).unwrap_or_default());
        containers.into_iter().map(|container| (container.name, container.is_init)).collect::<Vec<_>>()
    });
    let chosen = RwSignal::new(None::<String>);
    // The pod may be known only after the page: an address with #logs is opened like any other.
    let container = Memo::new(move |_| {
        let first =
            || names.with(|names| names.iter().find(|(_, is_init)| !is_init).map(|(name, _)| name.clone()));
        chosen.get().or_else(first).unwrap_or_default()
    });
    let previous = RwSignal::new(false);
    let wrap = RwSignal::new(true);
    let log = Log {
        window: StoredValue::new_local(Window::default()),
        frame: NodeRef::new(),
        search: RwSignal::new(String::new()),
        times: RwSignal::new(false),
        paused: RwSignal::new(false),
        waiting: RwSignal::new(0),
        note: RwSignal::new("Connecting …".into()),
    };
    let (namespace, name) = (detail.namespace.clone(), detail.name.clone());
    let wanted = Memo::new(move |_| Wanted {
        namespace: namespace.clone(),
        pod: name.clone(),
        container: container.get(),
        previous: previous.get(),
    });
    follow_whatever_is(wanted, log);
    redraw_on_change(log);
    let options = Signal::derive(move || {
        let label = |(name, is_init): (String, bool)| {
            (name.clone(), if is_init { format!("{name} (init)") } else { name })
        };
        names.get().into_iter().map(label).collect::<Vec<_>>()
    });
    let file = format!("{}.log", detail.name);
    view! {
        <div class="logs">
            <div class="toolbar">
                {select(container.into(), "logs-container", "Container", options, move |name| chosen.set(Some(name)))}
                <input type="search" class="input" placeholder="Search" aria-label="Search the log" data-testid="logs-search"
                    prop:value=move || log.search.get() on:input=move |event| log.search.set(event_target_value(&event))/>
                {toggle(previous, "Previous run", "logs-previous")}
                {toggle(log.times, "Times", "logs-times")}
                {toggle(wrap, "Wrap", "logs-wrap")}
                <div class="grow"></div>
                {move || {
                    let (symbol, label) = if log.paused.get() { ("play", "Follow") } else { ("pause", "Pause") };
                    plain_button(Weight::Plain, symbol, label, "logs-pause", move || log.pause(!log.paused.get_untracked()))
                }}
                {plain_button(Weight::Quiet, "download", "Download", "logs-download", move || log.window.with_value(|window| download(&file, &window.text())))}
            </div>
            <pre class="log" class:wrap=move || wrap.get() node_ref=log.frame tabindex="0" aria-label="Log" data-testid="logs-view"
                on:wheel=move |event| { if event.delta_y() < 0.0 { log.pause(true); } }
                on:scroll=move |_| log.pause(!log.is_at_end())></pre>
            <p class="log-note" role="status" aria-live="polite">{move || match (log.paused.get(), log.waiting.get()) {
                (true, 0) => "Paused.".to_owned(),
                (true, waiting) => format!("Paused; {waiting} new lines wait."),
                _ => log.note.get(),
            }}</p>
        </div>
    }
    .into_any()
}

fn redraw_on_change(log: Log) {
    Effect::new(move |_| {
        log.search.track();
        log.times.track();
        if log.frame.get().is_some() {
            log.redraw();
        }
    });
}

fn follow_whatever_is(wanted: Memo<Wanted>, log: Log) {
    let current = StoredValue::new_local(None::<AbortController>);
    let stop = move || {
        let _ = current.try_update_value(|slot| slot.take().inspect(AbortController::abort));
    };
    Effect::new(move |_| {
        let wanted = wanted.get();
        stop();
        log.window.update_value(Window::clear);
        log.redraw();
        log.note.set("Connecting …".into());
        let Ok(abort) = AbortController::new() else { return };
        current.set_value(Some(abort.clone()));
        if !wanted.container.is_empty() {
            spawn_local(run(wanted, log, abort));
        }
    });
    on_cleanup(stop);
}

/// Follows until told to stop; a container that starts again is followed again.
async fn run(wanted: Wanted, log: Log, abort: AbortController) {
    let mut newest = String::new();
    loop {
        let result = follow(&wanted, log, &abort, &mut newest).await;
        if abort.signal().aborted() {
            return;
        }
        let note = match (&result, wanted.previous) {
            (Ok(()), true) => "The end of the previous run.".to_owned(),
            (Ok(()), false) => "The container ended its log. Waiting for the next run …".to_owned(),
            (Err(error), _) => error.message.clone(),
        };
        log.note.try_set(note);
        if wanted.previous {
            return;
        }
        sleep(RETRY).await;
        if abort.signal().aborted() {
            return;
        }
    }
}

async fn follow(
    wanted: &Wanted,
    log: Log,
    abort: &AbortController,
    newest: &mut String,
) -> Result<(), ApiError> {
    let Ok(connection) = AbortController::new() else { return Err(ApiError::unreachable()) };
    // Stopping from outside ends this connection; this connection's end must not look like being stopped.
    let inner = connection.clone();
    let on_stop = wasm_bindgen::closure::Closure::<dyn FnMut()>::new(move || inner.abort());
    abort.signal().set_onabort(Some(on_stop.as_ref().unchecked_ref()));
    let mut stream = ByteStream::open(&wanted.path(), "*/*", connection).await?;
    log.note.try_set("Following.".into());
    let mut lines = Lines::default();
    loop {
        let piece = stream.next().await?;
        if abort.signal().aborted() {
            return Ok(());
        }
        let is_over = piece.is_none();
        let bytes = match piece {
            Some(piece) => lines.push(&piece),
            None => vec![lines.finish()],
        };
        let fresh = bytes.iter().map(|line| String::from_utf8_lossy(line).into_owned());
        // After a reconnection the tail comes again: times are sorted, so what was seen is left out.
        let fresh: Vec<String> = fresh.filter(|line| !line.is_empty() && is_after(line, newest)).collect();
        if let Some(last) = fresh.last() {
            last.split(' ').next().unwrap_or_default().clone_into(newest);
        }
        log.append(fresh);
        if is_over {
            return Ok(());
        }
    }
}

fn is_after(line: &str, newest: &str) -> bool {
    newest.is_empty() || line.split(' ').next().unwrap_or_default() > newest
}

impl Log {
    fn is_at_end(self) -> bool {
        self.frame
            .try_get_untracked()
            .flatten()
            .is_some_and(|frame| frame.scroll_height() - frame.scroll_top() - frame.client_height() < 8)
    }

    fn pause(self, paused: bool) {
        if self.paused.get_untracked() == paused {
            return;
        }
        self.paused.set(paused);
        if !paused {
            self.waiting.set(0);
            self.redraw();
        }
    }

    fn append(self, lines: Vec<String>) {
        if lines.is_empty() {
            return;
        }
        let Some(paused) = self.paused.try_get_untracked() else { return };
        let search = self.search.get_untracked();
        let times = self.times.get_untracked();
        let count = lines.len();
        let added: String = lines.iter().filter_map(|line| html(line, &search, times)).collect();
        self.window.update_value(|window| lines.into_iter().for_each(|line| window.push(line)));
        if paused {
            self.waiting.update(|waiting| *waiting += count);
            return;
        }
        let Some(Some(frame)) = self.frame.try_get_untracked() else { return };
        let _ = frame.insert_adjacent_html("beforeend", &added);
        while frame.child_element_count() as usize > MAX_LINES {
            let Some(first) = frame.first_element_child() else { break };
            first.remove();
        }
        frame.set_scroll_top(frame.scroll_height());
    }

    fn redraw(self) {
        let Some(Some(frame)) = self.frame.try_get_untracked() else { return };
        let (search, times) = (self.search.get_untracked(), self.times.get_untracked());
        let all: String = self
            .window
            .with_value(|window| window.lines().filter_map(|line| html(line, &search, times)).collect());
        frame.set_inner_html(&all);
        if !self.paused.get_untracked() {
            frame.set_scroll_top(frame.scroll_height());
        }
    }
}

fn download(name: &str, text: &str) {
    let parts = js_sys::Array::of1(&JsValue::from_str(text));
    let made = web_sys::Blob::new_with_str_sequence(&parts)
        .and_then(|blob| web_sys::Url::create_object_url_with_blob(&blob));
    let Ok(address) = made else { return ui().failed("The browser can't make a file of it") };
    let document = web_sys::window().and_then(|window| window.document());
    let link = document.and_then(|document| document.create_element("a").ok());
    if let Some(link) = link.and_then(|link| link.dyn_into::<web_sys::HtmlAnchorElement>().ok()) {
        link.set_href(&address);
        link.set_download(name);
        link.click();
    }
    let _ = web_sys::Url::revoke_object_url(&address);
}
