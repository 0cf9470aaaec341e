//! What the messages look like: facts from the `.proto` files of Kubernetes' API, one text for all kinds.
//!
//! A line at the margin names a message (`core.v1.PodSpec`); the lines after it, one blank in, are its fields in the order
//! of their tags: tag, JSON name (`-`: a message whose fields are the parent's in JSON), and what it holds: `s` string,
//! `y` bytes, `b` bool, `i` integer, `d` double, a message by its name, or a form of its own (`!quantity`, `!time`, `!schemaorbool`, …);
//! `[]` before it is a list, `{}` a map with string keys, `?` says that a zero scalar means that the field is not set.

use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

const WIRE: &str = include_str!("wire.txt");

/// Read at the first protobuf body.
static TABLE: LazyLock<HashMap<&'static str, Message>> = LazyLock::new(read_table);

/// (type without its package, field) of scalars whose zero says no more than their absence, in JSON too: clients that
/// know the types leave them out.
static ZERO_IS_UNSET: LazyLock<HashSet<(&str, &str)>> = LazyLock::new(|| {
    let mut set = HashSet::new();
    for (name, message) in TABLE.iter() {
        let name = name.rsplit('.').next().unwrap_or(name);
        collect_zero_unset(name, message, &mut set);
    }
    set
});

fn collect_zero_unset(
    name: &'static str,
    message: &Message,
    set: &mut HashSet<(&'static str, &'static str)>,
) {
    for field in &message.fields {
        if field.zero_is_unset {
            set.insert((name, field.name));
        } else if let (true, Some(inlined)) = (field.name == "-", TABLE.get(field.sort)) {
            collect_zero_unset(name, inlined, set);
        }
    }
}

/// Whether a zero in `field` of the type (`PodSpec`) says that it is not set.
pub fn zero_is_unset(type_name: &str, field: &str) -> bool {
    ZERO_IS_UNSET.contains(&(type_name, field))
}

/// A message's fields, by rising tag.
#[derive(Default)]
pub(super) struct Message {
    pub(super) fields: Vec<Field>,
}

impl Message {
    pub(super) fn field(&self, tag: u64) -> Option<&Field> {
        self.fields.binary_search_by_key(&tag, |field| field.tag).ok().and_then(|at| self.fields.get(at))
    }
}

pub(super) struct Field {
    pub(super) tag: u64,
    /// `-` for a message whose fields are the parent's in JSON.
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    /// A zero scalar means that the field is not set.
    pub(super) zero_is_unset: bool,
    pub(super) sort: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    One,
    List,
    Map,
}

pub(super) fn message(name: &str) -> Option<&'static Message> {
    TABLE.get(name)
}

fn read_table() -> HashMap<&'static str, Message> {
    let mut table = HashMap::new();
    let mut current: Option<(&'static str, Message)> = None;
    for line in WIRE.lines() {
        let Some(field) = line.strip_prefix(' ') else {
            if let Some((name, message)) = current.replace((line, Message::default())) {
                table.insert(name, message);
            }
            continue;
        };
        let mut words = field.split(' ');
        let (Some(tag), Some(name), Some(sort)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let (shape, sort) = match (sort.strip_prefix("[]"), sort.strip_prefix("{}")) {
            (Some(sort), _) => (Shape::List, sort),
            (_, Some(sort)) => (Shape::Map, sort),
            _ => (Shape::One, sort),
        };
        let (zero_is_unset, sort) = match sort.strip_prefix('?') {
            Some(sort) => (true, sort),
            None => (false, sort),
        };
        if let (Ok(tag), Some((_, message))) = (tag.parse(), &mut current) {
            message.fields.push(Field { tag, name, shape, zero_is_unset, sort });
        }
    }
    if let Some((name, message)) = current {
        table.insert(name, message);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_of_the_table_is_there() {
        for field in TABLE.values().flat_map(|m| &m.fields) {
            let known =
                field.sort.starts_with('!') || field.sort.len() == 1 || TABLE.contains_key(field.sort);
            assert!(known, "{}", field.sort);
        }
        assert!(TABLE.len() > 500);
    }

    #[test]
    fn tags_rise() {
        for (name, message) in TABLE.iter() {
            assert!(message.fields.is_sorted_by(|a, b| a.tag < b.tag), "{name}");
        }
    }
}
