//! Answers: stored bytes in the form the client asked for, packed if that pays.

use crate::{
    error::{ApiError, Result},
    kinds::AnyKind,
    protobuf,
    registry::{Page, table},
    request::negotiate::{Accepted, Encoding, Form},
};
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use http::{HeaderValue, StatusCode, header};
use std::io::Write;

/// Smaller answers are not worth the time of packing (the API server's own threshold).
const GZIP_FROM: usize = 128 * 1024;
/// Characters of all warnings of an answer, and of each where they are more.
const WARNINGS_LENGTH: usize = 4 * 1024;
const WARNING_LENGTH: usize = 256;
/// Longest line of YAML that is not folded: longer than any value is.
const YAML_LINE: usize = 16 * 1024 * 1024;

/// One object.
pub fn object(
    kind: &dyn AnyKind,
    accepted: Accepted,
    created: bool,
    bytes: Bytes,
    warnings: &[String],
) -> Result<Response> {
    let bytes = match accepted.form {
        Form::Object => kind.show(&bytes),
        Form::Partial => table::partial(&bytes).into(),
        Form::Table(include) => {
            let typed = kind.decode_stored(&bytes).map_err(ApiError::Internal)?;
            let meta = table::ListMeta {
                resource_version: typed.meta().resource_version.clone().unwrap_or_default(),
                ..table::ListMeta::default()
            };
            table::render(kind, &[(typed, kind.show(&bytes))], include, &meta, true, jiff::Timestamp::now())
                .into()
        }
    };
    let code = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(warn(json(accepted, code, bytes), warnings))
}

/// A page of a list.
pub fn list(kind: &dyn AnyKind, accepted: Accepted, page: &Page) -> Result<Response> {
    let meta = table::ListMeta {
        resource_version: page.revision.to_string(),
        continue_: page.next.clone(),
        remaining: page.remaining,
    };
    let bytes = match accepted.form {
        Form::Object => concatenated(kind, page, &meta)?,
        Form::Partial => table::partial_list(page.items.iter().map(|kv| &kv.value), &meta).into(),
        Form::Table(include) => {
            let rows = page
                .items
                .iter()
                .map(|kv| crate::registry::decode(kind, kv).map(|object| (object, kind.show(&kv.value))))
                .collect::<Result<Vec<_>>>()?;
            table::render(kind, &rows, include, &meta, true, jiff::Timestamp::now()).into()
        }
    };
    Ok(json(accepted, StatusCode::OK, bytes))
}

/// The list's bytes: a head, the stored objects as they are, a tail.
fn concatenated(kind: &dyn AnyKind, page: &Page, meta: &table::ListMeta) -> Result<Bytes> {
    let meta = serde_json::to_string(meta).map_err(|e| ApiError::Internal(e.to_string()))?;
    let size: usize = page.items.iter().map(|kv| kv.value.len() + 1).sum();
    let mut out = BytesMut::with_capacity(size + meta.len() + 128);
    let head = format!(
        r#"{{"kind":"{}","apiVersion":"{}","metadata":{meta},"items":["#,
        kind.list_kind(),
        kind.resource().api_version()
    );
    out.put_slice(head.as_bytes());
    for (i, kv) in page.items.iter().enumerate() {
        if i > 0 {
            out.put_u8(b',');
        }
        out.put_slice(&kind.show(&kv.value));
    }
    out.put_slice(b"]}");
    Ok(out.freeze())
}

/// JSON that is written already, in the encoding the client asked for if its kind has it.
pub fn json(accepted: Accepted, code: StatusCode, bytes: Bytes) -> Response {
    let encoded = match accepted.encoding {
        Encoding::Json => None,
        Encoding::Yaml => yaml(&bytes).map(|text| ("application/yaml", text)),
        Encoding::Protobuf => protobuf::object(&bytes).map(|encoded| (protobuf::MEDIA, encoded)),
    };
    let (media, encoded) = encoded.unzip();
    let media = media.unwrap_or("application/json");
    let bytes = match encoded {
        Some(encoded) => encoded.into(),
        None if accepted.pretty => indented(&bytes),
        None => bytes,
    };
    let packed = (accepted.gzip && bytes.len() >= GZIP_FROM).then(|| gzip(&bytes)).flatten();
    let is_packed = packed.is_some();
    let mut response = Response::new(packed.unwrap_or(bytes).into());
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    if is_packed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}

fn indented(bytes: &Bytes) -> Bytes {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) else { return bytes.clone() };
    match serde_json::to_vec_pretty(&value) {
        Ok(mut text) => {
            text.push(b'\n');
            text.into()
        }
        Err(_) => bytes.clone(),
    }
}

/// The same in YAML; `None` for what is none.
fn yaml(bytes: &Bytes) -> Option<Vec<u8>> {
    let value = serde_json::from_slice::<serde_json::Value>(bytes).ok()?;
    // As Kubernetes writes it: lists at the indentation of their key, long lines in one.
    let options = serde_saphyr::ser_options! { compact_list_indent: true, folded_wrap_chars: YAML_LINE };
    serde_saphyr::to_string_with_options(&value, options).ok().map(String::into_bytes)
}

fn gzip(bytes: &[u8]) -> Option<Bytes> {
    // The fastest level: the network is a loopback or a LAN, the machine's cores are few.
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

/// Adds `Warning` headers, as RFC 7234 and client-go write them. Clients bound the head of an answer: as in Kubernetes,
/// where all texts together are too long each is cut short, and no more are told when enough was said.
pub fn warn(mut response: Response, warnings: &[String]) -> Response {
    let all: usize = warnings.iter().map(|text| text.chars().count()).sum();
    let longest = if all > WARNINGS_LENGTH { WARNING_LENGTH } else { all };
    let mut said = 0;
    for text in warnings {
        if said >= WARNINGS_LENGTH {
            break;
        }
        let text: String = text.chars().take(longest).collect();
        said += text.chars().count();
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"").replace(['\r', '\n'], " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}
