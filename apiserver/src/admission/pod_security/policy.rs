//! What the labels of a namespace say: for each mode a level, and the version of Kubernetes whose rules are meant.

use api::field::{Errors, Path};
use std::{collections::BTreeMap, fmt};

const PREFIX: &str = "pod-security.kubernetes.io/";

/// The stricter, the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// `v1.MINOR`
    Minor(u32),
    Latest,
}

impl Version {
    pub(super) fn minor(self) -> u32 {
        match self {
            Self::Minor(minor) => minor,
            Self::Latest => u32::MAX,
        }
    }
}

/// A level at a version; shown as `restricted:latest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standard {
    pub(super) level: Level,
    pub(super) version: Version,
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Version::Latest => write!(f, "{level}:latest"),
            Version::Minor(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) enforce: Standard,
    pub(super) audit: Standard,
    pub(super) warn: Standard,
}

impl Policy {
    /// What is meant, always, and what is wrong with the labels. What cannot be read is enforced most strictly; nobody is
    /// warned because of it.
    pub(super) fn of(labels: Option<&BTreeMap<String, String>>) -> (Self, Errors) {
        let mut errors = Errors::default();
        let mut read = |mode: &str, unreadable: Level| {
            let label = |suffix: &str| {
                let key = format!("{PREFIX}{mode}{suffix}");
                labels.and_then(|l| l.get(&key)).map(|value| (key, value.as_str()))
            };
            let mut fault = |key: &str, value: &str, detail: &str| {
                errors.invalid(&Path::new("metadata").child("labels").key(key), value, detail);
            };
            let level = label("").map(|(key, value)| match value {
                "privileged" => Ok(Level::Privileged),
                "baseline" => Ok(Level::Baseline),
                "restricted" => Ok(Level::Restricted),
                _ => {
                    fault(&key, value, "must be one of privileged, baseline, restricted");
                    Err(unreadable)
                }
            });
            let version = label("-version").map(|(key, value)| {
                version(value).unwrap_or_else(|| {
                    fault(&key, value, "must be \"latest\" or \"v1.x\"");
                    Version::Latest
                })
            });
            (level, version)
        };
        let (enforce, enforce_version) = read("enforce", Level::Restricted);
        let (audit, audit_version) = read("audit", Level::Privileged);
        let (warn, warn_version) = read("warn", Level::Privileged);
        let standard = |level: Option<Result<Level, Level>>, version: Option<Version>| Standard {
            level: level.map_or(Level::Privileged, |level| level.unwrap_or_else(|instead| instead)),
            version: version.unwrap_or(Version::Latest),
        };
        let mut policy = Self {
            enforce: standard(enforce, enforce_version),
            audit: standard(audit, audit_version),
            warn: standard(warn, warn_version),
        };
        // Whoever says what is enforced and nothing of warnings is warned of it, at workloads too.
        if warn.is_none() && matches!(enforce, Some(Ok(_))) && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if warn_version.is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }
}

fn version(text: &str) -> Option<Version> {
    if text == "latest" {
        return Some(Version::Latest);
    }
    let digits = text.strip_prefix("v1.")?;
    let canonical = digits == "0" || !digits.starts_with('0');
    let plain = canonical && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| plain).map(Version::Minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(labels: &[(&str, &str)]) -> (String, Vec<String>) {
        let labels =
            labels.iter().map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned())).collect();
        let (policy, errors) = Policy::of(Some(&labels));
        let shown = format!("{} {} {}", policy.enforce, policy.audit, policy.warn);
        (shown, errors.0.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn labels_and_what_they_mean() {
        let open = "privileged:latest";
        for (labels, expected) in [
            (&[][..], [open, open, open]),
            (&[("enforce", "baseline")], ["baseline:latest", open, "baseline:latest"]),
            (
                &[("enforce", "restricted"), ("enforce-version", "v1.24")],
                ["restricted:v1.24", open, "restricted:v1.24"],
            ),
            (
                &[
                    ("enforce", "baseline"),
                    ("warn", "restricted"),
                    ("audit", "restricted"),
                    ("audit-version", "v1.0"),
                ],
                ["baseline:latest", "restricted:v1.0", "restricted:latest"],
            ),
            (&[("enforce", "restricted"), ("warn", "privileged")], ["restricted:latest", open, open]),
        ] {
            assert_eq!(policy(labels), (expected.join(" "), Vec::new()), "{labels:?}");
        }
    }

    #[test]
    fn labels_that_mean_nothing() {
        let (shown, errors) = policy(&[
            ("enforce", "strict"),
            ("enforce-version", "v1.01"),
            ("audit", "x"),
            ("warn-version", "2"),
        ]);
        assert_eq!(shown, "restricted:latest privileged:latest privileged:latest");
        assert_eq!(
            errors,
            [
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/enforce-version]: Invalid value: \"v1.01\": must be \"latest\" or \"v1.x\"",
                "metadata.labels[pod-security.kubernetes.io/audit]: Invalid value: \"x\": must be one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"2\": must be \"latest\" or \"v1.x\"",
            ]
        );
    }
}
