// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use smmu_arch::{Model, Options};

use super::*;

/// An SMMU that many emulators show: no SubstreamIDs, 44 address bits, three granules, range invalidation.
const HOST: SmmuInfo = SmmuInfo { idr: [0x0d44_101b, 0x0273_0010, 0, 0x1414, 0, 0x74], iidr: 0, aidr: 1 };

fn model(change: impl FnOnce(&mut Options)) -> Model {
    let mut options = Options { ssidsize: 0, ..Options::default() };
    change(&mut options);
    Model::new(smmu_arch::model::MODEL_NAME, options).unwrap()
}

fn fields(model: &Model, host: &SmmuInfo) -> Vec<&'static str> {
    lacking(model, host).iter().map(|lacking| lacking.field).collect()
}

#[test]
fn host_that_has_all_the_guest_was_promised_lacks_nothing() {
    assert_eq!(lacking(&model(|_| {}), &HOST), []);
    let small = model(|options| (options.oas, options.granules.gran16k) = (40, false));
    assert_eq!(lacking(&small, &HOST), []);
}

#[test]
fn guest_with_more_than_the_host_is_told_field_and_both_values() {
    let large = model(|options| (options.ssidsize, options.oas) = (16, 48));
    let found = lacking(&large, &HOST);
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "IDR0.CD2L: guest 1, host 0 (set `ssidsize = 0`)",
            "IDR1.SSIDSIZE: guest 16, host 0 (set `ssidsize = 0`)",
            "IDR5.OAS: guest 48, host 44 (set `oas` to the host's)",
        ]
    );
}

#[test]
fn each_field_of_the_host_is_looked_at() {
    let guest = model(|_| {});
    let without = |register: usize, bits: u32| {
        let mut host = HOST;
        host.idr[register] &= !bits;
        fields(&guest, &host)
    };
    assert_eq!(without(0, 1 << 3), ["IDR0.TTF[1]"]);
    assert_eq!(without(0, 1 << 12), ["IDR0.ASID16"]);
    assert_eq!(without(0, 1 << 26), ["IDR0.TERM_MODEL"]);
    assert_eq!(without(3, 1 << 10), ["IDR3.RIL"]);
    assert_eq!(without(5, 0b111), ["IDR5.OAS"]);
    assert_eq!(without(5, 1 << 4), ["IDR5.GRAN4K"]);
    assert_eq!(without(5, 1 << 5), ["IDR5.GRAN16K"]);
    assert_eq!(without(5, 1 << 6), ["IDR5.GRAN64K"]);
    let mut big_endian = HOST;
    big_endian.idr[0] |= 0b11 << 21;
    assert_eq!(fields(&guest, &big_endian), ["IDR0.TTENDIAN"]);
    let mut mixed = HOST;
    mixed.idr[0] &= !(0b11 << 21);
    assert_eq!(fields(&guest, &mixed), [""; 0]);
}
