//! Deploying an image by form: what it makes is shown as YAML, tried by the server, and then made.
use super::{nothing, title_bar};
use crate::api::resource::{DEPLOYMENTS, SERVICES};
use crate::api::{self, ApiError, DryRun};
use crate::components::controls::{
    Weight, button, field, icon_button, input, number_input, plain_button, select,
};
use crate::components::diff::diff;
use crate::context::ui;
use crate::router::{self, Params};
use crate::view_model::deploy_form::{Form, From, Port, Problem, Variable, problems_of};
use crate::view_model::{name, namespace, yaml};
use leptos::prelude::*;
use leptos::task::spawn_local;
use serde_json::Value;
use wasm_bindgen::JsCast;

/// A row of ports.
#[derive(Clone, Copy)]
struct PortRow {
    id: usize,
    container: RwSignal<String>,
    service: RwSignal<String>,
    protocol: RwSignal<String>,
}

/// A row of environment variables.
#[derive(Clone, Copy)]
struct VariableRow {
    id: usize,
    name: RwSignal<String>,
    from: RwSignal<String>,
    value: RwSignal<String>,
    key: RwSignal<String>,
}

/// The form's fields; copies share them.
#[derive(Clone, Copy)]
struct Fields {
    namespace: RwSignal<String>,
    name: RwSignal<String>,
    image: RwSignal<String>,
    replicas: RwSignal<String>,
    command: RwSignal<String>,
    service_type: RwSignal<String>,
    ports: RwSignal<Vec<PortRow>>,
    variables: RwSignal<Vec<VariableRow>>,
    cpu_request: RwSignal<String>,
    cpu_limit: RwSignal<String>,
    memory_request: RwSignal<String>,
    memory_limit: RwSignal<String>,
    problems: RwSignal<Vec<Problem>>,
    /// What the server would make of it: YAML before and after.
    tried: RwSignal<Option<(String, String)>>,
    pending: RwSignal<bool>,
    /// Under which the signals of added rows live.
    owner: StoredValue<Option<Owner>>,
}

impl Fields {
    fn new() -> Self {
        let start = Form::default();
        let chosen = ui().namespace.get_untracked();
        let empty = || RwSignal::new(String::new());
        Self {
            namespace: RwSignal::new(if chosen.is_empty() { "default".into() } else { chosen }),
            name: empty(),
            image: empty(),
            replicas: RwSignal::new(start.replicas),
            command: empty(),
            service_type: RwSignal::new(start.service_type),
            ports: RwSignal::new(Vec::new()),
            variables: RwSignal::new(Vec::new()),
            cpu_request: empty(),
            cpu_limit: empty(),
            memory_request: empty(),
            memory_limit: empty(),
            problems: RwSignal::new(Vec::new()),
            tried: RwSignal::new(None),
            pending: RwSignal::new(false),
            owner: StoredValue::new(Owner::current()),
        }
    }

    /// What is filled in now. Reactive.
    fn form(self) -> Form {
        let trimmed = |signal: RwSignal<String>| signal.with(|text| text.trim().to_owned());
        let port = |row: &PortRow| Port {
            container: trimmed(row.container),
            service: trimmed(row.service),
            protocol: if row.protocol.with(|protocol| protocol == "UDP") { "UDP" } else { "TCP" },
        };
        let variable = |row: &VariableRow| Variable {
            name: trimmed(row.name),
            from: match row.from.get().as_str() {
                "secret" => From::Secret,
                "configmap" => From::ConfigMap,
                _ => From::Value,
            },
            value: row.value.get(),
            key: trimmed(row.key),
        };
        Form {
            namespace: self.namespace.get(),
            name: trimmed(self.name),
            image: trimmed(self.image),
            replicas: trimmed(self.replicas),
            command: self.command.get(),
            ports: self.ports.with(|rows| rows.iter().map(port).collect()),
            service_type: self.service_type.get(),
            variables: self.variables.with(|rows| rows.iter().map(variable).collect()),
            cpu_request: trimmed(self.cpu_request),
            cpu_limit: trimmed(self.cpu_limit),
            memory_request: trimmed(self.memory_request),
            memory_limit: trimmed(self.memory_limit),
        }
    }

    fn problem(self, field: impl Into<String>) -> Signal<String> {
        let field = field.into();
        Signal::derive(move || {
            let of_field = |all: &Vec<Problem>| {
                all.iter()
                    .filter(|p| p.field == field)
                    .map(|p| p.message.as_str())
                    .collect::<Vec<_>>()
                    .join("; ")
            };
            self.problems.with(of_field)
        })
    }

    /// Signals of rows belong to the form, not to the click that made them.
    fn owned<T>(self, make: impl FnOnce() -> T) -> T {
        match self.owner.get_value() {
            Some(owner) => owner.with(make),
            None => make(),
        }
    }

    fn add_port(self) {
        let text = |text: &str| RwSignal::new(text.to_owned());
        let id = self.ports.with_untracked(|rows| rows.iter().map(|row| row.id + 1).max().unwrap_or(0));
        let row =
            self.owned(|| PortRow { id, container: text(""), service: text(""), protocol: text("TCP") });
        self.ports.update(|rows| rows.push(row));
    }

    fn add_variable(self) {
        let text = |text: &str| RwSignal::new(text.to_owned());
        let id = self.variables.with_untracked(|rows| rows.iter().map(|row| row.id + 1).max().unwrap_or(0));
        let row = self.owned(|| VariableRow {
            id,
            name: text(""),
            from: text("value"),
            value: text(""),
            key: text(""),
        });
        self.variables.update(|rows| rows.push(row));
    }
}

pub fn page(_: Params) -> AnyView {
    let fields = Fields::new();
    let preview = Memo::new(move |_| documents(&fields.form().objects()));
    // What was tried is no longer what stands in the form, and what was wrong may be right now.
    Effect::new(move |before: Option<()>| {
        preview.track();
        fields.tried.set(None);
        if before.is_some() && fields.problems.with_untracked(|problems| !problems.is_empty()) {
            fields.problems.set(untrack(|| fields.form().problems()));
        }
    });
    view! {
        {title_bar("Deploy an image", nothing())}
        <div class="deploy">
            <form class="panel form" on:submit=move |event| { event.prevent_default(); submit(fields); }>
                {basics(fields)}{ports(fields)}{variables(fields)}{resources(fields)}
                <div aria-live="assertive">{move || {
                    let text = fields.problem("").get();
                    (!text.is_empty()).then(|| view! { <p class="notice bad" data-testid="problem">{text}</p> })
                }}</div>
                <div class="actions end">
                    {button(Weight::Plain, "eye", "Dry run", "deploy-check", fields.pending, move || check(fields))}
                    {button(Weight::Primary, "check", "Deploy", "deploy-submit", fields.pending, move || submit(fields))}
                </div>
            </form>
            <section class="panel preview">
                <h2>{move || if fields.tried.with(Option::is_some) { "What the server makes of it" } else { "YAML preview" }}</h2>
                {move || match fields.tried.get() {
                    Some((before, after)) => diff(&before, &after),
                    None => view! {
                        <pre class="yaml" tabindex="0" aria-label="YAML preview" data-testid="deploy-preview"
                            inner_html=preview.with(|text| yaml::html(text))></pre>
                    }.into_any(),
                }}
            </section>
        </div>
    }
    .into_any()
}

fn documents(objects: &[Value]) -> String {
    objects.iter().map(yaml::print_readable).collect::<Vec<_>>().join("---\n")
}

fn basics(fields: Fields) -> AnyView {
    let names = Signal::derive(|| {
        ui().namespaces.get().into_iter().map(|name| (name.clone(), name)).collect::<Vec<_>>()
    });
    let namespace = select(fields.namespace.into(), "deploy-namespace", "Namespace", names, move |value| {
        fields.namespace.set(value)
    });
    view! {
        <div class="field-row">
            {field("Name", "lower-case letters, digits and dashes", fields.problem("name"), input(fields.name, "deploy-name", "web"))}
            {field("Namespace", "", fields.problem("namespace"), namespace)}
        </div>
        <div class="field-row">
            {field("Image", "as a registry names it", fields.problem("image"), input(fields.image, "deploy-image", "registry/name:tag"))}
            {field("Replicas", "pods kept running", fields.problem("replicas"), number_input(fields.replicas, "deploy-replicas", "Replicas"))}
        </div>
        {field("Command", "empty runs what the image says", fields.problem("command"), input(fields.command, "deploy-command", "sh -c 'echo hello'"))}
    }
    .into_any()
}

fn ports(fields: Fields) -> AnyView {
    let kinds = [
        ("", "No Service"),
        ("ClusterIP", "Inside the cluster"),
        ("NodePort", "On every node too"),
        ("LoadBalancer", "Behind a load balancer"),
    ];
    let kinds = kinds.map(|(value, label)| (value.to_owned(), label.to_owned())).to_vec();
    let row = move |row: PortRow| {
        let index =
            move || fields.ports.with(|rows| rows.iter().position(|other| other.id == row.id).unwrap_or(0));
        let protocols = ["TCP", "UDP"].map(|p| (p.to_owned(), p.to_owned())).to_vec();
        let at = untrack(index);
        view! {
            <div class="repeat">
                {field("Container port", "", fields.problem(format!("port-{at}")), input(row.container, format!("deploy-port-{at}"), "8080"))}
                {field("Service port", "", Signal::stored(String::new()), input(row.service, format!("deploy-service-port-{at}"), "same"))}
                {field("Protocol", "", Signal::stored(String::new()), select(row.protocol.into(), format!("deploy-protocol-{at}"), "Protocol", Signal::stored(protocols), move |value| row.protocol.set(value)))}
                {icon_button("trash", "Remove this port", "deploy-remove-port", move || fields.ports.update(|rows| rows.retain(|other| other.id != row.id)))}
            </div>
        }
    };
    view! {
        <fieldset>
            <legend>"Ports"</legend>
            <For each=move || fields.ports.get() key=|row| row.id children=row/>
            <div class="actions">{plain_button(Weight::Quiet, "plus", "Add a port", "deploy-add-port", move || fields.add_port())}</div>
            {move || fields.ports.with(|rows| !rows.is_empty()).then(|| field("Service", "a stable name and address in front of the pods", Signal::stored(String::new()),
                select(fields.service_type.into(), "deploy-service-type", "Service", Signal::stored(kinds.clone()), move |value| fields.service_type.set(value))))}
        </fieldset>
    }
    .into_any()
}

fn variables(fields: Fields) -> AnyView {
    let row = move |row: VariableRow| {
        let at = untrack(|| {
            fields.variables.with(|rows| rows.iter().position(|other| other.id == row.id).unwrap_or(0))
        });
        let sources = [("value", "Value"), ("secret", "Secret"), ("configmap", "ConfigMap")];
        let sources = sources.map(|(value, label)| (value.to_owned(), label.to_owned())).to_vec();
        let none = || Signal::stored(String::new());
        let content = move || match row.from.get().as_str() {
            "value" => field("Value", "", none(), input(row.value, format!("deploy-env-value-{at}"), "")),
            _ => view! {
                {field("Its name", "", none(), input(row.value, format!("deploy-env-value-{at}"), ""))}
                {field("Key", "", none(), input(row.key, format!("deploy-env-key-{at}"), ""))}
            }
            .into_any(),
        };
        view! {
            <div class="repeat">
                {field("Variable", "", fields.problem(format!("env-{at}")), input(row.name, format!("deploy-env-name-{at}"), "LEVEL"))}
                {field("From", "", none(), select(row.from.into(), format!("deploy-env-from-{at}"), "From", Signal::stored(sources), move |value| row.from.set(value)))}
                {content}
                {icon_button("trash", "Remove this variable", "deploy-remove-env", move || fields.variables.update(|rows| rows.retain(|other| other.id != row.id)))}
            </div>
        }
    };
    view! {
        <fieldset>
            <legend>"Environment"</legend>
            <For each=move || fields.variables.get() key=|row| row.id children=row/>
            <div class="actions">{plain_button(Weight::Quiet, "plus", "Add a variable", "deploy-add-env", move || fields.add_variable())}</div>
        </fieldset>
    }
    .into_any()
}

fn resources(fields: Fields) -> AnyView {
    let amount = |label, test: &'static str, value, placeholder| {
        field(label, "", fields.problem(test), input(value, format!("deploy-{test}"), placeholder))
    };
    view! {
        <fieldset>
            <legend>"Resources"</legend>
            <div class="field-row four">
                {amount("CPU request", "cpu-request", fields.cpu_request, "100m")}
                {amount("CPU limit", "cpu-limit", fields.cpu_limit, "1")}
                {amount("Memory request", "memory-request", fields.memory_request, "128Mi")}
                {amount("Memory limit", "memory-limit", fields.memory_limit, "256Mi")}
            </div>
        </fieldset>
    }
    .into_any()
}

/// The objects, or nothing and what is wrong stands at the fields.
fn checked(fields: Fields) -> Option<Vec<Value>> {
    let form = untrack(|| fields.form());
    let problems = form.problems();
    let is_good = problems.is_empty();
    complain(fields, problems);
    is_good.then(|| form.objects())
}

/// Says what is wrong at each field, and leads to the first of them.
fn complain(fields: Fields, problems: Vec<Problem>) {
    let is_any = !problems.is_empty();
    if fields.problems.try_set(problems).is_some() || !is_any {
        return;
    }
    spawn_local(async {
        // The marks are drawn after this turn.
        leptos::task::tick().await;
        let document = web_sys::window().and_then(|window| window.document());
        let wrong =
            document.and_then(|d| d.query_selector(".field.wrong .input, .notice.bad").ok().flatten());
        if let Some(wrong) = wrong.and_then(|wrong| wrong.dyn_into::<web_sys::HtmlElement>().ok()) {
            wrong.scroll_into_view();
            let _ = wrong.focus();
        }
    });
}

async fn send_all(objects: &[Value], dry_run: DryRun) -> Result<Vec<Value>, ApiError> {
    let mut made = Vec::new();
    for object in objects {
        let resource = if object["kind"] == "Service" { &SERVICES } else { &DEPLOYMENTS };
        made.push(api::create(resource, namespace(object), object, dry_run).await?);
    }
    Ok(made)
}

fn check(fields: Fields) {
    let Some(objects) = checked(fields) else { return };
    fields.pending.set(true);
    spawn_local(async move {
        let result = send_all(&objects, DryRun::Yes).await;
        fields.pending.try_set(false);
        match result {
            Ok(made) => drop(fields.tried.try_set(Some((documents(&objects), documents(&made))))),
            Err(error) => complain(fields, problems_of(&error)),
        }
    });
}

fn submit(fields: Fields) {
    if fields.pending.get_untracked() {
        return;
    }
    let Some(objects) = checked(fields) else { return };
    let page = DEPLOYMENTS.object_page(namespace(&objects[0]), name(&objects[0]));
    let done = format!("{} is being deployed", name(&objects[0]));
    let request = async move {
        // Tried first, so that a wrong Service does not leave half of it behind.
        send_all(&objects, DryRun::Yes).await?;
        send_all(&objects, DryRun::No).await
    };
    let refused = move |error: &ApiError| complain(fields, problems_of(error));
    ui().submit(done, fields.pending, refused, request, move |_| router::go(&page));
}
