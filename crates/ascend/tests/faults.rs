//! What goes wrong, over the simulated AscendCL: each is one clear error, and nothing is left behind.

mod rig;

use std::time::Duration;

use qiao_core::*;
use qiao_simascend::{Kind, Knob, Soc};
use rig::{Run, SOON, backend, card, chain, open};

#[test]
fn nothing_is_left_when_everything_is_dropped() {
    let card = card().alone();
    let kinds = [Kind::Bytes, Kind::Pinned, Kind::Streams, Kind::Events, Kind::Contexts];
    let kinds: Vec<Kind> = kinds.into_iter().chain(Kind::OBJECTS).collect();
    let before: Vec<u64> = kinds.iter().map(|k| card.live(*k)).collect();
    {
        let (device, graph) = (open(), chain(4));
        let plan = device.plan(&graph).unwrap();
        let mut run = Run::new(&*device, &graph, &*plan).unwrap();
        let event = device.event().unwrap();
        for _ in 0..3 {
            run.execute(&*plan).unwrap();
        }
        run.stream.record(&*event).unwrap();
        // Dropped with work queued.
    }
    let after: Vec<u64> = kinds.iter().map(|k| card.live(*k)).collect();
    assert_eq!(after, before, "{kinds:?}");
}

#[test]
fn every_execution_makes_its_own_executors() {
    let card = card().alone();
    let (device, graph) = (open(), chain(4));
    let plan = device.plan(&graph).unwrap();
    let mut run = Run::new(&*device, &graph, &*plan).unwrap();
    for turn in 1..4 {
        run.execute(&*plan).unwrap();
        assert_eq!(run.floats().unwrap(), [5.0; 64]);
        assert_eq!(card.calls("aclnnAddGetWorkspaceSize"), 4 * turn);
        assert_eq!(card.calls("aclnnAdd"), 4 * turn);
    }
}

#[test]
fn objects_are_given_back_whichever_call_fails() {
    let card = card().alone();
    let (device, graph) = (open(), chain(3));
    let plan = device.plan(&graph).unwrap();
    for (call, code) in [
        ("aclCreateTensor", 0),
        ("aclCreateScalar", 0),
        ("aclnnAddGetWorkspaceSize", 161_002),
        ("aclnnAdd", 561_002),
        ("aclrtMemcpyAsync", 507_013),
    ] {
        for after in 0..4 {
            let mut run = Run::new(&*device, &graph, &*plan).unwrap();
            run.stream.sync(SOON).unwrap();
            let before = Kind::OBJECTS.map(|kind| card.live(kind));
            card.fail(call, after, 1, code);
            let failed = run.execute(&*plan).and_then(|()| run.floats().map(drop));
            for (kind, before) in Kind::OBJECTS.into_iter().zip(before) {
                // An executor whose second phase is refused is the library's own affair.
                if kind != Kind::Executors || call != "aclnnAdd" {
                    assert_eq!(card.live(kind), before, "{kind:?} after {call} failed: {failed:?}");
                }
            }
            card.forget();
        }
    }
}

#[test]
fn a_failed_phase_is_told_by_name_and_kept() {
    let card = card().alone();
    let (device, graph) = (open(), chain(2));
    let plan = device.plan(&graph).unwrap();
    let mut run = Run::new(&*device, &graph, &*plan).unwrap();
    card.fail("aclnnAddGetWorkspaceSize", 0, 1, 161_002);
    let why = run.execute(&*plan).unwrap_err().to_string();
    for word in ["aclnnAddGetWorkspaceSize", "ACLNN_ERR_PARAM_INVALID (161002)", "asked to fail", "ascend:0"] {
        assert!(why.contains(word), "{word}: {why}");
    }
    assert!(matches!(run.execute(&*plan), Err(Error::Poisoned { .. })));
    let mut other = Run::new(&*device, &graph, &*plan).unwrap();
    other.execute(&*plan).unwrap();
    assert_eq!(other.floats().unwrap(), [3.0; 64]);
}

#[test]
fn a_stream_may_go_while_an_event_on_it_is_asked() {
    let card = card().alone();
    let device = open();
    let streams = card.live(Kind::Streams);
    let (mut stream, event) = (device.stream().unwrap(), device.event().unwrap());
    card.set(Knob::Stalled, 1);
    stream.fill(&Binding::whole(device.alloc(0, 64).unwrap()), 1).unwrap();
    stream.record(&*event).unwrap();
    card.set(Knob::Late, 200);
    let questions = card.calls("aclrtQueryEventStatus");
    std::thread::scope(|s| {
        let asked = s.spawn(|| event.is_reached());
        while card.calls("aclrtQueryEventStatus") == questions {
            std::thread::yield_now();
        }
        // The answer is under way.
        card.set(Knob::Late, 0);
        card.set(Knob::Stalled, 0);
        stream.sync(SOON).unwrap();
        drop(stream);
        assert_eq!(card.live(Kind::Streams), streams);
        assert!(!asked.join().unwrap().unwrap(), "it was not, when it was asked");
    });
    assert!(event.is_reached().unwrap());
}

#[test]
fn a_kernel_that_breaks_stops_its_stream_and_what_waits_for_it_hears() {
    let card = card().alone();
    let (device, graph) = (open(), chain(2));
    let plan = device.plan(&graph).unwrap();
    let mut run = Run::new(&*device, &graph, &*plan).unwrap();
    run.execute(&*plan).unwrap();
    card.break_kernels();
    let event = device.event().unwrap();
    run.stream.record(&*event).unwrap();
    let why = event.sync(SOON).unwrap_err().to_string();
    assert!(why.contains("ACL_ERROR_RT_AICORE_EXCEPTION (507015)"), "{why}");
    assert!(run.stream.sync(SOON).is_err());
    assert!(matches!(run.execute(&*plan), Err(Error::Poisoned { .. })));
    drop(run);
    assert_eq!(event.sync(SOON).unwrap_err().to_string(), why, "with the stream gone");
    let mut other = Run::new(&*device, &graph, &*plan).unwrap();
    other.execute(&*plan).unwrap();
    assert_eq!(other.floats().unwrap(), [3.0; 64]);
}

#[test]
fn a_lost_device_says_so_until_it_is_opened_again() {
    let card = card().alone();
    let graph = chain(2);
    {
        let device = open();
        let plan = device.plan(&graph).unwrap();
        let mut run = Run::new(&*device, &graph, &*plan).unwrap();
        run.execute(&*plan).unwrap();
        card.lose(0, 507_010);
        match run.stream.sync(SOON) {
            Err(Error::DeviceLost { why, .. }) => assert!(why.contains("ACL_ERROR_RT_LOST_HEARTBEAT"), "{why}"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(run.execute(&*plan), Err(Error::DeviceLost { .. })));
        assert!(matches!(device.alloc(0, 16), Err(Error::DeviceLost { .. })));
        assert!(matches!(device.stream().err(), Some(Error::DeviceLost { .. })));
        assert!(matches!(backend().open(0), Err(Error::DeviceLost { .. })));
    }
    card.lose(0, 0);
    let device = open();
    let plan = device.plan(&graph).unwrap();
    let mut run = Run::new(&*device, &graph, &*plan).unwrap();
    run.execute(&*plan).unwrap();
    assert_eq!(run.floats().unwrap(), [3.0; 64]);
}

#[test]
fn memory_that_is_used_up_is_told_apart_and_what_is_left() {
    let card = card().alone();
    let device = open();
    let total = device.info().memories[0].total_bytes;
    match device.alloc(0, total as usize + 1) {
        Err(Error::OutOfMemory { asked, free, .. }) => assert!(asked == total + 1 && free > 0 && free <= total),
        other => panic!("{other:?}"),
    }
    for code in [200_000, 207_001, 207_018] {
        card.fail("aclrtMalloc", 0, 1, code);
        assert!(matches!(device.alloc(0, 1 << 20), Err(Error::OutOfMemory { .. })), "{code}");
        assert!(device.alloc(0, 1 << 20).is_ok());
    }
    card.fail("aclrtMalloc", 0, 1, 107_000);
    assert!(matches!(device.alloc(0, 1 << 20), Err(Error::Internal { .. })));
}

#[test]
fn what_is_dropped_stays_while_work_that_could_not_be_marked_is_queued() {
    let card = card().alone();
    for call in ["aclrtCreateEventWithFlag", "aclrtRecordEvent"] {
        // A later look may find the stream idle, or one that takes events again.
        for marks_later in [false, true] {
            let device = open();
            let mut stream = device.stream().unwrap();
            let [from, to] = [0; 2].map(|_| Binding::whole(device.alloc(0, 1 << 20).unwrap()));
            let other = device.alloc(0, 64).unwrap();
            stream.fill(&from, 1).unwrap();
            stream.sync(SOON).unwrap();
            let before = card.live(Kind::Bytes);
            card.set(Knob::Stalled, 1);
            stream.copy(&to, &from).unwrap();
            card.fail(call, 0, 1 << 20, 207_007);
            drop((from, to));
            drop(other);
            assert_eq!(card.live(Kind::Bytes), before, "{call}: the copy is still to come");
            if marks_later {
                card.forget();
                device.alloc(0, 64).unwrap();
                assert!(card.calls("aclrtRecordEvent") > 0, "{call}");
                assert!(card.live(Kind::Bytes) >= before, "{call}: the copy is still to come");
            }
            card.set(Knob::Stalled, 0);
            stream.sync(SOON).unwrap();
            assert!(card.live(Kind::Bytes) <= before - (2 << 20), "{call}: nothing uses them any more");
            card.forget();
        }
    }
}

#[test]
fn a_device_that_does_not_answer_ends_a_patient_wait() {
    let card = card().alone();
    let device = open();
    let mut stream = device.stream().unwrap();
    let buffer = Binding::whole(device.alloc(0, 64).unwrap());
    stream.upload(&buffer, &[3; 64]).unwrap();
    stream.set_patience(Duration::from_millis(10));
    card.set(Knob::Stalled, 1);
    let mut out = [0; 64];
    assert!(matches!(stream.download(&mut out, &buffer), Err(Error::Timeout { .. })));
    for (timeout, waited) in [(Duration::from_millis(5), 5), (SOON, 10)] {
        assert!(matches!(stream.sync(timeout), Err(Error::Timeout { millis, .. }) if millis == waited));
    }
    card.set(Knob::Stalled, 0);
    stream.download(&mut out, &buffer).unwrap();
    assert_eq!(out, [3; 64]);
}

#[test]
fn a_failure_is_told_when_all_that_was_queued_is_over() {
    let card = card().alone();
    let device = open();
    let (mut stream, mut other) = (device.stream().unwrap(), device.stream().unwrap());
    let [from, to] = [0; 2].map(|_| Binding::whole(device.alloc(0, 64).unwrap()));
    stream.upload(&from, &[3; 64]).unwrap();
    stream.upload(&to, &[0; 64]).unwrap();
    stream.sync(SOON).unwrap();
    card.set(Knob::Stalled, 1);
    stream.copy(&to, &from).unwrap();
    card.fail("aclrtMemsetAsync", 0, 1, 507_013);
    let first = stream.fill(&from, 1).unwrap_err().to_string();
    assert!(matches!(stream.fill(&from, 1), Err(Error::Poisoned { .. })));
    for _ in 0..2 {
        assert!(
            matches!(stream.sync(Duration::from_millis(10)), Err(Error::Timeout { millis: 10, .. })),
            "a copy is left"
        );
    }
    card.set(Knob::Stalled, 0);
    for _ in 0..2 {
        assert_eq!(stream.sync(SOON).unwrap_err().to_string(), first);
    }
    let mut out = [0; 64];
    other.download(&mut out, &to).unwrap();
    assert_eq!(out, [3; 64]);
    // A device that is lost meanwhile is not waited for.
    card.set(Knob::Stalled, 1);
    card.lose(0, 507_010);
    assert_eq!(stream.sync(SOON).unwrap_err().to_string(), first);
    assert!(matches!(stream.sync(SOON), Err(Error::DeviceLost { .. })));
    card.set(Knob::Stalled, 0);
}

#[test]
fn chips_without_a_row_are_not_present() {
    let card = card().alone();
    for (soc, word) in [(Soc::Ascend950, "Ascend950PR"), (Soc::Ascend910A, "Ascend910A"), (Soc::Unknown, "no row")] {
        card.pretend(soc);
        for answer in [backend().devices().map(drop), backend().open(0).map(drop)] {
            match answer {
                Err(Error::NotPresent { why, .. }) => assert!(why.contains(word), "{why}"),
                other => panic!("{soc:?}: {other:?}"),
            }
        }
    }
    card.set(Knob::Devices, 0);
    assert!(matches!(backend().devices(), Err(Error::NotPresent { .. })));
}

#[test]
fn slots_that_stand_twice_fail_the_stream() {
    let _card = card().alone();
    let device = open();
    let mut g = Graph::new();
    let of = |dtype, shape: &[usize]| TensorDesc::new(dtype, shape).unwrap();
    let (k, slots) = (g.bind("k", of(DType::F16, &[2, 1, 16])), g.bind("slots", of(DType::I32, &[2])));
    let caches = ["kc", "vc"].map(|name| g.bind(name, of(DType::F16, &[1, 128, 1, 16])));
    g.add(Op::KvWrite(KvWriteAttrs::default()), &[k, k, slots, caches[0], caches[1]].map(Some)).unwrap();
    let plan = device.plan(&g).unwrap();
    let mut run = Run::bind(&*device, &g, &*plan).unwrap();
    let words = |run: &mut Run, slots: [i32; 2]| {
        let bytes: Vec<u8> = slots.iter().flat_map(|s| s.to_le_bytes()).collect();
        run.stream.upload(&run.bindings[1].clone(), &bytes).unwrap();
        run.execute(&*plan).map_err(|e| e.to_string())
    };
    words(&mut run, [5, -1]).unwrap();
    let why = words(&mut run, [7, 7]).unwrap_err();
    assert!(why.contains("slot 7 stands twice"), "{why}");
    assert!(matches!(run.stream.sync(SOON), Err(Error::Internal { .. })));
}
