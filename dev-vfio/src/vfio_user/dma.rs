// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a server asks of us: its DMA, message by message, as the guest's SMMU and the function's command register let it.
//!
//! One thread waits for the server and answers it. A transfer goes through the function's gate, so that pause and the
//! vSMMU's orders find none under way; what may not be is refused, and the guest told of it by a fault.

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

/// Starts the thread that answers the server, until it asks nothing more.
pub fn start_thread(function: &Arc<Function<VfioUserDevice>>) -> io::Result<()> {
    let theirs = Arc::clone(function);
    spawn("dma", move || while theirs.serve_dma(Deadline::after(LOOK_SPAN)) {})
}

impl Function<VfioUserDevice> {
    /// Waits for the next thing that the server asks, and answers it. False: it will ask nothing more.
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
            // What may not reach the bus is not translated either: no fault is recorded.
            self.is_bus_master() && transfer(&mut iommu)
        };
        if !is_done {
            self.stage1.tell_faults(&self.iommu, &self.gate);
        }
        is_done
    }
}
