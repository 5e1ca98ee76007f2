// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is said to be missing is still missing: documents that say "not yet" are held against the tree.
//!
//! Read are the sentences of documents, of module heads and of messages (a `//!` block, a string outside of tests). One
//! that says "yet" behind a negation has to match an entry of [`GAPS`], which names what is missing and how that is
//! seen in the tree; it is found when it matches none, when its thing has come, and an entry is found that matches
//! nothing. Comments on code are left alone: there "not yet" is a state of the program as it runs.

use crate::check::tree::Tree;

/// One sentence that says "not yet".
struct Gap {
    file: &'static str,
    /// A part of the sentence.
    text: &'static str,
    still: Still,
}

/// How it is seen that it is true.
enum Still {
    /// It is about a program as it runs, not about what this project lacks.
    State,
    /// As long as no source under `folder` has this text.
    Without { folder: &'static str, text: &'static str },
}

const GAPS: [Gap; 8] = [
    Gap {
        file: "README.md",
        text: "no virtio yet",
        still: Still::Without { folder: "dev-virtio/", text: "fn main" },
    },
    Gap {
        file: NVME,
        text: "Doorbells by mapping or ioeventfd",
        still: Still::Without { folder: "dev-nvme/src/", text: "DEVICE_GET_REGION_IO_FDS" },
    },
    Gap {
        file: NVME,
        text: "Interrupts are not coalesced",
        still: Still::Without { folder: "dev-nvme/src/", text: "AggregationThreshold" },
    },
    Gap {
        file: NVME,
        text: "SGLs are not supported",
        still: Still::Without { folder: "dev-nvme/src/", text: "SglDescriptor" },
    },
    Gap {
        file: NVME,
        text: "The log of DMA does not survive the process",
        still: Still::Without { folder: "dev-nvme/src/", text: "DirtyLog::attach" },
    },
    Gap {
        file: "ipc/DESIGN.md",
        text: "no socket is ever seen that does not listen yet",
        still: Still::State,
    },
    Gap { file: "ipc/src/shm/memory_file.rs", text: "size is not fixed yet", still: Still::State },
    Gap { file: "sandbox/src/spawn/record.rs", text: "need not be distrusted yet", still: Still::State },
];

const NVME: &str = "dev-nvme/DESIGN.md";

/// A negation that a "yet" can belong to.
const NEGATIONS: [&str; 8] = ["not", "no", "cannot", "never", "nothing", "none", "nobody", "without"];

pub fn check(tree: &Tree) -> Vec<String> {
    find(tree, &GAPS)
}

fn find(tree: &Tree, gaps: &[Gap]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut met = vec![false; gaps.len()];
    for file in &tree.files {
        for sentence in sentences(&file.path, &file.text) {
            let position = gaps.iter().position(|gap| gap.file == file.path && sentence.contains(gap.text));
            match position.and_then(|index| met.get_mut(index)) {
                Some(met) => *met = true,
                None => {
                    findings.push(format!("{}: no entry says how this is still true: {sentence}", file.path))
                }
            }
        }
    }
    for (gap, met) in gaps.iter().zip(met) {
        let Gap { file, text, still } = gap;
        if !met {
            findings.push(format!("{file}: an entry matches no sentence: {text}"));
        } else if !is_true(tree, still) {
            findings.push(format!("{file}: it has come, and the sentence is not true any more: {text}"));
        }
    }
    findings
}

fn is_true(tree: &Tree, still: &Still) -> bool {
    match still {
        Still::State => true,
        Still::Without { folder, text } => {
            !tree.ending(".rs").any(|file| file.path.starts_with(folder) && file.text.contains(text))
        }
    }
}

/// The sentences of a file that say "not yet", on one line each.
fn sentences(path: &str, text: &str) -> Vec<String> {
    let prose: String = if path.ends_with(".md") {
        text.lines().map(|line| format!("{}\n", line.trim_start_matches(['#', '|', '-', '*', ' ']))).collect()
    } else if path.ends_with(".rs") && !path.starts_with("tests/xtask/src/check/rules/") {
        source_prose(path, text)
    } else {
        return Vec::new();
    };
    let blocks = prose.split("\n\n").map(|block| block.split_whitespace().collect::<Vec<_>>().join(" "));
    let sentences =
        blocks.flat_map(|block| block.split(['.', ';', '|']).map(str::to_owned).collect::<Vec<_>>());
    sentences.map(|sentence| sentence.trim().to_owned()).filter(|sentence| says_not_yet(sentence)).collect()
}

/// The head of a source file, and its strings if it is no test.
fn source_prose(path: &str, text: &str) -> String {
    let mut prose = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(head) = line.strip_prefix("//!") {
            prose.push_str(head);
            prose.push('\n');
        } else if !line.starts_with("//") && line.contains('"') && !path.contains("tests") {
            prose.push_str("\n\n");
            prose.push_str(line);
            prose.push_str("\n\n");
        }
    }
    prose
}

fn says_not_yet(sentence: &str) -> bool {
    let words = sentence.split(|character: char| !character.is_alphanumeric());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
    let yet = words.iter().position(|word| word == "yet");
    let before = yet.and_then(|yet| words.get(..yet)).unwrap_or_default();
    before.iter().any(|word| NEGATIONS.contains(&word.as_str()))
}

#[cfg(test)]
mod tests;
