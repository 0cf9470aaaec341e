//! How deep an expression may be nested. Parser, checks and runs go down with it on the stack, so that has to be known before
//! any of them begins: from the text alone, and never too low.

use std::thread;

/// Brackets within brackets: the parser's stack grows by kilobytes with each. People write five.
const BRACKETS: usize = 24;
/// Operators and fields of all brackets that are open: each may be a level of the tree. People write dozens.
const LEVELS: usize = 150;

/// Room for the parser: faced with what is no expression it takes up to 200 KiB a bracket where it is not optimised, and
/// a worker's stack of 2 MiB is gone after a dozen. Only what is touched is ever memory.
const PARSER_STACK: usize = 64 << 20;

/// Runs `parse` on a stack of its own that is deep enough for all that [`is_too_deep`] lets through.
///
/// # Errors
/// No thread could be had.
pub(super) fn with_room<T: Send>(parse: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    thread::scope(|scope| {
        let parser = thread::Builder::new().name("cel-parser".to_owned()).stack_size(PARSER_STACK);
        let parser = parser.spawn_scoped(scope, parse)?;
        Ok(parser.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Whether the expression may be nested deeper than is safe.
pub(super) fn is_too_deep(text: &str) -> bool {
    let bytes = text.as_bytes();
    // Of each open bracket the operators so far; the outermost is the expression itself.
    let mut open = vec![0_usize];
    let mut sum = 0;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' | b'\'' => {
                at = after_string(bytes, at);
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at = bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| at + n);
                continue;
            }
            b'(' | b'[' | b'{' => open.push(0),
            b')' | b']' | b'}' if open.len() > 1 => sum -= open.pop().unwrap_or(0),
            b'+' | b'-' | b'*' | b'/' | b'%' | b'<' | b'>' | b'=' | b'!' | b'&' | b'|' | b'?' | b'.' => {
                // `&&` and `<=` are one; `!!` and `--` are two.
                let next = bytes.get(at + 1);
                if matches!(
                    (byte, next),
                    (b'&', Some(b'&')) | (b'|', Some(b'|')) | (b'<' | b'>' | b'=' | b'!', Some(b'='))
                ) {
                    at += 1;
                }
                sum += 1;
                if let Some(last) = open.last_mut() {
                    *last += 1;
                }
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                let end = bytes[at..].iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'_');
                let end = end.map_or(bytes.len(), |n| at + n);
                if &bytes[at..end] == b"in" {
                    sum += 1;
                    if let Some(last) = open.last_mut() {
                        *last += 1;
                    }
                }
                // A prefix of a string (`r'…'`) ends the word, too: what follows is read as a string with escapes, which
                // may end later than it does, where brackets are then taken for text; so raw ones are read as such.
                let raw = bytes[at..end].iter().all(|b| matches!(b, b'r' | b'R' | b'b' | b'B'))
                    && bytes[at..end].iter().any(|b| matches!(b, b'r' | b'R'));
                if raw && matches!(bytes.get(end), Some(b'"' | b'\'')) {
                    at = after_raw(bytes, end);
                    continue;
                }
                at = end;
                continue;
            }
            _ => {}
        }
        if open.len() > BRACKETS + 1 || sum + open.len() > LEVELS {
            return true;
        }
        at += 1;
    }
    false
}

fn quote(bytes: &[u8], at: usize) -> &[u8] {
    let one = &bytes[at..=at];
    let three = bytes.get(at..at + 3).unwrap_or_default();
    if three.len() == 3 && three.iter().all(|b| *b == one[0]) { three } else { one }
}

fn after_string(bytes: &[u8], at: usize) -> usize {
    let quote = quote(bytes, at);
    let mut at = at + quote.len();
    while at < bytes.len() {
        if bytes[at] == b'\\' {
            at += 2;
        } else if bytes[at..].starts_with(quote) {
            return at + quote.len();
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn after_raw(bytes: &[u8], at: usize) -> usize {
    let quote = quote(bytes, at);
    let inside = at + quote.len();
    let end = bytes[inside..].windows(quote.len()).position(|w| w == quote);
    end.map_or(bytes.len(), |n| inside + n + quote.len())
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
        ] {
            assert!(!is_too_deep(&text), "{text}");
            assert!(super::super::check::rule(&text, &schema, true, false).is_err(), "{text}");
        }
    }
}
