//! The built library is a plugin like any other's.

mod rig;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qiao_conformance::contract::Clause;
use qiao_conformance::{Depth, Outcome, Subject};
use qiao_core::{Backend, Error};
use qiao_plugin::{Options, Plugin, PluginBackend};
use rig::{LONG, N, Sum};

fn load(options: &str) -> Result<Arc<PluginBackend>, Error> {
    Plugin::load(qiao_simnpu::library().unwrap(), &Options::parse(options.split(';')).unwrap())
}

#[test]
fn the_plugin_holds_the_plain_clauses() {
    let mut failures = Vec::new();
    for preset in ["plain", "ascend-like", "kunlun-like"] {
        let backend = load(&format!("sim.preset={preset};sim.memory=256m;sim.max_alloc=64m")).unwrap();
        let mut subject = Subject::open(move || backend.open(0)).unwrap();
        subject.timeout = Duration::from_secs(60);
        for clause in Clause::all().filter(|c| c.depth == Depth::Smoke) {
            if let Outcome::Failed(failure) = clause.outcome(&subject) {
                failures.push(format!("{preset}: {}: {}: {}", clause.id, failure.check, failure.why));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn options_reach_it_one_by_one_and_as_a_list() {
    for options in
        ["sim.preset=ascend-like;sim.devices=2;sim.align=128", "sim=sim.preset=ascend-like sim.devices=2 sim.align=128"]
    {
        let backend = load(options).unwrap();
        let infos = backend.devices().unwrap();
        assert_eq!((backend.name(), infos.len()), ("simnpu", 2));
        assert_eq!((infos[1].name.as_str(), infos[1].tensor_align), ("simnpu ascend-like", 128));
    }
    for (options, hint) in
        [("sim.preset=chip", "ascend-like"), ("sim=sim.sed=4", "sim.seed"), ("sim.align=3", "power of two")]
    {
        let error = load(options).err().unwrap().to_string();
        assert!(error.contains(hint), "{error}");
    }
}

#[test]
fn a_process_that_is_killed_is_a_lost_device_through_the_plugin() {
    let program = qiao_simnpu::device_program().unwrap();
    let backend = load(&format!("sim.process=child;sim.program={}", program.display())).unwrap();
    let device = backend.open(0).unwrap();
    let (mut stream, sum) = (device.stream().unwrap(), Sum::new(&*device).unwrap());
    sum.run(&mut *stream).unwrap();
    assert_eq!(sum.result(&mut *stream).unwrap(), [3.0; N]);
    let pid = device.info().driver.rsplit(' ').next().unwrap().to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    let start = Instant::now();
    let ended = stream.sync(LONG).and_then(|()| stream.sync(LONG));
    assert!(matches!(ended, Err(Error::DeviceLost { .. })), "{ended:?}");
    assert!(matches!(sum.run(&mut *stream), Err(Error::DeviceLost { .. })));
    assert!(matches!(device.alloc(0, 64), Err(Error::DeviceLost { .. })));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn faults_keep_their_kind_through_the_plugin() {
    let device = load("sim.fault=alloc:9,execute:2,hang:3").unwrap().open(0).unwrap();
    let (mut stream, mut other) = (device.stream().unwrap(), device.stream().unwrap());
    let sum = Sum::new(&*device).unwrap();
    // The host allocates a little for itself, so that which call is struck is its affair.
    let failed: Vec<Error> = (0..9).filter_map(|_| device.alloc(0, 64).err()).collect();
    assert!(matches!(failed[..], [Error::OutOfMemory { .. }]), "{failed:?}");
    sum.run(&mut *stream).unwrap();
    sum.execute(&mut *stream).unwrap();
    assert!(matches!(stream.sync(LONG), Err(Error::Internal { .. })));
    sum.execute(&mut *other).unwrap();
    assert!(matches!(other.sync(Duration::from_millis(40)), Err(Error::Timeout { .. })));
    let start = Instant::now();
    drop(other);
    assert!(start.elapsed() < Duration::from_secs(5));
}
