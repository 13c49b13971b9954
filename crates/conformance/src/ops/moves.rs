//! Operators that move elements: copy, concat, split, slice, transpose.

use qiao_core::{ConcatAttrs, DType, NoAttrs, Op, OpKind, Perm, Result, SliceAttrs, SplitAttrs, TransposeAttrs};
use qiao_reference::Trial;

use super::casts::rare_codes;
use crate::family::{Depth, FLOATS, Family, with};
use crate::make::{Data, LAYOUT, Make, OUT_LAYOUT, RANK, placed, shape};
use crate::point::{Param, Point, size, size_from, word};

/// Plain dtypes that are not activations.
pub(super) const CODES: &[DType] = &[
    DType::F64,
    DType::F8E4M3,
    DType::F8E5M2,
    DType::F8E8M0,
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

/// Dtypes whose elements share bytes: nibbles, and every block format.
pub(super) const PACKED_DTYPES: &[DType] = &[
    DType::F4E2M1,
    DType::I4,
    DType::U4,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q2K,
    DType::Q3K,
    DType::Q4K,
    DType::Q5K,
    DType::Q6K,
    DType::Iq4Nl,
    DType::Iq4Xs,
    DType::Mxfp4,
];

/// The axis that an operator works along, by where it stands.
const AXIS: Param = word("axis", &["last", "first", "middle"]);
/// The axis of a tensor `[rows, blocks]` of a packed dtype.
const PACKED_AXIS: Param = word("axis", &["rows", "blocks"]);

const COPY: &[Param] = &[size("rows"), size("cols"), RANK, LAYOUT, OUT_LAYOUT];
const PACKED: &[Param] = &[size("rows"), size("blocks"), LAYOUT, word("out_layout", &["plain", "gapped"])];
const CONCAT: &[Param] = &[
    size_from("parts", 1),
    size("rows"),
    size("cols"),
    RANK,
    AXIS,
    // Parts of one size; or of growing sizes, of which the second is empty.
    word("sizes", &["equal", "growing"]),
    LAYOUT,
    OUT_LAYOUT,
];
const SPLIT: &[Param] = &[size_from("parts", 1), size("rows"), size("cols"), RANK, AXIS, LAYOUT, OUT_LAYOUT];
const SLICE: &[Param] =
    &[size("start"), size("len"), size("rest"), size("rows"), size("cols"), RANK, AXIS, LAYOUT, OUT_LAYOUT];
const PACKED_CUT: &[Param] = &[size_from("parts", 1), size("rows"), size("blocks"), PACKED_AXIS, LAYOUT];
const TRANSPOSE: &[Param] = &[
    size_from("depth", 1),
    size("rows"),
    size("cols"),
    word(
        "perm",
        &[
            "10", "01", "0", "none", "021", "102", "201", "120", "210", "0213", "3210", "0132", "2031", "76543210",
            "10325476",
        ],
    ),
    LAYOUT,
    OUT_LAYOUT,
];

pub(crate) const FAMILIES: &[Family] = &[
    Family { op: OpKind::Copy, variant: "", dtypes: FLOATS, params: COPY, walk: COPY_WALK, build: copy },
    Family {
        op: OpKind::Copy,
        variant: "codes",
        dtypes: CODES,
        params: COPY,
        walk: &[
            (Depth::Standard, "rows={1,3},cols={0,1,17,64,257}"),
            (Depth::Standard, "rows=3,cols=19,rank={0,1,3,8},layout=@layouts,out_layout={plain,strided,transposed}"),
        ],
        build: copy,
    },
    Family {
        op: OpKind::Copy,
        variant: "packed",
        dtypes: PACKED_DTYPES,
        params: PACKED,
        walk: &[
            (Depth::Standard, "rows={0,1,3},blocks={0,1,3,16,33}"),
            (Depth::Standard, "rows=4,blocks={1,3},layout={plain,gapped,repeated},out_layout={plain,gapped}"),
        ],
        build: copy_packed,
    },
    Family { op: OpKind::Concat, variant: "", dtypes: FLOATS, params: CONCAT, walk: CONCAT_WALK, build: concat },
    Family {
        op: OpKind::Concat,
        variant: "codes",
        dtypes: CODES,
        params: CONCAT,
        walk: &[(
            Depth::Standard,
            "parts=3,rows=3,cols={1,20},rank={2,3},axis={last,first},sizes=growing,layout={plain,transposed}",
        )],
        build: concat,
    },
    Family {
        op: OpKind::Concat,
        variant: "packed",
        dtypes: PACKED_DTYPES,
        params: PACKED_CUT,
        walk: &[(Depth::Standard, "parts={1,3},rows=3,blocks={1,2},axis={rows,blocks},layout={plain,gapped}")],
        build: concat_packed,
    },
    Family { op: OpKind::Split, variant: "", dtypes: FLOATS, params: SPLIT, walk: SPLIT_WALK, build: split },
    Family {
        op: OpKind::Split,
        variant: "codes",
        dtypes: CODES,
        params: SPLIT,
        walk: &[(Depth::Standard, "parts=3,rows=3,cols={1,20},rank={2,3},axis={last,first},layout={plain,transposed}")],
        build: split,
    },
    Family {
        op: OpKind::Split,
        variant: "packed",
        dtypes: PACKED_DTYPES,
        params: PACKED_CUT,
        walk: &[(Depth::Standard, "parts={1,3},rows=3,blocks={1,2},axis={rows,blocks},layout={plain,gapped}")],
        build: split_packed,
    },
    Family { op: OpKind::Slice, variant: "", dtypes: FLOATS, params: SLICE, walk: SLICE_WALK, build: slice },
    Family {
        op: OpKind::Slice,
        variant: "codes",
        dtypes: CODES,
        params: SLICE,
        walk: &[(
            Depth::Standard,
            "start=2,len={1,17},rest=3,rows=3,cols=4,rank={2,3},axis={last,first},layout={plain,transposed}",
        )],
        build: slice,
    },
    Family {
        op: OpKind::Slice,
        variant: "packed",
        dtypes: PACKED_DTYPES,
        params: PACKED_CUT,
        walk: &[(Depth::Standard, "parts={1,3},rows=3,blocks={1,2},axis={rows,blocks},layout={plain,gapped}")],
        build: slice_packed,
    },
    Family {
        op: OpKind::Transpose,
        variant: "",
        dtypes: FLOATS,
        params: TRANSPOSE,
        walk: TRANSPOSE_WALK,
        build: transpose,
    },
    Family {
        op: OpKind::Transpose,
        variant: "codes",
        dtypes: CODES,
        params: TRANSPOSE,
        walk: &[(Depth::Standard, "depth=2,rows=5,cols={1,18},perm={10,201,0213},layout={plain,gapped}")],
        build: transpose,
    },
];

const COPY_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "rows={1,5},cols={64,97,4096}"),
    (Depth::Standard, "rows={0,3},cols=@edges"),
    (Depth::Standard, "rows={1,3},cols={1,17},rank={0,1,3,4,5,6,7,8}"),
    (Depth::Standard, "rows=5,cols={16,19},rank={1,3},layout=@layouts,out_layout={plain,gapped,strided,transposed}"),
    (Depth::Standard, "rows=5,cols=19,rank={4,8},layout={gapped,transposed},out_layout={plain,transposed}"),
    (Depth::Standard, "rows={33,130},cols={65,128},layout={plain,transposed},out_layout={plain,transposed}"),
    (Depth::Standard, "rows=65537,cols=1,layout={plain,gapped}"),
    (Depth::Standard, "rows=1,cols=65537,layout={plain,strided}"),
    (Depth::Full, "rows={512,1031},cols={4096,5120},layout={plain,gapped,transposed}"),
];

const CONCAT_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "parts={2,3},rows={1,5},cols={64,33},axis={last,first}"),
    (Depth::Standard, "parts={1,2,5},rows={0,3},cols={0,1,17},axis={last,first},sizes={equal,growing}"),
    (Depth::Standard, "parts=3,rows=3,cols=20,rank={1,3,4,8},axis={last,first,middle},sizes={equal,growing}"),
    (
        Depth::Standard,
        "parts=2,rows=4,cols=18,rank=3,axis={last,first},layout=@layouts,out_layout={plain,gapped,\
         strided,transposed}",
    ),
    (Depth::Standard, "parts=2,rows=7,cols=@some,sizes=growing"),
    (Depth::Standard, "parts=64,rows=3,cols={1,17}"),
    (Depth::Standard, "parts=2,rows=1,cols=@hidden"),
    (Depth::Full, "parts=3,rows=513,cols=4096,axis={last,first}"),
];

const SPLIT_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "parts={2,3},rows={1,5},cols={64,33},axis={last,first}"),
    (Depth::Standard, "parts={1,2,5},rows={0,1,3},cols={0,1,17},axis={last,first}"),
    (Depth::Standard, "parts=3,rows=3,cols=20,rank={1,3,4,8},axis={last,first,middle}"),
    (
        Depth::Standard,
        "parts=2,rows=4,cols=18,rank=3,axis={last,first},layout=@layouts,out_layout={plain,gapped,\
         strided,transposed}",
    ),
    (Depth::Standard, "parts=2,rows=7,cols=@some"),
    (Depth::Standard, "parts=64,rows=3,cols={1,17}"),
    (Depth::Standard, "parts=1024,rows=2,cols=3"),
    (Depth::Full, "parts=3,rows=513,cols=4096,axis={last,first}"),
];

const SLICE_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "start={0,5},len={1,64},rest={0,7},rows={1,5},cols=12,axis={last,first}"),
    (Depth::Standard, "start=3,len=@edges,rest={0,3},rows=4,cols=2"),
    (Depth::Standard, "start={0,1},len={0,2},rest={0,1},rows=3,cols=5,rank={1,2,3,4,8},axis={last,first,middle}"),
    (
        Depth::Standard,
        "start=2,len=9,rest=3,rows=4,cols=6,rank=3,axis={last,first},layout=@layouts,out_layout={plain,\
         gapped,strided,transposed}",
    ),
    (Depth::Standard, "start=65536,len=17,rest=5,rows=2,cols=2,axis={last,first}"),
    (Depth::Full, "start={0,4096},len=4096,rest=4096,rows=129,cols=129,axis={last,first}"),
];

const TRANSPOSE_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "depth=1,rows={1,5,33},cols={64,97},perm=10"),
    (Depth::Smoke, "depth=3,rows=7,cols=40,perm=0213"),
    (Depth::Standard, "depth=1,rows={0,1,16,17,33},cols=@edges,perm=10"),
    (
        Depth::Standard,
        "depth=3,rows=5,cols=18,perm={10,01,0,none,021,102,201,120,210,0213,3210,0132,2031,76543210,10325476}",
    ),
    (
        Depth::Standard,
        "depth=2,rows=6,cols=18,perm={10,201},layout=@layouts,out_layout={plain,gapped,strided,transposed}",
    ),
    (
        Depth::Standard,
        "depth=2,rows=6,cols=18,perm={021,3210},layout={gapped,transposed},out_layout={plain,transposed}",
    ),
    // A cube, in which the inverse of a permutation has the right shape.
    (Depth::Standard, "depth=5,rows=5,cols=5,perm={021,102,201,120,210}"),
    (Depth::Standard, "depth=1,rows=1,cols={32769,65537},perm=10"),
    (Depth::Standard, "depth=1,rows=65537,cols=1,perm=10"),
    (Depth::Standard, "depth={1,9},rows=12,cols={64,128},perm={102,0213}"),
    (Depth::Full, "depth=1,rows={1024,1031},cols={1024,4099},perm={10,021}"),
];

/// An operand of random bits, or of numbers where the dtype is an activation's, and of what must not be lost on the way.
fn operand(make: &mut Make, shape: &[usize]) -> Result<Data> {
    let (desc, mut bytes) =
        if make.dtype.is_activation() { make.tensor(shape)? } else { make.bits(make.dtype, shape)? };
    rare_codes(desc.dtype, &mut bytes);
    Ok((desc, bytes))
}

/// The index of [`AXIS`] among the axes of a shape.
fn axis(p: &Point, shape: &[usize]) -> usize {
    match p.word("axis") {
        "first" => 0,
        "middle" => shape.len() / 2,
        _ => shape.len().saturating_sub(1),
    }
}

fn copy(make: &mut Make, p: &Point) -> Result<Trial> {
    let x = operand(make, &shape(p))?;
    Ok(placed(with(Trial::new(Op::Copy(NoAttrs {})), x), p, &shape(p)))
}

fn copy_packed(make: &mut Make, p: &Point) -> Result<Trial> {
    let block = make.dtype.block_elems();
    let columns = p.size("blocks") * block;
    let x = make.bits(make.dtype, &[p.size("rows"), columns])?;
    let trial = with(Trial::new(Op::Copy(NoAttrs {})), x);
    Ok(if p.word("out_layout") == "plain" { trial } else { trial.output_strides(&[columns + 3 * block, 1]) })
}

fn concat(make: &mut Make, p: &Point) -> Result<Trial> {
    let mut whole = shape(p);
    let axis = axis(p, &whole);
    let mut trial = Trial::new(Op::Concat(ConcatAttrs { axis: axis as u32 }));
    let step = whole.get(axis).copied().unwrap_or(0);
    let mut total = 0;
    for part in 0..p.size("parts") {
        let len = match (p.word("sizes"), part) {
            ("equal", _) => step,
            (_, 1) => 0,
            _ => step + part,
        };
        let mut shape = whole.clone();
        shape.get_mut(axis).into_iter().for_each(|d| *d = len);
        trial = with(trial, operand(make, &shape)?);
        total += len;
    }
    whole.get_mut(axis).into_iter().for_each(|d| *d = total);
    Ok(placed(trial, p, &whole))
}

fn split(make: &mut Make, p: &Point) -> Result<Trial> {
    let part = shape(p);
    let (axis, parts) = (axis(p, &part), p.size("parts"));
    let mut whole = part.clone();
    whole.get_mut(axis).into_iter().for_each(|d| *d *= parts);
    let x = operand(make, &whole)?;
    let op = Op::Split(SplitAttrs { axis: axis as u32, parts: parts as u32 });
    Ok(placed(with(Trial::new(op), x), p, &part))
}

fn slice(make: &mut Make, p: &Point) -> Result<Trial> {
    let (start, len) = (p.size("start"), p.size("len"));
    let mut whole = shape(p);
    let axis = axis(p, &whole);
    whole.get_mut(axis).into_iter().for_each(|d| *d = start + len + p.size("rest"));
    let x = operand(make, &whole)?;
    let mut part = whole;
    part.get_mut(axis).into_iter().for_each(|d| *d = len);
    let op = Op::Slice(SliceAttrs { axis: axis as u32, start: start as u32, len: len as u32 });
    Ok(placed(with(Trial::new(op), x), p, &part))
}

/// `[rows, columns]` of a packed dtype, `times` as large along the axis of the point; and that axis.
fn packed(make: &Make, p: &Point, times: usize) -> ([usize; 2], u32) {
    let (rows, columns) = (p.size("rows"), p.size("blocks") * make.dtype.block_elems());
    if p.word("axis") == "rows" { ([rows * times, columns], 0) } else { ([rows, columns * times], 1) }
}

fn concat_packed(make: &mut Make, p: &Point) -> Result<Trial> {
    let (shape, axis) = packed(make, p, 1);
    (0..p.size("parts")).try_fold(Trial::new(Op::Concat(ConcatAttrs { axis })), |trial, _| {
        make.bits(make.dtype, &shape).map(|part| with(trial, part))
    })
}

fn split_packed(make: &mut Make, p: &Point) -> Result<Trial> {
    let parts = p.size("parts");
    let (shape, axis) = packed(make, p, parts);
    Ok(with(Trial::new(Op::Split(SplitAttrs { axis, parts: parts as u32 })), make.bits(make.dtype, &shape)?))
}

/// The second of `parts + 1` parts.
fn slice_packed(make: &mut Make, p: &Point) -> Result<Trial> {
    let (shape, axis) = packed(make, p, p.size("parts") + 1);
    let len = shape[axis as usize] / (p.size("parts") + 1);
    let op = Op::Slice(SliceAttrs { axis, start: len as u32, len: len as u32 });
    Ok(with(Trial::new(op), make.bits(make.dtype, &shape)?))
}

fn transpose(make: &mut Make, p: &Point) -> Result<Trial> {
    let axes: Vec<usize> = p.word("perm").bytes().filter(u8::is_ascii_digit).map(|b| (b - b'0') as usize).collect();
    let all = [2, 1, 3, 1, 2, p.size("depth"), p.size("rows"), p.size("cols")];
    let from = &all[8 - axes.len()..];
    let to: Vec<usize> = axes.iter().map(|&a| from[a]).collect();
    let perm = Perm::new(&axes).expect("the words of perm are permutations");
    let x = operand(make, from)?;
    Ok(placed(with(Trial::new(Op::Transpose(TransposeAttrs { perm })), x), p, &to))
}
