//! What can be known of an expression before it runs: its names, the fields it asks for, a few types; and what a run
//! may cost.
//!
//! Not a type checker: where a type is not known, nothing is said. What is said is what Kubernetes' compiler says.

use super::{cost, depth, tokens::without_pairs, values::escaped};
use crate::custom::schema::{Schema, Type};
use kube_cel::cel::{
    ParseErrors, Program,
    common::ast::{ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators},
};

/// A compiled expression and what is known of it.
pub(super) struct Checked {
    pub(super) program: Program,
    pub(super) uses_old: bool,
    /// What one run may cost at the most, in Kubernetes' units.
    pub(super) estimate: u64,
    /// Whether its runs need a stack of their own ([`depth::with_room`]).
    pub(super) needs_room: bool,
    /// How many expressions it is made of, and how deep its loops are nested.
    nodes: u64,
    depth: u32,
}

impl Checked {
    /// At most so many steps, where no list or map is longer than `largest`.
    pub(super) fn cost(&self, largest: u64) -> u64 {
        self.nodes.saturating_mul(largest.max(1).saturating_pow(self.depth))
    }
}

/// # Errors
/// In Kubernetes' words, as far as they can be ours.
pub(super) fn rule(text: &str, schema: &Schema, root: bool, optional_old: bool) -> Result<Checked, String> {
    compiled(text, schema, root, optional_old, "bool")
}

/// # Errors
/// As [`rule`].
pub(super) fn message(
    text: &str,
    schema: &Schema,
    root: bool,
    optional_old: bool,
) -> Result<Checked, String> {
    let why = |e: String| e.replacen("compilation failed", "messageExpression compilation failed", 1);
    compiled(text, schema, root, optional_old, "string").map_err(why)
}

fn compiled(
    text: &str,
    schema: &Schema,
    root: bool,
    optional_old: bool,
    wanted: &str,
) -> Result<Checked, String> {
    let failed = |why: &dyn std::fmt::Display| format!("compilation failed: {why}");
    if depth::is_too_deep(text) {
        return Err(failed(&"expression recursion limit exceeded"));
    }
    let read = depth::with_room(|| read(text, schema, root, optional_old, wanted));
    read.map_err(|e| failed(&e)).flatten()
}

fn read(
    text: &str,
    schema: &Schema,
    root: bool,
    optional_old: bool,
    wanted: &str,
) -> Result<Checked, String> {
    let failed = |why: &dyn std::fmt::Display| format!("compilation failed: {why}");
    // The parser knows where, and shows it; what the checker finds it cannot place, for the tree has no positions.
    let placed = |e: ParseErrors| failed(&e.to_string().replace("\n| ", "\n | "));
    let program = Program::compile(&without_pairs(text.trim())).map_err(placed)?;
    let mut checker = Checker {
        schema,
        root,
        optional_old,
        scope: Vec::new(),
        uses_old: false,
        nodes: 0,
        depth: 0,
        deepest: 0,
    };
    let kind =
        checker.visit(program.expression()).map_err(|e| failed(&format!("ERROR: <input>:1:1: {e}")))?;
    if kind.name().is_some_and(|name| name != wanted) {
        let what = if wanted == "bool" { "cel expression" } else { "messageExpression" };
        return Err(format!("{what} must evaluate to a {wanted}"));
    }
    let Checker { uses_old, nodes, deepest, .. } = checker;
    let estimate = cost::of(program.expression(), schema);
    Ok(Checked { program, uses_old, estimate, needs_room: depth::needs_room(text), nodes, depth: deepest })
}

/// What is known of a value.
#[derive(Debug, Clone, Copy)]
enum Known<'s> {
    /// What its schema says.
    By(&'s Schema),
    /// The metadata of a root: two names.
    Metadata,
    Scalar(&'static str),
    Nothing,
}

impl Known<'_> {
    /// The type's name in CEL, where it is sure.
    fn name(self) -> Option<&'static str> {
        match self {
            Self::Scalar(name) => Some(name),
            Self::By(schema) if schema.int_or_string || schema.nullable => None,
            Self::By(schema) => match schema.kind {
                Type::Boolean => Some("bool"),
                Type::Integer => Some("int"),
                Type::Number => Some("double"),
                Type::Array => Some("list"),
                Type::Object => Some("map"),
                Type::String => match schema.checks.format.as_str() {
                    "date" | "date-time" | "datetime" | "duration" | "byte" => None,
                    _ => Some("string"),
                },
                Type::Any => None,
            },
            Self::Metadata | Self::Nothing => None,
        }
    }
}

struct Checker<'s> {
    schema: &'s Schema,
    root: bool,
    optional_old: bool,
    /// Variables of loops, the innermost last.
    scope: Vec<(String, Known<'s>)>,
    uses_old: bool,
    nodes: u64,
    depth: u32,
    deepest: u32,
}

type Result_<'s> = Result<Known<'s>, String>;

impl<'s> Checker<'s> {
    fn visit(&mut self, expr: &IdedExpr) -> Result_<'s> {
        self.nodes += 1;
        match &expr.expr {
            Expr::Ident(name) => self.name(name),
            Expr::Literal(literal) => Ok(match literal {
                LiteralValue::Boolean(_) => Known::Scalar("bool"),
                LiteralValue::Int(_) => Known::Scalar("int"),
                LiteralValue::UInt(_) => Known::Scalar("uint"),
                LiteralValue::Double(_) => Known::Scalar("double"),
                LiteralValue::String(_) => Known::Scalar("string"),
                LiteralValue::Bytes(_) | LiteralValue::Null => Known::Nothing,
            }),
            Expr::Select(select) => {
                let operand = self.visit(&select.operand)?;
                let found = self.field(operand, &select.field, &select.operand)?;
                Ok(if select.test { Known::Scalar("bool") } else { found })
            }
            Expr::Call(call) => {
                let mut kinds = Vec::new();
                if let Some(target) = &call.target {
                    // `math.greatest`, `sets.contains`: the target is a name of functions, no value.
                    let library =
                        matches!(&target.expr, Expr::Ident(name) if LIBRARIES.contains(&name.as_str()));
                    if !library {
                        self.visit(target)?;
                    }
                }
                for argument in &call.args {
                    kinds.push(self.visit(argument)?);
                }
                operator(&call.func_name, &kinds)
            }
            Expr::List(list) => {
                for element in &list.elements {
                    self.visit(element)?;
                }
                Ok(Known::Scalar("list"))
            }
            Expr::Map(map) => self.entries(map.entries.iter().map(|e| &e.expr), "map"),
            Expr::Struct(object) => self.entries(object.entries.iter().map(|e| &e.expr), "struct"),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Unspecified => Ok(Known::Nothing),
        }
    }

    fn entries<'e>(
        &mut self,
        entries: impl Iterator<Item = &'e EntryExpr>,
        kind: &'static str,
    ) -> Result_<'s> {
        for entry in entries {
            match entry {
                EntryExpr::StructField(field) => drop(self.visit(&field.value)?),
                EntryExpr::MapEntry(entry) => {
                    self.visit(&entry.key)?;
                    self.visit(&entry.value)?;
                }
            }
        }
        Ok(Known::Scalar(kind))
    }

    fn name(&mut self, name: &str) -> Result_<'s> {
        if let Some((_, kind)) = self.scope.iter().rev().find(|(n, _)| n == name) {
            return Ok(*kind);
        }
        match name {
            "self" => Ok(Known::By(self.schema)),
            "oldSelf" => {
                self.uses_old = true;
                Ok(if self.optional_old { Known::Nothing } else { Known::By(self.schema) })
            }
            // Names of types are values.
            "bool" | "int" | "uint" | "double" | "string" | "bytes" | "list" | "map" | "null_type"
            | "type" | "dyn" | "optional" => Ok(Known::Nothing),
            _ if LIBRARIES.contains(&name) => Ok(Known::Nothing),
            other => Err(format!("undeclared reference to '{other}' (in container '')")),
        }
    }

    fn field(&self, operand: Known<'s>, name: &str, of: &IdedExpr) -> Result_<'s> {
        let undefined = || Err(format!("undefined field '{name}'"));
        let schema = match operand {
            Known::By(schema) => schema,
            Known::Metadata if matches!(name, "name" | "generateName") => return Ok(Known::Scalar("string")),
            Known::Metadata => return undefined(),
            Known::Scalar(kind) if !matches!(kind, "map" | "struct") => {
                return Err(format!("type '{kind}' does not support field selection"));
            }
            _ => return Ok(Known::Nothing),
        };
        if let Some(kind) = operand.name().filter(|kind| *kind != "map") {
            return Err(format!("type '{kind}' does not support field selection"));
        }
        if let Some(found) = schema.properties.iter().find(|(n, _)| escaped(n) == name) {
            return Ok(Known::By(found.1));
        }
        if let Some(additional) = &schema.additional {
            return Ok(Known::By(additional));
        }
        let is_root = self.root && matches!(&of.expr, Expr::Ident(n) if n == "self" || n == "oldSelf");
        match name {
            "metadata" if is_root || schema.embedded => Ok(Known::Metadata),
            "apiVersion" | "kind" if is_root || schema.embedded => Ok(Known::Scalar("string")),
            _ if schema.kind == Type::Any || schema.int_or_string => Ok(Known::Nothing),
            _ => undefined(),
        }
    }

    fn comprehension(&mut self, c: &ComprehensionExpr) -> Result_<'s> {
        let range = self.visit(&c.iter_range)?;
        let element = match range {
            Known::By(schema) => match (&schema.items, schema.kind) {
                (Some(items), _) => Known::By(items),
                // Over a map a loop sees the keys.
                (None, Type::Object) => Known::Scalar("string"),
                _ => Known::Nothing,
            },
            _ => Known::Nothing,
        };
        if let Some(kind) = range.name().filter(|kind| !matches!(*kind, "list" | "map")) {
            return Err(format!(
                "expression of type '{kind}' cannot be range of a comprehension (must be list, map, or dynamic)"
            ));
        }
        self.visit(&c.accu_init)?;
        let outside = self.scope.len();
        let element = if c.iter_var2.is_some() { Known::Nothing } else { element };
        self.scope.push((c.iter_var.clone(), element));
        self.scope.extend(c.iter_var2.iter().map(|name| (name.clone(), Known::Nothing)));
        self.scope.push((c.accu_var.clone(), Known::Nothing));
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        self.visit(&c.loop_cond)?;
        self.visit(&c.loop_step)?;
        self.depth -= 1;
        self.visit(&c.result)?;
        self.scope.truncate(outside);
        Ok(Known::Nothing)
    }
}

/// Names before a dot that are no variables.
const LIBRARIES: [&str; 9] =
    ["math", "sets", "base64", "strings", "lists", "format", "optional", "jsonpatch", "cel"];

fn operator<'s>(name: &str, kinds: &[Known<'s>]) -> Result_<'s> {
    use operators::{
        CONDITIONAL, EQUALS, GREATER, GREATER_EQUALS, IN, INDEX, LESS, LESS_EQUALS, LOGICAL_AND, LOGICAL_NOT,
        LOGICAL_OR, NOT_EQUALS,
    };
    let no_overload = |symbol: &str, a: &str, b: &str| {
        Err(format!("found no matching overload for '{symbol}' applied to '({a}, {b})'"))
    };
    let number = |kind: &str| matches!(kind, "int" | "uint" | "double");
    match (name, kinds) {
        (INDEX, [Known::By(schema), _]) => {
            let below = schema.items.as_deref().or(schema.additional.as_deref());
            Ok(below.map_or(Known::Nothing, Known::By))
        }
        (CONDITIONAL, [_, a, b]) => Ok(match (a.name(), b.name()) {
            (Some(a), Some(b)) if a == b => Known::Scalar(a),
            _ => Known::Nothing,
        }),
        (EQUALS | NOT_EQUALS, [a, b]) => match (a.name(), b.name()) {
            (Some(a), Some(b)) if a != b => no_overload(name, a, b),
            _ => Ok(Known::Scalar("bool")),
        },
        (LESS | LESS_EQUALS | GREATER | GREATER_EQUALS, [a, b]) => match (a.name(), b.name()) {
            (Some(a), Some(b)) if a != b && !(number(a) && number(b)) => no_overload(name, a, b),
            _ => Ok(Known::Scalar("bool")),
        },
        (LOGICAL_AND | LOGICAL_OR, [a, b]) => match (a.name(), b.name()) {
            (Some(a), _) | (_, Some(a)) if a != "bool" => {
                Err(format!("expected type 'bool' but found '{a}'"))
            }
            _ => Ok(Known::Scalar("bool")),
        },
        (LOGICAL_NOT | IN, _) => Ok(Known::Scalar("bool")),
        ("size", _) => Ok(Known::Scalar("int")),
        ("startsWith" | "endsWith" | "contains" | "matches", _) => Ok(Known::Nothing),
        ("string", [_]) => Ok(Known::Scalar("string")),
        ("int", [_]) => Ok(Known::Scalar("int")),
        ("double", [_]) => Ok(Known::Scalar("double")),
        _ => Ok(Known::Nothing),
    }
}
