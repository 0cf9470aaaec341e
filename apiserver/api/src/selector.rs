//! Label and field selectors: parse, match, print.
//!
//! The grammar of label selectors is that of `k8s.io/apimachinery/pkg/labels`: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.

use crate::{field::Path, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::BTreeMap;
use std::fmt;

mod fields;
mod parse;
pub use fields::{FieldSelector, FieldTerm};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Equals,
    DoubleEquals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted, without repeats.
    pub values: Vec<String>,
}

impl Requirement {
    /// Checks key, number and form of the values; the error is Kubernetes' text.
    pub fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, String> {
        use Operator::*;
        check(&names::qualified_name(key), "key", key)?;
        values.sort();
        values.dedup();
        let fault = match operator {
            In | NotIn if values.is_empty() => Some("for 'in', 'notin' operators, values set can't be empty"),
            Equals | DoubleEquals | NotEquals if values.len() != 1 => {
                Some("exact-match compatibility requires one single value")
            }
            Exists | DoesNotExist if !values.is_empty() => {
                Some("values set must be empty for exists and does not exist")
            }
            GreaterThan | LessThan if values.len() != 1 => {
                Some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
            GreaterThan | LessThan if values[0].parse::<i64>().is_err() => {
                return Err(format!(
                    "values[0]: Invalid value: {:?}: for 'Gt', 'Lt' operators, the value must be an integer",
                    values[0]
                ));
            }
            _ => None,
        };
        if let Some(fault) = fault {
            let shown = serde_json::to_string(&values).unwrap_or_default();
            return Err(format!("values: Invalid value: {shown}: {fault}"));
        }
        for value in &values {
            check(&names::label_value(value), &format!("values[0][{key}]"), value)?;
        }
        Ok(Self { key: key.to_owned(), operator, values })
    }

    fn matches(&self, value: Option<&str>) -> bool {
        use Operator::*;
        let listed = |v: &str| self.values.iter().any(|w| w == v);
        match self.operator {
            Equals | DoubleEquals | In => value.is_some_and(listed),
            NotEquals | NotIn => !value.is_some_and(listed),
            Exists => value.is_some(),
            DoesNotExist => value.is_none(),
            GreaterThan | LessThan => {
                let (Some(Ok(have)), Some(Ok(want))) =
                    (value.map(str::parse::<i64>), self.values.first().map(|v| v.parse::<i64>()))
                else {
                    return false;
                };
                if self.operator == GreaterThan { have > want } else { have < want }
            }
        }
    }
}

fn check(faults: &[String], path: &str, value: &str) -> Result<(), String> {
    if faults.is_empty() {
        Ok(())
    } else {
        Err(format!("{path}: Invalid value: {value:?}: {}", faults.join("; ")))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Operator::*;
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Equals => write!(f, "{key}={values}"),
            DoubleEquals => write!(f, "{key}=={values}"),
            NotEquals => write!(f, "{key}!={values}"),
            In => write!(f, "{key} in ({values})"),
            NotIn => write!(f, "{key} notin ({values})"),
            Exists => f.write_str(key),
            DoesNotExist => write!(f, "!{key}"),
            GreaterThan => write!(f, "{key}>{values}"),
            LessThan => write!(f, "{key}<{values}"),
        }
    }
}

/// All requirements must hold. No requirements: everything matches. [`Selector::nothing`] matches nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    /// Sorted by key.
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Selector {
    pub fn everything() -> Self {
        Self::default()
    }
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// From the query parameter `labelSelector`; the error is Kubernetes' text.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse::parse(text).map(Self::of)
    }

    /// `matchLabels`-like maps: Service selectors, node selectors. An empty map matches everything.
    pub fn from_map(labels: &BTreeMap<String, String>) -> Self {
        Self::of(
            labels
                .iter()
                .map(|(key, value)| Requirement {
                    key: key.clone(),
                    operator: Operator::Equals,
                    values: vec![value.clone()],
                })
                .collect(),
        )
    }

    /// From `spec.selector`: an absent selector matches nothing, an empty one everything.
    pub fn from_label_selector(selector: Option<&LabelSelector>) -> Result<Self, String> {
        let Some(selector) = selector else { return Ok(Self::nothing()) };
        let mut requirements =
            Self::from_map(selector.match_labels.as_ref().unwrap_or(&BTreeMap::new())).requirements;
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            let values = expression.values.clone().unwrap_or_default();
            requirements.push(Requirement::new(&expression.key, operator, values)?);
        }
        Ok(Self::of(requirements))
    }

    pub fn of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// [`Selector::matches`] for an object's `metadata.labels`.
    pub fn matches_labels(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.matches_with(|key| labels.and_then(|l| l.get(key)).map(String::as_str))
    }

    /// For labels held in any other form.
    pub fn matches_with<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(get(&r.key)))
    }
}

/// Canonical text, as `status.selector` of a Scale shows it.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

/// The path of a label key in parse errors (`<nil>` in Kubernetes, which has none there).
fn no_path() -> Path {
    Path::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split_whitespace().filter_map(|t| t.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    }

    #[test]
    fn parses_matches_and_prints() {
        for (text, printed, yes, no) in [
            ("", "", "a=b", ""),
            ("a=b", "a=b", "a=b c=d", "a=c"),
            (" a == b , c!=d ", "a==b,c!=d", "a=b", "a=b c=d"),
            ("x in (b,a)", "x in (a,b)", "x=a", "x=c"),
            ("x notin (a,b)", "x notin (a,b)", "y=a", "x=a"),
            ("z,!y", "!y,z", "z=1", "z=1 y=1"),
            ("n>5,n<10", "n>5,n<10", "n=7", "n=10"),
            ("a=", "a=", "a=", "a=b"),
            ("in in (in)", "in in (in)", "in=in", "a=b"),
            ("a in (b,)", "a in (,b)", "a=", "a=c"),
            ("a", "a", "a=x", "b=x"),
        ] {
            let selector = Selector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(selector.to_string(), printed, "{text}");
            assert!(selector.matches(&labels(yes)), "{text} should match {yes}");
            if !no.is_empty() {
                assert!(!selector.matches(&labels(no)), "{text} should not match {no}");
            }
            assert_eq!(Selector::parse(printed).unwrap(), selector);
        }
    }

    #[test]
    fn refuses_with_kubernetes_words() {
        for (text, error) in [
            ("a=b,", "found '', expected: identifier after ','"),
            ("=b", "found '=', expected: !, identifier, or 'end of string'"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a=b=c", "found '=', expected: ',' or 'end of string'"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            (
                "n>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must \
                 be an integer",
            ),
        ] {
            assert_eq!(Selector::parse(text).unwrap_err(), error, "{text}");
        }
        assert!(Selector::parse("-a=b").unwrap_err().starts_with(
            "unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist of"
        ));
    }

    #[test]
    fn from_api_types() {
        let selector: LabelSelector = serde_json::from_value(serde_json::json!({
            "matchLabels": {"app": "kubia"},
            "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["x"]}]
        }))
        .unwrap();
        let parsed = Selector::from_label_selector(Some(&selector)).unwrap();
        assert_eq!(parsed.to_string(), "app=kubia,tier notin (x)");
        assert!(parsed.matches(&labels("app=kubia")));
        assert!(!Selector::from_label_selector(None).unwrap().matches(&labels("app=kubia")));
        assert!(Selector::from_label_selector(Some(&LabelSelector::default())).unwrap().is_everything());
        assert!(Selector::everything().matches_labels(None));
    }
}
