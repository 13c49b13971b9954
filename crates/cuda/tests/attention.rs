//! Attention on the simulated card beside the truth: every kernel, both layouts of pages and packed keys, every dtype of
//! cache, groups, head sizes, windows, sinks, caps, lengths around the borders of blocks and steps.

mod rig;

use qiao_conformance::trials::run::Run;
use qiao_conformance::trials::walk::Walk;
use qiao_core::{AttentionAttrs, DType, Op, OpKind};
use qiao_reference::Trial;
use rig::{Maker, check_all, device, hold, lies, with};

/// The kernel that runs a walk of a list in a dtype; empty = any.
fn kernel(list: &str, walk: &Walk, dtype: DType) -> &'static str {
    let prompt = walk.op == OpKind::AttentionPrefill;
    match list {
        "few_queries_over_many_keys_are_split" => "",
        "numbers_that_are_none_reach_whom_they_should" if prompt || dtype == DType::F32 => "",
        "the_plain_kernel_takes_what_the_others_refuse" => "attention_plain.cuda",
        _ if !prompt => "attention_decode.cuda",
        // Codes become bf16.
        _ if dtype == DType::F16 && !walk.pattern.contains("cache=") => "attention_prefill_f16.cuda",
        _ => "attention_prefill_bf16.cuda",
    }
}

/// The points of the walks are within their limits, each by its kernel.
#[track_caller]
fn check(list: &str, walks: &[Walk]) {
    let device = device();
    let of = |walk: &Walk| {
        walk.failures(&*device, |dtype, name| {
            let kernel = kernel(list, walk, dtype);
            kernel.is_empty() || name == kernel
        })
    };
    hold(&walks.iter().flat_map(of).collect::<Vec<_>>());
}

qiao_conformance::trials!(attention, check);

#[test]
fn indices_and_lengths_that_lie_never_lead_outside_memory() {
    lies::are_not_followed(&*device());
}

/// Prompts of 5 and 300 keys, of which 256 are the fewest of a part, in a table of 8192.
#[test]
fn parts_of_a_prompt_without_keys_write_no_values() {
    const ROWS: usize = 5 * 4;
    let (block, blocks, columns, d) = (16, 24, 512, 64);
    for (dtype, cache) in [(DType::F16, DType::F16), (DType::BF16, DType::BF16), (DType::BF16, DType::I8)] {
        let mut m = Maker::new(9);
        let op = Op::AttentionPrefill(AttentionAttrs { causal: true, ..Default::default() });
        let mut trial = with(Trial::new(op), m.of(dtype, &[5, 4, d]));
        for _ in 0..2 {
            trial = with(trial, m.of(cache, &[blocks, block, 2, d]));
        }
        trial = trial.values(DType::I32, &[3], &[0.0, 3.0, 5.0]).values(DType::I32, &[2], &[5.0, 300.0]);
        let table: Vec<f64> = (0..2 * columns).map(|i| (i % columns % blocks) as f64).collect();
        trial = trial.values(DType::I32, &[2, columns], &table);
        if cache == DType::I8 {
            trial = trial.without();
            for _ in 0..2 {
                trial = trial.values(DType::F32, &[blocks, block, 2], &vec![0.125; blocks * block * 2]);
            }
        }
        check_all(std::slice::from_ref(&trial));

        let (device, built) = (device(), trial.build().unwrap());
        let plan = device.plan(&built.graph).unwrap();
        let mut run = Run::new(&*device, &*plan, &built.bytes).unwrap();
        let blank = vec![0xff; run.workspace.bytes];
        assert!(blank.len() > 6 * ROWS * (d + 2) * 4, "there are more parts than those with keys");
        run.stream.upload(&run.workspace, &blank).unwrap();
        run.execute(&*plan).unwrap();
        run.bindings.push(run.workspace.clone());
        let after = run.read(run.bindings.len() - 1).unwrap();
        let written = after.chunks_exact(4).filter(|word| **word != [0xff; 4]).count();
        // One part of the first prompt has keys, and two of the second.
        let (values, parts) = ((3 + 2 * 2) * 4 * d, blank.len() / (ROWS * (d + 2) * 4));
        assert!(written <= values + 2 * parts * ROWS, "{written} words");
        assert!(written > values, "{written} words");
    }
}
