// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! DMA requests of a server, translated by the vSMMU's stage 1 and admitted by Bus Master Enable.
//!
//! One thread reads and answers the server's commands. A transfer goes through the function's gate, so that none is
//! in progress during a pause or a request of the vSMMU; one that does not translate is refused and reported to the
//! guest as a fault.

use std::io;
use std::sync::Arc;

use ipc::addr::Iova;
use ipc::deadline::Deadline;
use ipc::vfio_user::connection::Incoming;
use ipc::vfio_user::dma::DmaAccess;
use ipc::vfio_user::header::Command;
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::VfioUserDevice;
use super::client::{Client, ClientError};
use crate::function::Function;
use crate::iommu::software::SoftIommu;
use crate::threads::{LOOK_SPAN, spawn};

/// Starts the thread that answers the server until the connection ends.
pub fn start_thread(function: &Arc<Function<VfioUserDevice>>) -> io::Result<()> {
    let theirs = Arc::clone(function);
    spawn("dma", move || while theirs.serve_dma(Deadline::after(LOOK_SPAN)) {})
}

impl Function<VfioUserDevice> {
    /// Waits for the server's next command and answers it. False: the connection has ended.
    pub fn serve_dma(&self, deadline: Deadline) -> bool {
        let Some(client) = self.device().map(|device| &device.client) else { return false };
        if let Some(Some(incoming)) = self.settle(client.receive(deadline)) {
            self.settle(self.answer(client, &incoming));
        }
        self.failure().is_none()
    }

    fn answer(&self, client: &Client, incoming: &Incoming) -> Result<(), ClientError> {
        match incoming.command() {
            Command::DMA_READ => {
                let Ok((access, count)) = DmaAccess::decode_read(&incoming.body) else {
                    return client.refuse(incoming, Errno::INVAL);
                };
                let mut bytes = vec![0; count];
                let iova = Iova(access.address.get());
                if self.transfer(|iommu| iommu.read(iova, &mut bytes).is_ok()) {
                    client.reply(incoming, &[access.as_bytes(), &bytes])
                } else {
                    client.refuse(incoming, Errno::FAULT)
                }
            }
            Command::DMA_WRITE => {
                let Ok((access, bytes)) = DmaAccess::decode_write(&incoming.body) else {
                    return client.refuse(incoming, Errno::INVAL);
                };
                let iova = Iova(access.address.get());
                if self.transfer(|iommu| iommu.write(iova, bytes).is_ok()) {
                    client.reply(incoming, &[access.as_bytes()])
                } else {
                    client.refuse(incoming, Errno::FAULT)
                }
            }
            _ => client.refuse(incoming, Errno::NOTSUP),
        }
    }

    fn transfer(&self, transfer: impl FnOnce(&mut SoftIommu) -> bool) -> bool {
        let is_done = {
            let _open = self.gate.enter();
            let mut iommu = self.iommu();
            // Without Bus Master Enable a transaction is not translated either: no fault is recorded.
            self.is_bus_master() && transfer(&mut iommu)
        };
        if !is_done {
            self.stage1.tell_faults(&self.iommu, &self.gate);
        }
        is_done
    }
}
