//! What a definition may say. Its schemas are judged by `crate::custom::structural`.

use crate::{
    custom::{JsonPath, Schema, schema::Type, structural},
    kinds::shared::repeats,
};
use api::{
    field::{Errors, Path},
    names,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceConversion, CustomResourceDefinition,
    CustomResourceDefinitionNames, CustomResourceDefinitionVersion, CustomResourceSubresourceScale,
};
use serde_json::Value;
use std::collections::{HashMap, HashSet};

const APPROVED: &str = "api-approved.kubernetes.io";
const COLUMN_TYPES: &str = "boolean,date,integer,number,string";
const COLUMN_FORMATS: &str = "byte,date,date-time,double,float,int32,int64,password";
const MAX_SELECTABLE: usize = 8;
const MAX_DEPRECATION_WARNING: usize = 256;

pub(super) fn whole(object: &CustomResourceDefinition, old: Option<&CustomResourceDefinition>) -> Errors {
    let mut errors = Errors::default();
    let spec = &object.spec;
    let wanted = format!("{}.{}", spec.names.plural, spec.group);
    let name = object.metadata.name.as_deref().unwrap_or_default();
    if old.is_none() && name != wanted {
        let path = Path::new("metadata").child("name");
        errors.invalid(&path, name, r#"must be spec.names.plural+"."+spec.group"#);
    }
    spec_of(object, old, &Path::new("spec"), &mut errors);
    errors.extend(status(object));
    stored_versions(object, &mut errors);
    approval(object, old, &mut errors);
    if let Some(old) = old {
        let path = Path::new("spec");
        let immutable = |same: bool, path: &Path, value: &str, errors: &mut Errors| {
            if !same {
                errors.invalid(path, value, "field is immutable");
            }
        };
        let (was, names) = (&old.spec, path.child("names"));
        if super::is_true(old, "Established") {
            immutable(was.scope == spec.scope, &path.child("scope"), &spec.scope, &mut errors);
            immutable(was.names.kind == spec.names.kind, &names.child("kind"), &spec.names.kind, &mut errors);
        }
        immutable(was.group == spec.group, &path.child("group"), &spec.group, &mut errors);
        let plural = was.names.plural == spec.names.plural;
        immutable(plural, &names.child("plural"), &spec.names.plural, &mut errors);
    }
    errors
}

pub(super) fn status(object: &CustomResourceDefinition) -> Errors {
    let mut errors = Errors::default();
    if let Some(accepted) = object.status.as_ref().and_then(|s| s.accepted_names.as_ref()) {
        check_names(accepted, &Path::new("status").child("acceptedNames"), &mut errors);
    }
    errors
}

pub(super) fn warnings(object: &CustomResourceDefinition) -> Vec<String> {
    let schemas = object.spec.versions.iter().filter_map(schema_of);
    schemas.flat_map(|schema| structural::unrecognized_formats(&schema)).collect()
}

/// The schema as its JSON.
fn schema_of(version: &CustomResourceDefinitionVersion) -> Option<Value> {
    let schema = version.schema.as_ref()?.open_api_v3_schema.as_ref()?;
    serde_json::to_value(schema).ok()
}

fn spec_of(
    object: &CustomResourceDefinition,
    old: Option<&CustomResourceDefinition>,
    path: &Path,
    errors: &mut Errors,
) {
    let spec = &object.spec;
    let group = path.child("group");
    if spec.group.is_empty() {
        errors.required(&group, "");
    } else if let faults @ [_, ..] = names::dns_subdomain(&spec.group).as_slice() {
        errors.invalid(&group, &spec.group, faults.join(","));
    } else if !spec.group.contains('.') {
        errors.invalid(&group, &spec.group, "should be a domain with at least one dot");
    }
    match spec.scope.as_str() {
        "Cluster" | "Namespaced" => {}
        "" => errors.required(&path.child("scope"), ""),
        other => errors.not_supported(&path.child("scope"), other, &["Cluster", "Namespaced"]),
    }
    if spec.preserve_unknown_fields == Some(true) {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
                      spec.versions[*].schema instead";
        errors.invalid(&path.child("preserveUnknownFields"), true, detail);
    }
    let versions = path.child("versions");
    if repeats(spec.versions.iter().map(|v| &v.name)).contains(&true) {
        errors.invalid(&versions, &spec.versions, "must contain unique version names");
    }
    let mut known: HashMap<&str, &CustomResourceDefinitionVersion> = HashMap::new();
    for version in old.iter().flat_map(|o| &o.spec.versions) {
        known.insert(&version.name, version);
    }
    for (i, version) in spec.versions.iter().enumerate() {
        let path = versions.index(i);
        if let faults @ [_, ..] = names::dns1035_label(&version.name).as_slice() {
            errors.invalid(&path.child("name"), &version.name, faults.join(","));
        }
        // What was accepted once is not judged anew.
        let same = |o: &&&CustomResourceDefinitionVersion| {
            o.schema == version.schema && o.subresources == version.subresources
        };
        let accepted = known.get(version.name.as_str()).filter(same).is_some();
        check_version(version, accepted, &path, errors);
    }
    if spec.versions.iter().filter(|v| v.storage).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.invalid(&versions, &spec.versions, detail);
    }
    let names_path = path.child("names");
    for (name, value) in [
        ("plural", Some(&spec.names.plural)),
        ("singular", spec.names.singular.as_ref()),
        ("kind", Some(&spec.names.kind)),
        ("listKind", spec.names.list_kind.as_ref()),
    ] {
        if value.is_none_or(String::is_empty) {
            errors.required(&names_path.child(name), "");
        }
    }
    check_names(&spec.names, &names_path, errors);
    if let Some(conversion) = &spec.conversion {
        check_conversion(conversion, spec.versions.len(), &path.child("conversion"), errors);
    }
}

fn check_version(version: &CustomResourceDefinitionVersion, known: bool, path: &Path, errors: &mut Errors) {
    let warning = version.deprecation_warning.as_deref();
    let warning_path = path.child("deprecationWarning");
    if let Some(text) = warning {
        if version.deprecated != Some(true) {
            errors.invalid(&warning_path, text, "can only be set for deprecated versions");
        }
        if text.len() > MAX_DEPRECATION_WARNING {
            errors.invalid(&warning_path, text, "must be <= 256 characters long");
        }
        if text.is_empty() {
            errors.invalid(&warning_path, text, "must not be an empty string");
        }
        if let Some((at, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
            let detail = format!(
                "must only contain printable UTF-8 characters; non-printable character found at index {at}"
            );
            errors.invalid(&warning_path, text, detail);
        }
    }
    let schema_path = path.child("schema").child("openAPIV3Schema");
    let schema = schema_of(version);
    let status = version.subresources.as_ref().is_some_and(|s| s.status.is_some());
    match &schema {
        None => errors.required(&schema_path, ""),
        Some(_) if known => {}
        Some(schema) => errors.extend(structural::check(schema, status, &schema_path)),
    }
    if let Some(scale) = version.subresources.as_ref().and_then(|s| s.scale.as_ref()) {
        check_scale(scale, &path.child("subresources"), errors);
    }
    for (i, column) in version.additional_printer_columns.iter().flatten().enumerate() {
        check_column(column, &path.child("additionalPrinterColumns").index(i), errors);
    }
    let mut seen = HashSet::new();
    let selectable = path.child("selectableFields");
    let parsed = schema.as_ref().map(Schema::read).unwrap_or_default();
    for (i, field) in version.selectable_fields.iter().flatten().enumerate() {
        let (path, text) = (selectable.index(i).child("jsonPath"), field.json_path.as_str());
        if text.is_empty() {
            errors.required(&path, "");
            continue;
        }
        let Some(found) = plain_field(&parsed, text) else {
            errors.invalid(&path, text, "is an invalid path: does not refer to a valid field");
            continue;
        };
        if text.trim_start_matches('.').split('.').next() == Some("metadata") {
            errors.invalid(&path, text, "must not point to fields in metadata");
        }
        if !matches!(found.kind, Type::String | Type::Boolean | Type::Integer) {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings \
                          with formats are allowed.";
            errors.invalid(&path, text, detail);
        }
        if !seen.insert(text) {
            errors.duplicate(&path, text);
        }
    }
    if seen.len() > MAX_SELECTABLE {
        errors.too_many(&selectable, seen.len(), MAX_SELECTABLE);
    }
}

/// The schema that a plain path leads to.
fn plain_field<'s>(schema: &'s Schema, path: &str) -> Option<&'s Schema> {
    path.strip_prefix('.')?.split('.').try_fold(schema, |schema, name| schema.properties.get(name))
}

fn check_scale(scale: &CustomResourceSubresourceScale, path: &Path, errors: &mut Errors) {
    let mut one = |name: &str, text: &str, below: &[&str], detail: &str| {
        let path = path.child(&format!("scale.{name}"));
        if text.is_empty() {
            errors.required(&path, "");
        } else if !text.starts_with('.') {
            errors.invalid(&path, text, "must be a simple json path starting with .");
        } else if !below.iter().any(|prefix| text.starts_with(prefix)) {
            errors.invalid(&path, text, detail);
        }
    };
    one("specReplicasPath", &scale.spec_replicas_path, &[".spec."], "should be a json path under .spec");
    one(
        "statusReplicasPath",
        &scale.status_replicas_path,
        &[".status."],
        "should be a json path under .status",
    );
    if let Some(selector) = scale.label_selector_path.as_deref().filter(|s| !s.is_empty()) {
        let detail = "should be a json path under either .spec or .status";
        one("labelSelectorPath", selector, &[".spec.", ".status."], detail);
    }
}

fn check_column(column: &CustomResourceColumnDefinition, path: &Path, errors: &mut Errors) {
    if column.name.is_empty() {
        errors.required(&path.child("name"), "");
    }
    let one_of = |all: &str| format!("must be one of {all}");
    if column.type_.is_empty() {
        errors.required(&path.child("type"), one_of(COLUMN_TYPES));
    } else if !COLUMN_TYPES.split(',').any(|t| t == column.type_) {
        errors.invalid(&path.child("type"), &column.type_, one_of(COLUMN_TYPES));
    }
    let format = column.format.as_deref().unwrap_or_default();
    if !format.is_empty() && !COLUMN_FORMATS.split(',').any(|f| f == format) {
        errors.invalid(&path.child("format"), format, one_of(COLUMN_FORMATS));
    }
    let json_path = path.child("JSONPath");
    if column.json_path.is_empty() {
        errors.required(&json_path, "");
    } else if !column.json_path.starts_with('.') {
        errors.invalid(&json_path, &column.json_path, "must be a simple json path starting with .");
    } else if let Err(why) = JsonPath::parse(&column.json_path) {
        errors.invalid(&json_path, &column.json_path, format!("is an invalid path: {why}"));
    }
}

fn check_names(names: &CustomResourceDefinitionNames, path: &Path, errors: &mut Errors) {
    let mut label = |path: Path, value: &str, folded: &str, prefix: &str| {
        let faults = names::dns1035_label(folded);
        if !folded.is_empty() && !faults.is_empty() {
            errors.invalid(&path, value, format!("{prefix}{}", faults.join(",")));
        }
    };
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    let (singular, list_kind) = (text(names.singular.as_ref()), text(names.list_kind.as_ref()));
    label(path.child("plural"), &names.plural, &names.plural, "");
    label(path.child("singular"), &singular, &singular, "");
    let mixed = "may have mixed case, but should otherwise match: ";
    label(path.child("kind"), &names.kind, &names.kind.to_lowercase(), mixed);
    label(path.child("listKind"), &list_kind, &list_kind.to_lowercase(), mixed);
    for (field, all) in [("shortNames", &names.short_names), ("categories", &names.categories)] {
        for (i, one) in all.iter().flatten().enumerate() {
            label(path.child(field).index(i), one, one, "");
        }
    }
    if !names.kind.is_empty() && names.kind == list_kind {
        errors.invalid(&path.child("listKind"), &list_kind, "kind and listKind may not be the same");
    }
}

fn check_conversion(
    conversion: &CustomResourceConversion,
    versions: usize,
    path: &Path,
    errors: &mut Errors,
) {
    match conversion.strategy.as_str() {
        "" => errors.required(&path.child("strategy"), ""),
        "None" => {
            if conversion.webhook.is_some() {
                let detail = "should not be set when strategy is not set to Webhook";
                errors.forbidden(&path.child("webhookClientConfig"), detail);
            }
        }
        // One version is never converted. Several would be served as if they had one form: better to say so.
        "Webhook" if versions > 1 => {
            let detail = "conversion webhooks are not built yet: with several versions use None";
            errors.invalid(&path.child("strategy"), &conversion.strategy, detail);
        }
        "Webhook" => {}
        other => errors.not_supported(&path.child("strategy"), other, &["None", "Webhook"]),
    }
}

fn stored_versions(object: &CustomResourceDefinition, errors: &mut Errors) {
    let path = Path::new("status").child("storedVersions");
    let stored = object.status.as_ref().and_then(|s| s.stored_versions.as_ref());
    let stored = stored.map(Vec::as_slice).unwrap_or_default();
    if stored.is_empty() {
        return errors.invalid(&path, stored, "must have at least one stored version");
    }
    let names: HashSet<&str> = object.spec.versions.iter().map(|v| v.name.as_str()).collect();
    for (i, name) in stored.iter().enumerate() {
        if !names.contains(name.as_str()) {
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in \
                 spec.versions until a storage migration ensures no data remains persisted in {name} and removes \
                 {name} from status.storedVersions"
            );
            errors.invalid(&path.index(i), name, detail);
        }
    }
}

/// Groups of the Kubernetes community need a word of why.
fn approval(object: &CustomResourceDefinition, old: Option<&CustomResourceDefinition>, errors: &mut Errors) {
    let group = object.spec.group.as_str();
    let within =
        |domain: &str| group == domain || group.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    if !within("k8s.io") && !within("kubernetes.io") {
        return;
    }
    let said = |o: &CustomResourceDefinition| {
        o.metadata.annotations.as_ref().and_then(|a| a.get(APPROVED)).cloned().unwrap_or_default()
    };
    let text = said(object);
    if old.is_some_and(|old| said(old) == text) {
        return;
    }
    let path = Path::new("metadata").child("annotations").key(APPROVED);
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    if text.is_empty() {
        errors.required(&path, format!("protected groups must have approval annotation {APPROVED:?}, {see}"));
    } else if !text.starts_with("unapproved") && !text.contains("://") {
        let detail = format!(
            "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \
             \"unapproved\", {see}"
        );
        errors.invalid(&path, text, detail);
    }
}
