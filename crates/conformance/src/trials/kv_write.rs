//! Writes of the KV cache.
#![allow(missing_docs, reason = "the name of a list is the promise that its trials hold a device to")]

use qiao_core::{DType, KvLayout, KvWriteAttrs, Op, OpKind};
use qiao_reference::Trial;

use super::FLOATS;
use super::walk::Walk;

const KV: OpKind = OpKind::KvWrite;

pub fn rows_go_to_their_slots_in_both_layouts() -> Vec<Walk> {
    Walk::over(
        KV,
        "",
        &FLOATS,
        &[
            "tokens={0,1,5,33},heads=2,d=64,block=16,spare=2,pages={token_head,head_token}",
            "tokens=9,heads={1,4,7},d=20,block={1,4,7},spare=1,pages={token_head,head_token},index={i32,i64}",
            "tokens=9,heads=2,d=40,block=7,spare=1,slots={in_order,last,some_skipped,all_skipped}",
            "tokens=5,heads=3,d={1,8,33,128,256},dv={0,16,40},block=16,spare=1",
            "tokens=9,heads=3,d=24,block=16,spare=1,layout={gapped,strided,transposed,repeated},cache={same,f16,i8}",
        ],
    )
}

pub fn every_dtype_becomes_every_cache() -> Vec<Walk> {
    Walk::over(
        KV,
        "",
        &FLOATS,
        &[
            "tokens={3,19},heads=3,d=33,block=16,spare=1,cache={f32,f16,bf16,i8,f8_e4m3,f8_e5m2},index={i32,i64}",
            "tokens={3,19},heads=3,d=64,block=7,spare=1,cache={f8_e4m3,f8_e5m2},scaled=yes,pages={token_head,head_token}",
            "tokens=9,heads=2,d=24,block=16,spare=1,layout=gapped,laid=cache,cache={same,f16,i8,f8_e4m3},scaled=yes",
        ],
    )
}

pub fn numbers_of_any_size_and_none_are_written_as_the_truth_has_them() -> Vec<Walk> {
    Walk::over(
        KV,
        "",
        &FLOATS,
        &[
            "tokens=6,heads=2,d=40,block=16,spare=1,fill={wide,subnormal,special,zero,positive,ties,zero_row},cache={same,f32,f16,bf16,i8}",
            "tokens=6,heads=2,d=40,block=16,spare=1,fill={wide,subnormal,special,zero,ties,zero_row},cache={f8_e4m3,f8_e5m2},scaled={no,yes}",
        ],
    )
}

pub fn keys_and_values_differ_in_dtype() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (k, v) in [(DType::F32, DType::F16), (DType::BF16, DType::F32)] {
        for cache in [DType::F16, DType::I8] {
            let mut trial = Trial::new(Op::KvWrite(KvWriteAttrs { kv_layout: KvLayout::BlockHeadToken }));
            let data: Vec<f64> = (0..3 * 2 * 5).map(|i| f64::from(i * 37 % 29) / 8.0 - 1.5).collect();
            trial = trial.values(k, &[3, 2, 5], &data).values(v, &[3, 2, 5], &data);
            trial = trial.values(DType::I32, &[3], &[7.0, -1.0, 2.0]);
            for _ in 0..2 {
                trial = trial.values(cache, &[2, 2, 4, 5], &[0.0; 80]);
            }
            if cache == DType::I8 {
                trial = trial.values(DType::F32, &[2, 2, 4], &[0.0; 16]).values(DType::F32, &[2, 2, 4], &[0.0; 16]);
            }
            trials.push(trial);
        }
    }
    trials
}
