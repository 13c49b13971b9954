//! The embedded model, through the same doors as any checkpoint.

use std::path::Path;
use std::sync::{Arc, Mutex};

use qiao::{DType, FinishReason, Message, Model, ModelOptions, Params, Prompt};

const POEM: &str = "，疑是地上霜。举头望明月，低头思故乡。";

fn greedy() -> Params {
    Params::new().temperature(0.0)
}

fn text(model: &Model, prompt: impl Into<Prompt>, params: &Params) -> String {
    model.generate(prompt, params).unwrap().collect_all().unwrap().text
}

#[test]
fn a_known_poem_is_continued() {
    let model = Model::demo().unwrap();
    assert!(text(&model, "床前明月光", &greedy()).starts_with(POEM));
    assert!(text(&model, "春眠不觉晓", &greedy()).starts_with("，处处闻啼鸟。"));
    let conversation = vec![Message::new("user", "床前明月光")];
    assert!(text(&model, conversation, &greedy()).starts_with(POEM));
    let ids = model.encode("床前明月光").unwrap();
    assert_eq!(model.decode(&ids).unwrap(), "床前明月光");
    assert!(text(&model, ids, &greedy()).starts_with(POEM));
}

#[test]
fn the_demo_agrees_with_its_golden() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/demo-golden.safetensors");
    for device in ["cpu", "reference"] {
        let model = ModelOptions::new().device(device).dtype(DType::F32).demo().unwrap();
        let found = qiao::compare(&model, &golden, None).unwrap();
        assert!(found.passed, "{device}: {:?}", found.failures());
        assert!(found.max_abs_error < 1e-4, "{device}: {}", found.max_abs_error);
        let model = ModelOptions::new().device(device).demo().unwrap();
        assert_eq!(model.compute_dtype(), DType::BF16);
        let found = qiao::compare(&model, &golden, None).unwrap();
        assert!(found.passed, "{device} in bf16: {:?}", found.failures());
    }
}

#[test]
fn pieces_joined_are_the_text_and_hold_whole_characters() {
    let model = Model::demo().unwrap();
    let params = Params::new().temperature(1.5).seed(3).max_tokens(60).ignore_eos(true);
    let mut generation = model.generate("春", &params).unwrap();
    let (mut joined, mut ids) = (String::new(), Vec::new());
    for piece in &mut generation {
        let piece = piece.unwrap();
        joined.push_str(&piece.text);
        ids.extend(piece.token_ids);
    }
    assert_eq!(generation.finish_reason(), Some(FinishReason::Length));
    assert_eq!((ids.len(), generation.stats().decode_tokens), (60, 60));
    assert_eq!(joined, model.decode(&ids).unwrap());
    assert!(generation.next().is_none());
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let model = Model::demo().unwrap();
    let sampled = |seed| text(&model, "明月", &Params::new().temperature(1.2).seed(seed).max_tokens(24));
    assert_eq!(sampled(7), sampled(7));
    assert!((0..8).map(sampled).collect::<std::collections::HashSet<_>>().len() > 1);
    let params = Params::new().temperature(1.2).max_tokens(24);
    let mut first = model.generate("明月", &params).unwrap();
    let seed = first.seed();
    assert_eq!(first.collect_all().unwrap().text, sampled(seed));
}

#[test]
fn a_stop_string_ends_the_text_and_is_no_part_of_it() {
    let model = Model::demo().unwrap();
    let mut generation = model.generate("床前明月光", &greedy().stop("头望")).unwrap();
    assert_eq!(generation.collect_all().unwrap().text, "，疑是地上霜。举");
    assert_eq!(generation.finish_reason(), Some(FinishReason::Stop));
    let comma = model.encode("。").unwrap();
    let mut generation = model.generate("床前明月光", &greedy().stop_token_id(comma[0])).unwrap();
    let all = generation.collect_all().unwrap();
    assert_eq!(all.text, "，疑是地上霜");
    assert!(!all.token_ids.contains(&comma[0]));
    assert_eq!(generation.finish_reason(), Some(FinishReason::Stop));
}

#[test]
fn the_end_of_the_poem_ends_the_text() {
    let model = Model::demo().unwrap();
    let mut generation = model.generate("床前明月光", &greedy()).unwrap();
    let all = generation.collect_all().unwrap();
    assert_eq!(generation.finish_reason(), Some(FinishReason::Stop));
    assert!(!all.token_ids.contains(&0), "the end-of-text id is not given out");
    let more = model.generate("床前明月光", &greedy().min_tokens(40).max_tokens(40)).unwrap().collect_all().unwrap();
    assert_eq!(more.token_ids.len(), 40);
    assert!(more.text.starts_with(&all.text) && !more.token_ids.contains(&0));
}

#[test]
fn a_full_context_ends_the_text() {
    let model = ModelOptions::new().context(16).demo().unwrap();
    let mut generation = model.generate("床前明月光", &greedy().ignore_eos(true).max_tokens(1000)).unwrap();
    let all = generation.collect_all().unwrap();
    assert_eq!(generation.finish_reason(), Some(FinishReason::Length));
    // The last token is given out and needs no place any more.
    assert_eq!(generation.stats().prompt_tokens + all.token_ids.len(), 16 + 1);
    let message = model.generate("月".repeat(17), &greedy()).err().unwrap().to_string();
    assert!(message.contains("17 tokens") && message.contains("context of 16"), "{message}");
}

#[test]
fn bad_requests_are_refused_before_anything_runs() {
    let model = Model::demo().unwrap();
    let refusal = |prompt: Prompt, params: &Params| model.generate(prompt, params).err().unwrap().to_string();
    assert!(refusal("".into(), &greedy()).contains("no tokens"));
    assert!(refusal(Prompt::Tokens(vec![1, 4000]), &greedy()).contains("4000"));
    assert!(refusal("月".into(), &Params::new().temperature(-1.0)).contains("temperature"));
    let error = ModelOptions::new().device("npu").demo().err().unwrap().to_string();
    assert!(error.contains("use one of cpu, cuda, hip, ") && error.contains("opencl, ascend, reference"), "{error}");
    let error = ModelOptions::new().context(513).demo().err().unwrap().to_string();
    assert!(error.contains("at most 512"), "{error}");
}

#[test]
fn no_tokens_wanted_is_no_text() {
    let model = Model::demo().unwrap();
    let mut generation = model.generate("月", &greedy().max_tokens(0)).unwrap();
    assert!(generation.next().is_none());
    assert_eq!(generation.finish_reason(), Some(FinishReason::Length));
}

#[test]
fn a_generation_is_cancelled_from_another_thread() {
    let model = Model::demo().unwrap();
    let mut generation = model.generate("月", &greedy().ignore_eos(true).max_tokens(400)).unwrap();
    let canceller = generation.canceller();
    generation.next().unwrap().unwrap();
    std::thread::spawn(move || canceller.cancel()).join().unwrap();
    assert!(generation.by_ref().all(|piece| piece.is_ok()));
    assert_eq!(generation.finish_reason(), Some(FinishReason::Cancelled));
    assert!(generation.stats().decode_tokens < 400);
    let mut never = model.generate("月", &greedy()).unwrap();
    never.canceller().cancel();
    assert!(never.next().is_none());
    assert_eq!(never.finish_reason(), Some(FinishReason::Cancelled));
}

#[test]
fn generations_of_one_model_run_at_once() {
    let model = Model::demo().unwrap();
    let prompts = ["床前明月光", "春眠不觉晓", "白日依山尽", "千山鸟飞绝"];
    let alone: Vec<String> = prompts.iter().map(|p| text(&model, *p, &greedy())).collect();
    let threads: Vec<_> = prompts
        .iter()
        .map(|prompt| {
            let (model, prompt) = (model.clone(), prompt.to_string());
            std::thread::spawn(move || text(&model, prompt, &greedy()))
        })
        .collect();
    let together: Vec<String> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    assert_eq!(together, alone);
    let mut a = model.generate(prompts[0], &greedy()).unwrap();
    let mut b = model.generate(prompts[1], &greedy()).unwrap();
    let (mut x, mut y) = (String::new(), String::new());
    loop {
        let (p, q) = (a.next(), b.next());
        if p.is_none() && q.is_none() {
            break;
        }
        x.extend(p.map(|p| p.unwrap().text));
        y.extend(q.map(|q| q.unwrap().text));
    }
    assert_eq!([x, y], alone[..2]);
}

#[test]
fn loading_tells_how_far_it_has_come() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = told.clone();
    ModelOptions::new().on_progress(move |p| sink.lock().unwrap().push(p)).demo().unwrap();
    let told = told.lock().unwrap();
    assert!(told.windows(2).all(|w| w[0].done <= w[1].done && w[0].total == w[1].total));
    assert_eq!((told[0].done, told.last().unwrap().done), (0, told[0].total));
    assert!(told[0].total > 4 << 20);
}

#[test]
fn models_and_generations_go_from_thread_to_thread() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<Model>();
    shared::<qiao::Canceller>();
    sent::<qiao::Generation>();
    sent::<ModelOptions>();
}

#[test]
fn every_operator_of_the_demo_runs_natively_on_the_cpu() {
    let account = Model::demo().unwrap().account().unwrap();
    assert!(!account.entries.is_empty());
    assert!(account.entries.iter().all(|e| matches!(e.way, qiao::Way::Native { .. })), "{account:?}");
}
