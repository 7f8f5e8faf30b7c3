//! Sets of fields, as `managedFields` writes them (`FieldsV1`), and what they say of objects: which fields one has,
//! what changed between two, what merging and removing does.
use crate::marks::{ListKeys, Merging, TypeRef};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A tree of path elements in the notation of `FieldsV1`: `f:name` a field, `k:{"name":"a"}` an entry of a keyed list,
/// `v:"x"` a value of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Whether this very element is in the set (`.`), not only elements below it. An element with nothing below it is.
    pub owned: bool,
    pub children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    fn leaf() -> Self {
        Self { owned: true, children: BTreeMap::new() }
    }

    pub fn is_empty(&self) -> bool {
        !self.owned && self.children.is_empty()
    }

    pub fn from_json(value: &Value) -> Self {
        let mut set = Self::default();
        for (element, below) in value.as_object().into_iter().flatten() {
            match element.as_str() {
                "." => set.owned = true,
                _ => drop(set.children.insert(element.clone(), Self::from_json(below))),
            }
        }
        set.owned |= set.children.is_empty();
        set
    }

    pub fn to_json(&self) -> Value {
        let mut fields = Map::new();
        if self.owned && !self.children.is_empty() {
            fields.insert(".".into(), Value::Object(Map::new()));
        }
        for (element, below) in &self.children {
            fields.insert(element.clone(), below.to_json());
        }
        Value::Object(fields)
    }

    pub fn insert_all(&mut self, other: &Self) {
        self.owned |= other.owned;
        for (element, below) in &other.children {
            self.children.entry(element.clone()).or_default().insert_all(below);
        }
    }

    pub fn remove_all(&mut self, other: &Self) {
        self.owned &= !other.owned;
        for (element, below) in &other.children {
            if let Some(own) = self.children.get_mut(element) {
                own.remove_all(below);
                if own.is_empty() {
                    self.children.remove(element);
                }
            }
        }
    }

    /// The elements that are in both sets, as paths `.spec.containers[name="a"].image`.
    pub fn common_paths(&self, other: &Self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_common(other, "", &mut paths);
        paths
    }

    fn collect_common(&self, other: &Self, path: &str, paths: &mut Vec<String>) {
        if self.owned && other.owned {
            paths.push(path.to_owned());
        }
        for (element, below) in &self.children {
            if let Some(others) = other.children.get(element) {
                below.collect_common(others, &format!("{path}{}", printed(element)), paths);
            }
        }
    }

    /// Without what every object has and the server keeps: it has no owner.
    pub fn without_identity(mut self) -> Self {
        self.owned = false;
        self.children.remove("f:apiVersion");
        self.children.remove("f:kind");
        if let Some(metadata) = self.children.get_mut("f:metadata") {
            metadata.owned = false;
            for field in SYSTEM_METADATA {
                metadata.children.remove(&format!("f:{field}"));
            }
            if metadata.is_empty() {
                self.children.remove("f:metadata");
            }
        }
        self
    }
}

/// Fields of `metadata` that no manager owns.
const SYSTEM_METADATA: [&str; 10] = [
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "generation",
    "managedFields",
    "resourceVersion",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

fn printed(element: &str) -> String {
    match element.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let pairs: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", pairs.join(","))
        }
        Some(("v", value)) => format!("[={value}]"),
        _ => element.to_owned(),
    }
}

/// The element that tells an item of a list from the others. None: the list has no keys, or the item lacks all of them.
fn element(how: &Merging<'_>, item: &Value) -> Option<String> {
    match &how.list {
        ListKeys::Atomic => None,
        ListKeys::Set => Some(format!("v:{item}")),
        ListKeys::Map(keys) => {
            let found = keys.iter().filter_map(|key| {
                let value = item.get(key).filter(|v| !v.is_null()).cloned();
                Some((*key, value.or_else(|| how.of.key_default(key))?))
            });
            let found: BTreeMap<&str, Value> = found.collect();
            // A default alone tells nothing apart.
            let given = keys.iter().any(|key| item.get(key).is_some_and(|v| !v.is_null()));
            given.then(|| format!("k:{}", serde_json::to_string(&found).unwrap_or_default()))
        }
    }
}

/// Why a list cannot be applied: entries without a key, or two with the same.
pub fn check_lists(of: TypeRef<'_>, value: &Value, path: &str) -> Result<(), String> {
    for (name, value) in value.as_object().into_iter().flatten() {
        let how = of.field(name);
        let path = format!("{path}.{name}");
        match value {
            Value::Array(items) if how.list != ListKeys::Atomic => check_items(&how, items, &path)?,
            Value::Object(_) if !how.atomic_map => check_lists(how.of, value, &path)?,
            _ => {}
        }
    }
    Ok(())
}

fn check_items(how: &Merging<'_>, items: &[Value], path: &str) -> Result<(), String> {
    let mut seen = std::collections::BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        let Some(element) = element(how, item) else {
            let ListKeys::Map(keys) = &how.list else { continue };
            let key = keys.first().copied().unwrap_or_default();
            return Err(format!(
                "{path}: element {index}: associative list with keys has an element that omits key field {key:?} (and \
                 doesn't have default value)"
            ));
        };
        check_lists(how.of, item, &format!("{path}{}", printed(&element)))?;
        if let Some(twice) = seen.replace(element) {
            return Err(format!("{path}: duplicate entries for key {}", printed(&twice)));
        }
    }
    Ok(())
}

/// Every field that `value` has. Lists and maps with one owner as a whole are one field.
pub fn fields_of(of: TypeRef<'_>, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    match value {
        Value::Object(fields) if !fields.is_empty() && !of.is_atomic() => {
            for (name, value) in fields {
                set.children.insert(format!("f:{name}"), fields_at(&of.field(name), value));
            }
        }
        _ => set.owned = true,
    }
    set
}

fn fields_at(how: &Merging<'_>, value: &Value) -> FieldSet {
    match value {
        Value::Object(_) if how.atomic_map => FieldSet::leaf(),
        Value::Object(_) => fields_of(how.of, value),
        Value::Array(items) if how.list != ListKeys::Atomic && !items.is_empty() => {
            let mut set = FieldSet::default();
            for item in items {
                if let Some(element) = element(how, item) {
                    let mut below = fields_of(how.of, item);
                    below.owned = true;
                    set.children.insert(element, below);
                }
            }
            set
        }
        _ => FieldSet::leaf(),
    }
}

/// What became of an object.
#[derive(Debug, Default)]
pub struct Difference {
    /// New fields, and those with another value.
    pub changed: FieldSet,
    pub removed: FieldSet,
}

pub fn compare(of: TypeRef<'_>, old: &Value, new: &Value) -> Difference {
    let mut difference = Difference::default();
    if let (Value::Object(old), Value::Object(new)) = (old, new) {
        compare_maps(of, old, new, &mut difference);
    }
    difference
}

fn compare_maps(of: TypeRef<'_>, old: &Map<String, Value>, new: &Map<String, Value>, into: &mut Difference) {
    for (name, value) in new {
        let below = compare_at(&of.field(name), old.get(name), Some(value));
        into.note(format!("f:{name}"), below);
    }
    for (name, value) in old.iter().filter(|(name, _)| !new.contains_key(*name)) {
        let below = compare_at(&of.field(name), Some(value), None);
        into.note(format!("f:{name}"), below);
    }
}

impl Difference {
    fn note(&mut self, element: String, below: Difference) {
        if !below.changed.is_empty() {
            self.changed.children.insert(element.clone(), below.changed);
        }
        if !below.removed.is_empty() {
            self.removed.children.insert(element, below.removed);
        }
    }
}

fn compare_at(how: &Merging<'_>, old: Option<&Value>, new: Option<&Value>) -> Difference {
    let mut difference = Difference::default();
    match (old, new) {
        (old, new) if old == new => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) if !how.atomic_map => {
            compare_maps(how.of, old, new, &mut difference);
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) if how.list != ListKeys::Atomic => {
            compare_lists(how, old, new, &mut difference);
        }
        (Some(_), Some(new)) => difference.changed = fields_at(how, new),
        (None, Some(new)) => difference.changed = fields_at(how, new),
        (Some(old), None) => difference.removed = fields_at(how, old),
        (None, None) => {}
    }
    difference
}

fn compare_lists(how: &Merging<'_>, old: &[Value], new: &[Value], into: &mut Difference) {
    let by_element = |items: &[Value]| -> BTreeMap<String, Value> {
        items.iter().filter_map(|item| Some((element(how, item)?, item.clone()))).collect()
    };
    let (old, new) = (by_element(old), by_element(new));
    let whole = |item: &Value| {
        let mut set = fields_of(how.of, item);
        set.owned = true;
        set
    };
    for (element, item) in &new {
        let mut below = Difference::default();
        match old.get(element) {
            None => below.changed = whole(item),
            Some(before) if before == item => {}
            Some(Value::Object(before)) if !how.of.is_atomic() => {
                if let Value::Object(item) = item {
                    compare_maps(how.of, before, item, &mut below);
                }
            }
            Some(_) => below.changed = FieldSet::leaf(),
        }
        into.note(element.clone(), below);
    }
    for (element, item) in old.iter().filter(|(element, _)| !new.contains_key(*element)) {
        into.note(element.clone(), Difference { removed: whole(item), ..Difference::default() });
    }
}

/// `live` with everything that `applied` says.
pub fn merge(of: TypeRef<'_>, live: &Value, applied: &Value) -> Value {
    let (Value::Object(live), Value::Object(applied)) = (live, applied) else {
        return applied.clone();
    };
    let mut merged = live.clone();
    for (name, value) in applied {
        let how = of.field(name);
        let value = match (live.get(name), value) {
            (Some(before @ Value::Object(_)), Value::Object(_)) if !how.atomic_map => {
                merge(how.of, before, value)
            }
            (Some(Value::Array(before)), Value::Array(items)) if how.list != ListKeys::Atomic => {
                Value::Array(merge_lists(&how, before, items))
            }
            (_, value) => value.clone(),
        };
        merged.insert(name.clone(), value);
    }
    Value::Object(merged)
}

/// The paths in an applied object to lists and maps that have one owner as a whole.
pub fn atomic_paths(of: TypeRef<'_>, applied: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect_atomic(of, applied, "", &mut found);
    found
}

fn collect_atomic(of: TypeRef<'_>, applied: &Value, path: &str, found: &mut Vec<String>) {
    for (name, value) in applied.as_object().into_iter().flatten() {
        let how = of.field(name);
        let path = format!("{path}.{name}");
        match value {
            Value::Object(_) if how.atomic_map => found.push(path),
            Value::Object(_) => collect_atomic(how.of, value, &path, found),
            Value::Array(_) if how.list == ListKeys::Atomic => found.push(path),
            Value::Array(items) if !how.of.is_atomic() => {
                items.iter().for_each(|item| collect_atomic(how.of, item, &path, found));
            }
            _ => {}
        }
    }
}

/// Items only the server has keep their places; the others come in the order applied.
fn merge_lists(how: &Merging<'_>, live: &[Value], applied: &[Value]) -> Vec<Value> {
    let merged = applied.iter().map(|item| {
        let own = element(how, item);
        match live.iter().find(|before| own.is_some() && element(how, before) == own) {
            Some(before) if !how.of.is_atomic() => merge(how.of, before, item),
            _ => item.clone(),
        }
    });
    let mut merged = merged.collect::<Vec<_>>().into_iter();
    let named: Vec<Option<String>> = applied.iter().map(|item| element(how, item)).collect();
    let mut result = Vec::with_capacity(live.len() + applied.len());
    for before in live {
        match element(how, before) {
            own @ Some(_) if named.contains(&own) => result.extend(merged.next()),
            _ => result.push(before.clone()),
        }
    }
    result.extend(merged);
    result
}

/// Takes out of `value` what is in `gone` and not in `kept`: what a manager applied before and now no more, and nobody
/// else wants.
pub fn prune(of: TypeRef<'_>, value: &mut Value, gone: &FieldSet, kept: &FieldSet) {
    let Value::Object(fields) = value else { return };
    for (name, gone) in named_fields(gone) {
        let Some(value) = fields.get_mut(name) else {
            continue;
        };
        // Metadata holds what the server and its controllers wrote without owning it: there only the named leaves go.
        let is_metadata = name == "metadata";
        match kept.children.get(&format!("f:{name}")) {
            Some(kept) => prune_at(&of.field(name), value, gone, kept),
            None if is_metadata => prune_metadata(value, gone, &FieldSet::default()),
            None => drop(fields.remove(name)),
        }
        if is_metadata
            && let Some(kept) = kept.children.get("f:metadata")
            && let Some(value) = fields.get_mut(name)
        {
            prune_metadata(value, gone, kept);
        }
    }
}

fn named_fields(set: &FieldSet) -> impl Iterator<Item = (&str, &FieldSet)> {
    set.children.iter().filter_map(|(element, below)| Some((element.strip_prefix("f:")?, below)))
}

fn prune_at(how: &Merging<'_>, value: &mut Value, gone: &FieldSet, kept: &FieldSet) {
    match value {
        Value::Object(_) if !how.atomic_map => prune(how.of, value, gone, kept),
        Value::Array(items) if how.list != ListKeys::Atomic => {
            items.retain_mut(|item| {
                let Some(element) = element(how, item) else {
                    return true;
                };
                match (gone.children.get(&element), kept.children.get(&element)) {
                    (None, _) => true,
                    (Some(_), None) => false,
                    (Some(gone), Some(kept)) => {
                        prune(how.of, item, gone, kept);
                        true
                    }
                }
            });
        }
        _ => {}
    }
}

fn prune_metadata(metadata: &mut Value, gone: &FieldSet, kept: &FieldSet) {
    let Value::Object(fields) = metadata else { return };
    for (name, gone) in named_fields(gone) {
        let nothing = FieldSet::default();
        let kept = kept.children.get(&format!("f:{name}")).unwrap_or(&nothing);
        let how = TypeRef::Known("meta.v1.ObjectMeta").field(name);
        let Some(value) = fields.get_mut(name) else {
            continue;
        };
        match value {
            Value::Object(entries) => {
                entries.retain(|key, _| {
                    let element = format!("f:{key}");
                    !gone.children.contains_key(&element) || kept.children.contains_key(&element)
                });
            }
            Value::Array(_) => prune_at(&how, value, gone, kept),
            _ => {}
        }
        let is_empty = match value {
            Value::Object(entries) => entries.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => kept.is_empty(),
        };
        if is_empty && kept.is_empty() {
            fields.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const POD: TypeRef<'static> = TypeRef::Known("core.v1.PodSpec");

    #[test]
    fn fields_are_written_as_kubernetes_writes_them() {
        let spec = json!({
            "containers": [{"name": "a", "image": "x", "command": ["y"], "ports": [{"containerPort": 80}]}],
            "nodeSelector": {"a": "b"}, "securityContext": {},
        });
        let set = fields_of(POD, &spec);
        assert_eq!(
            set.to_json(),
            json!({
                "f:containers": {"k:{\"name\":\"a\"}": {
                    ".": {}, "f:name": {}, "f:image": {}, "f:command": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                }},
                "f:nodeSelector": {}, "f:securityContext": {},
            })
        );
        assert_eq!(FieldSet::from_json(&set.to_json()), set);
    }

    proptest! {
        #[test]
        fn a_set_is_read_as_it_is_written(spec in crate::arbitrary::pod_spec()) {
            let set = fields_of(POD, &spec);
            prop_assert_eq!(FieldSet::from_json(&set.to_json()), set);
        }

        #[test]
        fn nothing_differs_from_itself_and_everything_from_nothing(spec in crate::arbitrary::pod_spec()) {
            prop_assume!(!spec.as_object().unwrap().is_empty());
            let same = compare(POD, &spec, &spec);
            prop_assert!(same.changed.is_empty() && same.removed.is_empty());
            prop_assert_eq!(compare(POD, &json!({}), &spec).changed, fields_of(POD, &spec));
            prop_assert_eq!(compare(POD, &spec, &json!({})).removed, fields_of(POD, &spec));
        }

        #[test]
        fn merging_again_changes_nothing(live in crate::arbitrary::pod_spec(), applied in crate::arbitrary::pod_spec()) {
            let once = merge(POD, &live, &applied);
            prop_assert_eq!(merge(POD, &once, &applied), once);
        }
    }
}
