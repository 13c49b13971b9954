//! rms_norm, add_rms_norm, layer_norm.

use qiao_core::{DType, LayerNormAttrs, NormAttrs, Op, OpKind, Result};
use qiao_reference::Trial;

use crate::family::{Depth, FLOATS, Family, with};
use crate::make::{Data, FILL, LAYOUT, Make, OUT, OUT_LAYOUT, constant, dtype_or, placed, shape};
use crate::point::{Param, Point, size, word};

/// Powers of ten: 1e-5 is what most models have, 1e-1 shows where it is added.
const EPS: Param = word("eps", &["1e-5", "1e-6", "1e-1", "0"]);
/// A norm has at least one axis.
const RANK: Param = word("rank", &["2", "1", "3", "4", "8"]);
/// Weight of x's dtype, in another one, left out, or constant.
const WEIGHT: Param = word("weight", &["same", "f32", "none", "f16", "bf16", "constant"]);
/// Gemma's weights are stored minus one.
const OFFSET: Param = word("offset", &["0", "1"]);
const ROUND: Param = word("round", &["last", "before_weight"]);

const RMS: &[Param] = &[size("rows"), size("cols"), EPS, WEIGHT, OFFSET, ROUND, RANK, OUT, FILL, LAYOUT, OUT_LAYOUT];

const ADD_RMS: &[Param] = &[
    size("rows"),
    size("cols"),
    EPS,
    WEIGHT,
    OFFSET,
    ROUND,
    RANK,
    word("b_dtype", &["same", "f32", "f16", "bf16"]),
    // Where the sum is written: by itself, or in place of an operand.
    word("sum", &["apart", "a", "b"]),
    OUT,
    FILL,
    LAYOUT,
    OUT_LAYOUT,
];

const LAYER: &[Param] = &[
    size("rows"),
    size("cols"),
    EPS,
    WEIGHT,
    word("bias", &["same", "f32", "none", "f16", "bf16", "constant"]),
    RANK,
    OUT,
    // As elsewhere; or numbers whose mean is far larger than their spread.
    word(
        "fill",
        &["normal", "wide", "cancelling", "subnormal", "special", "zero", "positive", "negative", "shifted", "tail"],
    ),
    LAYOUT,
    OUT_LAYOUT,
];

const RMS_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "rows={1,5},cols={64,97,4096},eps={1e-5,1e-1}"),
    (Depth::Smoke, "rows=3,cols=130,fill={wide,special,zero}"),
    (Depth::Smoke, "rows=2,cols=65,weight=none"),
    (Depth::Standard, "rows={1,5},cols=@edges"),
    (Depth::Standard, "rows=0,cols=7"),
    (Depth::Standard, "rows=3,cols=@odd"),
    (Depth::Standard, "rows=2,cols=@hidden,weight={same,f32,constant}"),
    (
        Depth::Standard,
        "rows=3,cols=130,eps={1e-5,1e-6,1e-1,0},weight={same,f32,none},offset={0,1},round={last,\
         before_weight}",
    ),
    (Depth::Standard, "rows=3,cols=70,weight={f32,f16,bf16},offset={0,1},out={same,f32,f16,bf16}"),
    (Depth::Standard, "rows=3,cols=70,offset=1,round={last,before_weight},out={f32,f16,bf16}"),
    (Depth::Standard, "rows=4,cols=97,fill=@fills,layout={plain,gapped,strided,transposed}"),
    (Depth::Standard, "rows={1,3},cols={97,4096},fill={positive,negative}"),
    (Depth::Standard, "rows=3,cols=33,rank={1,3,4,8}"),
    (Depth::Standard, "rows=3,cols=33,rank=3,layout=@layouts,out_layout={plain,gapped,strided,transposed}"),
    (Depth::Standard, "rows=4,cols=64,fill=special,layout=repeated"),
    (Depth::Standard, "rows=1,cols=65537"),
    (Depth::Standard, "rows=2,cols={1025,1031,2050,5003,65537},fill=tail"),
    (Depth::Standard, "rows=65537,cols=1"),
    (Depth::Full, "rows=1,cols={131073,1000003}"),
    (Depth::Full, "rows={1,17,128},cols={5120,7168,8192,16384}"),
    (Depth::Full, "rows={1031,4096},cols={896,4096}"),
];

const ADD_RMS_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "rows={1,5},cols={64,97,4096},eps={1e-5,1e-1}"),
    (Depth::Smoke, "rows=3,cols=130,fill={wide,special}"),
    (Depth::Smoke, "rows={1,5},cols={97,896},sum={a,b}"),
    (Depth::Standard, "rows=3,cols=@edges,sum={apart,a,b}"),
    (Depth::Standard, "rows=0,cols=7,sum={apart,a}"),
    (Depth::Standard, "rows=3,cols=@odd"),
    (Depth::Standard, "rows=2,cols=@hidden,sum={apart,a}"),
    (
        Depth::Standard,
        "rows=3,cols=130,eps={1e-5,1e-6,1e-1,0},weight={same,f32,none},offset={0,1},round={last,\
         before_weight}",
    ),
    // A sum of fewer bits than y: y comes from the sum before its rounding.
    (Depth::Standard, "rows=3,cols=130,b_dtype={same,f32,f16,bf16},sum={apart,b},out={same,f32,f16,bf16}"),
    (Depth::Standard, "rows=4,cols=97,fill=@fills,layout={plain,gapped,strided,transposed}"),
    (Depth::Standard, "rows=3,cols=33,rank={1,3,4,8},sum={apart,a}"),
    (Depth::Standard, "rows=3,cols=33,rank=3,layout=@layouts,out_layout={plain,gapped,strided,transposed}"),
    (Depth::Standard, "rows=4,cols={33,64},layout={gapped,strided,transposed},sum={a,b}"),
    (Depth::Standard, "rows=1,cols=65537"),
    (Depth::Standard, "rows=2,cols={1025,1031,2050,5003,65537},fill=tail"),
    (Depth::Standard, "rows=65537,cols=1"),
    (Depth::Full, "rows=1,cols={131073,1000003},sum={apart,b}"),
    (Depth::Full, "rows={1,17,128},cols={5120,8192,16384},sum={apart,a,b}"),
];

const LAYER_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "rows={1,5},cols={64,97,768},eps={1e-5,1e-1}"),
    (Depth::Smoke, "rows=3,cols={130,1024},fill={special,shifted}"),
    (Depth::Smoke, "rows=2,cols=65,bias=none"),
    (Depth::Standard, "rows={1,5},cols=@edges"),
    (Depth::Standard, "rows=0,cols=7"),
    (Depth::Standard, "rows=3,cols=@odd"),
    (Depth::Standard, "rows=2,cols={384,512,768,1024,1280,4096},fill={normal,positive}"),
    (Depth::Standard, "rows=3,cols=130,eps={1e-5,1e-6,1e-1,0},weight={same,f32,none},bias={same,f32,none}"),
    (Depth::Standard, "rows=3,cols=70,weight={same,f16,bf16},bias={f32,f16,bf16},out={same,f32,f16,bf16}"),
    (Depth::Standard, "rows=3,cols=70,weight={constant,same},bias={constant,same}"),
    (Depth::Standard, "rows=4,cols=97,fill=@fills,layout={plain,gapped,strided,transposed}"),
    (Depth::Standard, "rows={1,3},cols={64,97,4096},fill={shifted,negative}"),
    (Depth::Standard, "rows=3,cols=33,rank={1,3,4,8}"),
    (Depth::Standard, "rows=3,cols=33,rank=3,layout=@layouts,out_layout={plain,gapped,strided,transposed}"),
    (Depth::Standard, "rows=1,cols=65537"),
    (Depth::Standard, "rows=2,cols={1025,1031,2050,5003,65537},fill=tail"),
    (Depth::Standard, "rows=65537,cols=1"),
    (Depth::Full, "rows=1,cols={131073,1000003}"),
    (Depth::Full, "rows={1,17,128},cols={5120,8192,16384}"),
];

pub(crate) const FAMILIES: &[Family] = &[
    Family { op: OpKind::RmsNorm, variant: "", dtypes: FLOATS, params: RMS, walk: RMS_WALK, build: rms_norm },
    Family {
        op: OpKind::AddRmsNorm,
        variant: "",
        dtypes: FLOATS,
        params: ADD_RMS,
        walk: ADD_RMS_WALK,
        build: add_rms_norm,
    },
    Family { op: OpKind::LayerNorm, variant: "", dtypes: FLOATS, params: LAYER, walk: LAYER_WALK, build: layer_norm },
];

fn eps(p: &Point) -> f32 {
    p.word("eps").parse().expect("the words of eps are numbers")
}

fn attrs(p: &Point) -> NormAttrs {
    NormAttrs {
        eps: eps(p),
        weight_offset: (p.word("offset") == "1").into(),
        round_before_weight: p.word("round") == "before_weight",
    }
}

/// Adds the weight (or bias) that a word of the point asks for: contiguous normal numbers, whatever the fill.
fn weighted(trial: Trial, make: &mut Make, p: &Point, name: &str) -> Result<Trial> {
    let word = p.word(name);
    if word == "none" {
        return Ok(trial.without());
    }
    let weight = make.normal(dtype_or(word, make.dtype), &[p.size("cols")])?;
    Ok(with(trial, if word == "constant" { constant(weight) } else { weight }))
}

fn rms_norm(make: &mut Make, p: &Point) -> Result<Trial> {
    let x = make.tensor(&shape(p))?;
    let trial = weighted(with(Trial::new(Op::RmsNorm(attrs(p))), x), make, p, "weight")?;
    Ok(placed(trial, p, &shape(p)))
}

fn add_rms_norm(make: &mut Make, p: &Point) -> Result<Trial> {
    let a = make.tensor(&shape(p))?;
    let b = make.tensor_of(dtype_or(p.word("b_dtype"), make.dtype), &shape(p))?;
    let trial = weighted(with(with(Trial::new(Op::AddRmsNorm(attrs(p))), a), b), make, p, "weight")?;
    Ok(match p.word("sum") {
        "a" => trial.in_place(0, 0),
        "b" => trial.in_place(0, 1),
        _ => placed(trial, p, &shape(p)),
    })
}

/// Numbers around 1000 that the dtype tells apart.
fn shifted(make: &mut Make, shape: &[usize]) -> Result<Data> {
    let spread = if make.dtype == DType::F32 { 0.5 } else { 20.0 };
    let data: Vec<f64> = (0..shape.iter().product()).map(|_| 1000.0 + spread * make.rng.normal()).collect();
    make.laid_out(make.dtype, shape, &data)
}

fn layer_norm(make: &mut Make, p: &Point) -> Result<Trial> {
    let x = if p.word("fill") == "shifted" { shifted(make, &shape(p))? } else { make.tensor(&shape(p))? };
    let trial = with(Trial::new(Op::LayerNorm(LayerNormAttrs { eps: eps(p) })), x);
    let trial = weighted(trial, make, p, "weight")?;
    Ok(placed(weighted(trial, make, p, "bias")?, p, &shape(p)))
}
