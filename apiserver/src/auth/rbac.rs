//! Role-based access control: roles and bindings of `rbac.authorization.k8s.io` decide who may do what.
//!
//! `index` answers, from maps that `follow` keeps as the store has the objects; `rules` knows what one rule means;
//! `policy` is what every cluster starts with.

pub(crate) mod follow;
pub(crate) mod index;
pub(crate) mod policy;
pub(crate) mod rules;

use super::{
    MASTERS, User,
    authz::{Attributes, refusal},
    node,
};
use crate::error::Result;
use arc_swap::ArcSwap;
use index::Index;
use k8s_openapi::api::{
    authorization::v1::{NonResourceRule, ResourceRule, SubjectRulesReviewStatus},
    rbac::v1::{PolicyRule, RoleRef},
};
use std::sync::Arc;

/// Decides. Cheap to ask: a few look-ups in maps.
#[derive(Default)]
pub struct Authorizer {
    index: ArcSwap<Index>,
}

/// Yes or no, and by what.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    pub allowed: bool,
    pub reason: Option<String>,
}

impl Authorizer {
    /// One that knows what every cluster starts with and nothing else.
    pub fn with_defaults() -> Self {
        let authorizer = Self::default();
        authorizer.set(Index::build(&policy::objects()));
        authorizer
    }

    pub(crate) fn set(&self, index: Index) {
        self.index.store(Arc::new(index));
    }

    /// `Forbidden` with Kubernetes' own sentence if the user may not.
    pub fn authorize<'a>(&self, user: &User, what: impl Into<Attributes<'a>>) -> Result<()> {
        let what = what.into();
        if self.allowed(user, &what) { Ok(()) } else { Err(refusal(user, &what)) }
    }

    /// The decision alone.
    pub fn allowed(&self, user: &User, what: &Attributes<'_>) -> bool {
        let what = asked(what);
        let index = self.index.load();
        user.is_in(MASTERS)
            || (node::name_of(user).is_some() && index.role_allows(node::ROLE, &what))
            || index.allows(user, &what).is_some()
    }

    /// The decision as an access review tells it.
    pub fn decide(&self, user: &User, what: &Attributes<'_>) -> Decision {
        if user.is_in(MASTERS) {
            return Decision { allowed: true, reason: None };
        }
        if node::name_of(user).is_some() && self.allowed(user, what) {
            return Decision { allowed: true, reason: None };
        }
        let index = self.index.load();
        let source = index.allows(user, &asked(what));
        Decision { allowed: source.is_some(), reason: source.map(|s| format!("RBAC: allowed by {s}")) }
    }

    /// Every rule that holds for the user in the namespace.
    pub(crate) fn rules_for(&self, user: &User, namespace: &str) -> Vec<PolicyRule> {
        self.index.load().rules_for(user, namespace)
    }

    /// What a binding in `namespace` would grant; `None` if there is no such role.
    pub(crate) fn rules_of(&self, reference: &RoleRef, namespace: &str) -> Option<Arc<[PolicyRule]>> {
        self.index.load().rules_of(reference, namespace)
    }

    /// Everything the user may do in the namespace, for `kubectl auth can-i --list`.
    pub fn review(&self, user: &User, namespace: &str) -> SubjectRulesReviewStatus {
        let mut status = SubjectRulesReviewStatus::default();
        for rule in self.rules_for(user, namespace) {
            let verbs = rule.verbs;
            if rule.non_resource_urls.as_ref().is_some_and(|urls| !urls.is_empty()) {
                let non_resource_urls = rule.non_resource_urls;
                status.non_resource_rules.push(NonResourceRule { verbs, non_resource_urls });
            } else {
                status.resource_rules.push(ResourceRule {
                    verbs,
                    api_groups: rule.api_groups,
                    resources: rule.resources,
                    resource_names: rule.resource_names,
                });
            }
        }
        status
    }
}

/// `get` is what a HEAD asks for, and more.
fn asked<'a>(what: &Attributes<'a>) -> Attributes<'a> {
    let verb = if what.resource.is_empty() && what.verb == "head" { "get" } else { what.verb };
    Attributes { verb, ..*what }
}
