//! Attention: both layouts of pages and packed keys, every dtype of cache, groups, head sizes, windows, sinks, caps, lengths around
//! the borders of blocks and steps.
#![allow(missing_docs, reason = "the name of a list is the promise that its trials hold a device to")]

use qiao_core::{DType, OpKind};

use super::FLOATS;
use super::walk::Walk;

const HALVES: [DType; 2] = [DType::F16, DType::BF16];
const DECODE: OpKind = OpKind::AttentionDecode;
const PREFILL: OpKind = OpKind::AttentionPrefill;

pub fn a_decoded_token_sees_its_pages_in_both_layouts() -> Vec<Walk> {
    Walk::over(
        DECODE,
        "",
        &HALVES,
        &[
            "keys={0,1,15,16,17,63,64,65},kv=2,gqa=4,d=64,block=16,batch=one",
            "keys=130,kv=2,gqa=3,d=64,block={1,7,32},batch=mixed,pages={token_head,head_token},index={i32,i64}",
            "keys={200,520},kv=1,gqa=4,d=128,block=16,batch=mixed,sharing=prefix",
            "keys=40,kv={4,7},gqa=2,d=24,block={4,7},pages={token_head,head_token},batch=many",
        ],
    )
}

pub fn a_decoded_token_has_heads_of_any_group_and_size() -> Vec<Walk> {
    Walk::over(
        DECODE,
        "",
        &HALVES,
        &[
            "keys=40,kv=1,gqa={1,2,3,5,6,7,8,16,17},d=32,block=16,batch=mixed",
            "keys=40,kv=1,gqa=2,d={8,16,40,64,80,96,104,128,136,192,256},block=16",
            "keys=70,kv=2,gqa=2,d={64,40,256},dv={8,128,72},block=16",
        ],
    )
}

pub fn a_decoded_token_has_windows_sinks_caps_and_scales() -> Vec<Walk> {
    Walk::over(
        DECODE,
        "",
        &HALVES,
        &[
            "keys=150,kv=1,gqa=2,d=24,block=7,window={1,2,63,64,65,150,1000},batch=mixed,causal={no,yes}",
            "keys=300,kv=1,gqa=2,d=24,block=16,window={129,200},sinks=f32",
            "keys=40,kv=2,gqa=2,d=24,block=16,scale={0.05,1},softcap={0,1.5,30},sinks={none,same,f32}",
            "keys={0,5},kv=2,gqa=2,d=24,block=4,batch={one,mixed,none},sinks=same",
            "keys=40,kv=2,gqa=2,d=24,block=7,out={f32,f16,bf16},batch=mixed",
            "keys=40,kv=2,gqa=2,d=24,block=7,layout={gapped,strided,transposed,repeated},laid={q,y},batch=mixed",
        ],
    )
}

pub fn a_decoded_token_reads_codes_and_other_dtypes_than_its_own() -> Vec<Walk> {
    Walk::over(
        DECODE,
        "",
        &FLOATS,
        &[
            "keys=40,kv=2,gqa=2,d={24,128},block=16,cache={bf16,i8,f8_e4m3,f8_e5m2},pages={token_head,head_token},batch=mixed",
            "keys=40,kv=2,gqa=3,d={64,80,256},block=7,cache={f8_e4m3,f8_e5m2},scaled=yes,batch=mixed",
            "keys=300,kv=1,gqa=2,d=64,block=16,cache={i8,f8_e4m3},scaled=yes,window={0,130},sinks=f32",
        ],
    )
}

pub fn numbers_that_are_none_reach_whom_they_should() -> Vec<Walk> {
    let mut walks = Vec::new();
    for dtypes in [&HALVES[..], &[DType::F32]] {
        walks.extend(Walk::over(
            DECODE,
            "",
            dtypes,
            &[
                "keys=40,kv=2,gqa=2,d=24,block=7,plant={q,k,v},batch=mixed,window={0,5},cache={same,f8_e4m3,f8_e5m2}",
                "keys=300,kv=1,gqa=2,d=24,block=16,plant={q,k,v},batch=mixed",
            ],
        ));
    }
    walks.extend(Walk::over(
        PREFILL,
        "",
        &FLOATS,
        &[
            "queries={7,70},keys=150,kv=1,gqa=2,d=24,plant={q,k,v},causal={yes,no}",
            "queries=12,keys=20,kv=2,gqa=2,d=24,plant={q,k,v},batch={one,mixed},window={0,5}",
        ],
    ));
    walks
}

pub fn a_prompt_sees_packed_keys() -> Vec<Walk> {
    let mut walks = Vec::new();
    for dtype in HALVES {
        walks.extend(Walk::over(
            PREFILL,
            "",
            &[dtype],
            &[
                "queries={1,5,33},keys={1,33},kv=2,gqa=4,d=64,causal={yes,no}",
                "queries={63,64,65},keys={63,64,65},kv=1,gqa=2,d=64",
                "queries={127,130},keys=130,kv=1,gqa=1,d=128",
                "queries=17,keys=19,kv=1,gqa={1,3,7,8,16},d=24,batch=mixed",
                "queries=9,keys=70,kv=1,gqa=2,d={8,16,40,80,96,104,128,136,256}",
                "queries=9,keys=18,kv=2,gqa=2,d=64,dv={8,128}",
                "queries={0,2,20},keys={0,2,20},kv=2,gqa=2,d=24,batch={mixed,empty}",
                "queries=9,keys=140,kv=2,gqa=2,d=24,window={1,8,64,139,1000},causal={yes,no}",
                "queries=80,keys=150,kv=1,gqa=2,d=24,window=65,sinks=same",
                "queries=20,keys=9,kv=2,gqa=2,d=24,window={1,5,20},batch=mixed",
                "queries=9,keys=40,kv=2,gqa=2,d=24,scale={0.3,1},softcap={1.5,30},sinks={none,f32}",
                "queries=7,keys=20,kv=2,gqa=2,d=24,out={f32,f16,bf16},index=i64,batch=mixed",
                "queries=7,keys=20,kv=2,gqa=2,d=24,fill={wide,cancelling,subnormal,zero,positive},causal={yes,no}",
                "queries=7,keys=20,kv=2,gqa=2,d=24,layout={gapped,strided,transposed},laid={q,y},batch=mixed",
            ],
        ));
    }
    walks
}

pub fn a_prompt_sees_pages_of_every_dtype() -> Vec<Walk> {
    let mut walks = Vec::new();
    for dtype in HALVES {
        walks.extend(Walk::over(
            PREFILL,
            "paged",
            &[dtype],
            &[
                "queries=5,keys=150,kv=2,gqa=2,d=64,block={1,7,16,128},pages={token_head,head_token}",
                "queries={1,9},keys=70,kv=2,gqa=4,d=128,block=16,batch=mixed,sharing=prefix,index=i64",
                "queries=9,keys=140,kv=1,gqa=2,d=24,block=7,window={1,64,141},causal={yes,no},batch=mixed",
            ],
        ));
        walks.extend(Walk::over(PREFILL, "paged", &[dtype], &[
            "queries=9,keys=70,kv=2,gqa=2,d={24,64,80,128},block=16,cache={i8,f8_e4m3,f8_e5m2},batch=mixed",
            "queries=9,keys=40,kv=2,gqa=2,d={24,256},block=7,cache={f8_e4m3,f8_e5m2},scaled=yes,pages=head_token,batch=mixed",
        ]));
    }
    walks
}

pub fn few_queries_over_many_keys_are_split() -> Vec<Walk> {
    let mut walks = Vec::new();
    for dtype in FLOATS {
        walks.push(Walk::new(
            PREFILL,
            "paged",
            &[dtype],
            "queries={1,3},keys={515,1100},kv=1,gqa=2,d=64,block=16,batch=mixed",
        ));
        walks.push(Walk::new(PREFILL, "", &[dtype], "queries=5,keys=1030,kv=1,gqa=2,d=24,window={0,300},sinks=same"));
    }
    walks
}

pub fn the_plain_kernel_takes_what_the_others_refuse() -> Vec<Walk> {
    let mut walks = Walk::over(
        PREFILL,
        "",
        &FLOATS,
        &[
            "queries=5,keys=70,kv=2,gqa={1,3,9},d={1,7,33},dv={0,1,24},batch=mixed",
            "queries=5,keys=18,kv=1,gqa=2,d={576,300},dv=512",
            "queries=7,keys=20,kv=2,gqa=2,d=25,key={f32,f16,bf16},out={same,f32},window={0,5},softcap={0,30},sinks=f32",
        ],
    );
    walks.push(Walk::new(
        PREFILL,
        "paged",
        &FLOATS,
        "queries=9,keys=40,kv=2,gqa=2,d=20,block=7,cache={same,i8,f8_e5m2},batch=mixed",
    ));
    walks.push(Walk::new(
        DECODE,
        "",
        &FLOATS,
        "keys={1,40,300},kv=2,gqa=2,d=33,block=7,cache={same,i8,f8_e4m3},batch=mixed",
    ));
    walks.push(Walk::new(
        DECODE,
        "",
        &[DType::F32],
        "keys={0,40,300},kv=2,gqa=9,d=64,block=16,batch=mixed,window={0,33},sinks=same",
    ));
    walks.push(Walk::new(
        DECODE,
        "",
        &[DType::F32],
        "keys=40,kv=2,gqa=2,d=24,block=16,cache={same,f16},pages=head_token",
    ));
    walks
}
