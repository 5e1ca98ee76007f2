// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The files of the repository as the rules see them: path and text, nothing else.

use std::{fs, io::ErrorKind, process::Command};

use ::tests::{command::capture, places};
use anyhow::{Context, Result};

/// One file that is text.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Its path from the root, with `/`.
    pub path: String,
    pub text: String,
}

/// All files that git tracks, or would if they were added.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    pub files: Vec<SourceFile>,
    /// The paths of files that are no text.
    others: Vec<String>,
}

impl Tree {
    /// Reads the work tree. Files that are not text are left out.
    pub fn tracked() -> Result<Self> {
        let root = places::root();
        let list = capture(Command::new("git").current_dir(&root).args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]))
        .context("the rules need the list of files that git has")?;
        let (mut files, mut others) = (Vec::new(), Vec::new());
        for path in list.split('\0').filter(|path| !path.is_empty()) {
            // A file that is deleted but not yet committed is listed and not there.
            match fs::read_to_string(root.join(path)) {
                Ok(text) => files.push(SourceFile { path: path.into(), text }),
                Err(error) if error.kind() == ErrorKind::InvalidData => others.push(path.into()),
                Err(_) => {}
            }
        }
        Ok(Self { files, others })
    }

    /// The paths of all files, those that are no text among them.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.path.as_str()).chain(self.others.iter().map(String::as_str))
    }

    /// The files whose path ends so.
    pub fn ending(&self, end: &str) -> impl Iterator<Item = &SourceFile> {
        self.files.iter().filter(move |file| file.path.ends_with(end))
    }
}

#[cfg(test)]
impl Tree {
    /// A tree of the given files.
    pub fn of(files: &[(&str, &str)]) -> Self {
        let files =
            files.iter().map(|(path, text)| SourceFile { path: (*path).into(), text: (*text).into() });
        Self { files: files.collect(), others: vec![] }
    }
}
