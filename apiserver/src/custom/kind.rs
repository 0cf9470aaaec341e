//! One version of a definition as a kind: it answers what any kind answers, from its schema.

use super::{
    JsonPath, Schema,
    columns::{self, Cell},
    defaults, embedded, names,
    object::CustomObject,
    prune, rules, validate,
};
use crate::kinds::{AnyKind, AnyObject, Column, Decoded, Deletion, Subresource};
use api::{
    field::{self, Errors, Path},
    resource::Resource,
};
use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        CustomResourceDefinition, CustomResourceDefinitionNames, CustomResourceDefinitionSpec,
        CustomResourceDefinitionVersion,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::{Map, Value};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};
use tokio_util::sync::CancellationToken;

/// What a kind was made from; while this is the same, the kind is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Source {
    uid: Option<String>,
    spec: CustomResourceDefinitionSpec,
    names: CustomResourceDefinitionNames,
}

impl Source {
    /// `names` are those accepted.
    pub(super) fn of(definition: &CustomResourceDefinition, names: &CustomResourceDefinitionNames) -> Self {
        Self { uid: definition.metadata.uid.clone(), spec: definition.spec.clone(), names: names.clone() }
    }
}

/// How the definition behind a kind is doing. All versions share it, and so do those that take their places when the
/// definition changes: objects being made hold on to the kind they were read by.
#[derive(Debug, Default)]
pub(super) struct Life {
    terminating: AtomicBool,
    /// Objects being made.
    making: AtomicUsize,
}

impl Life {
    pub(super) fn set_terminating(&self, terminating: bool) {
        self.terminating.store(terminating, Ordering::SeqCst);
    }
    /// Whether nobody is making an object now. Said after [`Self::set_terminating`] it stays so: who comes later sees the
    /// mark, who came before was counted.
    pub(super) fn is_quiet(&self) -> bool {
        self.making.load(Ordering::SeqCst) == 0
    }
}

/// Leave to make an object.
pub(crate) struct Making<'a>(&'a Life);

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.making.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Where the numbers of `/scale` are.
struct ScalePaths {
    replicas: JsonPath,
    replicas_text: String,
    status_replicas: JsonPath,
    status_replicas_text: String,
    selector: Option<JsonPath>,
}

pub struct CustomKind {
    resource: Resource,
    pub(super) source: Source,
    short_names: Vec<&'static str>,
    categories: Vec<&'static str>,
    subresources: Vec<Subresource>,
    columns: Vec<Column>,
    cells: Vec<Cell>,
    /// Names as selectors spell them (`spec.color`), and where they lead.
    selectable: Vec<&'static str>,
    selectable_paths: Vec<JsonPath>,
    scale: Option<ScalePaths>,
    schema: Schema,
    rules: rules::Compiled,
    /// The schema as it was written, for OpenAPI.
    published: Value,
    /// `GROUP/VERSION` in which objects are stored.
    stored_as: String,
    list_kind: String,
    deprecation: Option<String>,
    /// Of no matter to who watches: the kind is the same until its last object is gone.
    pub(super) life: Arc<Life>,
    /// Cancelled when the definition changed or went: what holds on to the old state ends.
    pub(super) gone: CancellationToken,
}

impl CustomKind {
    pub(super) fn new(source: &Source, version: &CustomResourceDefinitionVersion, life: Arc<Life>) -> Self {
        let (spec, accepted) = (&source.spec, &source.names);
        let resource = Resource {
            group: names::intern(&spec.group),
            version: names::intern(&version.name),
            kind: names::intern(&accepted.kind),
            plural: names::intern(&accepted.plural),
            singular: names::intern(accepted.singular.as_deref().unwrap_or_default()),
            namespaced: spec.scope == "Namespaced",
        };
        let published = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref());
        let published = published.and_then(|s| serde_json::to_value(s).ok()).unwrap_or_default();
        let schema = Schema::read(&published);
        let sub = version.subresources.as_ref();
        let scale = sub.and_then(|s| s.scale.as_ref()).and_then(|s| {
            Some(ScalePaths {
                replicas: JsonPath::parse(&s.spec_replicas_path).ok()?,
                replicas_text: s.spec_replicas_path.clone(),
                status_replicas: JsonPath::parse(&s.status_replicas_path).ok()?,
                status_replicas_text: s.status_replicas_path.clone(),
                selector: s.label_selector_path.as_deref().and_then(|p| JsonPath::parse(p).ok()),
            })
        });
        let mut subresources = Vec::new();
        if sub.is_some_and(|s| s.status.is_some()) {
            subresources.push(Subresource::Status);
        }
        if scale.is_some() {
            subresources.push(Subresource::Scale);
        }
        let (columns, cells) = columns::of(version.additional_printer_columns.as_ref());
        let selectable = version.selectable_fields.iter().flatten().map(|f| f.json_path.as_str());
        let (selectable, selectable_paths) = selectable
            .filter_map(|p| Some((names::intern(p.trim_start_matches('.')), JsonPath::parse(p).ok()?)))
            .unzip();
        let storage = spec.versions.iter().find(|v| v.storage).unwrap_or(version);
        let deprecation = (version.deprecated == Some(true)).then(|| {
            version
                .deprecation_warning
                .clone()
                .unwrap_or_else(|| format!("{}/{} {} is deprecated", spec.group, version.name, accepted.kind))
        });
        Self {
            source: source.clone(),
            short_names: names::intern_all(accepted.short_names.as_ref()),
            categories: names::intern_all(accepted.categories.as_ref()),
            subresources,
            columns,
            cells,
            selectable,
            selectable_paths,
            scale,
            rules: rules::Compiled::of(&schema),
            schema,
            published,
            stored_as: format!("{}/{}", spec.group, storage.name),
            list_kind: accepted.list_kind.clone().unwrap_or_else(|| format!("{}List", accepted.kind)),
            deprecation,
            life,
            gone: CancellationToken::new(),
            resource,
        }
    }

    pub(crate) fn schema(&self) -> &Schema {
        &self.schema
    }
    /// The `openAPIV3Schema` as it was written.
    pub(crate) fn published(&self) -> &Value {
        &self.published
    }
    /// The path of the replicas if the object has none: then there is no scale to read.
    pub(crate) fn lacks_replicas(&self, object: &dyn AnyObject) -> Option<&str> {
        let (object, scale) = (of(object)?, self.scale.as_ref()?);
        scale.replicas.first(&object.judged(false)).is_none().then_some(&scale.replicas_text)
    }
    /// What to warn of whoever uses this version.
    pub(crate) fn deprecation(&self) -> Option<&str> {
        self.deprecation.as_deref()
    }
    /// Leave to make an object; `None` when the definition is going: then nothing new is made.
    pub(crate) fn making(&self) -> Option<Making<'_>> {
        self.life.making.fetch_add(1, Ordering::SeqCst);
        let leave = Making(&self.life);
        (!self.life.terminating.load(Ordering::SeqCst)).then_some(leave)
    }
    /// Ends when the kind is no longer what it is.
    pub(crate) fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    fn api_version(&self) -> String {
        self.resource.api_version()
    }

    /// A tree as an object of this version: pruned, defaults filled in. The paths of what went.
    ///
    /// # Errors
    /// Metadata that is none.
    fn read(&self, value: Value) -> Result<(CustomObject, Vec<String>), String> {
        let Value::Object(mut body) = value else {
            return Err("json: cannot unmarshal into an object".to_owned());
        };
        body.remove("apiVersion");
        body.remove("kind");
        let metadata = body.remove("metadata").unwrap_or_default();
        let (meta, unknown_meta) = crate::kinds::decode_metadata(metadata)?;
        let mut tree = Value::Object(body);
        let mut unknown: Vec<String> = unknown_meta.into_iter().map(|p| format!("metadata.{p}")).collect();
        unknown.extend(prune::prune(&mut tree, &self.schema, true));
        unknown.extend(embedded::coerce(&mut tree, &self.schema));
        unknown.sort();
        self.fill(&mut tree);
        let Value::Object(body) = tree else { return Err("not an object".to_owned()) };
        Ok((CustomObject { api_version: self.api_version(), kind: self.resource.kind, meta, body }, unknown))
    }

    fn fill(&self, tree: &mut Value) {
        defaults::drop_nulls(tree, Some(&self.schema));
        defaults::fill(tree, &self.schema);
        // The root's metadata is typed and has no defaults.
        if let Some(map) = tree.as_object_mut() {
            prune::ALWAYS.into_iter().for_each(|key| drop(map.remove(key)));
        }
    }

    fn has_status(&self) -> bool {
        self.subresources.contains(&Subresource::Status)
    }

    fn judge(&self, new: &CustomObject, old: Option<&CustomObject>, status_only: bool) -> Errors {
        let tree = new.judged(false);
        let old = old.map(|o| o.judged(false));
        let mut errors = if status_only {
            let of = |tree: &Value| tree.get("status").cloned();
            match (of(&tree), self.schema.properties.get("status")) {
                (Some(status), Some(schema)) => {
                    let old = old.as_ref().and_then(of);
                    validate::validate(&status, old.as_ref(), schema, "status")
                }
                _ => Errors::default(),
            }
        } else {
            validate::validate(&tree, old.as_ref(), &self.schema, "")
        };
        self.check_scale(&tree, status_only, &mut errors);
        errors.extend(embedded::validate(&tree, &self.schema));
        let duplicates = |tree: &Value| validate::unique_elements(tree, &self.schema, "");
        if old.as_ref().is_none_or(|old| duplicates(old).is_empty()) {
            errors.extend(duplicates(&tree));
        }
        if self.rules.is_empty() {
            return errors;
        }
        if errors.0.iter().any(|e| blocks_rules(e.kind)) {
            let detail = "some validation rules were not checked because the object was invalid; correct the \
                          existing errors to complete validation";
            errors.invalid(&Path::default(), Value::Null, detail);
        } else {
            errors.extend(self.rules.evaluate(&tree, old.as_ref(), &self.schema, ""));
        }
        errors
    }

    fn check_scale(&self, tree: &Value, status_only: bool, errors: &mut Errors) {
        let Some(scale) = &self.scale else { return };
        let mut number = |path: &JsonPath, text: &str| {
            let Some(value) = path.first(tree) else { return };
            let detail = match value.as_i64() {
                None => "accessor error: not an integer",
                Some(n) if n < 0 => "should be a non-negative integer",
                Some(n) if n > i64::from(i32::MAX) => "should be less than or equal to 2147483647",
                Some(_) => return,
            };
            errors.invalid(&Path::new(text), value, detail);
        };
        if !status_only {
            number(&scale.replicas, &scale.replicas_text);
        }
        number(&scale.status_replicas, &scale.status_replicas_text);
    }
}

/// Faults after which rules would judge what they cannot know.
fn blocks_rules(kind: field::Type) -> bool {
    use field::Type::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
    matches!(kind, NotSupported | Required | TooLong | TooMany | TypeInvalid)
}

fn of(object: &dyn AnyObject) -> Option<&CustomObject> {
    let custom = object.as_any().downcast_ref();
    debug_assert!(custom.is_some(), "an object of a built-in kind handed to a custom one");
    custom
}

fn of_mut(object: &mut dyn AnyObject) -> Option<&mut CustomObject> {
    object.as_any_mut().downcast_mut()
}

fn judged(errors: Option<Errors>) -> Errors {
    errors.unwrap_or_else(|| {
        let mut errors = Errors::default();
        errors.internal(&Path::default(), "object of another kind");
        errors
    })
}

fn set_or_remove(body: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    match value {
        Some(value) => drop(body.insert(key.to_owned(), value)),
        None => drop(body.remove(key)),
    }
}

impl AnyKind for CustomKind {
    fn resource(&self) -> &Resource {
        &self.resource
    }
    fn short_names(&self) -> &[&'static str] {
        &self.short_names
    }
    fn categories(&self) -> &[&'static str] {
        &self.categories
    }
    fn subresources(&self) -> &[Subresource] {
        &self.subresources
    }
    fn columns(&self) -> &[Column] {
        &self.columns
    }
    fn selectable(&self) -> &[&'static str] {
        &self.selectable
    }
    fn list_kind(&self) -> String {
        self.list_kind.clone()
    }
    fn custom(&self) -> Option<&CustomKind> {
        Some(self)
    }
    fn decode(&self, value: Value) -> Result<Decoded, String> {
        let (object, unknown) = self.read(value)?;
        Ok(Decoded { object: Box::new(object), unknown })
    }
    fn decode_stored(&self, bytes: &[u8]) -> Result<Box<dyn AnyObject>, String> {
        let value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        Ok(Box::new(self.read(value)?.0))
    }
    fn check_name(&self, name: &str) -> Vec<String> {
        api::names::dns_subdomain(name)
    }
    fn default(&self, object: &mut dyn AnyObject) {
        let Some(object) = of_mut(object) else { return };
        let mut tree = Value::Object(std::mem::take(&mut object.body));
        self.fill(&mut tree);
        if let Value::Object(body) = tree {
            object.body = body;
        }
    }
    fn prepare_create(&self, object: &mut dyn AnyObject) {
        if let Some(object) = of_mut(object).filter(|_| self.has_status()) {
            object.body.remove("status");
        }
    }
    fn prepare_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject) {
        if let (Some(new), Some(old), true) = (of_mut(new), of(old), self.has_status()) {
            set_or_remove(&mut new.body, "status", old.body.get("status").cloned());
        }
    }
    fn prepare_status_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject) {
        if let (Some(new), Some(old)) = (of_mut(new), of(old)) {
            let status = new.body.remove("status");
            new.body.clone_from(&old.body);
            set_or_remove(&mut new.body, "status", status);
            let managed_fields = new.meta.managed_fields.take();
            new.meta = ObjectMeta { managed_fields, ..old.meta.clone() };
        }
    }
    fn validate(&self, object: &dyn AnyObject) -> Errors {
        judged(of(object).map(|object| self.judge(object, None, false)))
    }
    fn validate_update(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> Errors {
        judged(of(new).zip(of(old)).map(|(new, old)| self.judge(new, Some(old), false)))
    }
    fn validate_status_update(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> Errors {
        judged(of(new).zip(of(old)).map(|(new, old)| self.judge(new, Some(old), true)))
    }
    fn prepare_part_update(&self, _part: Subresource, _new: &mut dyn AnyObject, _old: &dyn AnyObject) {}
    fn validate_part_update(&self, _part: Subresource, _new: &dyn AnyObject, _old: &dyn AnyObject) -> Errors {
        Errors::default()
    }
    fn warnings(&self, _object: &dyn AnyObject) -> Vec<String> {
        Vec::new()
    }
    fn generation_changed(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> Option<bool> {
        Some(of(new).zip(of(old)).is_some_and(|(new, old)| new.body != old.body))
    }
    fn row(&self, object: &dyn AnyObject, now: Timestamp) -> Vec<Value> {
        let Some(object) = of(object) else { return Vec::new() };
        let tree = object.judged(true);
        let name = object.meta.name.as_deref().unwrap_or_default().into();
        std::iter::once(name).chain(self.cells.iter().map(|cell| cell.show(&tree, now))).collect()
    }
    fn selectable_fields(&self, object: &dyn AnyObject) -> Vec<(&'static str, String)> {
        let Some(object) = of(object) else { return Vec::new() };
        let tree = object.judged(false);
        let text = |path: &JsonPath| match path.first(&tree) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        self.selectable.iter().zip(&self.selectable_paths).map(|(name, path)| (*name, text(path))).collect()
    }
    fn deletion(&self, _object: &dyn AnyObject, _requested: Option<i64>) -> Deletion {
        Deletion::Immediate
    }
    fn scale(&self, object: &dyn AnyObject) -> Option<(i32, i32, String)> {
        let (object, scale) = (of(object)?, self.scale.as_ref()?);
        let tree = object.judged(false);
        let number = |path: &JsonPath| {
            path.first(&tree).and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok()).unwrap_or(0)
        };
        let selector = scale.selector.as_ref().and_then(|p| p.first(&tree)).and_then(Value::as_str);
        Some((
            number(&scale.replicas),
            number(&scale.status_replicas),
            selector.unwrap_or_default().to_owned(),
        ))
    }
    fn set_scale(&self, object: &mut dyn AnyObject, replicas: i32) {
        let (Some(object), Some(scale)) = (of_mut(object), &self.scale) else { return };
        let mut tree = Value::Object(std::mem::take(&mut object.body));
        scale.replicas.set(&mut tree, replicas.into());
        if let Value::Object(body) = tree {
            object.body = body;
        }
    }
    fn unconditional_update(&self) -> bool {
        false
    }
    fn create_on_update(&self) -> bool {
        false
    }
    fn returns_deleted(&self) -> bool {
        false
    }
    fn orphans_by_default(&self) -> bool {
        false
    }
    fn held(&self, _object: &dyn AnyObject) -> bool {
        false
    }
    fn is_view(&self) -> bool {
        self.stored_as != self.api_version()
    }
    fn stored_group(&self) -> &'static str {
        self.resource.group
    }
    fn to_stored(&self, object: &dyn AnyObject) -> Vec<u8> {
        let Some(object) = of(object) else { return Vec::new() };
        if !self.is_view() {
            return object.to_json();
        }
        CustomObject { api_version: self.stored_as.clone(), ..object.clone() }.to_json()
    }
    /// Stored under an older schema, an object lacks what it demands now and has what it no longer knows.
    fn show(&self, stored: &Bytes) -> Bytes {
        match self.decode_stored(stored) {
            Ok(object) => {
                let shown = object.to_json();
                if shown == stored[..] { stored.clone() } else { shown.into() }
            }
            Err(error) => {
                tracing::error!(kind = self.resource.plural, error, "a stored object cannot be shown");
                stored.clone()
            }
        }
    }
    fn prepare_deletion(&self, _object: &mut dyn AnyObject) {}
}
