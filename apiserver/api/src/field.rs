//! Field errors: what is wrong with an object, each with the path of the field.
//!
//! The texts are what Kubernetes' API machinery prints, because people and tools match on them.

use std::fmt;

/// A path into an object: `spec.containers[0].name`, `metadata.labels[a/b]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Path(String);

impl Path {
    pub fn new(root: &str) -> Self {
        Self(root.to_owned())
    }
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }
    #[must_use]
    pub fn index(&self, i: usize) -> Self {
        Self(format!("{}[{i}]", self.0))
    }
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// The sort of a field error; `reason()` is the string of `Status.details.causes[].reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Required,
    Invalid,
    NotSupported,
    NotFound,
    Duplicate,
    Forbidden,
    TooLong,
    TooMany,
    TooFew,
    TypeInvalid,
    InternalError,
}

impl Type {
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::NotFound => "FieldValueNotFound",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::InternalError => "InternalError",
        }
    }
}

/// One thing wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub kind: Type,
    pub path: String,
    /// The offending value as Kubernetes prints it (strings quoted), where the sort shows one.
    pub bad_value: Option<String>,
    pub detail: String,
}

impl Error {
    /// The message without the path: what `causes[].message` holds.
    pub fn body(&self) -> String {
        let head = match self.kind {
            Type::Required => "Required value",
            Type::Invalid => "Invalid value",
            Type::NotSupported => "Unsupported value",
            Type::NotFound => "Not found",
            Type::Duplicate => "Duplicate value",
            Type::Forbidden => "Forbidden",
            Type::TooLong => "Too long",
            Type::TooMany => "Too many",
            Type::TooFew => "Too few",
            Type::TypeInvalid => "Invalid value",
            Type::InternalError => "Internal error",
        };
        let mut text = head.to_owned();
        if let Some(v) = &self.bad_value {
            text.push_str(": ");
            text.push_str(v);
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

/// Faults that are told of one object. Nobody reads more, and a body has room for hundreds of thousands.
const MAX_FAULTS: usize = 1000;
/// Bytes of an offending value that are shown: it may be all that a body holds, and be told with each fault.
const MAX_SHOWN: usize = 10 * 1024;

/// All that is wrong with an object, up to a bound: validation never stops at the first fault.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Errors(pub Vec<Error>);

impl Errors {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn extend(&mut self, other: Errors) {
        let room = MAX_FAULTS.saturating_sub(self.0.len());
        self.0.extend(other.0.into_iter().take(room));
    }
    /// No more of them are told.
    pub fn is_full(&self) -> bool {
        self.0.len() >= MAX_FAULTS
    }
    pub fn add(&mut self, error: Error) {
        if !self.is_full() {
            self.0.push(error);
        }
    }
    fn push(&mut self, kind: Type, path: &Path, bad_value: Option<String>, detail: impl Into<String>) {
        self.add(Error { kind, path: path.to_string(), bad_value, detail: detail.into() });
    }
    fn push_shown(
        &mut self,
        kind: Type,
        path: &Path,
        value: impl serde::Serialize,
        detail: impl Into<String>,
    ) {
        if !self.is_full() {
            self.push(kind, path, Some(show(&value)), detail);
        }
    }
    pub fn required(&mut self, path: &Path, detail: impl Into<String>) {
        self.push(Type::Required, path, None, detail);
    }
    /// `value` is shown as Kubernetes shows it: strings in quotes, anything else as JSON.
    pub fn invalid(&mut self, path: &Path, value: impl serde::Serialize, detail: impl Into<String>) {
        self.push_shown(Type::Invalid, path, value, detail);
    }
    /// Without the value, where Kubernetes shows none.
    pub fn invalid_unshown(&mut self, path: &Path, detail: impl Into<String>) {
        self.push(Type::Invalid, path, None, detail);
    }
    pub fn not_supported(&mut self, path: &Path, value: &str, supported: &[&str]) {
        let list = supported.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", ");
        self.push(Type::NotSupported, path, Some(format!("{value:?}")), format!("supported values: {list}"));
    }
    /// As [`Self::not_supported`], of a list.
    pub fn not_supported_list(&mut self, path: &Path, values: &[&str], supported: &[&str]) {
        let list = supported.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", ");
        self.push(Type::NotSupported, path, Some(show(&values)), format!("supported values: {list}"));
    }
    pub fn not_found(&mut self, path: &Path, value: impl serde::Serialize) {
        self.push_shown(Type::NotFound, path, value, "");
    }
    pub fn duplicate(&mut self, path: &Path, value: impl serde::Serialize) {
        self.push_shown(Type::Duplicate, path, value, "");
    }
    pub fn forbidden(&mut self, path: &Path, detail: impl Into<String>) {
        self.push(Type::Forbidden, path, None, detail);
    }
    pub fn too_long(&mut self, path: &Path, max_bytes: usize) {
        self.push(
            Type::TooLong,
            path,
            None,
            format!("may not be more than {max_bytes} {}", if max_bytes == 1 { "byte" } else { "bytes" }),
        );
    }
    /// One error per text: what the checks of [`crate::names`] return.
    pub fn invalid_each(&mut self, path: &Path, value: impl serde::Serialize, details: Vec<String>) {
        if details.is_empty() || self.is_full() {
            return;
        }
        let value = show(&value);
        for detail in details {
            self.push(Type::Invalid, path, Some(value.clone()), detail);
        }
    }
    pub fn too_few(&mut self, path: &Path, actual: usize, min: usize) {
        let items = if min == 1 { "item" } else { "items" };
        self.push(Type::TooFew, path, Some(actual.to_string()), format!("must have at least {min} {items}"));
    }
    /// Something is wrong with us, not with the object.
    pub fn internal(&mut self, path: &Path, detail: impl Into<String>) {
        self.push(Type::InternalError, path, None, detail);
    }
    /// For a field whose type holds no valid value (a quantity that is none).
    pub fn type_invalid(&mut self, path: &Path, value: impl serde::Serialize, detail: impl Into<String>) {
        self.push_shown(Type::TypeInvalid, path, value, detail);
    }
    pub fn too_many(&mut self, path: &Path, actual: usize, max: usize) {
        self.push(Type::TooMany, path, Some(actual.to_string()), format!("must have at most {max} items"));
    }
}

fn show(value: &impl serde::Serialize) -> String {
    let mut shown = Shown(Vec::new());
    let written = serde_json::to_writer(&mut shown, value);
    let cut = shown.0.len() > MAX_SHOWN;
    if written.is_err() && !cut {
        return "<unprintable>".to_owned();
    }
    let mut end = shown.0.len().min(MAX_SHOWN);
    // Not in the middle of a character.
    while cut && end > 0 && shown.0[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    let text = String::from_utf8_lossy(&shown.0[..end]);
    if cut { format!("{text}...") } else { text.into_owned() }
}

/// The beginning of what is written: a value may be all of a body, and be shown with each of a thousand faults.
struct Shown(Vec<u8>);

impl std::io::Write for Shown {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() > MAX_SHOWN {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        // One byte more than is shown tells that there is more.
        let room = (MAX_SHOWN + 1 - self.0.len()).min(bytes.len());
        self.0.extend_from_slice(&bytes[..room]);
        Ok(room)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_has_an_end() {
        let mut errors = Errors::default();
        let large = "ä".repeat(MAX_SHOWN);
        for i in 0..2 * MAX_FAULTS {
            errors.invalid(&Path::new("list").index(i), &large, "is wrong");
        }
        let more = errors.clone();
        errors.extend(more);
        assert_eq!(errors.0.len(), MAX_FAULTS);
        let shown = errors.0[0].bad_value.as_deref().unwrap();
        assert!(shown.len() <= MAX_SHOWN + 3 && shown.ends_with("..."), "{}", shown.len());
    }
}
