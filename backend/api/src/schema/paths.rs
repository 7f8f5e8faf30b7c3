//! The paths of one kind: what can be asked at which URL, with which parameters.
use super::{gvk, reference, schema_name};
use crate::kind::{KindEntry, Subresource, Verb};
use serde_json::{Map, Value, json};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const STREAM_SUBRESOURCES: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];

/// One URL and what stands for its operations.
struct Place<'a> {
    entry: &'a KindEntry,
    /// Group, version and kind of what is read and written there.
    gvk: Value,
    schema: String,
    /// In operation ids: `NamespacedPodStatus`.
    suffix: String,
    parameters: Vec<Value>,
}

pub(super) fn insert(entry: &KindEntry, group_version: &str, paths: &mut Map<String, Value>) {
    let plural = &entry.plural;
    let (room, mut parameters) = match entry.is_namespaced() {
        true => (
            "namespaces/{namespace}/",
            vec![path_parameter("namespace", "object name and auth scope, such as for teams and projects")],
        ),
        false => ("", Vec::new()),
    };
    let scope = if entry.is_namespaced() { "Namespaced" } else { "" };
    let place = |suffix: String, parameters: &[Value]| Place {
        entry,
        gvk: gvk(entry),
        schema: schema_name(entry),
        suffix,
        parameters: parameters.to_vec(),
    };
    let collection = place(format!("{scope}{}", entry.kind), &parameters);
    let mut add = |path: String, item: Value| {
        if item.as_object().is_some_and(|i| i.keys().any(|k| k != "parameters")) {
            paths.insert(path, item);
        }
    };
    add(
        format!("/{group_version}/{room}{plural}"),
        collection.item(&entry.verbs, &[Verb::List, Verb::Create, Verb::DeleteCollection]),
    );
    if entry.is_namespaced() {
        let everywhere = place(format!("{}ForAllNamespaces", entry.kind), &[]);
        add(format!("/{group_version}/{plural}"), everywhere.item(&entry.verbs, &[Verb::List]));
    }
    parameters.push(path_parameter("name", &format!("name of the {}", entry.kind)));
    let one = place(format!("{scope}{}", entry.kind), &parameters);
    let base = format!("/{group_version}/{room}{plural}/{{name}}");
    add(base.clone(), one.item(&entry.verbs, &[Verb::Get, Verb::Update, Verb::Patch, Verb::Delete]));
    for subresource in &entry.subresources {
        let place = subresource_place(entry, subresource, scope, &parameters);
        add(
            format!("{base}/{}", subresource.name),
            place.item(subresource.verbs, &[Verb::Get, Verb::Create, Verb::Update, Verb::Patch]),
        );
    }
}

fn subresource_place<'a>(
    entry: &'a KindEntry,
    subresource: &Subresource,
    scope: &str,
    parameters: &[Value],
) -> Place<'a> {
    let Subresource { name, group, version, kind, .. } = subresource;
    let schema = match (&**group, &**kind) {
        ("", _) if STREAM_SUBRESOURCES.contains(&&**name) => String::new(),
        ("", "Binding") => "io.k8s.api.core.v1.Binding".into(),
        (_, kind) if kind == entry.kind => schema_name(entry),
        (group, kind) => {
            let group = group.split('.').next().unwrap_or_default();
            format!("io.k8s.api.{group}.{version}.{kind}")
        }
    };
    let mut capital: String = name.chars().take(1).flat_map(char::to_uppercase).collect();
    capital.extend(name.chars().skip(1));
    Place {
        entry,
        gvk: json!({"group": group, "version": version, "kind": kind}),
        schema,
        suffix: format!("{scope}{}{capital}", entry.kind),
        parameters: parameters.to_vec(),
    }
}

impl Place<'_> {
    fn item(&self, has: &[Verb], of: &[Verb]) -> Value {
        let mut item = Map::new();
        for verb in of.iter().filter(|verb| has.contains(verb)) {
            item.insert(method(*verb).into(), self.operation(*verb));
        }
        let mut parameters = self.parameters.clone();
        parameters.push(query("pretty", "string", "If 'true', then the output is pretty printed."));
        item.insert("parameters".into(), parameters.into());
        Value::Object(item)
    }

    fn operation(&self, verb: Verb) -> Value {
        let entry = self.entry;
        let group = match entry.group.split('.').next() {
            None | Some("") => "core",
            Some(group) => group,
        };
        let (action, id_verb) = match verb {
            Verb::List => ("list", "list"),
            Verb::Get | Verb::Watch => ("get", "read"),
            Verb::Create => ("post", "create"),
            Verb::Update => ("put", "replace"),
            Verb::Patch => ("patch", "patch"),
            Verb::Delete => ("delete", "delete"),
            Verb::DeleteCollection => ("deletecollection", "deleteCollection"),
        };
        let mut operation = json!({
            "tags": [format!("{group}_{}", entry.version)],
            "description": describe(verb, &entry.kind),
            "operationId": format!("{id_verb}{}{}{}", capital(group), capital(&entry.version), self.suffix),
            "responses": self.responses(verb),
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": self.gvk,
        });
        // Readers that write a document again leave empty lists out: it must be the same then.
        match parameters(verb) {
            none if none.is_empty() => {}
            parameters => operation["parameters"] = parameters.into(),
        }
        if let Some(body) = self.body(verb) {
            operation["requestBody"] = body;
        }
        operation
    }

    fn body(&self, verb: Verb) -> Option<Value> {
        let (schema, types, is_required): (String, &[&str], bool) = match verb {
            Verb::Create | Verb::Update if !self.schema.is_empty() => (self.schema.clone(), &["*/*"], true),
            // kubectl looks here for how to patch.
            Verb::Patch if self.entry.rules.has_strategic_merge() => {
                (format!("{META}.Patch"), PATCH_TYPES, true)
            }
            Verb::Patch => (format!("{META}.Patch"), &PATCH_TYPES[..3], true),
            Verb::Delete | Verb::DeleteCollection => (format!("{META}.DeleteOptions"), &["*/*"], false),
            _ => return None,
        };
        let mut body = json!({"content": content(&schema, types)});
        if is_required {
            body["required"] = true.into();
        }
        Some(body)
    }

    fn responses(&self, verb: Verb) -> Value {
        let schema = match verb {
            Verb::List => format!("{}List", self.schema),
            Verb::Delete | Verb::DeleteCollection => format!("{META}.Status"),
            _ => self.schema.clone(),
        };
        let mut ok = json!({"description": "OK"});
        if !schema.is_empty() {
            ok["content"] = content(&schema, &["application/json", "application/yaml"]);
        }
        let mut responses = json!({"200": ok, "401": {"description": "Unauthorized"}});
        if matches!(verb, Verb::Create | Verb::Update | Verb::Patch) {
            ok["description"] = "Created".into();
            responses["201"] = ok;
        }
        responses
    }
}

const PATCH_TYPES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

fn content(schema: &str, types: &[&str]) -> Value {
    let each =
        types.iter().map(|media_type| ((*media_type).to_owned(), json!({"schema": reference(schema)})));
    Value::Object(each.collect())
}

fn method(verb: Verb) -> &'static str {
    match verb {
        Verb::Get | Verb::List | Verb::Watch => "get",
        Verb::Create => "post",
        Verb::Update => "put",
        Verb::Patch => "patch",
        Verb::Delete | Verb::DeleteCollection => "delete",
    }
}

fn describe(verb: Verb, kind: &str) -> String {
    match verb {
        Verb::Get | Verb::Watch => format!("read the specified {kind}"),
        Verb::List => format!("list or watch objects of kind {kind}"),
        Verb::Create => format!("create a {kind}"),
        Verb::Update => format!("replace the specified {kind}"),
        Verb::Patch => format!("partially update the specified {kind}"),
        Verb::Delete => format!("delete a {kind}"),
        Verb::DeleteCollection => format!("delete collection of {kind}"),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn path_parameter(name: &str, description: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "description": description, "schema": {"type": "string"}})
}

fn query(name: &str, kind: &str, description: &str) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": {"type": kind, "uniqueItems": true}})
}

fn parameters(verb: Verb) -> Vec<Value> {
    let dry_run = query(
        "dryRun",
        "string",
        "When present, indicates that modifications should not be persisted. Valid values are: All.",
    );
    let manager = query("fieldManager", "string", "The name of the actor that is making these changes.");
    let validation = query(
        "fieldValidation",
        "string",
        "How the server handles objects that contain unknown or duplicate fields: Ignore, Warn (the default) or Strict.",
    );
    let select = [
        query(
            "labelSelector",
            "string",
            "A selector to restrict the list of returned objects by their labels.",
        ),
        query(
            "fieldSelector",
            "string",
            "A selector to restrict the list of returned objects by their fields.",
        ),
        query("limit", "integer", "The maximum number of responses to return for a list call."),
        query("continue", "string", "Where to continue a list that was cut by limit, as the server told."),
        query(
            "resourceVersion",
            "string",
            "A constraint on what resource versions a request may be served from.",
        ),
        query(
            "resourceVersionMatch",
            "string",
            "How resourceVersion is applied to list calls: Exact or NotOlderThan.",
        ),
        query("timeoutSeconds", "integer", "Timeout for the call."),
    ];
    let delete = [
        dry_run.clone(),
        query(
            "gracePeriodSeconds",
            "integer",
            "The duration in seconds before the object should be deleted.",
        ),
        query("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
        query(
            "propagationPolicy",
            "string",
            "Whether and how garbage collection will be performed: Orphan, Background or Foreground.",
        ),
    ];
    match verb {
        Verb::Get => Vec::new(),
        Verb::List | Verb::Watch => {
            let watch = [
                query("watch", "boolean", "Watch for changes to the described resources."),
                query("allowWatchBookmarks", "boolean", "Ask for events of type BOOKMARK."),
                query(
                    "sendInitialEvents",
                    "boolean",
                    "Begin the watch with synthetic events for the objects there are.",
                ),
            ];
            select.into_iter().chain(watch).collect()
        }
        Verb::Create | Verb::Update => vec![dry_run, manager, validation],
        Verb::Patch => {
            let force =
                query("force", "boolean", "Take over fields of other managers. Only for apply patches.");
            vec![dry_run, manager, validation, force]
        }
        Verb::Delete => delete.into(),
        Verb::DeleteCollection => select.into_iter().chain(delete).collect(),
    }
}
