//! No wait is for ever: what lasts too long is told, and the stream goes on.

mod rig;

use std::time::Duration;

use qiao_core::*;

const ELEMENTS: usize = 8 << 20;

/// tanh of x, many times over.
fn long() -> Graph {
    let mut g = Graph::new();
    let desc = TensorDesc::new(DType::F32, &[ELEMENTS]).unwrap();
    let (x, y) = (g.bind("x", desc.clone()), g.bind("y", desc));
    let before = (0..11).fold(x, |v, _| g.add(Op::Tanh(NoAttrs {}), &[Some(v)]).unwrap()[0]);
    g.add_into(Op::Tanh(NoAttrs {}), &[Some(before)], &[y]).unwrap();
    g
}

#[test]
fn a_wait_that_is_too_short_is_told_and_the_work_is_done_all_the_same() {
    let Some(device) = rig::device() else { return };
    let plan = device.plan(&long()).unwrap();
    let bytes = vec![0u8; 4 * ELEMENTS];
    let mut run = rig::Run::new(&*device, &*plan, &[bytes.clone(), vec![1; 4 * ELEMENTS]]).unwrap();
    run.execute(&*plan).unwrap();
    assert!(matches!(run.stream.sync(Duration::ZERO), Err(Error::Timeout { .. })));
    let event = device.event().unwrap();
    run.stream.record(&*event).unwrap();
    assert!(matches!(event.sync(Duration::from_millis(1)), Err(Error::Timeout { millis: 1, .. })));
    run.stream.set_patience(Duration::from_millis(1));
    let mut out = vec![1u8; 4 * ELEMENTS];
    assert!(matches!(run.stream.sync(Duration::from_secs(60)), Err(Error::Timeout { millis: 1, .. })));
    assert!(matches!(run.stream.download(&mut out, &run.bindings[1]), Err(Error::Timeout { .. })));
    assert!(out.iter().all(|&b| b == 1), "a download that was given up writes nothing");
    run.stream.set_patience(Duration::MAX);
    run.stream.download(&mut out, &run.bindings[1]).unwrap();
    run.stream.sync(Duration::from_secs(60)).unwrap();
    assert!(out == bytes, "tanh(0) is 0");
}
