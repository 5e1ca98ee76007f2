// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask system`: the system table of a VM, as text and as a picture.
//!
//! Both are made of what `vmm_main::system` says and of nothing else, and are the same on every run. The README shows
//! the picture of the default shape, the file [`PICTURE`]; a test fails where that is not what this prints.

mod svg;
mod text;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use vmm_main::system::{CpuKind, DEVICES_MAX, DeviceKind, Shape, System};

/// Where the picture of the default shape is kept, from the root of the workspace.
const PICTURE: &str = "vmm-main/system.svg";

#[derive(clap::Args)]
pub struct Options {
    /// What executes guest code
    #[arg(long, value_enum, default_value_t = CpuKind::Kvm)]
    cpu: CpuKind,
    /// An assigned device, in order; may be given again [default: nvme, physical]
    #[arg(long = "device", value_enum, value_name = "KIND")]
    devices: Vec<DeviceKind>,
    /// No assigned device at all
    #[arg(long, conflicts_with = "devices")]
    no_devices: bool,
    /// Write the picture to this file as well
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write the README's picture anew
    #[arg(long, conflicts_with_all = ["svg", "devices", "no_devices", "cpu"])]
    update: bool,
}

impl Options {
    fn shape(&self) -> Shape {
        let shape = default_shape();
        match (self.devices.is_empty(), self.no_devices) {
            (false, _) => Shape { cpu: self.cpu, ..shape }.with_devices(self.devices.iter().copied()),
            (true, true) => Shape { cpu: self.cpu, ..shape }.with_devices([]),
            (true, false) => Shape { cpu: self.cpu, ..shape },
        }
    }
}

/// An NVMe disk of ours and a physical device, both behind the vSMMU.
fn default_shape() -> Shape {
    let shape = Shape { initramfs: true, ..Shape::new(CpuKind::Kvm) };
    shape.with_devices([DeviceKind::Nvme, DeviceKind::Physical])
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let shape = options.shape();
    anyhow::ensure!(shape.devices.len() <= DEVICES_MAX, "a VM has at most {DEVICES_MAX} devices");
    let system = System::new(&shape);
    print!("{}", text::render(&system));
    let file = if options.update { Some(picture()) } else { options.svg.clone() };
    if let Some(file) = file {
        std::fs::write(&file, svg::render(&system)).with_context(|| file.display().to_string())?;
        println!("\npicture written to {}", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn picture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(PICTURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picture_in_the_readme_is_the_output() {
        let kept = std::fs::read_to_string(picture()).unwrap();
        let drawn = svg::render(&System::new(&default_shape()));
        assert!(kept == drawn, "the picture is not the table's any more: cargo xtask system --update");
        let readme = std::fs::read_to_string(picture().with_file_name("../README.md")).unwrap();
        assert!(readme.contains(&format!("({PICTURE})")), "the README does not show {PICTURE}");
    }

    #[test]
    fn table_and_picture_name_every_process_and_every_edge() {
        use DeviceKind::{Nvme, Physical, VfioUser};
        for devices in [vec![], vec![VfioUser, Physical, Nvme], vec![Nvme; DEVICES_MAX]] {
            let system = System::new(&default_shape().with_devices(devices));
            let (text, picture) = (text::render(&system), svg::render(&system));
            for instance in system.instances().chain([system.mover()]) {
                let name = instance.id.to_string();
                assert!(text.contains(&name) && picture.contains(&format!(">{name}<")), "{name}");
                for slot in instance.slots() {
                    assert!(text.contains(&slot.to_string()), "{slot}");
                }
            }
            for edge in system.edges() {
                let name = edge.kind.spec().name;
                assert!(text.contains(name) && picture.contains(name), "{name}");
            }
        }
    }
}
