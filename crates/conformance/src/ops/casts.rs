//! cast, fill.

use qiao_core::{DType, FillAttrs, NoAttrs, Op, OpKind, Result};
use qiao_reference::data::to_bytes;
use qiao_reference::{Trial, round};

use super::moves::{CODES, PACKED_DTYPES};
use crate::family::{Depth, FLOATS, Family, with};
use crate::make::{LAYOUT, Make, OUT_LAYOUT, RANK, placed, shape};
use crate::point::{Param, Point, size, word};

/// The dtypes that a cast may ask for. What a number becomes in `f8_e8m0` is not pinned.
const TO: Param = word(
    "to",
    &[
        "f32",
        "f16",
        "bf16",
        "f64",
        "f8_e4m3",
        "f8_e5m2",
        "f8_e4m3fnuz",
        "f8_e5m2fnuz",
        "i64",
        "i32",
        "i16",
        "i8",
        "u64",
        "u32",
        "u16",
        "u8",
        "bool",
    ],
);

/// Numbers around the borders of the target; any codes of the source.
const DATA: Param = word("data", &["borders", "codes"]);

const CAST: &[Param] = &[size("rows"), size("cols"), TO, DATA, RANK, LAYOUT, OUT_LAYOUT];
const CAST_PACKED: &[Param] = &[size("rows"), size("blocks"), TO, LAYOUT, OUT_LAYOUT];
const FILL: &[Param] = &[
    size("rows"),
    size("cols"),
    word(
        "value",
        &[
            "1", "0", "-0", "0.1", "-2.5", "2.5", "300", "-300", "65520", "1e20", "-1e20", "1e-7", "1e-40", "NaN",
            "inf", "-inf",
        ],
    ),
    RANK,
    OUT_LAYOUT,
];

const CAST_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "rows={1,5},cols={64,97,4096},to={f32,f16,bf16}"),
    (Depth::Smoke, "rows=3,cols=300,to={f32,f16,bf16},data=codes"),
    (Depth::Standard, "rows={0,3},cols=@edges,to={f32,f16,bf16}"),
    (Depth::Standard, "rows=8,cols=257,to=@scalars,data={borders,codes}"),
    (Depth::Standard, "rows=3,cols=19,to={f32,f16,bf16,i8,f8_e4m3},rank={0,1,3,4,8}"),
    (
        Depth::Standard,
        "rows=4,cols=20,rank=3,to={f32,bf16,i8},layout=@layouts,out_layout={plain,gapped,strided,transposed}",
    ),
    (Depth::Standard, "rows=65537,cols=1,to={f32,f16,bf16}"),
    (Depth::Standard, "rows=1,cols=65537,to={f32,f16,bf16}"),
    (Depth::Full, "rows=1031,cols=4096,to=@scalars"),
];

pub(crate) const FAMILIES: &[Family] = &[
    Family { op: OpKind::Cast, variant: "", dtypes: FLOATS, params: CAST, walk: CAST_WALK, build: cast },
    Family {
        op: OpKind::Cast,
        variant: "codes",
        dtypes: CODES,
        params: CAST,
        walk: &[
            (Depth::Standard, "rows=3,cols=257,to=@scalars,data={borders,codes}"),
            (Depth::Standard, "rows=3,cols=19,to={f32,bf16,i32},layout=@layouts,out_layout={plain,strided}"),
        ],
        build: cast,
    },
    Family {
        op: OpKind::Cast,
        variant: "packed",
        dtypes: PACKED_DTYPES,
        params: CAST_PACKED,
        walk: &[
            (Depth::Standard, "rows={0,1,3},blocks={1,2,5},to={f32,f16,bf16}"),
            (Depth::Standard, "rows=3,blocks=2,to={f64,f8_e4m3,f8_e5m2,f8_e4m3fnuz,f8_e5m2fnuz}"),
            (
                Depth::Standard,
                "rows=3,blocks=2,to={f32,f16},layout={plain,gapped,repeated},out_layout={plain,gapped,transposed}",
            ),
        ],
        build: cast_packed,
    },
    Family {
        op: OpKind::Fill,
        variant: "",
        dtypes: FLOATS,
        params: FILL,
        walk: &[
            (Depth::Smoke, "rows={1,5},cols={64,97},value={0,1,-2.5}"),
            (Depth::Standard, "rows={0,1,3},cols=@edges"),
            (Depth::Standard, "rows=2,cols=19,value=@fill_values"),
            (Depth::Standard, "rows=3,cols=18,rank={0,1,2,3,4,8},out_layout={plain,gapped,strided,transposed}"),
            (Depth::Standard, "rows=65537,cols=1"),
            (Depth::Standard, "rows=1,cols=65537"),
        ],
        build: fill,
    },
    Family {
        op: OpKind::Fill,
        variant: "codes",
        dtypes: CODES_BUT_E8M0,
        params: FILL,
        walk: &[
            (Depth::Standard, "rows=2,cols=19,value=@fill_values"),
            (Depth::Standard, "rows={0,1,3},cols={0,1,33},rank={0,2,3},out_layout={plain,strided}"),
        ],
        build: fill,
    },
];

/// Plain dtypes that are not activations, and that have every value of `fill` in a pinned way.
const CODES_BUT_E8M0: &[DType] = &[
    DType::F64,
    DType::F8E4M3,
    DType::F8E5M2,
    DType::F8E4M3Fnuz,
    DType::F8E5M2Fnuz,
    DType::I64,
    DType::I32,
    DType::I16,
    DType::I8,
    DType::U64,
    DType::U32,
    DType::U16,
    DType::U8,
    DType::Bool,
];

/// Numbers that every cast must get right, whatever the target.
const NOTABLE: [f64; 20] = [
    0.0,
    -0.0,
    0.5,
    1.5,
    2.5,
    -0.5,
    -1.5,
    127.5,
    -128.5,
    255.5,
    65519.996,
    65520.0,
    -1e10,
    1e20,
    1e39,
    -1e300,
    1e-46,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
];

/// A number of the target, or halfway to the next one, or a little beside that.
fn near_border(make: &mut Make, to: DType) -> f64 {
    let at = if to.is_float() {
        let mut code = [0; 8];
        code.iter_mut().for_each(|b| *b = make.rng.bits() as u8);
        round::decode(to, &code)
    } else {
        (make.rng.normal() * 2f64.powi(make.rng.below(66) as i32)).round()
    };
    let part = [0.0, 0.5, -0.5, 0.25, 0.75][make.rng.below(5)];
    let beside = [0.0, 0.0, 2f64.powi(-22), -2f64.powi(-22)][make.rng.below(4)];
    (at + part * round::ulp(to, at)) * (1.0 + beside)
}

/// Puts codes that chance seldom makes first: −0; a NaN whose lowest bit alone is set, which is ∞ where it is cut off, and
/// one of all bits, which a rounding carries into the sign; of either sign.
pub(super) fn rare_codes(dtype: DType, bytes: &mut [u8]) {
    let infinity: u64 = match dtype {
        DType::F64 => 0x7ff0 << 48,
        DType::F32 => 0x7f80 << 16,
        DType::BF16 => 0x7f80,
        DType::F16 => 0x7c00,
        _ => return,
    };
    let size = dtype.block_bytes();
    let sign = 1u64 << (8 * size - 1);
    let codes = [sign, infinity | 1, sign - 1, sign | infinity | 1, sign | (sign - 1)];
    for (element, code) in bytes.chunks_exact_mut(size).zip(codes) {
        element.copy_from_slice(&code.to_le_bytes()[..size]);
    }
}

fn cast(make: &mut Make, p: &Point) -> Result<Trial> {
    let (shape, from, to) = (shape(p), make.dtype, target(p));
    let x = if p.word("data") == "codes" {
        let (desc, mut bytes) = make.bits(from, &shape)?;
        rare_codes(from, &mut bytes);
        (desc, bytes)
    } else {
        let (desc, _) = make.tensor(&shape)?;
        let held = desc.bytes()? / from.block_bytes();
        let pick =
            |i: usize| if i.is_multiple_of(4) { NOTABLE[make.rng.below(NOTABLE.len())] } else { near_border(make, to) };
        let data: Vec<f64> = (0..held).map(pick).collect();
        (desc, to_bytes(from, &data))
    };
    Ok(placed(with(Trial::new(Op::Cast(NoAttrs {})), x).output_dtype(to), p, &shape))
}

fn target(p: &Point) -> DType {
    p.word("to").parse().expect("the words of to are dtypes")
}

fn cast_packed(make: &mut Make, p: &Point) -> Result<Trial> {
    let shape = [p.size("rows"), p.size("blocks") * make.dtype.block_elems()];
    let x = make.bits(make.dtype, &shape)?;
    Ok(placed(with(Trial::new(Op::Cast(NoAttrs {})), x).output_dtype(target(p)), p, &shape))
}

fn fill(make: &mut Make, p: &Point) -> Result<Trial> {
    let value = p.word("value").parse().expect("the words of value are numbers");
    let trial = Trial::new(Op::Fill(FillAttrs { value })).output_dtype(make.dtype).output_shape(&shape(p));
    Ok(placed(trial, p, &shape(p)))
}
