//! Resource quantities: `100m`, `1.5Gi`, `1e3`.
//!
//! Held as a whole number of nanos; Kubernetes too rounds finer amounts up to a nano. Printing is canonical: no fraction,
//! the largest suffix that loses nothing, in the family (binary, decimal, exponent) the quantity was written in.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;

/// The family of suffixes a quantity is printed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

/// An exact amount. Compared by value: `1Gi == 1024Mi`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is not a quantity, in Kubernetes' words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    pub fn from_units(units: i64) -> Self {
        Self { nanos: i128::from(units) * NANO, format: Format::DecimalSi }
    }
    pub fn from_milli(milli: i64) -> Self {
        Self { nanos: i128::from(milli) * (NANO / 1000), format: Format::DecimalSi }
    }
    /// Bytes, printed with binary suffixes.
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nanos: i128::from(bytes) * NANO, format: Format::BinarySi }
    }
    /// Whole units, rounded up (away from zero), capped to `i64`.
    pub fn value(self) -> i64 {
        self.rounded_up(NANO)
    }
    /// Thousandths, rounded up (away from zero), capped to `i64`.
    pub fn milli_value(self) -> i64 {
        self.rounded_up(NANO / 1000)
    }
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }
    pub fn is_positive(self) -> bool {
        self.nanos > 0
    }
    /// Whether it is a whole number of units (extended resources and pod counts must be).
    pub fn is_integer(self) -> bool {
        self.nanos % NANO == 0
    }
    pub fn format(self) -> Format {
        self.format
    }

    fn rounded_up(self, unit: i128) -> i64 {
        let whole = self.nanos / unit;
        let up = if self.nanos % unit == 0 { whole } else { whole + self.nanos.signum() };
        i64::try_from(up).unwrap_or(if up < 0 { i64::MIN } else { i64::MAX })
    }

    fn combine(self, other: Self, nanos: i128) -> Self {
        // The format of a sum is that of the first amount that is something.
        Self { nanos, format: if self.is_zero() { other.format } else { self.format } }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}
impl Add for Quantity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.combine(other, self.nanos.saturating_add(other.nanos))
    }
}
impl Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.combine(other, self.nanos.saturating_sub(other.nanos))
    }
}
impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}
impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl TryFrom<&Text> for Quantity {
    type Error = ParseError;
    fn try_from(text: &Text) -> Result<Self, ParseError> {
        text.0.parse()
    }
}
impl From<Quantity> for Text {
    fn from(quantity: Quantity) -> Self {
        Text(quantity.to_string())
    }
}

/// The amount of an API field; nothing or nonsense (validated elsewhere) is zero.
pub fn of(text: Option<&Text>) -> Quantity {
    text.and_then(|t| t.0.parse().ok()).unwrap_or_default()
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (negative, rest) = match text.as_bytes().first() {
            None => return Err(ParseError::Format),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
        };
        let whole_end = rest.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len());
        let (whole, rest) = rest.split_at(whole_end);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(rest.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len())),
            None => ("", rest),
        };
        if whole.is_empty() && fraction.is_empty() {
            // Kubernetes reads a bare suffix as a bad number, and anything else as a bad format.
            return Err(if suffix_shaped(suffix) { ParseError::Numeric } else { ParseError::Format });
        }
        if !suffix_shaped(suffix) {
            return Err(ParseError::Format);
        }
        let (base, exponent, mut format) = interpret(suffix).ok_or(ParseError::Suffix)?;
        let nanos = scale(whole, fraction, base, exponent)?;
        let capped = nanos.min(i128::from(i64::MAX) * NANO);
        let nanos = if format == Format::BinarySi { capped } else { nanos };
        if format == Format::BinarySi && nanos > 0 && nanos < NANO {
            format = Format::DecimalSi;
        }
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }
}

/// Letters of suffixes, then an optional signed number.
fn suffix_shaped(suffix: &str) -> bool {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    rest.bytes().all(|b| b.is_ascii_digit())
}

fn interpret(suffix: &str) -> Option<(u32, i32, Format)> {
    Some(match suffix {
        "" => (10, 0, Format::DecimalSi),
        "n" => (10, -9, Format::DecimalSi),
        "u" => (10, -6, Format::DecimalSi),
        "m" => (10, -3, Format::DecimalSi),
        "k" => (10, 3, Format::DecimalSi),
        "M" => (10, 6, Format::DecimalSi),
        "G" => (10, 9, Format::DecimalSi),
        "T" => (10, 12, Format::DecimalSi),
        "P" => (10, 15, Format::DecimalSi),
        "E" => (10, 18, Format::DecimalSi),
        "Ki" => (2, 10, Format::BinarySi),
        "Mi" => (2, 20, Format::BinarySi),
        "Gi" => (2, 30, Format::BinarySi),
        "Ti" => (2, 40, Format::BinarySi),
        "Pi" => (2, 50, Format::BinarySi),
        "Ei" => (2, 60, Format::BinarySi),
        _ => (10, suffix.strip_prefix(['e', 'E'])?.parse().ok()?, Format::DecimalExponent),
    })
}

/// whole.fraction × base^exponent in nanos, rounded up.
fn scale(whole: &str, fraction: &str, base: u32, exponent: i32) -> Result<i128, ParseError> {
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Ok(0);
    }
    let mut nanos: i128 = digits.parse().map_err(|_| ParseError::Numeric)?;
    if base == 2 {
        nanos = nanos.checked_mul(1 << exponent).ok_or(ParseError::Numeric)?;
    }
    let ten = if base == 10 { exponent } else { 0 };
    let places = i64::from(ten) + 9 - fraction.len() as i64;
    match u32::try_from(places) {
        Ok(up) => 10i128.checked_pow(up).and_then(|p| nanos.checked_mul(p)).ok_or(ParseError::Numeric),
        Err(_) => {
            let down = u32::try_from(-places).unwrap_or(u32::MAX);
            Ok(10i128.checked_pow(down).map_or(1, |p| (nanos + p - 1) / p))
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANO;
        if self.format == Format::BinarySi && !small && self.is_integer() {
            let (mut n, mut i) = (self.nanos / NANO, 0);
            while n % 1024 == 0 && i + 1 < BINARY.len() {
                n /= 1024;
                i += 1;
            }
            return write!(f, "{n}{}", BINARY[i]);
        }
        let (mut n, mut exponent) = (self.nanos, -9);
        while n % 1000 == 0 {
            n /= 1000;
            exponent += 3;
        }
        match DECIMAL.get(((exponent + 9) / 3) as usize) {
            Some(suffix) if self.format != Format::DecimalExponent => write!(f, "{n}{suffix}"),
            _ if exponent == 0 => write!(f, "{n}"),
            _ => write!(f, "{n}e{exponent}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn q(text: &str) -> Quantity {
        text.parse().unwrap()
    }

    #[test]
    fn prints_canonically() {
        for (text, canonical) in [
            ("0", "0"),
            ("0Gi", "0"),
            ("1000m", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1"),
            ("1.5Gi", "1536Mi"),
            ("1024Ki", "1Mi"),
            ("1023Ki", "1023Ki"),
            ("1536", "1536"),
            ("2000", "2k"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("129M", "129M"),
            ("123Mi", "123Mi"),
            ("1E", "1E"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("0.1m", "100u"),
            ("1.0001n", "2n"),
            ("-1.5", "-1500m"),
            ("+100m", "100m"),
            ("0.5Ki", "512"),
            ("0.0005Ki", "512m"),
            ("1000Ei", "9223372036854775807"),
            ("1000E", "1e21"),
        ] {
            assert_eq!(q(text).to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_quantity() {
        use ParseError::*;
        for (text, error) in [
            ("", Format),
            ("abc", Format),
            ("1 Gi", Format),
            ("1Gb", Format),
            ("1.2.3", Format),
            ("1ki", Suffix),
            ("1KiM", Suffix),
            ("1e", Suffix),
            ("Gi", Numeric),
            ("1e99", Numeric),
        ] {
            assert_eq!(text.parse::<Quantity>().map(|q| q.to_string()), Err(error), "{text}");
        }
    }

    #[test]
    fn counts_and_rounds_up() {
        assert_eq!(q("1.5Gi").value(), 1_610_612_736);
        assert_eq!(q("100m").value(), 1);
        assert_eq!(q("-100m").value(), -1);
        assert_eq!(q("1").milli_value(), 1000);
        assert_eq!(q("1500u").milli_value(), 2);
        assert_eq!(q("100E").value(), i64::MAX);
        assert_eq!(q("1Gi"), q("1024Mi"));
        assert!(q("1G") < q("1Gi"));
        assert_eq!((q("1Gi") + q("512Mi")).to_string(), "1536Mi");
        assert_eq!((Quantity::ZERO + q("1Gi")).to_string(), "1Gi");
        assert_eq!((q("1") - q("250m")).to_string(), "750m");
        assert_eq!(["100m", "200m"].map(q).into_iter().sum::<Quantity>(), q("300m"));
    }

    proptest! {
        #[test]
        fn printing_and_parsing_agree(nanos in -10i128.pow(28)..10i128.pow(28), binary: bool) {
            let format = if binary { Format::BinarySi } else { Format::DecimalSi };
            let max = i128::from(i64::MAX) * NANO;
            let nanos = if binary { nanos.clamp(-max, max) } else { nanos };
            let text = Quantity { nanos, format }.to_string();
            prop_assert_eq!(q(&text).nanos, nanos);
            prop_assert_eq!(q(&text).to_string(), text);
        }

        #[test]
        fn no_text_panics(text in "[+-]?[0-9.]{0,40}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,12}.{0,2}") {
            let _ = text.parse::<Quantity>();
        }
    }
}
