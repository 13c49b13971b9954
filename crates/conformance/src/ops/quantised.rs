//! matmul_quant over block formats and over codes with scales, scaled_matmul, quantize_dynamic.

use qiao_core::{DType, MatmulQuantAttrs, NoAttrs, Op, OpKind, Result, TensorDesc};
use qiao_reference::Trial;

use crate::family::{Depth, FLOATS, Family, with};
use crate::make::{Data, FILL, LAYOUT, Make, OUT, constant, dtype_or, strides};
use crate::ops::products::{BIAS, EPILOGUE, TAIL, epilogue_of, finished};
use crate::point::{Param, Point, extra, size, word};

/// Whether weights are constants, which a device may pack.
const CONSTANT: Param = word("constant", &["yes", "no"]);

/// Scales of blocks and codes of fp8: modest, or over their whole range.
const SPREAD: Param = word("spread", &["modest", "wide"]);

const BLOCK_PARAMS: &[Param] = &[
    size("m"),
    size("n"),
    // K in blocks of the format.
    size("blocks"),
    extra("batch"),
    word(
        "format",
        &["q4_0", "q8_0", "q4_k", "q6_k", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q5_k", "iq4_nl", "iq4_xs", "mxfp4"],
    ),
    CONSTANT,
    EPILOGUE,
    BIAS,
    TAIL,
    OUT,
    FILL,
    LAYOUT,
    SPREAD,
];

/// The formats with blocks of 32, and of 256.
const BLOCK_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "m={1,5},n=33,blocks={1,3},format={q4_0,q8_0,q4_k,q6_k}"),
    (Depth::Smoke, "m={1,3},n=18,blocks=2,format=q4_0,epilogue={bias,bias_residual}"),
    (Depth::Standard, "m={1,4},n={1,17,64},blocks={1,2},format=@block_formats"),
    (Depth::Standard, "m={1,2,16,33},n=24,blocks={4,9},format={q4_0,q4_1,q5_0,q5_1,q8_0,iq4_nl,mxfp4}"),
    (Depth::Standard, "m=@edges,n=18,blocks=2,format={q4_0,q8_0}"),
    (Depth::Standard, "m=@counts,n=34,blocks=2,format={q4_0,q8_0,q4_k}"),
    (Depth::Standard, "m=3,n=@counts,blocks=1,format={q8_0,q6_k}"),
    (Depth::Standard, "m={1,3},n=@edges,blocks=1,format={q4_0,q4_k}"),
    (Depth::Standard, "m={0,2},n={0,3},blocks={0,1},format={q8_0,q6_k}"),
    (
        Depth::Standard,
        "m={1,3},n=18,blocks=2,format={q4_0,q4_k},epilogue={bias,bias_residual,silu_mul,gelu},bias={yes,no}",
    ),
    (Depth::Standard, "m={1,3},n=18,blocks=2,format={q8_0,q6_k},constant=no,epilogue={none,silu_mul}"),
    (Depth::Standard, "m={1,3},n=18,blocks=2,format={q4_0,q6_k},out={f32,f16,bf16},tail={same,f32},epilogue=bias"),
    (Depth::Standard, "m=3,n=18,blocks=2,batch={1,3},format={q4_0,q4_k}"),
    (Depth::Standard, "m={1,6},n=18,blocks=2,format={q4_1,q5_k},fill=@fills"),
    (Depth::Standard, "m={1,6},n=18,blocks=2,format={q8_0,q3_k},layout=@layouts"),
    (Depth::Standard, "m={1,4},n=18,blocks=2,format=@block_formats,spread=wide"),
    (Depth::Standard, "m=257,n=18,blocks=1,format={q4_0,q8_0,q4_k}"),
    (Depth::Standard, "m=1,n=151936,blocks=1,format=q8_0"),
    // K of Qwen2.5-0.5B's products in 28 and 152 blocks of 32; of Llama-3.2-1B's in 8 and 32 of 256.
    (Depth::Standard, "m={1,4},n=8,blocks={28,152},format={q4_0,q8_0}"),
    (Depth::Standard, "m={1,4},n=8,blocks={8,32},format={q4_k,q6_k}"),
    (Depth::Standard, "m={1,2},n=4,blocks=128,format={q4_0,q5_1},fill=positive"),
    (Depth::Full, "m={1,9},n={896,4864},blocks=28,format={q4_0,q8_0}"),
    (Depth::Full, "m={1,9},n=2048,blocks={8,32},format=@block_formats_256"),
    (Depth::Full, "m=1,n=128256,blocks=1,format={q4_k,q6_k}"),
];

const GROUP_PARAMS: &[Param] = &[
    size("m"),
    size("n"),
    size("k"),
    extra("batch"),
    word("codes", &["i4", "u4", "i8", "u8", "f8_e4m3", "f8_e5m2", "f4_e2m1"]),
    // Input channels to a scale; 0 = all of K.
    extra("group"),
    // Output channels to a row of scales; 0 = 1.
    extra("rows"),
    // Codes of the dtype of the weights, of another, or numbers.
    word("zeros", &["none", "same", "u8", "f16", "f32"]),
    // Group of each input channel: as they stand, or as the order of activations has it.
    word("g_idx", &["none", "i32", "i64"]),
    word("scale", &["f32", "f16", "bf16"]),
    CONSTANT,
    EPILOGUE,
    BIAS,
    TAIL,
    OUT,
    FILL,
    LAYOUT,
    SPREAD,
];

const GROUP_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "m={1,5},n=34,k=256,codes={i4,u4},group={32,128}"),
    (Depth::Smoke, "m={1,4},n=18,k=256,codes=u4,group=128,zeros={same,f16},scale=f16"),
    (Depth::Smoke, "m={1,4},n=18,k=96,codes=i8"),
    (Depth::Standard, "m={1,3},n=18,k=256,codes=@code_formats,group={32,64,128,0},zeros={none,f32}"),
    (Depth::Standard, "m={1,3},n=18,k=256,codes={u4,i4,u8,i8},group={32,128},zeros={same,u8},scale={f16,bf16}"),
    (Depth::Standard, "m={1,2,17,33},n={1,17,65},k={64,192},codes={i4,i8},group=64"),
    (Depth::Standard, "m=@counts,n=34,k=128,codes={i4,i8,f8_e4m3},group=32"),
    (Depth::Standard, "m={0,2},n={0,4},k={0,64},codes={i8,f8_e4m3},group=32"),
    (Depth::Standard, "m={1,2},n={1,7,31,64},k=128,codes=u4,group=32,zeros=f16"),
    // The order of activations of GPTQ.
    (Depth::Standard, "m={1,4},n=18,k={128,256},codes={i4,u4},group={32,128},zeros={none,f16},g_idx={i32,i64}"),
    (Depth::Standard, "m={1,4},n=18,k=96,codes={i8,u8},group=32,g_idx=i32,scale=f16"),
    // Blocks of 128 by 128, and parts of them.
    (Depth::Standard, "m={1,4},n={128,256},k=256,codes={f8_e4m3,f8_e5m2},group=128,rows=128"),
    (Depth::Standard, "m={1,4},n={100,200},k={200,256},codes=f8_e4m3,group=128,rows=128"),
    (Depth::Standard, "m={1,3},n=20,k=128,codes={i8,i4},group=64,rows={2,4},zeros={none,f32}"),
    (Depth::Standard, "m={1,3},n=18,k={70,100},codes={i8,i4},group=32"),
    // What follows.
    (Depth::Standard, "m={1,3},n=18,k=96,codes=i4,group=32,epilogue={bias,bias_residual,silu_mul,gelu},bias={yes,no}"),
    (
        Depth::Standard,
        "m={1,3},n=18,k=96,codes={i8,f8_e4m3},group=32,epilogue={bias_residual,silu_mul},tail=f32,out={f32,f16}",
    ),
    (Depth::Standard, "m={1,3},n=18,k=96,codes={i4,i8},group=32,constant=no"),
    (Depth::Standard, "m=3,n=18,k=64,batch=2,codes=i4,group=32"),
    (Depth::Standard, "m={1,6},n=18,k=64,codes={i4,f4_e2m1},group=32,fill=@fills"),
    (Depth::Standard, "m={1,6},n=18,k=64,codes={u4,f8_e4m3},group=32,layout=@layouts"),
    (Depth::Standard, "m={1,4},n=18,k=64,codes={f8_e4m3,f8_e5m2},group={32,0},spread=wide"),
    (Depth::Standard, "m=257,n=18,k=64,codes={i4,f8_e4m3},group=32"),
    (Depth::Standard, "m=1,n=151936,k=8,codes=i4"),
    (Depth::Standard, "m={1,2},n=4,k={4096,8192},codes={i4,u8},group=128,fill=positive"),
    (Depth::Standard, "m={1,4},n=8,k={896,2560,4864,9728},codes=i4,group=128"),
    (Depth::Full, "m={1,9},n={896,4864},k=896,codes={i4,u4},group={32,128},zeros={none,f16}"),
    (Depth::Full, "m={1,9},n={1024,2560},k=2560,codes={i4,f8_e4m3},group=128"),
    (Depth::Full, "m=1,n=1024,k=4096,codes=f8_e4m3,group=128,rows=128"),
];

const SCALED_PARAMS: &[Param] = &[
    size("m"),
    size("n"),
    size("k"),
    // A scale for each row of a, or one for all.
    word("sa", &["row", "tensor"]),
    // A scale for each column, or one for all.
    word("sb", &["column", "tensor"]),
    word("bias", &["none", "same", "f32"]),
    // What joins the sum: nothing, small numbers, or such as a zero point makes.
    word("joins", &["none", "small", "large"]),
    CONSTANT,
    // Random codes; the lowest code everywhere, whose products no 16-bit sum and no f32 holds.
    word("codes", &["random", "lowest", "highest"]),
    LAYOUT,
    word("laid", &["a", "b", "out"]),
];

const SCALED_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "m={1,5,18},n={33,64},k={64,67},bias={none,same}"),
    (Depth::Smoke, "m=7,n=7,k=48,sa={row,tensor},sb={column,tensor}"),
    (Depth::Smoke, "m={1,3},n=5,k=1024,codes=lowest"),
    (Depth::Smoke, "m={1,4},n=18,k=64,joins={small,large}"),
    (
        Depth::Standard,
        "m={1,3},n={17,33},k={67,896},joins={small,large},bias={none,same},sa={row,tensor},constant={yes,no}",
    ),
    (Depth::Standard, "m=@edges,n=18,k=33"),
    (Depth::Standard, "m=@counts,n=34,k=64"),
    (Depth::Standard, "m=3,n=@counts,k=64"),
    (Depth::Standard, "m={1,5},n=@edges,k=34"),
    (Depth::Standard, "m={1,5},n=18,k=@edges"),
    (Depth::Standard, "m={257,300},n=18,k=33"),
    (Depth::Standard, "m={1,13,97},n={13,97},k=@odd"),
    (Depth::Standard, "m={0,2},n={0,3},k={0,4},bias={none,same}"),
    (Depth::Standard, "m={1,6},n=18,k=70,sa={row,tensor},sb={column,tensor},bias={none,same,f32},constant={yes,no}"),
    (Depth::Standard, "m=1,n=@vocabularies,k=4"),
    (Depth::Standard, "m={1,5},n=6,k={2047,4864,14336},codes={random,lowest}"),
    // The longest sums that fit in 32 bits.
    (Depth::Standard, "m={1,2},n=3,k=131071,codes={lowest,highest}"),
    (Depth::Standard, "m={1,7},n=35,k=40,layout={gapped,strided,transposed,repeated},laid={a,b},constant={yes,no}"),
    (Depth::Standard, "m={1,7},n=35,k=40,layout={gapped,strided,transposed},laid=out"),
    (Depth::Full, "m={1,64},n={896,4864},k=896,bias=same"),
    (Depth::Full, "m={1,16},n=2048,k={2048,8192}"),
];

const STATIC_PARAMS: &[Param] = &[
    size("rows"),
    size("cols"),
    // A dim in front of the rows; none where 0.
    extra("batch"),
    // A power of two, with which halves are exact; or any.
    word("scale", &["any", "power"]),
    // None; a whole number, as files have it; or any.
    word("zero", &["none", "whole", "any"]),
    // `ties` lie half way between two codes; `beyond` is outside the range of the codes.
    word("fill", &["normal", "wide", "special", "zero", "ties", "beyond"]),
    LAYOUT,
];

const STATIC_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "rows={1,5},cols={64,97},zero={none,whole}"),
    (Depth::Smoke, "rows=3,cols=66,scale=power,zero={none,whole},fill={ties,beyond}"),
    (Depth::Standard, "rows={0,1,2,7},cols=@edges"),
    (Depth::Standard, "rows={1,3},cols=@odd,scale=power,fill=ties,zero={none,whole}"),
    (Depth::Standard, "rows={1,2},cols=@hidden,zero=whole"),
    (Depth::Standard, "rows={1,4},cols={64,97},zero={none,whole,any},fill={normal,wide,special,zero,beyond}"),
    (Depth::Standard, "rows=3,cols=70,batch={1,2,5},zero=whole"),
    (Depth::Standard, "rows={1,4},cols={64,97},zero=whole,layout={gapped,strided,transposed,repeated}"),
    (Depth::Full, "rows={1,17,128},cols={5120,8192,14336},zero={none,whole}"),
];

const DYNAMIC_PARAMS: &[Param] = &[
    size("rows"),
    size("cols"),
    // A dim in front of the rows; none where 0.
    extra("batch"),
    // `ties` lie half way between two codes, and the scale is a power of two.
    word(
        "fill",
        &["normal", "wide", "cancelling", "subnormal", "special", "zero", "positive", "negative", "ties", "zero_row"],
    ),
    LAYOUT,
];

const DYNAMIC_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "rows={1,5},cols={64,97},fill={normal,ties,zero_row}"),
    (Depth::Standard, "rows={0,1,2,7},cols=@edges"),
    (Depth::Standard, "rows={1,3},cols=@odd,fill={normal,ties}"),
    (Depth::Standard, "rows={1,2},cols=@hidden"),
    (
        Depth::Standard,
        "rows={1,4},cols={64,97},fill={wide,cancelling,subnormal,special,zero,positive,negative,ties,zero_row}",
    ),
    (Depth::Standard, "rows=3,cols=70,batch={1,2,5},fill={normal,ties}"),
    (Depth::Standard, "rows={1,4},cols={64,97},fill={normal,special},layout={gapped,strided,transposed,repeated}"),
    (Depth::Standard, "rows=65,cols=65,fill={normal,ties}"),
    (Depth::Full, "rows={1,17,128},cols={5120,8192,14336},fill={normal,ties}"),
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
    family(OpKind::MatmulQuant, "", BLOCK_PARAMS, BLOCK_WALK, block_product),
    family(OpKind::MatmulQuant, "grouped", GROUP_PARAMS, GROUP_WALK, grouped_product),
    family(OpKind::QuantizeDynamic, "", DYNAMIC_PARAMS, DYNAMIC_WALK, quantize_dynamic),
    family(OpKind::QuantizeStatic, "", STATIC_PARAMS, STATIC_WALK, quantize_static),
    family(OpKind::ScaledMatmul, "", SCALED_PARAMS, SCALED_WALK, scaled_matmul),
];

fn dtype(name: &str) -> DType {
    name.parse().expect("the words of a dtype are names of dtypes")
}

fn wide(p: &Point) -> bool {
    p.word("spread") == "wide"
}

fn held(data: Data, p: &Point) -> Data {
    if p.flag("constant") { constant(data) } else { data }
}

/// The dims of the first operand and of the product.
fn dims(p: &Point, last: usize) -> Vec<usize> {
    let batch = p.size("batch");
    let front = if batch > 0 { vec![batch] } else { vec![] };
    [&front[..], &[p.size("m"), last]].concat()
}

/// The activations, the weights, then what `tail` adds.
fn block_product(make: &mut Make, p: &Point) -> Result<Trial> {
    let (n, format) = (p.size("n"), dtype(p.word("format")));
    let k = p.size("blocks") * format.block_elems();
    let a = make.tensor(&dims(p, k))?;
    let w = make.codes(format, &[n, k], wide(p))?;
    let op = Op::MatmulQuant(MatmulQuantAttrs { epilogue: epilogue_of(p), ..Default::default() });
    let trial = with(with(Trial::new(op), a), held(w, p));
    ended(trial.without().without().without(), make, p)
}

/// Adds bias and residual, and says the dtype of the result.
fn ended(trial: Trial, make: &mut Make, p: &Point) -> Result<Trial> {
    let out = dtype_or(p.word("out"), make.dtype);
    Ok(finished(trial, make, p, &dims(p, p.size("n")), "plain")?.output_dtype(out))
}

fn grouped_product(make: &mut Make, p: &Point) -> Result<Trial> {
    let (n, k, codes) = (p.size("n"), p.size("k"), dtype(p.word("codes")));
    let group = if p.size("group") == 0 { k } else { p.size("group") };
    let groups = k.checked_div(group).map_or(0, |_| k.div_ceil(group));
    let rows = p.size("rows").max(1);
    let table = [n.div_ceil(rows), groups];
    let attrs = MatmulQuantAttrs {
        group_size: p.size("group") as u32,
        group_rows: p.size("rows") as u32,
        epilogue: epilogue_of(p),
    };
    let a = make.tensor(&dims(p, k))?;
    // Weights of fp8 are small numbers, as those of a model, or any.
    let small = codes.is_float() && !codes.is_packed() && !wide(p);
    let w = if small { make.normal(codes, &[n, k])? } else { make.codes(codes, &[n, k], false)? };
    let trial = with(with(Trial::new(Op::MatmulQuant(attrs)), a), held(w, p));
    let scales: Vec<f64> = (0..table[0] * table[1]).map(|_| 0.01 + 0.04 * make.rng.normal()).collect();
    let trial = with(trial, held(make.list(dtype(p.word("scale")), &table, &scales)?, p));
    let trial = match p.word("zeros") {
        "none" => trial.without(),
        "same" => with(trial, held(make.codes(codes, &table, false)?, p)),
        name => {
            // Zeros that are numbers need not be whole.
            let step = if name == "u8" { 1.0 } else { 0.25 };
            let zeros: Vec<f64> = (0..table[0] * table[1]).map(|_| make.rng.below(61) as f64 * step).collect();
            with(trial, held(make.list(dtype(name), &table, &zeros)?, p))
        }
    };
    let trial = match p.word("g_idx") {
        "none" => trial.without(),
        name => {
            let order: Vec<f64> = make.rng.permutation(k).iter().map(|&c| (c / group) as f64).collect();
            with(trial, held(make.list(dtype(name), &[k], &order)?, p))
        }
    };
    ended(trial, make, p)
}

/// int8 codes in a layout.
fn codes(make: &mut Make, p: &Point, layout: &str, shape: &[usize]) -> Result<Data> {
    let desc = TensorDesc::strided(DType::I8, shape, &strides(layout, shape, 1))?;
    let code = |make: &mut Make| match p.word("codes") {
        "lowest" => 0x80,
        "highest" => 0x7f,
        _ => make.rng.bits() as u8,
    };
    let bytes = (0..desc.bytes()?).map(|_| code(make)).collect();
    Ok((desc, bytes))
}

fn scaled_matmul(make: &mut Make, p: &Point) -> Result<Trial> {
    let (m, n, k) = (p.size("m"), p.size("n"), p.size("k"));
    let layout = |part: &str| if p.word("laid") == part { p.word("layout") } else { "plain" };
    let (a, b) = (codes(make, p, layout("a"), &[m, k])?, codes(make, p, layout("b"), &[n, k])?);
    let mut trial = with(with(Trial::new(Op::ScaledMatmul(NoAttrs {})), a), held(b, p));
    for (scales, count) in [("sa", m), ("sb", n)] {
        let count = if p.word(scales) == "tensor" { 1 } else { count };
        // Scales over a factor of 64, so that one taken for another is seen.
        let data: Vec<f64> = (0..count).map(|_| 0.01 * (6.0 * make.rng.uniform()).exp2()).collect();
        trial = with(trial, make.list(DType::F32, &[count], &data)?);
    }
    trial = match p.word("bias") {
        "none" => trial.without(),
        word => with(trial, make.normal(dtype_or(word, make.dtype), &[n])?),
    };
    if p.word("joins") != "none" {
        let most = if p.word("joins") == "small" { 1 << 12 } else { 1 << 28 };
        let joins: Vec<f64> = (0..n).map(|_| make.rng.below(2 * most) as f64 - most as f64).collect();
        trial = with(trial, make.list(DType::I32, &[n], &joins)?);
    }
    let trial = trial.output_dtype(make.dtype);
    Ok(match layout("out") {
        "plain" | "repeated" => trial,
        layout => trial.output_strides(&strides(layout, &[m, n], 1)),
    })
}

/// Half codes times a power of two that is the row's own, the largest of them 127.
fn ties(make: &mut Make, shape: &[usize]) -> Result<Data> {
    let cols = *shape.last().expect("x has a last dim");
    let rows: usize = shape[..shape.len() - 1].iter().product();
    let mut data = Vec::with_capacity(rows * cols);
    for _ in 0..rows {
        let scale = 2f64.powi(make.rng.below(9) as i32 - 4);
        let at = make.rng.below(cols);
        for c in 0..cols {
            let half = make.rng.below(254) as f64 - 126.5;
            let most = if make.rng.bits() & 1 == 0 { 127.0 } else { -127.0 };
            data.push(scale * if c == at { most } else { half });
        }
    }
    make.laid_out(make.dtype, shape, &data)
}

fn quantize_static(make: &mut Make, p: &Point) -> Result<Trial> {
    let front = if p.size("batch") > 0 { vec![p.size("batch")] } else { vec![] };
    let shape = [&front[..], &[p.size("rows"), p.size("cols")]].concat();
    let count: usize = shape.iter().product();
    let scale = if p.word("scale") == "power" { 0.25 } else { 0.011 + 0.02 * make.rng.uniform() };
    let x = match p.word("fill") {
        "ties" => {
            let data: Vec<f64> = (0..count).map(|_| 0.25 * (make.rng.below(254) as f64 - 126.5)).collect();
            make.laid_out(make.dtype, &shape, &data)?
        }
        "beyond" => {
            let data: Vec<f64> = (0..count).map(|_| scale * 200.0 * make.rng.normal()).collect();
            make.laid_out(make.dtype, &shape, &data)?
        }
        _ => make.tensor(&shape)?,
    };
    let trial = with(Trial::new(Op::QuantizeStatic(NoAttrs {})), x);
    let trial = with(trial, make.list(DType::F32, &[1], &[scale])?);
    Ok(match p.word("zero") {
        "none" => trial,
        "whole" => with(trial, make.list(DType::F32, &[1], &[-17.0])?),
        _ => with(trial, make.list(DType::F32, &[1], &[9.3])?),
    })
}

fn quantize_dynamic(make: &mut Make, p: &Point) -> Result<Trial> {
    let front = if p.size("batch") > 0 { vec![p.size("batch")] } else { vec![] };
    let shape = [&front[..], &[p.size("rows"), p.size("cols")]].concat();
    let x = match p.word("fill") {
        "ties" => ties(make, &shape)?,
        "zero_row" => {
            let rows: usize = shape[..shape.len() - 1].iter().product();
            let data: Vec<f64> =
                (0..rows * p.size("cols")).map(|i| if i < p.size("cols") { 0.0 } else { make.rng.normal() }).collect();
            make.laid_out(make.dtype, &shape, &data)?
        }
        _ => make.tensor(&shape)?,
    };
    Ok(with(Trial::new(Op::QuantizeDynamic(NoAttrs {})), x))
}
