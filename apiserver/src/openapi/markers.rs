//! What the API's fields hold, how they merge and which values they take: the facts that strategic merge patch,
//! server-side apply and the published OpenAPI share.
//!
//! The facts are a text beside this file, because they are data: `apiserver/tools/markers.py` writes it. One line names a type
//! (`core.v1.PodSpec`, with `atomic` if it merges as one value), the indented lines after it its fields that are not
//! plain scalars: `containers []core.v1.Container merge=name map=name`. Shapes: `-` scalar, `*` any JSON, `T` struct,
//! `[]…` list, `{}…` map. Markers: `merge[=key]`, `replace`, `retainKeys` (`x-kubernetes-patch-…`), `atomic`, `set`,
//! `map=keys`, `granular` (`x-kubernetes-list-type`, `-map-type`), `enum=VALUES` (of a list: of its elements; `%20` is a
//! space), `default=JSON`.

use api::resource::Resource;
use std::{collections::HashMap, sync::LazyLock};

static TEXT: &str = include_str!("markers.txt");
static TABLE: LazyLock<Table> = LazyLock::new(|| Table::parse(TEXT));

/// What a field or an element holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Scalar,
    /// Any JSON; merges as one value.
    Opaque,
    Struct(TypeId),
    /// A list of structs, or of anything else (`None`).
    List(Option<TypeId>),
    /// A map to structs, or to anything else (`None`).
    Map(Option<TypeId>),
}

/// How the elements of a list are told apart (`x-kubernetes-list-type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListType {
    /// Not at all: the list is one value.
    #[default]
    Atomic,
    /// By their own value.
    Set,
    /// By the fields of [`Field::keys`].
    Map,
}

/// A field that is more than a plain scalar.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub name: &'static str,
    pub shape: Shape,
    /// Strategic merge patch merges this list instead of replacing it.
    pub merge: bool,
    /// The key by which strategic merge patch matches elements of a list of structs.
    pub merge_key: Option<&'static str>,
    /// Strategic merge patch replaces this struct or map instead of merging it.
    pub replace: bool,
    pub retain_keys: bool,
    /// Whether any of `atomic`, `set`, `map=` is stated.
    pub list_type: Option<ListType>,
    /// `x-kubernetes-list-map-keys`.
    pub keys: Vec<&'static str>,
    /// A struct or map that merges as one value (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
    /// A struct that merges field by field here, although its type merges as one value.
    pub granular: bool,
    /// With commas between them.
    pub values: Option<&'static str>,
    /// As JSON text.
    pub default: Option<&'static str>,
}

#[derive(Debug)]
pub struct Type {
    /// `core.v1.PodSpec`
    pub name: &'static str,
    pub atomic: bool,
    /// In order of name.
    fields: Vec<Field>,
}

/// A type of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TypeId(u16);

impl TypeId {
    pub fn get(self) -> &'static Type {
        &TABLE.types[usize::from(self.0)]
    }
}

impl Type {
    /// `None` for a plain scalar and for a field that the type does not have.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|f| f.name.cmp(name)).ok().map(|i| &self.fields[i])
    }
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }
}

/// The type of a kind's objects.
pub fn of_kind(resource: &Resource) -> Option<TypeId> {
    of_definition(&definition_of(resource.group, resource.version, resource.kind))
}

/// The name of one of our own kinds' OpenAPI definition.
pub(super) fn definition_of(group: &str, version: &str, kind: &str) -> String {
    let package = match group {
        "" => "api.core",
        "apiextensions.k8s.io" => "apiextensions-apiserver.pkg.apis.apiextensions",
        "apiregistration.k8s.io" => "kube-aggregator.pkg.apis.apiregistration",
        group => &format!("api.{}", group.split('.').next().unwrap_or(group)),
    };
    format!("io.k8s.{package}.{version}.{kind}")
}

/// By the name of an OpenAPI definition: `io.k8s.api.core.v1.PodSpec`.
pub fn of_definition(name: &str) -> Option<TypeId> {
    match name.strip_prefix("io.k8s.api.") {
        Some(short) => by_short_name(short),
        None => match name.strip_prefix("io.k8s.apimachinery.pkg.apis.meta.") {
            Some(rest) => by_short_name(&format!("meta.{rest}")),
            None => by_short_name(name),
        },
    }
}

fn by_short_name(name: &str) -> Option<TypeId> {
    TABLE.by_name.get(name).copied()
}

struct Table {
    types: Vec<Type>,
    by_name: HashMap<&'static str, TypeId>,
}

impl Table {
    fn parse(text: &'static str) -> Self {
        let lines = || text.lines().filter(|l| !l.starts_with('#') && !l.is_empty());
        let names = lines().filter(|l| !l.starts_with(' ')).filter_map(|l| l.split(' ').next());
        let by_name: HashMap<_, _> = names.zip(0..).map(|(name, i)| (name, TypeId(i))).collect();
        let mut types: Vec<Type> = Vec::with_capacity(by_name.len());
        for line in lines() {
            let mut words = line.trim_start().split(' ');
            let name = words.next().unwrap_or_default();
            match types.last_mut() {
                Some(owner) if line.starts_with(' ') => owner.fields.push(field(name, words, &by_name)),
                _ => types.push(Type { name, atomic: words.any(|w| w == "atomic"), fields: Vec::new() }),
            }
        }
        for one in &mut types {
            one.fields.sort_by_key(|f| f.name);
        }
        Self { types, by_name }
    }
}

fn field(
    name: &'static str,
    mut words: std::str::Split<'static, char>,
    types: &HashMap<&'static str, TypeId>,
) -> Field {
    let shape = match words.next().unwrap_or("-") {
        "-" => Shape::Scalar,
        "*" => Shape::Opaque,
        word => match (word.strip_prefix("[]"), word.strip_prefix("{}")) {
            (Some(of), _) => Shape::List(types.get(of).copied()),
            (_, Some(of)) => Shape::Map(types.get(of).copied()),
            _ => types.get(word).map_or(Shape::Opaque, |id| Shape::Struct(*id)),
        },
    };
    let is_list = matches!(shape, Shape::List(_));
    let mut field = Field {
        name,
        shape,
        merge: false,
        merge_key: None,
        replace: false,
        retain_keys: false,
        list_type: None,
        keys: Vec::new(),
        atomic: false,
        granular: false,
        values: None,
        default: None,
    };
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("merge", key) => (field.merge, field.merge_key) = (true, Some(key).filter(|k| !k.is_empty())),
            ("replace", _) => field.replace = true,
            ("retainKeys", _) => field.retain_keys = true,
            ("atomic", _) if is_list => field.list_type = Some(ListType::Atomic),
            ("atomic", _) => field.atomic = true,
            ("set", _) => field.list_type = Some(ListType::Set),
            ("map", keys) => (field.list_type, field.keys) = (Some(ListType::Map), keys.split(',').collect()),
            ("granular", _) => field.granular = true,
            ("enum", values) => field.values = Some(values),
            ("default", json) => field.default = Some(json),
            _ => {}
        }
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, field: &str) -> &'static Field {
        of_definition(name).unwrap().get().field(field).unwrap()
    }

    #[test]
    fn every_line_is_understood() {
        let known = ["merge", "replace", "retainKeys", "atomic", "set", "map", "granular", "enum", "default"];
        for line in TEXT.lines().filter(|l| !l.starts_with('#')) {
            let skip = if line.starts_with(' ') { 2 } else { 1 };
            for word in line.trim_start().split(' ').skip(skip) {
                assert!(known.contains(&word.split('=').next().unwrap()), "{line}");
            }
        }
        for one in &TABLE.types {
            assert_eq!(of_definition(one.name).unwrap().get().name, one.name);
            for field in one.fields() {
                assert!(field.default.is_none_or(|d| serde_json::from_str::<serde_json::Value>(d).is_ok()));
                assert!(
                    field.list_type != Some(ListType::Map) || !field.keys.is_empty(),
                    "{} {}",
                    one.name,
                    field.name
                );
                if let (Some(key), Shape::List(Some(element))) = (field.merge_key, field.shape) {
                    assert!(!key.is_empty() && !element.get().name.is_empty());
                }
            }
        }
    }

    #[test]
    fn well_known_facts() {
        let containers = of("io.k8s.api.core.v1.PodSpec", "containers");
        assert_eq!((containers.merge_key, containers.keys.as_slice()), (Some("name"), &["name"][..]));
        let ports = of("io.k8s.api.core.v1.Container", "ports");
        assert_eq!(
            (ports.merge_key, ports.keys.as_slice()),
            (Some("containerPort"), &["containerPort", "protocol"][..])
        );
        assert!(of("io.k8s.api.core.v1.PodSpec", "volumes").retain_keys);
        assert!(of("io.k8s.api.core.v1.PodSpec", "nodeSelector").atomic);
        assert_eq!(
            of("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers").list_type,
            Some(ListType::Set)
        );
        assert_eq!(of("io.k8s.api.core.v1.ServicePort", "protocol").default, Some("\"TCP\""));
        assert_eq!(of("io.k8s.api.core.v1.ServicePort", "protocol").values, Some("SCTP,TCP,UDP"));
        assert!(of("io.k8s.api.core.v1.PersistentVolumeSpec", "claimRef").granular);
        assert_eq!(of("io.k8s.api.core.v1.EphemeralContainer", "env").merge_key, Some("name"));
        assert!(of_definition("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector").unwrap().get().atomic);
    }
}
