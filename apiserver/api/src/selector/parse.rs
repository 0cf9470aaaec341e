//! Lexer and parser of label selectors.

use super::{Operator, Requirement, no_path};
use crate::names;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    End,
    Close,
    Open,
    Comma,
    Not,
    /// A symbol operator: `=`, `==`, `!=`, `<`, `>`.
    Symbol(&'static str),
    /// A key or value; also `in` and `notin`, which are words until an operator is expected.
    Word(String),
    /// A run of special characters that is no operator, e.g. `=<`.
    Bad(String),
}

impl Token {
    fn literal(&self) -> &str {
        match self {
            Self::End => "",
            Self::Close => ")",
            Self::Open => "(",
            Self::Comma => ",",
            Self::Not => "!",
            Self::Symbol(s) => s,
            Self::Word(w) | Self::Bad(w) => w,
        }
    }
}

const SPECIAL: &str = "=!(),<>";

fn lex(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = if SPECIAL.contains(first) {
            // The longest run that is a token; a longer run of special characters is cut there.
            if rest.starts_with("==") {
                (Token::Symbol("=="), 2)
            } else if rest.starts_with("!=") {
                (Token::Symbol("!="), 2)
            } else {
                let token = match first {
                    '=' => Token::Symbol("="),
                    '<' => Token::Symbol("<"),
                    '>' => Token::Symbol(">"),
                    '!' => Token::Not,
                    '(' => Token::Open,
                    ')' => Token::Close,
                    ',' => Token::Comma,
                    other => Token::Bad(other.to_string()),
                };
                (token, 1)
            }
        } else {
            let end = rest.find(|c: char| SPECIAL.contains(c) || c.is_whitespace()).unwrap_or(rest.len());
            (Token::Word(rest[..end].to_owned()), end)
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    tokens.push(Token::End);
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        // The list ends with End, and `next` never goes past it.
        &self.tokens[self.at]
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        if token != Token::End {
            self.at += 1;
        }
        token
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = *self.peek() == Token::Not;
        if negated {
            self.next();
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => return Err(format!("found '{}', expected: identifier", other.literal())),
        };
        let faults = names::qualified_name(&key);
        if !faults.is_empty() {
            return Err(format!("{}: Invalid value: {key:?}: {}", no_path(), faults.join("; ")));
        }
        if negated {
            return Requirement::new(&key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Requirement::new(&key, Operator::Exists, Vec::new());
        }
        let token = self.next();
        let operator = match token.literal() {
            "=" => Operator::Equals,
            "==" => Operator::DoubleEquals,
            "!=" => Operator::NotEquals,
            ">" => Operator::GreaterThan,
            "<" => Operator::LessThan,
            "in" => Operator::In,
            "notin" => Operator::NotIn,
            other => return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.set()?,
            _ => vec![self.value()?],
        };
        Requirement::new(&key, operator, values)
    }

    /// `(a,b)`; an empty place between commas is the empty value.
    fn set(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            Token::Open => {}
            other => return Err(format!("found '{}' expected: '('", other.literal())),
        }
        let mut values = Vec::new();
        let mut want_value = true;
        loop {
            match self.next() {
                Token::Word(value) if want_value => {
                    values.push(value);
                    want_value = false;
                }
                Token::Comma => {
                    if want_value {
                        values.push(String::new());
                    }
                    want_value = true;
                }
                Token::Close => {
                    if want_value {
                        values.push(String::new());
                    }
                    return Ok(values);
                }
                other if want_value => {
                    return Err(format!("found '{}', expected: ',', or identifier", other.literal()));
                }
                other => return Err(format!("found '{}', expected: ',' or ')'", other.literal())),
            }
        }
    }

    fn value(&mut self) -> Result<String, String> {
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.next() {
            Token::Word(value) => Ok(value),
            other => Err(format!("found '{}', expected: identifier", other.literal())),
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, String> {
    let mut parser = Parser { tokens: lex(text), at: 0 };
    let mut requirements = Vec::new();
    loop {
        match parser.peek() {
            Token::End => return Ok(requirements),
            Token::Word(_) | Token::Not => {}
            other => {
                return Err(format!(
                    "found '{}', expected: !, identifier, or 'end of string'",
                    other.literal()
                ));
            }
        }
        let requirement = parser.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?;
        requirements.push(requirement);
        match parser.next() {
            Token::End => return Ok(requirements),
            Token::Comma => match parser.peek() {
                Token::Word(_) | Token::Not => {}
                other => return Err(format!("found '{}', expected: identifier after ','", other.literal())),
            },
            other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.literal())),
        }
    }
}
