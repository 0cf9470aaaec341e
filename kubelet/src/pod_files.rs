//! `/etc/hosts` and `/etc/resolv.conf` of a pod. Pure but for reading the host's own files.

use k8s_openapi::api::core::v1::Pod;
use std::{fmt::Write, net::Ipv4Addr};

/// glibc looks at no more than these (the API's limits too).
const MAX_NAMESERVERS: usize = 3;

/// The pod's host name: `spec.hostname`, else its name, cut to what Linux allows.
pub(crate) fn hostname(pod: &Pod) -> String {
    let own = pod.spec.as_ref().and_then(|spec| spec.hostname.as_deref()).filter(|name| !name.is_empty());
    let name = own.or(pod.metadata.name.as_deref()).unwrap_or_default();
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// The name in the cluster's domain, for pods with a subdomain.
fn fqdn(pod: &Pod, domain: &str) -> Option<String> {
    let subdomain = pod.spec.as_ref()?.subdomain.as_deref().filter(|s| !s.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref()?;
    Some(format!("{}.{subdomain}.{namespace}.svc.{domain}", hostname(pod)))
}

/// The sandbox's host name: with `setHostnameAsFQDN` the whole one.
pub(crate) fn sandbox_hostname(pod: &Pod, domain: &str) -> String {
    let whole = pod.spec.as_ref().and_then(|spec| spec.set_hostname_as_fqdn) == Some(true);
    whole.then(|| fqdn(pod, domain)).flatten().unwrap_or_else(|| hostname(pod))
}

pub(crate) fn hosts(pod: &Pod, ip: Option<Ipv4Addr>, domain: &str, host_file: &str) -> String {
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|spec| spec.host_network) == Some(true);
    let mut text = String::new();
    if host_network {
        text.push_str("# Kubernetes-managed hosts file (host network).\n");
        text.push_str(host_file);
        if !text.ends_with('\n') {
            text.push('\n');
        }
    } else {
        text.push_str(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        if let Some(ip) = ip {
            let name = hostname(pod);
            let _ = match fqdn(pod, domain) {
                Some(fqdn) => writeln!(text, "{ip}\t{fqdn}\t{name}"),
                None => writeln!(text, "{ip}\t{name}"),
            };
        }
    }
    let aliases = spec.and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            let _ = writeln!(text, "{}\t{names}", alias.ip);
        }
    }
    text
}

/// Nameservers, search list and options, in the order they are written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    fn parse(text: &str) -> Self {
        let mut parsed = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => parsed.nameservers.extend(words.next().map(str::to_owned)),
                Some("search") => parsed.searches = words.map(str::to_owned).collect(),
                Some("options") => parsed.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        parsed
    }

    fn print(&self) -> String {
        let mut text = String::new();
        for server in self.nameservers.iter().take(MAX_NAMESERVERS) {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.searches.is_empty() {
            let _ = writeln!(text, "search {}", self.searches.join(" "));
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "options {}", self.options.join(" "));
        }
        text
    }
}

/// `resolv.conf` after the pod's dnsPolicy and dnsConfig; `host` is the machine's own file.
pub(crate) fn resolv_conf(pod: &Pod, cluster_dns: Ipv4Addr, domain: &str, host: &str) -> String {
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|spec| spec.host_network) == Some(true);
    let host = Resolver::parse(host);
    let mut resolver = match spec.and_then(|spec| spec.dns_policy.as_deref()) {
        Some("None") => Resolver::default(),
        Some("Default") => host,
        None | Some("ClusterFirst") if host_network => host,
        _ => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let mut searches =
                vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
            searches.extend(host.searches.into_iter().filter(|search| search != "."));
            Resolver {
                nameservers: vec![cluster_dns.to_string()],
                searches,
                options: vec!["ndots:5".to_owned()],
            }
        }
    };
    if let Some(config) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        let add = |list: &mut Vec<String>, more: &Option<Vec<String>>| {
            for item in more.iter().flatten() {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
        };
        add(&mut resolver.nameservers, &config.nameservers);
        add(&mut resolver.searches, &config.searches);
        for option in config.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            resolver.options.retain(|old| old.split(':').next() != Some(name));
            resolver.options.push(match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.clone(),
            });
        }
    }
    resolver.print()
}

/// The machine's own resolver file: behind systemd's stub (which pods cannot reach) the real one.
pub(crate) fn host_resolv_conf() -> String {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    if text.contains("nameserver 127.0.0.53")
        && let Ok(real) = std::fs::read_to_string("/run/systemd/resolve/resolv.conf")
    {
        return real;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "ns"}, "spec": spec}))
            .unwrap()
    }

    #[test]
    fn resolvers() {
        let host = "nameserver 1.1.1.1\nsearch corp.example .\noptions rotate\n";
        let check = |spec: serde_json::Value, expected: &str| {
            assert_eq!(
                resolv_conf(&pod(spec.clone()), [10, 96, 0, 10].into(), "cluster.local", host),
                expected,
                "{spec}"
            );
        };
        let cluster = "nameserver 10.96.0.10\nsearch ns.svc.cluster.local svc.cluster.local cluster.local corp.example\noptions ndots:5\n";
        let own = "nameserver 1.1.1.1\nsearch corp.example .\noptions rotate\n";
        check(json!({}), cluster);
        check(json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), own);
        check(json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), cluster);
        check(json!({"dnsPolicy": "Default"}), own);
        check(
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"], "searches": ["a.b"],
                "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
            "nameserver 9.9.9.9\nsearch a.b\noptions ndots:2 edns0\n",
        );
        check(
            json!({"dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}),
            &cluster.replace("ndots:5", "ndots:1"),
        );
    }

    #[test]
    fn hosts_files() {
        let ip = Some([10, 244, 1, 5].into());
        let text = hosts(&pod(json!({"subdomain": "foo"})), ip, "cluster.local", "");
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"), "{text}");
        assert!(text.ends_with("10.244.1.5\tweb-0.foo.ns.svc.cluster.local\tweb-0\n"), "{text}");
        let aliases = json!({"hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]});
        assert!(
            hosts(&pod(aliases), ip, "d", "")
                .ends_with("10.244.1.5\tweb-0\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n")
        );
        let host = hosts(&pod(json!({"hostNetwork": true})), None, "d", "127.0.0.1 localhost");
        assert_eq!(host, "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n");
    }

    #[test]
    fn host_names() {
        assert_eq!(hostname(&pod(json!({}))), "web-0");
        assert_eq!(hostname(&pod(json!({"hostname": "h"}))), "h");
        let whole = json!({"setHostnameAsFQDN": true, "subdomain": "s"});
        assert_eq!(sandbox_hostname(&pod(whole), "d"), "web-0.s.ns.svc.d");
    }
}
