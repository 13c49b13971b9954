//! Every fault gives its typed error, on the stream or device that it strikes and nowhere else.

mod rig;

use std::time::{Duration, Instant};

use qiao_core::{Backend, Error, Support};
use qiao_simnpu::{Settings, SimBackend};
use rig::{LONG, N, Sum};

fn backend(options: &str) -> SimBackend {
    SimBackend::new(Settings::from_words(options.split(' ')).unwrap())
}

#[test]
fn an_allocation_that_is_struck_is_out_of_memory() {
    let device = backend("sim.fault=alloc:3").open(0).unwrap();
    let held = [device.alloc(0, 64).unwrap(), device.alloc(0, 64).unwrap()];
    assert!(matches!(device.alloc(0, 64), Err(Error::OutOfMemory { asked: 64, .. })));
    assert!(device.alloc(0, 64).is_ok());
    drop(held);
}

#[test]
fn an_execution_that_fails_poisons_its_stream_alone() {
    let device = backend("sim.fault=execute:2").open(0).unwrap();
    let (mut stream, mut other) = (device.stream().unwrap(), device.stream().unwrap());
    let sum = Sum::new(&*device).unwrap();
    sum.run(&mut *stream).unwrap();
    assert_eq!(sum.result(&mut *stream).unwrap(), [3.0; N]);
    sum.execute(&mut *stream).unwrap();
    let event = device.event().unwrap();
    // The record may come before the failure is known.
    let _ = stream.record(&*event);
    assert!(matches!(stream.sync(LONG), Err(Error::Internal { .. })));
    assert!(matches!(event.sync(LONG), Err(Error::Internal { .. })));
    assert!(matches!(sum.execute(&mut *stream), Err(Error::Poisoned { .. })));
    assert!(matches!(stream.upload(&sum.bindings[0], &[0; 4]), Err(Error::Poisoned { .. })));
    assert!(matches!(stream.sync(LONG), Err(Error::Internal { .. })), "the first failure, again");
    sum.run(&mut *other).unwrap();
    assert_eq!(sum.result(&mut *other).unwrap(), [3.0; N]);
}

#[test]
fn a_failure_is_told_when_all_that_was_queued_is_over() {
    let device = backend("sim.fault=execute:1 sim.latency_us=30000").open(0).unwrap();
    let (mut stream, sum) = (device.stream().unwrap(), Sum::new(&*device).unwrap());
    let start = Instant::now();
    sum.execute(&mut *stream).unwrap();
    // Every command takes its time, the skipped ones too.
    let queued = 1 + (0..5).filter(|_| stream.upload(&sum.bindings[0], &[0; 4]).is_ok()).count();
    assert!(matches!(stream.sync(LONG), Err(Error::Internal { .. })));
    assert!(start.elapsed() >= Duration::from_millis(30) * queued as u32, "{queued} commands");
    assert!(matches!(stream.sync(Duration::ZERO), Err(Error::Internal { .. })), "and then at once");
}

#[test]
fn a_hang_is_a_timeout_and_its_stream_can_be_destroyed() {
    let device = backend("sim.fault=hang:1").open(0).unwrap();
    let (mut stream, mut other) = (device.stream().unwrap(), device.stream().unwrap());
    stream.set_patience(Duration::from_millis(40));
    let sum = Sum::new(&*device).unwrap();
    sum.run(&mut *stream).unwrap();
    let event = device.event().unwrap();
    stream.record(&*event).unwrap();
    for _ in 0..2 {
        let start = Instant::now();
        assert!(matches!(sum.result(&mut *stream), Err(Error::Timeout { millis: 40, .. })));
        assert!(matches!(stream.sync(Duration::from_millis(30)), Err(Error::Timeout { millis: 30, .. })));
        assert!(matches!(stream.sync(LONG), Err(Error::Timeout { millis: 40, .. })), "its patience is shorter");
        assert!(matches!(event.sync(Duration::from_millis(20)), Err(Error::Timeout { .. })));
        assert!(!event.is_reached().unwrap());
        assert!(start.elapsed() >= Duration::from_millis(90) && start.elapsed() < LONG);
    }
    // A time-out is no failure: the stream still takes commands.
    stream.upload(&sum.bindings[0], &[0; 4]).unwrap();
    other.wait(&*event).unwrap();
    let start = Instant::now();
    drop(stream);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(matches!(event.sync(LONG), Err(Error::Internal { .. })), "nobody reaches it any more");
    assert!(matches!(other.sync(LONG), Err(Error::Internal { .. })), "who waits for it hears of it");
    let mut third = device.stream().unwrap();
    sum.run(&mut *third).unwrap();
    assert_eq!(sum.result(&mut *third).unwrap(), [3.0; N]);
}

#[test]
fn a_lost_device_stays_lost_and_the_others_go_on() {
    let backend = backend("sim.fault=lost:2 sim.devices=2");
    let (device, neighbour) = (backend.open(0).unwrap(), backend.open(1).unwrap());
    let (mut stream, mut idle) = (device.stream().unwrap(), device.stream().unwrap());
    let sum = Sum::new(&*device).unwrap();
    let event = device.event().unwrap();
    sum.run(&mut *stream).unwrap();
    sum.run(&mut *stream).unwrap();
    assert!(matches!(stream.sync(LONG), Err(Error::DeviceLost { .. })));
    for stream in [&mut stream, &mut idle] {
        assert!(matches!(stream.sync(LONG), Err(Error::DeviceLost { .. })));
        assert!(matches!(sum.execute(&mut **stream), Err(Error::DeviceLost { .. })));
        assert!(matches!(stream.upload(&sum.bindings[0], &[0; 4]), Err(Error::DeviceLost { .. })));
        assert!(matches!(stream.download(&mut [0; 4], &sum.bindings[0]), Err(Error::DeviceLost { .. })));
        assert!(matches!(stream.record(&*event), Err(Error::DeviceLost { .. })));
    }
    assert!(matches!(device.alloc(0, 64), Err(Error::DeviceLost { .. })));
    assert!(matches!(device.stream().err(), Some(Error::DeviceLost { .. })));
    assert!(matches!(device.event().err(), Some(Error::DeviceLost { .. })));
    assert!(matches!(device.plan(&sum.graph).err(), Some(Error::DeviceLost { .. })));
    assert!(matches!(event.is_reached(), Err(Error::DeviceLost { .. })));
    for device in [neighbour, backend.open(0).unwrap()] {
        let (mut stream, sum) = (device.stream().unwrap(), Sum::new(&*device).unwrap());
        sum.run(&mut *stream).unwrap();
        assert_eq!(sum.result(&mut *stream).unwrap(), [3.0; N]);
    }
}

#[test]
fn a_loss_ends_every_wait_at_once() {
    let device = backend("sim.fault=hang:1,lost:2").open(0).unwrap();
    let (mut hung, mut loses) = (device.stream().unwrap(), device.stream().unwrap());
    let sum = Sum::new(&*device).unwrap();
    sum.run(&mut *hung).unwrap();
    std::thread::scope(|s| {
        let waits = s.spawn(|| hung.sync(LONG));
        std::thread::sleep(Duration::from_millis(20));
        sum.run(&mut *loses).unwrap();
        let start = Instant::now();
        assert!(matches!(waits.join().unwrap(), Err(Error::DeviceLost { .. })));
        assert!(start.elapsed() < LONG / 3);
    });
}

#[test]
fn one_element_is_corrupted() {
    let device = backend("sim.fault=corrupt:2").open(0).unwrap();
    let (mut stream, sum) = (device.stream().unwrap(), Sum::new(&*device).unwrap());
    for wrong in [0, 1, 0] {
        sum.run(&mut *stream).unwrap();
        let result = sum.result(&mut *stream).unwrap();
        assert_eq!(result.iter().filter(|x| **x != 3.0).count(), wrong);
    }
}

#[test]
fn a_short_upload_writes_half() {
    let device = backend("sim.fault=short:2").open(0).unwrap();
    let mut stream = device.stream().unwrap();
    let buffer = rig::alloc(&*device, 100).unwrap();
    let mut got = [0; 100];
    for byte in [1, 2] {
        stream.upload(&buffer, &[byte; 100]).unwrap();
    }
    stream.download(&mut got, &buffer).unwrap();
    assert_eq!(got, std::array::from_fn(|i| if i < 50 { 2 } else { 1 }));
}

#[test]
fn a_plan_that_was_promised_is_not_given() {
    let device = backend("sim.fault=lying-plan").open(0).unwrap();
    let graph = rig::sum_graph();
    assert_eq!(device.support(&graph)[0].answer, Support::Native);
    assert!(matches!(device.plan(&graph).err(), Some(Error::Internal { .. })));
}

#[test]
fn a_plan_runs_once() {
    let device = backend("sim.fault=lying-second").open(0).unwrap();
    let (mut stream, sum) = (device.stream().unwrap(), Sum::new(&*device).unwrap());
    sum.run(&mut *stream).unwrap();
    assert!(matches!(sum.run(&mut *stream), Err(Error::Internal { .. })));
    assert_eq!(sum.result(&mut *stream).unwrap(), [3.0; N]);
    let again = Sum::new(&*device).unwrap();
    again.run(&mut *stream).unwrap();
}

#[test]
fn support_takes_its_time() {
    let device = backend("sim.fault=slow-support:60").open(0).unwrap();
    let start = Instant::now();
    device.support(&rig::sum_graph());
    assert!(start.elapsed() >= Duration::from_millis(60));
}
