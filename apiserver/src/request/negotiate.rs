//! Which form of answer a client wants: the object, a `Table`, or metadata only; and how it may be packed.

use super::options::Query;
use crate::{
    error::{ApiError, Result},
    protobuf,
    registry::table::Include,
};
use http::{HeaderMap, header};

/// What can be given; the message of 406.
const GIVEN: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const STREAMED: &str = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    #[default]
    Object,
    Table(Include),
    /// `PartialObjectMetadata`, and its list.
    Partial,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    #[default]
    Json,
    Yaml,
    /// Kubernetes' protobuf, for kinds that have it; JSON for others.
    Protobuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accepted {
    pub form: Form,
    pub encoding: Encoding,
    /// Indented JSON, for people.
    pub pretty: bool,
    /// The client takes gzip.
    pub gzip: bool,
}

impl Accepted {
    /// # Errors
    /// 406 if nothing that the client accepts can be given. A `stream` of events has no form in YAML.
    pub fn of(headers: &HeaderMap, query: &Query, stream: bool) -> Result<Self> {
        let include = Include::parse(query.get("includeObject"))
            .ok_or_else(|| ApiError::BadRequest("unrecognized includeObject value".to_owned()))?;
        let (form, encoding) = form(headers, include, stream)?;
        Ok(Self { form, encoding, pretty: query.flag("pretty"), gzip: takes_gzip(headers) })
    }

    /// For an answer that is no object of a table of kinds: a question's, or a discovery document.
    ///
    /// # Errors
    /// 406 if a table or metadata only are wanted.
    pub fn whole(self) -> Result<Self> {
        match self.form {
            Form::Object => Ok(self),
            Form::Table(_) | Form::Partial => Err(not_acceptable(GIVEN)),
        }
    }
}

fn not_acceptable(given: &str) -> ApiError {
    ApiError::NotAcceptable(format!("only the following media types are accepted: {given}"))
}

/// How a refusal is written: as the client wants its answers, and in JSON for one that wants nothing that there is.
pub fn of_refusal(headers: &HeaderMap) -> Encoding {
    form(headers, Include::default(), false).map(|(_, encoding)| encoding).unwrap_or_default()
}

/// The form and its encoding.
fn form(headers: &HeaderMap, include: Include, stream: bool) -> Result<(Form, Encoding)> {
    let mut ranges: Vec<(f32, Option<(Form, Encoding)>)> = Vec::new();
    for value in headers.get_all(header::ACCEPT) {
        for range in value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|r| !r.is_empty()) {
            ranges.push(read_range(range, include));
        }
    }
    if ranges.is_empty() {
        return Ok((Form::Object, Encoding::Json));
    }
    // The client's weight decides, then its order (the sort is stable).
    ranges.sort_by(|a, b| b.0.total_cmp(&a.0));
    let fits = |(quality, form): (f32, Option<(Form, Encoding)>)| {
        form.filter(|(_, encoding)| quality > 0.0 && !(stream && *encoding == Encoding::Yaml))
    };
    ranges.into_iter().find_map(fits).ok_or_else(|| not_acceptable(if stream { STREAMED } else { GIVEN }))
}

/// One media range: its weight, and the form and encoding it means if we can give them.
fn read_range(range: &str, include: Include) -> (f32, Option<(Form, Encoding)>) {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default().to_ascii_lowercase();
    let (mut quality, mut shape, mut group, mut version) = (1.0, "", "", "");
    for (name, value) in parts.filter_map(|p| p.split_once('=')) {
        let value = value.trim_matches('"');
        match name.trim() {
            "q" => quality = value.parse().unwrap_or(0.0),
            "as" => shape = value,
            "g" => group = value,
            "v" => version = value,
            _ => {}
        }
    }
    let encoding = match media.as_str() {
        "application/json" | "application/*" | "*/*" => Some(Encoding::Json),
        "application/yaml" => Some(Encoding::Yaml),
        protobuf::MEDIA => Some(Encoding::Protobuf),
        _ => None,
    };
    let form = match (shape, group, version) {
        ("", ..) => Some(Form::Object),
        // Cells are of any type, so tables have no messages.
        ("Table", "meta.k8s.io", "v1") if encoding != Some(Encoding::Protobuf) => Some(Form::Table(include)),
        ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => Some(Form::Partial),
        _ => None,
    };
    (quality, form.zip(encoding))
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok()).any(|value| {
        value.split(',').any(|coding| {
            let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
            name.trim().eq_ignore_ascii_case("gzip") && parameters.trim().replace(' ', "") != "q=0"
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiate(accept: &str, query: &str) -> Result<Form> {
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(header::ACCEPT, accept.parse().unwrap());
        }
        let query = Query::of(&format!("/x?{query}").parse().unwrap());
        Accepted::of(&headers, &query, false).map(|a| a.form)
    }

    #[test]
    fn forms() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        for (accept, expected) in [
            ("", Some(Form::Object)),
            ("*/*", Some(Form::Object)),
            ("application/json", Some(Form::Object)),
            ("application/json;stream=watch", Some(Form::Object)),
            ("application/vnd.kubernetes.protobuf,application/json", Some(Form::Object)),
            ("application/vnd.kubernetes.protobuf", Some(Form::Object)),
            ("application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1", None),
            ("text/html", None),
            (table, Some(Form::Table(Include::Metadata))),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", Some(Form::Object)),
            ("application/json;as=Table;v=v2;g=meta.k8s.io", None),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some(Form::Partial)),
            (
                "application/json;q=0.5, application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
                Some(Form::Partial),
            ),
            ("application/json;q=0", None),
        ] {
            assert_eq!(negotiate(accept, "").ok(), expected, "{accept}");
        }
        assert_eq!(negotiate(table, "includeObject=None").unwrap(), Form::Table(Include::None));
        assert_eq!(negotiate(table, "includeObject=Object").unwrap(), Form::Table(Include::Object));
        assert!(negotiate(table, "includeObject=All").is_err());
        assert_eq!(negotiate("text/html", "").unwrap_err().code().as_u16(), 406);
    }

    #[test]
    fn encodings() {
        for (accept, expected, streamed) in [
            ("", Some(Encoding::Json), Some(Encoding::Json)),
            ("*/*", Some(Encoding::Json), Some(Encoding::Json)),
            (
                "application/json,application/vnd.kubernetes.protobuf",
                Some(Encoding::Json),
                Some(Encoding::Json),
            ),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                Some(Encoding::Protobuf),
                Some(Encoding::Protobuf),
            ),
            (
                "application/vnd.kubernetes.protobuf;stream=watch",
                Some(Encoding::Protobuf),
                Some(Encoding::Protobuf),
            ),
            (
                "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json",
                Some(Encoding::Json),
                Some(Encoding::Json),
            ),
            ("application/yaml", Some(Encoding::Yaml), None),
            ("application/yaml;as=Table;g=meta.k8s.io;v=v1", Some(Encoding::Yaml), None),
            ("application/yaml, application/json;q=0.9", Some(Encoding::Yaml), Some(Encoding::Json)),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
            let query = Query::of(&"/x".parse().unwrap());
            for (stream, expected) in [(false, expected), (true, streamed)] {
                let accepted = Accepted::of(&headers, &query, stream);
                assert_eq!(accepted.ok().map(|a| a.encoding), expected, "{accept} {stream}");
            }
            assert_eq!(Some(of_refusal(&headers)), expected, "{accept}");
        }
    }

    #[test]
    fn gzip() {
        for (value, expected) in
            [("gzip", true), ("deflate, GZIP;q=0.5", true), ("gzip;q=0", false), ("br", false)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, value.parse().unwrap());
            assert_eq!(takes_gzip(&headers), expected, "{value}");
        }
    }
}
