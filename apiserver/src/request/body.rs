//! Request bodies: JSON or YAML bytes to a JSON tree, with what a strict reader has to say about them.
//!
//! The tree, not the typed object, because patches and server-side apply work on trees and because a repeated
//! key is lost once a tree exists. Texts are those of Kubernetes' serialisers: clients print and match them.

use crate::error::{ApiError, Result};
use crate::protobuf;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::{
    collections::HashSet,
    fmt::{self, Write as _},
};

/// Deepest nesting of a YAML body. The same as serde_json's own limit, so that both syntaxes accept the same
/// objects and nothing is stored that could not be read back.
const MAX_DEPTH: usize = 127;
/// Scalars, maps and lists one YAML body may hold after its aliases are expanded: more than a 3 MiB body can
/// spell out, far less than a "billion laughs" expands to.
const MAX_YAML_NODES: usize = 1_000_000;
/// Complaints about one body that are told, as in Kubernetes.
const MAX_COMPLAINTS: usize = 100;
/// Bytes of an unreadable body that the error shows.
const SUMMARY: usize = 30;
/// What a client may send; the message of 415.
const ACCEPTED: &str = "the body of the request was in an unknown format - accepted media types include: \
                        application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// A body that could be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    pub value: Value,
    pub repeated: Repeated,
}

/// Keys given more than once; the last value won. Kubernetes tells of them by path in JSON, by line in YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repeated {
    /// `spec.containers[0].image`
    Paths(Vec<String>),
    /// `line 9: key "image" already set in map`
    Lines(Vec<String>),
}

impl Repeated {
    pub const NONE: Self = Self::Paths(Vec::new());

    /// What the reader of YAML says, all at once; `None` if there is nothing to say.
    pub fn yaml_error(&self) -> Option<String> {
        match self {
            Self::Lines(lines) if !lines.is_empty() => {
                Some(format!("yaml: unmarshal errors:\n  {}", lines.join("\n  ")))
            }
            Self::Lines(_) | Self::Paths(_) => None,
        }
    }
}

/// The syntax of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syntax {
    Json,
    Yaml,
}

/// A body that is not JSON or YAML, before it is known what it should have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    text: String,
    summary: String,
}

impl Malformed {
    fn new(syntax: Syntax, error: impl fmt::Display, body: &[u8]) -> Self {
        let text = match syntax {
            Syntax::Json if body.is_empty() => "unexpected end of JSON input".to_owned(),
            Syntax::Json | Syntax::Yaml => error.to_string(),
        };
        let name = if syntax == Syntax::Json { "json" } else { "yaml" };
        Self {
            text: format!("couldn't get version/kind; {name} parse error: {text}"),
            summary: summary(body),
        }
    }

    /// The error of an endpoint that takes objects of `kind`.
    pub fn must_be(self, kind: &str) -> ApiError {
        ApiError::BadRequest(format!(
            "the object provided is unrecognized (must be of type {kind}): {} ({})",
            self.text, self.summary
        ))
    }
}

impl From<Malformed> for ApiError {
    fn from(malformed: Malformed) -> Self {
        Self::BadRequest(malformed.text)
    }
}

/// Reads `body` by its `Content-Type` (none means JSON).
///
/// # Errors
/// 415 for a content type we do not read; 400 for a body that is not of its type. [`Malformed::must_be`]'s text is
/// used when `kind` is known.
pub fn parse(content_type: Option<&str>, body: &[u8], kind: &str) -> Result<Parsed> {
    if media(content_type) == "application/vnd.kubernetes.protobuf" {
        let value = protobuf::parse(body).map_err(|e| {
            ApiError::BadRequest(format!("the object provided is unrecognized (must be of type {kind}): {e}"))
        })?;
        return Ok(Parsed { value, repeated: Repeated::NONE });
    }
    let syntax = syntax(content_type, body)?;
    read(syntax, body).map_err(|e| e.must_be(kind))
}

/// Reads a JSON text that is not an object of some kind: a patch.
pub fn parse_json(body: &[u8]) -> std::result::Result<Parsed, Malformed> {
    read(Syntax::Json, body)
}

/// Reads the body of a server-side apply: YAML, of which JSON is a subset.
pub fn parse_yaml(body: &[u8]) -> std::result::Result<Parsed, Malformed> {
    let mut parsed = read(if looks_like_json(body) { Syntax::Json } else { Syntax::Yaml }, body)?;
    if let Repeated::Paths(paths) = &parsed.repeated
        && !paths.is_empty()
        && let Some(lines) = repeated_lines(body)
    {
        parsed.repeated = Repeated::Lines(lines);
    }
    Ok(parsed)
}

/// The complaints of a strict reader, in Kubernetes' order and words: `unknown field "spec.replicaz"`. Custom kinds are
/// first read and then held against their schema: there what is repeated comes first. So it does in YAML.
pub fn complaints(unknown: &[String], repeated: &Repeated, custom: bool) -> Vec<String> {
    let unknown = unknown.iter().take(MAX_COMPLAINTS).map(|path| format!("unknown field \"{path}\""));
    let unknown: Vec<String> = unknown.collect();
    match repeated {
        Repeated::Lines(lines) => [lines.clone(), unknown].concat(),
        Repeated::Paths(paths) => {
            let repeated: Vec<String> =
                paths.iter().map(|path| format!("duplicate field \"{path}\"")).collect();
            if custom { [repeated, unknown].concat() } else { [unknown, repeated].concat() }
        }
    }
}

/// The text of `fieldValidation=Strict`; `None` if there is nothing to complain about.
pub fn strict_text(unknown: &[String], repeated: &Repeated, custom: bool) -> Option<String> {
    let all = match repeated.yaml_error() {
        Some(error) => [vec![error], complaints(unknown, &Repeated::NONE, custom)].concat(),
        None => complaints(unknown, repeated, custom),
    };
    (!all.is_empty()).then(|| format!("strict decoding error: {}", all.join(", ")))
}

/// 400 for a body that names `kind` in `version` and cannot be read as an object of kind `expected`.
pub fn cannot_be_handled(kind: &str, version: &str, expected: &str, why: &str) -> ApiError {
    ApiError::BadRequest(format!("{kind} in version \"{version}\" cannot be handled as a {expected}: {why}"))
}

fn syntax(content_type: Option<&str>, body: &[u8]) -> Result<Syntax> {
    match media(content_type).as_str() {
        "" | "*/*" | "application/json" => Ok(Syntax::Json),
        "application/yaml" if looks_like_json(body) => Ok(Syntax::Json),
        "application/yaml" => Ok(Syntax::Yaml),
        _ => Err(ApiError::UnsupportedMediaType(ACCEPTED.to_owned())),
    }
}

/// The content type without its parameters.
fn media(content_type: Option<&str>) -> String {
    content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// JSON under a YAML label is read as JSON: faster, and exact about what JSON means.
fn looks_like_json(body: &[u8]) -> bool {
    body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{')
}

fn read(syntax: Syntax, body: &[u8]) -> std::result::Result<Parsed, Malformed> {
    let mut duplicates = Vec::new();
    let malformed = |e: &dyn fmt::Display| Malformed::new(syntax, e, body);
    let value = match syntax {
        Syntax::Json => {
            let mut json = serde_json::Deserializer::from_slice(body);
            let value = Tree { path: None, duplicates: &mut duplicates }
                .deserialize(&mut json)
                .map_err(|e| malformed(&e))?;
            json.end().map_err(|e| malformed(&e))?;
            value
        }
        Syntax::Yaml => {
            let text = std::str::from_utf8(body).map_err(|e| malformed(&e))?;
            serde_saphyr::with_deserializer_from_str_with_options(text, yaml_options(), |yaml| {
                Tree { path: None, duplicates: &mut duplicates }.deserialize(yaml)
            })
            .map_err(|e| malformed(&e))?
        }
    };
    let lines = (syntax == Syntax::Yaml && !duplicates.is_empty()).then(|| repeated_lines(body)).flatten();
    Ok(Parsed { value, repeated: lines.map_or(Repeated::Paths(duplicates), Repeated::Lines) })
}

/// Repeated keys by their lines. A second reading, which knows where things are: only few texts need it.
fn repeated_lines(body: &[u8]) -> Option<Vec<String>> {
    let text = std::str::from_utf8(body).ok()?;
    serde_saphyr::from_str_with_options::<Lines>(text, yaml_options()).ok().map(|lines| lines.0)
}

fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        // Repeated keys reach our visitor, which reports them all instead of failing at the first.
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough,
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, max_nodes: MAX_YAML_NODES, max_documents: 1 },
    }
}

fn summary(body: &[u8]) -> String {
    let shown = &body[..body.len().min(SUMMARY)];
    let mut text = match body.first() {
        None => return "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(shown).into_owned(),
        Some(_) => shown.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }),
    };
    if body.len() > SUMMARY {
        text.push_str(" ...");
    }
    text
}

/// Where the reader is. A list of stack frames: the text is made only for a fault.
#[derive(Clone, Copy)]
struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Key(key) if self.parent.is_some() => write!(f, ".{key}"),
            Step::Key(key) => f.write_str(key),
            Step::Index(i) => write!(f, "[{i}]"),
        }
    }
}

/// Builds a [`Value`] and notes repeated keys on the way.
struct Tree<'a> {
    path: Option<&'a Path<'a>>,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> std::result::Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, from: D) -> std::result::Result<Value, D::Error> {
        from.deserialize_any(self)
    }
    fn visit_bool<E>(self, v: bool) -> std::result::Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> std::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> std::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E: serde::de::Error>(self, v: f64) -> std::result::Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }
    fn visit_str<E>(self, v: &str) -> std::result::Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }
    fn visit_string<E>(self, v: String) -> std::result::Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let here = Path { parent: self.path, step: Step::Index(list.len()) };
            match seq.next_element_seed(Tree { path: Some(&here), duplicates: self.duplicates })? {
                Some(value) => list.push(value),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> std::result::Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let here = Path { parent: self.path, step: Step::Key(&key) };
            if map.contains_key(&key) {
                let path = here.to_string();
                if self.duplicates.len() < MAX_COMPLAINTS && !self.duplicates.contains(&path) {
                    self.duplicates.push(path);
                }
            }
            let value = access.next_value_seed(Tree { path: Some(&here), duplicates: self.duplicates })?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// What Kubernetes' reader of YAML has to say about the repeated keys in a node: those inside a value first, and each
/// with the line on which its value begins.
struct Lines(Vec<String>);

impl<'de> Deserialize<'de> for Lines {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        from.deserialize_any(LinesVisitor)
    }
}

struct LinesVisitor;

impl<'de> Visitor<'de> for LinesVisitor {
    type Value = Lines;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML node")
    }
    fn visit_unit<E>(self) -> std::result::Result<Lines, E> {
        Ok(Lines(Vec::new()))
    }
    fn visit_none<E>(self) -> std::result::Result<Lines, E> {
        Ok(Lines(Vec::new()))
    }
    fn visit_some<D: Deserializer<'de>>(self, from: D) -> std::result::Result<Lines, D::Error> {
        from.deserialize_any(self)
    }
    fn visit_bool<E>(self, _: bool) -> std::result::Result<Lines, E> {
        Ok(Lines(Vec::new()))
    }
    fn visit_i64<E>(self, _: i64) -> std::result::Result<Lines, E> {
        Ok(Lines(Vec::new()))
    }
    fn visit_u64<E>(self, _: u64) -> std::result::Result<Lines, E> {
        Ok(Lines(Vec::new()))
    }
    fn visit_f64<E>(self, _: f64) -> std::result::Result<Lines, E> {
        Ok(Lines(Vec::new()))
    }
    fn visit_str<E>(self, _: &str) -> std::result::Result<Lines, E> {
        Ok(Lines(Vec::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Lines, A::Error> {
        let mut lines = Vec::new();
        while let Some(element) = seq.next_element::<Lines>()? {
            lines.extend(element.0);
        }
        Ok(Lines(lines))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> std::result::Result<Lines, A::Error> {
        let (mut lines, mut seen) = (Vec::new(), HashSet::new());
        while let Some(key) = access.next_key::<String>()? {
            let value: serde_saphyr::Spanned<Lines> = access.next_value()?;
            lines.extend(value.value.0);
            lines.truncate(MAX_COMPLAINTS);
            if seen.contains(&key) {
                lines.push(format!("line {}: key {key:?} already set in map", value.referenced.line()));
            } else {
                seen.insert(key);
            }
        }
        Ok(Lines(lines))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn json_text(body: &str) -> Parsed {
        parse(Some("application/json; charset=utf-8"), body.as_bytes(), "Pod").unwrap()
    }
    fn fault(content_type: &str, body: &str) -> ApiError {
        parse(Some(content_type), body.as_bytes(), "Pod").unwrap_err()
    }

    #[test]
    fn json_keeps_every_sort_of_value() {
        let text = r#"{"a":[1,-2,1.5,true,null,"x"],"big":18446744073709551615,"o":{}}"#;
        assert_eq!(json_text(text).value, serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn repeated_keys_are_reported_with_their_paths_and_the_last_wins() {
        let parsed = json_text(
            r#"{"spec":{"replicas":1,"replicas":2,"replicas":3,
                "containers":[{"name":"a"},{"image":"x","image":"y"}]},"spec":{"a":{"b":1}}}"#,
        );
        let Repeated::Paths(paths) = &parsed.repeated else { panic!("{:?}", parsed.repeated) };
        assert_eq!(paths[..], ["spec.replicas", "spec.containers[1].image", "spec"]);
        assert_eq!(parsed.value, json!({"spec": {"a": {"b": 1}}}));
        assert_eq!(
            strict_text(&["spec.replicaz".into()], &Repeated::Paths(paths[..1].to_vec()), false).unwrap(),
            r#"strict decoding error: unknown field "spec.replicaz", duplicate field "spec.replicas""#
        );
        assert_eq!(strict_text(&[], &Repeated::NONE, false), None);
    }

    #[test]
    fn yaml_is_read_like_json() {
        let text =
            "apiVersion: v1\nmetadata:\n  labels: {a: \"1\"}\nspec:\n- image: x\n  image: z\n- 1\n- null\n";
        let parsed = parse(Some("application/yaml"), text.as_bytes(), "Pod").unwrap();
        assert_eq!(
            parsed.value,
            json!({"apiVersion": "v1", "metadata": {"labels": {"a": "1"}}, "spec": [{"image": "z"}, 1, null]})
        );
        assert_eq!(
            parsed.repeated,
            Repeated::Lines(vec!["line 6: key \"image\" already set in map".to_owned()])
        );
        assert_eq!(parse_yaml(b" {\"a\": 1}").unwrap().value, json!({"a": 1}));
        assert_eq!(parse_yaml(b"a: {b: [1]}").unwrap().value, json!({"a": {"b": [1]}}));
    }

    #[test]
    fn repeated_keys_of_yaml_are_told_by_line() {
        let text = "kind: Foo\nspec:\n  a: 1\n  b:\n    c: 1\n    c: 2\n  a: 2\n  b:\n    d: 1\n";
        let parsed = parse(Some("application/yaml"), text.as_bytes(), "Foo").unwrap();
        let said = [
            "line 6: key \"c\" already set in map",
            "line 7: key \"a\" already set in map",
            "line 9: key \"b\" already set in map",
        ];
        assert_eq!(parsed.repeated, Repeated::Lines(said.map(String::from).to_vec()));
        let unknown = ["spec.e".to_owned()];
        assert_eq!(
            strict_text(&unknown, &parsed.repeated, true).unwrap(),
            "strict decoding error: yaml: unmarshal errors:\n  line 6: key \"c\" already set in map\n  \
             line 7: key \"a\" already set in map\n  line 9: key \"b\" already set in map, unknown field \"spec.e\""
        );
        assert_eq!(complaints(&unknown, &parsed.repeated, false)[2..], [said[2], "unknown field \"spec.e\""]);
        // To an apply JSON is YAML, too.
        let parsed = parse_yaml(b"{\"a\": 1,\n \"a\": 2}").unwrap();
        assert_eq!(parsed.repeated, Repeated::Lines(vec!["line 2: key \"a\" already set in map".to_owned()]));
    }

    #[test]
    fn no_body_and_broken_bodies_say_what_was_expected() {
        assert_eq!(
            fault("application/json", "").to_string(),
            "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; \
             json parse error: unexpected end of JSON input (<empty>)"
        );
        let text = fault("", r#"{"metadata": {"name": "abcdefghijklmnop"}"#).to_string();
        assert!(text.ends_with(r#"({"metadata": {"name": "abcdefg ...)"#), "{text}");
        assert!(fault("application/json", "xyz").to_string().ends_with("(78797a)"));
        assert!(fault("application/json", "{} {}").to_string().contains("trailing characters"));
        assert!(fault("application/yaml", "a: [1").to_string().contains("yaml parse error"));
        assert!(fault("application/yaml", "a: 1\n---\nb: 2\n").to_string().contains("yaml parse error"));
    }

    #[test]
    fn other_media_types_are_refused() {
        for media in ["text/plain", "application/cbor"] {
            assert_eq!(fault(media, "{}").code(), 415);
        }
    }

    #[test]
    fn nesting_and_alias_bombs_are_bounded() {
        let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
        assert_eq!(fault("application/json", &deep).code(), 400);
        assert_eq!(fault("application/yaml", &deep).code(), 400);
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for i in 1..9 {
            let one = format!("*a{}", i - 1);
            bomb += &format!("a{i}: &a{i} [{}]\n", [one.as_str(); 10].join(","));
        }
        assert_eq!(fault("application/yaml", &bomb).code(), 400);
    }
}
