// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The runner's records for the host: one JSON object a line, over a virtio port.

use std::io::Write;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The outcome of a scenario.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Everything that it is to show was observed.
    Ok,
    /// Something else was observed; what.
    Failed(String),
    /// It could not be tried; why.
    Skipped(String),
}

/// One record, a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A scenario begins.
    Begin(String),
    /// An observation, for the scenario's row in the table.
    Evidence(String),
    /// It ended, and how long it took in milliseconds.
    End(Outcome, u64),
    /// An ACPI table that was asked for, in hexadecimal.
    Table(String),
}

/// Where a scenario's records go.
pub struct Report<'a> {
    to: &'a mut dyn Write,
}

impl<'a> Report<'a> {
    /// A report whose records go `to` somewhere.
    pub fn new(to: &'a mut dyn Write) -> Self {
        Self { to }
    }

    /// Adds a line of evidence to the scenario's row in the table.
    pub fn evidence(&mut self, seen: impl Into<String>) -> Result<()> {
        self.record(&Record::Evidence(seen.into()))
    }

    /// Sends a record.
    pub fn record(&mut self, record: &Record) -> Result<()> {
        let line = serde_json::to_string(record).context("a record as JSON")?;
        writeln!(self.to, "{line}").and_then(|()| self.to.flush()).context("a record could not be sent")
    }
}

impl Record {
    /// Reads a line; `None` for one that is no record.
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Record, Report};

    #[test]
    fn every_kind_of_record_is_read_as_it_was_written() {
        let all = [
            Record::Begin("host".into()),
            Record::Evidence("two\nlines".into()),
            Record::End(Outcome::Failed("because".into()), 12),
            Record::End(Outcome::Ok, 0),
            Record::Table("494f".into()),
        ];
        let mut sent = Vec::new();
        let mut report = Report::new(&mut sent);
        all.iter().for_each(|record| report.record(record).unwrap());
        let text = String::from_utf8(sent).unwrap();
        let read: Vec<Record> = text.lines().filter_map(Record::parse).collect();
        assert_eq!(read, all);
    }

    #[test]
    fn line_of_a_program_is_no_record() {
        assert_eq!(Record::parse("test boots ... ok"), None);
        assert_eq!(Record::parse(""), None);
    }
}
