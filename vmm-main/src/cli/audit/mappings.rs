// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a process has mapped, beside what the system table lets it map: which shared memory, and nothing executable
//! but its own program.

use sandbox::audit::Mapping;

use super::descriptors::memory_name;
use crate::system::{COORDINATOR_ID, DeviceKind, EdgeKind, Instance, Make, System, VCPU};

/// What of these mappings a process that executes `program` should not have.
pub fn compare(
    vm: &str,
    system: &System,
    instance: &Instance,
    program: &str,
    mapped: &[Mapping],
) -> Vec<String> {
    let names = mappable(vm, system, instance);
    let mut wrong = Vec::new();
    for mapping in mapped {
        let Mapping { is_writable, is_executable, file, .. } = mapping;
        if *is_writable && *is_executable {
            wrong.push(format!("memory that is writable and executable: {}", shown(file)));
        } else if *is_executable && file != program && !is_kernels(file) {
            wrong.push(format!("{} is executable", shown(file)));
        }
        if file == program || *is_executable {
            continue;
        }
        match memory_name(file) {
            Some(name) if names.iter().any(|known| known == name) || may_map(system, instance, name) => {}
            Some(name) => wrong.push(format!("the memory object {name}")),
            None if file.starts_with('/') && !may_map_file(system, instance, file) => {
                wrong.push(file.clone())
            }
            None => {}
        }
    }
    wrong.sort();
    wrong.dedup();
    wrong
}

/// Whether guest RAM is among these mappings.
pub fn has_guest_ram(vm: &str, mapped: &[Mapping]) -> bool {
    let ram = Make::Ram.memory_name(vm, COORDINATOR_ID);
    mapped.iter().any(|mapping| memory_name(&mapping.file) == Some(ram.as_str()))
}

/// The names of the memory objects that it may map.
fn mappable(vm: &str, system: &System, instance: &Instance) -> Vec<String> {
    let mut names = vec!["crash-page".to_owned()];
    // The coordinator makes every object, and fills guest RAM and its own map of it before the guest runs.
    let edges = system.edges().iter().filter(|edge| {
        let is_never_mapped = matches!(edge.kind, EdgeKind::PinnedRam | EdgeKind::CarriedRam);
        instance.id == COORDINATOR_ID || edge.side_of(instance.id).is_some() && !is_never_mapped
    });
    names.extend(edges.flat_map(|edge| {
        edge.objects()
            .map(|(object, make)| make.memory_name(vm, object.owner))
            .filter(|name| !name.is_empty())
    }));
    names
}

/// The guest's CPUs reach memory of foreign devices, which their servers made and named; no guest's RAM is such.
pub(super) fn may_map(system: &System, instance: &Instance, name: &str) -> bool {
    is_of_cpus(instance) && has(system, DeviceKind::VfioUser) && !name.ends_with("-guest-ram")
}

/// And the registers of physical ones.
fn may_map_file(system: &System, instance: &Instance, file: &str) -> bool {
    is_of_cpus(instance) && has(system, DeviceKind::Physical) && file.starts_with("/dev/vfio/")
}

fn is_of_cpus(instance: &Instance) -> bool {
    instance.id == VCPU
}

fn has(system: &System, kind: DeviceKind) -> bool {
    system.shape().devices.contains(&kind)
}

fn is_kernels(file: &str) -> bool {
    matches!(file, "[vdso]" | "[vsyscall]")
}

fn shown(file: &str) -> &str {
    if file.is_empty() { "memory of no file" } else { file }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::{CpuKind, MOVER, SMMU0, Shape};
    use ipc::hello::Role;
    use ipc::instance::InstanceId;

    const PROGRAM: &str = "/usr/bin/bulkhead-smmu";

    fn of(file: &str, access: &str) -> Mapping {
        let has = |letter| access.contains(letter);
        Mapping {
            len: 4096,
            is_writable: has('w'),
            is_executable: has('x'),
            is_shared: has('s'),
            file: file.to_owned(),
        }
    }

    fn wrong(id: InstanceId, mapping: Mapping) -> Vec<String> {
        let shape = Shape::new(CpuKind::Soft).with_devices([DeviceKind::Nvme]);
        let system = System::new(&shape);
        let own = [of(PROGRAM, "rx"), of("", "rw"), of("[heap]", "rw"), of("[vdso]", "rx"), mapping];
        compare("vm", &system, system.get(id).unwrap(), PROGRAM, &own)
    }

    #[test]
    fn guest_ram_is_for_those_that_the_table_says() {
        let ram = || of("/memfd:vm-guest-ram (deleted)", "rws");
        let nvme = InstanceId::new(Role::Nvme, 0);
        for (id, may) in [(VCPU, true), (SMMU0, true), (COORDINATOR_ID, true), (nvme, false), (MOVER, false)]
        {
            let expected: &[&str] = if may { &[] } else { &["the memory object vm-guest-ram"] };
            assert_eq!(wrong(id, ram()), expected, "{id}");
        }
        let private = of("/memfd:vm-guest-ram (deleted)", "rw");
        assert_eq!(wrong(nvme, private).len(), 1, "its pages are the same");
        for id in [SMMU0, VCPU] {
            assert_eq!(wrong(id, of("/memfd:other-guest-ram (deleted)", "rws")).len(), 1, "another VM's");
        }
        assert_eq!(wrong(SMMU0, of("/dev/mem", "rws")), ["/dev/mem"]);
        assert_eq!(wrong(SMMU0, of("/memfd:vm-ring-vfio0 (deleted)", "rws")).len(), 1, "another process's");
        assert_eq!(wrong(SMMU0, of("/memfd:vm-ring-smmu0 (deleted)", "rws")), Vec::<String>::new());
    }

    #[test]
    fn nothing_but_the_program_is_executable() {
        assert_eq!(
            wrong(SMMU0, of("", "rwx")),
            ["memory that is writable and executable: memory of no file"]
        );
        assert_eq!(wrong(SMMU0, of("", "rx")), ["memory of no file is executable"]);
        assert_eq!(wrong(SMMU0, of("/usr/lib/libc.so.6", "rx")), ["/usr/lib/libc.so.6 is executable"]);
    }
}
