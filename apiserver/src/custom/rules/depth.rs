//! How deep an expression may be nested. Parser, checks and runs go down with it on the stack, so that has to be known before
//! any of them begins: from the text alone, and never too low.

use super::tokens::tokens;
use std::thread;

/// Brackets within brackets: the parser's stack grows by kilobytes with each. People write five.
const BRACKETS: usize = 24;
/// Operators and fields of all brackets that are open: each may be a level of the tree. People write dozens.
const LEVELS: usize = 150;

/// As [`BRACKETS`] and [`LEVELS`], for runs on a stack that others use, too.
const FEW_BRACKETS: usize = 6;
const FEW_LEVELS: usize = 20;
/// Room for what is deep. Where nothing is optimised, the parser takes up to 200 KiB a bracket that has no end, and a run
/// 30 KiB a level: a worker's 2 MiB are gone after a dozen, or after sixty. Only what is touched is ever memory.
const ROOM: usize = 64 << 20;

/// Does `work` on a stack of its own that is deep enough for all that [`is_too_deep`] lets through.
///
/// # Errors
/// No thread could be had.
pub(super) fn with_room<T: Send>(work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("cel".to_owned()).stack_size(ROOM);
        let worker = worker.spawn_scoped(scope, work)?;
        Ok(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Whether the expression may be nested deeper than is safe.
pub(super) fn is_too_deep(text: &str) -> bool {
    exceeds(text, BRACKETS, LEVELS)
}

/// Whether its runs need a stack of their own.
pub(super) fn needs_room(text: &str) -> bool {
    exceeds(text, FEW_BRACKETS, FEW_LEVELS)
}

fn exceeds(text: &str, brackets: usize, levels: usize) -> bool {
    // Of each open bracket the operators so far; the outermost is the expression itself.
    let mut open = vec![0_usize];
    let mut sum = 0;
    tokens(text).any(|(_, token)| {
        match token[0] {
            b'(' | b'[' | b'{' => open.push(0),
            b')' | b']' | b'}' if open.len() > 1 => sum -= open.pop().unwrap_or(0),
            first if token == b"in" || b"+-*/%<>=!&|?.".contains(&first) => {
                sum += 1;
                open.last_mut().into_iter().for_each(|last| *last += 1);
            }
            _ => {}
        }
        open.len() > brackets + 1 || sum + open.len() > levels
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nested_and_what_is_long() {
        for (text, deep) in [
            (
                "self.l.all(x, self.l.exists_one(y, x == y)) ? self.m['x'] >= 1 : oldSelf.n == self.n"
                    .to_owned(),
                false,
            ),
            (format!("[{}]", "'a', ".repeat(5000)), false),
            (format!("self.s.matches('{}')", "(".repeat(500)), false),
            (format!("self.s.matches(r'\\{}')", "[".repeat(500)), false),
            (format!("'''{}''' == ''", "((' ".repeat(500)), false),
            (format!("true // {}", "(".repeat(500)), false),
            (["(a == b)"; 40].join(" && "), false),
            ("(".repeat(30), true),
            ("!".repeat(200), true),
            (["1"; 300].join("+"), true),
            (format!("a{}", ".b".repeat(300)), true),
            (["a"; 300].join(" in "), true),
            (format!("r'\\'{}", "(".repeat(50)), true),
        ] {
            assert_eq!(is_too_deep(&text), deep, "{text}");
        }
    }

    /// What fuzzing found: a dozen brackets ended the process.
    #[test]
    fn what_is_no_expression_is_refused_and_ends_nothing() {
        let schema = crate::custom::Schema::read(&serde_json::json!({"type": "object"}));
        for text in [
            "sets.contains([1,ntains([1,ntains([ains([ns([1,ntains([1,ntains(& ".to_owned(),
            format!("'' == '' && {}", "[)' && ".repeat(20)),
            "selelf.l.all(x, ".repeat(22),
            format!("sets{}", ".contains(".repeat(22)),
            format!("1 +{}", " 1 +".repeat(100)),
        ] {
            assert!(!is_too_deep(&text), "{text}");
            assert!(super::super::check::rule(&text, &schema, true, false).is_err(), "{text}");
        }
    }

    /// As many levels as there may be, read and run on the stack of a test, which is a worker's.
    #[test]
    fn what_is_deep_runs() {
        let text = format!("{} > 0", ["self.n"; 70].join(" + "));
        let rule = serde_json::json!({"type": "object", "properties": {"n": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": text}, {"rule": "!!true"},
                {"rule": format!("{}true{}", "!!(".repeat(20), ")".repeat(20))}]});
        let schema = crate::custom::Schema::read(&rule);
        let value = serde_json::json!({"n": 1});
        let errors = super::super::Compiled::of(&schema).evaluate(&value, None, &schema, "");
        assert!(errors.is_empty(), "{errors:?}");
    }
}
