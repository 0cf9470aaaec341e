//! What the server counts about itself. Cheap to note, and written as Prometheus' text only when somebody asks.
//!
//! Every label comes from a fixed set (verbs, the kinds we serve, codes), so no table here can grow without bound.

use crate::request::RequestInfo;
use std::{
    collections::BTreeMap,
    fmt::{Display, Write},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Upper bounds of the buckets of request durations, in seconds: Kubernetes' own, and finer where we are.
pub const SECONDS: [f64; 18] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
];

/// What a request was, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Label {
    pub verb: &'static str,
    pub group: &'static str,
    pub version: &'static str,
    pub resource: &'static str,
    pub subresource: &'static str,
    pub scope: &'static str,
}

impl Label {
    /// Kubernetes' names of verbs: those of HTTP but for lists, watches and streams.
    pub fn verb_of(info: &RequestInfo) -> &'static str {
        match (info.verb, info.subresource.as_str()) {
            (_, "exec" | "attach" | "portforward" | "proxy") if info.is_resource => "CONNECT",
            ("list", _) => "LIST",
            ("watch", _) => "WATCH",
            ("get", _) => "GET",
            ("head", _) => "HEAD",
            ("create" | "post", _) => "POST",
            ("update" | "put", _) => "PUT",
            ("patch", _) => "PATCH",
            ("delete", _) => "DELETE",
            ("deletecollection", _) => "DELETECOLLECTION",
            _ => "other",
        }
    }

    pub fn scope_of(info: &RequestInfo) -> &'static str {
        match info {
            _ if !info.is_resource => "",
            _ if !info.name.is_empty() || info.verb == "create" => "resource",
            _ if !info.namespace.is_empty() => "namespace",
            _ => "cluster",
        }
    }

    fn pairs(&self) -> [(&'static str, &'static str); 8] {
        [
            ("component", "apiserver"),
            ("dry_run", ""),
            ("group", self.group),
            ("resource", self.resource),
            ("scope", self.scope),
            ("subresource", self.subresource),
            ("verb", self.verb),
            ("version", self.version),
        ]
    }
}

#[derive(Debug, Clone, Default)]
struct Histogram {
    counts: [u64; SECONDS.len()],
    count: u64,
    sum: Duration,
}

impl Histogram {
    fn note(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        if let Some(count) = SECONDS.iter().position(|bound| seconds <= *bound) {
            self.counts[count] += 1;
        }
        self.count += 1;
        self.sum += time;
    }
}

/// All requests of one label.
#[derive(Debug, Default)]
struct Answered {
    /// By code. Few, so looked through.
    totals: Vec<(u16, u64)>,
    durations: Histogram,
}

#[derive(Debug, Default)]
struct Requests {
    answered: BTreeMap<Label, Answered>,
    running: BTreeMap<Label, u64>,
}

#[derive(Debug, Default)]
pub struct Metrics {
    requests: Mutex<Requests>,
}

/// A watch or stream that goes on: counted until dropped.
#[derive(Debug)]
pub struct Running {
    metrics: Arc<Metrics>,
    label: Label,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(count) = self.metrics.lock().running.get_mut(&self.label) {
            *count = count.saturating_sub(1);
        }
    }
}

impl Metrics {
    fn lock(&self) -> std::sync::MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request was answered. `time` is the time until the answer's head was ready; `None` for what lasts as long as
    /// the client likes.
    pub fn answered(&self, label: Label, code: u16, time: Option<Duration>) {
        let mut requests = self.lock();
        let answered = requests.answered.entry(label).or_default();
        match answered.totals.iter_mut().find(|(known, _)| *known == code) {
            Some((_, total)) => *total += 1,
            None => answered.totals.push((code, 1)),
        }
        if let Some(time) = time {
            answered.durations.note(time);
        }
    }

    pub fn running(self: &Arc<Self>, label: Label) -> Running {
        *self.lock().running.entry(label).or_default() += 1;
        Running { metrics: self.clone(), label }
    }

    pub fn write(&self, page: &mut Page) {
        let requests = self.lock();
        page.family("apiserver_request_total", "counter", "Requests answered.");
        for (label, answered) in &requests.answered {
            for (code, total) in &answered.totals {
                let code = code.to_string();
                let pairs: Vec<_> = [("code", code.as_str())].into_iter().chain(label.pairs()).collect();
                page.sample("apiserver_request_total", &pairs, total);
            }
        }
        let name = "apiserver_request_duration_seconds";
        page.family(name, "histogram", "Time until the answer's head was ready; watches and streams aside.");
        for (label, Answered { durations: times, .. }) in &requests.answered {
            if times.count == 0 {
                continue;
            }
            page.histogram(name, &label.pairs(), &SECONDS, &times.counts, times.count, times.sum);
        }
        let name = "apiserver_longrunning_requests";
        page.family(name, "gauge", "Watches and streams that go on.");
        for (label, running) in &requests.running {
            page.sample(name, &label.pairs(), running);
        }
    }
}

/// A page in Prometheus' text form.
#[derive(Debug, Default)]
pub struct Page(String);

// Writing to a String cannot fail.
impl Page {
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (i, (label, value)) in labels.iter().enumerate() {
            let mark = if i == 0 { '{' } else { ',' };
            let value = value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
            let _ = write!(self.0, "{mark}{label}=\"{value}\"");
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// One figure without labels.
    pub fn figure(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// `counts` are those of each bucket alone; the text adds them up, as its readers expect.
    pub fn histogram(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        bounds: &[f64],
        counts: &[u64],
        count: u64,
        sum: Duration,
    ) {
        let mut below = 0;
        for (bound, in_bucket) in bounds.iter().zip(counts) {
            below += in_bucket;
            let bound = bound.to_string();
            let pairs: Vec<_> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.sample(&format!("{name}_bucket"), &pairs, below);
        }
        let pairs: Vec<_> = labels.iter().copied().chain([("le", "+Inf")]).collect();
        self.sample(&format!("{name}_bucket"), &pairs, count);
        self.sample(&format!("{name}_sum"), labels, sum.as_secs_f64());
        self.sample(&format!("{name}_count"), labels, count);
    }

    pub fn into_text(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_as_prometheus_wants_it() {
        let metrics = Arc::new(Metrics::default());
        let label = Label { verb: "GET", resource: "pods", version: "v1", ..Label::default() };
        for milliseconds in [1, 3, 700] {
            metrics.answered(label, 200, Some(Duration::from_millis(milliseconds)));
        }
        metrics.answered(label, 404, None);
        let running = metrics.running(label);
        let mut page = Page::default();
        metrics.write(&mut page);
        page.figure("a", "gauge", "Help.", 1.5);
        page.sample("b", &[("x", "a\"b\\c\nd")], 1);
        let text = page.into_text();
        let labels = r#"component="apiserver",dry_run="",group="",resource="pods",scope="",subresource="",verb="GET",version="v1""#;
        for line in [
            format!("apiserver_request_total{{code=\"200\",{labels}}} 3"),
            format!("apiserver_request_total{{code=\"404\",{labels}}} 1"),
            format!("apiserver_request_duration_seconds_bucket{{{labels},le=\"0.001\"}} 1"),
            format!("apiserver_request_duration_seconds_bucket{{{labels},le=\"0.005\"}} 2"),
            format!("apiserver_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 3"),
            format!("apiserver_request_duration_seconds_count{{{labels}}} 3"),
            format!("apiserver_longrunning_requests{{{labels}}} 1"),
            "# HELP a Help.\n# TYPE a gauge\na 1.5".to_owned(),
            r#"b{x="a\"b\\c\nd"} 1"#.to_owned(),
        ] {
            assert!(text.lines().any(|l| l == line) || text.contains(&format!("{line}\n")), "{line}\n{text}");
        }
        drop(running);
        let mut page = Page::default();
        metrics.write(&mut page);
        assert!(page.into_text().contains(&format!("apiserver_longrunning_requests{{{labels}}} 0")));
    }
}
