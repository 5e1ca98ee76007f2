// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Starting the product for a suite, or saying why it is left out.

use std::{env, path::PathBuf, time::Duration};

use tests::{
    SKIPPED,
    guest::GuestFiles,
    places,
    vm::{Options, Vm},
};

/// Limits, for a slow and busy machine; an idle one needs a few seconds for a boot.
pub const BOOT: Duration = Duration::from_secs(150);
pub const COMMAND: Duration = Duration::from_secs(60);

/// A machine that boots `files`, or nothing, after saying why.
///
/// The programs are those of the profile that this suite is built with; `cargo xtask test` builds them first.
pub fn launch(files: Option<GuestFiles>, name: &str, extra: &str) -> Option<Vm> {
    launch_with(files, name, extra, &[])
}

/// The same with NVMe controllers over these images.
pub fn launch_with(files: Option<GuestFiles>, name: &str, extra: &str, nvme: &[PathBuf]) -> Option<Vm> {
    launch_as(files, name, |options| {
        options.extra = extra.into();
        options.nvme = nvme.to_vec();
    })
}

/// The same with whatever else `set` sets.
pub fn launch_as(files: Option<GuestFiles>, name: &str, set: impl FnOnce(&mut Options)) -> Option<Vm> {
    let programs = programs()?;
    let Some(files) = files else {
        println!("{SKIPPED}the guest's files are not there (`cargo xtask guest --cross` brings them)");
        return None;
    };
    let mut options = Options::new(programs, files, name);
    set(&mut options);
    let vm = Vm::launch(options);
    assert!(vm.is_ok(), "the machine does not start: {:?}", vm.err());
    vm.ok()
}

/// Kernel parameters: every device is translated, and no mapping outlives its invalidation.
pub const STRICT: &str = "iommu.passthrough=0 iommu.strict=1";

/// A stock Linux at a shell, [`STRICT`] unless `set` says otherwise.
pub fn launch_at_shell(name: &str, set: impl FnOnce(&mut Options)) -> Option<Vm> {
    let mut vm = launch_as(GuestFiles::cached(), name, |options| {
        options.extra = STRICT.into();
        set(options);
    })?;
    vm.console.shell(BOOT).unwrap();
    Some(vm)
}

/// The folder of the programs, or nothing, after saying why.
pub fn programs() -> Option<PathBuf> {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let programs = env::var_os("BULKHEAD_PROGRAMS").map_or_else(|| places::programs(profile), Into::into);
    if programs.join("bulkhead").is_file() {
        return Some(programs);
    }
    println!("{SKIPPED}the programs are not built (`cargo build --bins`)");
    None
}
