//! A device that fails ends the requests that are on it, in a typed error and in time, and nothing else.

mod sim;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use qiao::core::{Backend, Error};
use qiao::{Device, Model};
use sim::{cause, device, family, greedy, load, plugin, prompt, tokens};

const FAMILY: &str = "llama3-gqa";
const TOKENS: usize = 16;
/// How long a failure may take to be told, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn expected() -> Vec<u32> {
    tokens(&Model::load(family(FAMILY)).unwrap(), &greedy(TOKENS)).unwrap()
}

/// Loads and generates; the error that a fault becomes, and how long that took.
fn failing(npu: &Arc<dyn Device>) -> (Error, Duration) {
    let start = Instant::now();
    let params = greedy(TOKENS).timeout(Duration::from_millis(1500));
    let error = load(npu, &family(FAMILY)).and_then(|model| tokens(&model, &params)).expect_err("the fault shows");
    (cause(&error), start.elapsed())
}

#[test]
fn each_fault_is_a_typed_error_in_time() {
    for (fault, kind) in [
        ("alloc:3", "out of memory"),
        ("alloc:30", "out of memory"),
        ("execute:1", "internal"),
        ("execute:5", "internal"),
        ("hang:4", "time-out"),
        ("lost:1", "lost"),
        ("lost:6", "lost"),
    ] {
        let (error, took) = failing(&device(&[&format!("sim.fault={fault}")]));
        let found = match error {
            Error::OutOfMemory { .. } => "out of memory",
            Error::Internal { .. } => "internal",
            Error::Timeout { .. } => "time-out",
            Error::DeviceLost { .. } => "lost",
            other => panic!("{fault}: {other}"),
        };
        assert_eq!(found, kind, "{fault}");
        assert!(took < SOON, "{fault}: {took:?}");
    }
}

#[test]
fn other_requests_of_a_device_go_on_after_one_has_failed() {
    let want = expected();
    for fault in ["execute:4", "hang:4"] {
        let npu = device(&[&format!("sim.fault={fault}")]);
        let model = load(&npu, &family(FAMILY)).unwrap();
        let before = model.generate(prompt(), &greedy(TOKENS)).unwrap();
        let params = greedy(TOKENS).timeout(Duration::from_millis(1500));
        assert!(tokens(&model, &params).is_err(), "{fault}");
        assert_eq!({ before }.collect_all().unwrap().token_ids, want, "{fault}: a request that was there before");
        assert_eq!(tokens(&model, &greedy(TOKENS)).unwrap(), want, "{fault}: a request that came after");
    }
}

fn kill(npu: &Arc<dyn Device>) {
    let driver = &npu.info().driver;
    let pid = driver.rsplit(' ').next().unwrap();
    assert!(pid.parse::<u32>().is_ok(), "{driver}");
    Command::new("kill").args(["-9", pid]).stderr(Stdio::null()).status().unwrap();
}

/// Runs a model over and over until it is told to stop; how many times, each right.
fn going_on(model: Model, want: Vec<u32>, stop: Arc<AtomicBool>) -> thread::JoinHandle<usize> {
    thread::spawn(move || {
        let mut runs = 0;
        while !stop.load(Ordering::Relaxed) {
            assert_eq!(tokens(&model, &greedy(TOKENS)).unwrap(), want);
            runs += 1;
        }
        runs
    })
}

#[test]
fn a_device_killed_a_hundred_times_costs_its_own_requests_alone() {
    let want = expected();
    let program = format!("sim.program={}", qiao_simnpu::device_program().unwrap().display());
    let backend = plugin(&["sim.process=child", "sim.devices=2", &program]);
    let stop = Arc::new(AtomicBool::new(false));
    let beside = load(&backend.open(1).unwrap(), &family(FAMILY)).unwrap();
    let others = [
        going_on(beside, want.clone(), stop.clone()),
        going_on(Model::load(family(FAMILY)).unwrap(), want.clone(), stop.clone()),
    ];
    let mut lost = 0;
    for round in 0..100u64 {
        let npu = backend.open(0).unwrap();
        let model = load(&npu, &family(FAMILY)).unwrap();
        let mut generation = model.generate(prompt(), &greedy(TOKENS)).unwrap();
        let start = Instant::now();
        // Every other time between two steps, else at any moment.
        let timer = (round % 2 == 1).then(|| {
            let npu = npu.clone();
            thread::spawn(move || {
                thread::sleep(Duration::from_micros(round * 137 % 9000));
                kill(&npu);
            })
        });
        let (mut said, mut failure) = (Vec::new(), None);
        for piece in &mut generation {
            match piece {
                Ok(piece) => said.extend(piece.token_ids),
                Err(error) => failure = Some(error),
            }
            if round % 2 == 0 && said.len() as u64 == 1 + round / 2 % 10 {
                kill(&npu);
            }
        }
        assert!(start.elapsed() < SOON, "round {round}: {:?}", start.elapsed());
        assert!(want.starts_with(&said), "round {round}: what was said before stays right");
        if let Some(error) = failure {
            assert!(matches!(cause(&error), Error::DeviceLost { .. }), "round {round}: {error}");
            lost += 1;
        }
        if let Some(timer) = timer {
            timer.join().unwrap();
        }
        drop(generation);
        let again = tokens(&model, &greedy(1)).expect_err("it stays lost");
        assert!(matches!(cause(&again), Error::DeviceLost { .. }), "round {round}: {again}");
    }
    stop.store(true, Ordering::Relaxed);
    for other in others {
        assert!(other.join().unwrap() > 0, "the others were right all along");
    }
    assert!(lost >= 50, "{lost} of 100 were caught while they generated");
    println!("{lost} of 100 generations were cut off");
}
