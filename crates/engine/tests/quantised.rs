//! Quantised checkpoints in Hugging Face layout, as each of the field's tools writes them: a fixture's projections are rounded to
//! codes, packed in that tool's way, and run. The same numbers written out as floats are what it is held to.

mod fixture;
#[path = "quantised/pack.rs"]
mod pack;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use fixture::{SmallPages, cpu, fixtures, reference};
use pack::{Packed, Stored, schemes};
use qiao_core::{DType, Device};
use qiao_cpu::Isa;
use qiao_engine::checkpoint::Checkpoint;
use qiao_engine::form::{GroupForm, WeightForm};
use qiao_engine::runner::{LoadOptions, LoadedModel};
use qiao_engine::session::Session;
use qiao_engine::weights::Weights;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

/// How far logits may be where activations are rounded to 16 bits within every 32 inputs.
const SIXTEEN_BITS: f64 = 4e-4;

const PROMPT: [u32; 12] = [1, 17, 40, 99, 5, 63, 8, 120, 77, 31, 2, 54];

/// What a module of this name and these weights `[n, k]` becomes.
type Tensors<'a> = dyn Fn(&str, &[f32], usize, usize) -> Vec<(String, Stored)> + 'a;

/// A fixture's tensors, with each module that is chosen given to `pack`, in a folder with this configuration.
fn write(dir: &Path, fixture: &str, extra: &serde_json::Value, chosen: fn(&str) -> bool, pack: &Tensors<'_>) {
    let source = fixtures().join(fixture);
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(source.join("config.json")).unwrap()).unwrap();
    config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let weights = Weights::open(&source).unwrap();
    let mut tensors: BTreeMap<String, Stored> = BTreeMap::new();
    for name in weights.names() {
        let tensor = weights.tensor(name).unwrap();
        let floats = tensor.to_f32().unwrap();
        match name.strip_suffix(".weight").filter(|module| chosen(module)) {
            Some(module) => {
                let (n, k) = (tensor.shape[0], tensor.shape[1]);
                for (suffix, stored) in pack(module, &floats, n, k) {
                    tensors.insert(format!("{module}.{suffix}"), stored);
                }
            }
            None => {
                let stored = Stored::floats(&floats, tensor.shape.to_vec());
                tensors.insert(name.to_string(), stored);
            }
        }
    }
    let views = tensors.iter().map(|(name, s)| (name, TensorView::new(s.dtype, s.shape.clone(), &s.bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
}

/// Changes the tensors of a folder, and leaves them in a file of this name.
fn rewrite(dir: &Path, file: &str, change: impl Fn(&mut BTreeMap<String, Stored>)) {
    let path = dir.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let of = |(name, t): (String, TensorView<'_>)| {
        (name, Stored { dtype: t.dtype(), shape: t.shape().to_vec(), bytes: t.data().to_vec() })
    };
    let mut tensors = SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter().map(of).collect();
    change(&mut tensors);
    std::fs::remove_file(path).unwrap();
    let views = tensors.iter().map(|(name, s)| (name, TensorView::new(s.dtype, s.shape.clone(), &s.bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &dir.join(file)).unwrap();
}

fn projections(module: &str) -> bool {
    module.ends_with("_proj")
}

/// A checkpoint whose projections are packed.
fn write_packed(dir: &Path, packed: &Packed) {
    let tensors = |module: &str, w: &[f32], n: usize, k: usize| (packed.pack)(module, w, n, k).tensors;
    write(dir, packed.fixture, &packed.config, projections, &tensors);
    if let Some((name, text)) = &packed.beside {
        std::fs::write(dir.join(name), text.to_string()).unwrap();
    }
}

/// The same with the numbers that the codes stand for.
fn write_floats(dir: &Path, packed: &Packed) {
    write(dir, packed.fixture, &serde_json::json!({}), projections, &|module, w, n, k| {
        let floats = (packed.pack)(module, w, n, k).floats;
        vec![("weight".to_string(), Stored::floats(&floats, vec![n, k]))]
    });
}

fn open(device: &Arc<dyn Device>, dir: &Path) -> Arc<LoadedModel> {
    open_with(device, dir, None)
}

fn open_with(device: &Arc<dyn Device>, dir: &Path, prepacked: Option<&Path>) -> Arc<LoadedModel> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let prepacked = prepacked.map(Path::to_path_buf);
    let options = LoadOptions { dtype: Some(DType::F32), prepacked, ..Default::default() };
    let load = LoadedModel::load(device.clone(), &checkpoint.weights, checkpoint.config, dir, options, &mut |_| {});
    Arc::new(load.unwrap())
}

/// The logits after the prompt, then after each of its tokens once more.
fn logits(model: Arc<LoadedModel>) -> Vec<f32> {
    let mut session = Session::new(model, 2 * PROMPT.len()).unwrap();
    let mut all = session.prefill(&PROMPT, &|| false).unwrap().expect("nobody cancels").to_vec();
    for id in PROMPT {
        all.extend_from_slice(session.step(id).unwrap());
    }
    all
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    let most = b.iter().fold(0f32, |m, x| m.max(x.abs()));
    let error = a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    f64::from(error / most)
}

/// The logits on the reference.
fn holds(packed: &Packed) -> Vec<f32> {
    let [quantised, plain] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    write_packed(quantised.path(), packed);
    write_floats(plain.path(), packed);
    let expected = logits(open(&reference(), plain.path()));
    for device in [Some(reference()), cpu(Isa::Scalar), cpu(Isa::Avx2), cpu(Isa::Avx512)].into_iter().flatten() {
        let model = open(&device, quantised.path());
        let form = model.weight_form("model.layers.1.mlp.down_proj.weight").unwrap();
        assert!(!matches!(form, WeightForm::Plain(_)), "{}: {form:?}", packed.name);
        let found = distance(&logits(model), &expected);
        println!("{} on {}: {found:.2e}", packed.name, device.info().arch);
        // The CPU's products with integer codes round activations to 16 bits, and say so; the reference rounds nothing.
        let limit = if device.info().arch.starts_with("f64") { packed.limit } else { packed.limit.max(SIXTEEN_BITS) };
        assert!(found < limit, "{} on {}: {found:e}", packed.name, device.info().arch);
    }
    logits(open(&reference(), quantised.path()))
}

fn bits(model: &Arc<LoadedModel>) -> Vec<u32> {
    logits(model.clone()).into_iter().map(f32::to_bits).collect()
}

#[test]
fn weights_of_every_scheme_are_kept_as_they_are_packed() {
    let device = cpu(Isa::Scalar).unwrap();
    for packed in schemes() {
        let [model, kept] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        write_packed(model.path(), &packed);
        let before = open(&device, model.path());
        before.prepack(kept.path(), &|| false).unwrap().unwrap();
        let after = open_with(&device, model.path(), Some(kept.path()));
        let weights = after.packed_weights();
        assert_eq!((weights.packed, weights.refused), (0, vec![]), "{}", packed.name);
        assert_eq!(weights.mapped, before.packed_weights().packed, "{}", packed.name);
        assert_eq!(bits(&after), bits(&before), "{}", packed.name);
    }
}

/// The weights' files are the same, and mean something else.
#[test]
fn what_is_kept_of_a_checkpoint_ends_with_a_change_of_its_config() {
    let device = cpu(Isa::Scalar).unwrap();
    let schemes = schemes();
    let packed = schemes.iter().find(|p| p.name == "gptq, 2 bits").unwrap();
    let [model, kept] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    write_packed(model.path(), packed);
    let before = open(&device, model.path());
    before.prepack(kept.path(), &|| false).unwrap().unwrap();
    let config = model.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let changed = text.replace("\"checkpoint_format\":\"gptq\"", "\"checkpoint_format\":\"gptq_v2\"");
    assert_ne!(changed, text);
    std::fs::write(&config, changed).unwrap();
    let after = open_with(&device, model.path(), Some(kept.path()));
    assert_eq!(after.packed_weights().mapped, 0);
    assert_ne!(bits(&after), bits(&before));
    assert_eq!(bits(&after), bits(&open(&device, model.path())));
}

#[test]
fn weights_of_every_scheme_give_the_logits_of_the_numbers_that_they_stand_for() {
    let all = schemes();
    assert!(all.len() >= 12, "{} schemes", all.len());
    let found: BTreeMap<&str, Vec<f32>> = all.iter().map(|packed| (packed.name, holds(packed))).collect();
    // The same codes and scales in the files of two tools.
    assert_eq!(found["compressed-tensors, w8a8"], found["ascend w8a8 dynamic"]);
    assert_eq!(found["compressed-tensors, w8a16"], found["ascend w8a16"]);
    let apart = distance(&found["compressed-tensors, w8a8 static"], &found["ascend w8a8"]);
    assert!(apart < 1e-5, "{apart:e}");
}

#[test]
fn an_embedding_of_codes_is_decoded_for_its_rows_and_for_the_head() {
    fn all(module: &str) -> bool {
        projections(module) || module.ends_with("embed_tokens")
    }
    let schemes = schemes();
    let packed = schemes.iter().find(|p| p.name == "compressed-tensors, with zeros").unwrap();
    let [quantised, plain] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    write(quantised.path(), packed.fixture, &packed.config, all, &|module, w, n, k| {
        (packed.pack)(module, w, n, k).tensors
    });
    write(plain.path(), packed.fixture, &serde_json::json!({}), all, &|module, w, n, k| {
        let floats = (packed.pack)(module, w, n, k).floats;
        vec![("weight".to_string(), Stored::floats(&floats, vec![n, k]))]
    });
    let model = open(&reference(), quantised.path());
    // Codes of 4 bits, and for each 8 of them an f16 scale and a zero in a byte; the head is the decoded embedding in f32.
    let (projections, head) = (2.0 * (64.0 * 64.0 * 3.0 + 64.0 * 56.0 * 3.0), 128.0 * 64.0);
    let bits = (projections * (4.0 + (16.0 + 8.0) / 8.0) + head * 32.0) / (projections + head);
    assert!((model.bits_per_weight() - bits).abs() < 1e-9, "{} instead of {bits}", model.bits_per_weight());
    let stored = model.stored_weights();
    assert_eq!(stored[0], (DType::U4, (projections + head) as u64), "{stored:?}");
    let found = distance(&logits(model), &logits(open(&reference(), plain.path())));
    assert!(found < 1e-6, "{found:e}");
}

#[test]
fn a_device_without_the_codes_is_given_floats() {
    let dir = tempfile::tempdir().unwrap();
    let all = schemes();
    let packed = all.iter().find(|p| p.name == "gptq with act-order").unwrap();
    write_packed(dir.path(), packed);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let name = "model.layers.0.self_attn.q_proj.weight";
    let handle = checkpoint.weights.handle(name).unwrap();
    let floats = handle.dequantised(DType::F32).unwrap().expect("codes with scales");
    let original = Weights::open(fixtures().join("llama3-gqa")).unwrap();
    let w = original.tensor(name).unwrap();
    let expected = (packed.pack)("", &w.to_f32().unwrap(), w.shape[0], w.shape[1]).floats;
    let found: Vec<f32> = floats.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_device_without_int8_adds_the_bias_that_a_sum_holds() {
    let dir = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let all = schemes();
    let packed = all.iter().find(|p| p.name == "ascend w8a8, with biases").unwrap();
    write_packed(dir[0].path(), packed);
    write_floats(dir[1].path(), packed);
    let device = SmallPages::storing_floats(reference());
    let model = open(&device, dir[0].path());
    assert_eq!(model.weight_form("model.layers.0.self_attn.q_proj.weight"), Some(WeightForm::Plain(DType::F32)));
    let found = distance(&logits(model), &logits(open(&reference(), dir[1].path())));
    // Inside a sum a bias is rounded to whole steps.
    assert!(found < 1e-3, "{found:e}");
}

#[test]
fn the_form_that_is_expected_of_a_checkpoint_is_the_one_that_it_has() {
    // Only the tensors tell of which dtype scales are, whether one stands for all outputs, and in which order channels lie.
    let told = |form: WeightForm| match form {
        WeightForm::Grouped(form) => {
            let group_rows = if form.group_size == 0 { 1 } else { form.group_rows };
            WeightForm::Grouped(GroupForm { scales: DType::F32, group_rows, g_idx: false, ..form })
        }
        other => other,
    };
    for packed in schemes() {
        let dir = tempfile::tempdir().unwrap();
        write_packed(dir.path(), &packed);
        let Checkpoint { config, weights, .. } = Checkpoint::open(dir.path()).unwrap();
        let quantisation = config.quantisation.unwrap();
        for name in weights.names().filter(|name| name.ends_with("_proj.weight")) {
            let expected = quantisation.expected_form(name, true).map(told);
            assert_eq!(expected, weights.form(name).map(told), "{}: {name}", packed.name);
        }
    }
}

#[test]
fn a_module_that_breaks_its_scheme_is_named() {
    let all = schemes();
    let packed = all.iter().find(|p| p.name == "compressed-tensors, int4 in groups").unwrap();
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), packed.fixture, &packed.config, projections, &|module, w, n, k| {
        let mut tensors = (packed.pack)(module, w, n, k).tensors;
        if module.ends_with("layers.1.mlp.up_proj") {
            tensors.retain(|(suffix, _)| suffix != "weight_scale" && suffix != "weight_shape");
        }
        tensors
    });
    let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(message.contains("model.layers.1.mlp.up_proj") && message.contains("model.safetensors"), "{message}");
}

#[test]
fn what_older_tools_write_beside_the_weights_means_the_same() {
    let schemes = schemes();
    let packed = schemes.iter().find(|p| p.name == "gptq, 4 bits").unwrap();
    let [inside, beside] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let tensors = |module: &str, w: &[f32], n: usize, k: usize| (packed.pack)(module, w, n, k).tensors;
    write(inside.path(), packed.fixture, &packed.config, projections, &tensors);
    write(beside.path(), packed.fixture, &serde_json::json!({}), projections, &tensors);
    let text = packed.config["quantization_config"].to_string();
    std::fs::write(beside.path().join("quantize_config.json"), text).unwrap();
    assert_eq!(logits(open(&reference(), inside.path())), logits(open(&reference(), beside.path())));
}

#[test]
fn ascend_folders_have_weights_and_smoothed_norms_under_their_own_names() {
    let schemes = schemes();
    let packed = schemes.iter().find(|p| p.name == "ascend w8a8 dynamic").unwrap();
    let [usual, own, biased] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    for dir in [&usual, &own, &biased] {
        write_packed(dir.path(), packed);
    }
    let smoothed = |bias: f32| {
        move |tensors: &mut BTreeMap<String, Stored>| {
            let norms: Vec<String> = tensors.keys().filter(|n| n.ends_with("layernorm.weight")).cloned().collect();
            assert_eq!(norms.len(), 4);
            for name in norms {
                let norm = name.strip_suffix(".weight").unwrap();
                let weight = tensors.remove(&name).unwrap();
                let zeros = Stored::floats(&vec![bias; weight.shape[0]], weight.shape.clone());
                tensors.insert(format!("{norm}.module.weight"), weight);
                tensors.insert(format!("{norm}.module.bias"), zeros);
            }
        }
    };
    rewrite(own.path(), "quant_model_weights.safetensors", smoothed(0.0));
    rewrite(biased.path(), "quant_model_weights.safetensors", smoothed(0.5));
    assert_eq!(logits(open(&reference(), own.path())), logits(open(&reference(), usual.path())));
    let message = Checkpoint::open(biased.path()).unwrap_err().to_string();
    assert!(message.contains("layernorm.module.bias") && message.contains("not zero"), "{message}");
}

#[test]
fn a_bias_without_a_place_in_the_model_is_refused_unless_it_is_zero() {
    let schemes = schemes();
    let packed = schemes.iter().find(|p| p.name == "gptq, 4 bits").unwrap();
    for (bias, refused) in [(0.0, false), (0.25, true)] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), packed.fixture, &packed.config, projections, &|module, w, n, k| {
            let mut tensors = (packed.pack)(module, w, n, k).tensors;
            tensors.push(("bias".into(), Stored::floats(&vec![bias; n], vec![n])));
            tensors
        });
        let Checkpoint { config, weights, .. } = Checkpoint::open(dir.path()).unwrap();
        let options = LoadOptions::default();
        let loaded = LoadedModel::load(reference(), &weights, config, dir.path(), options, &mut |_| {});
        match loaded.err().map(|e| e.to_string()) {
            Some(message) => assert!(refused && message.contains("_proj.bias") && message.contains("config.json")),
            None => assert!(!refused, "a bias of {bias} was lost"),
        }
    }
}
