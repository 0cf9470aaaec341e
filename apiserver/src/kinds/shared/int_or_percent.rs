//! Numbers that may also be a share: `3` or `25%`.

use super::pod_template::NEGATIVE;
use api::field::{Errors, Path};
use api::names;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A count, or a percentage without an upper bound.
pub(in crate::kinds) fn validate(value: &IntOrString, path: &Path, errors: &mut Errors) {
    match value {
        IntOrString::Int(number) if *number < 0 => errors.invalid(path, number, NEGATIVE),
        IntOrString::Int(_) => {}
        IntOrString::String(text) => errors.invalid_each(path, text, names::percent(text)),
    }
}

/// [`validate`], and no more than all.
pub(in crate::kinds) fn validate_share(value: &IntOrString, path: &Path, errors: &mut Errors) {
    validate(value, path, errors);
    if let IntOrString::String(text) = value
        && names::percent(text).is_empty()
        && text.trim_end_matches('%').parse::<u32>().map_or(true, |n| n > 100)
    {
        errors.invalid(path, text, "must not be greater than 100%");
    }
}

/// Whether it says zero, in either form.
pub(in crate::kinds) fn is_zero(value: &IntOrString) -> bool {
    match value {
        IntOrString::Int(number) => *number == 0,
        IntOrString::String(text) => text.trim_end_matches('%').parse::<u64>() == Ok(0),
    }
}
