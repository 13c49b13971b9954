//! attention_prefill, packed and paged, and attention_decode.
//!
//! Whatever a query must not see holds NaN: slots behind a sequence's last key, pages that no table names, the places
//! between elements. Sequences come in any order, so that the second set of data has other lengths in other places.

use std::collections::HashSet;

use qiao_core::{AttentionAttrs, DType, Op, OpKind, Result, TensorDesc};
use qiao_reference::Trial;
use qiao_reference::data::to_bytes;

use crate::family::{Depth, FLOATS, Family, with};
use crate::make::{Data, LAYOUT, Make, OUT, dtype_or, strides};
use crate::ops::kv::{CACHE, INDEX, PAGES, SCALED, cache_of, layout_of, page_dims};
use crate::point::{Param, Point, extra, size, size_from, word};

/// Key heads; query heads to each of them; the size of a head; that of a value's, 0 = the same.
const HEADS: [Param; 4] = [size_from("kv", 1), size_from("gqa", 1), size_from("d", 1), extra("dv")];

const CAUSAL: Param = word("causal", &["yes", "no"]);
const SCALE: Param = word("scale", &["default", "0.05", "0.3", "1"]);
const SOFTCAP: Param = word("softcap", &["0", "1.5", "30"]);
const WINDOW: Param = extra("window");
const SINKS: Param = word("sinks", &["none", "same", "f32"]);

/// Where one number that is none stands: in a query, a key or a value, of which some queries see the last two.
const PLANT: Param = word("plant", &["none", "q", "k", "v"]);

/// Which tensors have the layout.
const LAID: Param = word("laid", &["q", "kv", "y"]);

/// Data of queries, and of keys and values that are not codes.
const FILL: Param = word("fill", &["normal", "wide", "cancelling", "subnormal", "zero", "positive"]);

/// Query rows behind those of the last sequence, which belong to none.
const IDLE: Param = extra("idle");

/// Columns of the block table behind those that are read: the table is cut from a wider one.
const BESIDE: Param = extra("beside");

/// Blocks of the cache that no sequence has.
const SPARE: Param = extra("spare");

/// Whether each page belongs to one sequence, or all sequences share the pages of their first keys.
const SHARING: Param = word("sharing", &["none", "prefix"]);

const PACKED_PARAMS: &[Param] = &[
    // Queries and keys of the first sequence.
    size("queries"),
    size("keys"),
    HEADS[0],
    HEADS[1],
    HEADS[2],
    HEADS[3],
    word("batch", &["one", "mixed", "empty"]),
    CAUSAL,
    SCALE,
    SOFTCAP,
    WINDOW,
    SINKS,
    word("key", &["same", "f32", "f16", "bf16"]),
    INDEX,
    PLANT,
    FILL,
    OUT,
    LAYOUT,
    LAID,
    IDLE,
];

const PACKED_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "queries={1,5,33},keys=33,kv=2,gqa=4,d=64"),
    (Depth::Smoke, "queries=17,keys=17,kv=2,gqa={1,7},d={64,128},batch=mixed"),
    (Depth::Smoke, "queries=4,keys=130,kv=1,gqa=4,d=64,causal={yes,no}"),
    (Depth::Standard, "queries={1,3},keys=@contexts,kv=2,gqa=2,d=16,causal={yes,no}"),
    (Depth::Standard, "queries=@edges,keys=20,kv=1,gqa=2,d=16"),
    (Depth::Standard, "queries={1,17},keys=19,kv={1,2},gqa=@gqa,d=20"),
    (Depth::Standard, "queries={1,9},keys=18,kv=1,gqa=2,d=@heads"),
    (Depth::Standard, "queries={2,9},keys=18,kv=2,gqa=2,d={1,7,33},dv={0,1,24}"),
    (Depth::Standard, "queries=5,keys=18,kv=1,gqa={1,16},d={192,576},dv={128,512}"),
    // Longer than its keys, shorter, and neither at all.
    (Depth::Standard, "queries={0,1,2,7,20},keys={0,1,2,7,20},kv=2,gqa=2,d=24,batch={one,mixed,empty}"),
    (Depth::Standard, "queries={0,2,7,20},keys={0,2,7,20},kv=2,gqa=2,d=24,causal=no,sinks=same"),
    // Every attribute, alone and with others.
    (Depth::Standard, "queries=9,keys=40,kv=2,gqa=2,d=24,window={1,2,8,9,31,39,40,41,1000},causal={yes,no}"),
    (Depth::Standard, "queries=20,keys=9,kv=2,gqa=2,d=24,window={1,5,9,20},batch={one,mixed}"),
    (Depth::Standard, "queries=9,keys=40,kv=2,gqa=2,d=24,scale={0.05,0.3,1},softcap={0,1.5,30},causal={yes,no}"),
    (Depth::Standard, "queries=9,keys=40,kv=2,gqa=3,d=24,sinks={same,f32},softcap={0,30},window={0,8},batch=mixed"),
    (Depth::Standard, "queries={3,40},keys=150,kv=1,gqa=3,d=24,window={127,128,129},softcap={0,30}"),
    // Dtypes.
    (Depth::Standard, "queries=7,keys=20,kv=2,gqa=2,d=24,key={f32,f16,bf16},out={same,f32,f16,bf16}"),
    (Depth::Standard, "queries=7,keys=20,kv=2,gqa=2,d=24,index=i64,batch={one,mixed,empty}"),
    // Data and layouts.
    (
        Depth::Standard,
        "queries=12,keys=20,kv=2,gqa=2,d=24,plant={q,k,v},batch={one,mixed},causal={yes,no},window={0,5}",
    ),
    (Depth::Standard, "queries=7,keys=150,kv=1,gqa=2,d=24,plant={q,k,v}"),
    (
        Depth::Standard,
        "queries=7,keys=20,kv=2,gqa=2,d=24,fill={wide,cancelling,subnormal,zero,positive},causal={yes,no}",
    ),
    (Depth::Standard, "queries=3,keys=520,kv=1,gqa=2,d=16,fill=positive,out={same,f32}"),
    (Depth::Standard, "queries=7,keys=20,kv=2,gqa=2,d={24,64},fill=wide,sinks=f32,softcap={0,30}"),
    // More queries with keys than a tile takes.
    (Depth::Standard, "queries={65,130},keys=200,kv=1,gqa=1,d=16,causal={yes,no}"),
    (Depth::Standard, "queries=5,keys=18,kv=1,gqa=2,d={16,64},batch={one,mixed},idle=3"),
    // Every attribute on a head that all chips have.
    (Depth::Standard, "queries=9,keys=150,kv=2,gqa=2,d=64,window={37,128},batch=mixed"),
    (Depth::Standard, "queries=9,keys=150,kv=2,gqa=2,d=64,scale=0.3,softcap={0,30},sinks=f32,batch=mixed"),
    (Depth::Standard, "queries=9,keys=150,kv=2,gqa=2,d=64,plant={q,k,v},causal={yes,no}"),
    (
        Depth::Standard,
        "queries=7,keys=20,kv=2,gqa=2,d=24,layout={gapped,strided,transposed,repeated},laid=q,batch=mixed",
    ),
    (Depth::Standard, "queries=7,keys=20,kv=2,gqa=2,d=24,layout=gapped,laid=kv,batch={one,mixed}"),
    (Depth::Standard, "queries=7,keys=20,kv=2,gqa=2,d=24,layout={gapped,strided,transposed},laid=y,batch={one,mixed}"),
    // Heads of Qwen2.5-0.5B, Llama-3.2-1B, Qwen3-4B and Llama-3-8B.
    (Depth::Standard, "queries={1,16},keys=40,kv=2,gqa=7,d=64"),
    (Depth::Standard, "queries={1,16},keys=40,kv=8,gqa=4,d={64,128}"),
    (Depth::Full, "queries={127,128,129},keys={127,128,129,520},kv=2,gqa=7,d=64"),
    (Depth::Full, "queries={16,512},keys={1024,2048},kv=1,gqa=4,d=128"),
    (Depth::Full, "queries=64,keys=4096,kv=1,gqa=4,d=64,window={0,1023,1024},softcap={0,30}"),
];

const PAGED_PARAMS: &[Param] = &[
    size("queries"),
    size("keys"),
    HEADS[0],
    HEADS[1],
    HEADS[2],
    HEADS[3],
    size_from("block", 1),
    word("batch", &["one", "mixed", "empty"]),
    CAUSAL,
    SCALE,
    SOFTCAP,
    WINDOW,
    SINKS,
    PAGES,
    CACHE,
    SCALED,
    SHARING,
    INDEX,
    PLANT,
    FILL,
    OUT,
    LAYOUT,
    LAID,
    IDLE,
    BESIDE,
    SPARE,
];

const PAGED_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "queries=5,keys=150,kv=2,gqa=2,d=64,block={16,32,64,128},pages={token_head,head_token}"),
    (Depth::Smoke, "queries={1,5,33},keys=33,kv=2,gqa=4,d=64,block=16"),
    (Depth::Smoke, "queries=17,keys=50,kv=2,gqa={1,7},d=64,block=16,batch=mixed"),
    (Depth::Smoke, "queries=4,keys=130,kv=1,gqa=4,d=128,block=128,causal={yes,no}"),
    (Depth::Standard, "queries=3,keys=@contexts,kv=1,gqa=2,d=16,block={16,128},batch={one,mixed}"),
    (
        Depth::Standard,
        "queries=5,keys={1,31,32,33,63,64,65},kv=1,gqa=2,d=16,block={7,32},pages={token_head,head_token}",
    ),
    (Depth::Standard, "queries={1,9},keys=18,kv={1,2},gqa=@gqa,d=20,block=7"),
    (Depth::Standard, "queries=5,keys=18,kv=1,gqa=2,d=@heads,block=16,pages={token_head,head_token}"),
    (Depth::Standard, "queries=5,keys=18,kv=1,gqa={1,16},d={192,576},dv={128,512},block=16"),
    (Depth::Standard, "queries=5,keys=18,kv=4,gqa=2,d=20,block=4,pages={token_head,head_token},batch=mixed"),
    (Depth::Standard, "queries={0,1,2,7,20},keys={0,1,2,7,20},kv=2,gqa=2,d=24,block=4,batch={mixed,empty}"),
    (Depth::Standard, "queries=9,keys=40,kv=2,gqa=2,d=24,block=7,window={1,8,31,40,41,1000},causal={yes,no}"),
    (
        Depth::Standard,
        "queries=9,keys=40,kv=2,gqa=2,d=24,block=16,scale={default,0.05,1},softcap={0,1.5,30},sinks={none,f32}",
    ),
    (
        Depth::Standard,
        "queries=9,keys=40,kv=2,gqa=2,d=24,block=16,cache={f32,f16,bf16,i8,f8_e4m3,f8_e5m2},pages={token_head,head_token},batch={one,mixed}",
    ),
    (
        Depth::Standard,
        "queries=9,keys=40,kv=2,gqa=2,d=24,block=16,cache={f8_e4m3,f8_e5m2},scaled=yes,pages={token_head,head_token},batch=mixed",
    ),
    (
        Depth::Standard,
        "queries=9,keys=40,kv=2,gqa=2,d=24,block={4,16},sharing=prefix,batch=mixed,cache={same,i8},index={i32,i64}",
    ),
    (
        Depth::Standard,
        "queries=9,keys=40,kv=2,gqa=2,d=24,block=7,plant={q,k,v},batch=mixed,causal={yes,no},window={0,5}",
    ),
    (Depth::Standard, "queries=9,keys=40,kv=2,gqa=2,d=24,block=7,out={f32,f16,bf16},batch=mixed"),
    (
        Depth::Standard,
        "queries=9,keys=40,kv=2,gqa=2,d=24,block=7,layout={gapped,strided,transposed},laid={q,y},batch=mixed",
    ),
    (
        Depth::Standard,
        "queries=9,keys=40,kv=2,gqa=2,d=24,block=7,layout=gapped,laid=kv,batch=mixed,cache={same,i8},pages={token_head,head_token}",
    ),
    (
        Depth::Standard,
        "queries={1,7},keys=40,kv=2,gqa=2,d={24,64},block={7,16,128},fill={wide,cancelling,positive},sinks={none,f32}",
    ),
    (Depth::Standard, "queries={65,130},keys=200,kv=1,gqa=1,d=16,block={16,128},causal={yes,no}"),
    (Depth::Standard, "queries=5,keys=18,kv=1,gqa=2,d={16,64},block={16,128},batch={one,mixed},idle=3"),
    (Depth::Standard, "queries=9,keys=40,kv=2,gqa=2,d={24,64},block={7,16,128},batch=mixed,beside=5"),
    // Blocks beyond what 16 bits count.
    (Depth::Standard, "queries=3,keys=20,kv=1,gqa=2,d=8,block=1,spare=70000"),
    (Depth::Standard, "queries=3,keys=20,kv=1,gqa=2,d=64,block=1,spare=33000"),
    (Depth::Standard, "queries={1,9},keys=40,kv=2,gqa={3,5,6,8,12},d={64,128},block=16"),
    // Every attribute on a head and in pages that chips have.
    (
        Depth::Standard,
        "queries=9,keys=150,kv=2,gqa=2,d=64,block={16,64,128},pages={token_head,head_token},window={37,128},batch=mixed",
    ),
    (
        Depth::Standard,
        "queries=9,keys=150,kv=2,gqa=2,d=64,block={16,64,128},pages={token_head,head_token},scale=0.3,softcap=30,sinks=f32",
    ),
    (
        Depth::Standard,
        "queries=9,keys=150,kv=2,gqa=2,d=64,block={16,64,128},pages={token_head,head_token},cache={i8,f8_e4m3},scaled=yes,batch=mixed",
    ),
    (
        Depth::Standard,
        "queries=9,keys=150,kv=2,gqa=2,d=64,block={16,64,128},pages={token_head,head_token},sharing=prefix,batch=mixed",
    ),
    (Depth::Full, "queries={16,128},keys={1024,4096},kv=1,gqa=4,d=64,block={16,128},cache={same,i8}"),
];

const DECODE_PARAMS: &[Param] = &[
    // Keys of the first sequence.
    size("keys"),
    HEADS[0],
    HEADS[1],
    HEADS[2],
    HEADS[3],
    size_from("block", 1),
    word("batch", &["one", "mixed", "many", "none"]),
    word("causal", &["no", "yes"]),
    SCALE,
    SOFTCAP,
    WINDOW,
    SINKS,
    PAGES,
    CACHE,
    SCALED,
    SHARING,
    INDEX,
    PLANT,
    FILL,
    OUT,
    LAYOUT,
    LAID,
    BESIDE,
    SPARE,
];

const DECODE_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "keys=150,kv=2,gqa=2,d=64,block={16,32,64,128},pages={token_head,head_token}"),
    (Depth::Smoke, "keys={1,17,130},kv=2,gqa=4,d=64,block=16,batch={one,mixed}"),
    (Depth::Smoke, "keys=40,kv=2,gqa={1,7},d={64,128},block=16,batch=mixed"),
    (Depth::Smoke, "keys=300,kv=1,gqa=4,d=128,block=128,batch=mixed"),
    (Depth::Standard, "keys=@contexts,kv=1,gqa=2,d=16,block={16,128},batch={one,mixed}"),
    (Depth::Standard, "keys={514,515,516,517,518,519},kv=1,gqa=2,d=16,block=16"),
    (Depth::Standard, "keys={0,1,31,32,33,63,64,65},kv=1,gqa=2,d=16,block={1,7,32},pages={token_head,head_token}"),
    (Depth::Standard, "keys=18,kv={1,2,3},gqa=@gqa,d=20,block=7,batch=mixed"),
    (Depth::Standard, "keys=40,kv=1,gqa=2,d=@heads,block=16,pages={token_head,head_token}"),
    (Depth::Standard, "keys=40,kv=1,gqa={1,16},d={192,576},dv={128,512},block=16"),
    // As many heads as tokens in a block: nothing but the layout tells them apart.
    (
        Depth::Standard,
        "keys=18,kv={4,7},gqa=2,d=20,block={4,7},pages={token_head,head_token},batch=mixed,cache={same,i8}",
    ),
    (Depth::Standard, "keys={1,20},kv=2,gqa=2,d={1,7,33},dv={0,1,24},block=4"),
    (Depth::Standard, "keys={0,5},kv=2,gqa=2,d=24,block=4,batch={one,mixed,many,none},sinks={none,same}"),
    (Depth::Standard, "keys=70,kv=2,gqa=3,d=24,block=16,batch=many"),
    (Depth::Standard, "keys=40,kv=2,gqa=2,d=24,block=7,window={1,2,6,7,8,39,40,41,1000},causal={no,yes}"),
    (Depth::Standard, "keys=150,kv=1,gqa=2,d=24,block=16,window={127,128,129},batch=mixed,softcap={0,30}"),
    (
        Depth::Standard,
        "keys=40,kv=2,gqa=2,d=24,block=16,scale={default,0.05,0.3,1},softcap={0,1.5,30},sinks={none,f32}",
    ),
    (
        Depth::Standard,
        "keys=40,kv=2,gqa=2,d=24,block=16,cache={f32,f16,bf16,i8,f8_e4m3,f8_e5m2},pages={token_head,head_token},batch={one,mixed}",
    ),
    (
        Depth::Standard,
        "keys=40,kv=2,gqa=2,d=24,block={7,16},cache={f8_e4m3,f8_e5m2},scaled=yes,pages={token_head,head_token},batch=mixed",
    ),
    (Depth::Standard, "keys=300,kv=1,gqa=2,d=64,block=16,cache={i8,f8_e4m3},scaled=yes"),
    (
        Depth::Standard,
        "keys=40,kv=2,gqa=2,d=24,block={4,16},sharing=prefix,batch={mixed,many},cache={same,i8},index={i32,i64}",
    ),
    (Depth::Standard, "keys=40,kv=2,gqa=2,d=24,block=7,plant={q,k,v},batch=mixed,window={0,5},cache={same,f8_e4m3}"),
    (Depth::Standard, "keys=40,kv=2,gqa=2,d=24,block=7,out={f32,f16,bf16},batch=mixed"),
    (
        Depth::Standard,
        "keys=40,kv=2,gqa=2,d=24,block=7,layout={gapped,strided,transposed,repeated},laid={q,y},batch=mixed",
    ),
    (
        Depth::Standard,
        "keys=40,kv=2,gqa=2,d=24,block=7,layout=gapped,laid=kv,batch=mixed,cache={same,i8},pages={token_head,head_token}",
    ),
    (Depth::Standard, "keys=40,kv=8,gqa=4,d={64,128},block=16,batch=mixed"),
    (Depth::Standard, "keys=20,kv=2,gqa=2,d={24,64},block={7,16,128},fill={wide,cancelling,positive},sinks={none,f32}"),
    (Depth::Standard, "keys={1025,2049},kv=1,gqa=1,d=16,block={16,128}"),
    (Depth::Standard, "keys=40,kv=2,gqa=2,d={24,64},block={7,16,128},batch=mixed,beside=5"),
    // Blocks beyond what 16 bits count.
    (Depth::Standard, "keys=20,kv=1,gqa=2,d=8,block=1,spare=70000"),
    (Depth::Standard, "keys=20,kv=1,gqa=2,d=64,block=1,spare=33000,index={i32,i64}"),
    (Depth::Standard, "keys=40,kv=2,gqa={3,5,6,8,12},d={64,128},block=16,cache={same,i8}"),
    // Every attribute on a head and in pages that chips have.
    (
        Depth::Standard,
        "keys=150,kv=2,gqa=2,d=64,block={16,64,128},pages={token_head,head_token},window={37,128},batch=mixed",
    ),
    (
        Depth::Standard,
        "keys=150,kv=2,gqa=2,d=64,block={16,64,128},pages={token_head,head_token},scale=0.3,softcap=30,sinks=f32",
    ),
    (
        Depth::Standard,
        "keys=150,kv=2,gqa=2,d=64,block={16,64,128},pages={token_head,head_token},cache={i8,f8_e4m3},scaled=yes,batch=mixed",
    ),
    (
        Depth::Standard,
        "keys=150,kv=2,gqa=2,d=64,block={16,64,128},pages={token_head,head_token},sharing=prefix,batch=mixed",
    ),
    (Depth::Full, "keys={1023,1024,1025,4096},kv=2,gqa={4,7},d={64,128},block={16,128},batch=mixed"),
    (Depth::Full, "keys=4096,kv=2,gqa=4,d=128,block=16,cache={i8,f8_e4m3},scaled=yes,window={0,1024}"),
];

const fn family(
    op: OpKind,
    variant: &'static str,
    params: &'static [Param],
    walk: &'static [(Depth, &'static str)],
    build: fn(&mut Make, &Point) -> Result<Trial>,
) -> Family {
    Family { op, variant, dtypes: FLOATS, params, walk, build }
}

pub(crate) const FAMILIES: &[Family] = &[
    family(OpKind::AttentionPrefill, "", PACKED_PARAMS, PACKED_WALK, packed),
    family(OpKind::AttentionPrefill, "paged", PAGED_PARAMS, PAGED_WALK, paged),
    family(OpKind::AttentionDecode, "", DECODE_PARAMS, DECODE_WALK, decode),
];

fn attrs(p: &Point) -> AttentionAttrs {
    let number = |name| p.word(name).parse().expect("the words are numbers");
    AttentionAttrs {
        causal: p.flag("causal"),
        scale: if p.word("scale") == "default" { 0.0 } else { number("scale") },
        softcap: number("softcap"),
        window: p.size("window") as u32,
        kv_layout: p.word_if("pages").map_or_else(Default::default, |_| layout_of(p)),
    }
}

/// Queries and keys of each sequence, in any order. How many there are, and their sums, are the point's alone.
fn sequences(make: &mut Make, p: &Point) -> Vec<(usize, usize)> {
    let (q, k) = (p.size("queries"), p.size("keys"));
    let all = match p.word("batch") {
        // Whole, one token at a time, more queries than keys, a chunk behind a long prefix.
        "mixed" => vec![(q, k), (1, k / 2 + 1), (0, 0), (q / 2 + 3, 2), (2, k + 19)],
        // No query, no key, neither.
        "empty" => vec![(q, k), (0, 3), (2, 0), (0, 0)],
        _ => vec![(q, k)],
    };
    shuffled(make, &all)
}

fn shuffled<T: Copy>(make: &mut Make, all: &[T]) -> Vec<T> {
    make.rng.permutation(all.len()).iter().map(|&i| all[i]).collect()
}

/// How a tensor lies: the point's layout where it is that tensor's.
fn layout_for(p: &Point, part: &str) -> &'static str {
    if p.word("laid") == part { p.word("layout") } else { "plain" }
}

/// One element of a tensor becomes this.
fn plant((desc, bytes): &mut Data, at: &[usize], value: f64) {
    let offset: usize = at.iter().zip(desc.strides.iter()).map(|(i, s)| i * s).sum();
    let size = desc.dtype.block_bytes();
    bytes[offset * size..][..size].copy_from_slice(&to_bytes(desc.dtype, &[value]));
}

/// Queries `[T, H, D]`, one number of them NaN where the point asks for that.
fn queries(make: &mut Make, p: &Point, tokens: usize) -> Result<Data> {
    let shape = [tokens, p.size("kv") * p.size("gqa"), p.size("d")];
    let mut q = make.tensor_in(layout_for(p, "q"), make.dtype, &shape)?;
    if p.word("plant") == "q" && tokens > 0 {
        let at = shape.map(|n| make.rng.below(n));
        plant(&mut q, &at, f64::NAN);
    }
    Ok(q)
}

fn indices(make: &Make, p: &Point, shape: &[usize], data: &[usize]) -> Result<Data> {
    let data: Vec<f64> = data.iter().map(|&i| i as f64).collect();
    make.list(index_of(p), shape, &data)
}

fn index_of(p: &Point) -> DType {
    if p.word("index") == "i64" { DType::I64 } else { DType::I32 }
}

/// Rows of queries: those of the sequences, and those of none.
fn query_rows(p: &Point, sequences: &[(usize, usize)]) -> usize {
    sequences.iter().map(|s| s.0).sum::<usize>() + p.size("idle")
}

/// `[0, q0, q0 + q1, ..]`.
fn starts(sequences: &[(usize, usize)]) -> Vec<usize> {
    let mut starts = vec![0];
    sequences.iter().for_each(|s| starts.push(starts[starts.len() - 1] + s.0));
    starts
}

/// Adds the sinks where the point has any, and says how the output lies.
fn ended(trial: Trial, make: &mut Make, p: &Point, tokens: usize, scales: &[Data]) -> Result<Trial> {
    let heads = p.size("kv") * p.size("gqa");
    let mut trial = match p.word("sinks") {
        "none" => trial.without(),
        name => with(trial, make.normal(dtype_or(name, make.dtype), &[heads])?),
    };
    for scales in scales {
        trial = with(trial, scales.clone());
    }
    let trial = trial.output_dtype(dtype_or(p.word("out"), make.dtype));
    Ok(match layout_for(p, "y") {
        "plain" | "repeated" => trial,
        layout => trial.output_strides(&strides(layout, &[tokens, heads, value_size(p)], 1)),
    })
}

fn value_size(p: &Point) -> usize {
    if p.size("dv") == 0 { p.size("d") } else { p.size("dv") }
}

fn packed(make: &mut Make, p: &Point) -> Result<Trial> {
    let sequences = sequences(make, p);
    let (tokens, keys) = (query_rows(p, &sequences), sequences.iter().map(|s| s.1).sum::<usize>());
    let q = queries(make, p, tokens)?;
    let mut trial = with(Trial::new(Op::AttentionPrefill(attrs(p))), q);
    for (name, size) in [("k", p.size("d")), ("v", value_size(p))] {
        let shape = [keys, p.size("kv"), size];
        let mut rows = make.tensor_in(layout_for(p, "kv"), dtype_or(p.word("key"), make.dtype), &shape)?;
        if p.word("plant") == name && keys > 0 {
            let at = shape.map(|n| make.rng.below(n));
            plant(&mut rows, &at, planted(name));
        }
        trial = with(trial, rows);
    }
    let cu_q = starts(&sequences);
    let lengths: Vec<usize> = sequences.iter().map(|s| s.1).collect();
    let trial = with(trial, indices(make, p, &[cu_q.len()], &cu_q)?);
    let trial = with(trial, indices(make, p, &[lengths.len()], &lengths)?).without();
    ended(trial, make, p, tokens, &[])
}

/// What is planted: an infinite value reaches every query that sees it as it is.
fn planted(name: &str) -> f64 {
    if name == "v" { f64::INFINITY } else { f64::NAN }
}

/// Pages of keys and values and the table that names them.
struct Pool {
    /// Keys, values.
    caches: [Data; 2],
    /// Their scales, where they have any.
    scales: Vec<Data>,
    table: Data,
}

/// The block of each `block` keys of each sequence. Where sequences share a prefix, the full blocks of the shortest one
/// that has any are those of all longer ones.
fn tables(make: &mut Make, p: &Point, lengths: &[usize]) -> (Vec<Vec<usize>>, usize) {
    let block = p.size("block");
    let needed: Vec<usize> = lengths.iter().map(|l| l.div_ceil(block)).collect();
    let blocks = needed.iter().sum::<usize>() + 3 + p.size("spare");
    let mut free = make.rng.permutation(blocks);
    let mut own: Vec<Vec<usize>> =
        needed.iter().map(|&n| (0..n).map(|_| free.pop().expect("there are blocks to spare")).collect()).collect();
    if p.word("sharing") == "prefix" {
        let full = |l: usize| l / block;
        let shortest = lengths.iter().copied().filter(|&l| full(l) > 0).min().unwrap_or(0);
        let first = lengths.iter().position(|&l| l == shortest && full(l) > 0);
        if let Some(first) = first {
            let prefix = own[first][..full(shortest)].to_vec();
            own.iter_mut().zip(lengths).filter(|(_, l)| **l >= shortest).for_each(|(table, _)| {
                table[..prefix.len()].copy_from_slice(&prefix);
            });
        }
    }
    (own, blocks)
}

fn pool(make: &mut Make, p: &Point, lengths: &[usize]) -> Result<Pool> {
    let (block, heads) = (p.size("block"), p.size("kv"));
    let (tables, blocks) = tables(make, p, lengths);
    // One column more than the longest sequence needs: nobody reads it.
    let columns = lengths.iter().max().map_or(0, |l| l.div_ceil(block)) + 1;
    let mut entries = Vec::new();
    let mut live = HashSet::new();
    for (table, &length) in tables.iter().zip(lengths) {
        entries.extend((0..columns).map(|c| table.get(c).map_or(-1.0, |&b| b as f64)));
        live.extend((0..length).map(|t| (table[t / block], t % block)));
    }
    let mut live: Vec<_> = live.into_iter().collect();
    live.sort_unstable();
    let (dtype, scaled) = cache_of(p, make.dtype);
    let dims = page_dims(layout_of(p), blocks, block, heads);
    let places = Places { live, heads, tokens_first: p.word("pages") == "token_head", dtype, scaled };
    let (mut caches, mut scales) = (Vec::new(), Vec::new());
    for (name, size) in [("k", p.size("d")), ("v", value_size(p))] {
        let layout = layout_for(p, "kv");
        let mut cache = places.cache(make, &dims, size, layout)?;
        if p.word("plant") == name && !places.live.is_empty() && dtype != DType::I8 {
            let (page, slot) = places.live[make.rng.below(places.live.len())];
            let [b, x, y] = places.at(page, slot, make.rng.below(heads));
            // fp8 of this kind has no infinity.
            let value = if dtype == DType::F8E4M3 { f64::NAN } else { planted(name) };
            let element = make.rng.below(size);
            plant(&mut cache, &[b, x, y, element], value);
        }
        caches.push(cache);
        if scaled {
            scales.push(places.scales(make, &dims, layout)?);
        }
    }
    let table = table(index_of(p), lengths.len(), columns, p.size("beside"), &entries)?;
    let caches = caches.try_into().expect("there are keys and values");
    Ok(Pool { caches, scales, table })
}

/// The table of these entries, row by row, cut from one with as many columns more, which name no page.
fn table(dtype: DType, rows: usize, columns: usize, beside: usize, entries: &[f64]) -> Result<Data> {
    let desc = TensorDesc::strided(dtype, &[rows, columns], &[columns + beside, 1])?;
    let mut held = vec![-1.0; desc.bytes()? / dtype.block_bytes()];
    for (row, entries) in entries.chunks_exact(columns).enumerate() {
        held[row * (columns + beside)..][..columns].copy_from_slice(entries);
    }
    let bytes = to_bytes(dtype, &held);
    Ok((desc, bytes))
}

/// The slots of a pool that hold keys.
struct Places {
    /// Page and slot of each.
    live: Vec<(usize, usize)>,
    heads: usize,
    tokens_first: bool,
    dtype: DType,
    scaled: bool,
}

impl Places {
    /// The first three indices of a slot and a head.
    fn at(&self, page: usize, slot: usize, head: usize) -> [usize; 3] {
        if self.tokens_first { [page, slot, head] } else { [page, head, slot] }
    }

    fn filled(&self, desc: TensorDesc, stale: f64, size: usize, mut number: impl FnMut() -> f64) -> Result<Data> {
        let mut held = vec![stale; desc.bytes()? / desc.dtype.block_bytes()];
        for &(page, slot) in &self.live {
            for head in 0..self.heads {
                let at = self.at(page, slot, head);
                let start: usize = at.iter().zip(desc.strides.iter()).map(|(i, s)| i * s).sum();
                (0..size).for_each(|i| held[start + i] = number());
            }
        }
        let bytes = to_bytes(desc.dtype, &held);
        Ok((desc, bytes))
    }

    /// Keys or values; whatever is not live is NaN, or the largest code.
    fn cache(&self, make: &mut Make, dims: &[usize; 3], size: usize, layout: &str) -> Result<Data> {
        let shape = [&dims[..], &[size]].concat();
        let desc = TensorDesc::strided(self.dtype, &shape, &strides(layout, &shape, 1))?;
        let stale = if self.dtype == DType::I8 { 127.0 } else { f64::NAN };
        let plain = if self.dtype == DType::I8 || self.scaled { 0 } else { self.live.len() * self.heads * size };
        let mut plain = make.numbers(self.dtype, plain).into_iter();
        let rng = &mut make.rng;
        self.filled(desc, stale, size, || match (self.dtype, self.scaled) {
            (DType::I8, _) => rng.below(255) as f64 - 127.0,
            // Over the range that a scaled row of fp8 has.
            (_, true) => (100.0 * rng.normal()).clamp(-448.0, 448.0),
            _ => plain.next().unwrap_or_default(),
        })
    }

    /// A scale for each live token and head, over a factor of four; the others are NaN.
    fn scales(&self, make: &mut Make, dims: &[usize; 3], layout: &str) -> Result<Data> {
        let desc = TensorDesc::strided(DType::F32, dims, &strides(layout, dims, 1))?;
        let rng = &mut make.rng;
        self.filled(desc, f64::NAN, 1, || 0.006 * (2.0 * rng.uniform()).exp2())
    }
}

fn paged(make: &mut Make, p: &Point) -> Result<Trial> {
    let sequences = sequences(make, p);
    let tokens = query_rows(p, &sequences);
    let lengths: Vec<usize> = sequences.iter().map(|s| s.1).collect();
    let q = queries(make, p, tokens)?;
    let Pool { caches: [k, v], scales, table } = pool(make, p, &lengths)?;
    let cu_q = starts(&sequences);
    let trial = with(with(with(Trial::new(Op::AttentionPrefill(attrs(p))), q), k), v);
    let trial = with(trial, indices(make, p, &[cu_q.len()], &cu_q)?);
    let trial = with(with(trial, indices(make, p, &[lengths.len()], &lengths)?), table);
    ended(trial, make, p, tokens, &scales)
}

fn decode(make: &mut Make, p: &Point) -> Result<Trial> {
    let k = p.size("keys");
    let all = match p.word("batch") {
        "mixed" => vec![k, 0, 1, k / 2 + 1, k + 19],
        "many" => (0..17).map(|i| k * i / 8 % (k + 3)).collect(),
        "none" => vec![],
        _ => vec![k],
    };
    let lengths = shuffled(make, &all);
    let q = queries(make, p, lengths.len())?;
    let Pool { caches: [k, v], scales, table } = pool(make, p, &lengths)?;
    let trial = with(with(with(Trial::new(Op::AttentionDecode(attrs(p))), q), k), v);
    let trial = with(with(trial, indices(make, p, &[lengths.len()], &lengths)?), table);
    ended(trial, make, p, lengths.len(), &scales)
}
