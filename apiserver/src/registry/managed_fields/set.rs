//! Sets of field paths, in the form `fieldsV1` writes them.
//!
//! A path's step is kept as it is written: `f:name` a field, `k:{"name":"a"}` a list element by its keys, `v:"x"` one
//! by its value, `i:0` one by its place. Keys are compact JSON with sorted names, so equal steps are equal strings.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A set of paths as a tree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Set(BTreeMap<String, Node>);

/// What follows a step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// The path up to here is itself in the set.
    pub member: bool,
    pub children: Set,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

impl Set {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, step: &str) -> Option<&Node> {
        self.0.get(step)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(step, node)| (step.as_str(), node))
    }

    pub fn insert<S: AsRef<str>>(&mut self, path: &[S]) {
        let Some((first, rest)) = path.split_first() else { return };
        // Most inserts find their way already there: look first, own the string only for a new step.
        let node = match self.0.get_mut(first.as_ref()) {
            Some(node) => node,
            None => self.0.entry(first.as_ref().to_owned()).or_default(),
        };
        match rest {
            [] => node.member = true,
            rest => node.children.insert(rest),
        }
    }

    /// Takes everything below `step`, itself included, out of the set.
    pub fn remove(&mut self, step: &str) {
        self.0.remove(step);
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.0.retain(|step, _| keep(step));
    }

    /// The paths that begin with `prefix`, in which `*` stands for any step.
    #[must_use]
    pub fn below(&self, prefix: &[&str]) -> Self {
        let Some((first, rest)) = prefix.split_first() else { return self.clone() };
        let fitting = self.0.iter().filter(|(step, _)| *first == "*" || step == first);
        let kept = fitting.map(|(step, node)| {
            let member = node.member && rest.is_empty();
            (step.clone(), Node { member, children: node.children.below(rest) })
        });
        Self(kept.filter(|(_, node)| !node.is_empty()).collect())
    }

    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        for (step, theirs) in &other.0 {
            match self.0.get_mut(step) {
                Some(node) => {
                    node.member |= theirs.member;
                    node.children = std::mem::take(&mut node.children).union(&theirs.children);
                }
                None => {
                    self.0.insert(step.clone(), theirs.clone());
                }
            }
        }
        self
    }

    /// The paths of `self` that are not in `other`. A path below one of `other`'s stays.
    #[must_use]
    pub fn difference(mut self, other: &Self) -> Self {
        for (step, theirs) in &other.0 {
            if let Some(node) = self.0.get_mut(step) {
                node.member &= !theirs.member;
                node.children = std::mem::take(&mut node.children).difference(&theirs.children);
                if node.is_empty() {
                    self.0.remove(step);
                }
            }
        }
        self
    }

    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let common = self.0.iter().filter_map(|(step, ours)| {
            let theirs = other.0.get(step)?;
            let node = Node {
                member: ours.member && theirs.member,
                children: ours.children.intersection(&theirs.children),
            };
            (!node.is_empty()).then(|| (step.clone(), node))
        });
        Self(common.collect())
    }

    /// Every path, as errors print it: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        for (step, node) in &self.0 {
            let path = format!("{prefix}{}", printed(step));
            if node.member {
                paths.push(path.clone());
            }
            node.children.collect(&path, paths);
        }
    }

    /// # Errors
    /// What is wrong with the `fieldsV1` value.
    pub fn from_json(fields: &Value) -> Result<Self, String> {
        let Value::Object(fields) = fields else { return Err("fieldsV1 must be an object".to_owned()) };
        let mut set = Self::default();
        for (step, below) in fields.iter().filter(|(step, _)| *step != ".") {
            let children = Self::from_json(below)?;
            let member = children.is_empty() || below.get(".").is_some();
            set.0.insert(canonical(step)?, Node { member, children });
        }
        Ok(set)
    }

    pub fn to_json(&self) -> Value {
        let fields = self.0.iter().map(|(step, node)| {
            let mut below = node.children.to_json();
            if node.member && !node.children.is_empty() {
                below["."] = Value::Object(Map::new());
            }
            (step.clone(), below)
        });
        Value::Object(fields.collect())
    }
}

fn canonical(step: &str) -> Result<String, String> {
    let json = |text: &str| {
        serde_json::from_str::<Value>(text).map_err(|e| format!("invalid path element {step:?}: {e}"))
    };
    match step.split_at_checked(2) {
        Some(("f:", _)) => Ok(step.to_owned()),
        Some(("i:", index)) if index.parse::<i32>().is_ok() => Ok(step.to_owned()),
        Some(("v:", value)) => Ok(format!("v:{}", json(value)?)),
        Some(("k:", keys)) => match json(keys)? {
            keys @ Value::Object(_) => Ok(format!("k:{keys}")),
            _ => Err(format!("invalid path element {step:?}: keys must be an object")),
        },
        _ => Err(format!("invalid path element {step:?}")),
    }
}

fn printed(step: &str) -> String {
    match step.split_at_checked(2) {
        Some(("f:", name)) => format!(".{name}"),
        Some(("v:", value)) => format!("[={value}]"),
        Some(("k:", keys)) => match serde_json::from_str(keys) {
            Ok(Value::Object(keys)) => {
                let pairs: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("[{}]", pairs.join(","))
            }
            _ => format!("[{keys}]"),
        },
        Some((_, index)) => format!("[{index}]"),
        None => step.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn json_form() {
        let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}},
                            "f:spec": {"k:{\"protocol\": \"TCP\",\"port\":80}": {".": {}, "f:name": {}}, "v:\"x\"": {}}});
        let set = Set::from_json(&fields).unwrap();
        assert_eq!(
            set.paths(),
            [
                ".metadata.labels",
                ".metadata.labels.a",
                ".spec[port=80,protocol=\"TCP\"]",
                ".spec[port=80,protocol=\"TCP\"].name",
                ".spec[=\"x\"]",
            ]
        );
        let mut canonical = fields;
        let spec = canonical["f:spec"].as_object_mut().unwrap();
        let port = spec.remove("k:{\"protocol\": \"TCP\",\"port\":80}").unwrap();
        spec.insert("k:{\"port\":80,\"protocol\":\"TCP\"}".to_owned(), port);
        assert_eq!(set.to_json(), canonical);
        for bad in
            [json!({"x": {}}), json!({"k:[1]": {}}), json!({"v:": {}}), json!({"f:a": 1}), json!({"i:a": {}})]
        {
            assert!(Set::from_json(&bad).is_err(), "{bad}");
        }
    }

    fn sets() -> impl Strategy<Value = Set> {
        prop::collection::vec(prop::collection::vec("f:[abc]", 1..4), 0..8).prop_map(|paths| {
            let mut set = Set::default();
            paths.iter().for_each(|p| set.insert(p));
            set
        })
    }

    proptest! {
        #[test]
        fn algebra(a in sets(), b in sets()) {
            let all = |s: &Set| s.paths().into_iter().collect::<std::collections::BTreeSet<_>>();
            prop_assert_eq!(all(&a.clone().union(&b)), all(&a).union(&all(&b)).cloned().collect());
            prop_assert_eq!(all(&a.clone().difference(&b)), all(&a).difference(&all(&b)).cloned().collect());
            prop_assert_eq!(all(&a.intersection(&b)), all(&a).intersection(&all(&b)).cloned().collect());
            prop_assert_eq!(Set::from_json(&a.to_json()).unwrap(), a.clone());
            prop_assert!(a.clone().difference(&a).is_empty());
        }
    }
}
