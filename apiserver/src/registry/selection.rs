//! Which objects of a kind a list, a watch or a deletecollection is about.
//!
//! Works on stored bytes: labels are read by a light parse of the metadata, names from the key; only a field selector
//! on other fields decodes the object.

use super::facts::Facts;
use crate::{
    error::{ApiError, Result},
    kinds::AnyKind,
    request::options::ListOptions,
};
use api::selector::{FieldSelector, Selector};
use std::borrow::Cow;
use storage::Key;

#[derive(Debug, Clone, Default)]
pub struct Selection {
    labels: Selector,
    fields: FieldSelector,
    /// The field selector names fields besides name and namespace.
    needs_object: bool,
}

impl Selection {
    pub fn parse(kind: &dyn AnyKind, options: &ListOptions) -> Result<Self> {
        let labels = Selector::parse(&options.label_selector).map_err(ApiError::BadRequest)?;
        let fields = FieldSelector::parse(&options.field_selector).map_err(ApiError::BadRequest)?;
        let mut needs_object = false;
        for term in fields.terms() {
            match term.field.as_str() {
                "metadata.name" => {}
                // Of a kind without namespaces it is empty; some of those refuse to be asked.
                "metadata.namespace" if kind.resource().namespaced || !names_its_fields(kind) => {}
                field if kind.selectable().contains(&field) => needs_object = true,
                field => return Err(ApiError::BadRequest(not_selectable(kind, field))),
            }
        }
        Ok(Self { labels, fields, needs_object })
    }

    /// The same, for one name: what the old `/watch/…/NAME` path asks for.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        if !name.is_empty() {
            let text = format!("metadata.name={name}");
            self.fields = FieldSelector::parse(&text).unwrap_or_default();
            self.needs_object = false;
        }
        self
    }

    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// The one name that can match.
    pub fn name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }

    /// The namespace outside of which nothing can match.
    pub fn namespace(&self) -> Option<&str> {
        self.fields.exact("metadata.namespace")
    }

    /// Whether the object with these facts, stored under `key`, is meant. One that cannot be read matches nothing.
    pub fn matches(&self, kind: &dyn AnyKind, key: &Key, facts: &Facts) -> bool {
        if !self.fields.is_everything() {
            let (namespace, name) = names(kind, key);
            let fields = if self.needs_object {
                let Some(fields) = facts.fields(kind) else { return false };
                fields
            } else {
                Cow::Borrowed(&[][..])
            };
            let matches = self.fields.matches(|field| match field {
                "metadata.name" => Some(name),
                "metadata.namespace" => Some(namespace),
                _ => fields.iter().find(|(f, _)| *f == field).map(|(_, value)| value.as_str()),
            });
            if !matches {
                return false;
            }
        }
        self.labels.is_everything() || facts.labels().is_some_and(|labels| self.labels.matches(labels))
    }
}

/// Namespace and name, from the key's last segments.
pub(crate) fn names<'k>(kind: &dyn AnyKind, key: &'k Key) -> (&'k str, &'k str) {
    let mut parts = key.as_str().rsplit('/');
    let name = parts.next().unwrap_or_default();
    let namespace = if kind.resource().namespaced { parts.next().unwrap_or_default() } else { "" };
    (namespace, name)
}
/// Kinds with more to select than names say themselves what there is.
fn names_its_fields(kind: &dyn AnyKind) -> bool {
    kind.custom().is_some() || !kind.selectable().is_empty()
}

/// Why a field cannot be selected, in the words that Kubernetes has for the kind.
fn not_selectable(kind: &dyn AnyKind, field: &str) -> String {
    let r = kind.resource();
    match r.kind {
        "Job" => format!("field label {field:?} not supported for Job"),
        _ if names_its_fields(kind) => format!("field label not supported: {field}"),
        _ => {
            format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        }
    }
}
