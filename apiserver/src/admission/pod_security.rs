//! PodSecurity: what the labels of a namespace allow its pods (`pod-security.kubernetes.io/enforce`, `audit`, `warn`).
//!
//! Only pods themselves are refused. Whoever makes a workload whose pods would be refused, or raises a namespace's level
//! above what its pods are, is warned. What `audit` finds, and what was enforced, goes to the audit log.

mod checks;
mod policy;
mod restricted;

use super::{Attributes, Lookup, Operation, Plugin, find, find_all, typed};
use crate::{
    audit,
    error::{ApiError, Result},
    kinds::{AnyObject, Subresource},
};
use async_trait::async_trait;
use checks::{Finding, Subject, evaluate};
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::{Namespace, Pod, PodSpec, PodTemplate, PodTemplateSpec, ReplicationController},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use policy::{Level, Policy, Standard};
use std::collections::BTreeMap;

/// Pods looked at when a namespace's level is raised: Kubernetes' number.
const MAX_PODS_CHECKED: usize = 3000;
/// Annotations of the audit log.
const ENFORCED: &str = "pod-security.kubernetes.io/enforce-policy";
const VIOLATIONS: &str = "pod-security.kubernetes.io/audit-violations";
/// Kinds whose objects hold a template of pods.
const WORKLOADS: [(&str, &str); 8] = [
    ("", "podtemplates"),
    ("", "replicationcontrollers"),
    ("apps", "daemonsets"),
    ("apps", "deployments"),
    ("apps", "replicasets"),
    ("apps", "statefulsets"),
    ("batch", "cronjobs"),
    ("batch", "jobs"),
];

#[derive(Clone, Copy)]
pub(super) struct PodSecurity;

#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    Namespace,
    Pod,
    Workload,
}

fn about(a: &Attributes<'_>) -> Option<About> {
    let r = a.kind.resource();
    if !matches!(a.operation, Operation::Create | Operation::Update) {
        None
    } else if r.group.is_empty() && r.plural == "pods" {
        // A resize changes nothing that is looked at here.
        matches!(a.subresource, None | Some(Subresource::EphemeralContainers)).then_some(About::Pod)
    } else if a.subresource.is_some() {
        None
    } else if r.group.is_empty() && r.plural == "namespaces" {
        Some(About::Namespace)
    } else {
        WORKLOADS.contains(&(r.group, r.plural)).then_some(About::Workload)
    }
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        about(a).is_some()
    }

    async fn validate(
        &self,
        a: &Attributes<'_>,
        object: Option<&dyn AnyObject>,
        old: Option<&dyn AnyObject>,
        lookup: &dyn Lookup,
    ) -> Result<()> {
        let Some(object) = object else { return Ok(()) };
        match about(a) {
            Some(About::Namespace) => check_labels(a, object, old),
            Some(About::Pod) => {
                let pod = typed::<Pod>(object)?;
                let old = old.map(typed::<Pod>).transpose()?;
                if old.is_some_and(|old| !is_significant(pod, old)) {
                    return Ok(());
                }
                let policy = policy_of(a, lookup).await?;
                let enforced = policy.enforce;
                audit::annotate(ENFORCED, || enforced.to_string());
                audited(&policy, &Subject::of_pod(pod));
                let findings = evaluate(enforced, &Subject::of_pod(pod));
                if findings.is_empty() {
                    return Ok(());
                }
                Err(a.forbidden(format!("violates PodSecurity \"{enforced}\": {}", details(&findings))))
            }
            Some(About::Workload) => {
                if let Some(template) = template(object) {
                    of_template(
                        template,
                        |subject, policy| audited(policy, subject),
                        &policy_of(a, lookup).await?,
                    );
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn remark(
        &self,
        a: &Attributes<'_>,
        object: &dyn AnyObject,
        old: Option<&dyn AnyObject>,
        lookup: &dyn Lookup,
    ) -> Result<Vec<String>> {
        match about(a) {
            Some(About::Namespace) => raised(object, old, lookup).await,
            Some(About::Pod) => {
                let pod = typed::<Pod>(object)?;
                let old = old.map(typed::<Pod>).transpose()?;
                if old.is_some_and(|old| !is_significant(pod, old)) {
                    return Ok(Vec::new());
                }
                let policy = policy_of(a, lookup).await?;
                Ok(would_violate(policy.warn, &Subject::of_pod(pod)).into_iter().collect())
            }
            Some(About::Workload) => {
                let Some(template) = template(object) else { return Ok(Vec::new()) };
                let policy = policy_of(a, lookup).await?;
                let warning =
                    of_template(template, |subject, policy| would_violate(policy.warn, subject), &policy);
                Ok(warning.into_iter().collect())
            }
            None => Ok(Vec::new()),
        }
    }
}

async fn policy_of(a: &Attributes<'_>, lookup: &dyn Lookup) -> Result<Policy> {
    let namespace = find::<Namespace>(lookup, "namespaces", "", a.namespace).await?;
    Ok(Policy::of(namespace.and_then(|n| n.metadata.labels).as_ref()).0)
}

/// What is said of the pods of a template.
fn of_template<T>(
    template: &PodTemplateSpec,
    say: impl FnOnce(&Subject<'_>, &Policy) -> T,
    policy: &Policy,
) -> T {
    let (meta, spec) = (ObjectMeta::default(), PodSpec::default());
    let meta = template.metadata.as_ref().unwrap_or(&meta);
    say(&Subject::new(meta, template.spec.as_ref().unwrap_or(&spec)), policy)
}

/// What an audit finds is noted with the request, whatever becomes of it.
fn audited(policy: &Policy, subject: &Subject<'_>) {
    if let Some(violation) = would_violate(policy.audit, subject) {
        audit::annotate(VIOLATIONS, || violation);
    }
}

fn would_violate(standard: Standard, subject: &Subject<'_>) -> Option<String> {
    let findings = evaluate(standard, subject);
    (!findings.is_empty())
        .then(|| format!("would violate PodSecurity \"{standard}\": {}", details(&findings)))
}

/// `host ports (8080, 9090), privileged containers`.
fn details(findings: &[Finding]) -> String {
    let each = findings.iter().map(|finding| match finding.detail.as_str() {
        "" => finding.reason.clone(),
        detail => format!("{} ({detail})", finding.reason),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// Of the changes that a pod admits of, only those of images, and new containers, may matter.
fn is_significant(new: &Pod, old: &Pod) -> bool {
    let images = |pod: &Pod| -> Vec<(String, Option<String>)> {
        let Some(spec) = &pod.spec else { return Vec::new() };
        let ephemeral = spec.ephemeral_containers.iter().flatten();
        spec.containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
            .map(|c| (c.name.clone(), c.image.clone()))
            .chain(ephemeral.map(|c| (c.name.clone(), c.image.clone())))
            .collect()
    };
    images(new) != images(old)
}

fn template(object: &dyn AnyObject) -> Option<&PodTemplateSpec> {
    let any = object.as_any();
    if let Some(template) = any.downcast_ref::<PodTemplate>() {
        return template.template.as_ref();
    }
    if let Some(set) = any.downcast_ref::<ReplicationController>() {
        return set.spec.as_ref()?.template.as_ref();
    }
    if let Some(set) = any.downcast_ref::<ReplicaSet>() {
        return set.spec.as_ref()?.template.as_ref();
    }
    if let Some(set) = any.downcast_ref::<Deployment>() {
        return set.spec.as_ref().map(|s| &s.template);
    }
    if let Some(set) = any.downcast_ref::<DaemonSet>() {
        return set.spec.as_ref().map(|s| &s.template);
    }
    if let Some(set) = any.downcast_ref::<StatefulSet>() {
        return set.spec.as_ref().map(|s| &s.template);
    }
    if let Some(job) = any.downcast_ref::<Job>() {
        return job.spec.as_ref().map(|s| &s.template);
    }
    let job = any.downcast_ref::<CronJob>()?;
    Some(&job.spec.job_template.spec.as_ref()?.template)
}

/// Labels that say nothing understandable are refused, unless they were there before.
fn check_labels(a: &Attributes<'_>, new: &dyn AnyObject, old: Option<&dyn AnyObject>) -> Result<()> {
    let errors = Policy::of(new.meta().labels.as_ref()).1;
    let before = old.map(|old| Policy::of(old.meta().labels.as_ref()).1);
    if errors.is_empty() || before.is_some_and(|before| before.0 == errors.0) {
        return Ok(());
    }
    Err(ApiError::Invalid {
        group: String::new(),
        kind: "Namespace".to_owned(),
        name: a.name.to_owned(),
        errors,
    })
}

/// What a namespace whose enforced level rises has in it that would no longer be let in.
async fn raised(
    new: &dyn AnyObject,
    old: Option<&dyn AnyObject>,
    lookup: &dyn Lookup,
) -> Result<Vec<String>> {
    let Some(old) = old else { return Ok(Vec::new()) };
    let after = Policy::of(new.meta().labels.as_ref()).0.enforce;
    let before = Policy::of(old.meta().labels.as_ref()).0.enforce;
    let relaxed = after.version == before.version && after.level <= before.level;
    if after == before || after.level == Level::Privileged || relaxed {
        return Ok(Vec::new());
    }
    let namespace = new.meta().name.as_deref().unwrap_or_default();
    let pods = find_all::<Pod>(lookup, "pods", namespace).await?;
    Ok(about_pods(namespace, after, &pods))
}

fn about_pods(namespace: &str, standard: Standard, pods: &[Pod]) -> Vec<String> {
    // By what is wrong: the first pod's name, and how many there are.
    let mut found: BTreeMap<String, (&str, usize)> = BTreeMap::new();
    for pod in pods.iter().take(MAX_PODS_CHECKED) {
        let findings = evaluate(standard, &Subject::of_pod(pod));
        if findings.is_empty() {
            continue;
        }
        let reasons = findings.into_iter().map(|f| f.reason).collect::<Vec<_>>().join(", ");
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let (first, count) = found.entry(reasons).or_insert((name, 0));
        *first = (*first).min(name);
        *count += 1;
    }
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|(reasons, (first, count))| match count {
            1 => format!("{first}: {reasons}"),
            2 => format!("{first} (and 1 other pod): {reasons}"),
            _ => format!("{first} (and {} other pods): {reasons}", count - 1),
        })
        .collect();
    lines.sort();
    if !lines.is_empty() {
        let head = format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{standard}\""
        );
        lines.insert(0, head);
    }
    if pods.len() > MAX_PODS_CHECKED {
        let all = pods.len();
        let head = format!(
            "new PodSecurity enforce level only checked against the first {MAX_PODS_CHECKED} of {all} existing pods"
        );
        lines.insert(0, head);
    }
    lines
}

#[cfg(test)]
mod tests;
