// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system table as a picture: the vCPU process above, the vSMMU below, and between them a column for each device.
//!
//! ```text
//!   launcher ── coordinator
//!   ┌──────── vcpu ────────┐
//!   │    vfio0 ── nvme0   vfio1   edges up to the vCPU process, down to the vSMMU, and to the side to a server
//!   └──────── smmu0 ───────┘
//!   mover                         only while the guest moves to another host, or comes from one
//! ```
//!
//! Nothing crosses, however many devices there are. Colours are for light and dark backgrounds alike.

use std::fmt::Write;

use ipc::hello::Role;
use ipc::instance::InstanceId;
use vmm_main::system::{COORDINATOR_ID, Instance, MOVER, Party, SMMU0, System, VCPU, device};

/// Of the whole picture, around everything.
const MARGIN: u32 = 16;
/// The width of a device's box, and of a server's.
const BOX_WIDTH: u32 = 176;
/// Between a device and its server: room for the name of what connects them.
const SERVER_GAP: u32 = 96;
/// Between two columns: room for the names of edges beside a line.
const COLUMN_GAP: u32 = 56;
/// The first column: what connects the vCPU process and the vSMMU.
const SIDE_WIDTH: u32 = 150;
const LINE_HEIGHT: u32 = 17;
/// Space above the first line of a box and below the last.
const PADDING: u32 = 10;

const STYLE: &str = "\
.box{fill:#f6f8fa;stroke:#57606a}.kvm{fill:#ddf4ff;stroke:#0969da}.smmu{fill:#fff8c5;stroke:#9a6700}\
.device{fill:#dafbe1;stroke:#1a7f37}.mover{fill:#f6f8fa;stroke:#57606a;stroke-dasharray:5 4}text{font:12px ui-sans-serif,system-ui,sans-serif;fill:#1f2328}\
.name{font-weight:600;font-size:14px}.small{fill:#57606a}.middle{text-anchor:middle}.edge{stroke:#57606a;stroke-width:1.5;fill:none}\
@media(prefers-color-scheme:dark){.box{fill:#161b22;stroke:#8b949e}.kvm{fill:#0c2d4d;stroke:#58a6ff}\
.smmu{fill:#3a2d0a;stroke:#d29922}.device{fill:#0f2f1a;stroke:#3fb950}.mover{fill:#161b22;stroke:#8b949e}text{fill:#e6edf3}.small{fill:#9ea7b3}\
.edge{stroke:#8b949e}}";

/// A place in the picture.
#[derive(Clone, Copy)]
struct Rect {
    x: u32,
    y: u32,
    width: u32,
    height: u32,
}

impl Rect {
    const fn bottom(self) -> u32 {
        self.y + self.height
    }

    const fn right(self) -> u32 {
        self.x + self.width
    }
}

/// A device's column.
struct Column<'a> {
    device: &'a Instance,
    server: Option<&'a Instance>,
}

/// The picture.
pub fn render(system: &System) -> String {
    let columns = columns(system);
    let mut x = MARGIN + SIDE_WIDTH;
    let mut places = Vec::new();
    for column in &columns {
        let width = if column.server.is_some() { 2 * BOX_WIDTH + SERVER_GAP } else { BOX_WIDTH };
        places.push(x);
        x += width + COLUMN_GAP;
    }
    let width = (x - COLUMN_GAP).max(MARGIN + 560) - MARGIN;
    let bar = |y, lines: &[String]| Rect { x: MARGIN, y, width, height: height_of(lines) };

    let mut body = String::new();
    let lines = launcher_lines(system);
    let launcher = bar(MARGIN, &lines);
    draw_box(&mut body, launcher, "box", &lines);
    let lines = coordinator_lines(system);
    let coordinator = bar(launcher.bottom() + 2 * LINE_HEIGHT, &lines);
    draw_box(&mut body, coordinator, "box", &lines);
    let middle = MARGIN + width / 2;
    let own: Vec<&str> = between(system, COORDINATOR_ID, Party::Launcher);
    draw_edge(&mut body, (middle, launcher.bottom()), (middle, coordinator.y), &[own.join(", ")]);

    let lines = box_lines(system, system.get(VCPU));
    let vcpu = bar(coordinator.bottom() + 2 * LINE_HEIGHT, &lines);
    draw_box(&mut body, vcpu, "box kvm", &lines);

    // The tallest of each decides, so that all stand in line.
    let names = |id, peer| between(system, id, Party::Instance(peer));
    let up = columns.iter().map(|column| names(column.device.id, VCPU).len()).max().unwrap_or(0);
    let boxes = columns.iter().flat_map(|column| [Some(column.device), column.server]).flatten();
    let tallest = boxes.map(|instance| height_of(&lines_of(system, instance))).max().unwrap_or(0);
    let top = vcpu.bottom() + gap(up);
    let down = columns.iter().map(|column| names(column.device.id, SMMU0).len()).max().unwrap_or(0);
    let smmu_y = if columns.is_empty() { vcpu.bottom() } else { top + tallest + gap(down) };
    let side = names(SMMU0, VCPU);
    let lines = box_lines(system, system.get(SMMU0));
    let smmu = bar(smmu_y.max(vcpu.bottom() + gap(side.len())), &lines);
    draw_box(&mut body, smmu, "box smmu", &lines);
    let x = MARGIN + 16;
    draw_edge(&mut body, (x, vcpu.bottom()), (x, smmu.y), &side);

    for (column, x) in columns.iter().zip(places) {
        let place = Rect { x, y: top, width: BOX_WIDTH, height: tallest };
        draw_box(&mut body, place, "box device", &lines_of(system, column.device));
        let line = x + 16;
        draw_edge(&mut body, (line, vcpu.bottom()), (line, top), &names(column.device.id, VCPU));
        draw_edge(&mut body, (line, place.bottom()), (line, smmu.y), &names(column.device.id, SMMU0));
        let Some(server) = column.server else { continue };
        let beside = Rect { x: place.right() + SERVER_GAP, ..place };
        draw_box(&mut body, beside, "box", &lines_of(system, server));
        let y = top + tallest / 2;
        draw_line(&mut body, (place.right(), y), (beside.x, y));
        let label = names(column.device.id, server.id).join(", ");
        draw_text(&mut body, "small middle", place.right() + SERVER_GAP / 2, y - 6, &label);
    }

    let mut lines = box_lines(system, system.get(MOVER));
    lines.push(
        "only while the guest moves to another host, or comes from one: connections to that host".to_owned(),
    );
    let mover = bar(smmu.bottom() + 2 * LINE_HEIGHT, &lines);
    draw_box(&mut body, mover, "box mover", &lines);

    let height = mover.bottom() + MARGIN;
    let width = width + 2 * MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\">\n<title>The processes of a VM, and what connects them</title>\n\
         <style>{STYLE}</style>\n{body}</svg>\n"
    )
}

fn columns(system: &System) -> Vec<Column<'_>> {
    let devices = system.processes().iter().filter(|process| process.id.role == Role::Vfio);
    let mut indexes: Vec<u8> = devices.map(|process| process.id.index).collect();
    indexes.sort_unstable();
    let get = |id: InstanceId| system.get(id).map(AsRef::as_ref);
    let column = |index| {
        let device = get(device(index))?;
        Some(Column { device, server: system.server_of(device.id).and_then(get) })
    };
    indexes.into_iter().filter_map(column).collect()
}

/// The names of the edges of `owner` with `peer`.
fn between(system: &System, owner: InstanceId, peer: Party) -> Vec<&'static str> {
    let edges = system.edges().iter().filter(|edge| edge.owner == owner && edge.peer == peer);
    edges.filter(|edge| !edge.kind.is_common()).map(|edge| edge.kind.spec().name).collect()
}

fn launcher_lines(system: &System) -> Vec<String> {
    let common = "opens everything with the user's rights: it alone is not sealed";
    let mut given: Vec<String> = Vec::new();
    for process in system.processes() {
        let names = between(system, process.id, Party::Launcher);
        if !names.is_empty() {
            given.push(format!("{} to {}", names.join(", "), process.id));
        }
    }
    let mut lines = vec!["launcher".to_owned(), format!("bulkhead run: {common}")];
    // So many that a line is as wide as the picture of a few devices.
    lines.extend(given.chunks(3).map(|some| format!("gives {}", some.join("; "))));
    lines
}

fn coordinator_lines(system: &System) -> Vec<String> {
    let mut lines = box_lines(system, Some(system.coordinator()));
    lines.push("starts every process below: program; with each it has control, crash page, log".to_owned());
    lines
}

fn box_lines(system: &System, instance: Option<&std::sync::Arc<Instance>>) -> Vec<String> {
    instance.map(|instance| lines_of(system, instance)).unwrap_or_default()
}

/// What stands in a process's box: its name, its program, what it shares with the coordinator, what is the host's.
fn lines_of(system: &System, instance: &Instance) -> Vec<String> {
    let mut lines = vec![instance.id.to_string(), instance.template.program.to_owned()];
    let shared = between(system, instance.id, Party::Instance(COORDINATOR_ID));
    lines.extend((!shared.is_empty()).then(|| shared.join(", ")));
    // The line from the launcher has the coordinator's names.
    let mut given = between(system, instance.id, Party::Launcher);
    given.retain(|_| instance.id != COORDINATOR_ID);
    lines.extend((!given.is_empty()).then(|| given.join(", ")));
    lines
}

fn height_of(lines: &[String]) -> u32 {
    let count = u32::try_from(lines.len()).unwrap_or(0);
    2 * PADDING + count * LINE_HEIGHT
}

/// Room for so many names beside a line.
fn gap(count: usize) -> u32 {
    2 * PADDING + u32::try_from(count).unwrap_or(0) * LINE_HEIGHT
}

fn draw_box(body: &mut String, at: Rect, class: &str, lines: &[String]) {
    let Rect { x, y, width, height } = at;
    // Writing to a String cannot fail.
    let _ = writeln!(
        body,
        "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>"
    );
    for (index, line) in (0..).zip(lines) {
        let class = if index == 0 { "name" } else { "small" };
        draw_text(body, class, x + 12, y + PADDING + 13 + index * LINE_HEIGHT, line);
    }
}

/// A line downwards, with names beside it.
fn draw_edge<S: AsRef<str>>(body: &mut String, from: (u32, u32), to: (u32, u32), names: &[S]) {
    if names.is_empty() {
        return;
    }
    draw_line(body, from, to);
    let count = u32::try_from(names.len()).unwrap_or(0);
    let first = (from.1 + to.1) / 2 - count * LINE_HEIGHT / 2 + 13;
    for (index, name) in (0..).zip(names) {
        draw_text(body, "small", from.0 + 8, first + index * LINE_HEIGHT, name.as_ref());
    }
}

fn draw_line(body: &mut String, from: (u32, u32), to: (u32, u32)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(body, "<path class=\"edge\" d=\"M{x1} {y1}L{x2} {y2}\"/>");
}

fn draw_text(body: &mut String, class: &str, x: u32, y: u32, text: &str) {
    let _ = writeln!(body, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{text}</text>");
}
