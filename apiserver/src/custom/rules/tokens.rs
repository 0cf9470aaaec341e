//! An expression's text in pieces, as far as it must be known before a parser sees it.

/// The pieces with their places: strings whole, words and numbers, operators, brackets. Space and comments are left out.
pub(super) fn tokens(text: &str) -> impl Iterator<Item = (usize, &[u8])> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let begin = at;
            let byte = *bytes.get(at)?;
            at = match byte {
                b'"' | b'\'' => after_string(bytes, at),
                b'/' if bytes.get(at + 1) == Some(&b'/') => {
                    at = bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| at + n);
                    continue;
                }
                _ if byte.is_ascii_whitespace() => {
                    at += 1;
                    continue;
                }
                _ if is_word(byte) => after_word(bytes, at),
                _ => {
                    // `!!` and `--` are two.
                    let two = matches!(
                        (byte, bytes.get(at + 1)),
                        (b'&', Some(b'&')) | (b'|', Some(b'|')) | (b'<' | b'>' | b'=' | b'!', Some(b'='))
                    );
                    at + 1 + usize::from(two)
                }
            };
            at = at.min(bytes.len());
            return Some((begin, &bytes[begin..at]));
        }
    })
}

/// The text without pairs of signs: `!!x` is `x`, and so is `--x`. Our parser takes an even number of either for one of
/// it, and reads what follows twice for each, so that nested ones take for ever. Places stay what they are.
pub(super) fn without_pairs(text: &str) -> String {
    let mut out = text.as_bytes().to_vec();
    let (mut sign, mut after_operand) = (None, false);
    for (at, token) in tokens(text) {
        if matches!(token, b"!" | b"-") && !after_operand {
            sign = match sign {
                Some((first, before)) if first == token => {
                    (out[before], out[at]) = (b' ', b' ');
                    None
                }
                _ => Some((token, at)),
            };
            continue;
        }
        sign = None;
        after_operand = match token {
            b")" | b"]" | b"}" => true,
            b"in" => false,
            _ => is_word(token[0]) || matches!(token[0], b'"' | b'\''),
        };
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// A prefix of a string ends a word, too: what follows is read as a string with escapes, which may end later than it
/// does, where brackets are then taken for text; so raw ones (`r'…'`) are read as such, with their prefix.
fn after_word(bytes: &[u8], at: usize) -> usize {
    let end = bytes[at..].iter().position(|b| !is_word(*b)).map_or(bytes.len(), |n| at + n);
    let prefix = &bytes[at..end];
    let raw = prefix.iter().all(|b| matches!(b, b'r' | b'R' | b'b' | b'B'))
        && prefix.iter().any(|b| matches!(b, b'r' | b'R'));
    if raw && matches!(bytes.get(end), Some(b'"' | b'\'')) { after_raw(bytes, end) } else { end }
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
    fn pairs_of_signs_go() {
        for (text, expected) in [
            ("!!a", "  a"),
            ("!a && !!!b", "!a &&   !b"),
            ("! ! a != !b", "    a != !b"),
            ("a - -b", "a - -b"),
            ("a - - - b", "a -     b"),
            ("f(x)--1 in [--2, '--', \"!!\"]", "f(x)--1 in [  2, '--', \"!!\"]"),
            ("1 in --x // !!", "1 in   x // !!"),
            ("!-!a", "!-!a"),
            ("r'\\' == !!é", "r'\\' ==   é"),
        ] {
            assert_eq!(without_pairs(text), expected, "{text}");
        }
    }
}
