use super::*;
use crate::{
    admission::testing::{Objects, object},
    auth::{MASTERS, token::tests::signer},
};
use serde_json::{Value, json};

const REMOTE: &str = "192.0.2.7:4321";

fn tls(user_cert: Option<(&str, &[&str])>) -> Peer {
    let subject = user_cert.map(|(n, o)| (n.to_owned(), o.iter().map(|s| (*s).to_owned()).collect()));
    Peer::tls(subject, REMOTE.parse().unwrap())
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(k, v)| (k.parse::<http::HeaderName>().unwrap(), http::HeaderValue::from_str(v).unwrap()))
        .collect()
}

fn with_uid(kind: &str, name: &str, uid: &str, deleted: Option<&str>) -> Value {
    let mut object = object("v1", kind, "default", name, json!({}));
    object["metadata"]["uid"] = json!(uid);
    if let Some(at) = deleted {
        object["metadata"]["deletionTimestamp"] = json!(at);
    }
    object
}

fn bound() -> Bound {
    let reference = |name: &str, uid: &str| Reference { name: name.to_owned(), uid: uid.to_owned() };
    Bound {
        namespace: "default".to_owned(),
        serviceaccount: reference("bot", "sa-1"),
        pod: Some(reference("web-0", "pod-1")),
        node: Some(reference("n1", "node-1")),
        secret: None,
    }
}

fn token(authenticator: &Authenticator, audience: &str) -> String {
    let now = jiff::Timestamp::now().as_second();
    authenticator.signer().issue(bound(), vec![audience.to_owned()], now, 600).unwrap().0
}

#[tokio::test]
async fn certificates_and_their_absence() {
    let authenticator = Authenticator::new(signer());
    let nothing = Objects::default();
    let ask = async |peer: Peer| {
        authenticator.authenticate(&nothing, &Authorizer::default(), &peer, &HeaderMap::new()).await
    };
    let admin = ask(tls(Some(("admin", &[MASTERS])))).await.unwrap();
    assert_eq!(
        (admin.name.as_str(), admin.groups),
        ("admin", vec![MASTERS.to_owned(), AUTHENTICATED.to_owned()])
    );
    assert_eq!(ask(tls(None)).await.unwrap(), User::anonymous());
    // A certificate that names nobody is not "no certificate".
    assert!(matches!(ask(tls(Some(("", &[MASTERS])))).await, Err(ApiError::Unauthorized)));
    let inside = User::component("system:kube-scheduler");
    assert_eq!(ask(Peer::internal(inside.clone())).await.unwrap(), inside);
}

#[tokio::test]
async fn a_credential_that_is_no_good_is_not_anonymous() {
    let authenticator = Authenticator::new(signer());
    let foreign = token(&Authenticator::new(signer()), authenticator.audience());
    let protocol = |encoded: &str| format!("{TOKEN_PROTOCOL}{encoded}");
    let encoded = BASE64URL.encode("nonsense");
    for bad in [
        headers(&[("authorization", "Bearer nonsense")]),
        headers(&[("authorization", "Bearer ")]),
        headers(&[("authorization", "Bearer")]),
        headers(&[("authorization", "Basic YWRtaW46YWRtaW4=")]),
        headers(&[("authorization", &format!("Bearer {foreign}"))]),
        headers(&[("sec-websocket-protocol", &format!("{}, v5.channel.k8s.io", protocol("!")))]),
        headers(&[("sec-websocket-protocol", &format!("{}, v5.channel.k8s.io", protocol(&encoded)))]),
        // The token must not be the only protocol.
        headers(&[("sec-websocket-protocol", &protocol(&encoded))]),
    ] {
        let answer =
            authenticator.authenticate(&Objects::default(), &Authorizer::default(), &tls(None), &bad).await;
        assert!(matches!(answer, Err(ApiError::Unauthorized)), "{bad:?}: {answer:?}");
    }
}

#[tokio::test]
async fn a_service_accounts_token_tells_who_and_from_where() {
    let authenticator = Authenticator::new(signer());
    let objects = Objects::new([
        with_uid("ServiceAccount", "bot", "sa-1", None),
        with_uid("Pod", "web-0", "pod-1", None),
    ]);
    let token = token(&authenticator, authenticator.audience());
    let bearer = headers(&[("authorization", &format!("bearer {token}"))]);
    let user =
        authenticator.authenticate(&objects, &Authorizer::default(), &tls(None), &bearer).await.unwrap();
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("system:serviceaccount:default:bot", "sa-1"));
    assert_eq!(
        user.groups,
        ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]
    );
    let extra = |key: &str| user.extra[key].as_slice();
    assert!(extra(CREDENTIAL_ID)[0].starts_with("JTI="));
    assert_eq!((extra(POD_NAME), extra(POD_UID)), (&["web-0".to_owned()][..], &["pod-1".to_owned()][..]));
    assert_eq!((extra(NODE_NAME), extra(NODE_UID)), (&["n1".to_owned()][..], &["node-1".to_owned()][..]));

    let protocols = format!("{TOKEN_PROTOCOL}{}, v5.channel.k8s.io", BASE64URL.encode(&token));
    let socket = headers(&[("sec-websocket-protocol", &protocols)]);
    let same =
        authenticator.authenticate(&objects, &Authorizer::default(), &tls(None), &socket).await.unwrap();
    assert_eq!(same.name, user.name);
}

#[tokio::test]
async fn a_token_dies_with_what_it_is_bound_to() {
    let authenticator = Authenticator::new(signer());
    let (account, pod) = ("ServiceAccount", "Pod");
    let long_ago = Some("2020-01-01T00:00:00Z");
    // Deleted in the future: still within its leeway, whatever the time is.
    let just_now = Some("2999-01-01T00:00:00Z");
    let table = [
        (
            "all there",
            vec![with_uid(account, "bot", "sa-1", None), with_uid(pod, "web-0", "pod-1", None)],
            true,
        ),
        ("account gone", vec![with_uid(pod, "web-0", "pod-1", None)], false),
        ("pod gone", vec![with_uid(account, "bot", "sa-1", None)], false),
        (
            "account anew",
            vec![with_uid(account, "bot", "sa-2", None), with_uid(pod, "web-0", "pod-1", None)],
            false,
        ),
        (
            "pod anew",
            vec![with_uid(account, "bot", "sa-1", None), with_uid(pod, "web-0", "pod-2", None)],
            false,
        ),
        (
            "pod long dying",
            vec![with_uid(account, "bot", "sa-1", None), with_uid(pod, "web-0", "pod-1", long_ago)],
            false,
        ),
        (
            "pod dying",
            vec![with_uid(account, "bot", "sa-1", None), with_uid(pod, "web-0", "pod-1", just_now)],
            true,
        ),
    ];
    let bearer =
        headers(&[("authorization", &format!("Bearer {}", token(&authenticator, authenticator.audience())))]);
    for (case, objects, good) in table {
        let answer = authenticator
            .authenticate(&Objects::new(objects), &Authorizer::default(), &tls(None), &bearer)
            .await;
        assert_eq!(answer.is_ok(), good, "{case}: {answer:?}");
    }
    let objects =
        Objects::new([with_uid(account, "bot", "sa-1", None), with_uid(pod, "web-0", "pod-1", None)]);
    let elsewhere = headers(&[("authorization", &format!("Bearer {}", token(&authenticator, "vault")))]);
    assert!(
        authenticator.authenticate(&objects, &Authorizer::default(), &tls(None), &elsewhere).await.is_err()
    );
}

#[tokio::test]
async fn an_admin_may_act_as_someone_else() {
    let authenticator = Authenticator::new(signer());
    let admin = Peer::internal(User::component("admin"));
    let ask = async |pairs: &[(&str, &str)]| {
        authenticator.authenticate(&Objects::default(), &Authorizer::default(), &admin, &headers(pairs)).await
    };
    let jane = ask(&[
        ("impersonate-user", "jane"),
        ("impersonate-group", "dev"),
        ("impersonate-uid", "7"),
        ("impersonate-extra-acme.com%2fproject", "x"),
    ])
    .await
    .unwrap();
    assert_eq!((jane.name.as_str(), jane.uid.as_str()), ("jane", "7"));
    assert_eq!(jane.groups, ["dev", AUTHENTICATED]);
    assert_eq!(jane.extra["acme.com/project"], ["x"]);
    let bot = ask(&[("impersonate-user", "system:serviceaccount:default:bot")]).await.unwrap();
    assert!(bot.is_in("system:serviceaccounts:default") && bot.is_in(AUTHENTICATED));
    let nobody = ask(&[("impersonate-user", "system:anonymous")]).await.unwrap();
    assert_eq!(nobody.groups, [crate::auth::UNAUTHENTICATED]);
    assert!(matches!(ask(&[("impersonate-group", "dev")]).await, Err(ApiError::BadRequest(_))));

    let jane = tls(Some(("jane", &["dev"])));
    let refused = authenticator
        .authenticate(
            &Objects::default(),
            &Authorizer::default(),
            &jane,
            &headers(&[("impersonate-user", "admin")]),
        )
        .await
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        r#"users "admin" is forbidden: User "jane" cannot impersonate resource "users" in API group "" at the cluster scope"#
    );
}

#[test]
fn credentials_are_not_passed_on() {
    let protocols = format!("{TOKEN_PROTOCOL}abc, v5.channel.k8s.io, v4.channel.k8s.io");
    let mut all = headers(&[
        ("authorization", "Bearer x"),
        ("impersonate-user", "jane"),
        ("impersonate-extra-a", "b"),
        ("accept", "*/*"),
        ("sec-websocket-protocol", &protocols),
    ]);
    remove_credentials(&mut all);
    assert_eq!(
        all,
        headers(&[("accept", "*/*"), ("sec-websocket-protocol", "v5.channel.k8s.io, v4.channel.k8s.io")])
    );
}
