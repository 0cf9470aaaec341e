//! Finds the attributes of an HTML page that hold URLs; everything else is copied byte for byte.
//!
//! Only as much of the HTML tokenizer as that needs: tags, attributes, comments, and the elements whose content is text.

/// Elements and those of their attributes that hold one URL.
/// <https://html.spec.whatwg.org/multipage/indices.html#attributes-3>
const URL_ATTRIBUTES: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];
/// Their content is text up to their own end tag.
const RAW_TEXT: [&str; 7] = ["script", "style", "textarea", "title", "xmp", "noembed", "noframes"];

/// The page with `url` applied to each URL in it.
pub(super) fn rewrite(page: &[u8], url: impl Fn(&str) -> String) -> Vec<u8> {
    let mut out = Vec::with_capacity(page.len() + page.len() / 8);
    let mut at = 0;
    while let Some(open) = find(page, at, b"<") {
        out.extend_from_slice(&page[at..open]);
        at = open;
        if page[at..].starts_with(b"<!--") {
            let end = find(page, at + 4, b"-->").map_or(page.len(), |e| e + 3);
            out.extend_from_slice(&page[at..end]);
            at = end;
        } else if page.get(at + 1).is_some_and(u8::is_ascii_alphabetic) {
            let (end, name) = tag(page, at, &url, &mut out);
            at = end;
            if RAW_TEXT.contains(&name.as_str()) {
                let end = end_of_text(page, at, &name);
                out.extend_from_slice(&page[at..end]);
                at = end;
            }
        } else {
            out.push(b'<');
            at += 1;
        }
    }
    out.extend_from_slice(&page[at..]);
    out
}

fn find(page: &[u8], from: usize, needle: &[u8]) -> Option<usize> {
    let rest = page.get(from..)?;
    rest.windows(needle.len()).position(|w| w == needle).map(|i| from + i)
}

/// Where `</name` stands, or the end of the page.
fn end_of_text(page: &[u8], from: usize, name: &str) -> usize {
    let mut at = from;
    while let Some(open) = find(page, at, b"</") {
        let rest = &page[open + 2..];
        if rest.len() >= name.len() && rest[..name.len()].eq_ignore_ascii_case(name.as_bytes()) {
            return open;
        }
        at = open + 2;
    }
    page.len()
}

/// Copies one start tag; returns where it ends and its name in lower case.
fn tag(page: &[u8], open: usize, url: &impl Fn(&str) -> String, out: &mut Vec<u8>) -> (usize, String) {
    let is_name_end = |b: &u8| b.is_ascii_whitespace() || matches!(b, b'/' | b'>');
    let mut at = open + 1;
    at += page[at..].iter().position(is_name_end).unwrap_or(page.len() - at);
    let name = String::from_utf8_lossy(&page[open + 1..at]).to_ascii_lowercase();
    out.extend_from_slice(&page[open..at]);
    let wanted = URL_ATTRIBUTES.iter().find(|(element, _)| *element == name).map_or(&[][..], |(_, a)| *a);
    while at < page.len() {
        if page[at] == b'>' {
            out.push(b'>');
            return (at + 1, name);
        }
        if page[at].is_ascii_whitespace() || page[at] == b'/' {
            out.push(page[at]);
            at += 1;
            continue;
        }
        at = attribute(page, at, wanted, url, out);
    }
    (at, name)
}

/// Copies one attribute, with its URL rewritten if its name is among `wanted`; returns where it ends.
fn attribute(
    page: &[u8],
    start: usize,
    wanted: &[&str],
    url: &impl Fn(&str) -> String,
    out: &mut Vec<u8>,
) -> usize {
    let ends = |b: &u8| b.is_ascii_whitespace() || matches!(b, b'/' | b'>' | b'=');
    // A name may start with '='; it is at least one byte long, so that the caller always gets on.
    let mut at = start + 1;
    at += page[at..].iter().position(ends).unwrap_or(page.len() - at);
    let name = String::from_utf8_lossy(&page[start..at]).to_ascii_lowercase();
    out.extend_from_slice(&page[start..at]);

    let skip = |at: usize| at + page[at..].iter().take_while(|b| b.is_ascii_whitespace()).count();
    let equals = skip(at);
    if page.get(equals) != Some(&b'=') {
        return at;
    }
    let value = skip(equals + 1);
    out.extend_from_slice(&page[at..value]);
    let (from, to, end) = match page.get(value) {
        Some(quote @ (b'"' | b'\'')) => {
            let Some(close) = find(page, value + 1, &[*quote]) else {
                // Never closed: the rest of the page is this value, and nobody will follow it.
                out.extend_from_slice(&page[value..]);
                return page.len();
            };
            out.push(*quote);
            (value + 1, close, close + 1)
        }
        _ => {
            let is_end = |b: &u8| b.is_ascii_whitespace() || *b == b'>';
            let end = value + page[value..].iter().position(is_end).unwrap_or(page.len() - value);
            (value, end, end)
        }
    };
    let raw = &page[from..to];
    match std::str::from_utf8(raw) {
        // Browsers trim; the prefix is put in front of what they see.
        Ok(text) if wanted.contains(&name.as_str()) => out.extend_from_slice(url(text.trim()).as_bytes()),
        _ => out.extend_from_slice(raw),
    }
    out.extend_from_slice(&page[to..end]);
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn turned(page: &str) -> String {
        let url = |u: &str| if u.starts_with('/') { format!("/P{u}") } else { u.to_owned() };
        String::from_utf8(rewrite(page.as_bytes(), url)).unwrap()
    }

    #[test]
    fn urls_in_tags_are_found() {
        let table = [
            ("<a href=\"/x\">/y</a>", "<a href=\"/P/x\">/y</a>"),
            ("<A class=b HREF='/x' id=c>", "<A class=b HREF='/P/x' id=c>"),
            ("<a href=/x>", "<a href=/P/x>"),
            ("<a href = \"/x?a=1&amp;b=2\">", "<a href = \"/P/x?a=1&amp;b=2\">"),
            ("<img src=/a.png/>", "<img src=/P/a.png/>"),
            ("<img alt=/x src=\"/a\" usemap=/m />", "<img alt=/x src=\"/P/a\" usemap=/P/m />"),
            ("<link rel=stylesheet\nhref=\" /s.css \">", "<link rel=stylesheet\nhref=\"/P/s.css\">"),
            (
                "<form method=post action='/go'><input formaction='/f'>",
                "<form method=post action='/P/go'><input formaction='/P/f'>",
            ),
            ("<script src=\"/a.js\"></script>", "<script src=\"/P/a.js\"></script>"),
            ("<a title=\">\" href=\"/x\">", "<a title=\">\" href=\"/P/x\">"),
        ];
        for (given, expected) in table {
            assert_eq!(turned(given), expected);
        }
    }

    #[test]
    fn everything_else_stays() {
        for page in [
            "",
            "plain /x text",
            "1 < 2 <",
            "<",
            "<a",
            "<a href",
            "<a href=",
            "<a href=\"/never closed",
            "<p href=\"/x\">",
            "<!-- <a href=\"/x\"> -->",
            "<!-- never closed <a href=\"/x\">",
            "<!DOCTYPE html>",
            "<script>var a = '<a href=\"/x\">';</script>",
            "<style>a{background:url(/x)}</style>",
            "<textarea><a href='/x'></textarea>",
            "<a href=\"relative/x\">",
            "<a =x>",
        ] {
            assert_eq!(turned(page), page);
        }
    }

    proptest! {
        /// Whatever comes, no byte is lost when no link is changed, and nothing panics.
        #[test]
        fn any_bytes_pass(page in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(rewrite(&page, str::to_owned).len() <= page.len(), true);
        }
        #[test]
        fn any_markup_passes(page in "[<>a-c/='\" !\\-]{0,120}") {
            let same = rewrite(page.as_bytes(), str::to_owned);
            // Only blanks around URLs may go.
            let squeeze = |b: &[u8]| b.iter().filter(|b| !b.is_ascii_whitespace()).copied().collect::<Vec<_>>();
            prop_assert_eq!(squeeze(&same), squeeze(page.as_bytes()));
        }
    }
}
