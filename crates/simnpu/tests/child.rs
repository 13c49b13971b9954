//! A device in a process of its own holds the contract, and killing the process is a device loss and nothing worse.

mod rig;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qiao_conformance::contract::Clause;
use qiao_conformance::{Case, Depth, Outcome, Status, Subject};
use qiao_core::{Backend, Device, Error, Event, OpKind, Plan};
use qiao_simnpu::{ChildBackend, ChildDevice, Settings};
use rig::{LONG, N, Sum};

/// How soon a loss must be told.
const SOON: Duration = Duration::from_secs(5);

fn backend(options: &str) -> ChildBackend {
    let program = format!("sim.program={}", env!("CARGO_BIN_EXE_qiao-simnpu-device"));
    let words = options.split(' ').chain(["sim.process=child", &program]);
    ChildBackend::new(Settings::from_words(words).unwrap()).unwrap()
}

fn kill(device: &ChildDevice) {
    let status = Command::new("kill").args(["-9", &device.child_pid().to_string()]).status().unwrap();
    assert!(status.success());
}

/// Whether a process is there, and no zombie.
fn is_running(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|l| l.starts_with("State:") && !l.contains('Z'))
}

/// Waits until a process is gone.
fn ends(pid: u32) {
    let start = Instant::now();
    while is_running(pid) {
        assert!(start.elapsed() < SOON, "process {pid} stays");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn lost<T>(result: Result<T, Error>, what: &str) {
    match result {
        Err(Error::DeviceLost { .. }) => {}
        Err(other) => panic!("{what}: {other}"),
        Ok(_) => panic!("{what} went well"),
    }
}

#[test]
fn a_device_in_a_child_holds_the_contract() {
    let backend = Arc::new(backend("sim.memory=256m sim.max_alloc=64m sim.preset=ascend-like"));
    let mut subject = Subject::open(move || backend.open(0)).unwrap();
    subject.timeout = Duration::from_secs(60);
    let mut failures = Vec::new();
    for clause in Clause::all() {
        let start = Instant::now();
        if let Outcome::Failed(failure) = clause.outcome(&subject) {
            failures.push(format!("{}: {}: {}", clause.id, failure.check, failure.why));
        }
        println!("{:6} ms {}", start.elapsed().as_millis(), clause.id);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Runs some of the plain cases of the operators that are named.
fn cross(options: &str, kinds: &[OpKind]) {
    let backend = Arc::new(backend(options));
    let subject = Subject::open(move || backend.open(0)).unwrap();
    for &kind in kinds {
        let of = |case: &Case| matches!(case, Case::Op { family, .. } if family.op == kind);
        for case in Case::all(Depth::Smoke).into_iter().filter(of).step_by(5) {
            let record = case.run(&subject, 1);
            assert!(matches!(record.status, Status::Passed | Status::Unsupported), "{record:?}");
        }
    }
}

#[test]
fn graphs_of_every_operator_cross() {
    cross("sim.preset=plain sim.jitter_us=0", OpKind::ALL);
}

#[test]
fn packed_weights_cross() {
    cross("sim.preset=ascend-310p-like sim.jitter_us=0", &[OpKind::Matmul, OpKind::ScaledMatmul]);
}

#[test]
fn the_driver_names_the_process() {
    let backend = backend("sim.devices=2");
    let (a, b) = (backend.open_device(0).unwrap(), backend.open_device(1).unwrap());
    assert_ne!(a.child_pid(), b.child_pid());
    for device in [a, b] {
        assert_eq!(device.info().driver, format!("simulated, process {}", device.child_pid()));
    }
}

#[test]
fn a_killed_process_is_a_lost_device_at_once() {
    let backend = backend("sim.devices=2");
    let (device, neighbour) = (backend.open_device(0).unwrap(), backend.open_device(1).unwrap());
    let (mut stream, sum, event) = (device.stream().unwrap(), Sum::new(&device).unwrap(), device.event().unwrap());
    sum.run(&mut *stream).unwrap();
    stream.record(&*event).unwrap();
    assert_eq!(sum.result(&mut *stream).unwrap(), [3.0; N]);
    let start = Instant::now();
    kill(&device);
    lost(stream.sync(LONG).and_then(|()| stream.sync(LONG)), "a sync");
    lost(stream.upload(&sum.bindings[0], &[0; 4]), "an upload");
    lost(sum.result(&mut *stream), "a download");
    lost(sum.execute(&mut *stream), "an execution");
    lost(stream.copy(&sum.bindings[0], &sum.bindings[1]), "a copy");
    lost(stream.fill(&sum.bindings[0], 1), "a fill");
    lost(stream.record(&*event), "a record");
    lost(stream.wait(&*event), "a wait");
    lost(event.sync(LONG), "a wait for an event");
    lost(event.is_reached(), "an event");
    lost(device.alloc(0, 64), "an allocation");
    lost(device.stream(), "a stream");
    lost(device.event(), "an event");
    lost(device.plan(&sum.graph), "a plan");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    let pid = device.child_pid();
    drop((stream, sum, event, device));
    ends(pid);
    // Another device goes on, and this one comes back when it is opened again.
    let again = backend.open_device(0).unwrap();
    assert_ne!(again.child_pid(), pid);
    for device in [neighbour, again] {
        let (mut stream, sum) = (device.stream().unwrap(), Sum::new(&device).unwrap());
        sum.run(&mut *stream).unwrap();
        assert_eq!(sum.result(&mut *stream).unwrap(), [3.0; N]);
    }
}

#[test]
fn a_kill_ends_every_wait_that_is_under_way() {
    let device = backend("sim.fault=hang:1,hang:2,hang:3").open_device(0).unwrap();
    std::thread::scope(|s| {
        let mut waits = Vec::new();
        for i in 0..3 {
            let device = &device;
            let (ready, told) = std::sync::mpsc::channel();
            waits.push(s.spawn(move || {
                let (mut stream, sum) = (device.stream().unwrap(), Sum::new(device).unwrap());
                let event = device.event().unwrap();
                sum.run(&mut *stream).unwrap();
                stream.record(&*event).unwrap();
                ready.send(()).unwrap();
                match i {
                    0 => stream.sync(Duration::MAX),
                    1 => sum.result(&mut *stream).map(|_| ()),
                    _ => event.sync(Duration::MAX),
                }
            }));
            told.recv().unwrap();
        }
        std::thread::sleep(Duration::from_millis(30));
        let start = Instant::now();
        kill(&device);
        for wait in waits {
            lost(wait.join().unwrap(), "a wait");
        }
        assert!(start.elapsed() < SOON);
    });
}

#[test]
fn no_instant_of_a_kill_is_a_bad_one() {
    let backend = backend("sim.jitter_us=0");
    for round in 0..25u64 {
        let device = backend.open_device(0).unwrap();
        std::thread::scope(|s| {
            let work = s.spawn(|| -> Result<(), Error> {
                let mut stream = device.stream()?;
                loop {
                    let sum = Sum::new(&device)?;
                    for _ in 0..5 {
                        sum.run(&mut *stream)?;
                        assert_eq!(sum.result(&mut *stream)?, [3.0; N]);
                    }
                }
            });
            std::thread::sleep(Duration::from_micros(700 * round));
            let start = Instant::now();
            kill(&device);
            lost(work.join().unwrap(), "work");
            assert!(start.elapsed() < SOON);
        });
    }
}

#[test]
fn one_stream_does_not_wait_for_another() {
    let device = backend("sim.fault=hang:1").open_device(0).unwrap();
    let (mut hung, mut free) = (device.stream().unwrap(), device.stream().unwrap());
    hung.set_patience(Duration::from_millis(300));
    let (mine, other) = (Sum::new(&device).unwrap(), Sum::new(&device).unwrap());
    mine.run(&mut *hung).unwrap();
    std::thread::scope(|s| {
        let waits = s.spawn(|| mine.result(&mut *hung));
        let start = Instant::now();
        let mut rounds = 0;
        while !waits.is_finished() {
            other.run(&mut *free).unwrap();
            assert_eq!(other.result(&mut *free).unwrap(), [3.0; N]);
            rounds += 1;
        }
        assert!(matches!(waits.join().unwrap(), Err(Error::Timeout { millis: 300, .. })));
        assert!(start.elapsed() >= Duration::from_millis(250) && rounds > 3, "{rounds} rounds");
    });
}

#[test]
fn errors_keep_their_kind_on_their_way() {
    let device = backend("sim.fault=alloc:5,execute:2 sim.preset=ascend-like sim.bf16=off").open_device(0).unwrap();
    let (mut stream, sum) = (device.stream().unwrap(), Sum::new(&device).unwrap());
    assert!(matches!(device.alloc(0, 64), Err(Error::OutOfMemory { asked: 64, .. })));
    sum.run(&mut *stream).unwrap();
    let mut bindings = sum.bindings.clone();
    bindings[1].offset = 8;
    let error = sum.plan.execute(&mut *stream, &bindings, &sum.workspace).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains("binding of 'b'"), "{error}");
    sum.execute(&mut *stream).unwrap();
    assert!(matches!(stream.sync(LONG), Err(Error::Internal { .. })));
    assert!(matches!(sum.execute(&mut *stream), Err(Error::Poisoned { .. })));
    let mut graph = qiao_core::Graph::new();
    let x = graph.bind("x", qiao_core::TensorDesc::new(qiao_core::DType::BF16, &[4]).unwrap());
    graph.op1(qiao_core::Op::Silu(qiao_core::NoAttrs {}), &[x]).unwrap();
    let answers = device.support(&graph);
    match (device.plan(&graph).err(), &answers[0].answer) {
        (Some(Error::Unsupported { list, .. }), qiao_core::Support::No(reason)) => {
            assert_eq!((list[0].op, &list[0].reason), ("silu", reason));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_gate_holds_across_processes() {
    let device = backend("sim.engines=1").open_device(0).unwrap();
    let mut stream = device.stream().unwrap();
    let cell = rig::alloc(&device, 8).unwrap();
    device.close_gate().unwrap();
    stream.upload(&cell, &[1; 8]).unwrap();
    stream.set_patience(Duration::from_millis(40));
    for (timeout, waited) in [(Duration::from_millis(30), 30), (LONG, 40)] {
        assert!(matches!(stream.sync(timeout), Err(Error::Timeout { millis, .. }) if millis == waited));
    }
    stream.set_patience(Duration::MAX);
    device.open_gate().unwrap();
    stream.sync(LONG).unwrap();
}

#[test]
fn the_process_ends_with_its_host() {
    let backend = backend("sim.preset=plain");
    let device = backend.open_device(0).unwrap();
    let pid = device.child_pid();
    assert!(is_running(pid));
    drop(device);
    assert!(is_running(pid), "the backend still holds it");
    drop(backend);
    ends(pid);
}

#[test]
fn a_process_whose_host_is_killed_ends_too() {
    // This very test, run by a host that is killed, prints the process it has started.
    const KEY: &str = "SIMNPU_TEST_HOST";
    if std::env::var(KEY).is_ok() {
        let device = backend("sim.preset=plain").open_device(0).unwrap();
        println!("process={};", device.child_pid());
        std::thread::sleep(LONG);
        return;
    }
    let mut host = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_whose_host_is_killed_ends_too", "--nocapture"])
        .env(KEY, "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(host.stdout.take().unwrap());
    let mut line = String::new();
    let pid: u32 = loop {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut out, &mut line).unwrap() > 0, "the host has ended");
        let number = line.split_once("process=").and_then(|(_, rest)| rest.split(';').next());
        if let Some(number) = number {
            break number.parse().unwrap();
        }
    };
    assert!(is_running(pid));
    host.kill().unwrap();
    host.wait().unwrap();
    ends(pid);
}

#[test]
fn a_program_that_is_none_is_an_error_that_says_so() {
    let settings = Settings::from_words(["sim.process=child", "sim.program=/no/such/program"]).unwrap();
    let error = ChildBackend::new(settings).unwrap().open(0).err().unwrap().to_string();
    assert!(error.contains("/no/such/program") && error.contains("cargo build"), "{error}");
    let settings = Settings::from_words(["sim.process=child", "sim.program=/bin/true"]).unwrap();
    lost(ChildBackend::new(settings).unwrap().open(0), "a program that ends at once");
}

#[test]
fn buffers_and_plans_belong_to_their_process() {
    let backend = backend("sim.devices=2");
    let (a, b) = (backend.open_device(0).unwrap(), backend.open_device(1).unwrap());
    let (mut stream, sum) = (a.stream().unwrap(), Sum::new(&b).unwrap());
    let plan: &dyn Plan = &*sum.plan;
    assert!(matches!(plan.execute(&mut *stream, &sum.bindings, &sum.workspace), Err(Error::Invalid { .. })));
    assert!(matches!(stream.upload(&sum.bindings[0], &[0; 4]), Err(Error::Invalid { .. })));
    let event: Arc<dyn Event> = b.event().unwrap();
    assert!(matches!(stream.record(&*event), Err(Error::Invalid { .. })));
    stream.sync(LONG).unwrap();
}
