//! Lists and the watches that continue them, as Kubernetes' API concepts page describes.
use super::socket::Socket;
use super::{ApiError, ByteStream, Resource, resource::escape, send};
use serde_json::Value;
use std::cell::Cell;
use web_sys::AbortController;

const JSON: &str = "application/json";
/// The columns that `kubectl get` prints, for kinds that this program knows nothing about.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// A watch ends by itself after this; it is continued at once. Keeps half-open connections from looking alive for long.
const SECONDS: u32 = 290;

/// What to list and watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub resource: Resource,
    /// `None`: all namespaces.
    pub namespace: Option<String>,
    pub label_selector: String,
    pub field_selector: String,
    /// Ask for the server's columns beside each object.
    pub table: bool,
}

impl Query {
    pub fn all(resource: &Resource, namespace: Option<String>) -> Self {
        Self {
            resource: resource.clone(),
            namespace,
            label_selector: String::new(),
            field_selector: String::new(),
            table: false,
        }
    }

    pub fn one(resource: &Resource, namespace: &str, name: &str) -> Self {
        let namespace = (!namespace.is_empty()).then(|| namespace.to_owned());
        Self { field_selector: format!("metadata.name={name}"), ..Self::all(resource, namespace) }
    }

    fn accept(&self) -> &'static str {
        if self.table { TABLE } else { JSON }
    }

    fn path(&self, extra: &[(&str, String)]) -> String {
        let mut path = self.resource.collection(self.namespace.as_deref());
        let mut separator = '?';
        let mut add = |name: &str, value: &str| {
            if !value.is_empty() {
                path.push(separator);
                path.push_str(name);
                path.push('=');
                path.push_str(&escape(value));
                separator = '&';
            }
        };
        add("labelSelector", &self.label_selector);
        add("fieldSelector", &self.field_selector);
        if self.table {
            add("includeObject", "Object");
        }
        for (name, value) in extra {
            add(name, value);
        }
        path
    }

    pub async fn list(&self) -> Result<Listing, ApiError> {
        Ok(Listing::read(send("GET", &self.path(&[]), self.accept(), None).await?, &self.resource))
    }

    pub async fn watch(&self, resource_version: &str, abort: AbortController) -> Result<Watch, ApiError> {
        let path = self.path(&[
            ("watch", "1".into()),
            ("allowWatchBookmarks", "true".into()),
            ("resourceVersion", resource_version.into()),
            ("timeoutSeconds", SECONDS.to_string()),
        ]);
        let may_socket = !self.table && plain_http() && !SOCKETS_REFUSED.get();
        if may_socket && let Ok(socket) = Socket::open(&path, &abort).await {
            return Ok(Watch::Socket(socket));
        }
        let stream = ByteStream::open(&path, self.accept(), abort).await?;
        if may_socket {
            // The same request works as a stream: this server has no WebSocket for watches.
            SOCKETS_REFUSED.set(true);
        }
        Ok(Watch::Stream(stream, Lines::default()))
    }
}

thread_local! {
    static SOCKETS_REFUSED: Cell<bool> = const { Cell::new(false) };
}

fn plain_http() -> bool {
    web_sys::window()
        .and_then(|window| window.location().protocol().ok())
        .is_some_and(|scheme| scheme == "http:")
}

/// An object, with the server's cells where they were asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub object: Value,
    pub cells: Vec<Value>,
}

/// A column of the server's own table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableColumn {
    pub name: String,
    /// 0 belongs to the short view.
    pub priority: i64,
}

#[derive(Debug, Default)]
pub struct Listing {
    pub items: Vec<Item>,
    pub columns: Vec<TableColumn>,
    pub resource_version: String,
}

impl Listing {
    fn read(mut body: Value, resource: &Resource) -> Self {
        let resource_version = version_of(&body);
        let columns = columns_of(&body);
        let mut items = items_of(&mut body);
        // A list's items go without their type; an editor wants it.
        for item in &mut items {
            set_type(&mut item.object, resource);
        }
        Self { items, columns, resource_version }
    }
}

fn set_type(object: &mut Value, resource: &Resource) {
    if let Some(object) = object.as_object_mut() {
        object.entry("apiVersion").or_insert_with(|| resource.api_version().into());
        object.entry("kind").or_insert_with(|| resource.kind.as_ref().into());
    }
}

fn version_of(value: &Value) -> String {
    value["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
}

fn columns_of(body: &Value) -> Vec<TableColumn> {
    let columns = body["columnDefinitions"].as_array();
    let column = |column: &Value| TableColumn {
        name: column["name"].as_str().unwrap_or_default().to_owned(),
        priority: column["priority"].as_i64().unwrap_or_default(),
    };
    columns.into_iter().flatten().map(column).collect()
}

/// Of a list, of a Table, or the single object that `body` is.
fn items_of(body: &mut Value) -> Vec<Item> {
    if let Some(rows) = body.get_mut("rows").and_then(Value::as_array_mut) {
        return rows.iter_mut().map(row).collect();
    }
    if let Some(Value::Array(items)) = body.get_mut("items").map(Value::take) {
        return items.into_iter().map(|object| Item { object, cells: Vec::new() }).collect();
    }
    Vec::new()
}

fn row(row: &mut Value) -> Item {
    let cells = match row["cells"].take() {
        Value::Array(cells) => cells,
        _ => Vec::new(),
    };
    Item { object: row["object"].take(), cells }
}

#[derive(Debug, PartialEq)]
pub enum Event {
    Changed(Vec<Item>),
    Deleted(Vec<Item>),
    /// Nothing changed up to here.
    Bookmark(String),
    Failed(ApiError),
}

impl Event {
    pub fn parse(line: &[u8]) -> Self {
        let mut event: Value = match serde_json::from_slice(line) {
            Ok(event) => event,
            Err(error) => return Self::Failed(ApiError::local(format!("The watch sent no JSON: {error}"))),
        };
        let mut object = event["object"].take();
        let items = |object: &mut Value| match object["kind"].as_str() {
            Some("Table") => items_of(object),
            _ => vec![Item { object: object.take(), cells: Vec::new() }],
        };
        match event["type"].as_str() {
            Some("ADDED" | "MODIFIED") => Self::Changed(items(&mut object)),
            Some("DELETED") => Self::Deleted(items(&mut object)),
            Some("BOOKMARK") => Self::Bookmark(version_of(&object)),
            Some("ERROR") => Self::Failed(ApiError::from_status(500, Some(&object))),
            other => Self::Failed(ApiError::local(format!("The watch sent an unknown event {other:?}"))),
        }
    }
}

/// Events as they come. Dropping it ends the request.
pub enum Watch {
    Stream(ByteStream, Lines),
    Socket(Socket),
}

impl Watch {
    /// All events of the next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<Event>>, ApiError> {
        match self {
            Self::Socket(socket) => Ok(socket.next().await.map(|text| vec![Event::parse(text.as_bytes())])),
            Self::Stream(stream, lines) => {
                let Some(bytes) = stream.next().await? else { return Ok(None) };
                Ok(Some(lines.push(&bytes).iter().map(|line| Event::parse(line)).collect()))
            }
        }
    }
}

/// Cuts pieces of a stream into lines.
#[derive(Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// The lines that `bytes` completes, without their ends.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let rest = self.rest.split_off(end + 1);
        let complete = std::mem::replace(&mut self.rest, rest);
        complete[..end]
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(<[u8]>::to_vec)
            .collect()
    }

    /// What came after the last end of line.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::resource::{NODES, PODS};
    use serde_json::json;

    #[test]
    fn lines_survive_being_cut_anywhere() {
        let text = b"{\"a\":1}\n{\"b\":\"\xc3\xa4\"}\n\n{\"c\":3}\n";
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let mut got = lines.push(&text[..cut]);
            got.extend(lines.push(&text[cut..]));
            assert_eq!(got.len(), 3, "cut at {cut}");
            assert!(lines.finish().is_empty());
        }
    }

    #[test]
    fn events_become_changes_bookmarks_and_failures() {
        let changed = Event::parse(br#"{"type":"ADDED","object":{"kind":"Pod","metadata":{"name":"a"}}}"#);
        assert!(matches!(changed, Event::Changed(items) if items[0].object["metadata"]["name"] == "a"));
        let bookmark = Event::parse(br#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7"}}}"#);
        assert_eq!(bookmark, Event::Bookmark("7".into()));
        let expired =
            Event::parse(br#"{"type":"ERROR","object":{"kind":"Status","code":410,"message":"old"}}"#);
        assert!(matches!(expired, Event::Failed(error) if error.is_expired()));
        assert!(matches!(Event::parse(b"garbage"), Event::Failed(_)));
    }

    #[test]
    fn a_table_gives_cells_beside_each_object() {
        let body = json!({"kind": "Table", "metadata": {"resourceVersion": "9"},
            "columnDefinitions": [{"name": "Name", "priority": 0}],
            "rows": [{"cells": ["a"], "object": {"metadata": {"name": "a"}}}]});
        let listing = Listing::read(body, &PODS);
        assert_eq!((listing.resource_version.as_str(), listing.columns.len()), ("9", 1));
        assert_eq!(listing.items[0].cells, vec![json!("a")]);
        assert_eq!(listing.items[0].object["kind"], "Pod");
    }

    #[test]
    fn selectors_are_escaped_in_the_address() {
        let query = Query { label_selector: "a in (b,c)".into(), ..Query::one(&NODES, "", "n") };
        assert_eq!(
            query.path(&[]),
            "/api/v1/nodes?labelSelector=a%20in%20%28b%2Cc%29&fieldSelector=metadata.name%3Dn"
        );
    }
}
