//! The live list of a kind: filtered, sorted, and drawn only as far as it is seen.
use super::cells::cell;
use super::icon::icon;
use super::state;
use crate::api::Resource;
use crate::api::watch::Item;
use crate::context::ui;
use crate::live::{Live, Objects, State};
use crate::view_model::columns::{Cell, Column, natural};
use crate::view_model::{name, namespace};
use leptos::html;
use leptos::prelude::*;
use std::cmp::Ordering;
use std::sync::Arc;
use wasm_bindgen::JsCast;
use wasm_bindgen::closure::Closure;

/// As the style sheet has it: `--row`.
const ROW_PIXELS: f64 = 42.0;
/// Rows drawn beyond each edge of the window, so that scrolling shows no gaps.
const SPARE_ROWS: usize = 20;

pub struct List {
    pub resource: Resource,
    pub live: Live,
    pub columns: Signal<Vec<Column>>,
    pub show_namespace: Signal<bool>,
    /// Before a row's name in its test id.
    pub test_prefix: &'static str,
    pub empty: Arc<dyn Fn() -> AnyView + Send + Sync>,
}

#[derive(Clone, Copy, PartialEq)]
struct Sort {
    /// 0 is the name.
    column: usize,
    descending: bool,
}

pub fn list(list: List) -> AnyView {
    let List { resource, live, columns, show_namespace, test_prefix, empty } = list;
    let filter = RwSignal::new(String::new());
    let sort = RwSignal::new(Sort { column: 0, descending: false });
    let keys = Memo::new(move |_| {
        let (filter, sort) = (filter.get().to_lowercase(), sort.get());
        columns.with(|columns| live.objects.with(|objects| ordered(objects, columns, &filter, sort)))
    });
    let total = move || live.objects.with(Objects::len);
    let unreadable = resource.clone();
    view! {
        {state::freshness(live)}
        {move || match live.state.get() {
            State::Loading => state::skeleton(8),
            State::Failed(error) => state::failed(&unreadable, &error),
            _ if total() == 0 => empty(),
            _ => {
                let resource = resource.clone();
                view! {
                    {toolbar(filter, Signal::derive(move || (keys.with(Vec::len), total())))}
                    {table(resource, live, columns, show_namespace, test_prefix, keys, sort)}
                }.into_any()
            }
        }}
    }
    .into_any()
}

/// Keys of the rows to show, in order.
fn ordered(objects: &Objects, columns: &[Column], filter: &str, sort: Sort) -> Vec<String> {
    let is_wanted = |key: &str, item: &Item| {
        filter.split_whitespace().all(|word| {
            key.to_lowercase().contains(word)
                || columns.iter().any(|column| column.cell(item).words().to_lowercase().contains(word))
        })
    };
    let sorting = sort.column.checked_sub(1).and_then(|index| columns.get(index));
    let mut rows: Vec<(&String, &Arc<Item>, Option<Cell>)> = objects
        .iter()
        .filter(|(key, item)| filter.is_empty() || is_wanted(key, item))
        .map(|(key, item)| (key, item, sorting.map(|column| column.cell(item))))
        .collect();
    rows.sort_by(|(key_a, a, cell_a), (key_b, b, cell_b)| {
        let order = match (cell_a, cell_b) {
            (Some(a), Some(b)) => a.compare(b),
            _ => Ordering::Equal,
        };
        let order =
            order.then_with(|| natural(name(&a.object), name(&b.object))).then_with(|| key_a.cmp(key_b));
        if sort.descending { order.reverse() } else { order }
    });
    rows.into_iter().map(|(key, ..)| key.clone()).collect()
}

fn toolbar(filter: RwSignal<String>, counts: Signal<(usize, usize)>) -> AnyView {
    let count = move || match counts.get() {
        (shown, total) if shown == total => format!("{total}"),
        (shown, total) => format!("{shown} of {total}"),
    };
    view! {
        <div class="toolbar">
            <label class="search">
                {icon("search")}
                <input type="search" class="input" placeholder="Filter" aria-label="Filter the list" data-testid="filter"
                    prop:value=move || filter.get() on:input=move |event| filter.set(event_target_value(&event))/>
            </label>
            <span class="count" role="status" aria-live="polite">{count}</span>
        </div>
    }
    .into_any()
}

fn table(
    resource: Resource,
    live: Live,
    columns: Signal<Vec<Column>>,
    show_namespace: Signal<bool>,
    test_prefix: &'static str,
    keys: Memo<Vec<String>>,
    sort: RwSignal<Sort>,
) -> AnyView {
    let body = NodeRef::<html::Tbody>::new();
    let seen = seen_rows(body);
    let window = Memo::new(move |_| {
        let (first, count) = seen.get();
        let total = keys.with(Vec::len);
        let first = first.saturating_sub(SPARE_ROWS).min(total);
        (first, (first + count + 2 * SPARE_ROWS).min(total))
    });
    let shown = move || {
        let (first, end) = window.get();
        keys.with(|keys| keys.get(first..end).map(<[String]>::to_vec).unwrap_or_default())
    };
    let gap = move |rows: usize| format!("height:{}px", rows * 42);
    view! {
        <div class="table-frame">
            <table class="objects" data-testid="objects">
                <thead><tr>
                    {heading("Name".into(), 1, 0, sort)}
                    {move || show_namespace.get().then(|| view! { <th scope="col" class="r2">"Namespace"</th> })}
                    {move || columns.get().into_iter().enumerate().map(|(index, column)| {
                        heading(column.name, column.rank, index + 1, sort)
                    }).collect_view()}
                </tr></thead>
                <tbody class="gap" aria-hidden="true"><tr style=move || gap(window.get().0)></tr></tbody>
                <tbody node_ref=body>
                    <For each=shown key=Clone::clone children=move |key| {
                        row(resource.clone(), live, columns, show_namespace, test_prefix, key)
                    }/>
                </tbody>
                <tbody class="gap" aria-hidden="true"><tr style=move || gap(keys.with(Vec::len).saturating_sub(window.get().1))></tr></tbody>
            </table>
        </div>
    }
    .into_any()
}

fn heading(name: String, rank: u8, index: usize, sort: RwSignal<Sort>) -> AnyView {
    let direction = move || match sort.get() {
        Sort { column, descending } if column == index => {
            if descending {
                "descending"
            } else {
                "ascending"
            }
        }
        _ => "none",
    };
    let press = move |_| {
        sort.update(|sort| {
            let descending = sort.column == index && !sort.descending;
            *sort = Sort { column: index, descending };
        });
    };
    view! {
        <th scope="col" class=format!("r{rank}") aria-sort=direction><button type="button" on:click=press>{name}</button></th>
    }
    .into_any()
}

fn row(
    resource: Resource,
    live: Live,
    columns: Signal<Vec<Column>>,
    show_namespace: Signal<bool>,
    test_prefix: &'static str,
    key: String,
) -> AnyView {
    let (place, name) = key.split_once('/').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap_or_default();
    let item = Memo::new(move |_| live.objects.with(|objects| objects.get(&key).cloned()));
    let cells = move || {
        let Some(item) = item.get() else { return ().into_any() };
        let cell = |column: &Column| {
            let class = format!("r{}", column.rank);
            view! { <td class=class>{cell(&column.cell(&item))}</td> }
        };
        columns.with(|columns| columns.iter().map(cell).collect_view()).into_any()
    };
    let is_leaving = move || {
        item.with(|item| {
            item.as_ref().is_some_and(|item| item.object["metadata"].get("deletionTimestamp").is_some())
        })
    };
    let to = resource.object_page(&place, &name);
    let (test_id, title) = (format!("{test_prefix}row-{name}"), name.clone());
    view! {
        <tr data-testid=test_id class:leaving=is_leaving>
            <th scope="row"><a href=to title=title>{name}</a></th>
            {move || {
                let namespace = item.with(|item| item.as_ref().map(|item| namespace(&item.object).to_owned()));
                show_namespace.get().then(|| view! { <td class="r2">{namespace}</td> })
            }}
            {cells}
        </tr>
    }
    .into_any()
}

/// The first row in sight and how many fit.
fn seen_rows(body: NodeRef<html::Tbody>) -> RwSignal<(usize, usize)> {
    let seen = RwSignal::new((0, 60));
    let measure = move || {
        let (Some(window), Some(Some(body))) = (web_sys::window(), body.try_get_untracked()) else { return };
        let table = body.closest("table").ok().flatten();
        let Some(top) = table.map(|table| table.get_bounding_client_rect().top()) else { return };
        let height = window.inner_height().ok().and_then(|height| height.as_f64()).unwrap_or(1000.0);
        let rows = |pixels: f64| {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "not negative, and small"
            )]
            let rows = (pixels.max(0.0) / ROW_PIXELS) as usize;
            rows
        };
        // Whole screens, so that most scrolling changes nothing.
        let (first, count) = (rows(-top), rows(height) + 1);
        let first = first / SPARE_ROWS * SPARE_ROWS;
        let count = count + SPARE_ROWS;
        if seen.try_get_untracked() != Some((first, count)) {
            seen.try_set((first, count));
        }
    };
    let listener = StoredValue::new_local(Closure::<dyn FnMut()>::new(measure));
    if let Some(window) = web_sys::window() {
        listener.with_value(|listener| {
            for event in ["scroll", "resize"] {
                let _ = window.add_event_listener_with_callback(event, listener.as_ref().unchecked_ref());
            }
        });
    }
    on_cleanup(move || {
        let _ = listener.try_with_value(|listener| {
            let Some(window) = web_sys::window() else { return };
            for event in ["scroll", "resize"] {
                let _ = window.remove_event_listener_with_callback(event, listener.as_ref().unchecked_ref());
            }
        });
    });
    seen
}

/// Whether namespaces should be shown: where objects of several are listed.
pub fn several_namespaces(resource: &Resource) -> Signal<bool> {
    let namespaced = resource.namespaced;
    Signal::derive(move || namespaced && ui().namespace.with(String::is_empty))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view_model::columns::known;
    use serde_json::json;

    #[test]
    fn rows_are_filtered_by_every_word_and_sorted_by_the_chosen_column() {
        let mut objects = Objects::new();
        for (name, ready) in [("web-10", 1), ("web-2", 0), ("api", 1)] {
            let object = json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"replicas": 1}, "status": {"readyReplicas": ready}});
            objects.insert(format!("n/{name}"), Arc::new(Item { object, cells: vec![] }));
        }
        let columns = known("deployments").unwrap();
        let rows = |filter: &str, column, descending| {
            ordered(&objects, &columns, filter, Sort { column, descending })
        };
        assert_eq!(rows("", 0, false), ["n/api", "n/web-2", "n/web-10"]);
        assert_eq!(rows("", 0, true), ["n/web-10", "n/web-2", "n/api"]);
        assert_eq!(rows("", 2, false), ["n/web-2", "n/api", "n/web-10"]);
        assert_eq!(rows("web 1/1", 0, false), ["n/web-10"]);
    }
}
