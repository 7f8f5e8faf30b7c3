//! How lists and maps merge: the `x-kubernetes-*` facts of the API v1.36, by type and field.
//!
//! Server-side apply reads the list and map types, strategic merge patch the strategies and merge keys, OpenAPI shows
//! both. Beside the marks stand the fields that lead to marked types, so that a walk needs no schema: the browser's
//! half has none. A CustomResourceDefinition brings its facts in its own schema.
mod core;
mod meta;
mod others;
mod resource;
mod workloads;

use serde_json::Value;
use std::collections::HashMap;
use std::sync::LazyLock;

/// `x-kubernetes-list-type` and `x-kubernetes-list-map-keys`. A list without is atomic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    Atomic,
    Set,
    /// Entries are told apart by these fields.
    Map(&'static [&'static str]),
}

/// What is marked about one field of a type, and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    pub list: Option<ListType>,
    /// `x-kubernetes-map-type`: `atomic` or `granular`; empty for none.
    pub map_type: &'static str,
    /// Strategic merge patch merges the list: by this field, or as a set of plain values where it is empty.
    pub merge_key: Option<&'static str>,
    pub retain_keys: bool,
    pub replace: bool,
    /// The type of the field, of the items of the list, of the values of the map. Empty where none is marked below.
    pub of: &'static str,
    /// Whether [`Field::of`] is the type of a map's values.
    pub is_map: bool,
}

const fn field(name: &'static str) -> Field {
    Field {
        name,
        list: None,
        map_type: "",
        merge_key: None,
        retain_keys: false,
        replace: false,
        of: "",
        is_map: false,
    }
}

impl Field {
    const fn atomic(mut self) -> Self {
        self.list = Some(ListType::Atomic);
        self
    }
    const fn set(mut self) -> Self {
        self.list = Some(ListType::Set);
        self
    }
    const fn keyed(mut self, keys: &'static [&'static str]) -> Self {
        self.list = Some(ListType::Map(keys));
        self
    }
    const fn atomic_map(mut self) -> Self {
        self.map_type = "atomic";
        self
    }
    const fn granular(mut self) -> Self {
        self.map_type = "granular";
        self
    }
    const fn merge(mut self, key: &'static str) -> Self {
        self.merge_key = Some(key);
        self
    }
    const fn retain_keys(mut self) -> Self {
        self.retain_keys = true;
        self
    }
    const fn replace(mut self) -> Self {
        self.replace = true;
        self
    }
    const fn of(mut self, of: &'static str) -> Self {
        self.of = of;
        self
    }
    const fn values(mut self, of: &'static str) -> Self {
        self.of = of;
        self.is_map = true;
        self
    }

    /// `merge`, `merge,retainKeys`, `retainKeys`, `replace`; empty for none.
    pub fn patch_strategy(&self) -> &'static str {
        match (self.merge_key.is_some(), self.retain_keys, self.replace) {
            (true, true, _) => "merge,retainKeys",
            (true, false, _) => "merge",
            (false, true, _) => "retainKeys",
            (false, false, true) => "replace",
            (false, false, false) => "",
        }
    }

    /// Whether anything is marked: else the field only leads to a marked type.
    pub fn is_marked(&self) -> bool {
        self.list.is_some() || !self.map_type.is_empty() || !self.patch_strategy().is_empty()
    }
}

/// Types that have one owner as a whole (`x-kubernetes-map-type: atomic` on the type).
pub const ATOMIC_TYPES: &[&str] = &[
    "admissionregistration.v1.MatchResources",
    "admissionregistration.v1.NamedRuleWithOperations",
    "admissionregistration.v1.ParamKind",
    "admissionregistration.v1.ParamRef",
    "autoscaling.v1.CrossVersionObjectReference",
    "core.v1.ConfigMapKeySelector",
    "core.v1.EndpointAddress",
    "core.v1.EndpointPort",
    "core.v1.FileKeySelector",
    "core.v1.LocalObjectReference",
    "core.v1.NodeSelector",
    "core.v1.NodeSelectorTerm",
    "core.v1.ObjectFieldSelector",
    "core.v1.ObjectReference",
    "core.v1.ResourceFieldSelector",
    "core.v1.ScopeSelector",
    "core.v1.SecretKeySelector",
    "core.v1.SecretReference",
    "core.v1.TopologySelectorTerm",
    "core.v1.TypedLocalObjectReference",
    "discovery.v1.EndpointPort",
    "meta.v1.LabelSelector",
    "meta.v1.OwnerReference",
    "rbac.v1.RoleRef",
    "rbac.v1.Subject",
];

/// Keys of list entries that a client may leave out, with the value they then have: the `default`s that Kubernetes'
/// schema gives them so that `{containerPort: 80}` and `{containerPort: 80, protocol: TCP}` are one entry.
pub const KEY_DEFAULTS: &[(&str, &str, &str)] =
    &[("core.v1.ContainerPort", "protocol", "TCP"), ("core.v1.ServicePort", "protocol", "TCP")];

type Types = HashMap<&'static str, &'static [Field]>;

static TYPES: LazyLock<Types> = LazyLock::new(|| {
    let parts = [core::TYPES, meta::TYPES, others::TYPES, resource::TYPES, workloads::TYPES];
    parts.into_iter().flatten().copied().collect()
});

/// Every type with marked fields or ways to such, in no order.
pub fn types() -> impl Iterator<Item = (&'static str, &'static [Field])> {
    TYPES.iter().map(|(name, fields)| (*name, *fields))
}

/// The marks of a field of a type (`core.v1.PodSpec`).
pub fn marks(type_name: &str, name: &str) -> Option<&'static Field> {
    TYPES.get(type_name)?.iter().find(|field| field.name == name)
}

/// The name under which the marks know a built-in kind: `apps.v1.Deployment`, `rbac.v1.Role`.
pub fn type_name(group: &str, version: &str, kind: &str) -> String {
    match group.split('.').next() {
        None | Some("") => format!("core.{version}.{kind}"),
        Some(group) => format!("{group}.{version}.{kind}"),
    }
}

/// Where a walk through an object stands: at a value of this type.
#[derive(Clone, Copy, Debug)]
pub enum TypeRef<'a> {
    /// A type of these tables.
    Known(&'a str),
    /// A map whose values have this type.
    MapOf(&'a str),
    /// A structural schema of a CustomResourceDefinition.
    Schema(&'a Value),
    /// Nothing is marked here or below.
    Unmarked,
}

/// How the value that a walk came to merges.
#[derive(Clone, Debug)]
pub struct Merging<'a> {
    pub list: ListKeys<'a>,
    /// A map or struct with one owner as a whole.
    pub atomic_map: bool,
    /// For strategic merge patch: merge a list by this field, or as a set where it is empty. None: it is replaced.
    pub merge_key: Option<&'a str>,
    /// For strategic merge patch: a map or struct is replaced, not merged.
    pub replace: bool,
    /// The type of the struct, of the list's items or of the map.
    pub of: TypeRef<'a>,
}

/// [`ListType`], from the tables or from a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListKeys<'a> {
    Atomic,
    Set,
    Map(Vec<&'a str>),
}

impl<'a> TypeRef<'a> {
    /// How field `name` of a value of this type merges.
    pub fn field(self, name: &str) -> Merging<'a> {
        let marks = match self {
            TypeRef::Known(of) => match marks(of, name) {
                Some(marks) => marks,
                None => return Merging::unmarked(),
            },
            TypeRef::MapOf(of) => {
                return Merging { of: TypeRef::Known(of), ..Merging::unmarked() };
            }
            TypeRef::Schema(schema)
                if name == "metadata" && schema["x-kubernetes-embedded-resource"] == true =>
            {
                return Merging { of: TypeRef::Known("meta.v1.ObjectMeta"), ..Merging::unmarked() };
            }
            TypeRef::Schema(schema) => return Merging::of_schema(property(schema, name)),
            TypeRef::Unmarked => return Merging::unmarked(),
        };
        let atomic_type =
            marks.list.is_none() && marks.map_type != "granular" && ATOMIC_TYPES.contains(&marks.of);
        Merging {
            list: match marks.list {
                None | Some(ListType::Atomic) => ListKeys::Atomic,
                Some(ListType::Set) => ListKeys::Set,
                Some(ListType::Map(keys)) => ListKeys::Map(keys.to_vec()),
            },
            atomic_map: marks.map_type == "atomic" || atomic_type,
            merge_key: marks.merge_key,
            replace: marks.replace,
            of: match (marks.of, marks.is_map) {
                ("", _) => TypeRef::Unmarked,
                (of, true) => TypeRef::MapOf(of),
                (of, false) => TypeRef::Known(of),
            },
        }
    }

    /// Whether an item of a list, being of this type, has one owner as a whole.
    pub fn is_atomic(self) -> bool {
        match self {
            TypeRef::Known(of) => ATOMIC_TYPES.contains(&of),
            TypeRef::Schema(schema) => schema["x-kubernetes-map-type"] == "atomic",
            TypeRef::MapOf(_) | TypeRef::Unmarked => false,
        }
    }

    /// The value of a key field that an entry of this type leaves out.
    pub fn key_default(self, key: &str) -> Option<Value> {
        match self {
            TypeRef::Known(of) => {
                let (_, _, value) = KEY_DEFAULTS.iter().find(|(t, field, _)| *t == of && *field == key)?;
                Some((*value).into())
            }
            TypeRef::Schema(schema) => schema["properties"][key].get("default").cloned(),
            TypeRef::MapOf(_) | TypeRef::Unmarked => None,
        }
    }
}

impl<'a> Merging<'a> {
    fn unmarked() -> Self {
        Self {
            list: ListKeys::Atomic,
            atomic_map: false,
            merge_key: None,
            replace: false,
            of: TypeRef::Unmarked,
        }
    }

    fn of_schema(schema: Option<&'a Value>) -> Self {
        let Some(schema) = schema else {
            return Self::unmarked();
        };
        let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
        let (list, of) = match schema["x-kubernetes-list-type"].as_str() {
            Some("map") => (ListKeys::Map(keys.filter_map(Value::as_str).collect()), &schema["items"]),
            Some("set") => (ListKeys::Set, &schema["items"]),
            _ => (ListKeys::Atomic, schema),
        };
        Self {
            list,
            atomic_map: schema["x-kubernetes-map-type"] == "atomic",
            of: TypeRef::Schema(of),
            ..Self::unmarked()
        }
    }
}

fn property<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    let declared = schema["properties"].get(name);
    declared.or_else(|| schema.get("additionalProperties").filter(|s| s.is_object()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_fact_of_the_api_is_held() {
        let all: Vec<&Field> = types().flat_map(|(_, fields)| fields).collect();
        let count = |holds: fn(&Field) -> bool| all.iter().filter(|f| holds(f)).count();
        // The figures of Kubernetes v1.36: marks are facts to be counted, not rules to be derived.
        assert_eq!(count(Field::is_marked), 311);
        assert_eq!(count(|f| f.list == Some(ListType::Set)), 16);
        assert_eq!(count(|f| matches!(f.list, Some(ListType::Map(_)))), 59);
        assert_eq!(count(|f| f.merge_key.is_some()), 56);
        assert_eq!(count(|f| f.retain_keys), 4);
        assert_eq!(count(|f| f.map_type == "atomic"), 4);
    }

    #[test]
    fn a_field_leads_to_a_type_that_is_known() {
        for (name, fields) in types() {
            for field in fields.iter().filter(|f| !f.of.is_empty()) {
                let keyed = KEY_DEFAULTS.iter().any(|(of, ..)| *of == field.of);
                let known = TYPES.contains_key(field.of) || ATOMIC_TYPES.contains(&field.of) || keyed;
                assert!(known, "{name}.{} leads to {}", field.name, field.of);
            }
        }
    }

    #[test]
    fn a_walk_finds_how_nested_lists_merge() {
        let template = TypeRef::Known("apps.v1.Deployment").field("spec").of.field("template").of;
        let containers = template.field("spec").of.field("containers");
        assert_eq!(containers.list, ListKeys::Map(vec!["name"]));
        let ports = containers.of.field("ports");
        assert_eq!(ports.list, ListKeys::Map(vec!["containerPort", "protocol"]));
        assert_eq!(ports.merge_key, Some("containerPort"));
        assert_eq!(ports.of.key_default("protocol"), Some(json!("TCP")));
        assert!(TypeRef::Known("apps.v1.DeploymentSpec").field("selector").atomic_map);
        assert_eq!(containers.of.field("command").list, ListKeys::Atomic);
    }

    #[test]
    fn the_schema_of_a_custom_resource_marks_its_own_lists() {
        let schema = json!({"properties": {"spec": {"properties": {"rules": {
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["host"],
            "items": {"properties": {"host": {"default": "*"}, "tags": {"x-kubernetes-list-type": "set"}}},
        }}}}});
        let rules = TypeRef::Schema(&schema).field("spec").of.field("rules");
        assert_eq!(rules.list, ListKeys::Map(vec!["host"]));
        assert_eq!(rules.of.key_default("host"), Some(json!("*")));
        assert_eq!(rules.of.field("tags").list, ListKeys::Set);
    }
}
