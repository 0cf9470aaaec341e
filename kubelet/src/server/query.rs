//! The query of a request, as pairs: names may be repeated.

use super::Failure;
use std::str::FromStr;

#[derive(Debug, Clone, Default)]
pub(super) struct Pairs(pub(super) Vec<(String, String)>);

impl Pairs {
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The first one of that name that is not empty.
    pub(super) fn get<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.all(name).find(|value| !value.is_empty())
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| matches!(value, "1" | "true" | "True" | "TRUE" | "t" | "T"))
    }

    pub(super) fn parse<T: FromStr>(&self, name: &str) -> Result<Option<T>, Failure> {
        let parse = |value: &str| {
            value
                .parse()
                .map_err(|_| Failure::bad_request(format!("invalid value {value:?} of the parameter {name}")))
        };
        self.get(name).map(parse).transpose()
    }
}

/// Which streams an exec or attach is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Streams {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

impl Streams {
    pub(super) fn parse(query: &Pairs) -> Result<Self, Failure> {
        let (stdin, stdout, tty) = (query.flag("input"), query.flag("output"), query.flag("tty"));
        // A terminal has one output.
        let stderr = query.flag("error") && !tty;
        if !(stdin || stdout || stderr) {
            return Err(Failure::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
        }
        Ok(Self { stdin, stdout, stderr, tty })
    }
}

/// Ports to forward: repeated, or separated by commas.
pub(super) fn ports(query: &Pairs) -> Result<Vec<u16>, Failure> {
    let values = query.all("ports").chain(query.all("port")).flat_map(|value| value.split(','));
    let parse = |value: &str| match value.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(Failure::bad_request(format!("{value:?} is not a port"))),
    };
    values.map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(query: &[(&str, &str)]) -> Pairs {
        Pairs(query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn streams_are_those_asked_for() {
        let streams = |stdin, stdout, stderr, tty| Ok(Streams { stdin, stdout, stderr, tty });
        let all = [("input", "1"), ("output", "1"), ("error", "1")];
        assert_eq!(Streams::parse(&pairs(&all)), streams(true, true, true, false));
        let tty = [("input", "1"), ("output", "true"), ("error", "1"), ("tty", "1")];
        assert_eq!(Streams::parse(&pairs(&tty)), streams(true, true, false, true));
        assert_eq!(
            Streams::parse(&pairs(&[("output", "1"), ("input", "0")])),
            streams(false, true, false, false)
        );
        assert!(Streams::parse(&pairs(&[("tty", "1"), ("error", "1")])).is_err());
        assert!(Streams::parse(&pairs(&[])).is_err());
    }

    #[test]
    fn ports_are_numbers() {
        assert_eq!(ports(&pairs(&[("ports", "80,443"), ("ports", "8080")])), Ok(vec![80, 443, 8080]));
        assert_eq!(ports(&pairs(&[])), Ok(vec![]));
        for bad in ["", "0", "65536", "http", "80,", "-1"] {
            assert!(ports(&pairs(&[("ports", bad)])).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn numbers_are_checked() {
        let query = pairs(&[("tailLines", "10"), ("limitBytes", "x"), ("sinceSeconds", "")]);
        assert_eq!(query.parse::<u64>("tailLines"), Ok(Some(10)));
        assert_eq!(query.parse::<u64>("sinceSeconds"), Ok(None));
        assert!(query.parse::<u64>("limitBytes").is_err());
    }
}
