// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sizes as people write them: `4096`, `512M`, `2G`, `64KiB`. Units are binary, whatever their spelling.

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// There is no digit at the front.
    #[error("{0:?} does not begin with a number")]
    NoNumber(String),
    /// What follows the digits is not a unit.
    #[error("{unit:?} is not a unit of size")]
    UnknownUnit {
        /// The text found in place of a unit.
        unit: String,
    },
    /// The value does not fit 64 bits.
    #[error("{0:?} is more than any machine has")]
    Overflow(String),
}

/// The number of bytes that `text` names.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let digits_len = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, unit) = text.split_at(digits_len);
    if digits.is_empty() {
        return Err(SizeError::NoNumber(text.to_owned()));
    }
    let count: u64 = digits.parse().map_err(|_| SizeError::Overflow(text.to_owned()))?;
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        other => return Err(SizeError::UnknownUnit { unit: other.to_owned() }),
    };
    count.checked_mul(1 << shift).ok_or_else(|| SizeError::Overflow(text.to_owned()))
}

/// `bytes` in the largest unit that leaves a whole number.
pub fn display(bytes: u64) -> String {
    for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

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
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn size_of_nonsense_is_refused() {
        assert!(matches!(parse(""), Err(SizeError::NoNumber(_))));
        assert!(matches!(parse("-1"), Err(SizeError::NoNumber(_))));
        assert!(matches!(parse("12Q"), Err(SizeError::UnknownUnit { .. })));
        assert!(matches!(parse("1.5G"), Err(SizeError::UnknownUnit { .. })));
        assert!(matches!(parse("99999999999999999999"), Err(SizeError::Overflow(_))));
        assert!(matches!(parse("18014398509481984K"), Err(SizeError::Overflow(_))));
    }

    #[test]
    fn size_display_parses_back() {
        for bytes in [1 << 40, 3 << 30, 512 << 20, 4096, 5] {
            assert_eq!(parse(display(bytes).trim_end_matches(" bytes")), Ok(bytes));
        }
    }
}
