// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! This host's machine in the form of an offer, for either end. What a guest boots of is hashed by a thread: it may be
//! large.

use std::fs::File;
use std::os::fd::AsFd;

use ipc::instance::InstanceId;
use machine::layout;

use super::super::driver::{Vm, refused};
use super::digest;
use crate::migration::features::Features;
use crate::migration::offer::{Boot, Machine, Offer, Smmu};
use crate::problem::Problem;

/// A machine, but for the hashes.
#[derive(Debug)]
pub struct Description {
    offer: Offer,
    kernel: File,
    initramfs: Option<File>,
}

impl Description {
    /// The whole of it.
    pub fn offer(mut self) -> Result<Offer, Problem> {
        let hash = |file: &File| {
            digest::of_file(file).map_err(|error| refused("read what the guest boots of", &error))
        };
        self.offer.machine.boot.kernel = hash(&self.kernel)?;
        self.offer.machine.boot.initramfs = self.initramfs.as_ref().map(hash).transpose()?;
        Ok(self.offer)
    }

    /// As it travels.
    pub fn encoded(self) -> Result<Vec<u8>, Problem> {
        self.offer()?.to_bytes().map_err(|error| refused("encode an offer", &error))
    }
}

impl Vm {
    /// What is known of the processes of the guest that is here, or is coming.
    pub(super) fn features(&self) -> impl Iterator<Item = (InstanceId, &Features)> {
        self.system.processes().iter().filter_map(|process| {
            let life = self.machine.life_of(process.id)?;
            Some((process.id, &self.processes.get(&life)?.features))
        })
    }

    /// This host's machine, with a guest that runs or not.
    pub(super) fn describe(&self, runs: bool) -> Result<Description, Problem> {
        let handover = &self.given.handover;
        let duplicate = |file: &File| {
            let fd = file.as_fd().try_clone_to_owned().map(File::from);
            fd.map_err(|error| refused("duplicate a descriptor", &error))
        };
        let model = &handover.smmu;
        let options = model.options();
        let machine = Machine {
            machine: layout::MACHINE_NAME.to_owned(),
            memory_len: handover.memory_len,
            ram: self.layout.regions().iter().map(|region| (region.gpa.0, region.len)).collect(),
            vcpu_count: handover.vcpu_count,
            cpu: handover.cpu.as_str().to_owned(),
            pmu: handover.pmu,
            smmu: Smmu {
                model: model.name().to_owned(),
                sidsize: options.sidsize,
                ssidsize: options.ssidsize,
                oas: options.oas,
                granules: [options.granules.gran4k, options.granules.gran16k, options.granules.gran64k],
                ril: options.ril,
                stream_table_levels: options.stream_table_levels,
            },
            devices: self.offered_devices()?,
            boot: Boot { kernel: [0; 32], initramfs: None, cmdline: handover.cmdline.clone() },
            runs,
        };
        Ok(Description {
            offer: Offer { machine, processes: self.features().map(|(id, it)| (id, it.to_list())).collect() },
            kernel: duplicate(&self.given.kernel)?,
            initramfs: self.given.initramfs.as_ref().map(duplicate).transpose()?,
        })
    }
}
