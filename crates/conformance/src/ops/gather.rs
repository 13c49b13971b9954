//! gather_rows.

use qiao_core::{DType, NoAttrs, Op, OpKind, Result, TensorDesc};
use qiao_reference::Trial;
use qiao_reference::data::to_bytes;

use super::moves::{CODES, PACKED_DTYPES};
use crate::family::{Depth, FLOATS, Family, with};
use crate::make::{Data, LAYOUT, Make, OUT, OUT_LAYOUT, constant, placed, strides};
use crate::point::{Param, Point, size, word};

const PARAMS: &[Param] = &[
    size("ids"),
    size("rows"),
    size("cols"),
    word("index", &["i32", "i64"]),
    // Ids of rows that the table has; or of others too, which are NaN.
    word("range", &["inside", "outside"]),
    word("ids_rank", &["1", "0", "2", "3"]),
    // One id after the other; or with others in between.
    word("ids_layout", &["plain", "strided"]),
    word("table", &["bound", "constant"]),
    OUT,
    LAYOUT,
    OUT_LAYOUT,
];

const BLOCKS: &[Param] = &[
    size("ids"),
    size("rows"),
    size("blocks"),
    word("range", &["inside", "outside"]),
    word("table", &["bound", "constant"]),
    word("out", &["f32", "f16", "bf16"]),
    LAYOUT,
];

const WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "ids={1,5,33},rows=40,cols={64,97},table={bound,constant}"),
    (Depth::Smoke, "ids=9,rows=40,cols=64,range=outside"),
    (Depth::Standard, "ids=5,rows=17,cols=@edges,index={i32,i64}"),
    (Depth::Standard, "ids={0,1,17},rows={1,16,257},cols=20,index={i32,i64}"),
    (Depth::Standard, "ids=20,rows={0,9},cols={1,33},index={i32,i64},range=outside,out={same,f32,f16,bf16}"),
    (Depth::Standard, "ids=12,rows=9,cols=20,ids_rank={0,1,2,3},index={i32,i64},ids_layout={plain,strided}"),
    (Depth::Standard, "ids=7,rows=9,cols=20,layout=@layouts,out={same,f32,bf16},out_layout={plain,gapped,strided}"),
    (Depth::Standard, "ids=3,rows=11,cols=@hidden"),
    // More rows than 16 bits count, on either side.
    (Depth::Standard, "ids=64,rows=70001,cols=2,index={i32,i64},range={inside,outside}"),
    (Depth::Standard, "ids=65537,rows=7,cols=1"),
    (Depth::Full, "ids=8,rows={128256,151936,248320},cols=64,table=constant"),
];

pub(crate) const FAMILIES: &[Family] = &[
    Family { op: OpKind::GatherRows, variant: "", dtypes: FLOATS, params: PARAMS, walk: WALK, build: gather },
    Family {
        op: OpKind::GatherRows,
        variant: "codes",
        dtypes: CODES,
        params: PARAMS,
        walk: &[(
            Depth::Standard,
            "ids={1,17},rows=9,cols={1,20},index={i32,i64},range={inside,outside},layout={plain,strided}",
        )],
        build: gather,
    },
    Family {
        op: OpKind::GatherRows,
        variant: "blocks",
        dtypes: PACKED_DTYPES.split_at(3).1,
        params: BLOCKS,
        walk: &[
            (Depth::Standard, "ids={1,9},rows={1,21},blocks={1,3},out={f32,f16,bf16},range={inside,outside}"),
            (Depth::Standard, "ids=5,rows=7,blocks=2,layout={plain,gapped,repeated},table={bound,constant}"),
        ],
        build: gather_blocks,
    },
];

/// Ids of a table's rows. Outside, every second one is no row: just beside the table, far away, or one in its low bits.
fn ids(make: &mut Make, p: &Point, dtype: DType, shape: &[usize], layout: &str) -> Result<Data> {
    let rows = p.size("rows");
    let wide = if dtype == DType::I64 { 2f64.powi(32) } else { 0.0 };
    let outside = [-1.0, rows as f64, i32::MAX as f64, i32::MIN as f64, wide - 1.0, -wide - 1.0, wide + rows as f64];
    let desc = TensorDesc::strided(dtype, shape, &strides(layout, shape, 1))?;
    let held = desc.bytes()? / dtype.block_bytes();
    let mut data = Vec::with_capacity(held);
    for i in 0..held {
        let inside = make.rng.below(rows) as f64;
        data.push(match p.word("range") {
            "outside" if wide > 0.0 && i % 16 == 7 => wide + inside,
            "outside" if rows == 0 || i.is_multiple_of(2) => outside[make.rng.below(outside.len())],
            _ => inside,
        });
    }
    Ok((desc, to_bytes(dtype, &data)))
}

fn table(p: &Point, data: Data) -> Data {
    if p.word("table") == "constant" { constant(data) } else { data }
}

fn gather(make: &mut Make, p: &Point) -> Result<Trial> {
    let (n, columns, dtype) = (p.size("ids"), p.size("cols"), make.dtype);
    let size = [p.size("rows"), columns];
    let from = if dtype.is_activation() { make.tensor(&size)? } else { make.bits(dtype, &size)? };
    let shape = match p.word("ids_rank") {
        "0" => vec![],
        "2" => vec![2, n],
        "3" => vec![2, 3, n],
        _ => vec![n],
    };
    let index = if p.word("index") == "i64" { DType::I64 } else { DType::I32 };
    let ids = ids(make, p, index, &shape, p.word("ids_layout"))?;
    let out: Vec<usize> = shape.into_iter().chain([columns]).collect();
    let trial = with(with(Trial::new(Op::GatherRows(NoAttrs {})), table(p, from)), ids);
    Ok(placed(trial, p, &out))
}

fn gather_blocks(make: &mut Make, p: &Point) -> Result<Trial> {
    let columns = p.size("blocks") * make.dtype.block_elems();
    let from = make.bits(make.dtype, &[p.size("rows"), columns])?;
    let ids = ids(make, p, DType::I32, &[p.size("ids")], "plain")?;
    let trial = with(with(Trial::new(Op::GatherRows(NoAttrs {})), table(p, from)), ids);
    Ok(placed(trial, p, &[p.size("ids"), columns]))
}
