//! The options of each verb, from the query (and for deletes from the body), checked as Kubernetes checks them.

use crate::error::{ApiError, Result};
use api::field;
use http::Uri;
use serde::Deserialize;
use std::num::IntErrorKind;

/// What a manager's name may measure (Kubernetes' limit).
const MAX_FIELD_MANAGER: usize = 128;

/// The query, decoded once; bytes that are no UTF-8 come out as U+FFFD, as in Go. The first of repeated parameters
/// counts, but for those that are lists.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn of(uri: &Uri) -> Self {
        let query = uri.query().unwrap_or_default();
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(k, _)| k == name)
    }
    /// The first value; a parameter with an empty value is as good as none.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.each(name).filter(|v| !v.is_empty())
    }
    /// As [`Query::all`], and what is empty too.
    pub fn each<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }
    fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }
    /// Present and neither `0` nor `false` is true, as Kubernetes converts booleans.
    pub fn flag(&self, name: &str) -> bool {
        self.optional_flag(name).unwrap_or(false)
    }
    pub fn optional_flag(&self, name: &str) -> Option<bool> {
        let (_, value) = self.0.iter().find(|(k, _)| k == name)?;
        Some(!matches!(value.to_ascii_lowercase().as_str(), "0" | "false"))
    }
    pub fn integer(&self, name: &str) -> Result<Option<i64>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|e: std::num::ParseIntError| {
            let why = match e.kind() {
                IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            ApiError::BadRequest(format!("strconv.ParseInt: parsing {value:?}: {why}"))
        })
    }
}

fn invalid(kind: &str, errors: field::Errors) -> Result<()> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::Invalid {
        group: "meta.k8s.io".to_owned(),
        kind: kind.to_owned(),
        name: String::new(),
        errors,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    Exact,
    NotOlderThan,
}

/// Which revision a read asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResourceVersion {
    /// The newest.
    #[default]
    Unset,
    /// `0`: any will do.
    Any,
    At(u64),
}

impl ResourceVersion {
    fn parse(text: &str) -> Result<Self> {
        match text {
            "" => Ok(Self::Unset),
            "0" => Ok(Self::Any),
            _ => text.parse().map(Self::At).map_err(|_| {
                let mut errors = field::Errors::default();
                errors.invalid(
                    &field::Path::new("resourceVersion"),
                    text,
                    "strconv.ParseUint: parsing: invalid syntax",
                );
                ApiError::BadRequest(format!("invalid resource version {text:?}: {}", errors.0[0].body()))
            }),
        }
    }
}

/// Options of list and watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    pub label_selector: String,
    pub field_selector: String,
    pub resource_version: ResourceVersion,
    pub resource_version_match: Option<Match>,
    pub limit: Option<usize>,
    /// The token of the page before.
    pub continue_token: String,
    pub timeout_seconds: Option<u64>,
    pub allow_watch_bookmarks: bool,
    pub send_initial_events: Option<bool>,
}

impl ListOptions {
    /// `watch` says which rules hold.
    pub fn parse(query: &Query, watch: bool) -> Result<Self> {
        let options = Self {
            label_selector: query.text("labelSelector"),
            field_selector: query.text("fieldSelector"),
            resource_version: ResourceVersion::parse(query.get("resourceVersion").unwrap_or_default())?,
            resource_version_match: match query.get("resourceVersionMatch") {
                Some("Exact") => Some(Match::Exact),
                Some("NotOlderThan") => Some(Match::NotOlderThan),
                _ => None,
            },
            limit: query.integer("limit")?.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0),
            continue_token: query.text("continue"),
            timeout_seconds: query
                .integer("timeoutSeconds")?
                .and_then(|n| u64::try_from(n).ok())
                .filter(|n| *n > 0),
            allow_watch_bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.optional_flag("sendInitialEvents"),
        };
        let mut errors = field::Errors::default();
        options.validate(query.get("resourceVersionMatch"), watch, &mut errors);
        invalid("ListOptions", errors)?;
        if !options.continue_token.is_empty() && matches!(options.resource_version, ResourceVersion::At(_)) {
            return Err(ApiError::BadRequest(
                "specifying resource version is not allowed when using continue".to_owned(),
            ));
        }
        Ok(options)
    }

    fn validate(&self, given_match: Option<&str>, watch: bool, errors: &mut field::Errors) {
        let rv_match = field::Path::new("resourceVersionMatch");
        let initial = field::Path::new("sendInitialEvents");
        if watch {
            if given_match.is_some() && self.send_initial_events.is_none() {
                errors.forbidden(
                    &rv_match,
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                );
            }
            if self.send_initial_events.is_some() {
                match self.resource_version_match {
                    Some(Match::NotOlderThan) => {}
                    _ if given_match.is_none() => {
                        errors.forbidden(
                            &rv_match,
                            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                        );
                    }
                    _ => errors.not_supported(&rv_match, given_match.unwrap_or_default(), &["NotOlderThan"]),
                }
            }
            return;
        }
        if self.send_initial_events.is_some() {
            errors.forbidden(&initial, "sendInitialEvents is forbidden for list");
        }
        let Some(given) = given_match else { return };
        if self.resource_version == ResourceVersion::Unset {
            errors
                .forbidden(&rv_match, "resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !self.continue_token.is_empty() {
            errors.forbidden(&rv_match, "resourceVersionMatch is forbidden when continue is provided");
        }
        match self.resource_version_match {
            None => errors.not_supported(&rv_match, given, &["Exact", "NotOlderThan"]),
            Some(Match::Exact) if self.resource_version == ResourceVersion::Any => {
                errors.forbidden(
                    &rv_match,
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                );
            }
            Some(_) => {}
        }
    }
}

/// How unknown and duplicate fields are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// Options of create, update and patch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
    pub field_validation: FieldValidation,
    /// Server-side apply only: take over fields that others own.
    pub force: Option<bool>,
}

impl WriteOptions {
    /// `kind` is what an error names: `CreateOptions`, `UpdateOptions`, `PatchOptions`.
    pub fn parse(query: &Query, kind: &str) -> Result<Self> {
        let mut errors = field::Errors::default();
        let manager = query.text("fieldManager");
        let path = field::Path::new("fieldManager");
        if manager.len() > MAX_FIELD_MANAGER {
            errors.too_long(&path, MAX_FIELD_MANAGER);
        }
        // The first is told.
        if let Some((at, wrong)) = manager.char_indices().find(|(_, c)| c.is_control()) {
            let detail = format!("invalid character U+{:04X} (at position {at})", u32::from(wrong));
            errors.invalid(&path, &manager, detail);
        }
        let field_validation = match query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                errors.not_supported(
                    &field::Path::new("fieldValidation"),
                    other,
                    &["", "Ignore", "Strict", "Warn"],
                );
                FieldValidation::Warn
            }
        };
        let dry_run = parse_dry_run(query.each("dryRun"), &mut errors);
        invalid(kind, errors)?;
        Ok(Self { dry_run, field_manager: manager, field_validation, force: query.optional_flag("force") })
    }
}

/// Only `All` is known; of others the whole list is shown.
fn parse_dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut field::Errors) -> bool {
    let values: Vec<&str> = values.collect();
    if values.iter().any(|v| *v != "All") {
        errors.not_supported_list(&field::Path::new("dryRun"), &values, &["All"]);
    }
    !values.is_empty()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// Options of delete and deletecollection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub propagation: Option<Propagation>,
    /// The old boolean was used: its answers differ a little (202).
    pub orphan_dependents: Option<bool>,
    pub dry_run: bool,
}

/// The body of a delete. Unknown fields are let through, as Kubernetes' decoder does.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeleteBody {
    kind: Option<String>,
    grace_period_seconds: Option<i64>,
    preconditions: Option<Preconditions>,
    orphan_dependents: Option<bool>,
    propagation_policy: Option<String>,
    #[serde(default)]
    dry_run: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

impl DeleteOptions {
    /// A body, if there is one, takes the place of the query.
    pub fn parse(query: &Query, body: Option<serde_json::Value>) -> Result<Self> {
        let given = match body {
            Some(value) => serde_json::from_value::<DeleteBody>(value)
                .map_err(|e| ApiError::BadRequest(format!("cannot read DeleteOptions: {e}")))?,
            None => DeleteBody {
                kind: None,
                grace_period_seconds: query.integer("gracePeriodSeconds")?,
                preconditions: None,
                orphan_dependents: query.optional_flag("orphanDependents"),
                propagation_policy: query.get("propagationPolicy").map(str::to_owned),
                dry_run: Some(query.each("dryRun").map(str::to_owned).collect()),
            },
        };
        if given.kind.as_deref().is_some_and(|k| !k.is_empty() && k != "DeleteOptions") {
            return Err(ApiError::BadRequest(
                "decoded object cannot be converted to DeleteOptions".to_owned(),
            ));
        }
        let mut errors = field::Errors::default();
        let policy = field::Path::new("propagationPolicy");
        let mut propagation = match given.propagation_policy.as_deref() {
            None => None,
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                errors.not_supported(&policy, other, &["Foreground", "Background", "Orphan", "nil"]);
                None
            }
        };
        if let Some(orphan) = given.orphan_dependents {
            if propagation.is_some() {
                errors.invalid(
                    &policy,
                    &given.propagation_policy,
                    "orphanDependents and deletionPropagation cannot be both set",
                );
            }
            propagation = Some(if orphan { Propagation::Orphan } else { Propagation::Background });
        }
        let dry_run = parse_dry_run(given.dry_run.iter().flatten().map(String::as_str), &mut errors);
        invalid("DeleteOptions", errors)?;
        let preconditions = given.preconditions.unwrap_or_default();
        Ok(Self {
            // Kubernetes takes a negative grace for one second.
            grace_period_seconds: given.grace_period_seconds.map(|s| if s < 0 { 1 } else { s }),
            uid: preconditions.uid.filter(|s| !s.is_empty()),
            resource_version: preconditions.resource_version.filter(|s| !s.is_empty()),
            propagation,
            orphan_dependents: given.orphan_dependents,
            dry_run,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn query(text: &str) -> Query {
        Query::of(&format!("/x?{text}").parse().unwrap())
    }

    #[test]
    fn list_options() {
        let options = ListOptions::parse(
            &query("labelSelector=a%3Db%2Cc&fieldSelector=metadata.name%3Dx&limit=5&resourceVersion=0"),
            false,
        )
        .unwrap();
        assert_eq!(options.label_selector, "a=b,c");
        assert_eq!(options.field_selector, "metadata.name=x");
        assert_eq!(options.limit, Some(5));
        assert_eq!(options.resource_version, ResourceVersion::Any);
        assert_eq!(
            ListOptions::parse(&query("limit=0&timeoutSeconds=0"), false).unwrap(),
            ListOptions::default()
        );
    }

    /// (query, is it a watch) → part of the message, or fine
    #[test]
    fn list_options_that_contradict_one_another() {
        for (text, watch, message) in [
            ("resourceVersionMatch=Exact&resourceVersion=5", false, ""),
            ("resourceVersionMatch=NotOlderThan&resourceVersion=0", false, ""),
            ("resourceVersionMatch=Exact", false, "forbidden unless resourceVersion is provided"),
            (
                "resourceVersionMatch=Exact&resourceVersion=0",
                false,
                "\"exact\" is forbidden for resourceVersion \"0\"",
            ),
            ("resourceVersionMatch=Newer&resourceVersion=5", false, "Unsupported value: \"Newer\""),
            (
                "resourceVersionMatch=Exact&resourceVersion=0&continue=x",
                false,
                "forbidden when continue is provided",
            ),
            ("sendInitialEvents=true", false, "sendInitialEvents is forbidden for list"),
            ("resourceVersion=5&continue=x", false, "not allowed when using continue"),
            ("resourceVersion=0&continue=x", false, ""),
            ("resourceVersion=abc", false, "invalid resource version"),
            ("limit=x", false, "strconv.ParseInt: parsing \"x\": invalid syntax"),
            (
                "resourceVersionMatch=NotOlderThan",
                true,
                "forbidden for watch unless sendInitialEvents is provided",
            ),
            ("sendInitialEvents=true", true, "requires setting resourceVersionMatch to NotOlderThan"),
            ("sendInitialEvents=true&resourceVersionMatch=Exact", true, "Unsupported value: \"Exact\""),
            ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", true, ""),
        ] {
            match ListOptions::parse(&query(text), watch) {
                Ok(_) => assert_eq!(message, "", "{text}"),
                Err(e) => assert!(!message.is_empty() && e.to_string().contains(message), "{text}: {e}"),
            }
        }
    }

    #[test]
    fn write_options() {
        let options =
            WriteOptions::parse(&query("dryRun=All&fieldManager=me&fieldValidation=Strict&force"), "X")
                .unwrap();
        assert_eq!(
            options,
            WriteOptions {
                dry_run: true,
                field_manager: "me".into(),
                field_validation: FieldValidation::Strict,
                force: Some(true)
            }
        );
        assert_eq!(WriteOptions::parse(&query(""), "X").unwrap(), WriteOptions::default());
        let e =
            WriteOptions::parse(&query("dryRun=Some&fieldValidation=Loose"), "CreateOptions").unwrap_err();
        assert_eq!(e.code().as_u16(), 422);
        assert!(
            e.to_string().starts_with("CreateOptions.meta.k8s.io")
                || e.to_string().starts_with("CreateOptions")
        );
    }

    #[test]
    fn delete_options() {
        let parsed = DeleteOptions::parse(
            &query("gracePeriodSeconds=9"),
            Some(json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": -3,
                "preconditions": {"uid": "u"}, "propagationPolicy": "Foreground", "dryRun": ["All"]})),
        )
        .unwrap();
        assert_eq!(
            parsed,
            DeleteOptions {
                grace_period_seconds: Some(1),
                uid: Some("u".into()),
                propagation: Some(Propagation::Foreground),
                dry_run: true,
                ..Default::default()
            }
        );
        let parsed =
            DeleteOptions::parse(&query("gracePeriodSeconds=0&orphanDependents=true"), None).unwrap();
        assert_eq!(parsed.grace_period_seconds, Some(0));
        assert_eq!(parsed.propagation, Some(Propagation::Orphan));
        for bad in [
            json!({"propagationPolicy": "Sometimes"}),
            json!({"propagationPolicy": "Orphan", "orphanDependents": true}),
            json!({"kind": "Pod"}),
            json!({"gracePeriodSeconds": "x"}),
        ] {
            assert!(DeleteOptions::parse(&query(""), Some(bad.clone())).is_err(), "{bad}");
        }
    }
}
