//! Attention on the simulated card beside the truth: every kernel, both layouts of pages and packed keys, every dtype of
//! cache, groups, head sizes, windows, sinks, caps, lengths around the borders of blocks and steps.

mod rig;

use qiao_conformance::trials::walk::Walk;
use qiao_core::{DType, OpKind};
use rig::{device, hold, lies};

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
