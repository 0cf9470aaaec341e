//! Which form of answer a client wants: the object, a `Table`, or metadata only; and how it may be packed.

use super::options::Query;
use crate::{
    error::{ApiError, Result},
    protobuf,
    registry::table::Include,
};
use http::{HeaderMap, header};

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    #[default]
    Object,
    Table(Include),
    /// `PartialObjectMetadata`, and its list.
    Partial,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accepted {
    pub form: Form,
    /// Kubernetes' protobuf, for kinds that have it.
    pub protobuf: bool,
    /// Indented JSON, for people.
    pub pretty: bool,
    /// The client takes gzip.
    pub gzip: bool,
}

impl Accepted {
    /// # Errors
    /// 406 if nothing that the client accepts can be given.
    pub fn of(headers: &HeaderMap, query: &Query) -> Result<Self> {
        let include = Include::parse(query.get("includeObject"))
            .ok_or_else(|| ApiError::BadRequest("unrecognized includeObject value".to_owned()))?;
        let (form, protobuf) = form(headers, include)?;
        Ok(Self { form, protobuf, pretty: query.flag("pretty"), gzip: takes_gzip(headers) })
    }
}

/// The form, and whether it is to be in protobuf.
fn form(headers: &HeaderMap, include: Include) -> Result<(Form, bool)> {
    let mut ranges: Vec<(f32, Option<(Form, bool)>)> = Vec::new();
    for value in headers.get_all(header::ACCEPT) {
        for range in value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|r| !r.is_empty()) {
            ranges.push(read_range(range, include));
        }
    }
    if ranges.is_empty() {
        return Ok((Form::Object, false));
    }
    // The client's weight decides, then its order (the sort is stable).
    ranges.sort_by(|a, b| b.0.total_cmp(&a.0));
    ranges.into_iter().find_map(|(quality, form)| form.filter(|_| quality > 0.0)).ok_or_else(|| {
        ApiError::NotAcceptable(format!(
            "only the following media types are accepted: application/json, {}",
            protobuf::MEDIA
        ))
    })
}

/// One media range: its weight, and the form and encoding it means if we can give them.
fn read_range(range: &str, include: Include) -> (f32, Option<(Form, bool)>) {
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
    let protobuf = media == protobuf::MEDIA;
    let known = protobuf || matches!(media.as_str(), "application/json" | "application/*" | "*/*");
    let form = match (shape, group, version) {
        ("", ..) => Some(Form::Object),
        // Cells are of any type, so tables have no messages.
        ("Table", "meta.k8s.io", "v1") if !protobuf => Some(Form::Table(include)),
        ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => Some(Form::Partial),
        _ => None,
    };
    (quality, form.filter(|_| known).map(|form| (form, protobuf)))
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
        Accepted::of(&headers, &query).map(|a| a.form)
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
        for (accept, expected) in [
            ("", false),
            ("*/*", false),
            ("application/json,application/vnd.kubernetes.protobuf", false),
            ("application/vnd.kubernetes.protobuf,application/json", true),
            ("application/vnd.kubernetes.protobuf;stream=watch", true),
            ("application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
            let accepted = Accepted::of(&headers, &Query::of(&"/x".parse().unwrap())).unwrap();
            assert_eq!(accepted.protobuf, expected, "{accept}");
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
