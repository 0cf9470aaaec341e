//! Durations as Go, and so Kubernetes' flags, write them: `40s`, `1m30s`, `1.5h`, `300ms`.

use std::time::Duration;

/// Nanoseconds of each unit, longest name first where one begins with another.
const UNITS: [(&str, f64); 8] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// The error says what is wrong with the text.
pub fn parse(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanoseconds = 0.0;
    while !rest.is_empty() || text.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, unit) = rest.split_at(digits);
        let number: f64 = number.parse().map_err(|_| "is not a duration such as 40s or 1m30s".to_owned())?;
        let (name, length) = UNITS
            .into_iter()
            .filter(|(name, _)| unit.starts_with(name))
            .max_by_key(|(name, _)| name.len())
            .ok_or_else(|| format!("has no known unit after {number}: use h, m, s or ms"))?;
        nanoseconds += number * length;
        rest = &unit[name.len()..];
    }
    Duration::try_from_secs_f64(nanoseconds / 1e9).map_err(|_| "is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_reads_them() {
        for (text, milliseconds) in [
            ("40s", 40_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("300ms", 300),
            ("1h2m3s4ms", 3_723_004),
            ("0", 0),
            ("0s", 0),
            (".5s", 500),
            ("2000000us", 2000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "40", "s", "-5s", "40 s", "5d", "1m30", "1..5s", "soon", "99999999999999999999h"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
