// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! In the folders listed here no file depends on itself through others: each can be read with what stands above it.
//!
//! Read off `use` lines with paths from the crate's root or from the parent. Tests may use anything, and so do a
//! module's own parts, which are one with it.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::tree::Tree;

/// A crate's source folder, and a folder in it no file of which may be in a circle.
const FOLDERS: [(&str, &str); 1] = [("vcpu/src/", "interrupts")];

pub fn check(tree: &Tree) -> Vec<String> {
    FOLDERS.iter().flat_map(|(root, room)| of_room(tree, root, room)).collect()
}

fn of_room(tree: &Tree, root: &str, room: &str) -> Vec<String> {
    let modules: BTreeMap<String, &str> = tree
        .ending(".rs")
        .filter(|file| !file.path.ends_with("/tests.rs") && !file.path.contains("/tests/"))
        .filter_map(|file| Some((module(file.path.strip_prefix(root)?), file.text.as_str())))
        .collect();
    let uses: BTreeMap<&str, BTreeSet<&str>> =
        modules.iter().map(|(name, text)| (name.as_str(), used(name, text, &modules))).collect();
    let of_the_room = modules.keys().filter(|name| name.starts_with(&format!("{room}/")));
    of_the_room
        .filter(|name| reached(name, &uses).contains(name.as_str()))
        .map(|name| format!("{root}{name}: is in a dependency cycle of files: break the cycle, as the folder's head says the order"))
        .collect()
}

/// `a/b/mod.rs` and `a/b.rs` are the module `a/b`.
fn module(path: &str) -> String {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    path.strip_suffix("/mod").unwrap_or(path).to_owned()
}

/// The modules that `name` names in its `use` lines.
fn used<'a>(name: &str, text: &str, modules: &'a BTreeMap<String, &str>) -> BTreeSet<&'a str> {
    let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
    let mut found = BTreeSet::new();
    // Tests stand last in a file.
    let product = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    for line in product.lines().filter(|line| line.starts_with("use ") || line.starts_with("pub use ")) {
        let path = line.trim_start_matches("pub ").trim_start_matches("use ");
        let path = match path.split_once("::") {
            Some(("crate", rest)) => rest.replace("::", "/"),
            Some(("super", rest)) => format!("{parent}/{}", rest.replace("::", "/")),
            _ => continue,
        };
        let path = path.trim_start_matches('/');
        let longest = modules
            .keys()
            .filter(|module| path.strip_prefix(module.as_str()).is_some_and(|rest| rest.starts_with('/')))
            .max_by_key(|module| module.len());
        found.extend(longest.map(String::as_str).filter(|module| *module != name));
    }
    found
}

/// Every module that is used by `from`, by those, and so on.
fn reached<'a>(from: &str, uses: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let mut all = BTreeSet::new();
    let mut next: Vec<&str> = uses.get(from).into_iter().flatten().copied().collect();
    while let Some(module) = next.pop() {
        if all.insert(module) {
            next.extend(uses.get(module).into_iter().flatten());
        }
    }
    all
}
