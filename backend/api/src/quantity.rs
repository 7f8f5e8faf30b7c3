//! Kubernetes quantities: `250m`, `1.5Gi`, `2e3`; compared, added and printed in canonical form.
use std::cmp::Ordering;
use std::fmt;

/// How a quantity prints: the suffix family it was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `Ki`, `Mi` …
    Binary,
    /// `m`, `k`, `M` …
    Decimal,
    /// `e3`.
    Exponent,
}

/// A number of nano-units, which holds every quantity the API admits (`apimachinery/pkg/api/resource`).
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

const NANO: i128 = 1_000_000_000;
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
/// Suffixes with their powers of ten.
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

impl Quantity {
    pub const ZERO: Self = Self { nanos: 0, format: Format::Decimal };

    /// None where the text is not a quantity. Values below a nano-unit are rounded up, as Kubernetes does.
    pub fn parse(text: &str) -> Option<Self> {
        let end =
            text.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+' | '-')).unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        if let Some((_, bits)) = BINARY.iter().find(|(name, _)| *name == suffix) {
            return Some(Self { nanos: scaled(number, 1_i128 << bits, 0)?, format: Format::Binary });
        }
        if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
            return Some(Self { nanos: scaled(number, 1, *power)?, format: Format::Decimal });
        }
        let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok().filter(|p| (-30..=18).contains(p))?;
        Some(Self { nanos: scaled(number, 1, power)?, format: Format::Exponent })
    }

    pub fn from_milli(milli: i64) -> Self {
        Self { nanos: i128::from(milli) * (NANO / 1000), format: Format::Decimal }
    }

    pub fn from_bytes(bytes: i64) -> Self {
        Self { nanos: i128::from(bytes) * NANO, format: Format::Binary }
    }

    /// Thousandths, rounded up: the unit of CPU.
    pub fn milli(self) -> i64 {
        saturate(div_up(self.nanos, NANO / 1000))
    }

    /// Whole units, rounded up: the unit of memory and of counts.
    pub fn value(self) -> i64 {
        saturate(div_up(self.nanos, NANO))
    }

    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { nanos: self.nanos.saturating_add(other.nanos), format: self.format_with(other) }
    }

    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self { nanos: self.nanos.saturating_sub(other.nanos), format: self.format_with(other) }
    }

    /// Nothing has no format of its own.
    fn format_with(self, other: Self) -> Format {
        if self.nanos == 0 { other.format } else { self.format }
    }

    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

fn div_up(value: i128, by: i128) -> i128 {
    value.div_euclid(by) + i128::from(value.rem_euclid(by) != 0)
}

/// `number × factor × 10^power` in nano-units, rounded away from zero; None where it is no number or out of range.
fn scaled(number: &str, factor: i128, power: i32) -> Option<i128> {
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |part: &str| part.bytes().all(|c| c.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !plain(whole) || !plain(fraction) || fraction.len() > 27 {
        return None;
    }
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let mantissa = mantissa.checked_mul(factor)?;
    let exponent = power + 9 - i32::try_from(fraction.len()).ok()?;
    let ten = 10_i128.checked_pow(exponent.unsigned_abs())?;
    let magnitude = if exponent >= 0 { mantissa.checked_mul(ten)? } else { div_up(mantissa, ten) };
    Some(if negative { -magnitude } else { magnitude })
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

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that keeps it whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        // As Kubernetes: below 1024, and where precision would be lost, a binary quantity prints as a decimal one.
        let is_small = self.nanos.abs() < 1024 * NANO;
        if self.format == Format::Binary && !is_small && self.nanos % NANO == 0 {
            let units = self.nanos / NANO;
            let fits = BINARY.iter().rev().find(|(_, bits)| units % (1_i128 << bits) == 0);
            return match fits {
                Some((suffix, bits)) => write!(f, "{}{suffix}", units >> bits),
                None => write!(f, "{units}"),
            };
        }
        let fits = DECIMAL.iter().rev().find_map(|(suffix, power)| {
            let unit = 10_i128.pow(u32::try_from(power + 9).ok()?);
            (self.nanos % unit == 0).then_some((self.nanos / unit, *suffix, *power))
        });
        match fits {
            Some((number, _, power)) if self.format == Format::Exponent && power != 0 => {
                write!(f, "{number}e{power}")
            }
            Some((number, suffix, _)) => write!(f, "{number}{suffix}"),
            None => write!(f, "{}n", self.nanos),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_print_in_canonical_form() {
        let rows = [
            ("0.5", "500m"),
            ("1500m", "1500m"),
            ("2000m", "2"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("1000k", "1M"),
            ("2e3", "2e3"),
            ("0", "0"),
            ("100", "100"),
            ("-3", "-3"),
            ("1000", "1k"),
            ("0.5Ki", "512"),
            ("1.1Ki", "1126400m"),
            ("12e6", "12e6"),
            ("0.1n", "1n"),
            ("-1.5", "-1500m"),
            ("9Ei", "9Ei"),
        ];
        for (text, expected) in rows {
            assert_eq!(Quantity::parse(text).unwrap().to_string(), expected, "{text}");
        }
        for wrong in ["", "x", "1x", "1..2", "Ki", "1 Gi", "--1"] {
            assert!(Quantity::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn quantities_count_in_the_units_of_cpu_and_memory() {
        assert_eq!(Quantity::parse("250m").unwrap().milli(), 250);
        assert_eq!(Quantity::parse("2").unwrap().milli(), 2000);
        assert_eq!(Quantity::parse("64Mi").unwrap().value(), 64 << 20);
        assert!(Quantity::parse("1Gi").unwrap() > Quantity::parse("1G").unwrap());
        assert_eq!(Quantity::ZERO.plus(Quantity::from_bytes(1024)).to_string(), "1Ki");
        assert_eq!(Quantity::ZERO.minus(Quantity::from_bytes(1024)).to_string(), "-1Ki");
    }

    proptest! {
        #[test]
        fn what_is_printed_is_the_same_quantity_and_canonical(number in -100_000_i64..100_000, suffix in "(|m|k|M|Ki|Mi|e2)") {
            let quantity = Quantity::parse(&format!("{number}{suffix}")).unwrap();
            let printed = quantity.to_string();
            let again = Quantity::parse(&printed).unwrap();
            prop_assert_eq!(again, quantity);
            prop_assert_eq!(again.to_string(), printed);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9.eEkKim+-]{0,12}") {
            let _ = Quantity::parse(&text).map(|q| q.to_string());
        }

        #[test]
        fn what_is_added_can_be_taken_away(a in "[0-9]{1,6}(m|Mi|)", b in "[0-9]{1,6}(m|Ki|)") {
            let (a, b) = (Quantity::parse(&a).unwrap(), Quantity::parse(&b).unwrap());
            prop_assert_eq!(a.plus(b).minus(b), a);
        }
    }
}
