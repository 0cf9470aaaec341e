//! Whether a value is what its schema demands, in the words of Kubernetes' validator.
//!
//! An update is judged by what it changes ("ratcheting"): a value that is as it was is not judged, so that an object from
//! before a schema was tightened can still be changed elsewhere. Elements of lists are told apart by their keys alone.

use super::{
    formats,
    schema::{ListType, Schema, Type, map_key},
};
use api::field::{Error, Errors, Path, Type as Sort};
use serde_json::{Map, Value};

/// What is wrong with `value`; `old` is what it was before, if there was one.
pub(crate) fn validate(value: &Value, old: Option<&Value>, schema: &Schema, path: &str) -> Errors {
    let mut errors = Errors::default();
    check(value, old, schema, path, &mut errors);
    errors
}

fn check(value: &Value, old: Option<&Value>, schema: &Schema, path: &str, errors: &mut Errors) {
    if old == Some(value) {
        return;
    }
    let before = errors.0.len();
    check_type(value, schema, path, errors);
    if errors.0.len() > before {
        return;
    }
    match value {
        Value::String(text) => check_string(text, schema, path, errors),
        Value::Number(number) => check_number(number.as_f64().unwrap_or(0.0), value, schema, path, errors),
        Value::Array(items) => check_array(items, old, schema, path, errors),
        Value::Object(map) => check_object(map, old, schema, path, errors),
        Value::Bool(_) => {}
        Value::Null => return,
    }
    let checks = &schema.checks;
    if !checks.allowed.is_empty() && !checks.allowed.iter().any(|a| same(a, value)) {
        let list = checks.allowed.iter().map(|a| match a {
            Value::String(text) => format!("{text:?}"),
            other => format!("{:?}", other.to_string()),
        });
        let detail = format!("supported values: {}", list.collect::<Vec<_>>().join(", "));
        push(errors, Sort::NotSupported, path, Some(value.to_string()), detail);
    }
    check_junctors(value, schema, path, errors);
}

/// Equal as JSON values: 1 is 1.0.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn push(errors: &mut Errors, kind: Sort, path: &str, bad_value: Option<String>, detail: String) {
    let path = if path.is_empty() { Path::default().to_string() } else { path.to_owned() };
    errors.add(Error { kind, path, bad_value, detail });
}

/// `spec.a in body should …`
fn invalid(errors: &mut Errors, path: &str, value: impl Into<Value>, detail: String) {
    push(errors, Sort::Invalid, path, Some(value.into().to_string()), format!("{path} in body {detail}"));
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn check_type(value: &Value, schema: &Schema, path: &str, errors: &mut Errors) {
    let whole = |n: &serde_json::Number| !n.is_f64() || n.as_f64().is_some_and(|f| f.fract() == 0.0);
    let fits = match (schema.kind, value) {
        (_, Value::Null) => schema.nullable || schema.kind == Type::Any && !schema.int_or_string,
        (_, Value::Number(n)) if schema.int_or_string => whole(n),
        (_, Value::String(_)) if schema.int_or_string => true,
        (_, _) if schema.int_or_string => false,
        (Type::Any, _)
        | (Type::Object, Value::Object(_))
        | (Type::Array, Value::Array(_))
        | (Type::String, Value::String(_))
        | (Type::Number, Value::Number(_))
        | (Type::Boolean, Value::Bool(_)) => true,
        (Type::Integer, Value::Number(n)) => whole(n),
        _ => false,
    };
    if fits {
        return;
    }
    let expected = if schema.int_or_string { "integer,string" } else { schema.kind.name() };
    let found = json_type(value);
    let detail = format!("{path} in body must be of type {expected}: {found:?}");
    push(errors, Sort::TypeInvalid, path, Some(format!("{found:?}")), detail);
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn check_string(text: &str, schema: &Schema, path: &str, errors: &mut Errors) {
    let checks = &schema.checks;
    let length = count(text.chars().count());
    if let Some(max) = checks.max_length.filter(|max| length > *max) {
        let unit = if max == 1 { "byte" } else { "bytes" };
        push(errors, Sort::TooLong, path, None, format!("may not be more than {max} {unit}"));
    }
    if let Some(min) = checks.min_length.filter(|min| length < *min) {
        invalid(errors, path, text, format!("should be at least {min} chars long"));
    }
    if let Some((pattern, regex)) = &checks.pattern
        && !regex.as_ref().is_some_and(|r| r.is_match(text))
    {
        invalid(errors, path, text, format!("should match '{pattern}'"));
    }
    let format = checks.format.as_str();
    let judged = !format.is_empty() && formats::is_known(format, schema.kind);
    if judged && !formats::fits(format, text) {
        let detail = format!("{path} in body must be of type {format}: {text:?}");
        push(errors, Sort::TypeInvalid, path, Some(format!("{text:?}")), detail);
    }
}

fn check_number(n: f64, value: &Value, schema: &Schema, path: &str, errors: &mut Errors) {
    let checks = &schema.checks;
    if let Some(factor) = checks.multiple_of.filter(|f| *f > 0.0) {
        let times = n / factor;
        if (times - times.round()).abs() > 1e-9 {
            invalid(errors, path, value.clone(), format!("should be a multiple of {factor}"));
        }
    }
    if let Some(max) = checks.maximum {
        if checks.exclusive_maximum && n >= max {
            invalid(errors, path, value.clone(), format!("should be less than {max}"));
        } else if n > max {
            invalid(errors, path, value.clone(), format!("should be less than or equal to {max}"));
        }
    }
    if let Some(min) = checks.minimum {
        if checks.exclusive_minimum && n <= min {
            invalid(errors, path, value.clone(), format!("should be greater than {min}"));
        } else if n < min {
            invalid(errors, path, value.clone(), format!("should be greater than or equal to {min}"));
        }
    }
    let range = match checks.format.as_str() {
        "int32" if schema.kind == Type::Integer => Some(f64::from(i32::MIN)..=f64::from(i32::MAX)),
        _ => None,
    };
    if range.is_some_and(|r| !r.contains(&n)) {
        let detail = format!("Checked value must be of type integer with format int32 in {path}");
        push(errors, Sort::Invalid, path, Some(value.to_string()), detail);
    }
}

fn check_array(items: &[Value], old: Option<&Value>, schema: &Schema, path: &str, errors: &mut Errors) {
    let (checks, length) = (&schema.checks, count(items.len()));
    if let Some(max) = checks.max_items.filter(|max| length > *max) {
        too_many(errors, path, length, max);
    }
    if let Some(min) = checks.min_items.filter(|min| length < *min) {
        invalid(errors, path, length, format!("should have at least {min} items"));
    }
    let Some(element) = &schema.items else { return };
    for (i, item) in items.iter().enumerate() {
        let old = old.and_then(|old| counterpart(schema, item, old));
        check(item, old, element, &format!("{path}[{i}]"), errors);
    }
}

/// The element of the old list that has the same keys.
pub(crate) fn counterpart<'o>(schema: &Schema, item: &Value, old: &'o Value) -> Option<&'o Value> {
    if schema.list_type != ListType::Map {
        return None;
    }
    let key = map_key(schema, item)?;
    old.as_array()?.iter().find(|o| map_key(schema, o).as_ref() == Some(&key))
}

fn check_object(
    map: &Map<String, Value>,
    old: Option<&Value>,
    schema: &Schema,
    path: &str,
    errors: &mut Errors,
) {
    let (checks, length) = (&schema.checks, count(map.len()));
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    if let Some(max) = checks.max_properties.filter(|max| length > *max) {
        too_many(errors, path, length, max);
    }
    if let Some(min) = checks.min_properties.filter(|min| length < *min) {
        invalid(errors, path, length, format!("should have at least {min} properties"));
    }
    for (key, value) in map {
        if let Some(schema) = schema.member(key) {
            check(value, old.and_then(|o| o.get(key)), schema, &below(key), errors);
        }
    }
    for key in checks.required.iter().filter(|k| !map.contains_key(*k)) {
        push(errors, Sort::Required, &below(key), None, String::new());
    }
}

fn too_many(errors: &mut Errors, path: &str, actual: i64, max: i64) {
    push(errors, Sort::TooMany, path, Some(actual.to_string()), format!("must have at most {max} items"));
}

fn check_junctors(value: &Value, schema: &Schema, path: &str, errors: &mut Errors) {
    let checks = &schema.checks;
    // Nothing is known of what was valid before: alternatives are judged whole.
    let judge = |schemas: &[Schema]| -> Vec<Errors> {
        schemas.iter().map(|s| validate(value, None, s, path)).collect()
    };
    let tell = |errors: &mut Errors, text: String| {
        push(errors, Sort::Invalid, "", Some("\"\"".to_owned()), format!("{path:?} {text}"));
    };
    let nearest = |all: Vec<Errors>| all.into_iter().min_by_key(|e| e.0.len()).unwrap_or_default();
    if !checks.any_of.is_empty() {
        let all = judge(&checks.any_of);
        if !all.iter().any(Errors::is_empty) {
            tell(errors, "must validate at least one schema (anyOf)".to_owned());
            errors.extend(nearest(all));
        }
    }
    if !checks.one_of.is_empty() {
        let all = judge(&checks.one_of);
        match all.iter().filter(|e| e.is_empty()).count() {
            1 => {}
            0 => {
                tell(errors, "must validate one and only one schema (oneOf). Found none valid".to_owned());
                errors.extend(nearest(all));
            }
            n => {
                let text = "must validate one and only one schema (oneOf)";
                tell(errors, format!("{text}. Found {n} valid alternatives"));
            }
        }
    }
    let all = judge(&checks.all_of);
    let valid = all.iter().filter(|e| e.is_empty()).count();
    if valid < all.len() {
        all.into_iter().for_each(|e| errors.extend(e));
        let none = if valid == 0 { ". None validated" } else { "" };
        tell(errors, format!("must validate all the schemas (allOf){none}"));
    }
    if let Some(not) = &checks.not
        && validate(value, None, not, path).is_empty()
    {
        tell(errors, "must not validate the schema (not)".to_owned());
    }
}

/// Elements that a list of type `set` or `map` holds twice.
pub(crate) fn unique_elements(value: &Value, schema: &Schema, path: &str) -> Errors {
    let mut errors = Errors::default();
    find_duplicates(value, schema, path, &mut errors);
    errors
}

fn find_duplicates(value: &Value, schema: &Schema, path: &str, errors: &mut Errors) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                if let Some(schema) = schema.member(key) {
                    find_duplicates(value, schema, &path, errors);
                }
            }
        }
        Value::Array(items) => {
            let keyed = |item: &Value| match schema.list_type {
                ListType::Set => Some(item.clone()),
                ListType::Map => map_key(schema, item).map(Value::Object),
                ListType::Atomic => None,
            };
            let mut seen = std::collections::HashSet::new();
            for (i, item) in items.iter().enumerate() {
                if let Some(key) = keyed(item)
                    && !seen.insert(key.to_string())
                {
                    push(
                        errors,
                        Sort::Duplicate,
                        &format!("{path}[{i}]"),
                        Some(key.to_string()),
                        String::new(),
                    );
                }
                if let Some(element) = &schema.items {
                    find_duplicates(item, element, &format!("{path}[{i}]"), errors);
                }
            }
        }
        _ => {}
    }
}
