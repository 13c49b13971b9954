//! rope.

use qiao_core::{DType, Op, OpKind, Result, RopeAttrs, RopeStyle, TensorDesc};
use qiao_reference::Trial;
use qiao_reference::data::to_bytes;

use crate::family::{Depth, FLOATS, Family, with};
use crate::make::{Data, FILL, LAYOUT, Make, OUT, OUT_LAYOUT, constant, placed, strides};
use crate::point::{Param, Point, extra, size, size_from, word};

const PARAMS: &[Param] = &[
    size("tokens"),
    size("heads"),
    // Pairs of a head: its size is twice as much.
    size_from("pairs", 1),
    size_from("table", 1),
    word("style", &["half_split", "interleaved"]),
    // Pairs that are rotated; 0 = all. And the first rotated element.
    extra("rotated"),
    extra("offset"),
    word("index", &["i32", "i64"]),
    // Any rows of the table; one after the other; the last ones; rows that the table has not, too.
    word("positions", &["any", "rising", "last", "outside"]),
    word("positions_layout", &["plain", "strided"]),
    word("tables", &["plain", "gapped", "constant"]),
    OUT,
    FILL,
    LAYOUT,
    OUT_LAYOUT,
];

const WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "tokens={1,5},heads={1,3},pairs={32,64},table=50,style={half_split,interleaved}"),
    (Depth::Smoke, "tokens=5,heads=2,pairs=40,table=50,style={half_split,interleaved},rotated={16,20}"),
    (Depth::Smoke, "tokens=7,heads=2,pairs=32,table=50,positions={rising,last,outside}"),
    // Head sizes of real models.
    (Depth::Standard, "tokens=3,heads=2,pairs={32,40,48,64,96,128,288},table=700,style={half_split,interleaved}"),
    (Depth::Standard, "tokens={0,1,17},heads={0,1,4},pairs={1,2,7,8,9},table=20,style={half_split,interleaved}"),
    (
        Depth::Standard,
        "tokens=4,heads=3,pairs=24,table=20,style={half_split,interleaved},rotated={0,1,8,11,16},\
         offset={0,2,5,16}",
    ),
    (
        Depth::Standard,
        "tokens=9,heads=2,pairs=20,table=20,style={half_split,interleaved},rotated={0,12},index={i32,\
         i64},positions={any,last,outside}",
    ),
    (
        Depth::Standard,
        "tokens=9,heads=2,pairs=20,table=20,index={i32,i64},positions={any,outside},positions_layout=strided",
    ),
    (
        Depth::Standard,
        "tokens=4,heads=3,pairs=17,table=20,style={half_split,interleaved},rotated=11,tables={plain,\
         gapped,constant},out={same,f32,f16,bf16}",
    ),
    (
        Depth::Standard,
        "tokens=4,heads=3,pairs=20,table=20,style={half_split,interleaved},rotated={0,12},\
         layout=@layouts,out_layout={plain,transposed}",
    ),
    (Depth::Standard, "tokens=4,heads=3,pairs=20,table=20,rotated=12,out_layout={gapped,strided}"),
    (Depth::Standard, "tokens=4,heads=3,pairs=20,table=20,style={half_split,interleaved},rotated={0,9},fill=@fills"),
    // Positions that 16 bits do not hold.
    (Depth::Standard, "tokens=6,heads=2,pairs=4,table={32769,70001},positions={any,last},index={i32,i64}"),
    // Heads of Qwen2.5-0.5B and of Llama-3-8B; more tokens than a grid of 16 bits.
    (Depth::Standard, "tokens={1,33},heads=14,pairs=32,table=70"),
    (Depth::Standard, "tokens={1,5},heads=32,pairs=64,table=70,style={half_split,interleaved}"),
    (Depth::Standard, "tokens=65537,heads=1,pairs=1,table=11"),
    (Depth::Full, "tokens={512,2049},heads={14,32},pairs={32,64},table=32768,style={half_split,interleaved}"),
];

pub(crate) const FAMILIES: &[Family] =
    &[Family { op: OpKind::Rope, variant: "", dtypes: FLOATS, params: PARAMS, walk: WALK, build: rope }];

fn positions(make: &mut Make, p: &Point) -> Result<Data> {
    let (tokens, rows) = (p.size("tokens"), p.size("table"));
    let dtype = if p.word("index") == "i64" { DType::I64 } else { DType::I32 };
    let wide = if dtype == DType::I64 { 2f64.powi(32) } else { 0.0 };
    let desc = TensorDesc::strided(dtype, &[tokens], &strides(p.word("positions_layout"), &[tokens], 1))?;
    let outside = [-1.0, rows as f64, i32::MAX as f64, i32::MIN as f64, wide - 1.0];
    let position = |i: usize| match p.word("positions") {
        "rising" => (i % rows) as f64,
        "last" => (rows - 1 - make.rng.below(rows.min(2))) as f64,
        "outside" if wide > 0.0 && i % 4 == 3 => wide + make.rng.below(rows) as f64,
        "outside" if i.is_multiple_of(2) => outside[make.rng.below(outside.len())],
        _ => make.rng.below(rows) as f64,
    };
    let data: Vec<f64> = (0..desc.bytes()? / dtype.block_bytes()).map(position).collect();
    Ok((desc, to_bytes(dtype, &data)))
}

/// Cosines and sines of any angles, `[table, pairs]` each. NaN stands in gaps.
fn tables(make: &mut Make, p: &Point, pairs: usize) -> Result<[Data; 2]> {
    let shape = [p.size("table"), pairs];
    let gap = if p.word("tables") == "gapped" { 3 } else { 0 };
    let desc = TensorDesc::strided(DType::F32, &shape, &[pairs + gap, 1])?;
    let held = desc.bytes()? / 4;
    let angles: Vec<f64> = (0..held)
        .map(|at| if at % (pairs + gap).max(1) < pairs { 6.3 * make.rng.uniform() } else { f64::NAN })
        .collect();
    let table = |f: fn(f64) -> f64| {
        let data: Vec<f64> = angles.iter().map(|a| f(*a)).collect();
        let made = (desc.clone(), to_bytes(DType::F32, &data));
        if p.word("tables") == "constant" { constant(made) } else { made }
    };
    Ok([table(f64::cos), table(f64::sin)])
}

fn rope(make: &mut Make, p: &Point) -> Result<Trial> {
    let style = if p.word("style") == "interleaved" { RopeStyle::Interleaved } else { RopeStyle::HalfSplit };
    let (rotated, offset) = (p.size("rotated"), p.size("offset"));
    // Behind an offset, all that is left is not all of the head.
    let pairs = if rotated == 0 { p.size("pairs") } else { rotated };
    let rotary_dim = if rotated == 0 && offset == 0 { 0 } else { 2 * pairs as u32 };
    let op = Op::Rope(RopeAttrs { style, rotary_dim, offset: offset as u32 });
    let shape = [p.size("tokens"), p.size("heads"), 2 * p.size("pairs") + offset];
    let x = make.tensor(&shape)?;
    let positions = positions(make, p)?;
    let [cos, sin] = tables(make, p, pairs)?;
    let trial = with(with(Trial::new(op), x), positions);
    Ok(placed(with(with(trial, cos), sin), p, &shape))
}
