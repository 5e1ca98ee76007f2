// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system table as text: the processes, what each is given, and what connects them.

use std::fmt::Write;

use vmm_main::system::{Edge, Instance, Life, Party, Rights, System};

/// The whole table.
pub fn render(system: &System) -> String {
    let mut text = String::from(
        "PROCESSES, in the order of pausing; the mover only while the guest moves between hosts\n\n",
    );
    line(&mut text, &["name", "program", "profile", "tier", "when it dies"]);
    for instance in system.instances().chain([system.mover()]) {
        let template = instance.template;
        let cells = [
            &instance.id.to_string(),
            template.program,
            template.profile().name,
            &template.tier.to_string(),
            template.restart.as_str(),
        ];
        line(&mut text, &cells);
    }
    text.push_str("\nEDGES\n\n");
    line(&mut text, &["owner", "edge", "peer", "lives as long as", ""]);
    for edge in system.edges() {
        let cells = [&edge.owner.to_string(), edge.kind.spec().name, &party(edge), life(edge.life()), ""];
        line(&mut text, &cells);
    }
    text.push_str("\nDESCRIPTORS\n");
    for instance in system.instances().chain([system.mover()]) {
        descriptors(&mut text, instance);
    }
    text
}

fn line(text: &mut String, cells: &[&str; 5]) {
    let [a, b, c, d, e] = cells;
    let row = format!("{a:<12} {b:<22} {c:<14} {d:<18} {e}");
    text.push_str(row.trim_end());
    text.push('\n');
}

fn descriptors(text: &mut String, instance: &Instance) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n{}", instance.id);
    for (number, held) in instance.descriptors.iter().enumerate() {
        let _ = writeln!(text, "  {number:>3}  {:<26} {}", held.slot.to_string(), rights(held.rights));
    }
}

fn party(edge: &Edge) -> String {
    match edge.peer {
        Party::Launcher => "launcher".to_owned(),
        Party::Instance(id) => id.to_string(),
    }
}

const fn life(life: Life) -> &'static str {
    match life {
        Life::Host => "the host",
        Life::Vm => "the VM",
        Life::Boot => "a boot",
        Life::Process => "its processes",
    }
}

const fn rights(rights: Rights) -> &'static str {
    match rights {
        Rights::Read => "reads",
        Rights::Write => "writes",
        Rights::ReadWrite => "reads and writes",
        Rights::Execute => "executes",
        Rights::HandOn => "hands on",
    }
}
