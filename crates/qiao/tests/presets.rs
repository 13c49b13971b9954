//! Every family runs on every preset of the simulated NPU, through its plugin, and says what it says on the CPU.

mod sim;

use std::path::Path;

use qiao::core::DType;
use qiao::quantize::Format;
use qiao::{Model, ModelOptions, Quantize, Way};
use sim::{device, families, family, greedy, load, tokens};

const TOKENS: usize = 12;

#[test]
fn every_family_says_on_every_preset_what_it_says_on_the_cpu() {
    let cpu = qiao::open("cpu", None).unwrap();
    let presets: Vec<_> = qiao_simnpu::presets::all().iter().map(|p| p.name).collect();
    assert!(presets.len() >= 7, "{presets:?}");
    let mut wrong = Vec::new();
    for folder in families() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        for preset in &presets {
            let npu = device(&[&format!("sim.preset={preset}"), "sim.memory=512m", "sim.max_alloc=128m"]);
            let said = load(&npu, &folder).and_then(|model| Ok((tokens(&model, &greedy(TOKENS))?, model)));
            let (said, model) = match said {
                Ok(found) => found,
                Err(error) => {
                    wrong.push(format!("{preset} {name}: {error}"));
                    continue;
                }
            };
            let here = ModelOptions::new().on(cpu.clone()).dtype(model.compute_dtype()).load(&folder).unwrap();
            let want = tokens(&here, &greedy(TOKENS)).unwrap();
            if said != want {
                wrong.push(format!("{preset} {name}: {said:?} instead of {want:?}"));
            }
            let account = model.account().unwrap();
            assert!(account.entries.iter().all(|e| !matches!(e.way, Way::Host { .. })), "{preset} {name}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn weights_are_packed_once_where_a_chip_wants_its_own_layout() {
    let npu = device(&["sim.preset=ascend-like", "sim.memory=512m", "sim.max_alloc=128m"]);
    let packed = ModelOptions::new().on(npu.clone()).demo().unwrap();
    let plain = Model::demo().unwrap();
    let say = |model: &Model| model.generate("床前明月光", &greedy(24)).unwrap().collect_all().unwrap();
    assert_eq!(say(&packed), say(&plain));
    let (there, here) = (packed.weight_bytes(), plain.weight_bytes());
    assert!(there >= here && there < here + here / 4, "padding alone is added: {there} bytes for {here}");
}

/// The largest mean KL divergence from the golden logits, in nats, of a chip whose sums are rounded to f16.
const F16_SUMS_KL: f64 = 5e-4;

#[test]
fn sums_in_f16_stay_near_the_golden_logits() {
    let npu = device(&["sim.accumulate=f16", "sim.flush=on"]);
    let mut seen = 0;
    for name in ["llama3-gqa", "qwen3-qknorm", "qwen2-bias", "mistral-window"] {
        let model = ModelOptions::new().on(npu.clone()).dtype(DType::F16).load(family(name)).unwrap();
        let found = qiao::compare(&model, family(name).join("golden.safetensors"), None).unwrap();
        println!("{name}: KL {:.2e}, greedy {:?}", found.kl, found.greedy_agreement);
        assert!(found.kl < F16_SUMS_KL, "{name}: KL {:.2e}", found.kl);
        seen += 1;
    }
    assert_eq!(seen, 4);
}

#[test]
fn quantised_models_say_on_every_preset_what_they_say_on_the_cpu() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo");
    let place = tempfile::tempdir().unwrap();
    let cpu = qiao::open("cpu", None).unwrap();
    let say = |model: &Model| model.generate("床前明月光", &greedy(TOKENS)).unwrap().collect_all().unwrap().token_ids;
    let mut wrong = Vec::new();
    for (name, group) in [("q8_0", None), ("q4_k_m", None), ("w4a16", Some(64)), ("w8a8", None)] {
        let to =
            place.path().join(if group.is_some() || name == "w8a8" { name.into() } else { format!("{name}.gguf") });
        let format: Format = name.parse().unwrap();
        let format = group.map_or(format, |size| format.with_group_size(size).unwrap());
        Quantize::new(format).run(&demo, &to).unwrap().expect("nobody stops it");
        for preset in qiao_simnpu::presets::all() {
            let npu = device(&[&format!("sim.preset={}", preset.name), "sim.memory=512m", "sim.max_alloc=128m"]);
            let there = load(&npu, &to).unwrap_or_else(|e| panic!("{} {name}: {e}", preset.name));
            let here = ModelOptions::new().on(cpu.clone()).dtype(there.compute_dtype()).load(&to).unwrap();
            let (said, want) = (say(&there), say(&here));
            if said != want {
                wrong.push(format!("{} {name}: {said:?} instead of {want:?}", preset.name));
            }
            let account = there.account().unwrap();
            assert!(account.entries.iter().all(|e| !matches!(e.way, Way::Host { .. })), "{} {name}", preset.name);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
