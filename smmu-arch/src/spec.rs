// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Layouts, named as in the manual: types only, no algorithm (IHI 0070).
//!
//! Registers and memory structures are bitfields over `u32` and `u64`; reserved bits have no accessor. A field whose
//! value a guest chooses is an open enum (`open_enum!`): an unknown encoding stays representable, and the code that
//! reads it decides what it means. No mask or shift belongs outside this module.

pub mod cd;
pub mod commands;
pub mod control;
pub mod descriptor;
pub mod events;
pub mod id;
pub mod registers;
pub mod ste;
pub mod tables;

/// Declares a value of a few bits as a newtype with named constants; every other value is representable.
macro_rules! open_enum {
    ($(#[$meta:meta])* $name:ident: $repr:ty { $($(#[$vmeta:meta])* $variant:ident = $value:expr,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(pub $repr);

        #[allow(non_upper_case_globals, reason = "named as enum variants, which they stand for, or as in the manual")]
        impl $name {
            $($(#[$vmeta])* pub const $variant: $name = $name($value);)+

            pub(crate) const fn from_bits(bits: $repr) -> Self {
                $name(bits)
            }

            pub(crate) const fn into_bits(self) -> $repr {
                self.0
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match *self {
                    $($name::$variant => f.write_str(stringify!($variant)),)+
                    $name(other) => write!(f, concat!(stringify!($name), "({:#x})"), other),
                }
            }
        }
    };
}
pub(crate) use open_enum;
