//! A container's environment: service variables, `envFrom`, `env`, and `$(NAME)` expansion. Pure.

use crate::{
    downward::{self, Addresses},
    objects::{Kind, Objects},
    runtime::Error,
};
use k8s_openapi::{
    api::core::v1::{Container, EnvVar, Pod, Service},
    apimachinery::pkg::api::resource::Quantity,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// What variables may refer to.
pub(crate) struct Sources<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) objects: &'a Objects,
    /// Services of the pod's namespace and `default/kubernetes`.
    pub(crate) services: &'a [Arc<Service>],
    pub(crate) addresses: &'a Addresses,
    pub(crate) allocatable: &'a BTreeMap<String, Quantity>,
    /// For `KUBERNETES_SERVICE_HOST` and `_PORT` while the Service has not been seen.
    pub(crate) api_service: (std::net::Ipv4Addr, u16),
}

/// All variables in a stable order; later definitions of a name win.
pub(crate) fn build(sources: &Sources<'_>, container: &Container) -> Result<Vec<(String, String)>, Error> {
    let mut vars = Vars::default();
    let links = sources.pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    api_variables(sources, &mut vars);
    for service in sources.services {
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let is_api = namespace == "default" && service.metadata.name.as_deref() == Some("kubernetes");
        let same = sources.pod.metadata.namespace.as_deref() == Some(namespace);
        if is_api || (links && same) {
            service_variables(service, &mut vars);
        }
    }
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (kind, name, optional) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(r), _) => (Kind::ConfigMap, &r.name, r.optional),
            (_, Some(r)) => (Kind::Secret, &r.name, r.optional),
            _ => continue,
        };
        match sources.objects.data(kind, name) {
            Some(data) => {
                for (key, value) in data {
                    vars.set(format!("{prefix}{key}"), String::from_utf8_lossy(value).into_owned());
                }
            }
            None if optional == Some(true) => {}
            None => return Err(Error::ContainerConfig(kind.not_found(name))),
        }
    }
    for var in container.env.iter().flatten() {
        if let Some(value) = value(sources, container, var, &vars)? {
            vars.set(var.name.clone(), value);
        }
    }
    Ok(vars.list)
}

#[derive(Default)]
struct Vars {
    list: Vec<(String, String)>,
    places: HashMap<String, usize>,
}

impl Vars {
    fn set(&mut self, name: String, value: String) {
        match self.places.get(&name) {
            Some(place) => self.list[*place].1 = value,
            None => {
                self.places.insert(name.clone(), self.list.len());
                self.list.push((name, value));
            }
        }
    }
    fn get(&self, name: &str) -> Option<&str> {
        self.places.get(name).map(|place| self.list[*place].1.as_str())
    }
}

fn value(
    sources: &Sources<'_>,
    container: &Container,
    var: &EnvVar,
    vars: &Vars,
) -> Result<Option<String>, Error> {
    let Some(from) = &var.value_from else {
        return Ok(Some(expand(var.value.as_deref().unwrap_or_default(), |name| vars.get(name))));
    };
    let config = |message: String| Error::ContainerConfig(message);
    if let Some(field) = &from.field_ref {
        return downward::field(sources.pod, &field.field_path, sources.addresses).map(Some).map_err(config);
    }
    if let Some(resource) = &from.resource_field_ref {
        let found = downward::resource(sources.pod, &container.name, resource, sources.allocatable);
        return found.map(Some).map_err(config);
    }
    let (kind, name, key, optional) = match (&from.config_map_key_ref, &from.secret_key_ref) {
        (Some(r), _) => (Kind::ConfigMap, &r.name, &r.key, r.optional),
        (_, Some(r)) => (Kind::Secret, &r.name, &r.key, r.optional),
        _ => return Ok(None),
    };
    let data = sources.objects.data(kind, name);
    match (data.map(|data| data.get(key)), optional == Some(true)) {
        (Some(Some(value)), _) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        (_, true) => Ok(None),
        (None, false) => Err(config(kind.not_found(name))),
        (Some(None), false) => {
            let namespace = sources.pod.metadata.namespace.as_deref().unwrap_or_default();
            Err(config(format!("couldn't find key {key} in {} {namespace}/{name}", kind.name())))
        }
    }
}

/// Replaces `$(NAME)` by its value when there is one; `$$` stands for one `$`; all else stays as it is.
pub(crate) fn expand<'a>(text: &str, get: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match get(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

fn api_variables(sources: &Sources<'_>, vars: &mut Vars) {
    let (host, port) = sources.api_service;
    vars.set("KUBERNETES_SERVICE_HOST".to_owned(), host.to_string());
    vars.set("KUBERNETES_SERVICE_PORT".to_owned(), port.to_string());
}

/// `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT[_PORTNAME]` and the Docker-link variables.
fn service_variables(service: &Service, vars: &mut Vars) {
    let Some(spec) = &service.spec else { return };
    let (Some(ip), Some(name)) = (spec.cluster_ip.as_deref(), service.metadata.name.as_deref()) else {
        return;
    };
    if ip.is_empty() || ip == "None" {
        return;
    }
    let upper = |text: &str| text.to_uppercase().replace('-', "_");
    let name = upper(name);
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    vars.set(format!("{name}_SERVICE_HOST"), ip.to_owned());
    vars.set(format!("{name}_SERVICE_PORT"), first.port.to_string());
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            vars.set(format!("{name}_SERVICE_PORT_{}", upper(port_name)), port.port.to_string());
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let url = format!("{lower}://{ip}:{}", port.port);
        if index == 0 {
            vars.set(format!("{name}_PORT"), url.clone());
        }
        let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
        vars.set(prefix.clone(), url);
        vars.set(format!("{prefix}_PROTO"), lower);
        vars.set(format!("{prefix}_PORT"), port.port.to_string());
        vars.set(format!("{prefix}_ADDR"), ip.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn expansion() {
        let get = |name: &str| match name {
            "A" => Some("1"),
            "B_b" => Some("$(A)"),
            _ => None,
        };
        for (text, expected) in [
            ("", ""),
            ("x$(A)y$(A)", "x1y1"),
            ("$(B_b)", "$(A)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$", "$$"),
            ("$(NONE)", "$(NONE)"),
            ("$A $ $(A", "$A $ $(A"),
            ("é$(A)ü$", "é1ü$"),
        ] {
            assert_eq!(expand(text, get), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_without_dollars_stays(text in "[^$]*") {
            prop_assert_eq!(expand(&text, |_| None), text);
        }
        #[test]
        fn doubling_every_dollar_escapes_everything(text in ".*") {
            prop_assert_eq!(expand(&text.replace('$', "$$"), |_| Some("X")), text);
        }
    }

    fn run(container: serde_json::Value) -> Result<BTreeMap<String, String>, Error> {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": []}}))
            .unwrap();
        let service: Service =
            serde_json::from_value(json!({"metadata": {"name": "my-db", "namespace": "ns"},
            "spec": {"clusterIP": "10.96.0.9", "ports": [{"name": "sql", "port": 5432}]}}))
            .unwrap();
        let other: Service = serde_json::from_value(json!({"metadata": {"name": "far", "namespace": "else"},
            "spec": {"clusterIP": "10.96.0.8", "ports": [{"port": 1}]}}))
        .unwrap();
        let mut objects = Objects::default();
        objects.insert(
            Kind::ConfigMap,
            "cm",
            Some([("k".to_owned(), b"v".to_vec()), ("#@!d".to_owned(), b"odd".to_vec())].into()),
        );
        objects.insert(Kind::Secret, "gone", None);
        let sources = Sources {
            pod: &pod,
            objects: &objects,
            services: &[Arc::new(service), Arc::new(other)],
            addresses: &Addresses { pod_ip: Some("10.1.1.1".into()), host_ip: None },
            allocatable: &BTreeMap::new(),
            api_service: ([10, 96, 0, 1].into(), 443),
        };
        build(&sources, &serde_json::from_value(container).unwrap()).map(|list| list.into_iter().collect())
    }

    #[test]
    fn variables_from_everywhere() {
        let vars = run(json!({"name": "c",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "gone", "optional": true}}],
            "env": [{"name": "A", "value": "$(P_k)-$(MY_DB_SERVICE_PORT)"}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
                {"name": "N", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "none", "optional": true}}},
                {"name": "B", "value": "$(A)"}, {"name": "A", "value": "again"}]}))
        .unwrap();
        let check = |name: &str, expected: Option<&str>| {
            assert_eq!(vars.get(name).map(String::as_str), expected, "{name}")
        };
        check("A", Some("again"));
        check("B", Some("v-5432"));
        check("P_#@!d", Some("odd"));
        check("IP", Some("10.1.1.1"));
        check("K", Some("v"));
        check("N", None);
        check("MY_DB_SERVICE_HOST", Some("10.96.0.9"));
        check("MY_DB_SERVICE_PORT_SQL", Some("5432"));
        check("MY_DB_PORT_5432_TCP_ADDR", Some("10.96.0.9"));
        check("KUBERNETES_SERVICE_HOST", Some("10.96.0.1"));
        check("FAR_SERVICE_HOST", None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let check = |env: serde_json::Value, expected: &str| {
            let error = run(json!({"name": "c", "env": [env]})).unwrap_err();
            assert_eq!(
                (error.waiting_reason(), error.to_string().as_str()),
                ("CreateContainerConfigError", expected)
            );
        };
        check(
            json!({"name": "X", "valueFrom": {"secretKeyRef": {"name": "gone", "key": "k"}}}),
            "secret \"gone\" not found",
        );
        check(
            json!({"name": "X", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "z"}}}),
            "couldn't find key z in ConfigMap ns/cm",
        );
    }
}
