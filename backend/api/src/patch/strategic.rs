//! Strategic merge patch: lists merge by key where their type says so, and directives steer it.
//! Follows Kubernetes' "Strategic Merge Patch" (apimachinery `strategicpatch`, documented in
//! contributors/devel/sig-api-machinery/strategic-merge-patch.md).
use crate::marks::{Merging, TypeRef};
use serde_json::{Map, Value};

/// `$patch`: `replace`, `delete` or `merge` the map it stands in.
const DIRECTIVE: &str = "$patch";
/// `$retainKeys`: of the live map only these fields stay.
const RETAIN: &str = "$retainKeys";
/// `$deleteFromPrimitiveList/<list>`: plain values to take out of a list.
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
/// `$setElementOrder/<list>`: how the merged list is ordered, as plain values or as maps with the merge key.
const ORDER: &str = "$setElementOrder/";

pub(super) fn merge(of: TypeRef<'_>, current: &Value, patch: &Value) -> Result<Value, String> {
    let Value::Object(patch) = patch else {
        return Err("a strategic merge patch is an object".into());
    };
    let current = current.as_object().cloned().unwrap_or_default();
    Ok(Value::Object(merge_map(of, current, patch)?))
}

#[derive(Clone, Copy, PartialEq)]
enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(patch: &Map<String, Value>) -> Result<Directive, String> {
    match patch.get(DIRECTIVE) {
        None => Ok(Directive::Merge),
        Some(Value::String(word)) if word == "merge" => Ok(Directive::Merge),
        Some(Value::String(word)) if word == "replace" => Ok(Directive::Replace),
        Some(Value::String(word)) if word == "delete" => Ok(Directive::Delete),
        Some(other) => Err(format!("Unknown patch type found: {other}")),
    }
}

fn merge_map(
    of: TypeRef<'_>,
    mut current: Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<Map<String, Value>, String> {
    match directive(patch)? {
        Directive::Replace => return Ok(plain_map(patch)),
        Directive::Delete => return Ok(Map::new()),
        Directive::Merge => {}
    }
    if let Some(retained) = patch.get(RETAIN) {
        retain_keys(&mut current, retained, patch)?;
    }
    for (field, change) in patch {
        if let Some(list) = field.strip_prefix(DELETE_FROM) {
            // A list that is merged besides is handled with it, so that what goes and what comes agree.
            if !patch.contains_key(list) {
                delete_values(&mut current, list, change)?;
            }
        } else if let Some(list) = field.strip_prefix(ORDER) {
            if !patch.contains_key(list) {
                order_alone(&of.field(list), &mut current, list, change)?;
            }
        } else if field != DIRECTIVE && field != RETAIN {
            merge_field(of, &mut current, field, change, patch)?;
        }
    }
    Ok(current)
}

fn merge_field(
    of: TypeRef<'_>,
    current: &mut Map<String, Value>,
    field: &str,
    change: &Value,
    patch: &Map<String, Value>,
) -> Result<(), String> {
    let how = of.field(field);
    let merged = match (current.get(field), change) {
        (_, Value::Null) => {
            current.remove(field);
            return Ok(());
        }
        (Some(Value::Object(old)), Value::Object(new)) if !how.replace => {
            if directive(new)? == Directive::Delete {
                current.remove(field);
                return Ok(());
            }
            Value::Object(merge_map(how.of, old.clone(), new)?)
        }
        (Some(Value::Array(_)) | None, Value::Array(new)) => {
            if let Some(gone) = patch.get(&format!("{DELETE_FROM}{field}")) {
                delete_values(current, field, gone)?;
            }
            let old = match current.get(field) {
                Some(Value::Array(items)) => items.clone(),
                _ => Vec::new(),
            };
            let order = patch.get(&format!("{ORDER}{field}"));
            Value::Array(merge_list(&how, field, old, new, order)?)
        }
        (_, new) => plain(new),
    };
    current.insert(field.to_owned(), merged);
    Ok(())
}

fn retain_keys(
    current: &mut Map<String, Value>,
    retained: &Value,
    patch: &Map<String, Value>,
) -> Result<(), String> {
    let retained = retained.as_array().ok_or("retainKeys is not a list")?;
    let names = |field: &str| retained.iter().any(|name| name == field);
    for (field, value) in patch {
        if !field.starts_with('$') && !value.is_null() && !names(field) {
            return Err(format!("the field {field:?} is set but not in the $retainKeys list"));
        }
    }
    current.retain(|field, _| names(field));
    Ok(())
}

fn delete_values(current: &mut Map<String, Value>, list: &str, gone: &Value) -> Result<(), String> {
    let gone = gone.as_array().ok_or("$deleteFromPrimitiveList is not a list")?;
    if let Some(Value::Array(items)) = current.get_mut(list) {
        items.retain(|item| !gone.contains(item));
    }
    Ok(())
}

fn order_alone(
    how: &Merging<'_>,
    current: &mut Map<String, Value>,
    list: &str,
    order: &Value,
) -> Result<(), String> {
    if let (Some(key), Some(Value::Array(items))) = (how.merge_key, current.get_mut(list)) {
        let order = order.as_array().ok_or("$setElementOrder is not a list")?;
        let before = items.iter().filter_map(|item| id(item, key)).collect::<Vec<_>>();
        *items = ordered(std::mem::take(items), &before, key, order);
    }
    Ok(())
}

fn merge_list(
    how: &Merging<'_>,
    field: &str,
    old: Vec<Value>,
    new: &[Value],
    order: Option<&Value>,
) -> Result<Vec<Value>, String> {
    let replaces = |item: &Value| item.as_object().is_some_and(|i| directive(i) == Ok(Directive::Replace));
    let Some(key) = how.merge_key.filter(|_| !new.iter().any(replaces)) else {
        return Ok(plain_list(new));
    };
    let before: Vec<Value> = old.iter().filter_map(|item| id(item, key)).collect();
    let merged = match key {
        "" => merge_set(old, new),
        key => merge_keyed(how.of, field, key, old, new)?,
    };
    let stays = |item: &&Value| item.get(DIRECTIVE).is_none_or(|word| word != "delete");
    let patched: Vec<Value> = new.iter().filter(stays).cloned().collect();
    let Some(order) = order else { return Ok(ordered(merged, &before, key, &patched)) };
    let order = order.as_array().ok_or("$setElementOrder is not a list")?;
    if let Some(item) = patched.iter().find(|item| rank(item, key, order).is_none()) {
        return Err(format!(
            "The order in patch list doesn't match $setElementOrder list: {item} is not in it"
        ));
    }
    Ok(ordered(merged, &before, key, order))
}

fn merge_set(mut old: Vec<Value>, new: &[Value]) -> Vec<Value> {
    for item in new {
        if !old.contains(item) {
            old.push(plain(item));
        }
    }
    old
}

fn merge_keyed(
    of: TypeRef<'_>,
    field: &str,
    key: &str,
    mut old: Vec<Value>,
    new: &[Value],
) -> Result<Vec<Value>, String> {
    for item in new {
        let Value::Object(change) = item else {
            return Err(format!(
                "expected the items of {field} to be maps with the merge key {key}, found {item}"
            ));
        };
        let Some(id) = change.get(key) else {
            return Err(format!("map: {item} does not contain declared merge key: {key}"));
        };
        let same = |existing: &Value| existing.get(key) == Some(id);
        match (directive(change)?, old.iter().position(same)) {
            // Lists that came in by other ways can hold a key twice: all of them go.
            (Directive::Delete, _) => old.retain(|existing| !same(existing)),
            (_, Some(at)) => {
                let existing = old[at].as_object().cloned().unwrap_or_default();
                old[at] = Value::Object(merge_map(of, existing, change)?);
            }
            (_, None) => old.push(Value::Object(merge_map(of, Map::new(), change)?)),
        }
    }
    Ok(old)
}

/// What an entry is known by: its merge key, or itself where there is none.
fn id(item: &Value, key: &str) -> Option<Value> {
    match key {
        "" => Some(item.clone()),
        key => item.get(key).cloned(),
    }
}

fn rank(item: &Value, key: &str, order: &[Value]) -> Option<usize> {
    let own = id(item, key)?;
    order.iter().position(|wanted| id(wanted, key).unwrap_or_else(|| wanted.clone()) == own)
}

/// Entries named by `order` come in its order. The others keep their place before those that they stood before; an
/// entry that is new goes before all of them. `before`: what the list held, by merge key.
fn ordered(items: Vec<Value>, before: &[Value], key: &str, order: &[Value]) -> Vec<Value> {
    let place = |item: &Value| id(item, key).and_then(|own| before.iter().position(|known| *known == own));
    let (mut named, server_only): (Vec<_>, Vec<_>) =
        items.into_iter().partition(|item| rank(item, key, order).is_some());
    named.sort_by_key(|item| rank(item, key, order));
    let mut result = Vec::with_capacity(named.len() + server_only.len());
    let mut server_only = server_only.into_iter().peekable();
    for item in named {
        if let Some(at) = place(&item) {
            while let Some(earlier) =
                server_only.next_if(|other| place(other).is_some_and(|place| place < at))
            {
                result.push(earlier);
            }
        }
        result.push(item);
    }
    result.extend(server_only);
    result
}

/// A value that comes in new: directives in it have nothing to act on, nulls have nothing to remove.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(plain_map(fields)),
        Value::Array(items) => Value::Array(plain_list(items)),
        other => other.clone(),
    }
}

fn plain_map(fields: &Map<String, Value>) -> Map<String, Value> {
    let is_directive = |field: &str| {
        field == DIRECTIVE || field == RETAIN || field.starts_with(DELETE_FROM) || field.starts_with(ORDER)
    };
    let kept = fields.iter().filter(|(field, value)| !value.is_null() && !is_directive(field));
    kept.map(|(field, value)| (field.clone(), plain(value))).collect()
}

fn plain_list(items: &[Value]) -> Vec<Value> {
    let stays = |item: &&Value| match item.get(DIRECTIVE) {
        None => true,
        Some(word) => word == "merge",
    };
    items.iter().filter(stays).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn pod(current: Value, change: Value) -> Result<Value, String> {
        merge(TypeRef::Known("core.v1.PodSpec"), &current, &change)
    }

    #[test]
    fn lists_merge_by_the_key_of_their_type() {
        let rows = [
            (
                "by name, and inside by their own keys",
                json!({"containers": [{"name": "a", "image": "x:1", "env": [{"name": "E", "value": "1"}]}, {"name": "b"}]}),
                json!({"containers": [{"name": "a", "image": "x:2", "env": [{"name": "F"}]}, {"name": "c"}]}),
                json!({"containers": [{"name": "a", "image": "x:2", "env": [{"name": "F"}, {"name": "E", "value": "1"}]},
                    {"name": "c"}, {"name": "b"}]}),
            ),
            (
                "a list without a key is replaced",
                json!({"tolerations": [{"key": "a"}], "containers": [{"name": "a", "command": ["x"]}]}),
                json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "command": ["y"]}]}),
                json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "command": ["y"]}]}),
            ),
            (
                "null removes",
                json!({"nodeSelector": {"a": "1", "b": "2"}, "hostname": "x"}),
                json!({"nodeSelector": {"a": null}, "hostname": null, "absent": null}),
                json!({"nodeSelector": {"b": "2"}}),
            ),
            (
                "ports by container port",
                json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "w"}]}]}),
                json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "v"}, {"containerPort": 81}]}]}),
                json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "v"}, {"containerPort": 81}]}]}),
            ),
        ];
        for (what, current, change, expected) in rows {
            assert_eq!(pod(current, change).unwrap(), expected, "{what}");
        }
    }

    #[test]
    fn directives_steer_the_merge() {
        let two = json!({"containers": [{"name": "a", "image": "x"}, {"name": "b"}]});
        let rows = [
            (
                "delete takes an entry out",
                two.clone(),
                json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "zz", "$patch": "delete"}]}),
                json!({"containers": [{"name": "b"}]}),
            ),
            (
                "replace in a list replaces the list",
                two.clone(),
                json!({"containers": [{"name": "c"}, {"$patch": "replace"}]}),
                json!({"containers": [{"name": "c"}]}),
            ),
            (
                "replace in a map replaces the map",
                json!({"securityContext": {"runAsUser": 1}}),
                json!({"securityContext": {"$patch": "replace", "runAsGroup": 2}}),
                json!({"securityContext": {"runAsGroup": 2}}),
            ),
            (
                "delete in a map removes it",
                json!({"securityContext": {"runAsUser": 1}, "hostname": "h"}),
                json!({"securityContext": {"$patch": "delete"}}),
                json!({"hostname": "h"}),
            ),
            (
                "retainKeys drops what is not named",
                json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
                json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
                json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
            ),
            (
                "the order is as told, and what only the server has keeps its place",
                json!({"containers": [{"name": "a"}, {"name": "s"}, {"name": "b"}]}),
                json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}], "containers": [{"name": "c"}]}),
                json!({"containers": [{"name": "c"}, {"name": "s"}, {"name": "b"}, {"name": "a"}]}),
            ),
            (
                "an order may come alone",
                two.clone(),
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
                json!({"containers": [{"name": "b"}, {"name": "a", "image": "x"}]}),
            ),
            (
                "directives inside a new value leave no trace",
                json!({}),
                json!({"containers": [{"name": "a", "$setElementOrder/env": [{"name": "E"}], "env": [{"name": "E"}]}],
                    "affinity": {"$patch": "merge", "nodeAffinity": {"x": null}}}),
                json!({"containers": [{"name": "a", "env": [{"name": "E"}]}], "affinity": {"nodeAffinity": {}}}),
            ),
        ];
        for (what, current, change, expected) in rows {
            assert_eq!(pod(current, change).unwrap(), expected, "{what}");
        }
    }

    #[test]
    fn finalizers_merge_as_a_set_and_lose_named_values() {
        let meta = TypeRef::Known("meta.v1.ObjectMeta");
        let current = json!({"finalizers": ["a/x", "b/x"]});
        let added = merge(meta, &current, &json!({"finalizers": ["b/x", "c/x"]})).unwrap();
        assert_eq!(added, json!({"finalizers": ["a/x", "b/x", "c/x"]}));
        let change =
            json!({"$deleteFromPrimitiveList/finalizers": ["a/x"], "$setElementOrder/finalizers": ["b/x"]});
        assert_eq!(merge(meta, &current, &change).unwrap(), json!({"finalizers": ["b/x"]}));
    }

    #[test]
    fn a_patch_that_cannot_be_meant_is_refused() {
        let current = json!({"containers": [{"name": "a"}]});
        for change in [
            json!({"containers": [{"image": "x"}]}),
            json!({"containers": ["x"]}),
            json!({"securityContext": {}, "$patch": "dance"}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name"], "emptyDir": {}}]}),
            json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]}),
            json!({"$deleteFromPrimitiveList/x": 1}),
        ] {
            assert!(pod(current.clone(), change.clone()).is_err(), "{change}");
        }
    }

    proptest! {
        #[test]
        fn a_strategic_merge_never_panics(current in crate::arbitrary::pod_spec(), change in crate::arbitrary::pod_spec()) {
            let _ = pod(current, change);
        }

        #[test]
        fn a_strategic_merge_applied_again_changes_nothing(
            current in crate::arbitrary::pod_spec(), change in crate::arbitrary::pod_spec(),
        ) {
            if let Ok(once) = pod(current, change.clone()) {
                prop_assert_eq!(pod(once.clone(), change).unwrap(), once);
            }
        }

        #[test]
        fn an_empty_patch_changes_nothing(current in crate::arbitrary::pod_spec()) {
            prop_assert_eq!(pod(current.clone(), json!({})).unwrap(), current);
        }

        #[test]
        fn the_patch_between_two_states_leads_from_one_to_the_other(
            old in crate::arbitrary::pod_spec(), new in crate::arbitrary::pod_spec(),
        ) {
            let patch = difference(POD, &old, &new);
            prop_assert_eq!(pod(old, patch).unwrap(), new);
        }

        #[test]
        fn what_only_the_server_added_survives_a_three_way_merge(
            original in crate::arbitrary::pod_spec(), modified in crate::arbitrary::pod_spec(),
        ) {
            // What a server's defaults and a sidecar's injector do between two applies.
            let added = json!({
                "containers": [{"name": "sidecar", "image": "s"}], "nodeSelector": {"zone": "x"}, "dnsPolicy": "Default",
            });
            let grown = |spec: Value| sorted(pod(spec, added.clone()).unwrap());
            let patch = difference(POD, &original, &modified);
            let mut expected = grown(modified.clone());
            for (field, _) in original.as_object().unwrap() {
                // Who takes a whole field out takes out what others put into it.
                if modified.get(field).is_none() {
                    expected.as_object_mut().unwrap().remove(field);
                }
            }
            prop_assert_eq!(sorted(pod(grown(original), patch).unwrap()), expected);
        }
    }

    const POD: TypeRef<'static> = TypeRef::Known("core.v1.PodSpec");

    /// The patch that `kubectl apply` computes from what was applied before and what is applied now.
    fn difference(of: TypeRef<'_>, old: &Value, new: &Value) -> Value {
        let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return new.clone() };
        let mut patch = Map::new();
        for field in old.keys().filter(|field| !new.contains_key(*field)) {
            patch.insert(field.clone(), Value::Null);
        }
        for (field, value) in new.iter().filter(|(field, value)| old.get(*field) != Some(value)) {
            let how = of.field(field);
            let change = match (old.get(field), value, how.merge_key) {
                (Some(before @ Value::Object(_)), Value::Object(_), _) => difference(how.of, before, value),
                (Some(Value::Array(before)), Value::Array(after), Some(key)) => {
                    let order = after.iter().map(|item| json!({key: item[key]}));
                    patch.insert(format!("{ORDER}{field}"), order.collect());
                    list_difference(how.of, key, before, after)
                }
                _ => value.clone(),
            };
            patch.insert(field.clone(), change);
        }
        Value::Object(patch)
    }

    fn list_difference(of: TypeRef<'_>, key: &str, old: &[Value], new: &[Value]) -> Value {
        let find = |items: &[Value], id: &Value| items.iter().find(|item| item[key] == *id).cloned();
        let gone = old.iter().filter(|item| find(new, &item[key]).is_none());
        let gone = gone.map(|item| json!({key: item[key], DIRECTIVE: "delete"}));
        let changed = new.iter().filter_map(|item| {
            let Some(before) = find(old, &item[key]) else { return Some(item.clone()) };
            let mut change = difference(of, &before, item);
            change[key] = item[key].clone();
            (before != *item).then_some(change)
        });
        gone.chain(changed).collect()
    }

    /// Lists of containers by name: the order among what two sides added is nobody's promise.
    fn sorted(mut spec: Value) -> Value {
        if let Some(containers) = spec.get_mut("containers").and_then(Value::as_array_mut) {
            containers.sort_by_key(|container| container["name"].to_string());
        }
        spec
    }
}
