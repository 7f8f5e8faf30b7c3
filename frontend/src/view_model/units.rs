//! Amounts of CPU and memory as people read them.
use pilothouse_api::quantity::Quantity;

/// `1.5` cores from thousandths.
pub fn cores(milli: i64) -> String {
    match milli {
        0 => "0".into(),
        milli if milli < 1000 => format!("{milli}m"),
        milli => trim(format!("{:.1}", ratio(milli, 1000))),
    }
}

/// `1.5 GiB` from bytes.
pub fn bytes(bytes: i64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = ratio(bytes, 1);
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let number = if value < 10.0 && unit > 0 { trim(format!("{value:.1}")) } else { format!("{value:.0}") };
    format!("{number} {}", units[unit])
}

#[allow(clippy::cast_precision_loss, reason = "for reading, not for counting")]
fn ratio(value: i64, by: i64) -> f64 {
    value as f64 / by as f64
}

fn trim(text: String) -> String {
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

/// Thousandths of a core; 0 where the text is no quantity.
pub fn milli(text: &str) -> i64 {
    Quantity::parse(text).map_or(0, Quantity::milli)
}

/// Whole units; 0 where the text is no quantity.
pub fn whole(text: &str) -> i64 {
    Quantity::parse(text).map_or(0, Quantity::value)
}

/// Percent, at most 100; 0 of 0 is 0.
pub fn percent(part: i64, whole: i64) -> i64 {
    if whole <= 0 { 0 } else { (part.saturating_mul(100) / whole).clamp(0, 100) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short() {
        assert_eq!([cores(0), cores(250), cores(1500), cores(2000)], ["0", "250m", "1.5", "2"]);
        assert_eq!([bytes(512), bytes(1536), bytes(16 << 30)], ["512 B", "1.5 KiB", "16 GiB"]);
        assert_eq!((milli("0.5"), whole("1Ki"), milli("junk")), (500, 1024, 0));
        assert_eq!((percent(1, 3), percent(5, 0), percent(9, 3)), (33, 0, 100));
    }
}
