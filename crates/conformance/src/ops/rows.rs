//! softmax, reduce.

use qiao_core::{Op, OpKind, ReduceAttrs, ReduceKind, Result, SoftmaxAttrs};
use qiao_reference::Trial;
use qiao_reference::data::to_bytes;
use qiao_reference::value::Walk;

use crate::family::{Depth, FLOATS, Family, with};
use crate::make::{Data, FILL, LAYOUT, Make, OUT, OUT_LAYOUT, RANK, dtype_or, placed, shape};
use crate::point::{Param, Point, size, size_from, word};

const SOFTMAX: &[Param] = &[
    // Tq and Tk.
    size("rows"),
    size("cols"),
    // 0 stands for 1.
    word("scale", &["0", "0.125", "1", "-2", "30"]),
    word("causal", &["no", "yes"]),
    // The shape of the mask beside x's `[.., rows, cols]`: none; the same; [cols]; [rows, 1]; []; the same for every
    // index of the first axis.
    word("mask", &["none", "full", "keys", "queries", "scalar", "shared"]),
    // Some −∞ among numbers, and the first row all −∞; −∞ everywhere; zeros and −∞ below the diagonal.
    word("masked", &["some", "all", "none"]),
    word("mask_dtype", &["f32", "f16", "bf16"]),
    word("rank", &["2", "1", "3", "4", "8"]),
    OUT,
    FILL,
    LAYOUT,
    OUT_LAYOUT,
];

const REDUCE: &[Param] = &[
    size_from("rows", 1),
    size_from("cols", 1),
    word("kind", &["sum", "mean", "max"]),
    word("axis", &["last", "first", "middle"]),
    word("keep", &["no", "yes"]),
    RANK,
    // The size of the axes that stay, where it is not that of the point.
    word("others", &["there", "empty"]),
    OUT,
    FILL,
    LAYOUT,
    OUT_LAYOUT,
];

const SOFTMAX_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "rows={1,5},cols={64,97,4096},scale={0,0.125}"),
    (Depth::Smoke, "rows={1,5,9},cols={9,65},causal=yes"),
    (Depth::Smoke, "rows={5,9},cols=5,causal=yes,rank=3"),
    (Depth::Smoke, "rows=6,cols=33,mask={full,keys}"),
    (Depth::Smoke, "rows=3,cols=130,fill={wide,special}"),
    (Depth::Standard, "rows={1,5},cols=@edges"),
    (Depth::Standard, "rows=0,cols=7"),
    (Depth::Standard, "rows=3,cols=@odd,scale={0,0.125,1,-2,30}"),
    (Depth::Standard, "rows={1,7,17},cols=@contexts,causal=yes"),
    (Depth::Standard, "rows={20,130},cols={1,7,19},causal=yes,rank={2,3}"),
    (
        Depth::Standard,
        "rows=6,cols={33,64},scale={0,0.125},causal={no,yes},mask={none,full,keys,queries,scalar,\
         shared},rank={2,3}",
    ),
    (Depth::Standard, "rows={1,6},cols=33,causal=yes,mask={full,keys,queries,scalar,shared},rank={4,8}"),
    (
        Depth::Standard,
        "rows=5,cols=40,causal={no,yes},mask={full,keys,queries,scalar},masked={all,none},\
         mask_dtype={f32,f16,bf16}",
    ),
    (Depth::Standard, "rows=4,cols=70,fill=@fills,causal={no,yes},out={same,f32}"),
    (Depth::Standard, "rows=4,cols=70,out={f16,bf16}"),
    (Depth::Standard, "rows=6,cols=20,rank={1,3,8},layout=@layouts,out_layout={plain,gapped,strided,transposed}"),
    (Depth::Standard, "rows=6,cols=20,causal=yes,mask={full,shared},rank=3,layout=@layouts"),
    (Depth::Standard, "rows=1,cols=65537,fill={normal,zero}"),
    (Depth::Standard, "rows=2,cols={1025,1031,2050,5003,65537},fill=tail"),
    (Depth::Standard, "rows=65537,cols=1"),
    (Depth::Standard, "rows=1,cols=@vocabularies"),
    (Depth::Full, "rows={128,512},cols={512,2048},causal=yes,mask={none,full},rank=3"),
];

const REDUCE_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "rows={1,5},cols={64,97,4096},kind={sum,mean,max}"),
    (Depth::Smoke, "rows=3,cols=130,kind={sum,mean,max},fill={special,positive,negative}"),
    (Depth::Standard, "rows=5,cols=@some,kind={sum,mean,max},axis={last,first}"),
    (Depth::Standard, "rows=1,cols=@some,kind={mean,max},keep=yes"),
    (Depth::Standard, "rows=5,cols=18,kind={sum,mean,max},axis={last,first,middle},rank={1,3,4,8},keep={no,yes}"),
    (Depth::Standard, "rows=3,cols=7,kind={sum,mean,max},axis={last,first},others=empty,keep={no,yes}"),
    (Depth::Standard, "rows=5,cols=40,kind={sum,mean,max},axis={last,first},fill=@fills"),
    (Depth::Standard, "rows=5,cols=40,kind={sum,mean,max},axis={last,first},out={f32,f16,bf16}"),
    (Depth::Standard, "rows={1,33},cols={1,33},kind=max,axis={last,first},fill={negative,special}"),
    (
        Depth::Standard,
        "rows=5,cols=18,kind={sum,max},axis={last,first,middle},rank=3,keep=yes,layout=@layouts,\
         out_layout={plain,transposed}",
    ),
    (Depth::Standard, "rows=5,cols=18,kind=mean,axis={last,first},out_layout={gapped,strided}"),
    (Depth::Standard, "rows=4,cols=@odd,kind={sum,mean,max}"),
    (Depth::Standard, "rows=1,cols=128256,kind={sum,mean,max},fill=positive"),
    (Depth::Standard, "rows={1,65537},cols=1,kind={sum,mean,max},axis={last,first}"),
    (Depth::Standard, "rows=2,cols={1025,1031,5003,65537},kind={sum,mean,max},fill=tail"),
    (Depth::Standard, "rows={1025,1031,5003,65537},cols=2,kind={sum,mean,max},axis=first,fill=tail"),
    (Depth::Standard, "rows=1,cols=@hidden,kind={mean,max}"),
    (Depth::Full, "rows=1031,cols={4096,11008},kind={sum,mean,max},axis={last,first}"),
];

pub(crate) const FAMILIES: &[Family] = &[
    Family { op: OpKind::Softmax, variant: "", dtypes: FLOATS, params: SOFTMAX, walk: SOFTMAX_WALK, build: softmax },
    Family { op: OpKind::Reduce, variant: "", dtypes: FLOATS, params: REDUCE, walk: REDUCE_WALK, build: reduce },
];

fn mask(make: &mut Make, p: &Point, whole: &[usize]) -> Result<Data> {
    let n = whole.len();
    let shape = match p.word("mask") {
        "keys" => whole[n - 1..].to_vec(),
        "queries" => vec![p.size("rows"), 1],
        "scalar" => vec![],
        "shared" => [&[1], &whole[1..]].concat(),
        _ => whole.to_vec(),
    };
    let columns = shape.last().copied().unwrap_or(1).max(1);
    let entry = |i: usize| match p.word("masked") {
        "all" => f64::NEG_INFINITY,
        "none" => make.rng.normal(),
        _ if i < columns && shape.len() > 1 || make.rng.below(4) == 0 => f64::NEG_INFINITY,
        _ => make.rng.normal(),
    };
    let data: Vec<f64> = (0..shape.iter().product()).map(entry).collect();
    make.laid_out(dtype_or(p.word("mask_dtype"), make.dtype), &shape, &data)
}

fn softmax(make: &mut Make, p: &Point) -> Result<Trial> {
    let scale = p.word("scale").parse().expect("the words of scale are numbers");
    let op = Op::Softmax(SoftmaxAttrs { scale, causal: p.flag("causal") });
    let trial = with(Trial::new(op), make.tensor(&shape(p))?);
    let trial = if p.word("mask") == "none" { trial } else { with(trial, mask(make, p, &shape(p))?) };
    Ok(placed(trial, p, &shape(p)))
}

/// The last index of the first axis outweighs all others of it, and nothing else does.
fn outweigh((desc, bytes): &mut Data) {
    let n = desc.shape[0];
    let size = desc.dtype.block_bytes();
    let per = desc.elements() / n.max(1);
    for (i, at) in Walk::new(&desc.shape, &desc.strides).enumerate() {
        let number = if i >= (n - 1) * per { 8.0 * (n as f64).sqrt() } else { (i % 7) as f64 / 4.0 - 0.75 };
        bytes[at * size..][..size].copy_from_slice(&to_bytes(desc.dtype, &[number]));
    }
}

fn reduce(make: &mut Make, p: &Point) -> Result<Trial> {
    let mut from = shape(p);
    let axis = match p.word("axis") {
        "first" => 0,
        "middle" => from.len() / 2,
        _ => from.len().saturating_sub(1),
    };
    if p.word("others") == "empty" {
        from.iter_mut().enumerate().filter(|(i, _)| *i != axis).for_each(|(_, d)| *d = 0);
    }
    let kind = match p.word("kind") {
        "mean" => ReduceKind::Mean,
        "max" => ReduceKind::Max,
        _ => ReduceKind::Sum,
    };
    let op = Op::Reduce(ReduceAttrs { kind, axis: axis as u32, keep_dim: p.flag("keep") });
    let mut x = make.tensor(&from)?;
    if p.word("fill") == "tail" && axis == 0 && !from.is_empty() {
        outweigh(&mut x);
    }
    let trial = with(Trial::new(op), x);
    let mut to = from;
    if p.flag("keep") {
        to.get_mut(axis).into_iter().for_each(|d| *d = 1);
    } else if axis < to.len() {
        to.remove(axis);
    }
    Ok(placed(trial, p, &to))
}
