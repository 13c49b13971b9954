//! rms_norm, add_rms_norm, layer_norm.

use qiao_core::{NormAttrs, Op, OpKind, Result};
use qiao_reference::Trial;

use crate::family::{Depth, FLOATS, Family, with};
use crate::make::{FILL, LAYOUT, Make};
use crate::point::{Param, Point, size, size_from, word};

const PARAMS: &[Param] = &[
    size("rows"),
    size_from("cols", 1),
    // Powers of ten: 1e-5 is what most models have, 1e-1 shows where it is added.
    word("eps", &["1e-5", "1e-6", "1e-1", "0"]),
    // Weight of x's dtype, in f32, or left out.
    word("weight", &["same", "f32", "none"]),
    word("offset", &["0", "1"]),
    word("round", &["last", "before_weight"]),
    FILL,
    LAYOUT,
];

const WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "rows={1,5},cols={64,97},eps={1e-5,1e-1}"),
    (Depth::Standard, "rows={0,1,2,7},cols=@some"),
    (Depth::Standard, "rows={1,3},cols=@odd"),
    (Depth::Standard, "rows={1,2},cols=@hidden"),
    (
        Depth::Standard,
        "rows=3,cols=130,eps={1e-5,1e-6,1e-1,0},weight={same,f32,none},offset={0,1},round={last,before_weight}",
    ),
    (Depth::Standard, "rows={1,4},cols={64,97},fill=@fills,layout={plain,gapped,strided,transposed}"),
    (Depth::Standard, "rows=4,cols=64,fill={normal,special},layout=repeated"),
    (Depth::Full, "rows={1,17,128},cols={5120,7168,8192,16384}"),
];

pub(crate) const FAMILIES: &[Family] =
    &[Family { op: OpKind::RmsNorm, variant: "", dtypes: FLOATS, params: PARAMS, walk: WALK, build: rms_norm }];

fn attrs(p: &Point) -> NormAttrs {
    NormAttrs {
        eps: p.word("eps").parse().expect("the words of eps are numbers"),
        weight_offset: (p.word("offset") == "1").into(),
        round_before_weight: p.word("round") == "before_weight",
    }
}

/// Adds the weight that a point asks for.
fn weighted(trial: Trial, make: &mut Make, p: &Point) -> Result<Trial> {
    let dtype = match p.word("weight") {
        "none" => return Ok(trial),
        "f32" => qiao_core::DType::F32,
        _ => make.dtype,
    };
    Ok(with(trial, make.normal(dtype, &[p.size("cols")])?))
}

fn rms_norm(make: &mut Make, p: &Point) -> Result<Trial> {
    let x = make.tensor(&[p.size("rows"), p.size("cols")])?;
    weighted(with(Trial::new(Op::RmsNorm(attrs(p))), x), make, p)
}
