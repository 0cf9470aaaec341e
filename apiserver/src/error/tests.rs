//! What a client reads for each sort of failure. `UPDATE_GOLDEN=1` rewrites the file.

use super::*;

fn every_variant() -> Vec<(&'static str, ApiError)> {
    let (group, resource, name) = ("apps".to_owned(), "statefulsets.apps".to_owned(), "web".to_owned());
    let mut errors = field::Errors::default();
    errors.required(&field::Path::new("spec").child("selector"), "");
    errors.invalid(&field::Path::new("spec").child("replicas"), -1, "must be greater than or equal to 0");
    let mut one = field::Errors::default();
    one.invalid(&field::Path::new("metadata").child("name"), "A", "must be lower case");
    vec![
        (
            "NotFound",
            ApiError::NotFound { group: group.clone(), resource: resource.clone(), name: name.clone() },
        ),
        ("NoSuchPath", ApiError::NoSuchPath),
        (
            "AlreadyExists",
            ApiError::AlreadyExists {
                group: String::new(),
                resource: "pods".to_owned(),
                name: name.clone(),
                deleting: false,
            },
        ),
        (
            "Conflict",
            ApiError::Conflict {
                group: group.clone(),
                resource: resource.clone(),
                name: name.clone(),
                detail: "the object has been modified".to_owned(),
            },
        ),
        (
            "ApplyConflict",
            ApiError::ApplyConflict {
                message: "Apply failed with 1 conflict".to_owned(),
                causes: vec![("conflict with \"kubectl\"".to_owned(), ".spec.replicas".to_owned())],
            },
        ),
        (
            "Invalid",
            ApiError::Invalid {
                group: group.clone(),
                kind: "StatefulSet".to_owned(),
                name: name.clone(),
                errors,
            },
        ),
        (
            "Invalid, one cause",
            ApiError::Invalid {
                group: String::new(),
                kind: "Pod".to_owned(),
                name: "A".to_owned(),
                errors: one,
            },
        ),
        ("Unprocessable", ApiError::Unprocessable("no such path".to_owned())),
        ("BadRequest", ApiError::BadRequest("cannot be read".to_owned())),
        ("Unauthorized", ApiError::Unauthorized),
        (
            "Forbidden",
            ApiError::Forbidden {
                group: group.clone(),
                resource: resource.clone(),
                name: name.clone(),
                detail: "User \"u\" cannot get resource".to_owned(),
            },
        ),
        (
            "NamespaceTerminating",
            ApiError::NamespaceTerminating { group, resource, name, namespace: "n".to_owned() },
        ),
        ("MethodNotAllowed", ApiError::MethodNotAllowed("the server does not allow this method".to_owned())),
        ("NotAcceptable", ApiError::NotAcceptable("only JSON".to_owned())),
        ("UnsupportedMediaType", ApiError::UnsupportedMediaType("unknown format".to_owned())),
        ("TooLarge", ApiError::TooLarge("limit is 5".to_owned())),
        ("Expired", ApiError::Expired { message: "too old".to_owned(), fresh: None }),
        (
            "Expired, with a token",
            ApiError::Expired { message: "too old".to_owned(), fresh: Some("t".to_owned()) },
        ),
        ("TooManyRequests", ApiError::TooManyRequests { message: "later".to_owned(), retry_after: 3 }),
        ("Disruption", ApiError::Disruption { cause: "The disruption budget b".to_owned(), retry_after: 10 }),
        ("SeveralBudgets", ApiError::SeveralBudgets),
        ("NotImplemented", ApiError::NotImplemented("not built yet".to_owned())),
        ("Unavailable", ApiError::Unavailable("shutting down".to_owned())),
        ("Timeout", ApiError::Timeout("too slow".to_owned())),
        ("TooLargeResourceVersion", ApiError::TooLargeResourceVersion { requested: 9, current: 5 }),
        ("BadGateway", ApiError::BadGateway("no answer".to_owned())),
        ("Internal", ApiError::Internal("a bug".to_owned())),
    ]
}

#[test]
fn the_status_of_every_failure() {
    let mut got = String::new();
    for (name, error) in every_variant() {
        let status = error.status();
        assert_eq!(status["code"], error.code().as_u16(), "{name}");
        assert_eq!(status["reason"], error.reason(), "{name}");
        got.push_str(&format!("{name}: {status}\n"));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/error/golden.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &got).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    for (got, golden) in got.lines().zip(golden.lines()) {
        assert_eq!(got, golden);
    }
    assert_eq!(got, golden);
}

#[test]
fn answers_say_when_to_come_back() {
    let response = ApiError::TooManyRequests { message: "later".to_owned(), retry_after: 3 }.into_response();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (429, &HeaderValue::from(3))
    );
    assert!(!ApiError::Unauthorized.into_response().headers().contains_key("retry-after"));
}
