//! Role, ClusterRole and their bindings: who may do what. Four kinds of one shape, so they share a file.
use super::support::{age_cell, child, fill, items, name_cell};
use crate::kind::{Column, Kind};
use crate::validation::{FieldErrors, Path};
use k8s_openapi::api::rbac::v1 as rbac;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

pub struct Role;
pub struct ClusterRole;
pub struct RoleBinding;
pub struct ClusterRoleBinding;

/// RBAC names are path segments: anything but `.`, `..`, `/` and `%`.
fn path_segment(name: &str) -> Result<(), String> {
    if matches!(name, "." | "..") {
        return Err(format!("may not be '{name}'"));
    }
    match name.contains(['/', '%']) {
        true => Err("may not contain '/' or '%'".into()),
        false => Ok(()),
    }
}

fn validate_rules(rules: Option<&Vec<rbac::PolicyRule>>, errors: &mut FieldErrors) {
    for (i, rule) in rules.into_iter().flatten().enumerate() {
        let path = Path::new("rules").index(i);
        if rule.verbs.is_empty() {
            errors.required(&path.child("verbs"), "verbs must contain at least one value");
        }
        let urls = rule.non_resource_urls.as_ref().is_some_and(|u| !u.is_empty());
        let resources = rule.resources.as_ref().is_some_and(|r| !r.is_empty());
        let groups = rule.api_groups.as_ref().is_some_and(|g| !g.is_empty());
        if urls && (resources || groups) {
            errors.invalid(
                &path.child("nonResourceURLs"),
                serde_json::json!(rule.non_resource_urls),
                "rules cannot apply to both regular resources and non-resource URLs",
            );
        } else if !urls && !groups {
            errors.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
        } else if !urls && !resources {
            errors.required(&path.child("resources"), "resource rules must supply at least one resource");
        }
    }
}

fn default_binding(object: &mut Value) {
    fill(child(object, "roleRef"), "apiGroup", "rbac.authorization.k8s.io");
    for subject in items(object, "subjects") {
        if matches!(subject["kind"].as_str(), Some("User" | "Group")) {
            fill(subject, "apiGroup", "rbac.authorization.k8s.io");
        }
    }
}

fn validate_binding(
    role: &rbac::RoleRef,
    kinds: &[&str],
    subjects: Option<&Vec<rbac::Subject>>,
    errors: &mut FieldErrors,
) {
    let path = Path::new("roleRef");
    if !kinds.contains(&role.kind.as_str()) {
        errors.not_supported(&path.child("kind"), role.kind.as_str(), kinds);
    }
    if role.name.is_empty() {
        errors.required(&path.child("name"), "");
    }
    for (i, subject) in subjects.into_iter().flatten().enumerate() {
        let path = Path::new("subjects").index(i);
        if subject.name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        match subject.kind.as_str() {
            "ServiceAccount" if subject.namespace.as_deref().unwrap_or_default().is_empty() => {
                errors.required(&path.child("namespace"), "");
            }
            "ServiceAccount" | "User" | "Group" => {}
            other => errors.not_supported(&path.child("kind"), other, &["Group", "ServiceAccount", "User"]),
        }
    }
}

fn validate_role_ref(new: &rbac::RoleRef, old: &rbac::RoleRef, errors: &mut FieldErrors) {
    if new != old {
        errors.invalid(&Path::new("roleRef"), serde_json::json!(new), "cannot change roleRef");
    }
}

fn role_columns() -> Vec<Column> {
    let mut created = Column::new("Created At", "date");
    created.format = String::new();
    vec![Column::new("Name", "string"), created]
}

fn role_cells(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Vec<Value> {
    let created = metadata.creation_timestamp.as_ref().map(|t| t.0.to_string()).unwrap_or_default();
    vec![name_cell(metadata), created.into()]
}

fn binding_columns() -> Vec<Column> {
    let wide = |name: &str| Column::new(name, "string").wide();
    vec![
        Column::new("Name", "string"),
        Column::new("Role", "string"),
        Column::new("Age", "string"),
        wide("Users"),
        wide("Groups"),
        wide("ServiceAccounts"),
    ]
}

fn subject_cells(subjects: Option<&Vec<rbac::Subject>>) -> [Value; 3] {
    let of = |kind: &str| {
        let names = subjects.into_iter().flatten().filter(|s| s.kind == kind).map(|s| match &s.namespace {
            Some(namespace) if !namespace.is_empty() => format!("{namespace}/{}", s.name),
            _ => s.name.clone(),
        });
        Value::from(names.collect::<Vec<_>>().join(", "))
    };
    [of("User"), of("Group"), of("ServiceAccount")]
}

impl Kind for Role {
    type Object = rbac::Role;
    const SINGULAR: &'static str = "role";
    const CREATED_BY_UPDATE: bool = true;
    fn validate_name(name: &str) -> Result<(), String> {
        path_segment(name)
    }
    fn validate(object: &rbac::Role, errors: &mut FieldErrors) {
        validate_rules(object.rules.as_ref(), errors);
    }
    fn columns() -> Vec<Column> {
        role_columns()
    }
    fn cells(object: &rbac::Role, _now: Timestamp) -> Vec<Value> {
        role_cells(&object.metadata)
    }
}

impl Kind for ClusterRole {
    type Object = rbac::ClusterRole;
    const SINGULAR: &'static str = "clusterrole";
    const CREATED_BY_UPDATE: bool = true;
    fn validate_name(name: &str) -> Result<(), String> {
        path_segment(name)
    }
    fn validate(object: &rbac::ClusterRole, errors: &mut FieldErrors) {
        validate_rules(object.rules.as_ref(), errors);
    }
    fn columns() -> Vec<Column> {
        role_columns()
    }
    fn cells(object: &rbac::ClusterRole, _now: Timestamp) -> Vec<Value> {
        role_cells(&object.metadata)
    }
}

impl Kind for RoleBinding {
    type Object = rbac::RoleBinding;
    const SINGULAR: &'static str = "rolebinding";
    const CREATED_BY_UPDATE: bool = true;
    fn default(object: &mut Value) {
        default_binding(object);
        let namespace = crate::meta::namespace(object).to_owned();
        for subject in items(object, "subjects").filter(|s| s["kind"] == "ServiceAccount") {
            fill(subject, "namespace", namespace.as_str());
        }
    }
    fn validate_name(name: &str) -> Result<(), String> {
        path_segment(name)
    }
    fn validate(object: &rbac::RoleBinding, errors: &mut FieldErrors) {
        validate_binding(&object.role_ref, &["ClusterRole", "Role"], object.subjects.as_ref(), errors);
    }
    fn validate_update(object: &rbac::RoleBinding, old: &rbac::RoleBinding, errors: &mut FieldErrors) {
        validate_role_ref(&object.role_ref, &old.role_ref, errors);
    }
    fn columns() -> Vec<Column> {
        binding_columns()
    }
    fn cells(object: &rbac::RoleBinding, now: Timestamp) -> Vec<Value> {
        let role = format!("{}/{}", object.role_ref.kind, object.role_ref.name);
        let mut cells = vec![name_cell(&object.metadata), role.into(), age_cell(&object.metadata, now)];
        cells.extend(subject_cells(object.subjects.as_ref()));
        cells
    }
}

impl Kind for ClusterRoleBinding {
    type Object = rbac::ClusterRoleBinding;
    const SINGULAR: &'static str = "clusterrolebinding";
    const CREATED_BY_UPDATE: bool = true;
    fn default(object: &mut Value) {
        default_binding(object);
    }
    fn validate_name(name: &str) -> Result<(), String> {
        path_segment(name)
    }
    fn validate(object: &rbac::ClusterRoleBinding, errors: &mut FieldErrors) {
        validate_binding(&object.role_ref, &["ClusterRole"], object.subjects.as_ref(), errors);
    }
    fn validate_update(
        object: &rbac::ClusterRoleBinding,
        old: &rbac::ClusterRoleBinding,
        errors: &mut FieldErrors,
    ) {
        validate_role_ref(&object.role_ref, &old.role_ref, errors);
    }
    fn columns() -> Vec<Column> {
        binding_columns()
    }
    fn cells(object: &rbac::ClusterRoleBinding, now: Timestamp) -> Vec<Value> {
        let role = format!("{}/{}", object.role_ref.kind, object.role_ref.name);
        let mut cells = vec![name_cell(&object.metadata), role.into(), age_cell(&object.metadata, now)];
        cells.extend(subject_cells(object.subjects.as_ref()));
        cells
    }
}
