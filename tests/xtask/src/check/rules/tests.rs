// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Each rule holds on a good tree and breaks on a tree with one thing wrong.

use super::{
    addresses, circles, columns, docs, heads, ignores, manifests, messages, prints, references, sizes, walls,
    words,
};
use crate::check::tree::Tree;

const LICENCE: &str = "// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause\n";

fn source(rest: &str) -> String {
    format!("{LICENCE}//! What it is for.\n{rest}")
}

#[test]
fn heads_are_demanded_of_sources_only() {
    assert!(heads::check(&Tree::of(&[("a.rs", &source("")), ("b.md", "text")])).is_empty());
    assert_eq!(heads::check(&Tree::of(&[("a.rs", "//! Head only.\n")])).len(), 2);
    assert_eq!(heads::check(&Tree::of(&[("a.rs", &format!("{LICENCE}fn main() {{}}\n"))])).len(), 1);
    assert_eq!(heads::check(&Tree::of(&[("a.sh", "#!/bin/sh\n# Why.\n")])).len(), 1);
}

#[test]
fn sizes_above_the_limit_fail() {
    assert!(sizes::check(&Tree::of(&[("a.rs", &"x\n".repeat(900))])).is_empty());
    assert_eq!(sizes::check(&Tree::of(&[("a.rs", &"x\n".repeat(901))])).len(), 1);
}

#[test]
fn prose_above_120_columns_is_found_and_tables_and_code_are_not() {
    let (fits, long) = ("x".repeat(120), "ä".repeat(121));
    for good in [fits, format!("| {long} |"), format!("    {long}"), format!("```text\n{long}\n```\n")] {
        assert!(columns::check(&Tree::of(&[("a.md", &good)])).is_empty(), "{good}");
    }
    let found = columns::check(&Tree::of(&[("a.md", &format!("x\n{long}\n")), ("a.rs", &long)]));
    assert_eq!(found, ["a.md:2: 121 columns, at most 120"]);
    let comment = format!("//! ```text\n//! {long}\n//! ```\nlet x = \"{long}\";\n    /// {long}\n");
    let found = columns::check(&Tree::of(&[("a.rs", &comment)]));
    assert_eq!(found, ["a.rs:5: 129 columns, at most 120"]);
}

#[test]
fn walls_hold_where_named_and_explained() {
    let opened = source("// UNSAFETY: shared memory.\n#![expect(unsafe_code, reason = \"why\")]\n");
    assert!(walls::check(&Tree::of(&[("ipc/src/shm/region.rs", &opened)])).is_empty());
    assert_eq!(walls::check(&Tree::of(&[("ipc/src/frame.rs", &opened)])).len(), 1);
    let silent = source("#[allow(unsafe_code, reason = \"why\")]\nmod a;\n");
    assert_eq!(walls::check(&Tree::of(&[("ipc/src/shm/region.rs", &silent)])).len(), 1);
    assert!(
        walls::check(&Tree::of(&[("ipc/src/frame.rs", &source("// unsafe_code is denied\n"))])).is_empty()
    );
}

#[test]
fn messages_that_stand_twice_are_found_with_their_places() {
    let one = source("#[error(\"a {0} broke\")]\n");
    let two = source(
        "\n#[error(\n    \"a {0} broke\"\n)]\n#[error(transparent)]\n#[error(\"an \\\"x\\\" broke\")]\n",
    );
    assert!(messages::check(&Tree::of(&[("a.rs", &one)])).is_empty());
    let findings = messages::check(&Tree::of(&[("a.rs", &one), ("b.rs", &two)]));
    assert_eq!(findings, ["\"a {0} broke\" stands at a.rs:3 and b.rs:4"]);
}

#[test]
fn addresses_of_unlisted_hosts_and_forbidden_words_are_found() {
    let find = |text: &str| addresses::find(&Tree::of(&[("README.md", text)]), &["/home/".into()]);
    assert!(find("see https://developer.arm.com/documentation and unix://socket").is_empty());
    assert_eq!(
        find("line\ndeb http://mirror.example.org/debian x"),
        ["README.md:2: names the host mirror.example.org"]
    );
    assert_eq!(find("cd /home/someone"), ["README.md:1: names /home/"]);
    assert!(find("/proc/{pid}/home/ and /var/home/x").is_empty());
}

#[test]
fn prints_of_the_product_are_found_and_those_of_tests_are_not() {
    let printing = source("fn main() { eprintln!(\"x\"); }\n");
    assert_eq!(prints::check(&Tree::of(&[("dev-smmu/src/main.rs", &printing)])).len(), 1);
    for path in ["tests/src/vm.rs", "dev-smmu/src/service/tests.rs", "dev-smmu/benches/translate.rs"] {
        assert!(prints::check(&Tree::of(&[(path, &printing)])).is_empty(), "{path}");
    }
    let tested = source("// print!() is refused\n#[cfg(test)]\nmod tests { fn f() { println!(\"x\"); } }\n");
    assert!(prints::check(&Tree::of(&[("ipc/src/frame.rs", &tested)])).is_empty());
}

#[test]
fn ignores_without_reason_are_found() {
    assert!(ignores::check(&Tree::of(&[("a.rs", "#[ignore = \"needs /dev/kvm\"]\n")])).is_empty());
    assert_eq!(ignores::check(&Tree::of(&[("a.rs", "    #[ignore]\n")])).len(), 1);
}

#[test]
fn manifests_take_everything_from_the_workspace() {
    let good = "license.workspace = true\n\n[lints]\nworkspace = true\n\n[dependencies]\n";
    assert!(manifests::check(&Tree::of(&[("a/Cargo.toml", good), ("a/DESIGN.md", "")])).is_empty());
    assert_eq!(manifests::check(&Tree::of(&[("a/Cargo.toml", good)])), ["a/DESIGN.md is missing"]);
    let own = format!("{good}libc = {{ version = \"1\" }}\n");
    assert_eq!(manifests::check(&Tree::of(&[("a/Cargo.toml", &own), ("a/DESIGN.md", "")])).len(), 1);
    assert_eq!(manifests::check(&Tree::of(&[("a/Cargo.toml", ""), ("a/DESIGN.md", "")])).len(), 2);
}

#[test]
fn words_of_no_field_are_found_with_what_the_field_says() {
    for planted in
        ["enum Happening {}", "// The device is not heard any more.", "// Its WISH.", "fn nobody() {}"]
    {
        let tree = Tree::of(&[("a.rs", planted)]);
        assert_eq!(words::check(&tree).len(), 1, "{planted}");
    }
    let plain = "// Nobody wishlists a bedrock; the transfer meets a fault.\n";
    assert_eq!(words::check(&Tree::of(&[("a.rs", plain)])), [""; 0]);
}

#[test]
fn circle_through_a_file_of_the_room_is_found_and_one_outside_is_not() {
    let lines = ("vcpu/src/interrupts/lines.rs", "use super::seam::Seam;\nuse crate::gate::Gate;\n");
    let seam = ("vcpu/src/interrupts/seam.rs", "use std::sync::Arc;\n");
    let outside =
        [("vcpu/src/uart.rs", "use crate::tty::Tty;\n"), ("vcpu/src/tty.rs", "use super::uart::Uart;\n")];
    let good = [&[lines, seam, ("vcpu/src/gate.rs", "")][..], &outside].concat();
    assert!(circles::check(&Tree::of(&good)).is_empty());
    // Through a file that is not in the folder.
    let gate = ("vcpu/src/gate.rs", "use crate::windows::Windows;\n");
    let windows = ("vcpu/src/windows.rs", "use crate::interrupts::lines::{Line, Lines};\n");
    assert_eq!(circles::check(&Tree::of(&[lines, seam, gate, windows])).len(), 1);
}

#[test]
fn documentation_that_repeats_a_name_is_found() {
    let find = |text: &str| docs::check(&Tree::of(&[("a/src/b.rs", text)])).len();
    for planted in [
        "/// The cache.\nstruct TranslationCache;\n",
        "    /// Its pages.\n    pub page_count: u64,\n",
        "/// Start.\n#[must_use]\npub const fn start() {}\n",
    ] {
        assert_eq!(find(planted), 1, "{planted}");
    }
    for good in [
        "/// The cache of routes.\nstruct Cache;\n",
        "/// GICD_CTLR.\npub ctlr: u64,\n",
        "/// `Cache`.\nstruct Cache;\n",
        "/// The cache.\n///\n/// By DeviceID.\nstruct Cache;\n",
    ] {
        assert_eq!(find(good), 0, "{good}");
    }
    assert_eq!(docs::check(&Tree::of(&[("a/tests/b.rs", "/// The cache.\nstruct Cache;\n")])), [""; 0]);
}

#[test]
fn named_file_that_is_not_there_is_found() {
    let find =
        |path: &str, text: &str| references::check(&Tree::of(&[(path, text), ("a/src/gone/here.rs", "")]));
    assert_eq!(
        find("a/DESIGN.md", "(`gone/here.rs`, `gone/away.rs`)"),
        ["a/DESIGN.md:1: names `gone/away.rs`, and there is no such file"]
    );
    assert_eq!(find("a/src/b.rs", "let x = \"`away.rs`\";\n// See `away.md`.\n").len(), 1);
    for good in ["`ROLE.rs`", "`x.log`", "`a/*.rs`", "`a/src/gone/here.rs`", "here.rs or away.rs"] {
        assert_eq!(find("README.md", good), [""; 0], "{good}");
    }
}
