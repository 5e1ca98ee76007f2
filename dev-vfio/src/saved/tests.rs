// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The bytes of each unit, which other builds have sent and will send: they never change.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use ipc::saved::Writer;

use super::*;

fn function() -> FunctionV1 {
    FunctionV1 {
        config: vec![1, 2, 3],
        bars: vec![BarV1 { index: 4, kind: 5, start: 0x1100_0000, len: 0x4000, region_len: 0x3000 }],
        bars_sizing: 6,
        sleeps: true,
        msix: Some(MsixV1 {
            enabled: true,
            masked: false,
            vectors: vec![VectorV1 { address: 0x0821_0040, data: 7, control: 1, pending: true }],
        }),
        intx: Some(IntxV1 { automasked: true, pending: false, raised: true, again: false }),
    }
}

fn kept() -> ServerV1 {
    ServerV1::Kept(SessionV1 {
        minor: 2,
        msg_fds: 8,
        data_len: 0x10_0000,
        dma_maps: 64,
        write_multiple: true,
        windows: vec![(0, 1 << 43), (1 << 43, 1 << 43)],
    })
}

fn connection() -> ConnectionV1 {
    let ServerV1::Kept(session) = kept() else { unreachable!("as it is above") };
    let device = DeviceV1 {
        resettable: true,
        stoppable: false,
        regions: vec![(0x4000, true, false), (0, false, true)],
        vectors: 3,
        intx: Some(true),
        config: vec![9, 8],
    };
    ConnectionV1::Kept(session, device)
}

fn hex<T: SavedState>(state: &T) -> String {
    let mut writer = Writer::new();
    writer.append(state).unwrap();
    writer.finish().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn bytes_of_every_unit_stay_what_they_were() {
    assert_eq!(hex(&function()), FUNCTION_V1);
    assert_eq!(hex(&ServerV1::Anew), ANEW_V1);
    assert_eq!(hex(&kept()), KEPT_V1);
    assert_eq!(hex(&connection()), CONNECTION_V1);
    assert_eq!(hex(&ConnectionV1::Lost("why".to_owned())), LOST_V1);
    assert_eq!(hex(&PhysicalV1 { device: 0x1_0003 }), PHYSICAL_V1);
    assert_eq!(hex(&DataEndV1 { len: 300 }), DATA_END_V1);
}

const FUNCTION_V1: &str = "424b5355010001007666696f2d66756e6374696f6e00000023000000bd2c3dbd000000000301020301040580808088018080018060060101010001c08084410701010101000100";
const ANEW_V1: &str = "424b5355010001007666696f2d7573657200000000000000010000008def02d20000000000";
const KEPT_V1: &str = "424b5355010001007666696f2d75736572000000000000001f00000022235bcd0000000001020880804040010200808080808080028080808080800280808080808002";
const PHYSICAL_V1: &str = "424b5355010001007666696f2d706879736963616c000000030000009920dc2000000000838004";
const DATA_END_V1: &str = "424b5355010001007666696f2d646174612d656e6400000002000000368065ad00000000ac02";
const CONNECTION_V1: &str = "424b5355010001007666696f2d636f6e6e656374696f6e003000000005a9db3a00000000000208808040400102008080808080800280808080808002808080808080020100028080010100000001030101020908";
const LOST_V1: &str = "424b5355010001007666696f2d636f6e6e656374696f6e0005000000a127b43c000000000103776879";
