//! Admission by expressions: ValidatingAdmissionPolicy, MutatingAdmissionPolicy and their bindings. Stored and served;
//! nothing evaluates them yet, and a warning says so.

use super::shared::{cells, label_selector, object_meta, pod_spec, repeats};
use super::webhooks::validate_conditions;
use super::{Column, Kind, Subresource};
use api::field::{Errors, Path};
use api::names;
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MatchResources, MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, ParamKind,
    ParamRef, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

const BINDING_COLUMNS: &[Column] = &[
    Column::name(),
    Column::new(
        "PolicyName",
        "string",
        0,
        "PolicyName indicates the policy definition which the policy binding binded to",
    ),
    Column::new(
        "ParamRef",
        "string",
        0,
        "ParamRef indicates the param resource which sets the configuration param",
    ),
    Column::age(),
];

fn warning(what: &str) -> Vec<String> {
    vec![format!("{what}: stored, but not evaluated: this server has no policy admission yet")]
}

fn default_match(resources: &mut MatchResources) {
    resources.match_policy.get_or_insert_with(|| "Equivalent".to_owned());
    resources.namespace_selector.get_or_insert_default();
    resources.object_selector.get_or_insert_default();
    let rules = resources.resource_rules.iter_mut().flatten();
    for rule in rules.chain(resources.exclude_resource_rules.iter_mut().flatten()) {
        rule.scope.get_or_insert_with(|| "*".to_owned());
    }
}

fn validate_match(resources: &MatchResources, path: &Path, errors: &mut Errors) {
    for (field, selector) in
        [("namespaceSelector", &resources.namespace_selector), ("objectSelector", &resources.object_selector)]
    {
        if let Some(selector) = selector {
            label_selector::validate(selector, &path.child(field), errors);
        }
    }
    let policy = resources.match_policy.as_deref();
    pod_spec::enumerated(policy, &["Equivalent", "Exact"], &path.child("matchPolicy"), errors);
    for (field, rules) in [
        ("resourceRules", &resources.resource_rules),
        ("excludeResourceRules", &resources.exclude_resource_rules),
    ] {
        for (i, rule) in rules.iter().flatten().enumerate() {
            let path = path.child(field).index(i);
            for (field, list) in [
                ("operations", &rule.operations),
                ("apiGroups", &rule.api_groups),
                ("apiVersions", &rule.api_versions),
                ("resources", &rule.resources),
            ] {
                if list.as_ref().is_none_or(|l| l.is_empty()) {
                    errors.required(&path.child(field), "");
                }
            }
        }
    }
}

fn validate_constraints(constraints: Option<&MatchResources>, path: &Path, errors: &mut Errors) {
    let path = path.child("matchConstraints");
    match constraints {
        None => errors.required(&path, ""),
        Some(constraints) => {
            validate_match(constraints, &path, errors);
            if constraints.resource_rules.as_ref().is_none_or(|r| r.is_empty()) {
                errors.required(&path.child("resourceRules"), "");
            }
        }
    }
}

fn validate_param_kind(kind: Option<&ParamKind>, path: &Path, errors: &mut Errors) {
    let Some(kind) = kind else { return };
    for (field, text) in [("apiVersion", &kind.api_version), ("kind", &kind.kind)] {
        if text.as_deref().unwrap_or("").is_empty() {
            errors.required(&path.child("paramKind").child(field), "");
        }
    }
}

fn validate_param_ref(reference: Option<&ParamRef>, path: &Path, errors: &mut Errors) {
    let Some(reference) = reference else { return };
    let path = path.child("paramRef");
    let name = reference.name.as_deref().filter(|n| !n.is_empty());
    match (name, &reference.selector) {
        (None, None) => errors.required(&path, "one of name or selector must be specified"),
        (Some(_), Some(_)) => {
            errors.forbidden(&path.child("name"), "name and selector are mutually exclusive");
        }
        (Some(name), None) => errors.invalid_each(&path.child("name"), name, names::path_segment(name)),
        (None, Some(selector)) => label_selector::validate(selector, &path.child("selector"), errors),
    }
    let action = reference.parameter_not_found_action.as_deref();
    pod_spec::enumerated(action, &["Deny", "Allow"], &path.child("parameterNotFoundAction"), errors);
}

fn kind_cell(kind: Option<&ParamKind>) -> Value {
    kind.map_or_else(
        || "<unset>".into(),
        |k| {
            let text = |t: &Option<String>| t.clone().unwrap_or_default();
            format!("{}/{}", text(&k.api_version), text(&k.kind)).into()
        },
    )
}

fn reference_cell(reference: Option<&ParamRef>) -> Value {
    let text = |t: &Option<String>| t.clone().filter(|t| !t.is_empty());
    let Some(name) = reference.and_then(|r| text(&r.name)) else { return "<unset>".into() };
    let namespace = reference.and_then(|r| text(&r.namespace)).unwrap_or_else(|| "*".to_owned());
    format!("{namespace}/{name}").into()
}

/// What both kinds of policy may say of when they fail, of parameters and of what they are about.
fn validate_policy(
    failure: Option<&str>,
    parameters: Option<&ParamKind>,
    constraints: Option<&MatchResources>,
    conditions: Option<&[MatchCondition]>,
    errors: &mut Errors,
) {
    let path = Path::new("spec");
    pod_spec::enumerated(failure, &["Fail", "Ignore"], &path.child("failurePolicy"), errors);
    validate_param_kind(parameters, &path, errors);
    validate_constraints(constraints, &path, errors);
    validate_conditions(conditions.unwrap_or_default(), &path.child("matchConditions"), errors);
}

/// What both kinds of binding may say: of which policy, with which parameters, about what.
fn validate_binding(
    policy: &str,
    reference: Option<&ParamRef>,
    resources: Option<&MatchResources>,
    errors: &mut Errors,
) {
    let path = Path::new("spec");
    match policy {
        "" => errors.required(&path.child("policyName"), ""),
        name => errors.invalid_each(&path.child("policyName"), name, names::dns_subdomain(name)),
    }
    validate_param_ref(reference, &path, errors);
    if let Some(resources) = resources {
        validate_match(resources, &path.child("matchResources"), errors);
    }
}

fn binding_row(meta: &ObjectMeta, policy: Value, reference: Option<&ParamRef>, now: Timestamp) -> Vec<Value> {
    vec![cells::name(meta), policy, reference_cell(reference), cells::age(meta, now)]
}

pub(super) struct ValidatingPolicies;

impl Kind for ValidatingPolicies {
    type Object = ValidatingAdmissionPolicy;
    const PLURAL: &'static str = "validatingadmissionpolicies";
    const SINGULAR: &'static str = "validatingadmissionpolicy";
    const UNCONDITIONAL_UPDATE: bool = false;
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const NAMESPACED: bool = false;
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new(
            "Validations",
            "integer",
            0,
            "Validations indicates the number of validation rules defined in this configuration",
        ),
        Column::new(
            "ParamKind",
            "string",
            0,
            "ParamKind specifies the kind of resources used to parameterize this policy",
        ),
        Column::age(),
    ];

    fn default(object: &mut ValidatingAdmissionPolicy) {
        let spec = object.spec.get_or_insert_default();
        spec.failure_policy.get_or_insert_with(|| "Fail".to_owned());
        spec.match_constraints.iter_mut().for_each(default_match);
    }

    fn prepare_create(object: &mut ValidatingAdmissionPolicy) {
        object.status = None;
    }
    fn prepare_update(new: &mut ValidatingAdmissionPolicy, old: &ValidatingAdmissionPolicy) {
        new.status = old.status.clone();
    }
    fn prepare_status_update(new: &mut ValidatingAdmissionPolicy, old: &ValidatingAdmissionPolicy) {
        new.spec = old.spec.clone();
        object_meta::keep(&mut new.metadata, &old.metadata);
    }
    fn generation_changed(new: &ValidatingAdmissionPolicy, old: &ValidatingAdmissionPolicy) -> Option<bool> {
        Some(new.spec != old.spec)
    }

    fn validate(object: &ValidatingAdmissionPolicy) -> Errors {
        let (mut errors, path) = (Errors::default(), Path::new("spec"));
        let spec = object.spec.clone().unwrap_or_default();
        let conditions = spec.match_conditions.as_deref();
        let (kind, constraints) = (spec.param_kind.as_ref(), spec.match_constraints.as_ref());
        validate_policy(spec.failure_policy.as_deref(), kind, constraints, conditions, &mut errors);
        let (validations, annotations) =
            (spec.validations.unwrap_or_default(), spec.audit_annotations.unwrap_or_default());
        if validations.is_empty() && annotations.is_empty() {
            let detail = "validations or auditAnnotations must contain at least one item";
            errors.required(&path.child("validations"), detail);
        }
        for (i, validation) in validations.iter().enumerate() {
            if validation.expression.trim().is_empty() {
                errors.required(
                    &path.child("validations").index(i).child("expression"),
                    "expression is not specified",
                );
            }
        }
        errors
    }

    fn validate_update(new: &ValidatingAdmissionPolicy, _: &ValidatingAdmissionPolicy) -> Errors {
        Self::validate(new)
    }

    fn warnings(_: &ValidatingAdmissionPolicy) -> Vec<String> {
        warning("ValidatingAdmissionPolicy")
    }

    fn row(object: &ValidatingAdmissionPolicy, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.as_ref();
        vec![
            cells::name(&object.metadata),
            spec.and_then(|s| s.validations.as_ref()).map_or(0, Vec::len).into(),
            kind_cell(spec.and_then(|s| s.param_kind.as_ref())),
            cells::age(&object.metadata, now),
        ]
    }
}

pub(super) struct MutatingPolicies;

impl Kind for MutatingPolicies {
    type Object = MutatingAdmissionPolicy;
    const PLURAL: &'static str = "mutatingadmissionpolicies";
    const SINGULAR: &'static str = "mutatingadmissionpolicy";
    const UNCONDITIONAL_UPDATE: bool = false;
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const NAMESPACED: bool = false;
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new(
            "Mutations",
            "integer",
            0,
            "Mutation indicates the number of mutations rules defined in this configuration",
        ),
        Column::new(
            "ParamKind",
            "string",
            0,
            "ParamKind specifies the kind of resources used to parameterize this policy",
        ),
        Column::age(),
    ];

    fn default(object: &mut MutatingAdmissionPolicy) {
        let spec = object.spec.get_or_insert_default();
        spec.failure_policy.get_or_insert_with(|| "Fail".to_owned());
        spec.match_constraints.iter_mut().for_each(default_match);
    }

    fn generation_changed(new: &MutatingAdmissionPolicy, old: &MutatingAdmissionPolicy) -> Option<bool> {
        Some(new.spec != old.spec)
    }

    fn validate(object: &MutatingAdmissionPolicy) -> Errors {
        let (mut errors, path) = (Errors::default(), Path::new("spec"));
        let spec = object.spec.clone().unwrap_or_default();
        let conditions = spec.match_conditions.as_deref();
        let (kind, constraints) = (spec.param_kind.as_ref(), spec.match_constraints.as_ref());
        validate_policy(spec.failure_policy.as_deref(), kind, constraints, conditions, &mut errors);
        let again = ["Never", "IfNeeded"];
        let reinvocation = spec.reinvocation_policy.as_deref();
        pod_spec::enumerated(reinvocation, &again, &path.child("reinvocationPolicy"), &mut errors);
        if spec.mutations.as_ref().is_none_or(|m| m.is_empty()) {
            errors.required(&path.child("mutations"), "mutations must contain at least one item");
        }
        errors
    }

    fn validate_update(new: &MutatingAdmissionPolicy, _: &MutatingAdmissionPolicy) -> Errors {
        Self::validate(new)
    }

    fn warnings(_: &MutatingAdmissionPolicy) -> Vec<String> {
        warning("MutatingAdmissionPolicy")
    }

    fn row(object: &MutatingAdmissionPolicy, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        vec![
            cells::name(&object.metadata),
            spec.mutations.as_ref().map_or(0, Vec::len).into(),
            kind_cell(spec.param_kind.as_ref()),
            cells::age(&object.metadata, now),
        ]
    }
}

pub(super) struct ValidatingBindings;

impl Kind for ValidatingBindings {
    type Object = ValidatingAdmissionPolicyBinding;
    const PLURAL: &'static str = "validatingadmissionpolicybindings";
    const SINGULAR: &'static str = "validatingadmissionpolicybinding";
    const UNCONDITIONAL_UPDATE: bool = false;
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const NAMESPACED: bool = false;
    const COLUMNS: &'static [Column] = BINDING_COLUMNS;

    fn default(object: &mut ValidatingAdmissionPolicyBinding) {
        object.spec.match_resources.iter_mut().for_each(default_match);
    }

    fn generation_changed(
        new: &ValidatingAdmissionPolicyBinding,
        old: &ValidatingAdmissionPolicyBinding,
    ) -> Option<bool> {
        Some(new.spec != old.spec)
    }

    fn validate(object: &ValidatingAdmissionPolicyBinding) -> Errors {
        let (mut errors, path, spec) = (Errors::default(), Path::new("spec"), &object.spec);
        let (reference, resources) = (spec.param_ref.as_ref(), spec.match_resources.as_ref());
        validate_binding(&spec.policy_name, reference, resources, &mut errors);
        let (actions, path) = (&spec.validation_actions, path.child("validationActions"));
        if actions.is_empty() {
            errors.required(&path, "at least one validation action is required");
        }
        let repeated = repeats(actions);
        for (i, (action, again)) in actions.iter().zip(repeated).enumerate() {
            pod_spec::enumerated(Some(action), &["Audit", "Deny", "Warn"], &path.index(i), &mut errors);
            if again {
                errors.duplicate(&path.index(i), action);
            }
        }
        if ["Deny", "Warn"].iter().all(|a| actions.iter().any(|b| a == b)) {
            let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the \
                          API response and headers serves no purpose)";
            errors.invalid(&path, actions, detail);
        }
        errors
    }

    fn validate_update(
        new: &ValidatingAdmissionPolicyBinding,
        _: &ValidatingAdmissionPolicyBinding,
    ) -> Errors {
        Self::validate(new)
    }

    fn row(object: &ValidatingAdmissionPolicyBinding, now: Timestamp) -> Vec<Value> {
        let spec = &object.spec;
        binding_row(&object.metadata, spec.policy_name.clone().into(), spec.param_ref.as_ref(), now)
    }
}

pub(super) struct MutatingBindings;

impl Kind for MutatingBindings {
    type Object = MutatingAdmissionPolicyBinding;
    const PLURAL: &'static str = "mutatingadmissionpolicybindings";
    const SINGULAR: &'static str = "mutatingadmissionpolicybinding";
    const UNCONDITIONAL_UPDATE: bool = false;
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const NAMESPACED: bool = false;
    const COLUMNS: &'static [Column] = BINDING_COLUMNS;

    fn default(object: &mut MutatingAdmissionPolicyBinding) {
        object.spec.iter_mut().flat_map(|s| &mut s.match_resources).for_each(default_match);
    }

    fn generation_changed(
        new: &MutatingAdmissionPolicyBinding,
        old: &MutatingAdmissionPolicyBinding,
    ) -> Option<bool> {
        Some(new.spec != old.spec)
    }

    fn validate(object: &MutatingAdmissionPolicyBinding) -> Errors {
        let mut errors = Errors::default();
        let spec = object.spec.clone().unwrap_or_default();
        let (reference, resources) = (spec.param_ref.as_ref(), spec.match_resources.as_ref());
        validate_binding(spec.policy_name.as_deref().unwrap_or_default(), reference, resources, &mut errors);
        errors
    }

    fn validate_update(new: &MutatingAdmissionPolicyBinding, _: &MutatingAdmissionPolicyBinding) -> Errors {
        Self::validate(new)
    }

    fn row(object: &MutatingAdmissionPolicyBinding, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.as_ref();
        let policy = cells::text(spec.and_then(|s| s.policy_name.as_ref()));
        binding_row(&object.metadata, policy, spec.and_then(|s| s.param_ref.as_ref()), now)
    }
}
