//! From what a person types (`po`, `sts/kubia`, `statefulsets.apps`) to a resource and its paths, by discovery.

use super::{Selection, manifest, session::Session};
use anyhow::{Result, bail};
use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
    pub(super) plural: String,
    pub(super) singular: String,
    pub(super) short_names: Vec<String>,
    pub(super) categories: Vec<String>,
    pub(super) namespaced: bool,
}

impl Resource {
    /// `statefulsets.apps`, `pods`
    pub(super) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `statefulset.apps/kubia`, as kubectl names what it did something to.
    pub(super) fn named(&self, name: &str) -> String {
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        format!("{}{group}/{name}", self.singular)
    }

    /// The collection's path; `None` is every namespace.
    pub(super) fn collection(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{}", self.plural),
            None => format!("{root}/{}", self.plural),
        }
    }

    pub(super) fn object(&self, namespace: &str, name: &str) -> String {
        format!("{}/{name}", self.collection(Some(namespace)))
    }

    fn is_called(&self, word: &str) -> bool {
        let word = word.to_lowercase();
        let own = [&self.plural, &self.singular].into_iter().chain(&self.short_names).any(|n| *n == word)
            || self.kind.to_lowercase() == word;
        let full = [self.qualified(), format!("{}.{}.{}", self.plural, self.version, self.group)];
        own || full.contains(&word) || format!("{}.{}", self.singular, self.group) == word
    }
}

/// One object, or a whole collection, that a command works on.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) resource: Resource,
    pub(super) namespace: String,
    /// `None` is every object of the resource that the selectors take.
    pub(super) name: Option<String>,
}

impl Target {
    /// Path of the object, or of the collection.
    pub(super) fn path(&self, everywhere: bool) -> String {
        match &self.name {
            Some(name) => self.resource.object(&self.namespace, name),
            None => self.resource.collection((!everywhere).then_some(self.namespace.as_str())),
        }
    }
}

/// Everything the server has, preferred versions first.
pub(super) async fn discover(session: &Session) -> Result<Vec<Resource>> {
    const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let mut found = Vec::new();
    for root in ["/api", "/apis"] {
        let request = http::Request::get(root).header(http::header::ACCEPT, AGGREGATED).body(Vec::new())?;
        let list: Value = session.client.request(request).await?;
        for group in list["items"].as_array().into_iter().flatten() {
            for version in group["versions"].as_array().into_iter().flatten() {
                let resources = version["resources"].as_array().into_iter().flatten();
                found.extend(resources.map(|r| resource(&group["metadata"]["name"], &version["version"], r)));
            }
        }
    }
    if found.is_empty() {
        bail!("the server has no aggregated discovery; minik8s-ctl needs Kubernetes 1.30 or newer");
    }
    Ok(found)
}

fn resource(group: &Value, version: &Value, resource: &Value) -> Resource {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let list = |v: &Value| v.as_array().into_iter().flatten().map(text).collect();
    let kind = text(&resource["responseKind"]["kind"]);
    let singular = text(&resource["singularResource"]);
    Resource {
        group: text(group),
        version: text(version),
        singular: if singular.is_empty() { kind.to_lowercase() } else { singular },
        kind,
        plural: text(&resource["resource"]),
        short_names: list(&resource["shortNames"]),
        categories: list(&resource["categories"]),
        namespaced: resource["scope"] == "Namespaced",
    }
}

/// What a resource word means: one resource, or all of a category (`all`).
pub(super) fn find(all: &[Resource], word: &str) -> Result<Vec<Resource>> {
    if let Some(resource) = all.iter().find(|r| r.is_called(word)) {
        return Ok(vec![resource.clone()]);
    }
    let category: Vec<Resource> =
        all.iter().filter(|r| r.categories.iter().any(|c| c == word)).cloned().collect();
    if category.is_empty() {
        bail!("the server doesn't have a resource type {word:?}");
    }
    Ok(category)
}

/// What a selection names: `TYPE [NAME…]`, `TYPE1,TYPE2`, `TYPE/NAME…`, or the objects of files.
pub(super) async fn targets(session: &Session, selection: &Selection) -> Result<Vec<Target>> {
    let all = discover(session).await?;
    if !selection.filename.is_empty() {
        if !selection.what.is_empty() {
            bail!("when files are given, no resource may be named on the command line");
        }
        return manifest::read(&selection.filename)?
            .iter()
            .map(|object| target_of(session, &all, object))
            .collect();
    }
    let target = |resource: &Resource, name: Option<&str>| Target {
        resource: resource.clone(),
        namespace: session.namespace.clone(),
        name: name.map(str::to_owned),
    };
    let Some((first, rest)) = selection.what.split_first() else {
        bail!("you must name a resource (see minik8s-ctl --help)");
    };
    if first.contains('/') {
        return selection
            .what
            .iter()
            .map(|word| match word.split_once('/') {
                Some((kind, name)) if !name.is_empty() => match find(&all, kind)?.as_slice() {
                    [one] => Ok(target(one, Some(name))),
                    _ => bail!("{kind:?} is more than one resource; name it by TYPE"),
                },
                _ => bail!("there is no need to mix TYPE/NAME and TYPE NAME: {word:?}"),
            })
            .collect();
    }
    let mut targets = Vec::new();
    for word in first.split(',') {
        for resource in find(&all, word)? {
            if rest.is_empty() {
                targets.push(target(&resource, None));
            }
            targets.extend(rest.iter().map(|name| target(&resource, Some(name))));
        }
    }
    Ok(targets)
}

/// Where a manifest's object lives.
pub(super) fn target_of(session: &Session, all: &[Resource], object: &Value) -> Result<Target> {
    let (api_version, kind) = (&object["apiVersion"], &object["kind"]);
    let (Some(api_version), Some(kind)) = (api_version.as_str(), kind.as_str()) else {
        bail!("an object in the file lacks apiVersion or kind");
    };
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let resource = all.iter().find(|r| r.kind == kind && r.group == group && r.version == version);
    let Some(resource) = resource else {
        bail!("resource mapping not found: no matches for kind {kind:?} in version {api_version:?}");
    };
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or(&session.namespace);
    Ok(Target {
        resource: resource.clone(),
        namespace: namespace.to_owned(),
        name: object["metadata"]["name"].as_str().map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sts() -> Resource {
        Resource {
            group: "apps".into(),
            version: "v1".into(),
            kind: "StatefulSet".into(),
            plural: "statefulsets".into(),
            singular: "statefulset".into(),
            short_names: vec!["sts".into()],
            categories: vec!["all".into()],
            namespaced: true,
        }
    }

    #[test]
    fn words_find_resources_as_kubectl_does() {
        let all = [sts()];
        for word in [
            "sts",
            "statefulset",
            "statefulsets",
            "StatefulSet",
            "statefulsets.apps",
            "statefulsets.v1.apps",
            "all",
        ] {
            assert_eq!(find(&all, word).unwrap(), all, "{word}");
        }
        assert!(find(&all, "stss").is_err());
        assert_eq!(sts().object("ns", "a"), "/apis/apps/v1/namespaces/ns/statefulsets/a");
        assert_eq!(sts().named("a"), "statefulset.apps/a");
    }
}
