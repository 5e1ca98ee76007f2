// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest that does anything to the function, before a server that answers anything.
//!
//! An input is a list of bends for the server, then the guest's program. Where a bend is a delay all answers together
//! have milliseconds: some come in time and some do not.

use std::time::{Duration, Instant};

use ipc::deadline::Deadline;
use ipc::protocol::stage1::{Attachment, Stage1Request};
use ipc::protocol::vfio::{AREA32_REGION, AREA64_REGION, CONFIG_REGION, IO_REGION};
use ipc::shm::ring::{Access, Op};

use super::Function;
use super::guest::{Guest, STREAM};
use super::server::{BAR_LEN, Bend, CAP_MSIX, Server, TABLE};
use super::{AREA32, AREA64, IO, MOMENT, open};
use crate::program::Program;
use dev_vfio::function::ones;
use dev_vfio::iommu::HostIommu;
use dev_vfio::pci::msix::VECTORS_MAX;
use dev_vfio::stage1_link;

/// Requests with which a device is opened, at most: each region asked about twice, DMA windows in pieces, as many as a
/// few refusals make of them, vectors one by one.
const OPENING_MAX: u64 = 24 + 8 + 64 + SWITCH_MAX;
/// Requests that connect the other kind of interrupts: what a server says of its vectors, and of the fds in a message,
/// may be bent.
const SWITCH_MAX: u64 = 1 + VECTORS_MAX as u64;

/// How long anything here may take beyond the time that the server has, on a busy machine.
const SLACK: Duration = Duration::from_secs(4);

/// Runs an input; panics only if something that must hold does not.
pub fn function(input: &[u8]) {
    let (bends, program) = Bend::list(input);
    let conversation = Bend::conversation(&bends);
    let mut guest = Guest::new();
    let (socket, server) = Server::start(bends, false);
    let mut accesses = 0;
    let begun = Instant::now();
    let opened = open(socket, &guest, conversation);
    let limit = conversation.map(|span| span + SLACK);
    assert!(limit.is_none_or(|limit| begun.elapsed() < limit), "late answers end the opening in time");
    if let Some(function) = opened {
        accesses += access(&function, write(CONFIG_REGION, 4, 2, 0b110));
        let identity = read_config(&function, 0, 4);
        let mut program = Program::new(program);
        while !program.is_over() {
            let begun = Instant::now();
            accesses += operate(&mut program, &function, &mut guest);
            assert!(
                limit.is_none_or(|limit| begun.elapsed() < limit),
                "no access waits for a server that is late"
            );
            check(&function, identity);
        }
        guest.check();
    }
    let (seen, _) = server.end();
    assert!(
        seen.messages <= OPENING_MAX + accesses,
        "an access asks the server once, or switches its interrupts"
    );
}

fn write(region: u16, offset: u64, size: u8, value: u64) -> Access {
    Access { region, offset, size, op: Op::Write(value) }
}

fn read_config(function: &Function, offset: u64, size: u8) -> u64 {
    function.access(Access { region: CONFIG_REGION, offset, size, op: Op::Read })
}

/// One operation. Returns how often the server may have been asked.
fn operate(program: &mut Program<'_>, function: &Function, guest: &mut Guest) -> u64 {
    let code = program.byte();
    let size = 1 << (code >> 6);
    match code % 12 {
        // Configuration space, beyond its end too.
        0 => {
            let op = any_op(program);
            access(function, Access { region: CONFIG_REGION, offset: program.number() % 0x1200, size, op })
        }
        1 => {
            let regions = [AREA32_REGION, AREA64_REGION, CONFIG_REGION, IO_REGION, 99];
            let region = regions[usize::from(program.byte()) % regions.len()];
            let op = any_op(program);
            access(function, Access { region, offset: program.number(), size, op })
        }
        // Around the BAR that there is.
        2 | 3 => {
            let op = any_op(program);
            let offset = program.number() % (BAR_LEN + 16);
            access(function, Access { region: AREA32_REGION, offset, size, op })
        }
        // The table and the pending bits.
        4 | 5 => {
            let op = any_op(program);
            let offset = TABLE + u64::from(program.byte() & 0x4f) + u64::from(program.byte() & 1) * 0x1000;
            access(function, Access { region: AREA32_REGION, offset, size, op })
        }
        // A vector that works, and one that is signalled.
        6 => {
            let entry = TABLE + u64::from(program.byte() % 8) * 16;
            let mut count = 0;
            for (offset, value) in [(0, program.number()), (8, program.number())] {
                count += access(function, write(AREA32_REGION, entry + offset, 8, value));
            }
            count + access(function, write(CONFIG_REGION, u64::from(CAP_MSIX) + 2, 2, 0x8000))
        }
        7 => {
            function.signal(usize::from(program.byte()));
            0
        }
        8 => {
            let attachment = match program.byte() % 4 {
                0 => Attachment::Abort,
                1 => Attachment::Bypass,
                2 => Guest::good_stage1(),
                _ => Attachment::Stage1([program.number(), program.number()]),
            };
            let _ = lock(function).attach(STREAM, attachment);
            0
        }
        9 => {
            let count = usize::from(program.byte() % 16);
            let requests: Vec<Stage1Request> =
                (0..count).map(|_| Stage1Request::Invalidate([program.number(), program.number()])).collect();
            let refused = stage1_link::carry_out(&mut *lock(function), &requests);
            assert!(usize::try_from(refused).unwrap() <= requests.len(), "each is refused once at most");
            0
        }
        // What the server asked before one of its answers.
        10 => {
            function.serve_dma(Deadline::after(MOMENT));
            0
        }
        _ => {
            if program.byte().is_multiple_of(2) {
                function.run();
            } else {
                let _ = function.stop();
            }
            guest.harvest();
            2
        }
    }
}

fn any_op(program: &mut Program<'_>) -> Op {
    match program.byte() % 4 {
        0 | 1 => Op::Read,
        2 => Op::Write(program.number()),
        _ => Op::Post(program.number()),
    }
}

fn access(function: &Function, access: Access) -> u64 {
    let failed = function.failure().is_some();
    let value = function.access(access);
    assert!(value <= ones(access.size), "a value fits its access");
    assert!(!failed || value == ones(access.size), "of a device that has failed nothing is left");
    // A write to configuration space may reset the device, or enable MSI-X; each ends with the pin's unmasking.
    if access.region == CONFIG_REGION { 3 + 2 * SWITCH_MAX } else { 1 }
}

/// What a guest may rely on whatever it and the server have done. Asks the server nothing.
fn check(function: &Function, identity: u64) {
    // What is posted goes ahead of a read, and may be what the device fails by: between two reads otherwise.
    function.flush_posts();
    if function.failure().is_some() {
        assert_eq!(read_config(function, 0, 4), ones(4), "a device that has failed is gone");
        return;
    }
    assert_eq!(read_config(function, 0, 4), identity, "a device stays what it is");
    assert_eq!(read_config(function, 0x0e, 1), 0, "an endpoint with one function");
    assert_eq!(read_config(function, 0x100, 4), 0, "no extended capabilities");
    capabilities(function);
    for index in 0..6 {
        let low = read_config(function, 0x10 + 4 * index, 4);
        let is_io = low & 1 != 0;
        let high = if low & 0b111 == 0b100 { read_config(function, 0x14 + 4 * index, 4) << 32 } else { 0 };
        let address = if is_io { super::IO_BASE + (low & !3) } else { high | low & !0xf };
        let sized = low >> 31 == 1 || high >> 63 == 1;
        let inside = |(start, len): (u64, u64)| (start..start + len).contains(&address);
        let upper = index > 0 && read_config(function, 0x0c + 4 * index, 4) & 0b111 == 0b100;
        let inside = if is_io { inside(IO) } else { inside(AREA32) || inside(AREA64) };
        let placed = low == 0 || upper || sized || inside;
        assert!(placed, "BAR {index} at {address:#x} is neither placed here nor its size");
    }
}

/// The list of capabilities has those that are known, and an end.
fn capabilities(function: &Function) {
    let mut at = read_config(function, 0x34, 1);
    let mut count = 0;
    while at != 0 {
        let kind = read_config(function, at, 1);
        assert!(matches!(kind, 0x01 | 0x10 | 0x11), "capability {kind:#x} is not for guests");
        at = read_config(function, at + 1, 1);
        count += 1;
        assert!(count <= 48, "the list of capabilities ends");
    }
    assert!(count == 0 || read_config(function, 6, 2) & 0x10 != 0, "the list is announced");
}

fn lock(function: &Function) -> std::sync::MutexGuard<'_, dev_vfio::iommu::software::SoftIommu> {
    function.iommu.lock().unwrap()
}
