// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::*;

#[test]
fn instance_name_is_read_back_for_every_role() {
    for &role in Role::ALL {
        for index in if role.is_single() { 0..=0 } else { 0..=u8::MAX } {
            let id = InstanceId::new(role, index);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }
    assert_eq!(InstanceId::new(Role::Vfio, 12).to_string(), "vfio12");
    assert_eq!(InstanceId::new(Role::Vcpu, 0).to_string(), "vcpu");
}

#[test]
fn instance_name_has_one_spelling() {
    for text in ["", "vfio", "vfio00", "vfio01", "vfio+1", "vfio256", "vcpu0", "Vfio0", "vfio0 ", "gpu0", "0"]
    {
        assert!(text.parse::<InstanceId>().is_err(), "{text:?}");
    }
}
