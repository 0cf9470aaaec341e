//! Bytes to a JSON tree. Fields the table does not know are skipped, as protobuf readers do.

use super::{
    MAGIC, MAX_DEPTH, SCHEMA, message_of,
    table::{self, Message, Shape},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};

/// Why a body cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    #[error("no kind {kind:?} is registered for version {version:?} in protobuf form")]
    UnknownKind { kind: String, version: String },
    #[error("proto: {0}")]
    Malformed(&'static str),
}

type Result<T> = std::result::Result<T, Error>;

/// The object as JSON, with `kind` and `apiVersion`.
pub fn parse(body: &[u8]) -> Result<Value> {
    let unknown = body.strip_prefix(MAGIC).ok_or(Error::NoMagic)?;
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &b""[..]);
    for field in Fields(unknown) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for field in Fields(meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => version = string(text)?,
                        (2, Wire::Bytes(text)) => kind = string(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            (3, Wire::Bytes(encoding)) if !encoding.is_empty() => {
                return Err(Error::Malformed("unknown encoding"));
            }
            _ => {}
        }
    }
    let message = message_of(&version, &kind)
        .ok_or_else(|| Error::UnknownKind { kind: kind.clone(), version: version.clone() })?;
    let mut object = Map::new();
    read_message(message, raw, &mut object, MAX_DEPTH)?;
    object.insert("apiVersion".to_owned(), version.into());
    object.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(object))
}

fn read_message(message: &Message, bytes: &[u8], into: &mut Map<String, Value>, depth: usize) -> Result<()> {
    let depth = depth.checked_sub(1).ok_or(Error::Malformed("nested too deeply"))?;
    for item in Fields(bytes) {
        let (tag, wire) = item?;
        let Some(field) = message.field(tag) else { continue };
        if field.name == "-" {
            if let (Wire::Bytes(bytes), Some(inner)) = (wire, table::message(field.sort)) {
                read_message(inner, bytes, into, depth)?;
            }
            continue;
        }
        match field.shape {
            Shape::One => {
                if field.zero_is_unset && wire.is_zero() {
                    continue;
                }
                match value(field.sort, wire, depth)? {
                    Value::Null => {}
                    value => {
                        into.insert(field.name.to_owned(), value);
                    }
                }
            }
            Shape::List => {
                // Packed scalars would come as one run of bytes; the API's types are not packed.
                let value = value(field.sort, wire, depth)?;
                if let Value::Array(list) = into.entry(field.name).or_insert_with(|| json!([])) {
                    list.push(value);
                }
            }
            Shape::Map => {
                let Wire::Bytes(entry) = wire else {
                    return Err(Error::Malformed("wrong wireType for a map"));
                };
                let (mut key, mut found) = (String::new(), None);
                for item in Fields(entry) {
                    match item? {
                        (1, Wire::Bytes(text)) => key = string(text)?,
                        (2, wire) => found = Some(value(field.sort, wire, depth)?),
                        _ => {}
                    }
                }
                let found = found
                    .unwrap_or_else(|| if matches!(field.sort, "s" | "y") { json!("") } else { json!({}) });
                if let Value::Object(map) = into.entry(field.name).or_insert_with(|| json!({})) {
                    map.insert(key, found);
                }
            }
        }
    }
    Ok(())
}

/// Where a JSON schema holds one of two things: a schema, or a list of schemas, a flag, a list of names.
fn alternatives(sort: &str, bytes: &[u8], depth: usize) -> Result<Value> {
    let schema_tag = if sort == "!schemaorbool" { 2 } else { 1 };
    let (mut schema, mut list, mut allows) = (None, Vec::new(), false);
    for field in Fields(bytes) {
        match field? {
            (tag, Wire::Bytes(bytes)) if tag == schema_tag => {
                schema = Some(value(SCHEMA, Wire::Bytes(bytes), depth)?);
            }
            (2, Wire::Bytes(text)) if sort == "!schemaorstrings" => list.push(string(text)?.into()),
            (2, wire @ Wire::Bytes(_)) => list.push(value(SCHEMA, wire, depth)?),
            (1, Wire::Varint(n)) => allows = n != 0,
            _ => {}
        }
    }
    Ok(match (schema, sort) {
        (Some(schema), _) => schema,
        (None, "!schemaorbool") => allows.into(),
        (None, _) => Value::Array(list),
    })
}

/// One value; `Null` stands for "not set".
fn value(sort: &str, wire: Wire<'_>, depth: usize) -> Result<Value> {
    Ok(match (sort, wire) {
        ("s", Wire::Bytes(bytes)) => string(bytes)?.into(),
        ("y", Wire::Bytes(bytes)) => BASE64_STANDARD.encode(bytes).into(),
        ("b", Wire::Varint(n)) => (n != 0).into(),
        // Negative numbers are sign-extended to 64 bits on the wire.
        ("i", Wire::Varint(n)) => n.cast_signed().into(),
        ("d", Wire::Fixed64(bits)) => json!(f64::from_bits(bits)),
        ("!quantity", Wire::Bytes(bytes)) => text_field(bytes, 1)?.unwrap_or_default().into(),
        ("!intorstring", Wire::Bytes(bytes)) => {
            if number_field(bytes, 1)? == 0 {
                // An int32, whatever was sign-extended.
                json!(number_field(bytes, 2)?)
            } else {
                text_field(bytes, 3)?.unwrap_or_default().into()
            }
        }
        ("!raw", Wire::Bytes(bytes)) => {
            let raw = Fields(bytes).find_map(|f| match f {
                Ok((1, Wire::Bytes(raw))) => Some(Ok(raw)),
                Err(error) => Some(Err(error)),
                _ => None,
            });
            match raw.transpose()? {
                None => Value::Null,
                Some(raw) => serde_json::from_slice(raw)
                    .map_err(|_| Error::Malformed("embedded object is not JSON"))?,
            }
        }
        ("!schemaorarray" | "!schemaorbool" | "!schemaorstrings", Wire::Bytes(bytes)) => {
            alternatives(sort, bytes, depth)?
        }
        ("!time" | "!microtime", Wire::Bytes(bytes)) => time(bytes, sort == "!microtime")?,
        ("!list", Wire::Bytes(bytes)) => {
            let mut list = Vec::new();
            for field in Fields(bytes) {
                if let (1, Wire::Bytes(text)) = field? {
                    list.push(Value::from(string(text)?));
                }
            }
            list.into()
        }
        (name, Wire::Bytes(bytes)) => {
            let message = table::message(name).ok_or(Error::Malformed("a type the table lacks"))?;
            let mut object = Map::new();
            read_message(message, bytes, &mut object, depth)?;
            Value::Object(object)
        }
        _ => return Err(Error::Malformed("wrong wireType")),
    })
}

fn time(bytes: &[u8], micro: bool) -> Result<Value> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let bad = |_| Error::Malformed("time out of range");
    let nanos = i32::try_from(number_field(bytes, 2)?).map_err(|_| Error::Malformed("time out of range"))?;
    let stamp = jiff::Timestamp::new(number_field(bytes, 1)?, nanos).map_err(bad)?;
    let form = if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(stamp.strftime(form).to_string().into())
}

fn number_field(bytes: &[u8], tag: u64) -> Result<i64> {
    let mut found = 0;
    for field in Fields(bytes) {
        if let (t, Wire::Varint(n)) = field?
            && t == tag
        {
            found = n.cast_signed();
        }
    }
    Ok(found)
}

fn text_field(bytes: &[u8], tag: u64) -> Result<Option<String>> {
    let mut found = None;
    for field in Fields(bytes) {
        if let (t, Wire::Bytes(text)) = field?
            && t == tag
        {
            found = Some(string(text)?);
        }
    }
    Ok(found)
}

fn string(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::Malformed("string field contains invalid UTF-8"))
}

/// A field's value as it is on the wire.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

impl Wire<'_> {
    fn is_zero(self) -> bool {
        matches!(self, Wire::Varint(0) | Wire::Fixed64(0)) || matches!(self, Wire::Bytes(b) if b.is_empty())
    }
}

/// The fields of a message, in the order of the wire. Ends after the first error.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(Error::Malformed("unexpected EOF"))?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Error::Malformed("integer overflow"))
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8]> {
        let n = usize::try_from(n).map_err(|_| Error::Malformed("unexpected EOF"))?;
        let (head, rest) = self.0.split_at_checked(n).ok_or(Error::Malformed("unexpected EOF"))?;
        self.0 = rest;
        Ok(head)
    }

    fn field(&mut self) -> Result<(u64, Wire<'a>)> {
        let key = self.varint()?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?.try_into().map_err(|_| Error::Malformed("unexpected EOF"))?;
                Wire::Fixed64(u64::from_le_bytes(bytes))
            }
            2 => {
                let n = self.varint()?;
                Wire::Bytes(self.take(n)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            _ => return Err(Error::Malformed("illegal wireType")),
        };
        Ok((key >> 3, wire))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>)>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(tag: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![tag << 3 | 2, u8::try_from(payload.len()).unwrap()];
        out.extend(payload);
        out
    }

    fn number(tag: u8, n: u8) -> Vec<u8> {
        vec![tag << 3, n]
    }

    fn body(version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
        let meta = [bytes(1, version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), bytes(1, &meta), bytes(2, message)].concat()
    }

    #[test]
    fn a_config_map_is_read() {
        let meta = [bytes(1, b"settings"), bytes(2, b""), bytes(8, b"")].concat();
        let entry = |k: &[u8], v: &[u8]| [bytes(1, k), bytes(2, v)].concat();
        let message = [
            bytes(1, &meta),
            bytes(2, &entry(b"a", b"b")),
            bytes(2, &entry(b"empty", b"")),
            bytes(3, &entry(b"x", b"\xff")),
        ]
        .concat();
        assert_eq!(
            parse(&body("v1", "ConfigMap", &message)).unwrap(),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"},
                   "data": {"a": "b", "empty": ""}, "binaryData": {"x": "/w=="}})
        );
    }

    #[test]
    fn an_explicit_zero_counts_where_the_field_is_a_pointer() {
        let quantity = bytes(1, b"1Gi");
        let request = [bytes(1, b"storage"), bytes(2, &quantity)].concat();
        let claim = bytes(2, &bytes(2, &bytes(2, &request)));
        let spec = [number(1, 0), number(9, 0), bytes(5, b""), bytes(4, &claim)].concat();
        let read = parse(&body("apps/v1", "StatefulSet", &bytes(2, &spec))).unwrap();
        assert_eq!(read["spec"]["replicas"], json!(0));
        assert_eq!(read["spec"].get("minReadySeconds"), None);
        assert_eq!(
            read["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"],
            "1Gi"
        );
    }

    #[test]
    fn inlined_messages_and_special_forms_are_as_in_json() {
        let port = [number(1, 1), bytes(3, b"http")].concat();
        let get = [bytes(1, b"/x"), bytes(2, &port)].concat();
        let probe = [bytes(1, &bytes(2, &get)), number(4, 5)].concat();
        let container = [bytes(1, b"c"), bytes(11, &probe)].concat();
        let read = parse(&body("v1", "Pod", &bytes(2, &bytes(2, &container)))).unwrap();
        assert_eq!(
            read["spec"]["containers"][0]["readinessProbe"],
            json!({"httpGet": {"path": "/x", "port": "http"}, "periodSeconds": 5})
        );
        let lease =
            [bytes(1, b"me"), bytes(4, &[number(1, 1), vec![2 << 3, 0x80, 0x89, 0x7a]].concat())].concat();
        let read = parse(&body("coordination.k8s.io/v1", "Lease", &bytes(2, &lease))).unwrap();
        assert_eq!(read["spec"]["renewTime"], "1970-01-01T00:00:01.002000Z");
    }

    #[test]
    fn what_is_not_protobuf_or_not_known_is_refused() {
        assert_eq!(parse(b"{}"), Err(Error::NoMagic));
        assert!(matches!(parse(&body("v1", "Nonsense", b"")), Err(Error::UnknownKind { .. })));
        assert!(matches!(parse(b"k8s\0\x0a\xff"), Err(Error::Malformed(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(message in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..4usize) {
            let (version, kind) =
                [("v1", "Pod"), ("apps/v1", "StatefulSet"), ("v1", "Service"), ("v1", "DeleteOptions")][kind];
            let meta = [bytes(1, version.as_bytes()), bytes(2, kind.as_bytes())].concat();
            let mut all = [MAGIC.to_vec(), bytes(1, &meta)].concat();
            all.extend([0x12, 0x80 | (message.len() as u8 & 0x7f), (message.len() >> 7) as u8]);
            all.extend(&message);
            let _ = parse(&all);
        }
    }
}
