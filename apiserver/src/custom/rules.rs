//! Rules in CEL (`x-kubernetes-validations`): what a schema demands beyond what OpenAPI can say.
//!
//! Expressions are compiled once, when a definition is read, and run on every write ([`cel`](kube_cel::cel) has no types
//! and no meter of its own): [`check`] finds beforehand what Kubernetes' compiler would refuse, and what a run may cost
//! is bounded by the size of what it looks at.

mod check;
mod cost;
mod depth;
mod tokens;
mod values;

use super::{
    schema::{Rule, Schema},
    validate::counterpart,
};
use api::field::{Error, Errors, Path, Type as Sort};
use check::Checked;
use kube_cel::{
    KubeCelExt,
    cel::{Context, Program, Value as Cel, objects::OptionalValue},
};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

/// Steps that all rules of one write may take together. Kubernetes' number, by which a write takes about a second at
/// the most; our steps are coarser.
const BUDGET: u64 = 10_000_000;
/// Longest text that a `messageExpression` may make.
const MAX_MESSAGE: usize = 5 * 1024;
const REASONS: [&str; 4] =
    ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// The rules of a schema, where they are in it.
#[derive(Default)]
pub(crate) struct Compiled {
    rules: Vec<CompiledRule>,
    properties: BTreeMap<String, Compiled>,
    additional: Option<Box<Compiled>>,
    items: Option<Box<Compiled>>,
}

struct CompiledRule {
    rule: Rule,
    program: Result<Checked, String>,
    /// One that does not compile says nothing; the rule's own message does.
    message: Option<Checked>,
    /// Where the fault is shown, below the schema's own place: `.a.b` without the dot.
    below: String,
}

impl Compiled {
    pub(crate) fn of(schema: &Schema) -> Self {
        Self::at(schema, true)
    }

    fn at(schema: &Schema, root: bool) -> Self {
        let below = |schema: &Option<Box<Schema>>| {
            schema.as_ref().map(|s| Self::at(s, false)).filter(|c| !c.is_empty()).map(Box::new)
        };
        let compiled = schema.rules.iter().map(|rule| CompiledRule {
            program: check::rule(&rule.rule, schema, root, optional(rule)),
            message: (!rule.message_expression.trim().is_empty())
                .then(|| check::message(&rule.message_expression, schema, root, optional(rule)).ok())
                .flatten(),
            below: plain_path(&rule.field_path),
            rule: rule.clone(),
        });
        let properties = schema.properties.iter().map(|(name, s)| (name.clone(), Self::at(s, false)));
        Self {
            rules: compiled.collect(),
            properties: properties.filter(|(_, c)| !c.is_empty()).collect(),
            additional: below(&schema.additional),
            items: below(&schema.items),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
            && self.properties.is_empty()
            && self.additional.is_none()
            && self.items.is_none()
    }

    /// What the rules have against `value`, which their schema accepts otherwise.
    pub(crate) fn evaluate(&self, value: &Value, old: Option<&Value>, schema: &Schema, path: &str) -> Errors {
        if self.is_empty() {
            return Errors::default();
        }
        let run = || {
            let mut run =
                Run { context: Context::default().with_all(), budget: BUDGET, errors: Errors::default() };
            run.visit(self, value, old, schema, path);
            run.errors
        };
        if !self.needs_room() {
            return run();
        }
        depth::with_room(run).unwrap_or_else(|error| {
            let mut errors = Errors::default();
            errors.internal(&Path::new(path), format!("rules cannot be run: {error}"));
            errors
        })
    }

    fn needs_room(&self) -> bool {
        let mut rules =
            self.rules.iter().flat_map(|rule| rule.program.as_ref().ok().into_iter().chain(&rule.message));
        rules.any(|checked| checked.needs_room)
            || self.properties.values().any(Self::needs_room)
            || self.additional.iter().chain(&self.items).any(|below| below.needs_room())
    }
}

fn optional(rule: &Rule) -> bool {
    rule.optional_old_self == Some(true)
}

/// `.spec.a['b.c']` as field paths print it.
fn plain_path(text: &str) -> String {
    let mut out = text.trim().trim_start_matches('.').to_owned();
    for (from, to) in [("['", "["), ("']", "]")] {
        out = out.replace(from, to);
    }
    out
}

/// Judges a default by the rules of its schema.
pub(crate) fn evaluate(value: &Value, schema: &Schema, path: &str) -> Errors {
    Compiled::at(schema, false).evaluate(value, None, schema, path)
}

struct Run {
    context: Context<'static>,
    budget: u64,
    errors: Errors,
}

impl Run {
    /// False when the budget is gone.
    fn visit(
        &mut self,
        at: &Compiled,
        value: &Value,
        old: Option<&Value>,
        schema: &Schema,
        path: &str,
    ) -> bool {
        if value.is_null() {
            return true;
        }
        let old = old.filter(|o| !o.is_null());
        for rule in &at.rules {
            if !self.judge(rule, value, old, schema, path) {
                return false;
            }
        }
        match value {
            Value::Object(map) => map.iter().all(|(key, value)| {
                let below = at.properties.get(key).or(at.additional.as_deref());
                let (Some(below), Some(schema)) = (below, schema.member(key)) else { return true };
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                self.visit(below, value, old.and_then(|o| o.get(key)), schema, &path)
            }),
            Value::Array(items) => {
                let (Some(below), Some(element)) = (&at.items, &schema.items) else { return true };
                items.iter().enumerate().all(|(i, item)| {
                    let old = old.and_then(|old| counterpart(schema, item, old));
                    self.visit(below, item, old, element, &format!("{path}[{i}]"))
                })
            }
            _ => true,
        }
    }

    fn judge(
        &mut self,
        compiled: &CompiledRule,
        value: &Value,
        old: Option<&Value>,
        schema: &Schema,
        path: &str,
    ) -> bool {
        let rule = &compiled.rule;
        let program = match &compiled.program {
            Ok(program) => program,
            Err(why) => {
                self.invalid(path, schema, format!("rule compile error: {why}"));
                return true;
            }
        };
        let transition = program.uses_old;
        if transition && old.is_none() && !optional(rule) {
            return true;
        }
        // What did not change was accepted before.
        if !transition && old == Some(value) {
            return true;
        }
        let mut scope = self.context.new_inner_scope();
        scope.add_variable_from_value("self", values::of(value, schema));
        if transition {
            let old = old.map(|o| values::of(o, schema));
            let old = match optional(rule) {
                true => Cel::Opaque(Arc::new(old.map_or_else(OptionalValue::none, OptionalValue::of))),
                false => old.unwrap_or(Cel::Null),
            };
            scope.add_variable_from_value("oldSelf", old);
        }
        let largest = values::largest(value).max(old.map_or(0, values::largest));
        let text = if rule.message.trim().is_empty() { &rule.rule } else { &rule.message };
        if !spend(&mut self.budget, program.cost(largest)) {
            let detail = "validation failed due to running out of cost budget, no further validation rules will be run";
            drop(scope);
            self.invalid(path, schema, detail.to_owned());
            return false;
        }
        let fault = match program.program.execute(&scope) {
            Ok(Cel::Bool(true)) => return true,
            Ok(Cel::Bool(false)) => None,
            Ok(_) => Some("rule did not evaluate to a bool".to_owned()),
            Err(error) => Some(format!("{error} evaluating rule: {}", text.trim())),
        };
        let own = || match rule.message.trim() {
            "" => format!("failed rule: {}", rule.rule.trim()),
            message => message.to_owned(),
        };
        let said = compiled.message.as_ref().filter(|_| fault.is_none()).and_then(|message| {
            spend(&mut self.budget, message.cost(largest)).then(|| message_of(&message.program, &scope))?
        });
        drop(scope);
        match fault {
            Some(fault) => self.invalid(path, schema, fault),
            None => self.refuse(compiled, value, path, said.unwrap_or_else(own)),
        }
        true
    }

    fn invalid(&mut self, path: &str, schema: &Schema, detail: String) {
        self.errors.add(Error {
            kind: Sort::Invalid,
            path: shown(path),
            bad_value: Some(format!("{:?}", schema.kind.name())),
            detail,
        });
    }

    fn refuse(&mut self, compiled: &CompiledRule, value: &Value, path: &str, detail: String) {
        let path = match (path, compiled.below.as_str()) {
            (path, "") => shown(path),
            ("", below) => below.to_owned(),
            (path, below) if below.starts_with('[') => format!("{path}{below}"),
            (path, below) => format!("{path}.{below}"),
        };
        let scalar = !value.is_object() && !value.is_array();
        let bad_value = scalar.then(|| value.to_string());
        let error = match compiled.rule.reason.as_str() {
            "FieldValueRequired" => Error { kind: Sort::Required, path, bad_value: None, detail },
            "FieldValueForbidden" => Error { kind: Sort::Forbidden, path, bad_value: None, detail },
            "FieldValueDuplicate" => Error { kind: Sort::Duplicate, path, bad_value, detail: String::new() },
            _ => Error { kind: Sort::Invalid, path, bad_value, detail },
        };
        self.errors.add(error);
    }
}

fn spend(budget: &mut u64, cost: u64) -> bool {
    let enough = cost <= *budget;
    *budget = budget.saturating_sub(cost);
    enough
}

/// What a message expression says, if it says one line of text.
fn message_of(program: &Program, scope: &Context<'_>) -> Option<String> {
    match program.execute(scope) {
        Ok(Cel::String(text)) => {
            let text = text.trim();
            let fine = !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains(['\n', '\r']);
            fine.then(|| text.to_owned())
        }
        _ => None,
    }
}

fn shown(path: &str) -> String {
    if path.is_empty() { Path::default().to_string() } else { path.to_owned() }
}

/// Tells of expressions that Kubernetes would not compile, or whose runs could cost too much.
pub(crate) fn compile_errors(schema: &Schema, path: &Path, errors: &mut Errors) {
    let mut costs = Costs::default();
    let place = Place { root: true, uncorrelatable: None, cardinality: Some(1) };
    compile_at(schema, place, path, errors, &mut costs);
    if costs.total > cost::TOTAL_LIMIT {
        costs.dear.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        for (path, _) in costs.dear.iter().take(TOLD) {
            errors.forbidden(
                path,
                "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema",
            );
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.forbidden(path, cost::exceeds(what, costs.total, cost::TOTAL_LIMIT));
    }
}

/// Of the rules that make a schema too dear so many are told.
const TOLD: usize = 4;

/// What the rules of a schema may cost.
#[derive(Default)]
struct Costs {
    total: u64,
    /// Those that cost a good part of all.
    dear: Vec<(Path, u64)>,
}

impl Costs {
    fn add(&mut self, path: &Path, cost: u64) {
        self.total = self.total.saturating_add(cost);
        if cost >= cost::WORTH_TELLING {
            self.dear.push((path.clone(), cost));
        }
    }
}

/// Where in the whole a schema is.
#[derive(Clone, Copy)]
struct Place<'p> {
    root: bool,
    /// The list above whose elements have no counterparts in the old object.
    uncorrelatable: Option<&'p Path>,
    /// How many values of it one object can have; `None` if nothing bounds them.
    cardinality: Option<u64>,
}

fn compile_at(schema: &Schema, place: Place<'_>, path: &Path, errors: &mut Errors, costs: &mut Costs) {
    let Place { root, uncorrelatable, cardinality } = place;
    for (i, rule) in schema.rules.iter().enumerate() {
        let path = path.child("x-kubernetes-validations").index(i);
        let checked = check::rule(&rule.rule, schema, root, optional(rule));
        if let Ok(checked) = &checked {
            let times = cardinality.unwrap_or_else(|| cost::most_in_a_request(schema));
            let most = checked.estimate.saturating_mul(times);
            let path = path.child("rule");
            if most > cost::LIMIT {
                errors.forbidden(&path, cost::exceeds("estimated rule cost", most, cost::LIMIT));
            }
            costs.add(&path, most);
        }
        match checked {
            Err(why) => errors.invalid(&path.child("rule"), &rule.rule, why),
            Ok(checked) if checked.uses_old => {
                if let Some(list) = uncorrelatable {
                    let detail = format!(
                        "oldSelf cannot be used on the uncorrelatable portion of the schema within {list}"
                    );
                    errors.invalid(&path.child("rule"), &rule.rule, detail);
                }
            }
            Ok(_) if rule.optional_old_self.is_some() => {
                let detail = "may not be set if oldSelf is not used in rule";
                errors.invalid(&path.child("optionalOldSelf"), rule.optional_old_self, detail);
            }
            Ok(_) => {}
        }
        if rule.message_expression.trim().is_empty() {
            continue;
        }
        let at = path.child("messageExpression");
        match check::message(&rule.message_expression, schema, root, optional(rule)) {
            Err(why) => errors.invalid(&at, &rule.message_expression, why),
            Ok(checked) => {
                if checked.estimate > cost::LIMIT {
                    let what = "estimated messageExpression cost";
                    errors.forbidden(&at, cost::exceeds(what, checked.estimate, cost::LIMIT));
                }
                costs.add(&at, checked.estimate);
            }
        }
    }
    let cardinality = cardinality.zip(cost::multiplies(schema)).map(|(a, b)| a.saturating_mul(b));
    let below = Place { root: false, uncorrelatable, cardinality };
    for (name, property) in &schema.properties {
        compile_at(property, below, &path.child("properties").key(name), errors, costs);
    }
    if let Some(additional) = &schema.additional {
        compile_at(additional, below, &path.child("additionalProperties"), errors, costs);
    }
    if let Some(items) = &schema.items {
        let keyed = schema.list_type == super::schema::ListType::Map;
        let below = Place { uncorrelatable: uncorrelatable.or((!keyed).then_some(path)), ..below };
        compile_at(items, below, &path.child("items"), errors, costs);
    }
}

/// What is wrong with the rules of one schema apart from their expressions.
pub(crate) fn shape_errors(schema: &Value, path: &Path, errors: &mut Errors) {
    let rules = schema["x-kubernetes-validations"].as_array().map(Vec::as_slice).unwrap_or_default();
    let breaks = |text: &str| text.trim().contains(['\n', '\r']);
    for (i, rule) in rules.iter().enumerate() {
        let path = path.child("x-kubernetes-validations").index(i);
        let text = |key: &str| rule[key].as_str().unwrap_or_default();
        let (expression, message) = (text("rule"), text("message"));
        if expression.trim().is_empty() {
            errors.required(&path.child("rule"), "rule is not specified");
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.invalid(&path.child("message"), message, "must be non-empty if specified");
        } else if breaks(message) {
            errors.invalid(&path.child("message"), message, "must not contain line breaks");
        } else if breaks(expression) && message.trim().is_empty() {
            let detail = "message must be specified if rule contains line breaks";
            errors.required(&path.child("message"), detail);
        }
        let of = text("messageExpression");
        if !of.is_empty() && of.trim().is_empty() {
            let detail = "messageExpression must be non-empty if specified";
            errors.required(&path.child("messageExpression"), detail);
        }
        let reason = text("reason");
        if !reason.is_empty() && !REASONS.contains(&reason) {
            errors.not_supported(&path.child("reason"), reason, &REASONS);
        }
        let field_path = text("fieldPath");
        let field = path.child("fieldPath");
        if !field_path.is_empty() && field_path.trim().is_empty() {
            errors.invalid(&field, field_path, "must be non-empty if specified");
        } else if breaks(field_path) {
            errors.invalid(&field, field_path, "must not contain line breaks");
        } else if !field_path.is_empty() && !leads_somewhere(field_path, &Schema::read(schema)) {
            errors.invalid(&field, field_path, "must be a valid path");
        }
    }
}

/// Whether a path of fields and map keys (`.a.b`, `.a['k']`) is one of the schema's.
fn leads_somewhere(path: &str, schema: &Schema) -> bool {
    let mut at = schema;
    let mut rest = path.trim();
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let name;
        if let Some(after) = rest.strip_prefix("['") {
            let Some((key, tail)) = after.split_once("']") else { return false };
            (name, rest) = (key, tail);
        } else {
            let Some(after) = rest.strip_prefix('.') else { return false };
            let end = after.find(['.', '[']).unwrap_or(after.len());
            (name, rest) = after.split_at(end);
        }
        match at.member(name) {
            Some(found) => at = found,
            None => return false,
        }
    }
    true
}
