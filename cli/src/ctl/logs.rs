//! `logs`: a container's output.

use super::session::{Session, escape};
use anyhow::{Result, bail};
use clap::Args;
use std::io::{Write, stdout};

#[derive(Debug, Args)]
pub(super) struct Logs {
    /// POD or pod/POD
    pod: String,
    /// Container, where the pod has several
    #[arg(value_name = "CONTAINER")]
    positional: Option<String>,
    #[arg(short, long)]
    container: Option<String>,
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// Of the container before the last restart
    #[arg(short, long)]
    previous: bool,
    /// Only this many last lines
    #[arg(long)]
    tail: Option<i64>,
    /// Only what is newer: 5s, 2m, 3h
    #[arg(long)]
    since: Option<String>,
    /// With the time of each line
    #[arg(long)]
    timestamps: bool,
}

impl Logs {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let pod = self.pod.strip_prefix("pod/").or(self.pod.strip_prefix("pods/")).unwrap_or(&self.pod);
        if pod.contains('/') {
            bail!("logs of {:?}: only pods for now", self.pod);
        }
        let mut query = vec![format!("follow={}", self.follow), format!("timestamps={}", self.timestamps)];
        if let Some(container) = self.container.or(self.positional) {
            query.push(format!("container={}", escape(&container)));
        }
        if self.previous {
            query.push("previous=true".to_owned());
        }
        if let Some(tail) = self.tail.filter(|t| *t >= 0) {
            query.push(format!("tailLines={tail}"));
        }
        if let Some(since) = &self.since {
            query.push(format!("sinceSeconds={}", seconds(since)?));
        }
        let path =
            format!("/api/v1/namespaces/{}/pods/{}/log?{}", session.namespace, escape(pod), query.join("&"));
        let mut log = session.stream(&path, "*/*").await?;
        while let Some(piece) = log.chunk().await? {
            stdout().write_all(&piece)?;
            stdout().flush()?;
        }
        Ok(())
    }
}

/// `1h2m3s` in seconds.
fn seconds(text: &str) -> Result<u64> {
    let (mut total, mut number) = (0u64, String::new());
    for letter in text.chars() {
        let unit = match letter {
            digit if digit.is_ascii_digit() => {
                number.push(digit);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => bail!("invalid duration {text:?}: use 5s, 2m or 3h"),
        };
        let Ok(value) = number.parse::<u64>() else { bail!("invalid duration {text:?}: use 5s, 2m or 3h") };
        total = total.saturating_add(value.saturating_mul(unit));
        number.clear();
    }
    if !number.is_empty() || total == 0 {
        bail!("invalid duration {text:?}: use 5s, 2m or 3h");
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(seconds("90s").unwrap(), 90);
        assert_eq!(seconds("1h2m3s").unwrap(), 3723);
        for bad in ["", "5", "s", "5d", "-5s"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
