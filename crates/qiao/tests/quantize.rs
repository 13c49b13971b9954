//! The demo model, quantised and evaluated beside itself.

use std::path::{Path, PathBuf};

use qiao::quantize::{Format, Report, Rules};
use qiao::{Eval, Evaluation, Model, ModelOptions, Params, Quantize};
use qiao_engine::checkpoint::Checkpoint;

/// What the demo was trained on is like this.
const POEMS: &str = "床前明月光，疑是地上霜。举头望明月，低头思故乡。\n白日依山尽，黄河入海流。欲穷千里目，更上一层楼。\n\
                     春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。\n千山鸟飞绝，万径人踪灭。孤舟蓑笠翁，独钓寒江雪。\n\
                     红豆生南国，春来发几枝。愿君多采撷，此物最相思。\n空山不见人，但闻人语响。返景入深林，复照青苔上。\n";

const CONTEXT: usize = 64;

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("demo")
}

fn load(path: &Path) -> Model {
    let options = ModelOptions::new().context(CONTEXT).dtype(qiao::DType::F32);
    options.load(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The demo in a format, and how far it is from the demo in the same compute dtype.
fn quantised(format: Format, name: &str) -> (Report, Evaluation) {
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join(name);
    let report = Quantize::new(format).run(demo(), &to).unwrap().unwrap();
    let found = Eval::text(POEMS).context(CONTEXT).against(&load(&to), &load(&demo())).unwrap().unwrap();
    (report, found)
}

#[test]
fn quantised_folders_stay_near_the_demo() {
    for (name, group_size, bits, kl) in
        [("w8a16", None, 8.2, 2e-3), ("w8a8", None, 8.3, 8e-3), ("fp8", None, 8.3, 3e-2), ("w4a16", Some(64), 4.6, 0.3)]
    {
        let format: Format = name.parse().unwrap();
        let format = group_size.map_or(format, |size| format.with_group_size(size).unwrap());
        let (report, found) = quantised(format, name);
        let against = found.against.unwrap();
        println!("{name}: {:?}", against.kl);
        let projection = report.tensors.iter().find(|line| line.name.contains("down_proj")).unwrap();
        assert!(projection.bits < bits, "{name}: {} bits", projection.bits);
        assert!(against.kl.mean.value < kl && against.kl.mean.value > 0.0, "{name}: {:?}", against.kl);
    }
}

#[test]
fn quantised_files_stay_near_the_demo() {
    for (name, bits, kl) in
        [("bf16", 16.1, 1e-9), ("q8_0", 8.6, 1e-3), ("q6_k", 8.6, 1e-2), ("q4_k_m", 6.6, 0.1), ("q4_0", 5.6, 0.3)]
    {
        let (report, found) = quantised(name.parse().unwrap(), "m.gguf");
        let against = found.against.unwrap();
        println!("{name}: {} bits, {:?}", report.bits, against.kl);
        assert!(report.bits < bits, "{name}: {} bits", report.bits);
        assert!(against.kl.mean.value < kl, "{name}: {:?}", against.kl);
        assert!(name == "bf16" || against.kl.mean.value > 0.0);
    }
}

#[test]
fn the_output_head_keeps_its_bits_unless_a_plan_says_otherwise() {
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("m.gguf");
    let (head, layer) = ("token_embd.weight", "blk.0.ffn_up.weight");
    let formats = |format: &str, plan: &str| {
        let quantize = Quantize::new(format.parse().unwrap()).rules(Rules::parse(plan.as_bytes()).unwrap()).force(true);
        let report = quantize.run(demo(), &to).unwrap().unwrap();
        assert!(report.tensors.iter().all(|line| line.name != "output.weight"), "the demo's head is its embedding");
        let of = |name: &str| report.tensors.iter().find(|line| line.name == name).unwrap().format.clone();
        let file = std::fs::read(&to).unwrap();
        let number = qiao_gguf::Gguf::parse(&file).unwrap().metadata().uint("general.file_type").unwrap();
        (of(head), of(layer), number)
    };
    let found = |head: &str, layer: &str, number| (head.to_string(), layer.to_string(), Some(number));
    // Rows of 192 fill no blocks of q6_k.
    assert_eq!(formats("q4_0", "{}"), found("q8_0", "q4_0", 2));
    assert_eq!(formats("q4_0", r#"{"token_embd*": "q4_0"}"#), found("q4_0", "q4_0", 2));
    assert_eq!(formats("q3_k", "{}"), found("q8_0", "iq4_nl", 11));
    assert_eq!(formats("f16", "{}"), found("f16", "f16", 1));
}

#[test]
fn files_hold_the_tokenizer_and_the_chat() {
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("m.gguf");
    Quantize::new("q8_0".parse().unwrap()).run(demo(), &to).unwrap().unwrap();
    let (model, own) = (load(&to), load(&demo()));
    assert_eq!(model.encode(POEMS).unwrap(), own.encode(POEMS).unwrap());
    assert!(model.has_chat_template());
    let params = Params::new().temperature(0.0).max_tokens(12);
    let text = |model: &Model| model.generate("床前明月光", &params).unwrap().collect_all().unwrap().text;
    assert_eq!(text(&model), text(&own));
}

/// A folder's files in another, of which some are changed.
fn copied(from: &Path, to: &Path, changed: &[(&str, serde_json::Value)]) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
    for (name, text) in changed {
        std::fs::write(to.join(name), text.to_string()).unwrap();
    }
}

#[test]
fn files_hold_every_chat_template_and_every_end() {
    let place = tempfile::tempdir().unwrap();
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(demo().join("tokenizer_config.json")).unwrap()).unwrap();
    let mut listed = config.clone();
    listed["chat_template"] = serde_json::json!([
        { "name": "default", "template": "{{ messages[0].content }}" },
        { "name": "tool_use", "template": "{{ tools }}" },
    ]);
    let ends = serde_json::json!({ "eos_token_id": [0, 7, 9, 11] });
    let beside = serde_json::json!({ "chat_template": "{{ messages[-1].content }}" });
    let [first, second] = ["list", "beside"].map(|name| place.path().join(name));
    copied(&demo(), &first, &[("tokenizer_config.json", listed), ("generation_config.json", ends)]);
    copied(&demo(), &second, &[("tokenizer_config.json", config), ("chat_template.json", beside)]);
    std::fs::create_dir(second.join("additional_chat_templates")).unwrap();
    std::fs::write(second.join("additional_chat_templates/rag.jinja"), "{{ documents }}").unwrap();
    for (from, names) in [(&first, ["default", "tool_use"]), (&second, ["default", "rag"])] {
        let to = from.with_extension("gguf");
        let report = Quantize::new("q8_0".parse().unwrap()).run(from, &to).unwrap().unwrap();
        let [own, held] = [from, &to].map(|path| Checkpoint::open(path).unwrap());
        let (chat, expected) = (held.chat.unwrap(), own.chat.unwrap());
        assert_eq!(chat.names().collect::<Vec<_>>(), names);
        assert!(chat.texts().eq(expected.texts()));
        // A file has keys for three ends.
        let ends = own.generation.eos_token_ids.iter().copied().filter(|id| *id != 11);
        assert!(ends.clone().all(|id| held.generation.eos_token_ids.contains(&id)), "{:?}", held.generation);
        assert_eq!(report.notes.iter().any(|note| note.contains("[11]")), from == &first, "{:?}", report.notes);
    }
}

#[test]
fn rows_that_are_not_those_of_the_heads_are_refused_by_the_tensor() {
    let place = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/llama2-mha");
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture.join("config.json")).unwrap()).unwrap();
    // Fewer rows than heads, rows that the heads do not divide, and heads of another width.
    for (heads, width) in [(128, 16), (3, 16), (2, 16)] {
        let mut config = config.clone();
        for key in ["num_attention_heads", "num_key_value_heads"] {
            config[key] = heads.into();
        }
        config["head_dim"] = width.into();
        let (from, to) = (place.path().join(format!("{heads}")), place.path().join("m.gguf"));
        copied(&fixture, &from, &[("config.json", config)]);
        let message = Quantize::new("f32".parse().unwrap()).run(&from, &to).unwrap_err().to_string();
        assert!(message.contains("_proj") && message.contains(&format!("{heads} heads of {width}")), "{message}");
        assert!(!to.exists());
    }
}

#[test]
fn files_of_every_family_are_the_model_that_they_were_made_from() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let ids: Vec<u32> = (0..96).map(|i| i * 37 % 128).collect();
    for name in [
        "llama3-gqa",
        "llama2-mha",
        "llama-yarn",
        "llama-linear",
        "llama-longrope",
        "mistral-window",
        "qwen2-bias",
        "qwen2-sliding",
        "qwen3-qknorm",
    ] {
        let place = tempfile::tempdir().unwrap();
        let (from, to, again) = (fixtures.join(name), place.path().join("m.gguf"), place.path().join("again.gguf"));
        let format: Format = "f32".parse().unwrap();
        Quantize::new(format).run(&from, &to).unwrap().unwrap();
        // A GGUF file is a source as well.
        Quantize::new(format).run(&to, &again).unwrap().unwrap();
        for file in [&to, &again] {
            let eval = Eval::ids(ids.clone()).context(48);
            let options = || ModelOptions::new().context(48);
            let models = (options().load(file).unwrap(), options().load(&from).unwrap());
            let kl = eval.against(&models.0, &models.1).unwrap().unwrap().against.unwrap().kl;
            assert!(kl.max < 1e-9, "{name} {}: {kl:?}", file.display());
        }
    }
}

#[test]
fn importances_bring_outputs_nearer() {
    let place = tempfile::tempdir().unwrap();
    let model = load(&demo());
    let ids = model.encode(POEMS).unwrap();
    let never = qiao::Canceller::default();
    let importance =
        qiao::quantize::Importance::gather(&model, &ids, CONTEXT, &never, &mut |_, _| {}).unwrap().unwrap();
    let down = importance.of("model.layers.0.mlp.down_proj.weight").unwrap();
    assert!(down.len() == 512 && down.iter().all(|x| *x >= 0.0) && down.iter().any(|x| *x > 0.0));
    let kl = |importance: Option<qiao::quantize::Importance>| {
        let to = place.path().join("m.gguf");
        let quantize = Quantize::new("q4_0".parse().unwrap()).force(true);
        let quantize = importance.into_iter().fold(quantize, Quantize::importance);
        quantize.run(demo(), &to).unwrap().unwrap();
        let found = Eval::text(POEMS).context(CONTEXT).against(&load(&to), &model).unwrap().unwrap();
        found.against.unwrap().kl.mean.value
    };
    let (plain, weighed) = (kl(None), kl(Some(importance)));
    println!("plain {plain:.4}, weighed {weighed:.4}");
    assert!(weighed < plain, "{weighed} is not below {plain}");
}

#[test]
fn errors_passed_on_bring_outputs_nearer() {
    let place = tempfile::tempdir().unwrap();
    let model = load(&demo());
    let ids = model.encode(POEMS).unwrap();
    let kl = |name: &str, to: &str, passes_on: bool| {
        let to = place.path().join(to);
        let format: Format = name.parse().unwrap();
        let format = if name == "w4a16" { format.with_group_size(64).unwrap() } else { format };
        let mut quantize = Quantize::new(format).force(true);
        if passes_on {
            quantize = quantize.compensate(&model, ids.clone(), CONTEXT);
        }
        assert_eq!(quantize.run(demo(), &to).unwrap().unwrap().compensated, passes_on);
        let found = Eval::text(POEMS).context(CONTEXT).against(&load(&to), &model).unwrap().unwrap();
        found.against.unwrap().kl.mean.value
    };
    for (name, to) in [("q4_0", "m.gguf"), ("w4a16", "folder")] {
        let (plain, passed) = (kl(name, to, false), kl(name, to, true));
        println!("{name}: plain {plain:.4}, errors passed on {passed:.4}");
        assert!(passed < plain, "{name}: {passed} is not below {plain}");
    }
    let fp8 = Quantize::new("fp8".parse().unwrap()).compensate(&model, ids, CONTEXT);
    let error = fp8.run(demo(), place.path().join("x")).unwrap_err().to_string();
    assert!(error.contains("fp8 passes no errors on"), "{error}");
}

#[test]
fn what_is_quantised_already_is_refused_by_the_tensor() {
    let place = tempfile::tempdir().unwrap();
    for (first, name) in [("q8_0", "once.gguf"), ("w8a16", "once")] {
        let once = place.path().join(name);
        Quantize::new(first.parse().unwrap()).run(demo(), &once).unwrap().unwrap();
        let twice = place.path().join("twice.gguf");
        let message = Quantize::new("q4_0".parse().unwrap()).run(&once, &twice).unwrap_err().to_string();
        assert!(message.contains("proj.weight") || message.contains("embed"), "{message}");
        assert!(message.contains("is quantised") && message.contains("floats"), "{message}");
        assert!(!twice.exists());
    }
}
