//! Editing an object as YAML: the server tries the change first and shows what it would do.
use super::controls::{Weight, button, copy, icon_button, plain_button};
use super::detail::Detail;
use super::diff::diff;
use crate::api::{self, ApiError, DryRun, Resource};
use crate::context::ui;
use crate::router;
use crate::view_model::discovery::Found;
use crate::view_model::{name, namespace, text, yaml};
use leptos::prelude::*;
use leptos::task::spawn_local;
use serde_json::Value;

/// What the server says about a change that was not made yet.
#[derive(Clone)]
enum Review {
    None,
    Failed(ApiError),
    /// The object to send, and the YAML before and after.
    Ready {
        object: Value,
        before: String,
        after: String,
    },
}

/// The YAML tab of one object. Starts from the object as it is when the tab opens; later changes are announced, not
/// forced on who is typing.
pub fn edit(detail: &Detail) -> AnyView {
    let start = detail.object.get_untracked();
    let shown = start.as_ref().map(|item| yaml::print_readable(&item.object)).unwrap_or_default();
    let version = start.as_ref().map(|item| version(&item.object)).unwrap_or_default();
    let (draft, original, base) =
        (RwSignal::new(shown.clone()), RwSignal::new(shown), RwSignal::new(version));
    let review = RwSignal::new(Review::None);
    let pending = RwSignal::new(false);
    let (object, resource) = (detail.object, detail.resource.clone());
    let reload = move || {
        if let Some(item) = object.get_untracked() {
            let text = yaml::print_readable(&item.object);
            draft.set(text.clone());
            original.set(text);
            base.set(self::version(&item.object));
            review.set(Review::None);
        }
    };
    // While nothing was typed, the text follows the object.
    Effect::new(move |_| {
        if object.with(Option::is_some)
            && draft.with_untracked(|draft| original.with_untracked(|old| old == draft))
        {
            reload();
        }
    });
    let is_changed = Memo::new(move |_| draft.with(|draft| original.with(|original| original != draft)));
    let is_stale = Memo::new(move |_| {
        object.with(|item| {
            item.as_ref().is_some_and(|item| base.with(|base| *base != self::version(&item.object)))
        })
    });
    let target = detail.clone();
    let check = move || try_update(&target, draft, review, pending);
    let target = detail.clone();
    let apply = move || {
        let Review::Ready { object, .. } = review.get_untracked() else { return };
        let (resource, namespace, name) =
            (target.resource.clone(), target.namespace.clone(), target.name.clone());
        let request = async move { api::update(&resource, &namespace, &name, &object, DryRun::No).await };
        ui().write("Applied", pending, request, move |object| {
            let text = yaml::print_readable(&object);
            base.try_set(self::version(&object));
            draft.try_set(text.clone());
            original.try_set(text);
            review.try_set(Review::None);
        });
    };
    let can = detail.clone();
    let may_update = Signal::derive(move || can.may("update", ""));
    view! {
        <div class="editor">
            <div class="editor-bar">
                <p class="quiet">{move || if may_update.get() { "Edit, review what would change, apply." } else { "You may look at this object, not change it." }}</p>
                <div class="actions">
                    {icon_button("copy", "Copy the YAML", "yaml-copy", move || draft.with_untracked(|text| copy(text)))}
                    {move || is_changed.get().then(|| plain_button(Weight::Quiet, "", "Discard", "yaml-discard", reload))}
                    {move || may_update.get().then(|| button(Weight::Plain, "check", "Review changes", "yaml-review", pending, check.clone()))}
                </div>
            </div>
            {move || (is_changed.get() && is_stale.get()).then(|| view! {
                <p class="notice warn" role="status">"The object changed on the server since you began. "
                    "Discard to start from its present state; applying yours is refused until then."</p>
            })}
            {outcome(review, pending, "Apply", apply)}
            {area(draft, "yaml", format!("YAML of {}", resource.kind), Signal::derive(move || !may_update.get()))}
        </div>
    }
    .into_any()
}

fn version(object: &Value) -> String {
    text(object, &["metadata", "resourceVersion"]).to_owned()
}

fn try_update(detail: &Detail, draft: RwSignal<String>, review: RwSignal<Review>, pending: RwSignal<bool>) {
    let object = match yaml::parse(&draft.get_untracked()) {
        Ok(object) => object,
        Err(error) => {
            return review.set(Review::Failed(ApiError::local(format!("This is not valid YAML: {error}"))));
        }
    };
    let before =
        detail.object.get_untracked().map(|item| yaml::print_readable(&item.object)).unwrap_or_default();
    let (resource, namespace, name) =
        (detail.resource.clone(), detail.namespace.clone(), detail.name.clone());
    pending.set(true);
    spawn_local(async move {
        let result = api::update(&resource, &namespace, &name, &object, DryRun::Yes).await;
        pending.try_set(false);
        review.try_set(match result {
            Ok(after) => Review::Ready { object, before, after: yaml::print_readable(&after) },
            Err(error) => Review::Failed(error),
        });
    });
}

fn outcome(
    review: RwSignal<Review>,
    pending: RwSignal<bool>,
    action: &'static str,
    apply: impl Fn() + Clone + Send + 'static,
) -> AnyView {
    (move || match review.get() {
        Review::None => ().into_any(),
        Review::Failed(error) => problem(&error),
        Review::Ready { before, after, .. } => view! {
            <div class="review">
                {diff(&before, &after)}
                <div class="actions end">
                    {plain_button(Weight::Plain, "", "Not yet", "yaml-back", move || review.set(Review::None))}
                    {button(Weight::Primary, "check", action, "yaml-apply", pending, apply.clone())}
                </div>
            </div>
        }
        .into_any(),
    })
    .into_any()
}

/// An error of the server, with the fields it is about.
pub fn problem(error: &ApiError) -> AnyView {
    let cause = |cause: &api::error::Cause| view! { <li><code>{cause.field.clone()}</code>" "{cause.message.clone()}</li> };
    view! {
        <div class="notice bad" role="alert" data-testid="problem">
            <p>{error.message.clone()}</p>
            {(error.causes.len() > 1).then(|| view! { <ul>{error.causes.iter().map(cause).collect_view()}</ul> })}
        </div>
    }
    .into_any()
}

/// A text area with line numbers.
pub fn area(
    value: RwSignal<String>,
    test_id: &'static str,
    label: String,
    read_only: Signal<bool>,
) -> AnyView {
    let lines = Memo::new(move |_| {
        value.with(|text| text.lines().count() + usize::from(text.ends_with('\n'))).max(1)
    });
    let numbers = move || {
        use std::fmt::Write;
        (1..=lines.get()).fold(String::new(), |mut out, line| {
            let _ = writeln!(out, "{line}");
            out
        })
    };
    view! {
        <div class="code-area">
            <pre class="line-numbers" aria-hidden="true">{numbers}</pre>
            <textarea data-testid=test_id aria-label=label spellcheck="false" autocomplete="off" autocapitalize="off" wrap="off"
                readonly=move || read_only.get() prop:value=move || value.get()
                style=move || format!("height:{}em", (lines.get() + 2).max(10) * 3 / 2)
                on:input=move |event| value.set(event_target_value(&event))></textarea>
        </div>
    }
    .into_any()
}

/// A form for one new object of any kind, as YAML.
pub fn create(initial: String) -> AnyView {
    let draft = RwSignal::new(initial);
    let review = RwSignal::new(Review::None);
    let pending = RwSignal::new(false);
    let check = move || try_create(draft, review, pending);
    let apply = move || {
        let Review::Ready { object, .. } = review.get_untracked() else { return };
        let Some(resource) = resource_of(&object) else { return };
        let place = place_of(&object, &resource);
        let done = format!("{} {} created", resource.kind, name(&object));
        let page = resource.object_page(&place, name(&object));
        let request = async move { api::create(&resource, &place, &object, DryRun::No).await };
        ui().write(done, pending, request, move |_| router::go(&page));
    };
    view! {
        <div class="editor">
            {area(draft, "yaml", "YAML of the new object".into(), Signal::stored(false))}
            {outcome(review, pending, "Create", apply)}
            <div class="actions end">{button(Weight::Primary, "check", "Review", "yaml-review", pending, check)}</div>
        </div>
    }
    .into_any()
}

fn try_create(draft: RwSignal<String>, review: RwSignal<Review>, pending: RwSignal<bool>) {
    let object = match yaml::parse(&draft.get_untracked()) {
        Ok(object) => object,
        Err(error) => {
            return review.set(Review::Failed(ApiError::local(format!("This is not valid YAML: {error}"))));
        }
    };
    let Some(resource) = resource_of(&object) else {
        let message = format!(
            "This server has no kind {} in {}.",
            text(&object, &["kind"]),
            text(&object, &["apiVersion"])
        );
        return review.set(Review::Failed(ApiError::local(message)));
    };
    let place = place_of(&object, &resource);
    pending.set(true);
    spawn_local(async move {
        let result = api::create(&resource, &place, &object, DryRun::Yes).await;
        pending.try_set(false);
        review.try_set(match result {
            Ok(after) => Review::Ready {
                before: yaml::print_readable(&object),
                object,
                after: yaml::print_readable(&after),
            },
            Err(error) => Review::Failed(error),
        });
    });
}

fn resource_of(object: &Value) -> Option<Resource> {
    let is = |found: &&Found| {
        found.resource.kind == text(object, &["kind"])
            && found.resource.api_version() == text(object, &["apiVersion"])
    };
    ui().kinds.with_untracked(|kinds| kinds.iter().find(is).map(|found| found.resource.clone()))
}

fn place_of(object: &Value, resource: &Resource) -> String {
    match (resource.namespaced, namespace(object)) {
        (false, _) => String::new(),
        (true, "") => {
            Some(ui().namespace.get_untracked()).filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into())
        }
        (true, namespace) => namespace.to_owned(),
    }
}
