//! Operators that work element by element: add, sub, mul, div, the activations, silu_mul.

use qiao_core::{GeluAttrs, GeluForm, NoAttrs, Op, OpKind, Result, SiluMulAttrs};
use qiao_reference::Trial;
use qiao_reference::round::{min_normal, round};

use crate::family::{Depth, FLOATS, Family, with};
use crate::make::{Data, LAYOUT, Make, OUT, OUT_LAYOUT, RANK, dtype_or, placed, shape};
use crate::point::{Param, Point, size, word};

/// As [`crate::make::FILL`], and numbers at which an implementation changes its method or leaves its range.
const FILL: Param =
    word("fill", &["normal", "wide", "cancelling", "subnormal", "special", "zero", "positive", "negative", "notable"]);

const BINARY: &[Param] = &[
    size("rows"),
    size("cols"),
    // The shape of b beside a's `[.., rows, cols]`: the same; [cols]; [.., rows, 1]; []; [.., 1, 1]; [.., 1, cols]; 1
    // along the first axis; a column beside a's row; the whole beside a's row.
    word("b", &["same", "row", "column", "scalar", "single", "middle", "first", "outer", "swapped"]),
    RANK,
    word("b_dtype", &["same", "f32", "f16", "bf16"]),
    OUT,
    FILL,
    LAYOUT,
    // How b lies, where it differs from a.
    word("b_layout", &["same", "plain", "gapped", "transposed"]),
    OUT_LAYOUT,
];

const UNARY: &[Param] = &[size("rows"), size("cols"), RANK, OUT, FILL, LAYOUT, OUT_LAYOUT];
const GELU: &[Param] =
    &[word("form", &["erf", "tanh"]), size("rows"), size("cols"), RANK, OUT, FILL, LAYOUT, OUT_LAYOUT];

const SILU_MUL: &[Param] = &[
    size("rows"),
    size("cols"),
    // One operand with the gate in its first or second half, or two.
    word("gate", &["first", "second", "two"]),
    word("clamp", &["0", "0.5", "7"]),
    word("rank", &["2", "1", "3", "4", "8"]),
    word("up_dtype", &["same", "f32", "f16", "bf16"]),
    OUT,
    // No infinities beside gates that vanish: their product is not pinned.
    crate::make::FILL,
    LAYOUT,
    OUT_LAYOUT,
];

const BINARY_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "rows={1,5},cols={64,97}"),
    (Depth::Smoke, "rows=33,cols=33,b={row,column,scalar}"),
    (Depth::Smoke, "rows=8,cols=130,fill={special,notable}"),
    (Depth::Standard, "rows={1,5},cols=@edges"),
    (Depth::Standard, "rows=0,cols=5,b={same,row,scalar,outer}"),
    (Depth::Standard, "rows=3,cols=17,rank={0,1,3,4,5,6,7,8}"),
    // In a square a broadcast along the wrong axis has the right shape.
    (Depth::Standard, "rows={1,17},cols={1,17},b={row,column,scalar,single,middle,first,outer,swapped}"),
    (Depth::Standard, "rows=5,cols=5,b={row,column,middle,first,outer,swapped},rank={3,4,8},layout={plain,transposed}"),
    (Depth::Standard, "rows=3,cols=33,b_dtype={same,f32,f16,bf16},out={same,f32,f16,bf16}"),
    (Depth::Standard, "rows=3,cols=33,b={row,swapped},b_dtype={f32,bf16}"),
    (Depth::Standard, "rows=4,cols=129,fill=@elementwise_fills,out={same,f32}"),
    (Depth::Standard, "rows=4,cols=20,rank=3,layout=@layouts,out_layout={plain,gapped,strided,transposed}"),
    (Depth::Standard, "rows=4,cols=20,layout={plain,gapped,transposed},b_layout={plain,gapped,transposed}"),
    (Depth::Standard, "rows=3,cols=@odd"),
    (Depth::Standard, "rows=1,cols={896,4864,65537}"),
    (Depth::Standard, "rows=65537,cols=1,b={same,column}"),
    (Depth::Full, "rows=1,cols={131073,1000003}"),
    (Depth::Full, "rows=1031,cols={4096,11008},b={same,row,column}"),
];

const UNARY_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "rows={1,5},cols={64,97}"),
    (Depth::Smoke, "rows=3,cols=130,fill={wide,special,notable}"),
    (Depth::Standard, "rows={1,5},cols=@edges"),
    (Depth::Standard, "rows=0,cols=5"),
    (Depth::Standard, "rows=3,cols=17,rank={0,1,3,4,5,6,7,8}"),
    (Depth::Standard, "rows=5,cols=129,fill=@elementwise_fills,out={same,f32}"),
    (Depth::Standard, "rows=5,cols=33,out={f16,bf16},fill={normal,wide}"),
    (Depth::Standard, "rows=4,cols=20,rank=3,layout=@layouts,out_layout={plain,gapped,strided,transposed}"),
    (Depth::Standard, "rows=3,cols=@odd"),
    (Depth::Standard, "rows=1,cols={896,4864}"),
    (Depth::Standard, "rows=1,cols=65537,fill=wide"),
    (Depth::Standard, "rows=65537,cols=1"),
    (Depth::Full, "rows=1,cols={131073,1000003}"),
    (Depth::Full, "rows=1031,cols={4096,11008}"),
];

const GELU_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "form={erf,tanh},rows={1,5},cols={64,97}"),
    (Depth::Smoke, "form={erf,tanh},rows=3,cols=130,fill={wide,special,notable}"),
    (Depth::Standard, "form={erf,tanh},rows={0,3},cols=@edges"),
    (Depth::Standard, "form={erf,tanh},rows=3,cols=17,rank={0,1,3,8}"),
    (Depth::Standard, "form={erf,tanh},rows=5,cols=129,fill=@elementwise_fills,out={same,f32}"),
    (Depth::Standard, "form={erf,tanh},rows=5,cols=33,out={f16,bf16}"),
    (Depth::Standard, "form={erf,tanh},rows=4,cols=20,rank=3,layout=@layouts,out_layout={plain,gapped,transposed}"),
    (Depth::Standard, "form={erf,tanh},rows=1,cols=4864"),
    (Depth::Standard, "form={erf,tanh},rows=1,cols=65537,fill=wide"),
    (Depth::Standard, "form={erf,tanh},rows=65537,cols=1"),
    (Depth::Full, "form={erf,tanh},rows=1031,cols={4096,11008}"),
];

const SILU_MUL_WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "rows={1,5},cols={64,97,4864},gate={first,two}"),
    (Depth::Smoke, "rows=3,cols=130,gate={first,two},fill={wide,special}"),
    (Depth::Standard, "rows=3,cols=@edges,gate={first,second,two}"),
    (Depth::Standard, "rows={0,1},cols=17,gate={first,second,two},clamp={0,0.5}"),
    (
        Depth::Standard,
        "rows=3,cols=40,gate={first,second,two},clamp={0,0.5,7},fill={normal,wide,special,positive,negative}",
    ),
    (Depth::Standard, "rows=3,cols=40,gate={first,two},fill={cancelling,subnormal,zero}"),
    (Depth::Standard, "rows=3,cols=17,gate={first,second,two},clamp={0,0.5},rank={1,3,4,8}"),
    (Depth::Standard, "rows=3,cols=33,gate=two,up_dtype={same,f32,f16,bf16},out={same,f32,f16,bf16}"),
    (Depth::Standard, "rows=3,cols=33,gate={first,second},clamp={0,0.5},out={f32,f16,bf16}"),
    (
        Depth::Standard,
        "rows=4,cols=20,gate={first,second,two},rank=3,layout=@layouts,out_layout={plain,gapped,transposed}",
    ),
    (Depth::Standard, "rows=4,cols=20,gate={second,two},clamp=0.5,layout=@layouts"),
    // Intermediate widths of Qwen2.5-0.5B, Llama-3.2-1B, Qwen2.5-1.5B, Qwen3-4B, Llama-3-8B.
    (Depth::Standard, "rows=1,cols={4864,8192,8960,9728,14336},gate={first,two}"),
    (Depth::Standard, "rows=1,cols=65537,gate={second,two}"),
    (Depth::Standard, "rows=65537,cols=1,gate={first,two}"),
    (Depth::Full, "rows={128,1031},cols={4864,14336},gate={first,second,two}"),
];

const fn arithmetic(op: OpKind, build: fn(&mut Make, &Point) -> Result<Trial>) -> Family {
    Family { op, variant: "", dtypes: FLOATS, params: BINARY, walk: BINARY_WALK, build }
}

const fn activation(op: OpKind, build: fn(&mut Make, &Point) -> Result<Trial>) -> Family {
    Family { op, variant: "", dtypes: FLOATS, params: UNARY, walk: UNARY_WALK, build }
}

pub(crate) const FAMILIES: &[Family] = &[
    arithmetic(OpKind::Add, |make, p| binary(Op::Add(NoAttrs {}), make, p)),
    arithmetic(OpKind::Sub, |make, p| binary(Op::Sub(NoAttrs {}), make, p)),
    arithmetic(OpKind::Mul, |make, p| binary(Op::Mul(NoAttrs {}), make, p)),
    arithmetic(OpKind::Div, |make, p| binary(Op::Div(NoAttrs {}), make, p)),
    activation(OpKind::Silu, |make, p| unary(Op::Silu(NoAttrs {}), make, p)),
    Family { op: OpKind::Gelu, variant: "", dtypes: FLOATS, params: GELU, walk: GELU_WALK, build: gelu },
    activation(OpKind::Relu, |make, p| unary(Op::Relu(NoAttrs {}), make, p)),
    activation(OpKind::Sigmoid, |make, p| unary(Op::Sigmoid(NoAttrs {}), make, p)),
    activation(OpKind::Tanh, |make, p| unary(Op::Tanh(NoAttrs {}), make, p)),
    activation(OpKind::Exp, |make, p| unary(Op::Exp(NoAttrs {}), make, p)),
    Family { op: OpKind::SiluMul, variant: "", dtypes: FLOATS, params: SILU_MUL, walk: SILU_MUL_WALK, build: silu_mul },
];

/// Magnitudes at which exponentials overflow or vanish, polynomials hand over, and 16 bits end.
const NOTABLE: [f64; 32] = [
    0.0, 1e-30, 1e-8, 1e-4, 0.01, 0.1, 0.25, 0.5, 0.625, 0.7, 1.0, 1.001, 2.0, 3.0, 4.0, 5.0, 6.0, 7.9, 9.0, 10.0,
    11.1, 12.0, 17.4, 20.0, 50.0, 80.0, 86.0, 88.0, 89.5, 104.0, 1000.0, 60000.0,
];

/// Notable numbers of both signs, among them the largest and the smallest of the dtype, ∞ and NaN.
fn notable(make: &mut Make, dtype: qiao_core::DType, shape: &[usize]) -> Result<Data> {
    let largest = [f64::MAX, 3.4e38, 65504.0].into_iter().map(|x| round(dtype, x)).find(|x| x.is_finite());
    let rare = [largest.unwrap_or(1.0), min_normal(dtype), min_normal(dtype) / 8.0, f64::INFINITY, f64::NAN];
    let count = shape.iter().product::<usize>();
    let pick = |i: usize| {
        let sign = if make.rng.bits() & 1 == 0 { 1.0 } else { -1.0 };
        let all = NOTABLE.len() + rare.len();
        // Every number stands once before chance chooses.
        let at = if i < 2 * all { i % all } else { make.rng.below(all) };
        sign * NOTABLE.get(at).copied().unwrap_or_else(|| rare[at - NOTABLE.len()])
    };
    let data: Vec<f64> = (0..count).map(pick).collect();
    make.laid_out(dtype, shape, &data)
}

fn operand(make: &mut Make, p: &Point, dtype: qiao_core::DType, shape: &[usize]) -> Result<Data> {
    if p.word("fill") == "notable" { notable(make, dtype, shape) } else { make.tensor_of(dtype, shape) }
}

/// The shapes of a and b, and that of the result.
fn broadcast(p: &Point) -> [Vec<usize>; 3] {
    let whole = shape(p);
    let ones_from = |first: usize, last: usize| {
        let mut s = whole.clone();
        s[first..last].fill(1);
        s
    };
    let n = whole.len();
    let row = whole[n.saturating_sub(1)..].to_vec();
    let [a, b] = match p.word("b") {
        "row" => [whole.clone(), row],
        "column" => [whole.clone(), ones_from(n.saturating_sub(1), n)],
        "scalar" => [whole.clone(), vec![]],
        "single" => [whole.clone(), vec![1; n]],
        "middle" => [whole.clone(), ones_from(n.saturating_sub(2), n.saturating_sub(1))],
        "first" => [whole.clone(), ones_from(0, n.min(1))],
        "outer" => [ones_from(0, n.saturating_sub(1)), ones_from(n.saturating_sub(1), n)],
        "swapped" => [row, whole.clone()],
        _ => [whole.clone(), whole.clone()],
    };
    [a, b, whole]
}

fn binary(op: Op, make: &mut Make, p: &Point) -> Result<Trial> {
    let [a, b, whole] = broadcast(p);
    let b_dtype = dtype_or(p.word("b_dtype"), make.dtype);
    let a = operand(make, p, make.dtype, &a)?;
    let b = match p.word("b_layout") {
        "same" => operand(make, p, b_dtype, &b)?,
        layout => make.tensor_in(layout, b_dtype, &b)?,
    };
    Ok(placed(with(with(Trial::new(op), a), b), p, &whole))
}

fn unary(op: Op, make: &mut Make, p: &Point) -> Result<Trial> {
    let x = operand(make, p, make.dtype, &shape(p))?;
    Ok(placed(with(Trial::new(op), x), p, &shape(p)))
}

fn gelu(make: &mut Make, p: &Point) -> Result<Trial> {
    let form = if p.word("form") == "tanh" { GeluForm::Tanh } else { GeluForm::Erf };
    unary(Op::Gelu(GeluAttrs { form }), make, p)
}

fn silu_mul(make: &mut Make, p: &Point) -> Result<Trial> {
    let out = shape(p);
    let clamp = p.word("clamp").parse().expect("the words of clamp are numbers");
    let trial = Trial::new(Op::SiluMul(SiluMulAttrs { gate_second: p.word("gate") == "second", clamp }));
    let trial = if p.word("gate") == "two" {
        let gate = make.tensor(&out)?;
        let up_dtype = dtype_or(p.word("up_dtype"), make.dtype);
        with(with(trial, gate), make.tensor_of(up_dtype, &out)?)
    } else {
        let mut both = out.clone();
        both.last_mut().into_iter().for_each(|d| *d *= 2);
        with(trial, make.tensor(&both)?)
    };
    Ok(placed(trial, p, &out))
}
