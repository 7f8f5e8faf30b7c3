//! The entries of a Secret or ConfigMap: read, revealed one at a time, edited as rows.
use super::controls::{Weight, button, copy, field, icon_button, input, plain_button, select};
use super::detail::Detail;
use super::icon::icon;
use crate::api::resource::{CONFIG_MAPS, SECRETS};
use crate::api::{self, ApiError, DryRun, Resource};
use crate::context::ui;
use crate::router;
use crate::view_model::key_values::{Content, Holder, check, entries, object, patch};
use crate::view_model::names::{Shape, problem_of_name};
use crate::view_model::units::bytes;
use leptos::prelude::*;
use serde_json::Value;
use wasm_bindgen::JsCast;
use wasm_bindgen_futures::JsFuture;

const SECRET_TYPES: [(&str, &str); 4] = [
    ("Opaque", "Opaque (anything)"),
    ("kubernetes.io/basic-auth", "User name and password"),
    ("kubernetes.io/tls", "TLS certificate and key"),
    ("kubernetes.io/dockerconfigjson", "Registry credentials"),
];

/// A row of the form. Signals are made by the form's owner and live as long as it.
#[derive(Clone)]
struct Row {
    id: usize,
    key: RwSignal<String>,
    text: RwSignal<String>,
    /// Bytes that are no text; the text is unused then.
    bytes: RwSignal<Option<Vec<u8>>>,
    hidden: RwSignal<bool>,
}

impl Row {
    fn new(id: usize, key: &str, content: Content, hidden: bool) -> Self {
        let (text, bytes) = match content {
            Content::Text(text) => (text, None),
            Content::Bytes(bytes) => (String::new(), Some(bytes)),
        };
        Self {
            id,
            key: RwSignal::new(key.to_owned()),
            text: RwSignal::new(text),
            bytes: RwSignal::new(bytes),
            hidden: RwSignal::new(hidden),
        }
    }

    fn content(&self) -> (String, Content) {
        let content = match self.bytes.get_untracked() {
            Some(bytes) => Content::Bytes(bytes),
            None => Content::Text(self.text.get_untracked()),
        };
        (self.key.get_untracked().trim().to_owned(), content)
    }
}

pub fn resource(holder: Holder) -> &'static Resource {
    match holder {
        Holder::Secret => &SECRETS,
        Holder::ConfigMap => &CONFIG_MAPS,
    }
}

/// The entries as a table; a Secret's values stay hidden until asked for, each by itself.
pub fn read(object: &Value, holder: Holder) -> AnyView {
    let entries = entries(object, holder);
    if entries.is_empty() {
        return view! { <p class="quiet">"It holds nothing yet. Edit adds the first key."</p> }.into_any();
    }
    let row = |(key, content): (String, Content)| {
        let shown = RwSignal::new(holder == Holder::ConfigMap);
        let size = content.size();
        let (text, is_text) = match content {
            Content::Text(text) => (text, true),
            Content::Bytes(_) => ("not text".into(), false),
        };
        let copied = text.clone();
        let value = move || {
            match shown.get() {
            true => view! { <pre class="value" data-testid="secret-value">{text.clone()}</pre> }.into_any(),
            false => view! { <span class="hidden-value">"hidden, "{bytes(i64::try_from(size).unwrap_or(0))}</span> }.into_any(),
        }
        };
        view! {
            <tr>
                <th scope="row"><code>{key.clone()}</code></th>
                <td class="wrap">{value}</td>
                <td class="tools">
                    {(holder == Holder::Secret).then(|| icon_button("eye", format!("Show or hide {key}"), "secret-reveal", move || shown.update(|shown| *shown = !*shown)))}
                    {is_text.then(|| icon_button("copy", format!("Copy {key}"), "secret-copy", move || copy(&copied)))}
                </td>
            </tr>
        }
    };
    view! {
        <table class="small entries"><thead><tr><th scope="col">"Key"</th><th scope="col">"Value"</th><th><span class="sr">"Tools"</span></th></tr></thead>
            <tbody>{entries.into_iter().map(row).collect_view()}</tbody></table>
    }
    .into_any()
}

/// A form for a new one.
pub fn create(holder: Holder) -> AnyView {
    let name = RwSignal::new(String::new());
    let chosen = ui().namespace.get_untracked();
    let namespace = RwSignal::new(if chosen.is_empty() { "default".to_owned() } else { chosen });
    let kind = RwSignal::new("Opaque".to_owned());
    let rows = RwSignal::new(vec![Row::new(0, "", Content::Text(String::new()), false)]);
    let problem = RwSignal::new(String::new());
    let pending = RwSignal::new(false);
    let names = Signal::derive(|| {
        ui().namespaces.get().into_iter().map(|name| (name.clone(), name)).collect::<Vec<_>>()
    });
    let types = SECRET_TYPES.map(|(value, label)| (value.to_owned(), label.to_owned())).to_vec();
    let save = move || {
        let Some(entries) = checked(rows, problem) else { return };
        let (place, name) = (namespace.get_untracked(), name.get_untracked().trim().to_owned());
        if let Some(wrong) = problem_of_name(&name, Shape::Subdomain) {
            return problem.set(format!("Name: {wrong}."));
        }
        let object = object(holder, &place, &name, &kind.get_untracked(), &entries);
        let resource = resource(holder);
        let page = resource.object_page(&place, &name);
        let done = format!("{} {name} created", resource.kind);
        let refused = move |error: &ApiError| drop(problem.try_set(error.brief()));
        let request = async move { api::create(resource, &place, &object, DryRun::No).await };
        ui().submit(done, pending, refused, request, move |_| router::go(&page));
    };
    view! {
        <form class="form" on:submit=move |event| event.prevent_default()>
            <div class="field-row">
                {field("Name", "lower-case letters, digits and dashes", Signal::stored(String::new()), input(name, "kv-name", "my-settings"))}
                {field("Namespace", "", Signal::stored(String::new()), select(namespace.into(), "kv-namespace", "Namespace", names, move |value| namespace.set(value)))}
                {(holder == Holder::Secret).then(|| field("Type", "", Signal::stored(String::new()),
                    select(kind.into(), "secret-type", "Type", Signal::stored(types), move |value| kind.set(value))))}
            </div>
            {rows_view(rows)}
            {problem_view(problem)}
            <div class="actions end">{button(Weight::Primary, "check", "Create", "kv-save", pending, save)}</div>
        </form>
    }
    .into_any()
}

/// The form for one that exists. A Secret's values stay hidden until asked for.
pub fn edit(detail: &Detail, holder: Holder, close: impl Fn() + Copy + Send + Sync + 'static) -> AnyView {
    let Some(item) = detail.object.get_untracked() else { return ().into_any() };
    let is_secret = holder == Holder::Secret;
    let mut start: Vec<_> = entries(&item.object, holder)
        .into_iter()
        .enumerate()
        .map(|(id, (key, content))| Row::new(id, &key, content, is_secret))
        .collect();
    if start.is_empty() {
        start.push(Row::new(0, "", Content::Text(String::new()), false));
    }
    let rows = RwSignal::new(start);
    let problem = RwSignal::new(String::new());
    let pending = RwSignal::new(false);
    let (namespace, name) = (detail.namespace.clone(), detail.name.clone());
    let save = move || {
        let Some(entries) = checked(rows, problem) else { return };
        let patch = patch(&item.object, holder, &entries);
        let (namespace, name) = (namespace.clone(), name.clone());
        let refused = move |error: &ApiError| {
            let message = match error.is_conflict() {
                true => {
                    "Somebody changed it meanwhile. Cancel and edit again to start from its present state."
                        .to_owned()
                }
                false => error.brief(),
            };
            problem.try_set(message);
        };
        let request = async move { api::patch(resource(holder), &namespace, &name, "", &patch).await };
        ui().submit("Saved", pending, refused, request, move |_| close());
    };
    view! {
        <form class="form" on:submit=move |event| event.prevent_default()>
            {rows_view(rows)}
            {problem_view(problem)}
            <div class="actions end">
                {plain_button(Weight::Plain, "", "Cancel", "kv-cancel", close)}
                {button(Weight::Primary, "check", "Save", "kv-save", pending, save)}
            </div>
        </form>
    }
    .into_any()
}

fn problem_view(problem: RwSignal<String>) -> AnyView {
    view! {
        <div aria-live="polite">
            {move || Some(problem.get()).filter(|text| !text.is_empty()).map(|text| view! { <p class="notice bad" data-testid="problem">{text}</p> })}
        </div>
    }
    .into_any()
}

fn checked(rows: RwSignal<Vec<Row>>, problem: RwSignal<String>) -> Option<Vec<(String, Content)>> {
    let entries: Vec<_> = rows.with_untracked(|rows| rows.iter().map(Row::content).collect());
    match check(&entries) {
        Some((index, message)) => {
            let message = match entries[index].0.as_str() {
                "" => format!("Row {}: {message}.", index + 1),
                key => format!("Key {key}: {message}."),
            };
            problem.set(message);
            None
        }
        None => {
            problem.set(String::new());
            Some(entries)
        }
    }
}

fn rows_view(rows: RwSignal<Vec<Row>>) -> AnyView {
    // Rows made by later clicks must not belong to whatever runs at that moment.
    let owner = Owner::current();
    let add = move |key: &str, content: Content| {
        let make = || {
            rows.update(|rows| {
                let id = rows.iter().map(|row| row.id + 1).max().unwrap_or(0);
                rows.retain(|row| {
                    !(row.key.with_untracked(String::is_empty)
                        && row.content().1.size() == 0
                        && !key.is_empty())
                });
                rows.push(Row::new(id, key, content, false));
            });
        };
        match &owner {
            Some(owner) => owner.with(make),
            None => make(),
        }
    };
    let add_file = add.clone();
    let position = move |id: usize| rows.with(|rows| rows.iter().position(|row| row.id == id).unwrap_or(0));
    view! {
        <div class="entries-form">
            <div class="entry entry-heads field-label" aria-hidden="true"><span>"Key"</span><span>"Value"</span></div>
            <For each=move || rows.get() key=|row| row.id children=move |row| row_view(rows, row, position)/>
            <div class="actions">
                {plain_button(Weight::Quiet, "plus", "Add a key", "kv-add", move || add("", Content::Text(String::new())))}
                <label class="button quiet">
                    {icon("file")}<span>"Add from file"</span>
                    <input type="file" class="sr" multiple data-testid="kv-file" on:change=move |event| take_files(&event, add_file.clone())/>
                </label>
            </div>
        </div>
    }
    .into_any()
}

fn row_view(
    rows: RwSignal<Vec<Row>>,
    row: Row,
    position: impl Fn(usize) -> usize + Copy + Send + Sync + 'static,
) -> AnyView {
    let (id, text, hidden, bytes) = (row.id, row.text, row.hidden, row.bytes);
    let remove = move || rows.update(|rows| rows.retain(|row| row.id != id));
    let lines = Memo::new(move |_| text.with(|text| text.split('\n').count().clamp(1, 16)));
    let value = move || {
        match (bytes.with(Option::is_some), hidden.get()) {
        (true, _) => view! { <p class="quiet">"not text: kept as it is"</p> }.into_any(),
        (false, true) => view! {
            <button type="button" class="hidden-value" data-testid="secret-reveal" on:click=move |_| hidden.set(false)>
                {icon("eye")}"hidden, press to show and edit"
            </button>
        }
        .into_any(),
        (false, false) => view! {
            <textarea class="input code" aria-label=move || format!("Value of {}", row.key.get()) placeholder="value" spellcheck="false" autocomplete="off" rows=move || lines.get().to_string()
                data-testid=move || format!("secret-value-{}", position(id)) prop:value=move || text.get()
                on:input=move |event| text.set(event_target_value(&event))></textarea>
        }
        .into_any(),
    }
    };
    view! {
        <div class="entry">
            <input type="text" class="input code" aria-label="Key" placeholder="password" spellcheck="false" autocomplete="off" autocapitalize="off"
                data-testid=move || format!("secret-key-{}", position(id)) prop:value=move || row.key.get()
                on:input=move |event| row.key.set(event_target_value(&event))/>
            {value}
            {icon_button("trash", "Remove this key", "kv-remove", remove)}
        </div>
    }
    .into_any()
}

/// Each chosen file becomes a row: its name the key, its content the value.
fn take_files(event: &web_sys::Event, add: impl Fn(&str, Content) + Clone + 'static) {
    let input = event.target().and_then(|target| target.dyn_into::<web_sys::HtmlInputElement>().ok());
    let Some(files) = input.and_then(|input| input.files()) else { return };
    for file in (0..files.length()).filter_map(|index| files.get(index)) {
        let add = add.clone();
        leptos::task::spawn_local(async move {
            match JsFuture::from(file.array_buffer()).await {
                Ok(buffer) => {
                    add(&file.name(), Content::from_bytes(js_sys::Uint8Array::new(&buffer).to_vec()))
                }
                Err(_) => ui().failed(format!("{} can't be read", file.name())),
            }
        });
    }
}
