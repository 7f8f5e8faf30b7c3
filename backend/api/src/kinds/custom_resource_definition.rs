//! CustomResourceDefinition: a kind that users bring.
use super::support::*;
use crate::kind::{Column, Kind, Subresource};
use crate::meta;
use crate::validation::{FieldErrors, Path};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

pub struct CustomResourceDefinition;

impl Kind for CustomResourceDefinition {
    type Object = apiextensions::CustomResourceDefinition;
    const SINGULAR: &'static str = "customresourcedefinition";
    const SHORT_NAMES: &'static [&'static str] = &["crd", "crds"];
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const SUBRESOURCES: &'static [Subresource] =
        &[status("apiextensions.k8s.io", "v1", "CustomResourceDefinition")];
    const STATUS_KEEPS: &'static [&'static str] = crate::kind::CLIENT_METADATA;
    const HAS_GENERATION: bool = true;

    fn default(object: &mut Value) {
        let spec = child(object, "spec");
        let kind = spec["names"]["kind"].as_str().unwrap_or_default().to_owned();
        let names = child(spec, "names");
        fill(names, "singular", kind.to_lowercase());
        fill(names, "listKind", format!("{kind}List"));
        let conversion = child(spec, "conversion");
        fill(conversion, "strategy", "None");
        if conversion["webhook"]["clientConfig"]["service"].is_object() {
            fill(&mut conversion["webhook"]["clientConfig"]["service"], "port", 443);
        }
    }

    fn before_create(object: &mut Value) {
        let versions = object["spec"]["versions"].as_array().into_iter().flatten();
        let stored: Vec<Value> =
            versions.filter(|v| v["storage"] == true).map(|v| v["name"].clone()).collect();
        let accepted = json!({"plural": "", "kind": ""});
        reset_status(object, json!({"storedVersions": stored, "acceptedNames": accepted, "conditions": []}));
    }

    fn before_update(object: &mut Value, _old: &Value) {
        let versions = object["spec"]["versions"].as_array().into_iter().flatten();
        let stored = versions.filter(|v| v["storage"] == true).map(|v| v["name"].clone()).next();
        // Objects may be stored in it from now on.
        if let (Some(version), Some(known)) = (stored, object["status"]["storedVersions"].as_array_mut())
            && !known.contains(&version)
        {
            known.push(version);
        }
    }

    fn before_marked_for_deletion(object: &mut Value) {
        let since = object["metadata"]["deletionTimestamp"].clone();
        let terminating = json!({
            "type": "Terminating", "status": "True", "reason": "InstanceDeletionPending", "lastTransitionTime": since,
            "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
        });
        if let Some(conditions) = object["status"]["conditions"].as_array_mut() {
            conditions.push(terminating);
        }
    }

    fn deletion_finalizers() -> &'static [&'static str] {
        &["customresourcecleanup.apiextensions.k8s.io"]
    }

    fn validate(object: &Self::Object, errors: &mut FieldErrors) {
        let (path, spec) = (Path::new("spec"), &object.spec);
        let wanted = format!("{}.{}", spec.names.plural, spec.group);
        let name = object.metadata.name.as_deref().unwrap_or_default();
        if name != wanted {
            let detail = "must be spec.names.plural+\".\"+spec.group";
            errors.invalid(&Path::new("metadata").child("name"), name, detail);
        }
        match spec.group.as_str() {
            "" => errors.required(&path.child("group"), ""),
            group if !group.contains('.') => {
                errors.invalid(&path.child("group"), group, "should be a domain with at least one dot");
            }
            group => {
                if let Err(why) = meta::dns_subdomain(group) {
                    errors.invalid(&path.child("group"), group, why);
                }
            }
        }
        one_of(Some(&spec.scope), &["Cluster", "Namespaced"], &path.child("scope"), errors);
        validate_approval(object, errors);
        if spec.preserve_unknown_fields == Some(true) {
            let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
            errors.invalid(&path.child("preserveUnknownFields"), true, detail);
        }
        validate_names(&spec.names, &path.child("names"), errors);
        validate_versions(&spec.versions, &path.child("versions"), errors);
        #[cfg(feature = "schema")]
        for (i, version) in spec.versions.iter().enumerate() {
            let version = serde_json::to_value(version).unwrap_or_default();
            let path = path.child("versions").index(i);
            crate::custom::definition::validate_version(&version, &path, errors);
        }
        if let Some(conversion) = &spec.conversion {
            validate_conversion(conversion, &path.child("conversion"), errors);
        }
    }

    fn validate_create(object: &Self::Object, errors: &mut FieldErrors) {
        validate_costs(&object.spec.versions, &[], errors);
    }

    fn validate_update(object: &Self::Object, old: &Self::Object, errors: &mut FieldErrors) {
        validate_costs(&object.spec.versions, &old.spec.versions, errors);
        let (path, new, old_spec) = (Path::new("spec"), &object.spec, &old.spec);
        let changes = [("group", &new.group, &old_spec.group), ("scope", &new.scope, &old_spec.scope)];
        for (field, new, old) in changes {
            validate_immutable(new != old, &path.child(field), new.as_str().into(), errors);
        }
        let (plural, kind) = (&new.names.plural, &new.names.kind);
        let names = path.child("names");
        let changed = *plural != old_spec.names.plural;
        validate_immutable(changed, &names.child("plural"), plural.as_str().into(), errors);
        let changed = *kind != old_spec.names.kind;
        validate_immutable(changed, &names.child("kind"), kind.as_str().into(), errors);
        // Objects may still be stored in a version that is about to go.
        let stored = old.status.as_ref().and_then(|s| s.stored_versions.clone()).unwrap_or_default();
        for (i, version) in stored.iter().enumerate() {
            if !new.versions.iter().any(|v| v.name == *version) {
                let path = Path::new("status").child("storedVersions").index(i);
                let detail = format!(
                    "missing from spec.versions; {version} was previously a storage version, and must remain in \
                     spec.versions until a storage migration ensures no data remains persisted in {version} and \
                     removes {version} from status.storedVersions"
                );
                errors.invalid(&path, version.as_str(), detail);
            }
        }
    }

    fn columns() -> Vec<Column> {
        vec![text("Name"), Column::new("Created At", "date")]
    }

    fn cells(object: &Self::Object, _now: Timestamp) -> Vec<Value> {
        vec![name_cell(&object.metadata), created_cell(&object.metadata)]
    }
}

/// What rules may cost, of versions whose schema is new.
#[cfg_attr(not(feature = "schema"), allow(unused_variables))]
fn validate_costs(
    new: &[apiextensions::CustomResourceDefinitionVersion],
    old: &[apiextensions::CustomResourceDefinitionVersion],
    errors: &mut FieldErrors,
) {
    #[cfg(feature = "schema")]
    for (index, version) in new.iter().enumerate() {
        let known = old.iter().find(|old| old.name == version.name);
        if known.is_none_or(|known| known.schema != version.schema) {
            let path = Path::new("spec").child("versions").index(index);
            let version = serde_json::to_value(version).unwrap_or_default();
            crate::custom::definition::validate_costs(&version, &path, errors);
        }
    }
}

fn validate_conversion(
    conversion: &apiextensions::CustomResourceConversion,
    path: &Path,
    errors: &mut FieldErrors,
) {
    one_of(Some(&conversion.strategy), &["None", "Webhook"], &path.child("strategy"), errors);
    let path = path.child("webhook");
    let webhook = match (conversion.strategy.as_str(), &conversion.webhook) {
        ("Webhook", Some(webhook)) => webhook,
        ("Webhook", None) => return errors.required(&path, "required when strategy is set to Webhook"),
        (_, Some(_)) => {
            return errors.forbidden(&path, "should not be set when strategy is not set to Webhook");
        }
        (_, None) => return,
    };
    let client = path.child("clientConfig");
    match &webhook.client_config {
        None => errors.required(&client, "required when strategy is set to Webhook"),
        Some(config) => {
            let service = config.service.as_ref().map(|s| (s.name.as_str(), s.namespace.as_str()));
            webhook::validate_client(config.url.as_deref(), service, &client, errors);
        }
    }
    let path = path.child("conversionReviewVersions");
    let versions = &webhook.conversion_review_versions;
    if versions.is_empty() {
        errors.required(&path, "");
    } else if !versions.iter().any(|version| matches!(version.as_str(), "v1" | "v1beta1")) {
        errors.invalid(&path, versions.clone(), "must include at least one of v1, v1beta1");
    }
    for (i, version) in versions.iter().enumerate() {
        if let Err(why) = meta::dns_label(version) {
            errors.invalid(&path.index(i), version.as_str(), why);
        }
        if versions[..i].contains(version) {
            errors.invalid(&path.index(i), version.as_str(), "duplicate version");
        }
    }
}

/// Groups of the Kubernetes project are for APIs it has agreed to.
fn validate_approval(object: &apiextensions::CustomResourceDefinition, errors: &mut FieldErrors) {
    const APPROVED: &str = "api-approved.kubernetes.io";
    let group = &object.spec.group;
    let is_protected = [".k8s.io", ".kubernetes.io"].iter().any(|domain| group.ends_with(domain))
        || matches!(group.as_str(), "k8s.io" | "kubernetes.io");
    let path = Path::new("metadata").child("annotations").key(APPROVED);
    let annotation = object.metadata.annotations.as_ref().and_then(|all| all.get(APPROVED));
    match annotation.map(String::as_str) {
        _ if !is_protected => {}
        None | Some("") => {
            let why = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see \
                       https://github.com/kubernetes/enhancements/pull/1111";
            errors.required(&path, why);
        }
        Some(text) if text.starts_with("unapproved") || text.starts_with("http") => {}
        Some(text) => {
            let why = "protected groups must have approval annotation \"api-approved.kubernetes.io\" with either a \
                       URL or a reason starting with \"unapproved\", see \
                       https://github.com/kubernetes/enhancements/pull/1111";
            errors.invalid(&path, text, why);
        }
    }
}

fn validate_names(
    names: &apiextensions::CustomResourceDefinitionNames,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let lower = |text: &str| text.to_lowercase();
    let given = [
        ("plural", Some(&names.plural)),
        ("singular", names.singular.as_ref()),
        ("kind", Some(&names.kind)),
        ("listKind", names.list_kind.as_ref()),
    ];
    for (field, name) in given {
        let name = name.map(String::as_str).unwrap_or_default();
        match name {
            "" => errors.required(&path.child(field), ""),
            name => {
                // A kind is a label but for its capitals; the names of URLs have none.
                let text = if field.ends_with("ind") { lower(name) } else { name.to_owned() };
                if let Err(why) = meta::dns_label(&text) {
                    let why = match field.ends_with("ind") {
                        true => format!("may have mixed case, but should otherwise match: {why}"),
                        false => why,
                    };
                    errors.invalid(&path.child(field), name, why);
                }
            }
        }
    }
    if !names.kind.is_empty() && names.list_kind.as_deref() == Some(names.kind.as_str()) {
        let detail = "kind and listKind may not be the same";
        errors.invalid(&path.child("listKind"), names.kind.as_str(), detail);
    }
}

fn validate_versions(
    versions: &[apiextensions::CustomResourceDefinitionVersion],
    path: &Path,
    errors: &mut FieldErrors,
) {
    let mut names = std::collections::BTreeSet::new();
    for (i, version) in versions.iter().enumerate() {
        let path = path.index(i);
        if let Err(why) = meta::dns_label(&version.name) {
            errors.invalid(&path.child("name"), version.name.as_str(), why);
        }
        if !names.insert(&version.name) {
            errors.invalid(&path.child("name"), version.name.as_str(), "must be unique");
        }
        let schema = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref());
        if schema.is_none() {
            errors.required(&path.child("schema").child("openAPIV3Schema"), "schemas are required");
        }
    }
    if versions.iter().filter(|v| v.storage).count() != 1 {
        errors.invalid(path, "", "must have exactly one version marked as storage version");
    }
}
