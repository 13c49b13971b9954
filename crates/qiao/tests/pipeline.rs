//! A model's layers on several devices, of any backends: it says what it says on one.

mod sim;

use std::sync::Arc;

use qiao::core::Error;
use qiao::{Device, Model, ModelOptions, Params, Request, ServeOptions};
use qiao_layers::faulty::{Command, Fault, Faulty, Rule, When};
use sim::{cause, device, family, greedy, tokens};

const TOKENS: usize = 12;

fn open(name: &str) -> Arc<dyn Device> {
    qiao::open(name, None).unwrap()
}

fn npu(preset: &str) -> Arc<dyn Device> {
    device(&[&format!("sim.preset={preset}"), "sim.memory=512m", "sim.max_alloc=128m"])
}

fn layers(model: &Model) -> Vec<usize> {
    model.devices().map(|(_, layers)| layers).collect()
}

#[test]
fn the_demo_says_the_same_in_every_split_of_every_mix() {
    let (cpu, truth) = (open("cpu"), open("reference"));
    let say = |model: &Model| model.generate("床前明月光", &greedy(TOKENS)).unwrap().collect_all().unwrap();
    let want = say(&Model::demo().unwrap());
    let split = |devices: &[&Arc<dyn Device>], split: &[usize]| {
        let devices = devices.iter().map(|&device| device.clone());
        let model = ModelOptions::new().on_devices(devices).split(split.iter().copied()).demo().unwrap();
        assert_eq!(layers(&model), split);
        assert_eq!(say(&model), want, "{split:?}");
    };
    split(&[&cpu, &cpu], &[1, 4]);
    split(&[&cpu, &cpu], &[4, 1]);
    split(&[&cpu, &truth], &[4, 1]);
    split(&[&truth, &cpu], &[1, 4]);
    split(&[&cpu, &truth, &cpu], &[2, 1, 2]);
    split(&[&cpu, &cpu, &cpu, &cpu, &cpu], &[1, 1, 1, 1, 1]);
    let by_name = ModelOptions::new().device("cpu,reference").demo().unwrap();
    assert!(layers(&by_name).len() == 2 && layers(&by_name).iter().sum::<usize>() == 5);
}

#[test]
fn a_chip_takes_some_layers_and_the_processor_the_others() {
    for (preset, name) in [("plain", "mistral-window"), ("ascend-like", "llama3-gqa"), ("kunlun-like", "qwen3-qknorm")]
    {
        let (npu, cpu) = (npu(preset), open("cpu"));
        for devices in [[npu.clone(), cpu.clone()], [cpu.clone(), npu]] {
            let model = ModelOptions::new().on_devices(devices).load(family(name)).unwrap();
            let alone = ModelOptions::new().on(cpu.clone()).dtype(model.compute_dtype()).load(family(name)).unwrap();
            let want = tokens(&alone, &greedy(TOKENS)).unwrap();
            assert_eq!(tokens(&model, &greedy(TOKENS)).unwrap(), want, "{preset} {name}");
        }
    }
}

#[test]
fn a_model_on_two_devices_is_served() {
    let cpu = open("cpu");
    let alone = Model::demo().unwrap();
    let model = ModelOptions::new().on_devices([cpu, open("reference")]).split([4, 1]).demo().unwrap();
    let server = model.serve(ServeOptions::new().sequences(4).block_size(8).batch_tokens(16)).unwrap();
    let prompts = ["床前明月光", "春眠不觉晓", "白日依山尽"];
    let submit = |prompt: &&str| server.submit(Request::new(*prompt).params(greedy(8))).unwrap();
    let mut replies: Vec<_> = prompts.iter().map(submit).collect();
    for (prompt, reply) in prompts.iter().zip(&mut replies) {
        let said: String = reply.blocking().map(|chunk| chunk.unwrap().piece.text).collect();
        assert_eq!(said, alone.generate(*prompt, &greedy(8)).unwrap().collect_all().unwrap().text);
    }
    assert_eq!(server.load().cache.used, 0);
}

#[test]
fn a_stage_that_is_lost_is_a_typed_error() {
    let rule = Rule { command: Command::Execute, when: When::Nth(5), fault: Fault::DeviceLost };
    let (second, faults) = Faulty::wrap(open("cpu"), 1, [rule]);
    let model = ModelOptions::new().on_devices([open("cpu"), second]).demo().unwrap();
    faults.set(true);
    let error = model.generate("床前", &greedy(TOKENS)).unwrap().collect_all().unwrap_err();
    assert!(matches!(cause(&error), Error::DeviceLost { .. }), "{error}");
}

#[test]
fn what_the_chip_refuses_of_its_layers_runs_on_the_host() {
    let npu = device(&["sim.k_multiple=4096", "sim.memory=512m"]);
    let loading = || ModelOptions::new().on_devices([npu.clone(), open("cpu")]);
    let model = loading().host_fallback().load(family("llama3-gqa")).unwrap();
    let want = tokens(&Model::load(family("llama3-gqa")).unwrap(), &greedy(TOKENS)).unwrap();
    assert_eq!(tokens(&model, &greedy(TOKENS)).unwrap(), want);
    let account = model.account().unwrap();
    assert!(account.on_host() > 0 && account.device.contains(", "), "{account}");
    assert!(loading().load(family("llama3-gqa")).is_err(), "without a fallback it is refused");
}

#[test]
fn splits_and_devices_that_do_not_fit_are_one_clear_error() {
    let fails = |options: ModelOptions| options.demo().err().unwrap().to_string();
    let two = || ModelOptions::new().device("cpu,cpu");
    for split in [vec![], vec![5], vec![0, 5], vec![2, 2], vec![1, 2, 2], vec![usize::MAX, 6]] {
        let error = fails(two().split(split));
        assert!(error.contains("split") && error.contains("2 devices and 5 layers"), "{error}");
    }
    assert!(fails(ModelOptions::new().device("cpu,")).contains("a name is missing"));
    assert!(fails(ModelOptions::new().device("cpu,nothing")).contains("no backend 'nothing'"));
    assert!(fails(ModelOptions::new().device("cpu,cpu,cpu,cpu,cpu,cpu")).contains("6 devices for 5 layers"));
    let params = Params::new().max_tokens(1);
    assert!(two().split([2, 3]).demo().unwrap().generate("床", &params).is_ok());
}
