//! Cron schedules, as CronJobs spell them: five fields, `@daily` and the like, or `@every 1h30m`.

/// When something is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At every minute that all fields name.
    Calendar(Fields),
    /// So many seconds after the last time.
    Every(u64),
}

/// One bit for each value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    pub minutes: u64,
    pub hours: u64,
    pub days: u64,
    pub months: u64,
    pub weekdays: u64,
    /// Whether days of the month, and days of the week, are narrowed at all: where both are, either will do.
    pub any_day: bool,
    pub any_weekday: bool,
}

/// A field: least and greatest value, and names for values.
type Bounds = (u32, u32, &'static [&'static str]);

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const BOUNDS: [Bounds; 5] = [(0, 59, &[]), (0, 23, &[]), (1, 31, &[]), (1, 12, MONTHS), (0, 6, WEEKDAYS)];
const NAMED: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

impl Schedule {
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        // A time zone in front is of old; who allows it says so.
        let text = match text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) {
            Some(rest) => rest.split_once(' ').map_or("", |(_, rest)| rest).trim(),
            None => text,
        };
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        if let Some(period) = text.strip_prefix("@every ") {
            return match seconds(period.trim()) {
                Some(0) | None => Err(format!("failed to parse duration {text}")),
                Some(seconds) => Ok(Self::Every(seconds)),
            };
        }
        let named = NAMED.iter().find(|(name, _)| *name == text).map(|(_, fields)| *fields);
        if named.is_none() && text.starts_with('@') {
            return Err(format!("unrecognized descriptor: {text}"));
        }
        let words: Vec<&str> = named.unwrap_or(text).split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = words[..] else {
            let (found, words) = (words.len(), words.join(" "));
            return Err(format!("expected exactly 5 fields, found {found}: [{words}]"));
        };
        let any = |word: &str| word.split(',').any(|w| w.starts_with(['*', '?']) && !w.contains('/'));
        Ok(Self::Calendar(Fields {
            minutes: bits(minutes, BOUNDS[0])?,
            hours: bits(hours, BOUNDS[1])?,
            days: bits(days, BOUNDS[2])?,
            months: bits(months, BOUNDS[3])?,
            weekdays: bits(weekdays, BOUNDS[4])?,
            any_day: any(days),
            any_weekday: any(weekdays),
        }))
    }
}

fn bits(field: &str, bounds: Bounds) -> Result<u64, String> {
    field.split(',').try_fold(0, |all, part| Ok(all | range(part, bounds)?))
}

/// `*`, `5`, `mon-fri`, `*/15`, `10-40/10`, `7/2`.
fn range(part: &str, bounds: Bounds) -> Result<u64, String> {
    let (least, greatest, names) = bounds;
    let number = |word: &str| -> Result<u32, String> {
        let lower = word.to_ascii_lowercase();
        if let Some(i) = names.iter().position(|n| *n == lower) {
            return u32::try_from(i).map(|i| i + least).map_err(|e| e.to_string());
        }
        word.parse().map_err(|_| format!("failed to parse int from {word}"))
    };
    let (span, step) = match part.split_once('/') {
        None => (part, None),
        Some((_, step)) if step.contains('/') => return Err(format!("too many slashes: {part}")),
        Some((span, step)) => (span, Some(number(step)?)),
    };
    let (from, to) = match span.split_once('-') {
        _ if matches!(span, "*" | "?") => (least, greatest),
        Some((_, to)) if to.contains('-') => return Err(format!("too many hyphens: {part}")),
        Some((from, to)) => (number(from)?, number(to)?),
        // `7/2` goes on to the end.
        None if step.is_some() => (number(span)?, greatest),
        None => (number(span)?, number(span)?),
    };
    if from < least {
        return Err(format!("beginning of range ({from}) below minimum ({least}): {part}"));
    }
    if to > greatest {
        return Err(format!("end of range ({to}) above maximum ({greatest}): {part}"));
    }
    if from > to {
        return Err(format!("beginning of range ({from}) beyond end of range ({to}): {part}"));
    }
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    Ok((from..=to).step_by(usize::try_from(step).unwrap_or(usize::MAX)).fold(0, |bits, n| bits | 1 << n))
}

/// `1h30m`, whole seconds.
fn seconds(text: &str) -> Option<u64> {
    let (mut total, mut rest) = (0u64, text);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let n: u64 = rest[..end].parse().ok()?;
        let unit_end = rest[end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |i| end + i);
        let unit = match &rest[end..unit_end] {
            "h" => 3600,
            "m" => 60,
            "s" => 1,
            _ => return None,
        };
        total = total.checked_add(n.checked_mul(unit)?)?;
        rest = &rest[unit_end..];
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        match Schedule::parse(text) {
            Ok(Schedule::Calendar(fields)) => fields,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn set(bits: u64) -> Vec<u32> {
        (0..64).filter(|n| bits & (1 << n) != 0).collect()
    }

    #[test]
    fn what_is_due_when() {
        let f = fields("*/15 8-10,20 1 jan,Dec mon-fri");
        assert_eq!(set(f.minutes), [0, 15, 30, 45]);
        assert_eq!(set(f.hours), [8, 9, 10, 20]);
        assert_eq!((set(f.days), set(f.months)), (vec![1], vec![1, 12]));
        assert_eq!(set(f.weekdays), [1, 2, 3, 4, 5]);
        assert!(!f.any_day && !f.any_weekday);
        assert_eq!(set(fields("50/4 * * * ?").minutes), [50, 54, 58]);
        assert!(fields("* * * * *").any_day);
        assert_eq!(fields("@weekly"), fields("0 0 * * 0"));
        assert_eq!(Schedule::parse("@every 1h30m"), Ok(Schedule::Every(5400)));
    }

    #[test]
    fn what_is_wrong() {
        for (text, expected) in [
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("x * * * *", "failed to parse int from x"),
            ("@often", "unrecognized descriptor: @often"),
            ("@every day", "failed to parse duration @every day"),
            ("", "empty spec string"),
        ] {
            assert_eq!(Schedule::parse(text), Err(expected.to_owned()));
        }
    }
}
