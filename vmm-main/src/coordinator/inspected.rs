// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The reply of a process to `Inspect`, in the form of the API. Its texts are untrusted, and made printable.

use std::collections::BTreeMap;

use ipc::instance::InstanceId;
use ipc::protocol::inspect::{Inspect, Value};

use super::logs;
use crate::api::types::Inspected;

/// The values of the process `id`.
pub fn of(id: InstanceId, told: &Inspect) -> Inspected {
    let printable = |text: &str| logs::printable(text.as_bytes());
    let value = |value: &Value| match value {
        Value::Counter(count) => (*count).into(),
        Value::Gauge(level) => (*level).into(),
        Value::Hex(word) => format!("{word:#x}").into(),
        Value::Text(text) => printable(text).into(),
    };
    let values = told.entries().iter().map(|entry| (printable(&entry.name), value(&entry.value))).collect();
    Inspected { process: id.to_string(), values, unanswered: None }
}

/// The process `id` did not answer, for this reason.
pub fn unanswered(id: InstanceId, why: String) -> Inspected {
    let why = logs::printable(why.as_bytes());
    Inspected { process: id.to_string(), values: BTreeMap::new(), unanswered: Some(why) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inspected_values_keep_their_kind_and_lose_control_characters() {
        let mut told = Inspect::new();
        told.counter("instructions", 7);
        told.gauge("queue", -1);
        told.hex("CR0", 0xd);
        told.text("state", "a\u{1b}[2Jb");
        let Inspected { process, values, unanswered: _ } = of(crate::system::SMMU0, &told);
        assert_eq!(process, "smmu0");
        assert_eq!(
            (&values["instructions"], &values["queue"], &values["CR0"]),
            (&7.into(), &(-1).into(), &"0xd".into())
        );
        assert!(!values["state"].as_str().unwrap().contains('\u{1b}'), "{values:?}");
    }
}
