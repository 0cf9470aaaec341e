//! Follows the definitions: what is accepted is served, what is served is told, what goes takes its objects along.
//!
//! The part of Kubernetes' apiextensions controllers: names (who came first keeps them), `Established`, and the
//! finalizer. A definition is served before its status says so, so that whoever waits for the condition finds the kind.

use super::{Catalog, CustomKind, kind::Source};
use crate::{
    auth::User,
    error::{ApiError, Result},
    kinds::{
        AnyKind, AnyObject, Subresource,
        custom_resource_definition::{CLEANUP, condition, is_true, set_condition},
    },
    registry::{
        Call, PageOptions, Registry, Selection, Stored, create::now, decode, managed_fields::Writer, prefix,
        selection::names, storage_error, update::Change,
    },
    request::options::DeleteOptions,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition as Definition, CustomResourceDefinitionNames as Names,
    CustomResourceDefinitionStatus as Status,
};
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};
use storage::{EventKind, ListOptions, Watch};

const PLURAL: &str = "customresourcedefinitions";
/// After a watch was cut or a write failed: a moment, then all anew.
const PAUSE: Duration = Duration::from_millis(200);
/// How soon to look again whether the last object of a definition that goes is gone: finalizers of others may hold it for
/// long, so ever later.
const SOONEST: Duration = Duration::from_millis(50);
const LATEST: Duration = Duration::from_secs(5);

type Definitions = BTreeMap<String, Definition>;

/// Before the first request: what was established is served again.
pub(crate) async fn prime(registry: &Registry) -> Result<()> {
    let (mut definitions, _) = load(registry).await?;
    serve(registry, &mut definitions);
    Ok(())
}

/// Never returns; drop it to stop.
pub(crate) async fn run(registry: Registry) {
    loop {
        match follow(&registry).await {
            Ok(()) => tracing::debug!("the watch of definitions ended; listing them again"),
            Err(error) => {
                tracing::warn!(%error, "custom resource definitions cannot be followed, trying again")
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn load(registry: &Registry) -> Result<(Definitions, Option<Watch>)> {
    let Some(kind) = registry.kind_named(PLURAL) else { return Ok((Definitions::new(), None)) };
    let prefix = prefix(kind, "")?;
    let list = registry.store().list(&prefix, ListOptions::default()).await.map_err(storage_error)?;
    let mut definitions = Definitions::new();
    for kv in &list.items {
        put(&mut definitions, &*decode(kind, kv)?);
    }
    let watch = registry.store().watch(prefix, list.revision).await.map_err(storage_error)?;
    Ok((definitions, Some(watch)))
}

fn put(definitions: &mut Definitions, object: &dyn AnyObject) {
    if let Some(definition) = object.as_any().downcast_ref::<Definition>() {
        definitions.insert(definition.metadata.name.clone().unwrap_or_default(), definition.clone());
    }
}

async fn follow(registry: &Registry) -> Result<()> {
    let Some(kind) = registry.kind_named(PLURAL) else { return std::future::pending().await };
    let (mut definitions, watch) = load(registry).await?;
    let Some(mut watch) = watch else { return Ok(()) };
    let mut again = SOONEST;
    loop {
        let changed = serve(registry, &mut definitions);
        for (name, status) in changed {
            write_status(registry, kind, &name, &mut |d| d.status = Some(merged(d, &status))).await?;
        }
        let waiting = clean_up(registry, kind, &definitions).await?;
        let event = tokio::select! {
            event = watch.next() => event,
            () = tokio::time::sleep(again), if waiting => {
                again = (again * 2).min(LATEST);
                continue;
            }
        };
        again = SOONEST;
        let mut next = event;
        loop {
            let Some(event) = next else { return Ok(()) };
            let event = event.map_err(storage_error)?;
            if event.kind == EventKind::Deleted {
                definitions.remove(names(kind, &event.key).1);
            } else {
                put(&mut definitions, &*kind.decode_stored(&event.value).map_err(ApiError::Internal)?);
            }
            match watch.try_next() {
                Some(event) => next = Some(event),
                None => break,
            }
        }
    }
}

/// Makes the catalog from the definitions with the statuses they should have; those that have another now.
fn serve(registry: &Registry, definitions: &mut Definitions) -> Vec<(String, Status)> {
    let mut changed = Vec::new();
    let mut taken: BTreeMap<String, Taken> = BTreeMap::new();
    for kind in registry.kinds() {
        let r = kind.resource();
        let taken = taken.entry(r.group.to_owned()).or_default();
        taken.resources.extend(
            [r.plural, r.singular].into_iter().chain(kind.short_names().iter().copied()).map(str::to_owned),
        );
        taken.kinds.extend([r.kind.to_owned(), kind.list_kind()]);
    }
    // Who has a name keeps it, whatever came in between.
    for definition in definitions.values() {
        if let Some(accepted) = definition.status.as_ref().and_then(|s| s.accepted_names.as_ref()) {
            taken.entry(definition.spec.group.clone()).or_default().add(accepted);
        }
    }
    for (name, definition) in definitions.iter_mut() {
        let taken = taken.entry(definition.spec.group.clone()).or_default();
        let status = plan(definition, taken, now());
        if definition.status.as_ref() != Some(&status) {
            changed.push((name.clone(), status.clone()));
            definition.status = Some(status);
        }
        if let Some(accepted) = definition.status.as_ref().and_then(|s| s.accepted_names.as_ref()) {
            taken.add(accepted);
        }
    }
    let old = registry.catalog();
    let mut kinds: Vec<Arc<CustomKind>> = Vec::new();
    for definition in definitions.values().filter(|d| is_true(d, "Established")) {
        let accepted = definition.status.as_ref().and_then(|s| s.accepted_names.clone()).unwrap_or_default();
        let source = Source::of(definition, &accepted);
        let life = old.custom().iter().find(|k| {
            let r = k.resource();
            r.group == definition.spec.group && r.plural == accepted.plural
        });
        let life = life.map(|k| k.life.clone()).unwrap_or_default();
        life.set_terminating(definition.metadata.deletion_timestamp.is_some());
        for version in definition.spec.versions.iter().filter(|v| v.served) {
            let known = old.find(&definition.spec.group, &version.name, &accepted.plural);
            let kind = match known.filter(|k| k.source == source) {
                Some(known) => known,
                None => Arc::new(CustomKind::new(&source, version, life.clone())),
            };
            kinds.push(kind);
        }
    }
    let same = kinds.len() == old.custom().len()
        && kinds.iter().all(|k| old.custom().iter().any(|o| Arc::ptr_eq(k, o)));
    if !same {
        let gone: Vec<_> =
            old.custom().iter().filter(|o| !kinds.iter().any(|k| Arc::ptr_eq(k, o))).cloned().collect();
        registry.set_catalog(Catalog::new(registry.kinds(), kinds));
        gone.iter().for_each(|kind| kind.gone.cancel());
    }
    changed
}

/// Names in use within a group.
#[derive(Default)]
struct Taken {
    resources: HashSet<String>,
    kinds: HashSet<String>,
}

impl Taken {
    fn add(&mut self, names: &Names) {
        let resources = [Some(&names.plural), names.singular.as_ref()].into_iter().flatten();
        self.resources.extend(resources.chain(names.short_names.iter().flatten()).cloned());
        self.kinds.extend([Some(&names.kind), names.list_kind.as_ref()].into_iter().flatten().cloned());
    }
}

/// The status a definition should have: which of its names are its own, and whether it is served.
fn plan(definition: &Definition, taken: &Taken, now: jiff::Timestamp) -> Status {
    let mut status = definition.status.clone().unwrap_or_default();
    let wanted = &definition.spec.names;
    if status.accepted_names.as_ref() == Some(wanted) && is_true(definition, "Established") {
        return status;
    }
    let mut accepted = status.accepted_names.clone().unwrap_or_default();
    let mut conflict: Option<(&str, String)> = None;
    let mut claim = |reason: &'static str, name: &str, own: &str, taken: &HashSet<String>| {
        let free = name == own || !taken.contains(name);
        if !free {
            conflict = Some((reason, format!("{name:?} is already in use")));
        }
        free
    };
    let text = |name: &Option<String>| name.clone().unwrap_or_default();
    if claim("PluralConflict", &wanted.plural, &accepted.plural, &taken.resources) {
        accepted.plural.clone_from(&wanted.plural);
    }
    // Its own plural may be its singular too.
    let (singular, own) = (text(&wanted.singular), text(&accepted.singular));
    if singular == wanted.plural || claim("SingularConflict", &singular, &own, &taken.resources) {
        accepted.singular.clone_from(&wanted.singular);
    }
    let own: Vec<String> = accepted.short_names.clone().unwrap_or_default();
    let mut all_free = true;
    for name in wanted.short_names.iter().flatten().filter(|n| !own.contains(n)) {
        all_free &= claim("ShortNamesConflict", name, "", &taken.resources);
    }
    if all_free {
        accepted.short_names.clone_from(&wanted.short_names);
    }
    if claim("KindConflict", &wanted.kind, &accepted.kind, &taken.kinds) {
        accepted.kind.clone_from(&wanted.kind);
    }
    if claim("ListKindConflict", &text(&wanted.list_kind), &text(&accepted.list_kind), &taken.kinds) {
        accepted.list_kind.clone_from(&wanted.list_kind);
    }
    accepted.categories.clone_from(&wanted.categories);
    status.accepted_names = Some(accepted);
    let fine = conflict.is_none();
    let names = match &conflict {
        None => condition("NamesAccepted", true, "NoConflicts", "no conflicts found"),
        Some((reason, message)) => condition("NamesAccepted", false, reason, message),
    };
    set_condition(&mut status, names, now);
    if fine {
        let text = "the initial names have been accepted";
        set_condition(&mut status, condition("Established", true, "InitialNamesAccepted", text), now);
    } else if !is_true(definition, "Established") {
        let text = "not all names are accepted";
        set_condition(&mut status, condition("Established", false, "NotAccepted", text), now);
    }
    status
}

/// What is planned over what is stored: others' conditions and stored versions stay.
fn merged(definition: &Definition, planned: &Status) -> Status {
    let mut status = definition.status.clone().unwrap_or_default();
    status.accepted_names.clone_from(&planned.accepted_names);
    for type_ in ["NamesAccepted", "Established"] {
        let planned = planned.conditions.iter().flatten().find(|c| c.type_ == type_);
        if let Some(condition) = planned {
            let at = condition.last_transition_time.as_ref().map_or_else(now, |t| t.0);
            set_condition(&mut status, condition.clone(), at);
        }
    }
    status
}

/// Removes the objects of definitions that go, and the finalizer of those that have none left. Whether some remain.
async fn clean_up(registry: &Registry, kind: &dyn AnyKind, definitions: &Definitions) -> Result<bool> {
    let mut waiting = false;
    for (name, definition) in definitions {
        let meta = &definition.metadata;
        let finalizer = meta.finalizers.iter().flatten().any(|f| f == CLEANUP);
        if meta.deletion_timestamp.is_none() || !finalizer {
            continue;
        }
        let done = if is_true(definition, "Established") {
            let text = "CustomResource deletion is in progress";
            tell(registry, kind, name, true, "InstanceDeletionInProgress", text, false).await?;
            match delete_objects(registry, definition).await {
                Ok(true) => Some(("InstanceDeletionCompleted", "removed all instances".to_owned())),
                Ok(false) => None,
                Err(error) => {
                    let text = format!("could not issue all deletes: {error}");
                    tell(registry, kind, name, true, "InstanceDeletionFailed", &text, false).await?;
                    None
                }
            }
        } else {
            Some(("NeverEstablished", "resource was never established".to_owned()))
        };
        match done {
            Some((reason, text)) => tell(registry, kind, name, false, reason, &text, true).await?,
            None => waiting = true,
        }
    }
    Ok(waiting)
}

/// Whether none is left.
async fn delete_objects(registry: &Registry, definition: &Definition) -> Result<bool> {
    let spec = &definition.spec;
    let served = registry
        .catalog()
        .custom()
        .iter()
        .find(|k| {
            let r = k.resource();
            r.group == spec.group && r.plural == spec.names.plural
        })
        .cloned();
    // No version served: the objects are there all the same.
    let kind = match served {
        Some(kind) => kind,
        None => match spec.versions.first() {
            Some(version) => {
                let source = Source::of(definition, &spec.names);
                Arc::new(CustomKind::new(&source, version, Arc::default()))
            }
            None => return Ok(true),
        },
    };
    let user = user();
    let call = Call {
        kind: &*kind,
        subresource: None,
        namespace: "",
        name: "",
        user: &user,
        writer: Writer::default(),
        dry_run: false,
    };
    // Asked first: what is made from here on is none of this kind.
    let quiet = kind.life.is_quiet();
    let (everything, options) = (Selection::default(), DeleteOptions::default());
    registry.delete_collection(&call, &everything, &options, PageOptions::default()).await?;
    let rest = PageOptions { limit: Some(1), ..PageOptions::default() };
    Ok(quiet && registry.list(&*kind, "", &everything, &rest).await?.items.is_empty())
}

fn user() -> User {
    User::component("system:apiserver")
}

/// Sets the condition Terminating; and lets the definition go.
async fn tell(
    registry: &Registry,
    kind: &dyn AnyKind,
    name: &str,
    terminating: bool,
    reason: &str,
    message: &str,
    let_go: bool,
) -> Result<()> {
    write_status(registry, kind, name, &mut |definition| {
        let status = definition.status.get_or_insert_default();
        set_condition(status, condition("Terminating", terminating, reason, message), now());
        if let_go && let Some(finalizers) = &mut definition.metadata.finalizers {
            finalizers.retain(|f| f != CLEANUP);
        }
    })
    .await
}

/// Changes a definition as it is stored. One that went meanwhile is no fault.
async fn write_status(
    registry: &Registry,
    kind: &dyn AnyKind,
    name: &str,
    change: &mut (dyn FnMut(&mut Definition) + Send),
) -> Result<()> {
    let user = user();
    let writer = Writer { field_manager: "apiserver", user_agent: "", subresource: "status" };
    let call = Call {
        kind,
        subresource: Some(Subresource::Status),
        namespace: "",
        name,
        user: &user,
        writer,
        dry_run: false,
    };
    let mut make = |stored: Option<&Stored>| {
        let stored = stored.ok_or_else(|| call.not_found())?;
        let mut object = stored.object.clone_box();
        if let Some(definition) = object.as_any_mut().downcast_mut::<Definition>() {
            change(definition);
        }
        Ok(object)
    };
    match registry.update(&call, Change { apply: false, retry: true, make: &mut make }).await {
        Ok(_) | Err(ApiError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
