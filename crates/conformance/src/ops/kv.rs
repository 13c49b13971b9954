//! kv_write.

use qiao_core::{DType, KvLayout, KvWriteAttrs, Op, OpKind, Result, TensorDesc};
use qiao_reference::Trial;

use crate::family::{Depth, FLOATS, Family, with};
use crate::make::{Data, LAYOUT, Make, dtype_or, strides};
use crate::point::{Param, Point, extra, size, size_from, word};

/// The order of a page's dims: tokens before heads, or heads before tokens.
pub(super) const PAGES: Param = word("pages", &["token_head", "head_token"]);

/// The dtype of a cache, where it is not that of the rows.
pub(super) const CACHE: Param = word("cache", &["same", "f32", "f16", "bf16", "i8", "f8_e4m3", "f8_e5m2"]);

/// Whether a cache of fp8 has scales; one of i8 always has.
pub(super) const SCALED: Param = word("scaled", &["no", "yes"]);

/// The dtype of indices.
pub(super) const INDEX: Param = word("index", &["i32", "i64"]);

const PARAMS: &[Param] = &[
    size("tokens"),
    size_from("heads", 1),
    size_from("d", 1),
    // The size of a value's head; 0 = that of a key's.
    extra("dv"),
    size_from("block", 1),
    // Blocks beyond those that the tokens fill.
    extra("spare"),
    PAGES,
    CACHE,
    SCALED,
    INDEX,
    // Which slots: any, one after the other from the first, from the last block on; every third left out, or all.
    word("slots", &["shuffled", "in_order", "last", "some_skipped", "all_skipped"]),
    word(
        "fill",
        &["normal", "wide", "cancelling", "subnormal", "special", "zero", "positive", "negative", "ties", "zero_row"],
    ),
    LAYOUT,
    // Which operands have the layout.
    word("laid", &["rows", "cache"]),
];

const WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "tokens={1,5,33},heads=2,d=64,block=16,spare=2"),
    (Depth::Smoke, "tokens=19,heads=2,d=64,block={16,32,64,128},spare=1,pages={token_head,head_token}"),
    (Depth::Smoke, "tokens=7,heads=3,d=20,block=16,spare=1,slots={in_order,some_skipped}"),
    (Depth::Standard, "tokens=@edges,heads=2,d=16,block=16,spare=1"),
    (Depth::Standard, "tokens={1,5},heads=2,d=@heads,block=16,spare=1"),
    (Depth::Standard, "tokens={1,17},heads={1,8},d=20,block=16,spare=1"),
    (Depth::Standard, "tokens={1,40},heads=2,d=24,block={1,7,16,32,128},spare=2,pages={token_head,head_token}"),
    (Depth::Standard, "tokens={1,19},heads={1,3},d=24,dv={16,40},block=16,spare=1,pages={token_head,head_token}"),
    (
        Depth::Standard,
        "tokens={3,19},heads=3,d=33,block=16,spare=1,cache={f32,f16,bf16,i8,f8_e4m3,f8_e5m2},pages={token_head,head_token},index={i32,i64}",
    ),
    (
        Depth::Standard,
        "tokens={3,19},heads=3,d=33,block=16,spare=1,cache={f8_e4m3,f8_e5m2},scaled=yes,pages={token_head,head_token}",
    ),
    (
        Depth::Standard,
        "tokens=9,heads=2,d=40,block=7,spare=1,slots={in_order,last,some_skipped,all_skipped},cache={same,i8,f8_e4m3},pages={token_head,head_token},index={i32,i64}",
    ),
    // As many heads as tokens in a block: nothing but the layout tells them apart.
    (Depth::Standard, "tokens=9,heads={4,7},d=20,block={4,7},spare=1,cache={same,i8},pages={token_head,head_token}"),
    (
        Depth::Standard,
        "tokens={1,19},heads=3,d=33,block=16,spare=1,cache={i8,f8_e4m3},scaled=yes,fill=ties,pages={token_head,head_token}",
    ),
    (Depth::Standard, "tokens=0,heads=2,d=8,block=16,spare={0,2},cache={same,i8},index={i32,i64}"),
    // Slots and blocks beyond what 16 bits count.
    (Depth::Standard, "tokens=9,heads=1,d=2,block={1,16},spare=70000,slots=last"),
    (Depth::Standard, "tokens=9,heads=1,d=8,block=16,spare=4400,slots={shuffled,last},cache={same,i8},index={i32,i64}"),
    (
        Depth::Standard,
        "tokens=6,heads=2,d=40,block=16,spare=1,fill={wide,cancelling,subnormal,special,zero,positive,negative,ties,zero_row},cache={same,f32,f16,bf16,i8}",
    ),
    (
        Depth::Standard,
        "tokens=6,heads=2,d=40,block=16,spare=1,fill={wide,subnormal,special,zero,ties,zero_row},cache={f8_e4m3,f8_e5m2},scaled={no,yes}",
    ),
    (
        Depth::Standard,
        "tokens=9,heads=3,d=24,block=16,spare=1,layout={gapped,strided,transposed,repeated},cache={same,f16,i8}",
    ),
    (
        Depth::Standard,
        "tokens=9,heads=3,d=24,block=16,spare=1,layout=gapped,laid=cache,cache={same,f16,i8,f8_e4m3},scaled=yes,pages={token_head,head_token}",
    ),
    (Depth::Full, "tokens={512,2048},heads=8,d=128,block={16,128},spare=8,cache={same,i8}"),
];

pub(crate) const FAMILIES: &[Family] =
    &[Family { op: OpKind::KvWrite, variant: "", dtypes: FLOATS, params: PARAMS, walk: WALK, build: kv_write }];

/// The layout that a point names.
pub(super) fn layout_of(p: &Point) -> KvLayout {
    if p.word("pages") == "token_head" { KvLayout::BlockTokenHead } else { KvLayout::BlockHeadToken }
}

/// The shape of a cache without its last dim.
pub(super) fn page_dims(layout: KvLayout, blocks: usize, block: usize, heads: usize) -> [usize; 3] {
    match layout {
        KvLayout::BlockTokenHead => [blocks, block, heads],
        KvLayout::BlockHeadToken => [blocks, heads, block],
    }
}

/// The dtype of a point's cache, and whether it has scales.
pub(super) fn cache_of(p: &Point, same: DType) -> (DType, bool) {
    match p.word("cache") {
        "i8" => (DType::I8, true),
        "f8_e4m3" => (DType::F8E4M3, p.flag("scaled")),
        "f8_e5m2" => (DType::F8E5M2, p.flag("scaled")),
        name => (dtype_or(name, same), false),
    }
}

/// What a cache holds before it is written: any bits.
fn stale(make: &mut Make, dtype: DType, shape: &[usize], layout: &str) -> Result<Data> {
    let desc = TensorDesc::strided(dtype, shape, &strides(layout, shape, 1))?;
    let bytes = (0..desc.bytes()?).map(|_| make.rng.bits() as u8).collect();
    Ok((desc, bytes))
}

/// Rows of k or v. `ties` lie half way between two codes of i8, and the scale of a head is a power of two.
fn rows(make: &mut Make, p: &Point, heads: usize, d: usize) -> Result<Data> {
    let shape = [p.size("tokens"), heads, d];
    let layout = if p.word("laid") == "rows" { p.word("layout") } else { "plain" };
    let mut data = Vec::with_capacity(shape.iter().product());
    for row in 0..shape[0] * heads {
        let (scale, at) = (2f64.powi(make.rng.below(9) as i32 - 4), make.rng.below(d));
        for i in 0..d {
            data.push(match p.word("fill") {
                "zero_row" if row % 3 == 0 => 0.0,
                "zero_row" => make.rng.normal(),
                _ if i == at => scale * 127.0,
                _ => scale * (make.rng.below(254) as f64 - 126.5),
            });
        }
    }
    match p.word("fill") {
        "ties" | "zero_row" => make.list(make.dtype, &shape, &data),
        _ => make.tensor_in(layout, make.dtype, &shape),
    }
}

/// The slot of each token, each below `capacity` and none twice.
fn slots(make: &mut Make, p: &Point, capacity: usize) -> Vec<f64> {
    let tokens = p.size("tokens");
    let any = make.rng.permutation(capacity);
    let slot = |t: usize| match p.word("slots") {
        "in_order" => t as f64,
        "last" => (capacity - tokens + t) as f64,
        "some_skipped" if t % 3 == 1 => -1.0,
        "all_skipped" => -1.0,
        _ => any[t] as f64,
    };
    (0..tokens).map(slot).collect()
}

fn kv_write(make: &mut Make, p: &Point) -> Result<Trial> {
    let (heads, d, block) = (p.size("heads"), p.size("d"), p.size("block"));
    let dv = if p.size("dv") == 0 { d } else { p.size("dv") };
    let (kv_layout, (cache, scaled)) = (layout_of(p), cache_of(p, make.dtype));
    let blocks = p.size("tokens").div_ceil(block) + p.size("spare");
    let (k, v) = (rows(make, p, heads, d)?, rows(make, p, heads, dv)?);
    let slots = slots(make, p, blocks * block);
    let index = if p.word("index") == "i64" { DType::I64 } else { DType::I32 };
    let slots = make.list(index, &[slots.len()], &slots)?;
    let mut trial = with(with(with(Trial::new(Op::KvWrite(KvWriteAttrs { kv_layout })), k), v), slots);
    let layout = if p.word("laid") == "cache" { p.word("layout") } else { "plain" };
    let dims = page_dims(kv_layout, blocks, block, heads);
    for size in [d, dv] {
        trial = with(trial, stale(make, cache, &[&dims[..], &[size]].concat(), layout)?);
    }
    if scaled {
        for _ in 0..2 {
            trial = with(trial, stale(make, DType::F32, &dims, layout)?);
        }
    }
    Ok(trial)
}
