//! A kind: the typed trait that one file a kind implements, and the erased entry that generic code uses.
//!
//! The wire path keeps JSON (`serde_json::Value`), so that nothing a client sent is lost; typed code reads it through
//! the `k8s-openapi` type. Generic code never names a kind: it asks the [`KindEntry`].
pub(crate) mod type_error;

pub use type_error::TypeError;

use crate::json_path::JsonPath;
use crate::marks::TypeRef;
use crate::scale::{LabelSelectorSource, ScalePaths};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope, Resource};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::borrow::Cow;
use std::marker::PhantomData;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// Maps k8s-openapi's scope types to [`Scope`].
pub trait ScopeOf {
    const SCOPE: Scope;
}
impl ScopeOf for NamespaceResourceScope {
    const SCOPE: Scope = Scope::Namespaced;
}
impl ScopeOf for ClusterResourceScope {
    const SCOPE: Scope = Scope::Cluster;
}

/// A type whose JSON schema is known, where schemas are compiled in; else any type.
#[cfg(feature = "schema")]
pub use schemars::JsonSchema as HasSchema;
#[cfg(not(feature = "schema"))]
pub trait HasSchema {}
#[cfg(not(feature = "schema"))]
impl<T> HasSchema for T {}

/// The verbs of RBAC and discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

impl Verb {
    pub const ALL: &'static [Verb] = &[
        Verb::Create,
        Verb::Delete,
        Verb::DeleteCollection,
        Verb::Get,
        Verb::List,
        Verb::Patch,
        Verb::Update,
        Verb::Watch,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }
}

/// A subresource as discovery tells it. `kind` may be of another group: `autoscaling/v1 Scale`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// `status`, `scale`, `log` …
    pub name: Cow<'static, str>,
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    pub kind: Cow<'static, str>,
    pub verbs: &'static [Verb],
}

/// One column of `kubectl get`, as Kubernetes prints it.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: String,
    /// `string`, `integer`, `number`, `boolean`, `date`.
    pub r#type: String,
    /// `name` for the Name column, else empty.
    pub format: String,
    pub description: String,
    /// 0 is always shown, above 0 only with `-o wide`.
    pub priority: i32,
}

impl Column {
    pub fn new(name: &str, r#type: &str) -> Self {
        let format = if name == "Name" { "name" } else { "" };
        Self {
            name: name.into(),
            r#type: r#type.into(),
            format: format.into(),
            description: String::new(),
            priority: 0,
        }
    }

    /// Shown with `-o wide` only.
    #[must_use]
    pub fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }
}

/// What of the metadata is for clients to change.
pub const CLIENT_METADATA: &[&str] = &["annotations", "finalizers", "labels", "ownerReferences"];

/// What one file of `kinds/` says of its kind: names, defaults, validation, columns - in that order.
/// Every function is pure. JSON paths follow the Kubernetes API v1.36.
pub trait Kind: Send + Sync + 'static {
    type Object: Resource<Scope: ScopeOf>
        + Serialize
        + DeserializeOwned
        + HasSchema
        + Clone
        + Send
        + Sync
        + 'static;

    const SINGULAR: &'static str;
    const SHORT_NAMES: &'static [&'static str] = &[];
    const CATEGORIES: &'static [&'static str] = &[];
    const VERBS: &'static [Verb] = Verb::ALL;
    const SUBRESOURCES: &'static [Subresource] = &[];
    /// Whether `metadata.generation` counts the changes of the spec.
    const HAS_GENERATION: bool = false;
    /// Whether a client gives the status at creation. Elsewhere the status starts empty: it has its own writer.
    const KEEPS_STATUS_AT_CREATION: bool = false;
    /// Whether a PUT makes an object that is not there. Kubernetes lets it for a few kinds, as their strategies say.
    const CREATED_BY_UPDATE: bool = false;
    /// What of the metadata a write of the status leaves as it is, of what clients may otherwise change with it.
    const STATUS_KEEPS: &'static [&'static str] = &[];
    /// The resource under which objects are stored where it is not this kind's own: `autoscaling/v1` is stored as v2,
    /// both `Event` kinds as one.
    const STORED_AS: Option<&'static str> = None;

    /// Fills fields the client left out. Runs on every object that enters, before validation, and is idempotent.
    fn default(_object: &mut Value) {}
    /// What the server itself sets at creation (and what a client may not): a pod's phase, a cleared status.
    fn before_create(_object: &mut Value) {}
    /// Carries over what an update may not change silently. Runs before validation.
    fn before_update(_object: &mut Value, _old: &Value) {}
    /// Rules for an object by itself.
    fn validate(_object: &Self::Object, _errors: &mut FieldErrors) {}
    /// Rules for a new object alone: those that what is there already need not keep. Runs beside [`Kind::validate`].
    fn validate_create(_object: &Self::Object, _errors: &mut FieldErrors) {}
    /// Rules for a change: immutable fields. Runs beside [`Kind::validate`].
    fn validate_update(_object: &Self::Object, _old: &Self::Object, _errors: &mut FieldErrors) {}
    /// Rules for a status change.
    fn validate_status(_object: &Self::Object, _old: &Self::Object, _errors: &mut FieldErrors) {}
    /// The checks of `metadata.name`; most kinds take a DNS subdomain.
    fn validate_name(name: &str) -> Result<(), String> {
        crate::meta::dns_subdomain(name)
    }
    /// Field selectors besides `metadata.name` and `metadata.namespace`.
    fn selectable_fields(_object: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }
    fn columns() -> Vec<Column> {
        vec![Column::new("Name", "string"), Column::new("Age", "date")]
    }
    /// One cell a column. `now` is for ages inside cells; an `Age` of type `date` carries the age as `kubectl` prints it.
    fn cells(object: &Self::Object, now: Timestamp) -> Vec<Value> {
        let value = serde_json::to_value(object).unwrap_or_default();
        vec![crate::meta::name(&value).into(), crate::meta::age(&value, now).into()]
    }
    /// From the shape clients of this version see to the stored shape, and back. Most kinds: nothing.
    fn to_stored(_object: &mut Value) {}
    fn from_stored(_object: &mut Value) {}
    /// For how many seconds a deleted object stays, marked, so that it can end in order. `requested` is what the client
    /// asked for. Most kinds go at once.
    fn grace_period_seconds(_object: &Value, _requested: Option<i64>) -> i64 {
        0
    }
    /// Whether something besides `metadata.finalizers` still holds an object that is marked for deletion.
    fn holds_deletion(_object: &Value) -> bool {
        false
    }
    /// Finalizers that a deletion adds: something must be done before the object may go.
    fn deletion_finalizers() -> &'static [&'static str] {
        &[]
    }
    /// What changes about an object when it is marked for deletion.
    fn before_marked_for_deletion(_object: &mut Value) {}
}

/// The rules of a kind without its type: what [`Kind`] offers, over JSON. A CustomResourceDefinition has its own
/// implementation, made at run time.
pub trait Rules: Send + Sync {
    fn default(&self, object: &mut Value);
    fn before_create(&self, object: &mut Value);
    fn before_update(&self, object: &mut Value, old: &Value);
    /// Decodes and checks. The first error of a wrong type is one [`FieldErrors`] entry.
    fn validate(&self, object: &Value, errors: &mut FieldErrors);
    fn validate_update(&self, object: &Value, old: &Value, errors: &mut FieldErrors);
    fn validate_status(&self, object: &Value, old: &Value, errors: &mut FieldErrors);
    fn validate_name(&self, name: &str) -> Result<(), String>;
    fn selectable_fields(&self, object: &Value) -> Vec<(String, String)>;
    fn columns(&self) -> Vec<Column>;
    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value>;
    fn to_stored(&self, object: &mut Value);
    #[allow(clippy::wrong_self_convention)] // the counterpart of `to_stored`
    fn from_stored(&self, object: &mut Value);
    /// The object as its type knows it, without unknown fields; None where it does not decode.
    fn normalized(&self, object: &Value) -> Option<Value>;
    /// The first field whose value has the wrong type.
    fn type_error(&self, object: &Value) -> Option<TypeError>;
    /// Where the marks of this kind's lists and maps stand ([`crate::marks`]).
    fn type_ref(&self) -> TypeRef<'_> {
        TypeRef::Unmarked
    }
    /// Whether the kind has a type of its own: strategic merge patch needs one.
    fn has_strategic_merge(&self) -> bool {
        false
    }
    fn created_by_update(&self) -> bool {
        false
    }
    fn keeps_status_at_creation(&self) -> bool {
        false
    }
    fn status_keeps(&self) -> &'static [&'static str] {
        CLIENT_METADATA
    }
    fn grace_period_seconds(&self, _object: &Value, _requested: Option<i64>) -> i64 {
        0
    }
    fn holds_deletion(&self, _object: &Value) -> bool {
        false
    }
    fn deletion_finalizers(&self) -> &'static [&'static str] {
        &[]
    }
    fn before_marked_for_deletion(&self, _object: &mut Value) {}
    /// Drops what is not stored, whatever the client sent: nulls, and of custom objects what their schema does not know.
    fn prune(&self, object: &mut Value) {
        crate::decode::prune_nulls(object);
    }
    /// Whether the kind came with a CustomResourceDefinition: its rules may have changed since an object was stored.
    fn is_custom(&self) -> bool {
        false
    }
    /// The kind's JSON schema, its parts registered with the generator.
    #[cfg(feature = "schema")]
    fn schema(&self, _generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "object"})
    }
}

/// One line of the list of kinds, without its type.
#[derive(Clone)]
pub struct KindEntry {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub scope: Scope,
    pub verbs: Vec<Verb>,
    pub subresources: Vec<Subresource>,
    pub has_generation: bool,
    /// False for a version in which objects are stored though clients are not offered it any more.
    pub is_served: bool,
    /// For the `scale` subresource.
    pub scale: Option<ScalePaths>,
    /// `plural` or `plural.group`: the name in keys, RBAC and messages.
    pub resource: Arc<str>,
    /// The resource under which objects are stored; [`KindEntry::resource`] for most.
    pub stored_as: Arc<str>,
    pub rules: Arc<dyn Rules>,
}

impl KindEntry {
    pub fn of<K: Kind>() -> Self {
        let (group, plural) = (K::Object::GROUP, K::Object::URL_PATH_SEGMENT);
        let resource: Arc<str> =
            if group.is_empty() { plural.into() } else { format!("{plural}.{group}").into() };
        Self {
            group: group.into(),
            version: K::Object::VERSION.into(),
            kind: K::Object::KIND.into(),
            plural: plural.into(),
            singular: K::SINGULAR.into(),
            short_names: K::SHORT_NAMES.iter().map(|s| (*s).into()).collect(),
            categories: K::CATEGORIES.iter().map(|s| (*s).into()).collect(),
            scope: <<K::Object as Resource>::Scope as ScopeOf>::SCOPE,
            verbs: K::VERBS.to_vec(),
            subresources: K::SUBRESOURCES.to_vec(),
            has_generation: K::HAS_GENERATION,
            is_served: true,
            scale: scale_paths(K::SUBRESOURCES),
            stored_as: K::STORED_AS.map_or_else(|| resource.clone(), Arc::from),
            resource,
            rules: Arc::new(Typed::<K> {
                type_name: crate::marks::type_name(group, K::Object::VERSION, K::Object::KIND),
                kind: PhantomData,
            }),
        }
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether spec and status have separate writers.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }
}

/// Built-in kinds have their replicas in the same place.
fn scale_paths(subresources: &[Subresource]) -> Option<ScalePaths> {
    subresources.iter().find(|subresource| subresource.name == "scale")?;
    Some(ScalePaths {
        spec_replicas: JsonPath::parse(".spec.replicas").ok()?,
        status_replicas: JsonPath::parse(".status.replicas").ok()?,
        label_selector: LabelSelectorSource::Spec,
    })
}

/// [`Rules`] of a built-in kind.
struct Typed<K> {
    /// As [`crate::marks`] names it.
    type_name: String,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Typed<K> {
    fn decode(object: &Value, errors: &mut FieldErrors) -> Option<K::Object> {
        match K::Object::deserialize_ref(object) {
            Ok(typed) => Some(typed),
            Err(error) => {
                let at = type_error::find(K::Object::KIND, object, error, &decodes::<K>);
                errors.wrong_type(&Path::new(&at.path), Value::Null, at.to_string());
                None
            }
        }
    }
}

fn decodes<K: Kind>(object: &Value) -> Result<(), serde_json::Error> {
    K::Object::deserialize_ref(object).map(drop)
}

/// Deserializes from a borrowed [`Value`], so that validation copies no tree.
trait DeserializeRef: Sized {
    fn deserialize_ref(value: &Value) -> Result<Self, serde_json::Error>;
}
impl<T: DeserializeOwned> DeserializeRef for T {
    fn deserialize_ref(value: &Value) -> Result<Self, serde_json::Error> {
        T::deserialize(value)
    }
}

impl<K: Kind> Rules for Typed<K> {
    fn default(&self, object: &mut Value) {
        K::default(object);
    }
    fn before_create(&self, object: &mut Value) {
        K::before_create(object);
    }
    fn before_update(&self, object: &mut Value, old: &Value) {
        K::before_update(object, old);
    }
    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        if let Some(typed) = Self::decode(object, errors) {
            K::validate(&typed, errors);
            K::validate_create(&typed, errors);
        }
    }
    fn validate_update(&self, object: &Value, old: &Value, errors: &mut FieldErrors) {
        if let (Some(new), Some(old)) = (Self::decode(object, errors), Self::decode(old, errors)) {
            K::validate(&new, errors);
            K::validate_update(&new, &old, errors);
        }
    }
    fn validate_status(&self, object: &Value, old: &Value, errors: &mut FieldErrors) {
        if let (Some(new), Some(old)) = (Self::decode(object, errors), Self::decode(old, errors)) {
            K::validate_status(&new, &old, errors);
        }
    }
    fn validate_name(&self, name: &str) -> Result<(), String> {
        K::validate_name(name)
    }
    fn selectable_fields(&self, object: &Value) -> Vec<(String, String)> {
        K::selectable_fields(object).into_iter().map(|(field, value)| (field.to_owned(), value)).collect()
    }
    fn columns(&self) -> Vec<Column> {
        K::columns()
    }
    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        K::Object::deserialize_ref(object).map(|typed| K::cells(&typed, now)).unwrap_or_default()
    }
    fn to_stored(&self, object: &mut Value) {
        K::to_stored(object);
    }
    fn from_stored(&self, object: &mut Value) {
        K::from_stored(object);
    }
    fn normalized(&self, object: &Value) -> Option<Value> {
        let typed = K::Object::deserialize_ref(object).ok()?;
        serde_json::to_value(typed).ok()
    }
    fn type_error(&self, object: &Value) -> Option<TypeError> {
        let error = decodes::<K>(object).err()?;
        Some(type_error::find(K::Object::KIND, object, error, &decodes::<K>))
    }
    fn type_ref(&self) -> TypeRef<'_> {
        TypeRef::Known(&self.type_name)
    }
    fn has_strategic_merge(&self) -> bool {
        true
    }
    fn created_by_update(&self) -> bool {
        K::CREATED_BY_UPDATE
    }
    fn keeps_status_at_creation(&self) -> bool {
        K::KEEPS_STATUS_AT_CREATION
    }
    fn status_keeps(&self) -> &'static [&'static str] {
        K::STATUS_KEEPS
    }
    fn grace_period_seconds(&self, object: &Value, requested: Option<i64>) -> i64 {
        K::grace_period_seconds(object, requested)
    }
    fn holds_deletion(&self, object: &Value) -> bool {
        K::holds_deletion(object)
    }
    fn deletion_finalizers(&self) -> &'static [&'static str] {
        K::deletion_finalizers()
    }
    fn before_marked_for_deletion(&self, object: &mut Value) {
        K::before_marked_for_deletion(object);
    }
    #[cfg(feature = "schema")]
    fn schema(&self, generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        generator.subschema_for::<K::Object>()
    }
}
