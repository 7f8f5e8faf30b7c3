//! Warnings about a ValidatingAdmissionPolicy: what its expressions get wrong about the kinds it is for.
use super::{Names, list, text};
use crate::cel::{Program, Type};
use crate::custom::schema::Schema;
use crate::kind::KindEntry;
use crate::registry::Registry;
use crate::schema;
use crate::validation::Path;
use serde_json::{Value, json};
use std::sync::Arc;

/// Kinds looked at for one policy.
const MAX_KINDS: usize = 10;

/// `status.typeChecking.expressionWarnings`.
pub fn warnings(policy: &Value, registry: &Registry) -> Vec<Value> {
    let spec = &policy["spec"];
    let kinds: Vec<(Arc<KindEntry>, Schema)> =
        kinds(spec, registry).into_iter().map(|kind| (kind.clone(), schema_of(&kind))).collect();
    let param = &spec["paramKind"];
    let param = registry.by_kind(text(param, "apiVersion"), text(param, "kind")).map(schema_of);
    let mut warnings = Vec::new();
    for (i, validation) in list(&spec["validations"]).enumerate() {
        for field in ["expression", "messageExpression"] {
            let source = text(validation, field);
            if source.is_empty() {
                continue;
            }
            let told: Vec<String> = kinds
                .iter()
                .filter_map(|(kind, schema)| {
                    let params = param.as_ref().map(Type::of);
                    let params = params.or_else(|| spec["paramKind"].is_object().then_some(Type::Dyn));
                    let names = Names { object: Type::of(schema), params };
                    let why = check(source, spec, &names).err()?;
                    Some(format!("{}, Kind={}: {why}\n", kind.api_version(), kind.kind))
                })
                .collect();
            if !told.is_empty() {
                let path = Path::new("spec").child("validations").index(i).child(field);
                warnings.push(json!({"fieldRef": path.to_string(), "warning": told.join("\n")}));
            }
        }
    }
    warnings
}

fn schema_of(kind: &Arc<KindEntry>) -> Schema {
    Schema::root(&schema::resolved(kind))
}

fn check(source: &str, spec: &Value, names: &Names<'_>) -> Result<(), String> {
    let mut scope = names.scope_with_authorizer();
    let mut fields = Vec::new();
    for variable in list(&spec["variables"]) {
        scope.compose(fields.clone());
        let of = Program::parse(text(variable, "expression")).and_then(|program| program.check(&scope, &[]));
        fields.push((text(variable, "name").to_owned(), of.unwrap_or(Type::Dyn)));
    }
    if !fields.is_empty() {
        scope.compose(fields);
    }
    Program::parse(source)?.check(&scope, &[]).map(drop)
}

/// The kinds that the policy's rules name; a rule with an asterisk names none.
fn kinds(spec: &Value, registry: &Registry) -> Vec<Arc<KindEntry>> {
    let mut found: Vec<Arc<KindEntry>> = Vec::new();
    for rule in list(&spec["matchConstraints"]["resourceRules"]) {
        let texts = |field: &str| list(&rule[field]).filter_map(Value::as_str).collect::<Vec<_>>();
        let (groups, versions, resources) = (texts("apiGroups"), texts("apiVersions"), texts("resources"));
        if groups.iter().chain(&versions).any(|text| text.contains('*')) {
            continue;
        }
        for entry in registry.entries() {
            let named = groups.contains(&entry.group.as_str())
                && versions.contains(&entry.version.as_str())
                && resources.contains(&entry.plural.as_str());
            let is_new = !found.iter().any(|other| Arc::ptr_eq(other, entry));
            if named && is_new && found.len() < MAX_KINDS {
                found.push(entry.clone());
            }
        }
    }
    found.sort_by(|a, b| (&a.group, &a.version, &a.kind).cmp(&(&b.group, &b.version, &b.kind)));
    found
}
