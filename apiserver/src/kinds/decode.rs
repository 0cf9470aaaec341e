//! Strict decoding of a client's JSON into typed objects.
//!
//! One deserializer over `serde_json::Value` does what three wrappers would: it knows the path of every value, notes
//! the fields nobody reads, and words type errors as Kubernetes does. As Kubernetes', it takes `null` for "not given",
//! accepts numbers as quantities, writes quantities canonically, and takes an optional field that holds nothing (`[]`,
//! `{}` of a map, `""`, and `false` or `0` where that is the default) for one that is not given: clients that know the
//! types leave such fields out when they write an object back, and must not seem to change it.

use crate::protobuf;
use base64::{
    Engine, alphabet,
    engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD},
};
use k8s_openapi::ByteString;
use serde::de::{self, DeserializeOwned, IntoDeserializer, Visitor};
use serde_json::Value;
use std::cell::RefCell;
use std::fmt;

/// Fields whose empty string says something else than their absence.
const EMPTY_IS_SET: [(&str, &str); 41] = [
    ("PersistentVolumeClaimSpec", "storageClassName"),
    ("PersistentVolumeClaimSpec", "volumeAttributesClassName"),
    ("HostPathVolumeSource", "type"),
    ("EndpointPort", "name"),
    // Empty is no value of these, and is refused rather than taken for none.
    ("CSIDriverSpec", "fsGroupPolicy"),
    ("CronJobSpec", "timeZone"),
    ("EndpointAddress", "nodeName"),
    ("EndpointPort", "appProtocol"),
    ("HPAScalingRules", "selectPolicy"),
    ("IngressClassParametersReference", "apiGroup"),
    ("IngressSpec", "ingressClassName"),
    ("JobSpec", "completionMode"),
    ("JobSpec", "managedBy"),
    ("JobSpec", "podReplacementPolicy"),
    ("MatchResources", "matchPolicy"),
    ("MutatingAdmissionPolicySpec", "failurePolicy"),
    ("MutatingWebhook", "failurePolicy"),
    ("MutatingWebhook", "matchPolicy"),
    ("MutatingWebhook", "reinvocationPolicy"),
    ("NamedRuleWithOperations", "scope"),
    ("NetworkPolicyPort", "protocol"),
    ("PersistentVolumeClaimSpec", "volumeMode"),
    ("PodDisruptionBudgetSpec", "unhealthyPodEvictionPolicy"),
    ("PodFailurePolicyOnExitCodesRequirement", "containerName"),
    ("PodResourceClaim", "resourceClaimName"),
    ("PodResourceClaim", "resourceClaimTemplateName"),
    ("PodSecurityContext", "seLinuxChangePolicy"),
    ("PodSpec", "hostnameOverride"),
    ("RuleWithOperations", "scope"),
    ("ServicePort", "appProtocol"),
    ("ServiceSpec", "internalTrafficPolicy"),
    ("ServiceSpec", "ipFamilyPolicy"),
    ("ServiceSpec", "loadBalancerClass"),
    ("ServiceSpec", "trafficDistribution"),
    ("StorageClass", "volumeBindingMode"),
    ("ValidatingAdmissionPolicySpec", "failurePolicy"),
    ("ValidatingWebhook", "failurePolicy"),
    ("ValidatingWebhook", "matchPolicy"),
    ("VolumeMount", "mountPropagation"),
    ("VolumeMount", "recursiveReadOnly"),
    ("Validation", "reason"),
];

/// The decoded object and the paths of the fields it does not know.
pub(super) fn decode<T: DeserializeOwned>(value: Value) -> Result<(T, Vec<String>), String> {
    let context = Context::default();
    let object = T::deserialize(Decoder { value, context: &context }).map_err(|e| e.0)?;
    Ok((object, context.unknown.into_inner()))
}

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

#[derive(Default)]
struct Context {
    /// Where the decoder is; after an error, where it happened.
    path: RefCell<Vec<Segment>>,
    unknown: RefCell<Vec<String>>,
}

enum Segment {
    /// A field of the named struct.
    Field(&'static str, String),
    /// A key of a map.
    Key(String),
    Index(usize),
}

impl Context {
    /// `spec.containers[0].name`.
    fn path(&self) -> String {
        let mut text = String::new();
        for segment in self.path.borrow().iter() {
            match segment {
                Segment::Field(_, name) | Segment::Key(name) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(name);
                }
                Segment::Index(i) => {
                    text.push_str(&format!("[{i}]"));
                }
            }
        }
        text
    }

    /// Whether the field the decoder is at is one of these.
    fn is_at(&self, fields: &[(&str, &str)]) -> bool {
        match self.path.borrow().last() {
            Some(Segment::Field(owner, name)) => fields.iter().any(|f| f == &(*owner, name.as_str())),
            _ => false,
        }
    }

    /// Whether `false` or `0` of the field the decoder is at says no more than its absence.
    fn is_zero_unset(&self) -> bool {
        match self.path.borrow().last() {
            Some(Segment::Field(owner, name)) => protobuf::zero_is_unset(owner, name),
            _ => false,
        }
    }

    /// `Go struct field Container.spec.containers.name`: the innermost struct, then the fields on the way.
    fn place(&self) -> String {
        let path = self.path.borrow();
        let fields: Vec<_> = path
            .iter()
            .filter_map(|s| {
                if let Segment::Field(owner, name) = s { Some((*owner, name.as_str())) } else { None }
            })
            .collect();
        match fields.last() {
            None => "Go value".to_owned(),
            Some((owner, _)) => {
                let names = fields.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(".");
                format!("Go struct field {owner}.{names}")
            }
        }
    }
}

#[derive(Debug)]
struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for Error {}
impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

struct Decoder<'a> {
    value: Value,
    context: &'a Context,
}

impl Decoder<'_> {
    fn mismatch(&self, expected: &str) -> Error {
        let found = match &self.value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            // Only where a number is wanted it matters which.
            Value::Number(n) if is_number(expected) => format!("number {n}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        Error(format!("json: cannot unmarshal {found} into {} of type {expected}", self.context.place()))
    }

    /// An error a visitor made (a date that is none) gets the path in front.
    fn located(context: &Context, error: Error) -> Error {
        let path = context.path();
        if path.is_empty() || error.0.starts_with("json: ") || error.0.starts_with(&path) {
            error
        } else {
            Error(format!("{path}: {error}"))
        }
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty, $go:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let number = match &self.value {
                Value::Null => Some(0),
                Value::Number(n) => n.as_i64().map(i128::from).or_else(|| n.as_u64().map(i128::from)),
                _ => None,
            };
            match number.and_then(|n| <$type>::try_from(n).ok()) {
                Some(n) => visitor.$visit(n),
                None => Err(self.mismatch($go)),
            }
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Decoder<'_> {
    type Error = Error;

    integers! {
        deserialize_i8 visit_i8 i8, "int8";
        deserialize_i16 visit_i16 i16, "int16";
        deserialize_i32 visit_i32 i32, "int32";
        deserialize_i64 visit_i64 i64, "int64";
        deserialize_u8 visit_u8 u8, "uint8";
        deserialize_u16 visit_u16 u16, "uint16";
        deserialize_u32 visit_u32 u32, "uint32";
        deserialize_u64 visit_u64 u64, "uint64";
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let expected = go_type(std::any::type_name::<V::Value>());
        match self.value {
            // Free-form values and int-or-string: what a visitor does not take is a type error.
            Value::Null => visitor.visit_unit(),
            Value::Bool(_) if expected == "intstr.IntOrString" => Err(self.mismatch("string")),
            Value::Bool(b) => visitor.visit_bool(b),
            Value::Number(_) if expected == "intstr.IntOrString" => self.deserialize_i32(visitor),
            Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                let context = self.context;
                // Taken over as they are.
                de::Deserializer::deserialize_any(self.value, visitor)
                    .map_err(|e| Self::located(context, Error(e.to_string())))
            }
            Value::String(s) => visitor.visit_string(s),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Bool(b) => visitor.visit_bool(b),
            Value::Null => visitor.visit_bool(false),
            _ => Err(self.mismatch("bool")),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value.as_f64() {
            Some(n) => visitor.visit_f64(n),
            None if self.value.is_null() => visitor.visit_f64(0.0),
            None => Err(self.mismatch("float64")),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let context = self.context;
        match self.value {
            Value::String(s) if is_bytes::<V::Value>() => {
                if let Some(fault) = base64_fault(&s) {
                    return Err(Error(fault));
                }
                visitor.visit_string(canonical_base64(&s))
            }
            Value::String(s) => visitor.visit_string(s).map_err(|e: Error| Self::located(context, e)),
            Value::Null => visitor.visit_str(""),
            _ if is_bytes::<V::Value>() => Err(self.mismatch("[]uint8")),
            _ => Err(self.mismatch("string")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let is = |prefix: &str| std::any::type_name::<V::Value>().starts_with(prefix);
        let unset = match &self.value {
            Value::Null => true,
            Value::Array(items) => items.is_empty() && is("core::option::Option<alloc::vec::Vec<"),
            Value::Object(entries) => {
                entries.is_empty() && is("core::option::Option<alloc::collections::btree::map")
            }
            Value::String(text) => {
                let string = is("core::option::Option<alloc::string::String>");
                text.is_empty()
                    && (string && !self.context.is_at(&EMPTY_IS_SET)
                        || is(std::any::type_name::<Option<ByteString>>()))
            }
            Value::Bool(value) => !value && self.context.is_zero_unset(),
            Value::Number(number) => number.as_i64() == Some(0) && self.context.is_zero_unset(),
        };
        if unset { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name != "Quantity" {
            return visitor.visit_newtype_struct(self);
        }
        let text = match &self.value {
            Value::String(s) => s.trim().to_owned(),
            Value::Number(n) => n.to_string(),
            Value::Null => "0".to_owned(),
            // Kubernetes hands whatever is there to the parser of quantities, which says no.
            other => other.to_string(),
        };
        match text.parse::<api::quantity::Quantity>() {
            Ok(quantity) => visitor.visit_string(quantity.to_string()),
            Err(e) => Err(Error(e.to_string())),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Array(items) => {
                visitor.visit_seq(Items { items: items.into_iter(), next: 0, context: self.context })
            }
            Value::Null => {
                visitor.visit_seq(Items { items: Vec::new().into_iter(), next: 0, context: self.context })
            }
            _ => Err(self.mismatch(&go_type(std::any::type_name::<V::Value>()))),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.entries(None, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.entries(Some(name), visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.context.unknown.borrow_mut().push(self.context.path());
        visitor.visit_unit()
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit_struct tuple tuple_struct enum identifier
    }
}

impl Decoder<'_> {
    fn entries<'de, V: Visitor<'de>>(
        self,
        owner: Option<&'static str>,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let entries = match self.value {
            Value::Object(mut entries) => {
                // A claim's template has one type, whatever it says.
                if owner == Some("PersistentVolumeClaim") && !self.context.path.borrow().is_empty() {
                    let says_nothing = |name: &str| matches!(name, "apiVersion" | "kind");
                    entries.retain(|name, value| {
                        !(says_nothing(name) && matches!(value, Value::Null | Value::String(_)))
                    });
                }
                entries
            }
            Value::Null => serde_json::Map::new(),
            _ => return Err(self.mismatch(&go_type(std::any::type_name::<V::Value>()))),
        };
        visitor.visit_map(Entries { entries: entries.into_iter(), value: None, owner, context: self.context })
    }
}

struct Items<'a> {
    items: std::vec::IntoIter<Value>,
    next: usize,
    context: &'a Context,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: de::DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(value) = self.items.next() else { return Ok(None) };
        self.context.path.borrow_mut().push(Segment::Index(self.next));
        self.next += 1;
        let item = seed.deserialize(Decoder { value, context: self.context })?;
        self.context.path.borrow_mut().pop();
        Ok(Some(item))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'a> {
    entries: serde_json::map::IntoIter,
    value: Option<Value>,
    owner: Option<&'static str>,
    context: &'a Context,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some(value);
        let decoded = seed.deserialize(IntoDeserializer::<Error>::into_deserializer(key.as_str()))?;
        let segment = match self.owner {
            Some(owner) => Segment::Field(owner, key),
            None => Segment::Key(key),
        };
        self.context.path.borrow_mut().push(segment);
        Ok(Some(decoded))
    }

    fn next_value_seed<T: de::DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        let value = self.value.take().unwrap_or(Value::Null);
        let value = seed.deserialize(Decoder { value, context: self.context })?;
        self.context.path.borrow_mut().pop();
        Ok(value)
    }
}

fn is_number(go: &str) -> bool {
    ["int", "uint", "float"].iter().any(|prefix| go.starts_with(prefix))
}

fn is_bytes<T>() -> bool {
    std::any::type_name::<T>() == std::any::type_name::<ByteString>()
}

/// Sound base64 as strict decoders take it: in one line (a block of YAML is not), and without bits in the last character
/// that mean nothing.
fn canonical_base64(text: &str) -> String {
    let mut text = text.replace(['\r', '\n'], "");
    let last = text.len().saturating_sub(4);
    if let Ok(bytes) = LENIENT.decode(&text[last..]) {
        text.truncate(last);
        STANDARD.encode_string(bytes, &mut text);
    }
    text
}

/// Where base64 goes wrong, in the words of Kubernetes' decoder: the byte of the text, in which line ends count but mean
/// nothing.
fn base64_fault(text: &str) -> Option<String> {
    let fault = |at: usize| Some(format!("illegal base64 data at input byte {at}"));
    let is_line_end = |b: &u8| matches!(b, b'\r' | b'\n');
    let mut bytes = text.bytes().enumerate().filter(|(_, b)| !is_line_end(b));
    loop {
        for place in 0..4 {
            match bytes.next() {
                None if place == 0 => return None,
                None => return fault(text.len() - place),
                Some((_, b)) if b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/') => {}
                Some((_, b'=')) if place >= 2 => {
                    let padded = match (place, bytes.next()) {
                        (3, rest) => rest,
                        (_, None) => return fault(text.len()),
                        (_, Some((_, b'='))) => bytes.next(),
                        (_, Some((after, _))) => return fault(after - 1),
                    };
                    return padded.and_then(|(rest, _)| fault(rest));
                }
                Some((at, _)) => return fault(at),
            }
        }
    }
}

/// `alloc::vec::Vec<k8s_openapi::v1_36::api::core::v1::container::Container>` → `[]v1.Container`: what people know from
/// Kubernetes' messages.
fn go_type(rust: &str) -> String {
    let inner = |prefix: &str| rust.strip_prefix(prefix).and_then(|r| r.strip_suffix('>'));
    if let Some(item) = inner("alloc::vec::Vec<") {
        return format!("[]{}", go_type(item));
    }
    if let Some(pair) = inner("alloc::collections::btree::map::BTreeMap<alloc::string::String, ") {
        return format!("map[string]{}", go_type(pair));
    }
    match rust {
        "alloc::string::String" => return "string".to_owned(),
        "i32" => return "int32".to_owned(),
        "i64" => return "int64".to_owned(),
        _ => {}
    }
    // …::core::v1::container::Container: package `v1`, file `container`, type.
    let parts: Vec<&str> = rust.split("::").collect();
    match parts.as_slice() {
        [.., package, _file, name] => format!("{package}.{name}"),
        _ => rust.to_owned(),
    }
}

#[cfg(test)]
mod tests;
