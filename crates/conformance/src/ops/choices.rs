//! argmax, top_k, sample.

use qiao_core::{DType, NoAttrs, Op, OpKind, Result, TensorDesc, TopKAttrs};
use qiao_reference::Trial;
use qiao_reference::data::to_bytes;

use crate::family::{Depth, FLOATS, Family, with};
use crate::make::{Data, LAYOUT, Make, placed, shape, strides};
use crate::point::{Param, Point, size, size_from, word};

/// What the rows hold:
/// - normal: numbers; wide: of very different size; negative: none above zero;
/// - few: four values only, so that the largest stands at many places; equal: one value; zeros: 0 and −0;
/// - last, spread: the largest of row r at the last place, at r equal steps;
/// - twin: the largest at two places, far apart; lanes: the largest at places 16 apart;
/// - nan: some NaN of either sign; infinite: +∞ and −∞ at many places; lowest: −∞ only.
const VALUES: Param = word(
    "values",
    &[
        "normal", "wide", "negative", "few", "equal", "zeros", "last", "spread", "twin", "lanes", "nan", "infinite",
        "lowest",
    ],
);

const RANK: Param = word("rank", &["2", "1", "3", "4", "8"]);
const ARGMAX: &[Param] =
    &[size("rows"), size_from("cols", 1), VALUES, RANK, LAYOUT, word("out_layout", &["plain", "gapped", "strided"])];
const TOP_K: &[Param] = &[
    size("rows"),
    size_from("cols", 1),
    size_from("k", 1),
    VALUES,
    RANK,
    LAYOUT,
    word("out_layout", &["plain", "gapped", "strided"]),
];

const SAMPLE: &[Param] = &[
    size("rows"),
    size_from("vocab", 1),
    // One for all rows, or another for each.
    word("temperature", &["1", "0", "0.6", "2", "mixed"]),
    size("top_k"),
    word("top_p", &["1", "0.9", "0.5", "0", "mixed"]),
    word("min_p", &["0", "0.05", "0.4", "1", "mixed"]),
    // Normal logits; steep ones, as of a sure model; four values; a third −∞; one NaN; +∞ twice; several NaN; −∞ only.
    word("logits", &["normal", "steep", "few", "masked", "nan", "infinite", "nans", "lowest"]),
    word("index", &["i32", "i64"]),
    LAYOUT,
    // How the other operands lie: contiguous, with gaps, one value for all.
    word("steering", &["plain", "strided", "repeated"]),
    // top_k for all rows, or any of four for each.
    word("counts", &["same", "mixed"]),
];

const ARGMAX_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "rows={1,5},cols={64,97,4096}"),
    (Depth::Smoke, "rows=7,cols={33,130},values={few,last,nan,negative,twin}"),
    (Depth::Standard, "rows=5,cols=@some,values={normal,few,last}"),
    (Depth::Standard, "rows={0,1},cols=7"),
    (Depth::Standard, "rows=17,cols={1,16,17,64,97,300},values=@choice_values"),
    (Depth::Standard, "rows=130,cols={129,300},values={spread,twin,lanes}"),
    (Depth::Standard, "rows=4,cols=19,rank={1,3,4,8},values={normal,few}"),
    (
        Depth::Standard,
        "rows=6,cols=33,rank=3,layout=@layouts,values={normal,few,last},out_layout={plain,gapped,strided}",
    ),
    (Depth::Standard, "rows=1,cols={32769,65537},values={normal,last,twin}"),
    (Depth::Standard, "rows=65537,cols=1"),
    (Depth::Standard, "rows=1,cols=@vocabularies,values={twin,last}"),
    (Depth::Full, "rows={17,64},cols=@vocabularies,values={normal,few,spread,equal}"),
];

const TOP_K_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "rows={1,5},cols={64,97},k={1,8}"),
    (Depth::Smoke, "rows=7,cols=130,k={2,8},values={few,nan,last,negative}"),
    (Depth::Standard, "rows={0,5},cols=@some,k=1"),
    (Depth::Standard, "rows=3,cols={16,17,33,64,129},k={2,6,15,16},values={normal,few}"),
    (Depth::Standard, "rows=5,cols=64,k={31,32,33,63,64},values={normal,few,equal}"),
    (Depth::Standard, "rows=9,cols={17,300},k={1,4,17},values=@choice_values"),
    (Depth::Standard, "rows=5,cols=19,k=4,rank={1,3,4,8}"),
    (
        Depth::Standard,
        "rows=5,cols=33,k=4,rank=3,layout=@layouts,values={normal,few},out_layout={plain,gapped,strided}",
    ),
    // Experts and the experts of a token, of real mixtures.
    (Depth::Standard, "rows={1,33},cols={60,64,128,256},k={4,8}"),
    (Depth::Standard, "rows=1,cols=32769,k={1,50,1024},values={normal,few}"),
    (Depth::Standard, "rows=1,cols={1025,32769,128256},k={1,50},values={last,twin}"),
    (Depth::Standard, "rows=65537,cols=2,k=1"),
    (Depth::Standard, "rows=1,cols={128256,248320},k=50"),
    (Depth::Full, "rows=17,cols=@vocabularies,k={1,40,1024},values={normal,few}"),
];

const SAMPLE_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "rows={1,64},vocab={64,97,1000},temperature={1,0,0.6},top_k=0"),
    (Depth::Smoke, "rows=64,vocab=97,temperature={0.6,2},top_k={0,5},top_p={1,0.5},min_p={0,0.05}"),
    (Depth::Smoke, "rows=64,vocab=97,temperature={0,1},top_k=7,logits=few"),
    (Depth::Standard, "rows={0,1,3},vocab=@some,temperature=mixed,top_k=0"),
    (
        Depth::Standard,
        "rows=64,vocab=65,temperature={0.6,2},top_k={0,1,5,200},top_p={1,0.9,0.5,0},min_p={0,0.05,0.4,1}",
    ),
    (
        Depth::Standard,
        "rows=64,vocab={33,130},temperature=mixed,top_k={0,9},top_p=mixed,min_p=mixed,logits={normal,\
         steep,few,masked,nan,infinite}",
    ),
    (Depth::Standard, "rows=33,vocab={64,97},temperature=2,top_k=6,top_p=0.9,min_p=0.05,layout=@layouts"),
    (
        Depth::Standard,
        "rows=33,vocab=97,temperature=mixed,top_k=6,top_p=mixed,index={i32,i64},steering={plain,strided,\
         repeated}",
    ),
    (Depth::Standard, "rows=64,vocab=97,temperature=1,top_k=5,counts=mixed,top_p={1,0.9},logits={normal,steep,few}"),
    (
        Depth::Standard,
        "rows=33,vocab=97,temperature=mixed,top_k=5,counts=mixed,index={i32,i64},steering={plain,strided}",
    ),
    (Depth::Standard, "rows=9,vocab={33,300},temperature={0,1},top_k={0,9},logits={nans,lowest}"),
    (Depth::Standard, "rows=2,vocab={4096,32769},temperature=0.6,top_k={0,50},top_p=0.9,logits=steep"),
    (Depth::Standard, "rows=65537,vocab=1,temperature=mixed,top_k=0"),
    (Depth::Standard, "rows=1,vocab=@vocabularies,temperature=0.6,top_k=50,top_p=0.9,logits=steep"),
    (
        Depth::Full,
        "rows=8,vocab=@vocabularies,temperature={0,0.6,mixed},top_k={0,50},top_p={1,0.9},min_p={0,0.05},\
         logits={steep,few}",
    ),
];

pub(crate) const FAMILIES: &[Family] = &[
    Family { op: OpKind::Argmax, variant: "", dtypes: FLOATS, params: ARGMAX, walk: ARGMAX_WALK, build: argmax },
    Family { op: OpKind::TopK, variant: "", dtypes: FLOATS, params: TOP_K, walk: TOP_K_WALK, build: top_k },
    Family { op: OpKind::Sample, variant: "", dtypes: FLOATS, params: SAMPLE, walk: SAMPLE_WALK, build: sample },
];

/// One row of [`VALUES`]: the `r`-th of `rows`.
fn row(make: &mut Make, kind: &str, r: usize, rows: usize, n: usize) -> Vec<f64> {
    let mut row: Vec<f64> = match kind {
        "wide" => (0..n).map(|_| make.rng.normal() * 2f64.powi(make.rng.below(25) as i32 - 12)).collect(),
        "negative" => (0..n).map(|_| -1.0 - make.rng.normal().abs()).collect(),
        "few" => (0..n).map(|_| make.rng.below(4) as f64 - 5.0).collect(),
        "equal" => vec![-1.5; n],
        "zeros" => (0..n).map(|_| if make.rng.bits() & 1 == 0 { 0.0 } else { -0.0 }).collect(),
        "lowest" => vec![f64::NEG_INFINITY; n],
        _ => (0..n).map(|_| make.rng.normal()).collect(),
    };
    let most = 9.0;
    match kind {
        "last" => row[n - 1] = most,
        "spread" => row[r * n / rows % n] = most,
        "twin" => {
            let first = make.rng.below(n.div_ceil(2));
            row[first] = most;
            row[n - 1 - make.rng.below(n.div_ceil(4))] = most;
        }
        "lanes" => (make.rng.below(n.min(40))..n).step_by(16).for_each(|i| row[i] = most),
        "nan" => (0..1 + n / 20).for_each(|_| {
            let sign = if make.rng.bits() & 1 == 0 { 1.0 } else { -1.0 };
            row[make.rng.below(n)] = f64::NAN.copysign(sign);
        }),
        "infinite" => (0..2 + n / 10).for_each(|_| {
            let sign = if make.rng.bits() & 1 == 0 { 1.0 } else { -1.0 };
            row[make.rng.below(n)] = sign * f64::INFINITY;
        }),
        _ => {}
    }
    row
}

fn values(make: &mut Make, p: &Point, shape: &[usize]) -> Result<Data> {
    let n = p.size("cols");
    let rows = shape[..shape.len() - 1].iter().product();
    let data: Vec<f64> = (0..rows).flat_map(|r| row(make, p.word("values"), r, rows, n)).collect();
    make.laid_out(make.dtype, shape, &data)
}

fn argmax(make: &mut Make, p: &Point) -> Result<Trial> {
    let shape = shape(p);
    let trial = with(Trial::new(Op::Argmax(NoAttrs {})), values(make, p, &shape)?);
    Ok(placed(trial, p, &shape[..shape.len() - 1]))
}

fn top_k(make: &mut Make, p: &Point) -> Result<Trial> {
    let mut shape = shape(p);
    let k = p.size("k");
    let trial = with(Trial::new(Op::TopK(TopKAttrs { k: k as u32 })), values(make, p, &shape)?);
    shape.last_mut().into_iter().for_each(|d| *d = k);
    Ok(placed(trial, p, &shape))
}

/// Logits, row by row.
fn logits(make: &mut Make, p: &Point) -> Result<Data> {
    let (rows, n) = (p.size("rows"), p.size("vocab"));
    let mut data = Vec::with_capacity(rows * n);
    for r in 0..rows {
        match p.word("logits") {
            "steep" => data.extend((0..n).map(|_| 8.0 * make.rng.normal())),
            "masked" => {
                data.extend((0..n).map(|_| if make.rng.below(3) == 0 { f64::NEG_INFINITY } else { make.rng.normal() }))
            }
            "nan" => {
                let mut one = row(make, "normal", r, rows, n);
                one[make.rng.below(n)] = f64::NAN;
                data.extend(one);
            }
            "infinite" => {
                let mut one = row(make, "normal", r, rows, n);
                (0..2).for_each(|_| one[make.rng.below(n)] = f64::INFINITY);
                data.extend(one);
            }
            "nans" => data.extend(row(make, "nan", r, rows, n)),
            kind => data.extend(row(make, kind, r, rows, n)),
        }
    }
    make.laid_out(make.dtype, &[rows, n], &data)
}

/// One number a row: that of a word, or any of `mixed`.
fn steering(make: &mut Make, p: &Point, name: &str, mixed: &[f64]) -> Result<Data> {
    let word = p.word(name);
    per_row(make, p, DType::F32, |make| match word {
        "mixed" => mixed[make.rng.below(mixed.len())],
        number => number.parse().expect("the words of filters are numbers"),
    })
}

/// One value a row, with the strides of the point.
fn per_row(make: &mut Make, p: &Point, dtype: DType, mut value: impl FnMut(&mut Make) -> f64) -> Result<Data> {
    let shape = [p.size("rows")];
    let desc = TensorDesc::strided(dtype, &shape, &strides(p.word("steering"), &shape, 1))?;
    let data: Vec<f64> = (0..desc.bytes()? / dtype.block_bytes()).map(|_| value(make)).collect();
    Ok((desc, to_bytes(dtype, &data)))
}

fn sample(make: &mut Make, p: &Point) -> Result<Trial> {
    // The first and the last numbers that u takes stand among the others.
    let uniform = |make: &mut Make| match make.rng.below(8) {
        0 => 0.0,
        1 => 1.0 - 2f64.powi(-24),
        _ => make.rng.uniform() * (1.0 - 2f64.powi(-24)),
    };
    let index = if p.word("index") == "i64" { DType::I64 } else { DType::I32 };
    let trial = with(Trial::new(Op::Sample(NoAttrs {})), logits(make, p)?);
    let trial = with(trial, per_row(make, p, DType::F32, uniform)?);
    let trial = with(trial, steering(make, p, "temperature", &[0.0, 0.3, 0.7, 1.0, 1.7])?);
    let top_k = |make: &mut Make| match p.word("counts") {
        "mixed" => [0, 1, p.size("top_k"), p.size("vocab") + 3][make.rng.below(4)],
        _ => p.size("top_k"),
    };
    let trial = with(trial, per_row(make, p, index, |make| top_k(make) as f64)?);
    let trial = with(trial, steering(make, p, "top_p", &[1.0, 0.95, 0.6, 0.2, 0.0])?);
    Ok(with(trial, steering(make, p, "min_p", &[0.0, 0.02, 0.2, 0.7, 1.0])?))
}
