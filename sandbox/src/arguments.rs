// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The arguments of the system calls that profiles have conditions on: their names, as in the manual's section 2, and
//! those of their values.
//!
//! For people: reports of refused calls, and reviews of profiles. No filter is made from these names.

use std::fmt;

use crate::profile::Check;

mod ioctls;
mod table;

/// One argument of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argument {
    /// As the manual calls it.
    pub name: &'static str,
    /// Of a value of several bits with one meaning: which bits that is. The others are flags.
    kind_mask: u64,
    /// Names of values: of the kind, and of flags.
    values: &'static [(&'static str, u64)],
}

/// One whose values have no names.
const fn plain(name: &'static str) -> Argument {
    Argument { name, kind_mask: 0, values: &[] }
}

/// One whose bits are flags.
const fn flags(name: &'static str, values: &'static [(&'static str, u64)]) -> Argument {
    Argument { name, kind_mask: 0, values }
}

/// One of several values.
const fn choice(name: &'static str, values: &'static [(&'static str, u64)]) -> Argument {
    Argument { name, kind_mask: u64::MAX, values }
}

/// One of several values in the bits of `kind_mask`, and flags in the others.
const fn mixed(name: &'static str, kind_mask: u64, values: &'static [(&'static str, u64)]) -> Argument {
    Argument { name, kind_mask, values }
}

/// A value that the C library's header has as an `int`.
const fn int(value: i32) -> u64 {
    value.cast_unsigned() as u64
}

/// The arguments of this call, if they are known here.
pub fn of(syscall: &str) -> Option<&'static [Argument]> {
    let at = table::ARGUMENTS.binary_search_by(|row| row.0.cmp(syscall)).ok()?;
    table::ARGUMENTS.get(at).map(|row| row.1)
}

/// An argument of this call by its number, counted from 0.
pub fn nth(syscall: &str, index: u8) -> Option<&'static Argument> {
    of(syscall)?.get(usize::from(index))
}

impl Argument {
    /// Its value in words: `PROT_READ|PROT_WRITE`; what has no name is a hexadecimal number.
    pub fn show(&self, value: u64) -> String {
        let kind = value & self.kind_mask;
        let named = |(_, known): &&(&str, u64)| *known == kind && known & !self.kind_mask == 0;
        match self.values.iter().find(named) {
            Some((name, _)) if value == kind => (*name).to_owned(),
            Some((name, _)) if self.kind_mask != 0 => format!("{name}|{}", self.show_flags(value ^ kind)),
            _ => self.show_flags(value),
        }
    }

    /// Those of its bits that are flags, in words.
    fn show_flags(&self, value: u64) -> String {
        let mut rest = value;
        let mut names = Vec::new();
        for (name, flag) in self.values.iter().filter(|(_, known)| known & self.kind_mask == 0 && *known != 0)
        {
            if rest & flag == *flag {
                names.push((*name).to_owned());
                rest &= !flag;
            }
        }
        if rest != 0 || names.is_empty() {
            names.push(if rest == 0 { "0".to_owned() } else { format!("{rest:#x}") });
        }
        names.join("|")
    }

    /// The value that a person means: a number, decimal or hexadecimal, negative as in C, or names joined by `|`.
    pub fn parse(&self, text: &str) -> Option<u64> {
        let word = |word: &str| {
            let named = self.values.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
            named.or_else(|| number(word))
        };
        text.split('|').map(|part| word(part.trim())).try_fold(0, |all, value| Some(all | value?))
    }
}

/// A call with its arguments in words; all six as numbers, if they are not known here.
pub fn show_call(syscall: &str, args: &[u64; 6]) -> String {
    let shown: Vec<String> = match of(syscall) {
        Some(known) => known
            .iter()
            .zip(args)
            .map(|(argument, value)| format!("{}={}", argument.name, argument.show(*value)))
            .collect(),
        None => args.iter().map(|value| format!("{value:#x}")).collect(),
    };
    format!("{syscall}({})", shown.join(", "))
}

/// A number as C has it.
pub fn number(text: &str) -> Option<u64> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok();
    }
    text.parse::<u64>().ok().or_else(|| text.parse::<i64>().ok().map(i64::cast_unsigned))
}

/// A condition of a rule for `syscall`, in words.
pub struct Condition<'a> {
    /// The call.
    pub syscall: &'a str,
    /// The condition.
    pub check: &'a Check,
}

impl fmt::Display for Condition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let check = self.check;
        let argument = nth(self.syscall, check.index);
        match argument {
            Some(argument) => f.write_str(argument.name)?,
            None => write!(f, "argument {}", check.index)?,
        }
        let hex = |value: u64| format!("{value:#x}");
        let show = |value| argument.map_or_else(|| hex(value), |argument| argument.show(value));
        let flags = |value| argument.map_or_else(|| hex(value), |argument| argument.show_flags(value));
        if let Some(slot) = check.slot {
            return write!(f, " is the descriptor `{slot}`");
        }
        let whole = if check.narrow { u64::from(u32::MAX) } else { u64::MAX };
        let (mask, open) = (check.mask & whole, !check.mask & whole);
        // Whether the condition leaves the kind open, where the value has one.
        let any_kind =
            argument.is_none_or(|argument| argument.kind_mask == 0 || argument.kind_mask & open != 0);
        if open == 0 {
            write!(f, " is {}", show(check.value))
        } else if check.value == mask {
            write!(f, " has {}", show(mask))
        } else if check.value == 0 && open.count_ones() > mask.count_ones() {
            write!(f, " has none of {}", show(mask))
        } else if check.value == 0 && any_kind {
            write!(f, " has no bits but {}", show_each(argument, open))
        } else {
            write!(f, " is {}, with or without {}", show(check.value), flags(open))
        }
    }
}

/// Bits that are allowed, kinds among them.
fn show_each(argument: Option<&Argument>, bits: u64) -> String {
    let Some(argument) = argument else { return format!("{bits:#x}") };
    let one = |at: u32| Some(1u64 << at).filter(|bit| bits & bit != 0).map(|bit| argument.show(bit));
    (0..u64::BITS).filter_map(one).collect::<Vec<_>>().join("|")
}

#[cfg(test)]
mod tests;
