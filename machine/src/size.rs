// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sizes as people write them (`4096`, `512M`, `1.5G`, `64KiB`) and as they read them. Units are binary, whatever
//! their spelling.

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// There is no digit at the front.
    #[error("{0:?} does not begin with a number")]
    NoNumber(String),
    /// What follows the digits is not a unit.
    #[error("{unit:?} is not a unit of size: K, M, G and T are")]
    UnknownUnit {
        /// The text found in place of a unit.
        unit: String,
    },
    /// The value does not fit 64 bits.
    #[error("{0:?} is too large for a size: it has more than 64 bits")]
    Overflow(String),
    /// A point without digits behind it, a part of a byte, or more digits than any size needs.
    #[error("{0:?} is not a decimal fraction of a unit, as 1.5G is")]
    Fraction(String),
}

/// What a fraction is rounded up to: memory and disks are made of pages, and less is never meant by `1.3G`.
const FRACTION_ALIGN: u64 = 4096;
/// Digits behind the point: one byte of a TiB has no more.
const FRACTION_DIGITS_MAX: usize = 12;

/// The number of bytes that `text` names.
///
/// # Errors
/// If it is no decimal number with an optional unit, or more than 64 bits hold.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let (digits, rest) = digits(text);
    if digits.is_empty() {
        return Err(SizeError::NoNumber(text.to_owned()));
    }
    let whole: u64 = digits.parse().map_err(|_| SizeError::Overflow(text.to_owned()))?;
    let (fraction, unit) = rest.strip_prefix('.').map_or((None, rest), |behind| {
        let (fraction, unit) = self::digits(behind);
        (Some(fraction), unit)
    });
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" | "byte" | "bytes" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        other => return Err(SizeError::UnknownUnit { unit: other.to_owned() }),
    };
    let overflow = || SizeError::Overflow(text.to_owned());
    let bytes = whole.checked_mul(1 << shift).ok_or_else(overflow)?;
    let Some(fraction) = fraction else { return Ok(bytes) };
    let part = part(fraction, 1 << shift).ok_or_else(|| SizeError::Fraction(text.to_owned()))?;
    bytes.checked_add(part).ok_or_else(overflow)
}

/// The digits at the front of `text`, and what follows.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// The bytes in `0.digits` of a unit: exact where that is a whole number of bytes, else in whole pages.
fn part(digits: &str, unit: u64) -> Option<u64> {
    if digits.is_empty() || digits.len() > FRACTION_DIGITS_MAX {
        return None;
    }
    let scale = 10_u128.checked_pow(u32::try_from(digits.len()).ok()?)?;
    let scaled = digits.parse::<u128>().ok()?.checked_mul(unit.into())?;
    if scaled.is_multiple_of(scale) {
        return u64::try_from(scaled / scale).ok();
    }
    if unit <= FRACTION_ALIGN {
        return None;
    }
    u64::try_from(scaled.div_ceil(scale)).ok()?.checked_next_multiple_of(FRACTION_ALIGN)
}

/// `bytes` in the largest unit that leaves a whole number: as exact as what [`parse`] reads.
pub fn display(bytes: u64) -> String {
    for (shift, unit) in UNITS {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    counted(bytes)
}

/// `bytes` for display: in the largest unit that it reaches, to a tenth. Not exact, so not for advice.
pub fn about(bytes: u64) -> String {
    for (shift, unit) in UNITS {
        if bytes >> shift != 0 {
            let tenths = (u128::from(bytes) * 10) >> shift;
            let (whole, tenth) = (tenths / 10, tenths % 10);
            return if tenth == 0 {
                format!("{whole} {unit}iB")
            } else {
                format!("{whole}.{tenth} {unit}iB")
            };
        }
    }
    counted(bytes)
}

fn counted(bytes: u64) -> String {
    if bytes == 1 { "1 byte".to_owned() } else { format!("{bytes} bytes") }
}

const UNITS: [(u32, &str); 4] = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_with_each_unit_parses() {
        for (text, bytes) in [
            ("4096", 4096),
            ("1k", 1024),
            ("512M", 512 << 20),
            ("2G", 2 << 30),
            ("64KiB", 65536),
            ("1T", 1 << 40),
            ("5 bytes", 5),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn size_with_a_fraction_is_exact_or_whole_pages() {
        for (text, bytes) in [
            ("1.5G", 1536 << 20),
            ("0.5 GiB", 512 << 20),
            ("1.50M", 1536 << 10),
            ("0.25k", 256),
            ("2.0", 2),
            ("0.000000000001T", 4096),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        let third = parse("1.3G").unwrap();
        assert!(third.is_multiple_of(4096) && third.abs_diff(1_395_864_371) < 4096, "{third}");
        for bad in ["1.G", "1.", ".5G", "1.5.5G", "1.5", "0.3k", "1.0000000000001T", "1.-5G"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(matches!(parse("16777215.9999999999T"), Err(SizeError::Overflow(_))));
    }

    #[test]
    fn size_of_nonsense_is_refused() {
        assert!(matches!(parse(""), Err(SizeError::NoNumber(_))));
        assert!(matches!(parse("-1"), Err(SizeError::NoNumber(_))));
        assert!(matches!(parse("12Q"), Err(SizeError::UnknownUnit { .. })));
        assert!(matches!(parse("1,5G"), Err(SizeError::UnknownUnit { .. })));
        assert!(matches!(parse("99999999999999999999"), Err(SizeError::Overflow(_))));
        assert!(matches!(parse("18014398509481984K"), Err(SizeError::Overflow(_))));
    }

    #[test]
    fn size_display_parses_back() {
        for bytes in [0, 1, 1 << 40, 3 << 30, 512 << 20, 4096, 5, u64::MAX] {
            assert_eq!(parse(&display(bytes)), Ok(bytes));
        }
    }

    #[test]
    fn size_for_people_has_one_decimal_and_no_panic() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (1_000_001, "976.5 KiB"),
            (250 << 20, "250 MiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(about(bytes), text);
        }
    }
}
