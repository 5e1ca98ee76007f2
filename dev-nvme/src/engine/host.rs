// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host of a controller: its memory and interrupts, or none.

use std::sync::Arc;

use vm_memory::VolatileSlice;

use crate::dma::{DmaError, HostMemory, Loan};
use crate::prp::Segment;
use crate::spec::completion::COMPLETION_LEN;

/// Raises interrupts.
pub trait Interrupts: Send + Sync {
    /// Raises a vector.
    fn raise(&self, vector: u16);
}

/// What a controller is connected to: a host's memory and its interrupts.
#[derive(Clone)]
pub struct Host {
    /// Where queues and data are, by IOVA.
    pub memory: Arc<dyn HostMemory>,
    /// How its vectors are signalled.
    pub interrupts: Arc<dyn Interrupts>,
}

impl Host {
    /// No host: every access fails.
    #[must_use]
    pub fn absent() -> Self {
        Self { memory: Arc::new(NoHost), interrupts: Arc::new(NoHost) }
    }

    /// Raises the vector of completions that were posted, if their queue has one.
    pub(super) fn raise_posted(&self, vector: Option<u16>) {
        if let Some(vector) = vector {
            self.interrupts.raise(vector);
        }
    }
}

struct NoHost;

impl HostMemory for NoHost {
    fn read(&self, iova: u64, bytes: &mut [u8]) -> Result<(), DmaError> {
        Err(DmaError { iova, len: bytes.len(), write: false })
    }

    fn write(&self, iova: u64, bytes: &[u8]) -> Result<(), DmaError> {
        Err(DmaError { iova, len: bytes.len(), write: true })
    }

    fn publish(&self, iova: u64, entries: &[[u8; COMPLETION_LEN]]) -> Result<(), DmaError> {
        self.write(iova, entries.as_flattened())
    }

    fn load(&self, iova: u64) -> Result<u32, DmaError> {
        Err(DmaError { iova, len: size_of::<u32>(), write: false })
    }

    fn store(&self, iova: u64, dword: u32) -> Result<(), DmaError> {
        self.write(iova, &dword.to_le_bytes())
    }

    fn is_connected(&self) -> bool {
        false
    }

    fn lend(&self, _: &[Segment], _: Loan, _: &mut dyn FnMut(&[VolatileSlice<'_>])) -> bool {
        false
    }
}

impl Interrupts for NoHost {
    fn raise(&self, _: u16) {}
}
