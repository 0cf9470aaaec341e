//! ClusterRoles with an `aggregationRule`: their rules are those of all cluster roles that the selectors match. So
//! whoever brings a kind of their own adds to `view`, `edit` and `admin` with a label.

use crate::{
    context::{Ctx, name},
    error::{Result, is_not_found},
    run::{Controller, Next},
};
use api::selector::Selector;
use async_trait::async_trait;
use client::{Queue, Store};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::{Api, api::PostParams};
use std::{collections::HashSet, sync::Arc};

pub struct ClusterRoleAggregation {
    ctx: Arc<Ctx>,
    roles: Store<ClusterRole>,
}

impl ClusterRoleAggregation {
    pub fn new(ctx: Arc<Ctx>) -> Self {
        Self { roles: ctx.informers.store(), ctx }
    }
}

/// The role as it should be, if that is not how it is.
fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<ClusterRole> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref()?;
    let mut sources: Vec<&ClusterRole> = Vec::new();
    for selector in selectors {
        // One that cannot be read was refused at the door.
        let Ok(selector) = Selector::from_label_selector(Some(selector)) else { continue };
        let matching = |other: &&Arc<ClusterRole>| selector.matches_labels(other.metadata.labels.as_ref());
        sources.extend(all.iter().filter(matching).map(Arc::as_ref));
    }
    // The same order every time, or two runs would differ for ever.
    sources.sort_by_key(|source| name(&source.metadata));
    let mut seen: HashSet<String> = HashSet::new();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for rule in sources
        .iter()
        .filter(|s| s.metadata.name != role.metadata.name)
        .flat_map(|s| s.rules.iter().flatten())
    {
        if seen.insert(format!("{rule:?}")) {
            rules.push(rule.clone());
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules)
        .then(|| ClusterRole { rules: Some(rules), ..role.clone() })
}

#[async_trait]
impl Controller for ClusterRoleAggregation {
    /// All aggregates, under one key: which of them a changed role belongs to is cheaper to try than to know.
    type Key = String;
    const NAME: &'static str = "clusterrole-aggregation";
    const WORKERS: usize = 1;

    fn watch(&self, queue: &Queue<String>) {
        let q = queue.clone();
        self.roles.on_change(move |_| q.add("all".to_owned()));
    }

    async fn reconcile(&self, _all: &String) -> Result<Next> {
        let api: Api<ClusterRole> = Api::all(self.ctx.client.clone());
        let roles = self.roles.list();
        // One aggregate may be part of another: what is written here brings the next run, until nothing changes.
        for wanted in roles.iter().filter_map(|role| plan(role, &roles)) {
            match api.replace(name(&wanted.metadata), &PostParams::default(), &wanted).await {
                Err(error) if !is_not_found(&error) => return Err(error.into()),
                _ => {}
            }
        }
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn role(name: &str, label: &str, resources: &[&str], selects: Option<&str>) -> Arc<ClusterRole> {
        let rules: Vec<Value> = resources
            .iter()
            .map(|r| json!({"verbs": ["get"], "apiGroups": [""], "resources": [r]}))
            .collect();
        let rule = selects.map(|l| json!({"clusterRoleSelectors": [{"matchLabels": {"to": l}}]}));
        let object = json!({"metadata": {"name": name, "labels": {"to": label}}, "rules": rules, "aggregationRule": rule});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn an_aggregate_has_the_rules_of_its_parts() {
        let aggregate = role("view", "edit", &["stale"], Some("view"));
        let all = [
            aggregate.clone(),
            role("b", "view", &["pods", "services"], None),
            role("a", "view", &["services", "events"], None),
            role("other", "edit", &["secrets"], None),
        ];
        let wanted = plan(&aggregate, &all).unwrap();
        let resources = |role: &ClusterRole| -> Vec<String> {
            role.rules.iter().flatten().flat_map(|r| r.resources.clone().unwrap()).collect()
        };
        assert_eq!(resources(&wanted), ["services", "events", "pods"]);
        assert!(plan(&wanted, &all).is_none(), "and stays so");
        assert!(plan(&all[3], &all).is_none(), "others are nobody's business");
        // One that selects itself does not feed on itself.
        let own = role("edit", "edit", &[], Some("edit"));
        let all = [own.clone(), all[3].clone()];
        assert_eq!(resources(&plan(&own, &all).unwrap()), ["secrets"]);
    }
}
