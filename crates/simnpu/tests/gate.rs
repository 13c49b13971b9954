//! The table of the gate reaches every device of the process, so that this test stands alone.

mod rig;

use std::time::Duration;

use qiao_core::Error;
use qiao_simnpu::{GATE, GateTable, Settings, gate, interface, open};

#[test]
fn the_table_holds_the_devices_that_it_names() {
    let program = format!("sim.program={}", env!("CARGO_BIN_EXE_qiao-simnpu-device"));
    for process in ["sim.process=inline", "sim.process=child"] {
        let backend = open(Settings::from_words([process, &program, "sim.devices=2"]).unwrap()).unwrap();
        let devices = [backend.open(0).unwrap(), backend.open(1).unwrap()];
        let mut streams = devices.each_ref().map(|d| d.stream().unwrap());
        let cells = devices.each_ref().map(|d| rig::alloc(&**d, 8).unwrap());
        // For all, or one: which of the two goes on.
        for (ordinal, free) in [(u32::MAX, [false, false]), (0, [false, true]), (1, [true, false])] {
            (gate().close)(ordinal);
            for i in 0..2 {
                streams[i].upload(&cells[i], &[1; 8]).unwrap();
                let limit = if free[i] { rig::LONG } else { Duration::from_millis(30) };
                let ended = streams[i].sync(limit);
                assert!(matches!((&ended, free[i]), (Ok(()), true) | (Err(Error::Timeout { .. }), false)), "{ended:?}");
            }
            (gate().open)(ordinal);
            streams.iter_mut().for_each(|s| s.sync(rig::LONG).unwrap());
        }
    }
}

#[test]
fn the_table_has_its_name_and_its_size() {
    assert_eq!(interface(GATE), (&raw const *gate()).cast());
    assert!(interface("qiao.simnpu.gate/2").is_null());
    assert_eq!((gate().struct_size as usize, gate().reserved), (size_of::<GateTable>(), 0));
}
