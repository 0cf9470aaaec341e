//! Questions about identity and access: asked by POST, answered in the object's status, never stored.

use super::respond;
use crate::{
    admission::Lookup,
    auth::{Authenticator, Authorizer, User, authz},
    error::{ApiError, Result},
    request::{Incoming, body},
    state::App,
};
use api::field::{Errors, Path};
use axum::response::Response;
use http::StatusCode;
use k8s_openapi::api::{
    authentication::v1::{
        SelfSubjectReview, SelfSubjectReviewStatus, TokenReview, TokenReviewStatus, UserInfo,
    },
    authorization::v1::{
        LocalSubjectAccessReview, NonResourceAttributes, ResourceAttributes, SelfSubjectAccessReview,
        SelfSubjectRulesReview, SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// POST of a review.
pub async fn create(app: &App, mut incoming: Incoming) -> Result<Response> {
    let accepted = incoming.accepted()?.whole()?;
    let bytes = incoming.body(app.limits.body_bytes).await?;
    let info = &incoming.info;
    let mut object = body::parse(incoming.content_type(), &bytes, &info.resource)?.value;
    // The same question in an older version's name is spelt the same.
    let asked = format!("{}/{}", info.group, info.version);
    if object.get("apiVersion").and_then(Value::as_str) == Some(asked.as_str()) {
        object["apiVersion"] = format!("{}/v1", info.group).into();
    }
    let asked_by = Asker {
        authenticator: &app.authenticator,
        authorizer: &app.authorizer,
        lookup: &app.registry,
        user: &incoming.user,
    };
    let mut answer = asked_by.review(&info.resource, &info.namespace, object).await?;
    answer["apiVersion"] = asked.into();
    Ok(respond::json(accepted, StatusCode::CREATED, answer.to_string().into()))
}

/// Who asks, and who knows.
struct Asker<'a> {
    authenticator: &'a Authenticator,
    authorizer: &'a Authorizer,
    lookup: &'a dyn Lookup,
    user: &'a User,
}

impl Asker<'_> {
    /// The object with its status. `plural` is one of the review resources; `namespace` the path's.
    async fn review(&self, plural: &str, namespace: &str, object: Value) -> Result<Value> {
        let Self { authenticator, authorizer, lookup, user } = *self;
        match plural {
            "selfsubjectreviews" => answered::<SelfSubjectReview>(object, |review| {
                review.status = Some(SelfSubjectReviewStatus { user_info: Some(user_info(user)) });
                Ok(())
            }),
            "selfsubjectaccessreviews" => answered::<SelfSubjectAccessReview>(object, |review| {
                let spec = &review.spec;
                let question = Question {
                    kind: "SelfSubjectAccessReview",
                    resource: spec.resource_attributes.as_ref(),
                    path: spec.non_resource_attributes.as_ref(),
                };
                review.status = Some(question.answer(authorizer, user)?);
                Ok(())
            }),
            "subjectaccessreviews" => answered::<SubjectAccessReview>(object, |review| {
                review.status = Some(subject_access("SubjectAccessReview", authorizer, &review.spec, None)?);
                Ok(())
            }),
            "localsubjectaccessreviews" => answered::<LocalSubjectAccessReview>(object, |review| {
                let kind = "LocalSubjectAccessReview";
                review.status = Some(subject_access(kind, authorizer, &review.spec, Some(namespace))?);
                Ok(())
            }),
            "selfsubjectrulesreviews" => answered::<SelfSubjectRulesReview>(object, |review| {
                let namespace = review.spec.namespace.as_deref().unwrap_or_default();
                if namespace.is_empty() {
                    return Err(ApiError::BadRequest("no namespace on request".to_owned()));
                }
                review.status = Some(authorizer.review(user, namespace));
                Ok(())
            }),
            "tokenreviews" => {
                let mut review: TokenReview = decoded(object)?;
                review.status = Some(token_status(authenticator, lookup, &review).await?);
                // The credential is not for echoing.
                review.spec.token = String::new();
                encoded(&review)
            }
            _ => Err(ApiError::NoSuchPath),
        }
    }
}

fn answered<T: DeserializeOwned + Serialize>(
    object: Value,
    answer: impl FnOnce(&mut T) -> Result<()>,
) -> Result<Value> {
    let mut review: T = decoded(object)?;
    answer(&mut review)?;
    encoded(&review)
}

fn decoded<T: DeserializeOwned>(object: Value) -> Result<T> {
    serde_json::from_value(object)
        .map_err(|e| ApiError::BadRequest(format!("the review cannot be read: {e}")))
}

fn encoded(review: &impl Serialize) -> Result<Value> {
    serde_json::to_value(review).map_err(|e| ApiError::Internal(e.to_string()))
}

fn user_info(user: &User) -> UserInfo {
    UserInfo {
        username: Some(user.name.clone()),
        uid: Some(user.uid.clone()).filter(|u| !u.is_empty()),
        groups: Some(user.groups.clone()).filter(|g| !g.is_empty()),
        extra: Some(user.extra.clone()).filter(|e| !e.is_empty()),
    }
}

/// May they, in the review's words.
struct Question<'a> {
    kind: &'static str,
    resource: Option<&'a ResourceAttributes>,
    path: Option<&'a NonResourceAttributes>,
}

impl Question<'_> {
    /// It asks about a resource or about a path.
    fn faults(&self) -> Errors {
        let (mut errors, spec) = (Errors::default(), Path::new("spec"));
        match (self.resource, self.path) {
            (Some(_), Some(path)) => {
                let detail = "cannot be specified in combination with resourceAttributes";
                errors.invalid(&spec.child("nonResourceAttributes"), path, detail);
            }
            (None, None) => {
                let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
                errors.invalid(&spec.child("resourceAttributes"), (), detail);
            }
            _ => {}
        }
        errors
    }

    fn answer(&self, authorizer: &Authorizer, user: &User) -> Result<SubjectAccessReviewStatus> {
        fn text(field: &Option<String>) -> &str {
            field.as_deref().unwrap_or_default()
        }
        let attributes = match (self.resource, self.path) {
            (Some(resource), None) => authz::Attributes {
                verb: text(&resource.verb),
                group: text(&resource.group),
                version: text(&resource.version),
                resource: text(&resource.resource),
                subresource: text(&resource.subresource),
                namespace: text(&resource.namespace),
                name: text(&resource.name),
                path: "",
            },
            (None, Some(path)) => authz::Attributes {
                verb: text(&path.verb),
                path: text(&path.path),
                ..authz::Attributes::default()
            },
            _ => return Err(invalid(self.kind, self.faults())),
        };
        let decision = authorizer.decide(user, &attributes);
        Ok(SubjectAccessReviewStatus {
            allowed: decision.allowed,
            reason: decision.reason,
            ..SubjectAccessReviewStatus::default()
        })
    }
}

fn subject_access(
    kind: &'static str,
    authorizer: &Authorizer,
    spec: &SubjectAccessReviewSpec,
    namespace: Option<&str>,
) -> Result<SubjectAccessReviewStatus> {
    let user = User {
        name: spec.user.clone().unwrap_or_default(),
        uid: spec.uid.clone().unwrap_or_default(),
        groups: spec.groups.clone().unwrap_or_default(),
        extra: spec.extra.clone().unwrap_or_default(),
    };
    let question = Question {
        kind,
        resource: spec.resource_attributes.as_ref(),
        path: spec.non_resource_attributes.as_ref(),
    };
    let mut errors = question.faults();
    let path = Path::new("spec");
    if user.name.is_empty() && user.groups.is_empty() {
        errors.invalid(&path.child("user"), "", "at least one of user or group must be specified");
    }
    if let Some(namespace) = namespace {
        in_namespace(spec, namespace, &path, &mut errors);
    }
    if !errors.is_empty() {
        return Err(invalid(kind, errors));
    }
    question.answer(authorizer, &user)
}

/// A local review asks about its own namespace only.
fn in_namespace(spec: &SubjectAccessReviewSpec, namespace: &str, path: &Path, errors: &mut Errors) {
    if let Some(asked) = &spec.non_resource_attributes {
        errors.invalid(&path.child("nonResourceAttributes"), asked, "disallowed on this kind of request");
    }
    if let Some(asked) = &spec.resource_attributes {
        let asked = asked.namespace.as_deref().unwrap_or_default();
        if asked != namespace {
            let path = path.child("resourceAttributes").child("namespace");
            errors.invalid(&path, asked, "must match metadata.namespace");
        }
    }
}

fn invalid(kind: &str, errors: Errors) -> ApiError {
    ApiError::Invalid {
        group: "authorization.k8s.io".to_owned(),
        kind: kind.to_owned(),
        name: String::new(),
        errors,
    }
}

async fn token_status(
    authenticator: &Authenticator,
    lookup: &dyn Lookup,
    review: &TokenReview,
) -> Result<TokenReviewStatus> {
    let spec = &review.spec;
    let token = spec.token.as_str();
    if token.is_empty() {
        return Err(ApiError::BadRequest("token is required for TokenReview in authentication".to_owned()));
    }
    let own = [authenticator.audience().to_owned()];
    let audiences = spec.audiences.as_deref().filter(|a| !a.is_empty()).unwrap_or(&own);
    let audiences: Vec<&str> = audiences.iter().map(String::as_str).collect();
    Ok(match authenticator.check_token(lookup, token, &audiences).await? {
        Ok((user, audiences)) => TokenReviewStatus {
            authenticated: Some(true),
            user: Some(user_info(&user)),
            audiences: Some(audiences),
            error: None,
        },
        Err(why) => TokenReviewStatus {
            authenticated: Some(false),
            // The field is no option upstream: clients read an empty user.
            user: Some(UserInfo::default()),
            error: Some(format!("[invalid bearer token, {why}]")),
            audiences: None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::testing::{Objects, object},
        auth::{
            AUTHENTICATED, MASTERS,
            token::{Bound, Reference, tests::signer},
        },
    };
    use serde_json::json;

    fn jane() -> User {
        User {
            name: "jane".to_owned(),
            groups: vec!["dev".to_owned(), AUTHENTICATED.to_owned()],
            ..User::default()
        }
    }

    async fn ask(user: &User, plural: &str, spec: Value) -> Result<Value> {
        let authenticator = Authenticator::new(signer());
        let (authorizer, lookup) = (Authorizer::with_defaults(), &Objects::default());
        Asker { authenticator: &authenticator, authorizer: &authorizer, lookup, user }
            .review(plural, "default", json!({"metadata": {}, "spec": spec}))
            .await
    }

    #[tokio::test]
    async fn who_am_i() {
        let authenticator = Authenticator::new(signer());
        let body = json!({"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"});
        let objects = Objects::default();
        let (authorizer, jane) = (Authorizer::with_defaults(), jane());
        let asker =
            Asker { authenticator: &authenticator, authorizer: &authorizer, lookup: &objects, user: &jane };
        let answer = asker.review("selfsubjectreviews", "", body).await.unwrap();
        assert_eq!(
            answer["status"],
            json!({"userInfo": {"username": "jane", "groups": ["dev", "system:authenticated"]}})
        );
        assert_eq!(
            (&answer["kind"], &answer["apiVersion"]),
            (&json!("SelfSubjectReview"), &json!("authentication.k8s.io/v1"))
        );
    }

    #[tokio::test]
    async fn may_i() {
        let pods =
            json!({"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}});
        let path = json!({"nonResourceAttributes": {"verb": "get", "path": "/version"}});
        let table = [
            (User::component("admin"), &pods, true),
            (jane(), &pods, false),
            (jane(), &path, true),
            (User::anonymous(), &path, true),
        ];
        for (user, spec, allowed) in table {
            let answer = ask(&user, "selfsubjectaccessreviews", spec.clone()).await.unwrap();
            assert_eq!(answer["status"]["allowed"], allowed, "{} {spec}", user.name);
        }
        let error = ask(&jane(), "selfsubjectaccessreviews", json!({})).await.unwrap_err();
        assert_eq!((error.reason(), error.code().as_u16()), ("Invalid", 422));
    }

    #[tokio::test]
    async fn may_they() {
        let admin = User::component("admin");
        let mut spec = json!({"user": "bob", "groups": [MASTERS],
                              "resourceAttributes": {"verb": "delete", "resource": "nodes"}});
        let answer = ask(&admin, "subjectaccessreviews", spec.clone()).await.unwrap();
        assert_eq!(answer["status"]["allowed"], true);
        // A local review must be about the path's own namespace.
        assert!(ask(&admin, "localsubjectaccessreviews", spec.clone()).await.is_err());
        spec["resourceAttributes"]["namespace"] = json!("default");
        assert!(ask(&admin, "localsubjectaccessreviews", spec.clone()).await.is_ok());
        spec["groups"] = json!([]);
        let answer = ask(&admin, "subjectaccessreviews", spec.clone()).await.unwrap();
        assert_eq!(answer["status"]["allowed"], false);
        spec["user"] = json!("");
        assert!(ask(&admin, "subjectaccessreviews", spec).await.is_err());
    }

    #[tokio::test]
    async fn what_may_i() {
        let answer = ask(&User::component("admin"), "selfsubjectrulesreviews", json!({"namespace": "x"}))
            .await
            .unwrap();
        assert_eq!(
            answer["status"]["resourceRules"][0],
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})
        );
        let answer = ask(&jane(), "selfsubjectrulesreviews", json!({"namespace": "x"})).await.unwrap();
        assert!(
            answer["status"]["resourceRules"]
                .as_array()
                .unwrap()
                .iter()
                .all(|r| r["verbs"] == json!(["create"]))
        );
        assert!(ask(&jane(), "selfsubjectrulesreviews", json!({})).await.is_err());
    }

    #[tokio::test]
    async fn whose_token_is_this() {
        let authenticator = Authenticator::new(signer());
        let account = object("v1", "ServiceAccount", "default", "bot", json!({}));
        let mut account = account;
        account["metadata"]["uid"] = json!("u1");
        let objects = Objects::new([account]);
        let bound = Bound {
            namespace: "default".to_owned(),
            serviceaccount: Reference { name: "bot".to_owned(), uid: "u1".to_owned() },
            ..Bound::default()
        };
        let now = jiff::Timestamp::now().as_second();
        let (token, _) = authenticator.signer().issue(bound, vec!["vault".to_owned()], now, 600).unwrap();
        let ask = async |token: &str, audiences: Value| {
            let body = json!({"spec": {"token": token, "audiences": audiences}});
            let (authorizer, user) = (Authorizer::default(), User::component("x"));
            let asker = Asker {
                authenticator: &authenticator,
                authorizer: &authorizer,
                lookup: &objects,
                user: &user,
            };
            asker.review("tokenreviews", "", body).await.unwrap()
        };
        let good = ask(&token, json!(["vault", "other"])).await;
        assert_eq!(good["status"]["authenticated"], true);
        assert_eq!(good["status"]["audiences"], json!(["vault"]));
        assert_eq!(good["status"]["user"]["username"], "system:serviceaccount:default:bot");
        assert_eq!(good["spec"]["token"], "");
        // Not meant for the API server itself.
        assert_eq!(ask(&token, json!(null)).await["status"]["authenticated"], false);
        assert_eq!(ask("nonsense", json!(["vault"])).await["status"]["authenticated"], false);
    }
}
