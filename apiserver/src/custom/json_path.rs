//! The JSON paths of definitions: printer columns, scale and selectable fields.
//!
//! Paths of `scale` and `selectableFields` are plain (`.spec.replicas`); a column's may also index (`[0]`, `[*]`, `['a.b']`)
//! and choose (`[?(@.type=="Ready")]`), as in kubectl. What else JSONPath knows finds nothing.

use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    /// `[*]`, `.*`
    All,
    /// `[?(@.a.b=="c")]`: the path below the element, whether equal is wanted, and what to.
    Where {
        path: Vec<Step>,
        equal: bool,
        value: Value,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JsonPath(Vec<Step>);

impl JsonPath {
    /// # Errors
    /// What is wrong with the path, in a few words.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        let text = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('[') {
                let end = closing(after).ok_or_else(|| "unterminated array".to_owned())?;
                steps.push(bracket(&after[..end])?);
                rest = &after[end + 1..];
                continue;
            }
            let field = rest.strip_prefix('.').unwrap_or(rest);
            let (name, after) = field_name(field);
            match name.as_str() {
                "" => return Err("empty field name".to_owned()),
                "*" => steps.push(Step::All),
                _ => steps.push(Step::Field(name)),
            }
            rest = after;
        }
        Ok(Self(steps))
    }

    /// All values the path leads to.
    pub(crate) fn all<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        walk(&self.0, value)
    }

    pub(crate) fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        self.all(value).into_iter().next()
    }

    /// Puts `new` where a plain path leads, making the objects on the way.
    pub(crate) fn set(&self, value: &mut Value, new: Value) {
        let mut place = value;
        for step in &self.0 {
            let Step::Field(name) = step else { return };
            if !place.is_object() {
                *place = Value::Object(serde_json::Map::new());
            }
            place = &mut place[name.as_str()];
        }
        *place = new;
    }
}

fn walk<'v>(steps: &[Step], value: &'v Value) -> Vec<&'v Value> {
    let mut found = vec![value];
    for step in steps {
        found = found.into_iter().flat_map(|value| next(step, value)).collect();
    }
    found
}

fn next<'v>(step: &Step, value: &'v Value) -> Vec<&'v Value> {
    match (step, value) {
        (Step::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
        (Step::Index(i), Value::Array(items)) => {
            let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
            let at = if *i < 0 { length + i } else { *i };
            usize::try_from(at).ok().and_then(|at| items.get(at)).into_iter().collect()
        }
        (Step::All, Value::Array(items)) => items.iter().collect(),
        (Step::All, Value::Object(map)) => map.values().collect(),
        (Step::Where { path, equal, value: wanted }, Value::Array(items)) => {
            items.iter().filter(|item| (walk(path, item).first() == Some(&wanted)) == *equal).collect()
        }
        _ => Vec::new(),
    }
}

/// Up to the next `.` or `[` that is not escaped.
fn field_name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (name, &text[at..]),
            c => name.push(c),
        }
    }
    (name, "")
}

/// Where the bracket closes, quotes heeded.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, ']') => return Some(at),
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
    }
    None
}

fn bracket(inside: &str) -> Result<Step, String> {
    let inside = inside.trim();
    let unquoted = |text: &str| {
        let strip = |q| text.strip_prefix(q).and_then(|t| t.strip_suffix(q));
        strip('\'').or_else(|| strip('"')).map(str::to_owned)
    };
    if inside == "*" {
        return Ok(Step::All);
    }
    if let Some(name) = unquoted(inside) {
        return Ok(Step::Field(name));
    }
    if let Some(filter) = inside.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        for (operator, equal) in [("==", true), ("!=", false)] {
            let Some((left, right)) = filter.split_once(operator) else { continue };
            let path = left.trim().strip_prefix('@').ok_or_else(|| "unsupported filter".to_owned())?;
            let right = right.trim();
            let value = match unquoted(right) {
                Some(text) => Value::String(text),
                None => serde_json::from_str(right).map_err(|_| "unsupported filter".to_owned())?,
            };
            return Ok(Step::Where { path: JsonPath::parse(path)?.0, equal, value });
        }
        return Err("unsupported filter".to_owned());
    }
    inside.parse().map(Step::Index).map_err(|_| format!("invalid array index {inside}"))
}
