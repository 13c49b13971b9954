//! What the host does around the kernels, on a card that can be made to fail: memory, waits, graphs, losses, leaks.

mod rig;

use std::sync::Arc;
use std::time::Duration;

use qiao_core::*;
use qiao_simcuda::{Kind, Knob};
use rig::{Run, card, family};

const PLAIN: NoAttrs = NoAttrs {};
const SOON: Duration = Duration::from_secs(60);

/// `n` operators one after the other: x + x + x ...
fn chain(n: usize) -> (Graph, Vec<Vec<u8>>) {
    let mut g = Graph::new();
    let desc = || TensorDesc::new(DType::F32, &[64]).unwrap();
    let x = g.bind("x", desc());
    let y = g.bind("y", desc());
    let mut sum = x;
    for _ in 1..n {
        sum = g.op1(Op::Add(PLAIN), &[sum, x]).unwrap();
    }
    g.add_into(Op::Add(PLAIN), &[Some(sum), Some(x)], &[y]).unwrap();
    let ones = [1f32; 64].iter().flat_map(|v| v.to_le_bytes()).collect();
    (g, vec![ones, vec![0; 256]])
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn open() -> Arc<dyn Device> {
    family().open(0).unwrap()
}

/// CoreX has no names of CUDA 11, which captures.
fn captures() -> bool {
    family().name() != "corex"
}

/// NVIDIA's newer cards start a kernel while the one before it ends.
fn overlaps() -> bool {
    family().name() == "cuda"
}

#[test]
fn kernels_of_a_plan_overlap_until_the_driver_refuses() {
    let card = card().alone();
    let (graph, bytes) = chain(4);
    let execute = |device: &dyn Device| {
        let plan = device.plan(&graph).unwrap();
        let mut run = Run::new(device, &*plan, &bytes).unwrap();
        card.forget();
        run.execute(&*plan).unwrap();
        assert_eq!(floats(&run.read(1).unwrap()), [5.0; 64]);
        (card.calls("cuLaunchKernel"), card.calls("cuLaunchKernelEx"))
    };
    let device = open();
    let all = if overlaps() { (1, 3) } else { (4, 0) };
    assert_eq!(execute(&*device), all, "the first kernel waits for all before it");
    if overlaps() {
        let plan = device.plan(&graph).unwrap();
        let mut run = Run::new(&*device, &*plan, &bytes).unwrap();
        card.forget();
        card.fail("cuLaunchKernelEx", 1, 1, 801);
        run.execute(&*plan).unwrap();
        assert_eq!(floats(&run.read(1).unwrap()), [5.0; 64]);
        assert_eq!((card.calls("cuLaunchKernel"), card.calls("cuLaunchKernelEx")), (3, 2));
        assert_eq!(execute(&*device), (4, 0), "it is not asked again");
        drop((run, plan, device));
        card.set(Knob::Arch, 89);
        assert_eq!(execute(&*open()), (4, 0), "an older card has no such launch");
    }
}

#[test]
fn all_of_it_holds_for_other_vendors() {
    rig::run_for_other_vendors("all_of_it_holds_for_other_vendors");
}

#[test]
fn the_card_says_what_it_is() {
    let _card = card().alone();
    let info = open().info().clone();
    let (vendor, arch, driver) = match family().name() {
        "cuda" => ("NVIDIA", "sm_90", "CUDA 13.0, NVRTC 13.901, no cuBLASLt"),
        "hip" => ("Hygon", "gfx906", "HIP 0.0, hipRTC 13.901"),
        "musa" => ("Moore Threads", "mp_31", "MUSA driver 13000, MTRTC 13.901"),
        "maca" => ("MetaX", "xcore1000", "MACA driver 13000, mcRTC 13.901"),
        "corex" => ("Iluvatar", "ivcore11", "CoreX, CUDA 13.0, CoreX's clang++ (simulated clang version 0)"),
        other => panic!("{other}"),
    };
    // A machine may have the real library, which does not start on the simulated card.
    let said = info.driver.split(", cuBLASLt").next().map(str::to_string);
    let said = said.filter(|said| said.len() < info.driver.len()).map(|said| said + ", no cuBLASLt");
    assert_eq!((&*info.vendor, &*info.arch, &*said.unwrap_or(info.driver)), (vendor, arch, driver));
    assert_eq!(info.name, format!("Simulated {} card", if vendor == "Moore Threads" { "MTT" } else { vendor }));
    // gfx906 stores bf16 and does not compute in it.
    let bf16 = info.dtypes.iter().find(|d| d.dtype == DType::BF16).unwrap();
    assert_eq!(bf16.compute, family().name() != "hip");
    assert!(info.memories[0].total_bytes > 0);
}

#[test]
fn a_plan_is_captured_the_second_time_and_replayed_then() {
    let card = card().alone();
    let device = open();
    let (graph, bytes) = chain(5);
    let plan = device.plan(&graph).unwrap();
    let mut run = Run::new(&*device, &*plan, &bytes).unwrap();
    let mut seen = Vec::new();
    for _ in 0..4 {
        run.execute(&*plan).unwrap();
        assert_eq!(floats(&run.read(1).unwrap()), [6.0; 64]);
        seen.push((card.calls("cuStreamBeginCapture_v2"), card.calls("cuGraphLaunch")));
    }
    if !captures() {
        assert_eq!(seen, [(0, 0); 4]);
        return;
    }
    assert_eq!(seen, [(0, 0), (1, 1), (1, 2), (1, 3)]);
    // Other addresses are another graph.
    let mut other = Run::new(&*device, &*plan, &bytes).unwrap();
    other.execute(&*plan).unwrap();
    other.execute(&*plan).unwrap();
    assert_eq!(floats(&other.read(1).unwrap()), [6.0; 64]);
    assert_eq!((card.calls("cuStreamBeginCapture_v2"), card.calls("cuGraphLaunch")), (2, 4));
    // What was captured reads what is bound now.
    let twos: Vec<u8> = [2f32; 64].iter().flat_map(|v| v.to_le_bytes()).collect();
    run.stream.upload(&run.bindings[0].clone(), &twos).unwrap();
    run.execute(&*plan).unwrap();
    assert_eq!(floats(&run.read(1).unwrap()), [12.0; 64]);
}

#[test]
fn only_a_few_graphs_are_kept() {
    let card = card().alone();
    let device = open();
    let (graph, bytes) = chain(4);
    let plan = device.plan(&graph).unwrap();
    let mut runs: Vec<Run> = (0..12).map(|_| Run::new(&*device, &*plan, &bytes).unwrap()).collect();
    for run in &mut runs {
        for _ in 0..3 {
            run.execute(&*plan).unwrap();
        }
        assert_eq!(floats(&run.read(1).unwrap()), [5.0; 64]);
    }
    assert!(card.live(Kind::Executables) <= 9, "{} are kept", card.live(Kind::Executables));
    drop(plan);
    runs[0].stream.sync(SOON).unwrap();
    assert_eq!(card.live(Kind::Executables), 0);
}

#[test]
fn a_driver_that_does_not_capture_launches() {
    let card = card().alone();
    let device = open();
    let (graph, bytes) = chain(4);
    let plan = device.plan(&graph).unwrap();
    let mut run = Run::new(&*device, &*plan, &bytes).unwrap();
    card.fail("cuStreamBeginCapture_v2", 0, 2, 900);
    for _ in 0..3 {
        run.execute(&*plan).unwrap();
        assert_eq!(floats(&run.read(1).unwrap()), [5.0; 64]);
    }
    assert_eq!(card.calls("cuGraphLaunch"), 0);
}

#[test]
fn an_execution_is_captured_later_where_memory_did_not_suffice() {
    let card = card().alone();
    if !captures() {
        return;
    }
    let device = open();
    let (graph, bytes) = chain(4);
    let plan = device.plan(&graph).unwrap();
    let mut run = Run::new(&*device, &*plan, &bytes).unwrap();
    let graphs = card.live(Kind::Graphs);
    // The launches of the first execution, which is not captured, come before.
    let calls = match overlaps() {
        true => vec![("cuGraphInstantiateWithFlags", 0), ("cuLaunchKernel", 1), ("cuLaunchKernelEx", 3)],
        false => vec![("cuGraphInstantiateWithFlags", 0), ("cuLaunchKernel", 4)],
    };
    for (call, before) in calls {
        let mut seen = Vec::new();
        let mut run = Run::new(&*device, &*plan, &bytes).unwrap();
        card.forget();
        card.fail(call, before, 1, 2);
        for _ in 0..4 {
            run.execute(&*plan).unwrap();
            assert_eq!(floats(&run.read(1).unwrap()), [5.0; 64]);
            seen.push((card.calls("cuStreamBeginCapture_v2"), card.calls("cuGraphLaunch")));
        }
        // The second fails, the third waits, the fourth is captured.
        assert_eq!(seen, [(0, 0), (1, 0), (1, 0), (2, 1)], "{call}");
        assert_eq!(card.live(Kind::Graphs), graphs, "{call}: graphs that are executed are given back");
    }
    // What is no lack of memory is not tried again, but for a graph whose kernels overlap, of which they stop.
    card.forget();
    let tried = 1 + u64::from(overlaps());
    card.fail("cuGraphInstantiateWithFlags", 0, tried, 801);
    for _ in 0..4 {
        run.execute(&*plan).unwrap();
        assert_eq!(floats(&run.read(1).unwrap()), [5.0; 64]);
    }
    assert_eq!((card.calls("cuStreamBeginCapture_v2"), card.calls("cuGraphLaunch")), (tried, 0));
    assert_eq!(card.live(Kind::Graphs), graphs);
}

#[test]
fn one_plan_runs_on_several_streams_at_a_time() {
    let _card = card().alone();
    let device = open();
    let (graph, bytes) = chain(6);
    let plan = device.plan(&graph).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut run = Run::new(&*device, &*plan, &bytes).unwrap();
                for _ in 0..5 {
                    run.execute(&*plan).unwrap();
                }
                assert_eq!(floats(&run.read(1).unwrap()), [7.0; 64]);
            });
        }
    });
}

#[test]
fn memory_that_is_dropped_while_work_is_queued_is_given_back_after_it() {
    let card = card().alone();
    let device = open();
    let (graph, bytes) = chain(2);
    let plan = device.plan(&graph).unwrap();
    let mut run = Run::new(&*device, &*plan, &bytes).unwrap();
    run.stream.sync(SOON).unwrap();
    let before = card.live(Kind::Memory);
    card.set(Knob::Stalled, 1);
    run.execute(&*plan).unwrap();
    run.bindings.clear();
    assert_eq!(card.live(Kind::Memory), before, "work is queued that uses it");
    assert!(matches!(run.stream.sync(Duration::from_millis(5)), Err(Error::Timeout { .. })));
    card.set(Knob::Stalled, 0);
    run.stream.sync(SOON).unwrap();
    assert_eq!(card.live(Kind::Memory), before - 2);
}

#[test]
fn nothing_is_left_when_everything_is_dropped() {
    let card = card().alone();
    let kinds = [
        Kind::Memory,
        Kind::Pinned,
        Kind::Streams,
        Kind::Events,
        Kind::Modules,
        Kind::Graphs,
        Kind::Executables,
        // MACA's interface has nothing that releases a primary context.
        if family().name() == "maca" { Kind::Memory } else { Kind::Contexts },
    ];
    // A card that was lost before kept what it had.
    let before = kinds.map(|kind| card.live(kind));
    {
        let device = open();
        let (graph, bytes) = chain(4);
        let plan = device.plan(&graph).unwrap();
        let mut run = Run::new(&*device, &*plan, &bytes).unwrap();
        let event = device.event().unwrap();
        for _ in 0..3 {
            run.execute(&*plan).unwrap();
        }
        run.stream.record(&*event).unwrap();
        // Dropped with work queued.
    }
    assert_eq!(kinds.map(|kind| card.live(kind)), before, "{kinds:?}");
}

#[test]
fn more_than_there_is_is_refused_with_what_is_left() {
    let card = card().alone();
    let device = open();
    let total = device.info().memories[0].total_bytes;
    let asked = card.calls("cuMemAlloc_v2");
    match device.alloc(0, total as usize + 1) {
        Err(Error::OutOfMemory { asked, free, .. }) => assert!(asked == total + 1 && free > 0 && free <= total),
        other => panic!("{other:?}"),
    }
    assert_eq!(card.calls("cuMemAlloc_v2"), asked, "the driver is not asked");
    card.fail("cuMemAlloc_v2", 0, 1, 2);
    assert!(matches!(device.alloc(0, 1 << 20), Err(Error::OutOfMemory { .. })));
    assert!(device.alloc(0, 1 << 20).is_ok());
}

#[test]
fn a_launch_that_fails_poisons_its_stream_and_no_other() {
    let card = card().alone();
    let device = open();
    let (graph, bytes) = chain(2);
    let plan = device.plan(&graph).unwrap();
    let [mut bad, mut good] = [0; 2].map(|_| Run::new(&*device, &*plan, &bytes).unwrap());
    card.fail("cuLaunchKernel", 0, 1, 701);
    let error = bad.execute(&*plan).unwrap_err().to_string();
    assert!(error.contains("launching binary_f32"), "{error}");
    assert!(matches!(bad.execute(&*plan), Err(Error::Poisoned { .. })));
    let event = device.event().unwrap();
    assert!(bad.stream.record(&*event).is_err());
    assert!(event.sync(SOON).is_err() && good.stream.wait(&*event).is_err());
    good.execute(&*plan).unwrap();
    assert_eq!(floats(&good.read(1).unwrap()), [3.0; 64]);
}

#[test]
fn a_lost_card_says_so_until_it_is_opened_again() {
    let card = card().alone();
    let (graph, bytes) = chain(2);
    {
        let device = open();
        let plan = device.plan(&graph).unwrap();
        let mut run = Run::new(&*device, &*plan, &bytes).unwrap();
        run.execute(&*plan).unwrap();
        card.lose(0, 700);
        assert!(matches!(run.stream.sync(SOON), Err(Error::DeviceLost { .. })));
        assert!(matches!(run.execute(&*plan), Err(Error::DeviceLost { .. })));
        assert!(matches!(device.alloc(0, 16), Err(Error::DeviceLost { .. })));
        assert!(matches!(device.stream().err(), Some(Error::DeviceLost { .. })));
        assert!(matches!(family().open(0), Err(Error::DeviceLost { .. })));
    }
    card.lose(0, 0);
    card.forget();
    let device = open();
    let plan = device.plan(&graph).unwrap();
    let mut run = Run::new(&*device, &*plan, &bytes).unwrap();
    run.execute(&*plan).unwrap();
    assert_eq!(floats(&run.read(1).unwrap()), [3.0; 64]);
}

#[test]
fn a_card_that_does_not_answer_ends_a_patient_wait() {
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
    card.fail("cuMemsetD8Async", 0, 1, 701);
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
    // A card that is lost meanwhile is not waited for.
    card.set(Knob::Stalled, 1);
    card.lose(0, 700);
    assert_eq!(stream.sync(SOON).unwrap_err().to_string(), first);
    assert!(matches!(stream.sync(SOON), Err(Error::DeviceLost { .. })));
    card.lose(0, 0);
}

#[test]
fn large_transfers_go_through_in_parts() {
    let _card = card().alone();
    let device = open();
    let mut stream = device.stream().unwrap();
    for bytes in [1usize, 16 << 10, (16 << 10) + 1, (4 << 20) + 3, (37 << 20) + 5] {
        let data: Vec<u8> = (0..bytes).map(|i| (i * 31 + i / 4096) as u8).collect();
        let buffer = device.alloc(0, bytes + 7).unwrap();
        let part = Binding::part(&buffer, 5, bytes);
        stream.upload(&part, &data).unwrap();
        let mut back = vec![0; bytes];
        stream.download(&mut back, &part).unwrap();
        assert!(back == data, "{bytes} bytes");
    }
}

#[test]
fn a_card_that_is_too_old_is_not_present() {
    let card = card().alone();
    if family().name() != "cuda" {
        return;
    }
    card.set(Knob::Arch, 75);
    match family().open(0) {
        Err(Error::NotPresent { why, .. }) => assert!(why.contains("compute capability 7.5"), "{why}"),
        other => panic!("{:?}", other.map(|d| d.info().name.clone())),
    }
    card.set(Knob::Arch, 80);
    assert_eq!(open().info().arch, "sm_80");
}
