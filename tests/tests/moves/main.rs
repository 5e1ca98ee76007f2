// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Save/restores of real machines: those that succeed, with everything in flight that can be, and those that fail.
//!
//! - [`loops`]: again and again, and what is signalled between the pause and the save: nothing is lost, nothing comes
//!   twice.
//! - [`refusals`]: at every step that can fail, one process after the other refuses or dies by an injected fault;
//!   [`deaths`]: at any message. The guest goes on where it was, the user is told process and step, and nothing leaks.
//! - [`harvests`]: what the dirty logs have is what was written; [`contents`]: and nothing else has changed.
//! - [`clocks`]: time goes on over migrations.
//! - [`side_by_side`]: processes of several devices load side by side, where they died, and save so, where they move.
//! - [`bad_checkpoint`]: a controller whose next lives die on its checkpoint begins as one that has failed.
//! - [`replays`], [`tracking`]: a migration to a host that leaves out the replay, or does it late, or from one whose
//!   devices log by IOVA, does not pass the check that it passes as shipped ([`unfaithful`]).
//!
//! As the hostile processes of `peers`, the faulty ones are this program itself, under another name ([`altered`],
//! [`faulty`]).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod altered;
mod another_host;
mod bad_checkpoint;
mod clocks;
mod code;
mod contents;
mod deaths;
mod disk_guest;
mod faulty;
mod gic;
mod harvests;
mod held;
#[path = "../../../vmm-main/tests/support/lane.rs"]
mod lane;
mod loops;
#[expect(dead_code, reason = "the guest of another suite, of which this one needs a part")]
#[path = "../faults/monitor.rs"]
mod monitor;
#[expect(dead_code, reason = "its driver")]
#[path = "../faults/nvme.rs"]
mod nvme;
mod refusals;
mod replays;
#[path = "../../../dev-vfio/tests/server/mod.rs"]
mod server;
mod side_by_side;
mod signaller;
#[expect(dead_code, reason = "its driver")]
#[path = "../faults/smmu.rs"]
mod smmu;
#[expect(dead_code, reason = "this suite starts machines of its own making only")]
#[path = "../support/mod.rs"]
mod support;
#[expect(dead_code, reason = "another suite stops a process from its start on")]
#[path = "../peers/tracer.rs"]
mod tracer;
mod tracking;
mod traffic;
mod unfaithful;

use altered::{Alteration, Altered};
use dev_nvme::service::managed::{Given, NvmeProgram};
use dev_smmu::service::{Descriptors as SmmuDescriptors, SmmuProgram};
use dev_vfio::service::{Descriptors, VfioProgram};
use dev_vfio::vfio_user::{self, VfioUserDevice};
use faulty::Faulty;
use process::Program;
use sandbox::profile::Profile;
use sandbox::{Inherited, InheritedError, profiles};
use unfaithful::{BadCheckpoint, Breach, LateReplay, LogByIova, NoReplay, Slow};
use vcpu::{Soft, VcpuProgram};

/// By name, as test runners ask for them.
const TESTS: [(&str, fn()); 23] = [
    ("guest_with_everything_in_flight_moves_again_and_again_and_loses_nothing", loops::everything_in_flight),
    ("what_is_signalled_between_pause_and_save_comes_once", loops::signals_of_the_pause),
    ("logs_have_every_page_that_was_written_between_moves", harvests::truth),
    ("what_all_harvests_had_of_memory_is_what_changed_in_it", contents::truth),
    ("clocks_of_a_guest_go_on_over_migrations_and_never_back", clocks::go_on),
    ("pages_that_a_device_wrote_through_a_reused_address_arrive", tracking::by_gpa),
    ("pages_that_a_device_wrote_through_a_reused_address_are_lost_if_iovas_are_logged", tracking::by_iova),
    ("guest_under_disk_io_loses_its_disk_if_nothing_is_replayed_where_it_arrives", replays::left_out),
    ("guest_under_disk_io_notices_if_devices_run_before_the_replay", replays::late),
    ("disks_whose_processes_die_at_once_load_side_by_side", side_by_side::loads),
    ("disks_of_a_guest_that_moves_are_saved_side_by_side", side_by_side::saves),
    (
        "disk_whose_controller_dies_on_its_checkpoint_is_reset_by_the_guest_which_goes_on",
        bad_checkpoint::reset,
    ),
    ("process_that_ends_at_any_message_of_a_move_costs_what_it_costs_elsewhere", deaths::any_message),
    ("process_that_is_stopped_in_a_move_holds_the_guest_up_for_a_short_span", deaths::stopped),
    ("vcpu_process_that_fails_at_any_step_of_a_move_leaves_the_guest_where_it_was", || {
        refusals::each("bulkhead-vcpu-soft", "vcpu");
    }),
    ("smmu_process_that_fails_at_any_step_of_a_move_leaves_the_guest_where_it_was", || {
        refusals::each("bulkhead-smmu", "smmu0");
    }),
    ("device_process_that_fails_at_any_step_of_a_move_leaves_the_guest_where_it_was", || {
        refusals::each("bulkhead-vfio", "vfio0");
    }),
    ("nvme_process_that_fails_at_any_step_of_a_move_leaves_the_guest_where_it_was", || {
        refusals::each("bulkhead-nvme", "nvme0");
    }),
    ("smmu_process_that_fails_at_any_step_of_its_restart_leaves_the_guest_where_it_was", || {
        refusals::each_of_restart("bulkhead-smmu", "smmu0");
    }),
    ("device_process_that_fails_at_any_step_of_its_restart_leaves_the_guest_where_it_was", || {
        refusals::each_of_restart("bulkhead-vfio", "vfio0");
    }),
    ("nvme_process_that_fails_at_any_step_of_its_restart_leaves_the_guest_where_it_was", || {
        refusals::each_of_restart("bulkhead-nvme", "nvme0");
    }),
    ("vcpu_process_that_refuses_its_part_of_a_restart_leaves_the_guest_where_it_was", || {
        refusals::each_of_peer("bulkhead-vcpu-soft", "vcpu", "nvme0");
    }),
    ("smmu_process_that_refuses_its_part_of_a_restart_leaves_the_guest_where_it_was", || {
        refusals::each_of_peer("bulkhead-smmu", "smmu0", "vfio0");
    }),
];

fn main() {
    let words: Vec<String> = std::env::args().collect();
    // A process ends when the coordinator does.
    match (words.first().map(String::as_str), Breach::of_this()) {
        (Some("bulkhead-vcpu-soft"), _) => {
            run::<Faulty<VcpuProgram<Soft>>>(&profiles::vcpu_soft(), |fds| Ok(fds.take_rest()));
        }
        (Some("bulkhead-smmu"), Some(_)) => run::<LateReplay>(&profiles::smmu(), SmmuDescriptors::take),
        (Some("bulkhead-smmu"), None) => {
            run::<Faulty<SmmuProgram>>(&profiles::smmu(), SmmuDescriptors::take);
        }
        (Some("bulkhead-vfio"), Some(Breach::NoReplay)) => run::<NoReplay>(&profiles::vfio(), take_vfio),
        (Some("bulkhead-vfio"), Some(_)) => run::<LogByIova>(&profiles::vfio(), take_vfio),
        (Some("bulkhead-vfio"), None) => {
            run::<Faulty<VfioProgram<VfioUserDevice>>>(&profiles::vfio(), take_vfio);
        }
        (Some("bulkhead-nvme"), Some(Breach::BadCheckpoint)) => {
            run::<BadCheckpoint>(&profiles::nvme(), Given::take);
        }
        (Some("bulkhead-nvme"), Some(_)) => run::<Slow>(&profiles::nvme(), Given::take),
        (Some("bulkhead-nvme"), None) => run::<Faulty<NvmeProgram>>(&profiles::nvme(), Given::take),
        _ => tests::runner::run(&words, &TESTS),
    }
}

fn run<A: Altered>(
    profile: &Profile,
    take: impl FnOnce(&mut Inherited) -> Result<<A::Of as Program>::Given, InheritedError>,
) {
    drop(process::run::<Alteration<A>>(profile, take));
}

fn take_vfio(fds: &mut Inherited) -> Result<Descriptors<VfioUserDevice>, InheritedError> {
    let given = vfio_user::Given::take(fds)?;
    Descriptors::take(fds, given)
}
