// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device behind a function: a vfio-user server, or a real device by the kernel's VFIO. The same verbs for both.

use thiserror::Error;

use crate::client::{Client, ClientError};
use crate::kernel::device::Device;
use crate::kernel::error::KernelError;

/// One of the two.
#[derive(Debug)]
pub enum DeviceEnd {
    /// A server, whose DMA comes as messages.
    Server(Box<Client>),
    /// A real device, whose DMA the host's IOMMU translates.
    Real(Device),
}

/// Why the device is not asked any more, or has refused.
#[derive(Clone, Debug, Error)]
pub enum EndError {
    /// The server.
    #[error(transparent)]
    Server(#[from] ClientError),
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl EndError {
    /// Whether only one request was refused, and the next may be asked.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Server(error) => error.is_refusal(),
            Self::Kernel(_) => false,
        }
    }
}

impl DeviceEnd {
    /// The server, for what only one does: DMA as messages, batches of posted writes, guest RAM by fd.
    pub fn server(&self) -> Option<&Client> {
        match self {
            Self::Server(client) => Some(client.as_ref()),
            Self::Real(_) => None,
        }
    }

    /// Reads up to 8 bytes of a region. `None`: nothing is there.
    ///
    /// # Errors
    /// The server's.
    pub fn read(&self, index: u32, offset: u64, size: u8) -> Result<Option<u64>, EndError> {
        match self {
            Self::Server(client) => Ok(client.read(index, offset, size)?),
            Self::Real(device) => Ok(device.read(index, offset, size)),
        }
    }

    /// Writes up to 8 bytes of a region, if it is there, and waits until it is done.
    ///
    /// # Errors
    /// The server's.
    pub fn write(&self, index: u32, offset: u64, size: u8, value: u64) -> Result<(), EndError> {
        match self {
            Self::Server(client) => Ok(client.write(index, offset, size, value)?),
            Self::Real(device) => {
                device.write(index, offset, size, value);
                Ok(())
            }
        }
    }

    /// The guest has enabled MSI-X, or disabled it: the device has its vectors connected, or its pin. True: something was
    /// connected that was not.
    ///
    /// # Errors
    /// The server's, or the kernel's.
    pub fn switch_interrupts(&self, msix: bool) -> Result<bool, EndError> {
        match self {
            Self::Server(client) => Ok(client.switch_interrupts(msix)?),
            Self::Real(device) => Ok(device.interrupts().switch(msix)?),
        }
    }

    /// Lets the pin speak again, which has masked itself when it signalled.
    ///
    /// # Errors
    /// The server's, or the kernel's.
    pub fn unmask_intx(&self) -> Result<(), EndError> {
        match self {
            Self::Server(client) => Ok(client.unmask_intx()?),
            Self::Real(device) => Ok(device.interrupts().unmask_intx()?),
        }
    }

    /// Whether a signal of the vector waits for its message to be let through. A server's are taken at once, and noted.
    pub fn waits(&self, vector: usize) -> bool {
        match self {
            Self::Server(_) => false,
            Self::Real(device) => device.interrupts().waits(vector),
        }
    }

    /// Resets the device, if it can be.
    ///
    /// # Errors
    /// The server's, or the kernel's.
    pub fn reset(&self) -> Result<(), EndError> {
        match self {
            Self::Server(client) => Ok(client.reset()?),
            Self::Real(device) => Ok(device.reset()?),
        }
    }

    /// Stops the device, or lets it go on, if it has such states.
    ///
    /// # Errors
    /// The server's, or the device's.
    pub fn set_running(&self, running: bool) -> Result<(), EndError> {
        match self {
            Self::Server(client) => Ok(client.set_running(running)?),
            Self::Real(device) => Ok(device.set_running(running)?),
        }
    }

    /// It is open: what is asked from now on has a time of its own.
    pub fn opened(&mut self) {
        if let Self::Server(client) = self {
            client.opened();
        }
    }

    /// Nothing more will be asked of it.
    pub fn close(&self) {
        match self {
            Self::Server(client) => client.close(),
            // The kernel has nothing to be told; the stream stays attached, and the vSMMU's orders are still obeyed.
            Self::Real(_) => {}
        }
    }
}
