// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest whose memory travels packed: less of it does, and all of it arrives.

use tests::SEEN;

use crate::support::COMMAND;
use crate::{machine, moved, number};

/// Text, of which a third travels, and bytes that do not become shorter.
const FILL: &str = "seq 1 60000 >/tmp/some; for n in 0 1 2 3 4 5 6 7 8 9; do cat /tmp/some /tmp/some; done >/tmp/text; \
    dd if=/dev/urandom of=/tmp/noise bs=64k count=32 2>/dev/null; md5sum /tmp/text /tmp/noise >/tmp/sums";

#[test]
fn packed_memory_travels_in_fewer_bytes_and_arrives_whole() {
    let Some(mut vm) = machine("packed", |options| options.memory = "128M".into()) else { return };
    vm.console.output(FILL, COMMAND).unwrap();
    // There and back: as it is, then packed.
    let mut vm = Some(vm);
    let [plain, packed] = [&[][..], &["--compress"]].map(|arguments| {
        let (mut next, report) = moved(vm.take().unwrap(), arguments);
        next.console.output("md5sum -c /tmp/sums", COMMAND).unwrap();
        vm = Some(next);
        let rounds = report["rounds"].as_array().unwrap();
        let pages: u64 = rounds.iter().map(|round| number(round, "page_count")).sum();
        (number(&report, "sent_len"), pages * 4096)
    });
    assert!(plain.0 >= plain.1, "{plain:?}");
    assert!(packed.0 * 4 < packed.1 * 3, "{packed:?}");
    assert!(packed.1 > 8 << 20, "{packed:?}");
    vm.unwrap().power_off(COMMAND).unwrap();
    println!("{SEEN}{} of {} MiB travelled", packed.0 >> 20, packed.1 >> 20);
}
