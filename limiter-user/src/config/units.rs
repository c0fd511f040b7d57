//! Numbers with units: rates, bit rates and sizes.

/// A decimal number with an optional fraction in front of a unit, exactly.
struct Number {
    digits: u128,
    /// Digits behind the point.
    scale: u32,
}

impl Number {
    /// This many of `unit`; `None` if that is no whole number or too large.
    fn times(&self, unit: u64) -> Option<u64> {
        let scaled = self.digits.checked_mul(unit.into())?;
        let divisor = 10u128.pow(self.scale);
        scaled.is_multiple_of(divisor).then_some(())?;
        u64::try_from(scaled / divisor).ok()
    }
}

/// Splits `text` into a number and the unit behind it.
fn number(text: &str) -> Option<(Number, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || whole.len() > 18 || fraction.len() > 9 {
        return None;
    }
    let scale = u32::try_from(fraction.len()).ok()?;
    let digits = format!("{whole}{fraction}").parse().ok()?;
    Some((Number { digits, scale }, unit.trim_start()))
}

/// Packets a second: `200/s`, `10k/s`, `1.5M/s`.
pub(super) fn rate(text: &str) -> Option<u64> {
    count(text.trim().strip_suffix("/s")?)
}

/// Packets: `400`, `20k`.
pub(super) fn count(text: &str) -> Option<u64> {
    let (number, unit) = number(text)?;
    number.times(match unit {
        "" => 1,
        "k" | "K" => 1_000,
        "M" => 1_000_000,
        _ => return None,
    })
}

/// Bits a second: `200Mbit/s`. Prefixes are decimal, as network rates are.
pub(super) fn bit_rate(text: &str) -> Option<u64> {
    let (number, unit) = number(text)?;
    number.times(match unit {
        "bit/s" => 1,
        "kbit/s" => 1_000,
        "Mbit/s" => 1_000_000,
        "Gbit/s" => 1_000_000_000,
        "Tbit/s" => 1_000_000_000_000,
        _ => return None,
    })
}

/// Bytes: `64KiB`, `1MB`, `10Mbit`.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = number(text)?;
    let bits = number.times(match unit {
        "B" => 8,
        "kB" => 8_000,
        "MB" => 8_000_000,
        "GB" => 8_000_000_000,
        "KiB" => 8 << 10,
        "MiB" => 8 << 20,
        "GiB" => 8 << 30,
        "bit" => 1,
        "kbit" => 1_000,
        "Mbit" => 1_000_000,
        "Gbit" => 1_000_000_000,
        _ => return None,
    })?;
    Some(bits.div_ceil(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_understood() {
        assert_eq!(rate("200/s"), Some(200));
        assert_eq!(rate("10k/s"), Some(10_000));
        assert_eq!(rate("1.5M/s"), Some(1_500_000));
        assert_eq!(rate(" 10 k/s "), Some(10_000));
        assert_eq!(bit_rate("200Mbit/s"), Some(200_000_000));
        assert_eq!(bit_rate("0.5 Gbit/s"), Some(500_000_000));
        assert_eq!(size("64KiB"), Some(65_536));
        assert_eq!(size("1MB"), Some(1_000_000));
        assert_eq!(size("10bit"), Some(2));
        assert_eq!(count("20k"), Some(20_000));
    }

    #[test]
    fn what_is_not() {
        for text in
            ["", "/s", "k/s", "10", "10k", "10m/s", "1.5/s", "-1/s", "1e3/s", ".5k/s", "5.k/s", "1..5k/s"]
        {
            assert_eq!(rate(text), None, "{text:?}");
        }
        for text in ["200Mbit", "200MBit/s", "200MB/s", "200mbit/s", "200", "1.0000000000k/s"] {
            assert_eq!(bit_rate(text), None, "{text:?}");
        }
        assert_eq!(size("99999999999999999GB"), None);
    }
}
