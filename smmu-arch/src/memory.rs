// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The memory interface of this crate: a read returns a copy, or aborts.
//!
//! The walks read stream tables, context descriptors and translation tables through this trait. The
//! memory belongs to a running guest and changes under the reader, so a structure is copied once and
//! only the copy is looked at. An abort is an architectural outcome (F_STE_FETCH, F_CD_FETCH,
//! F_WALK_EABT, CERROR_ABT), not an error of the program.

use zerocopy::{FromBytes, IntoBytes};

/// No memory at the address: an external abort (IHI 0070 §3.12).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abort;

/// Memory at output addresses, read by copy.
pub trait Memory {
    /// Fills `bytes` from `address`, all of it or none of it. 64-bit aligned words are single-copy atomic.
    ///
    /// # Errors
    /// If any byte of the range is not in memory.
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Abort>;
}

impl<M: Memory + ?Sized> Memory for &M {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Abort> {
        (**self).read(address, bytes)
    }
}

/// Copies one structure out of memory.
///
/// # Errors
/// If any byte of it is not in memory.
pub fn fetch<T: FromBytes + IntoBytes>(memory: &(impl Memory + ?Sized), address: u64) -> Result<T, Abort> {
    let mut value = T::new_zeroed();
    memory.read(address, value.as_mut_bytes())?;
    Ok(value)
}
