//! One server over devices of several kinds: every request is answered, whichever device is lost and whenever.

mod sim;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_lite::{StreamExt, future};
use qiao::{Balance, DType, Device, Model, ModelOptions, Params, Reply, Request, ServeOptions, Server};
use qiao_layers::faulty::{Command as Call, Fault, Faults, Faulty, Rule, When};
use sim::{device, family, greedy};

const FAMILY: &str = "llama3-gqa";
const SOON: Duration = Duration::from_secs(60);

fn npu() -> Arc<dyn Device> {
    device(&["sim.memory=512m", "sim.max_alloc=128m"])
}

/// The first OpenCL device of this machine; none where it has none, which is told.
///
/// # Panics
/// There is none, and `QIAO_REQUIRE_OPENCL=1`; or one is listed and does not open.
fn opencl() -> Option<Arc<dyn Device>> {
    let listing = qiao::registry().list().into_iter().find(|l| l.backend == "opencl").expect("it was compiled in");
    match listing.devices {
        Ok(_) => Some(qiao::open("opencl:0", None).unwrap()),
        Err(why) if std::env::var("QIAO_REQUIRE_OPENCL").is_ok_and(|v| v == "1") => panic!("{why}"),
        Err(why) => {
            println!("skipped: OpenCL: {why}");
            None
        }
    }
}

/// The devices of a mix: those of every machine, and an OpenCL device where there is one.
fn mix() -> Vec<(&'static str, Arc<dyn Device>)> {
    let mut all = vec![
        ("cpu", qiao::open("cpu", None).unwrap()),
        ("reference", qiao::open("reference", None).unwrap()),
        ("npu", npu()),
    ];
    all.extend(opencl().map(|device| ("opencl", device)));
    all
}

fn load(device: Arc<dyn Device>) -> Model {
    let options = ModelOptions::new().on(device).dtype(DType::F32).patience(Duration::from_millis(1500));
    options.load(family(FAMILY)).unwrap()
}

fn options() -> ServeOptions {
    ServeOptions::new().sequences(4).batch_tokens(24).block_size(16).cache_bytes(1 << 20)
}

/// A request of a number: its prompt, and how it goes on.
fn request(number: u32) -> (Vec<u32>, Params) {
    let prompt = (0..5 + number * 3 % 17).map(|i| (number * 13 + i * 7) % 128).collect();
    let params = greedy(6 + number as usize * 5 % 15);
    (prompt, if number % 4 == 3 { params.temperature(0.9).seed(u64::from(number)) } else { params })
}

/// What each request says alone, on the processor.
fn alone(requests: u32) -> Vec<Vec<u32>> {
    let model = load(qiao::open("cpu", None).unwrap());
    let say = |number| {
        let (prompt, params) = request(number);
        model.generate(prompt, &params).unwrap().collect_all().unwrap().token_ids
    };
    (0..requests).map(say).collect()
}

fn said(reply: &mut Reply) -> Vec<u32> {
    reply.blocking().flat_map(|chunk| chunk.unwrap().piece.token_ids).collect()
}

/// No block is held any more.
fn nothing_is_left(server: &Server) {
    let start = Instant::now();
    loop {
        let load = server.load();
        if (load.cache.used, load.cache.sequences, load.queued, load.running, load.preempted) == (0, 0, 0, 0, 0) {
            assert!(load.cache.cached + load.cache.free == load.cache.total);
            return;
        }
        assert!(start.elapsed() < SOON, "{load:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The mix with one device that fails by a rule, turned on at once.
fn with_victim(victim: usize, call: Call, at: u64, options: ServeOptions) -> (Server, Faults) {
    let rule = Rule { command: call, when: When::Nth(at), fault: Fault::DeviceLost };
    let mut switch = None;
    let models: Vec<(Model, f64)> = mix()
        .into_iter()
        .enumerate()
        .map(|(i, (_, device))| match i == victim {
            true => {
                let (device, faults) = Faulty::wrap(device, 1, [rule]);
                switch = Some(faults);
                (load(device), 1.0)
            }
            false => (load(device), 1.0),
        })
        .collect();
    let (server, switch) = (Server::over(models, options).unwrap(), switch.unwrap());
    switch.set(true);
    (server, switch)
}

#[test]
fn whichever_device_is_lost_and_whenever_no_request_is() {
    let requests = 20;
    let want = alone(requests);
    for (victim, (name, _)) in mix().iter().enumerate() {
        for (call, at) in
            [(Call::Execute, 0), (Call::Execute, 3), (Call::Execute, 11), (Call::Upload, 6), (Call::Download, 9)]
        {
            let (server, faults) = with_victim(victim, call, at, options());
            let submit = |number| {
                let (prompt, params) = request(number);
                server.submit(Request::new(prompt).params(params)).unwrap()
            };
            let mut replies: Vec<Reply> = (0..requests).map(submit).collect();
            for (number, reply) in replies.iter_mut().enumerate() {
                assert_eq!(said(reply), want[number], "{name} lost at {call:?} {at}: request {number}");
            }
            nothing_is_left(&server);
            let replicas = server.replicas();
            assert_eq!(replicas.iter().map(|replica| replica.requests).sum::<u64>(), u64::from(requests));
            assert_eq!(faults.total() > 0, replicas[victim].ended.is_some(), "{name} {call:?} {at}");
            if at < 4 {
                assert!(replicas[victim].ended.is_some(), "{name} had no work");
                assert!(replicas.iter().map(|replica| replica.taken_over).sum::<u64>() > 0, "{name} {call:?} {at}");
            }
            let others = replicas.iter().enumerate().filter(|(i, _)| *i != victim);
            assert!(others.clone().all(|(_, replica)| replica.ended.is_none()));
            assert!(server.drain(SOON));
        }
    }
}

#[test]
fn a_stream_goes_on_where_it_was_with_samples_and_prompts_in_common() {
    let (server, _faults) = with_victim(0, Call::Execute, 7, options().balance(Balance::RoundRobin));
    let common: Vec<u32> = (0..40).collect();
    let params = greedy(12).temperature(0.8).seed(5);
    let model = load(qiao::open("cpu", None).unwrap());
    let want = |seed: u64, number: u32| {
        let prompt = [&common[..], &[number]].concat();
        let params = params.clone().seed(seed);
        model.generate(prompt, &params).unwrap().collect_all().unwrap().token_ids
    };
    future::block_on(async {
        let mut replies = Vec::new();
        for number in 0..8 {
            let prompt = [&common[..], &[number]].concat();
            replies.push(server.submit_async(Request::new(prompt).params(params.clone()).samples(2)).await.unwrap());
        }
        for (number, mut reply) in (0..).zip(replies) {
            let mut all = [Vec::new(), Vec::new()];
            while let Some(chunk) = reply.next().await {
                let chunk = chunk.unwrap();
                all[chunk.sample].extend(chunk.piece.token_ids);
            }
            assert_eq!(all, [want(5, number), want(6, number)], "request {number}");
        }
        assert!(server.drain_async(SOON).await);
    });
    nothing_is_left(&server);
    assert!(server.replicas()[0].ended.as_ref().is_some_and(|why| why.contains("lost")));
}

#[test]
fn a_chip_that_hangs_or_is_killed_costs_no_request() {
    let want = alone(12);
    let program = format!("sim.program={}", qiao_simnpu::device_program().unwrap().display());
    let child = device(&["sim.process=child", &program]);
    let driver = child.info().driver.clone();
    let hanging = device(&["sim.fault=hang:9"]);
    let pid = driver.rsplit(' ').next().map(str::to_string);
    for (chip, kill) in [(hanging, None), (child, pid)] {
        let killed = kill.is_some();
        let models = [(load(chip), 1.0), (load(qiao::open("cpu", None).unwrap()), 1.0)];
        let server = Server::over(models, options().balance(Balance::RoundRobin)).unwrap();
        let submit = |number| {
            let (prompt, params) = request(number);
            server.submit(Request::new(prompt).params(params)).unwrap()
        };
        let mut replies: Vec<Reply> = (0..12).map(submit).collect();
        if let Some(pid) = kill {
            assert!(pid.parse::<u32>().is_ok(), "{driver}");
            Command::new("kill").args(["-9", &pid]).stderr(Stdio::null()).status().unwrap();
        }
        for (number, reply) in replies.iter_mut().enumerate() {
            assert_eq!(said(reply), want[number], "request {number}");
        }
        nothing_is_left(&server);
        let first = server.replicas().remove(0);
        assert!(first.ended.is_some() || !killed && first.load.faults > 0, "{first:?}");
    }
}

#[test]
fn a_model_across_devices_may_stand_beside_one_on_a_single_device() {
    let want = alone(8);
    let cpu = || qiao::open("cpu", None).unwrap();
    let rule = Rule { command: Call::Execute, when: When::Nth(4), fault: Fault::DeviceLost };
    let (second, faults) = Faulty::wrap(cpu(), 1, [rule]);
    let across = ModelOptions::new().on_devices([cpu(), second]).dtype(DType::F32).load(family(FAMILY)).unwrap();
    let server = Server::over([(across, 3.0), (load(cpu()), 1.0)], options()).unwrap();
    faults.set(true);
    let submit = |number| {
        let (prompt, params) = request(number);
        server.submit(Request::new(prompt).params(params)).unwrap()
    };
    let mut replies: Vec<Reply> = (0..8).map(submit).collect();
    for (number, reply) in replies.iter_mut().enumerate() {
        assert_eq!(said(reply), want[number]);
    }
    nothing_is_left(&server);
    assert!(server.replicas()[0].ended.is_some() && server.replicas()[1].taken_over > 0);
}

#[test]
fn models_that_do_not_say_the_same_are_refused() {
    let cpu = || qiao::open("cpu", None).unwrap();
    let refused = |other: Model| Server::over([(load(cpu()), 1.0), (other, 1.0)], options()).err().unwrap().to_string();
    let bf16 = ModelOptions::new().on(cpu()).dtype(DType::BF16).load(family(FAMILY)).unwrap();
    let error = refused(bf16);
    assert!(error.contains("f32 with keys and values in f32") && error.contains("bf16"), "{error}");
    let other = ModelOptions::new().on(cpu()).dtype(DType::F32).load(family("llama2-mha")).unwrap();
    assert!(refused(other).contains("another checkpoint"));
    let short = ModelOptions::new().on(cpu()).dtype(DType::F32).context(64).load(family(FAMILY)).unwrap();
    assert!(refused(short).contains("contexts of"));
    assert!(Server::over([], options()).is_err());
    assert!(Server::over([(load(cpu()), 0.0)], options()).is_err());
}
