//! Writes of the KV cache on the simulated card beside the truth.

mod pages;
mod trials;

use pages::{Card, check, survives};
use qiao_core::{DType, KvLayout, KvWriteAttrs, Op, OpKind, TensorDesc};
use qiao_reference::Trial;

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const KV: OpKind = OpKind::KvWrite;

#[test]
fn rows_go_to_their_slots_in_both_layouts() {
    let mut card = Card::open();
    card.runs("kv_write.cuda");
    for pattern in [
        "tokens={0,1,5,33},heads=2,d=64,block=16,spare=2,pages={token_head,head_token}",
        "tokens=9,heads={1,4,7},d=20,block={1,4,7},spare=1,pages={token_head,head_token},index={i32,i64}",
        "tokens=9,heads=2,d=40,block=7,spare=1,slots={in_order,last,some_skipped,all_skipped}",
        "tokens=5,heads=3,d={1,8,33,128,256},dv={0,16,40},block=16,spare=1",
        "tokens=9,heads=3,d=24,block=16,spare=1,layout={gapped,strided,transposed,repeated},cache={same,f16,i8}",
    ] {
        check(&card, KV, "", &FLOATS, pattern);
    }
}

#[test]
fn every_dtype_becomes_every_cache() {
    let mut card = Card::open();
    card.runs("kv_write.cuda");
    for pattern in [
        "tokens={3,19},heads=3,d=33,block=16,spare=1,cache={f32,f16,bf16,i8,f8_e4m3,f8_e5m2},index={i32,i64}",
        "tokens={3,19},heads=3,d=64,block=7,spare=1,cache={f8_e4m3,f8_e5m2},scaled=yes,pages={token_head,head_token}",
        "tokens=9,heads=2,d=24,block=16,spare=1,layout=gapped,laid=cache,cache={same,f16,i8,f8_e4m3},scaled=yes",
    ] {
        check(&card, KV, "", &FLOATS, pattern);
    }
}

#[test]
fn numbers_of_any_size_and_none_are_written_as_the_truth_has_them() {
    let mut card = Card::open();
    card.runs("kv_write.cuda");
    for pattern in [
        "tokens=6,heads=2,d=40,block=16,spare=1,fill={wide,subnormal,special,zero,positive,ties,zero_row},cache={same,f32,f16,bf16,i8}",
        "tokens=6,heads=2,d=40,block=16,spare=1,fill={wide,subnormal,special,zero,ties,zero_row},cache={f8_e4m3,f8_e5m2},scaled={no,yes}",
    ] {
        check(&card, KV, "", &FLOATS, pattern);
    }
}

#[test]
fn keys_and_values_may_differ_in_dtype() {
    let card = Card::open();
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
            for comparison in trial.check(&*card.device).unwrap() {
                assert!(comparison.passes(), "{k} {v} {cache}: {comparison:?}");
            }
        }
    }
}

#[test]
fn slots_that_lie_write_nothing() {
    let card = Card::open();
    let slots = [8i64, -2, i64::MAX, i64::MIN];
    let mut trial = Trial::new(Op::KvWrite(KvWriteAttrs { kv_layout: KvLayout::BlockTokenHead }));
    for _ in 0..2 {
        trial = trial.values(DType::F16, &[4, 2, 8], &[1.0; 64]);
    }
    let raw = slots.iter().flat_map(|s| s.to_le_bytes()).collect();
    trial = trial.input(TensorDesc::new(DType::I64, &[4]).unwrap(), raw);
    for _ in 0..2 {
        trial = trial.values(DType::F16, &[2, 4, 2, 8], &[3.0; 128]);
    }
    let after = survives(&card, &trial);
    assert_eq!(after, trial.build().unwrap().bytes);
}
