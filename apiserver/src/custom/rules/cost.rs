//! What a rule may cost at the most, told from its schema before there is any object: loops over lists and maps as long as
//! `maxItems` and `maxProperties` let them be, or as a request can hold.
//!
//! Counted in Kubernetes' units, so that what is refused there is refused here and can be cured in the same way. It has a
//! type checker and we have not: where no schema tells a size it counts as one, so a rule is never refused for what only a
//! type checker could have known. Runs have a budget in any case.

use super::values::escaped;
use crate::custom::schema::{Schema, Type};
use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators,
};
use serde_json::Value;

/// The most that one expression may cost, and all expressions of one schema together.
pub(super) const LIMIT: u64 = 10_000_000;
pub(super) const TOTAL_LIMIT: u64 = 100_000_000;
/// A rule that costs less than this part of all is not told as one that contributed.
pub(super) const WORTH_TELLING: u64 = TOTAL_LIMIT / 100;
/// The most bytes a request may have, as Kubernetes counts here.
const REQUEST: u64 = 3 << 20;
const STRING: f64 = 0.1;
const REGEX: f64 = 0.25;
const LIST: u64 = 10;
const MAP: u64 = 30;
const STRUCT: u64 = 40;
/// Deepest expression that is looked into; the parser's own limit is far below.
const DEEPEST: u32 = 500;

/// At most so much for one run of the expression. `root`: `self` is a whole object.
pub(super) fn of(expression: &IdedExpr, schema: &Schema) -> u64 {
    Estimator { schema, scope: Vec::new(), depth: 0 }.visit(expression).cost
}

/// How often at the most a schema's values can be in one object when a list or map above them has no bound.
pub(super) fn most_in_a_request(schema: &Schema) -> u64 {
    REQUEST / (smallest(schema) + 1)
}

/// By how much a schema multiplies what is below it; `None` is without a bound.
pub(super) fn multiplies(schema: &Schema) -> Option<u64> {
    let bound = |max: Option<i64>| max.map(|n| u64::try_from(n).unwrap_or(0));
    match schema.kind {
        Type::Object if schema.additional.is_some() => bound(schema.checks.max_properties),
        Type::Array => bound(schema.checks.max_items),
        _ => Some(1),
    }
}

/// `… exceeds budget by factor of 3.2x (…)`
pub(super) fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "a factor for people")]
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        f if f > 100.0 => "more than 100x".to_owned(),
        f if f < 1.5 => format!("{f:.6}x"),
        f => format!("{f:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

/// The fewest bytes a value takes in JSON.
fn smallest(schema: &Schema) -> u64 {
    if schema.int_or_string {
        return 1;
    }
    match schema.kind {
        Type::Boolean => 4,
        Type::Integer | Type::Number | Type::Any => 1,
        Type::Array => 2,
        Type::Object if schema.additional.is_some() => 2,
        Type::Object => {
            let needed = schema.properties.iter().filter(|(name, property)| {
                schema.checks.required.contains(name) && property.default.is_none()
            });
            2 + needed.map(|(name, property)| name.len() as u64 + smallest(property) + 4).sum::<u64>()
        }
        Type::String => match schema.checks.format.as_str() {
            "duration" => 3,
            "date" => 12,
            "date-time" => 21,
            _ => 2,
        },
    }
}

/// The most elements, entries or bytes a value can have.
fn largest(schema: &Schema) -> u64 {
    let checks = &schema.checks;
    let bound = |max: Option<i64>| max.map(|n| u64::try_from(n).unwrap_or(0));
    if schema.int_or_string {
        return bound(checks.max_length).map_or(REQUEST - 2, |n| n.saturating_mul(4));
    }
    match schema.kind {
        Type::Array => bound(checks.max_items).unwrap_or_else(|| {
            let element = schema.items.as_deref().map_or(1, smallest);
            (REQUEST - 2) / (element + 1)
        }),
        Type::Object => match &schema.additional {
            Some(values) => {
                bound(checks.max_properties).unwrap_or_else(|| (REQUEST - 2) / (smallest(values) + 6))
            }
            None => 1,
        },
        Type::String => match (checks.format.as_str(), bound(checks.max_length)) {
            ("duration" | "date-time", _) => 32,
            ("date", _) => 12,
            ("byte", Some(max)) => max,
            (_, Some(max)) => max.saturating_mul(4),
            (_, None) if !checks.allowed.is_empty() => {
                checks.allowed.iter().filter_map(Value::as_str).map(|s| s.len() as u64).max().unwrap_or(0)
            }
            (_, None) => REQUEST - 2,
        },
        Type::Boolean | Type::Integer | Type::Number | Type::Any => 1,
    }
}

/// What is known of an expression.
#[derive(Debug, Clone, Copy)]
struct Node<'s> {
    cost: u64,
    /// Elements, entries or bytes; one where nobody knows.
    size: u64,
    /// That of each element, where it is a list that no schema declares.
    element: u64,
    schema: Option<&'s Schema>,
}

impl<'s> Node<'s> {
    fn plain(cost: u64, size: u64) -> Self {
        Self { cost, size, element: 1, schema: None }
    }
    fn by(cost: u64, schema: Option<&'s Schema>) -> Self {
        Self { cost, size: schema.map_or(1, largest), element: 1, schema }
    }
    fn is_map(&self) -> bool {
        self.schema.is_some_and(|s| s.kind == Type::Object)
    }
    /// What a loop over it sees; of a map the keys, or the values as its second variable.
    fn entry(&self, value: bool) -> Node<'s> {
        match self.schema {
            Some(schema) if self.is_map() && value => Self::by(0, schema.additional.as_deref()),
            Some(_) if self.is_map() => Self::plain(0, 1),
            Some(schema) => Self::by(0, schema.items.as_deref()),
            None => Self::plain(0, self.element),
        }
    }
}

/// So many times a part of one, upwards.
fn part(size: u64, factor: f64) -> u64 {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate; too large saturates"
    )]
    let cost = (size as f64 * factor).ceil() as u64;
    cost
}

struct Estimator<'s> {
    schema: &'s Schema,
    scope: Vec<(String, Node<'s>)>,
    depth: u32,
}

impl<'s> Estimator<'s> {
    fn visit(&mut self, expr: &IdedExpr) -> Node<'s> {
        if self.depth >= DEEPEST {
            return Node::plain(u64::MAX, 1);
        }
        self.depth += 1;
        let node = self.visit_one(expr);
        self.depth -= 1;
        node
    }

    fn visit_one(&mut self, expr: &IdedExpr) -> Node<'s> {
        match &expr.expr {
            Expr::Literal(literal) => Node::plain(
                0,
                match literal {
                    LiteralValue::String(text) => text.inner().chars().count() as u64,
                    LiteralValue::Bytes(bytes) => bytes.inner().len() as u64,
                    _ => 1,
                },
            ),
            Expr::Ident(name) => match self.scope.iter().rev().find(|(n, _)| n == name) {
                Some((_, node)) => Node { cost: 1, ..*node },
                None if name == "self" || name == "oldSelf" => Node::by(1, Some(self.schema)),
                None => Node::plain(1, 1),
            },
            Expr::Select(select) => {
                let operand = self.visit(&select.operand);
                let cost = operand.cost.saturating_add(1);
                if select.test {
                    return Node::plain(cost, 1);
                }
                let field = operand.schema.and_then(|schema| {
                    let named = schema.properties.iter().find(|(n, _)| escaped(n) == select.field);
                    named.map(|(_, s)| s).or(schema.additional.as_deref())
                });
                Node::by(cost, field)
            }
            Expr::List(list) => {
                let nodes: Vec<_> = list.elements.iter().map(|e| self.visit(e)).collect();
                let element = nodes.iter().map(|n| n.size).max().unwrap_or(0);
                Node { element, ..Node::plain(sum(LIST, &nodes), nodes.len() as u64) }
            }
            Expr::Map(map) => self.entries(map.entries.iter().map(|e| &e.expr), MAP),
            Expr::Struct(object) => self.entries(object.entries.iter().map(|e| &e.expr), STRUCT),
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Unspecified => Node::plain(0, 1),
        }
    }

    fn entries<'e>(&mut self, entries: impl Iterator<Item = &'e EntryExpr>, base: u64) -> Node<'s> {
        let mut nodes = Vec::new();
        let mut count = 0;
        for entry in entries {
            count += 1;
            match entry {
                EntryExpr::StructField(field) => nodes.push(self.visit(&field.value)),
                EntryExpr::MapEntry(entry) => {
                    nodes.push(self.visit(&entry.key));
                    nodes.push(self.visit(&entry.value));
                }
            }
        }
        Node::plain(sum(base, &nodes), count)
    }

    fn call(&mut self, call: &CallExpr) -> Node<'s> {
        use operators::{
            ADD, CONDITIONAL, EQUALS, GREATER, GREATER_EQUALS, IN, INDEX, LESS, LESS_EQUALS, LOGICAL_AND,
            LOGICAL_OR, NOT_EQUALS,
        };
        let target = call.target.as_ref().map(|t| self.visit(t));
        let args: Vec<Node<'s>> = call.args.iter().map(|a| self.visit(a)).collect();
        let given = sum(target.map_or(0, |t| t.cost), &args);
        let cost = |own: u64| given.saturating_add(own);
        // Functions and methods alike: the subject first.
        let subject = target.or_else(|| args.first().copied()).unwrap_or(Node::plain(0, 1));
        let first = if target.is_some() { args.first() } else { args.get(1) };
        let other = first.map_or(1, |n| n.size);
        match (call.func_name.as_str(), args.as_slice()) {
            (LOGICAL_AND | LOGICAL_OR, _) => Node::plain(given, 1),
            (CONDITIONAL, [condition, a, b]) => {
                let cost = condition.cost.saturating_add(a.cost.max(b.cost));
                let larger = if a.size >= b.size { a } else { b };
                Node { cost, ..*larger }
            }
            (INDEX, [of, _]) => Node { cost: cost(1), ..of.entry(true) },
            (IN, [_, list]) if !list.is_map() => Node::plain(cost(list.size), 1),
            (EQUALS | NOT_EQUALS | LESS | LESS_EQUALS | GREATER | GREATER_EQUALS, [a, b]) => {
                Node::plain(cost(part(a.size.min(b.size), STRING)), 1)
            }
            (ADD, [a, b]) => {
                let size = a.size.saturating_add(b.size);
                let lists = [a, b].iter().any(|n| n.schema.is_some_and(|s| s.kind == Type::Array));
                Node::plain(cost(if lists { 1 } else { part(size, STRING) }), size)
            }
            ("startsWith" | "endsWith", _) => Node::plain(cost(part(other, STRING)), 1),
            ("contains", _) => {
                Node::plain(cost(part(subject.size, STRING).saturating_mul(part(other, STRING))), 1)
            }
            (name @ ("matches" | "find" | "findAll"), _) => {
                let text = part(subject.size.saturating_add(1), STRING);
                let size = if name == "matches" { 1 } else { subject.size };
                Node::plain(cost(text.saturating_mul(part(other, REGEX))), size)
            }
            ("lowerAscii" | "upperAscii" | "substring" | "trim" | "url", _) => {
                Node::plain(cost(part(subject.size, STRING)), subject.size)
            }
            ("replace" | "split", _) => Node::plain(cost(part(subject.size, 2.0 * STRING)), subject.size),
            ("join", _) => {
                let size = subject.size.saturating_mul(subject.entry(false).size.saturating_add(other));
                Node::plain(cost(part(size, STRING)), size)
            }
            ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", _) if target.is_some() => {
                let text = subject.schema.is_some_and(|s| s.kind == Type::String);
                let element = part(subject.entry(false).size, STRING).saturating_add(1);
                let own =
                    if text { part(subject.size, STRING) } else { subject.size.saturating_mul(element) };
                Node::plain(cost(own), 1)
            }
            ("quantity" | "isQuantity" | "semver" | "isSemver" | "ip" | "isIP" | "cidr" | "isCIDR", _) => {
                Node::plain(cost(part(subject.size, STRING)), 1)
            }
            ("format", _) if target.is_some() => Node::plain(cost(part(subject.size, STRING)), 1),
            // Whatever it is, it is what it was made of.
            ("dyn" | "string", [one]) => Node { cost: cost(1), ..*one },
            _ => Node::plain(cost(1), 1),
        }
    }

    fn comprehension(&mut self, c: &ComprehensionExpr) -> Node<'s> {
        let range = self.visit(&c.iter_range);
        let init = self.visit(&c.accu_init);
        let outside = self.scope.len();
        let keyed = c.iter_var2.is_some();
        let first = if keyed { Node::plain(0, 1) } else { range.entry(false) };
        self.scope.push((c.accu_var.clone(), init));
        self.scope.push((c.iter_var.clone(), first));
        self.scope.extend(c.iter_var2.iter().map(|name| (name.clone(), range.entry(true))));
        let each = self.visit(&c.loop_cond).cost.saturating_add(self.visit(&c.loop_step).cost);
        self.scope.truncate(outside + 1);
        let result = self.visit(&c.result);
        self.scope.truncate(outside);
        let loops = range.size.saturating_mul(each);
        let cost = [range.cost, init.cost, loops, result.cost].into_iter().fold(0, u64::saturating_add);
        // A loop that makes a list makes one as long as its range; cel.bind's result is its own.
        let makes_list = matches!(c.accu_init.expr, Expr::List(_) | Expr::Map(_));
        if makes_list {
            Node { element: range.entry(false).size, ..Node::plain(cost, range.size) }
        } else {
            Node { cost, ..result }
        }
    }
}

fn sum(base: u64, nodes: &[Node<'_>]) -> u64 {
    nodes.iter().fold(base, |sum, node| sum.saturating_add(node.cost))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube_cel::cel::Program;
    use serde_json::json;

    fn cost(rule: &str, schema: &Value) -> u64 {
        of(Program::compile(rule).unwrap().expression(), &Schema::read(schema))
    }

    #[test]
    fn bounds_make_rules_affordable() {
        let list = |more: Value, item: Value| {
            let mut schema = json!({"type": "array", "items": item});
            schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"type": "object", "properties": {"list": schema}})
        };
        let number = || json!({"type": "integer"});
        let text = |max: u64| json!({"type": "string", "maxLength": max});
        let nested = "self.list.all(x, self.list.all(y, x == y))";
        for (rule, schema, affordable) in [
            ("self.list.all(x, x > 0)", list(json!({}), number()), true),
            (nested, list(json!({}), number()), false),
            (nested, list(json!({"maxItems": 100}), number()), true),
            ("self.list.all(x, x.contains('ab'))", list(json!({}), json!({"type": "string"})), false),
            ("self.list.all(x, x.contains('ab'))", list(json!({"maxItems": 100}), text(64)), true),
            ("self.list.all(x, x.matches('^[a-z]+$'))", list(json!({"maxItems": 10}), text(64)), true),
            (
                "self.list.filter(x, x > 1).all(y, self.list.exists(z, z == y))",
                list(json!({}), number()),
                false,
            ),
            ("self.list.size() < 5", list(json!({}), number()), true),
            ("true", json!({"type": "object"}), true),
        ] {
            let cost = cost(rule, &schema);
            assert_eq!(cost <= LIMIT, affordable, "{rule} costs {cost} with {schema}");
        }
    }

    #[test]
    fn maps_and_sizes() {
        let schema = json!({"type": "object", "properties": {
            "map": {"type": "object", "maxProperties": 20, "additionalProperties": {"type": "string", "maxLength": 5}},
            "enum": {"type": "string", "enum": ["a", "abc"]}, "any": {"x-kubernetes-int-or-string": true}}});
        assert_eq!(cost("self.enum == 'abcdef'", &schema), 3);
        assert_eq!(cost("self.map.size() > 3", &schema), 4);
        let loops = cost("self.map.all(k, self.map[k] != '')", &schema);
        assert!((100..300).contains(&loops), "{loops}");
        let read = Schema::read(&schema);
        assert_eq!(largest(&read.properties["any"]), REQUEST - 2);
        assert_eq!((multiplies(&read.properties["map"]), multiplies(&read)), (Some(20), Some(1)));
        assert_eq!(most_in_a_request(&read), REQUEST / 3);
    }

    #[test]
    fn factors_as_people_read_them() {
        for (cost, factor) in
            [(LIMIT + LIMIT / 4, "1.250000x"), (3 * LIMIT, "3.0x"), (u64::MAX, "more than 100x")]
        {
            let text = exceeds("estimated rule cost", cost, LIMIT);
            assert!(
                text.starts_with(&format!("estimated rule cost exceeds budget by factor of {factor} (try ")),
                "{text}"
            );
        }
    }
}
