//! Field selectors: `spec.nodeName=n1,status.phase!=Running`. Values may escape `\`, `,` and `=` by a backslash.

use std::fmt;

/// One condition on one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldTerm {
    pub field: String,
    pub value: String,
    /// `!=` rather than `=` or `==`.
    pub negated: bool,
}

/// All terms must hold; no terms: everything matches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// From the query parameter `fieldSelector`; the error is Kubernetes' text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = split(text);
        parts.sort();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|p| !p.is_empty()) {
            terms.push(
                term(part)
                    .ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{part}'"))??,
            );
        }
        Ok(Self { terms })
    }

    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value this field must have, if the selector says so (a get of one name, a kubelet's node).
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| !t.negated && t.field == field).map(|t| t.value.as_str())
    }

    /// `get` answers the field's value; a field that is not there is the empty string.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|t| (get(&t.field).unwrap_or("") == t.value) != t.negated)
    }
}

fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn term(part: &str) -> Option<Result<FieldTerm, String>> {
    let at =
        part.find(['=', '!']).filter(|i| !part[*i..].starts_with('!') || part[*i..].starts_with("!="))?;
    let (negated, length) = match &part[at..] {
        op if op.starts_with("!=") => (true, 2),
        op if op.starts_with("==") => (false, 2),
        _ => (false, 1),
    };
    let value = unescape(&part[at + length..]);
    Some(value.map(|value| FieldTerm { field: part[..at].to_owned(), value, negated }))
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let shown = other.map(String::from).unwrap_or_default();
                    return Err(format!("invalid field selector: invalid escape sequence: \\{shown}"));
                }
            },
            ',' | '=' => return Err(format!("invalid field selector: unescaped character in value: {c}")),
            c => out.push(c),
        }
    }
    Ok(out)
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            let value = term.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            let operator = if term.negated { "!=" } else { "=" };
            write!(f, "{}{}{operator}{value}", if i > 0 { "," } else { "" }, term.field)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_matches() {
        let selector = FieldSelector::parse("status.phase!=Running,spec.nodeName==n1").unwrap();
        assert_eq!(selector.to_string(), "spec.nodeName=n1,status.phase!=Running");
        assert_eq!(selector.exact("spec.nodeName"), Some("n1"));
        assert_eq!(selector.exact("status.phase"), None);
        assert!(selector.matches(|f| (f == "spec.nodeName").then_some("n1")));
        assert!(!selector.matches(|f| Some(if f == "spec.nodeName" { "n1" } else { "Running" })));
        assert_eq!(FieldSelector::parse(r"a=b\,c\=d").unwrap().terms()[0].value, "b,c=d");
        assert!(FieldSelector::parse("").unwrap().is_everything());
        assert_eq!(FieldSelector::parse("a=").unwrap().exact("a"), Some(""));
        assert_eq!(FieldSelector::parse("a").unwrap_err(), "invalid selector: 'a'; can't understand 'a'");
        assert!(FieldSelector::parse(r"a=b\x").unwrap_err().contains("escape"));
        assert!(FieldSelector::parse("a=b=c").unwrap_err().contains("unescaped"));
    }
}
