//! matmul.

use qiao_core::{Epilogue, Error, MatmulAttrs, Op, OpKind, Precision, Result};
use qiao_reference::Trial;

use crate::family::{Depth, FLOATS, Family, with};
use crate::make::{FILL, LAYOUT, Make, OUT, constant, dtype_or, strides};
use crate::point::{Param, Point, extra, size, word};

/// What follows a product.
pub(super) const EPILOGUE: Param = word("epilogue", &["none", "bias", "bias_residual", "silu_mul", "gelu"]);

/// Whether a bias is given where the epilogue may do without.
pub(super) const BIAS: Param = word("bias", &["yes", "no"]);

/// The dtype of bias and residual, where it is not that of the first operand.
pub(super) const TAIL: Param = word("tail", &["same", "f32", "f16", "bf16"]);

const PARAMS: &[Param] = &[
    size("m"),
    size("n"),
    size("k"),
    // Sizes in front of M; none where 0.
    extra("outer"),
    extra("batch"),
    word("b", &["nk", "kn"]),
    // Whether b has the batch dims of a.
    word("each", &["no", "yes"]),
    word("constant", &["yes", "no"]),
    EPILOGUE,
    BIAS,
    word("precision", &["ieee", "tf32"]),
    word("weight", &["same", "f32", "f16", "bf16"]),
    TAIL,
    OUT,
    FILL,
    LAYOUT,
    // Which operands have the layout; the others are contiguous.
    word("laid", &["a", "b", "tail", "out", "all"]),
];

const WALK: &[(Depth, &str)] = &[
    (Depth::Smoke, "m={1,5,33},n={48,97},k={64,131}"),
    (Depth::Smoke, "m={1,18},n=65,k=40,b={nk,kn},constant={yes,no}"),
    (Depth::Smoke, "m={1,4},n=66,k=80,epilogue={bias,bias_residual,silu_mul,gelu}"),
    (Depth::Smoke, "m=5,n=17,k=33,batch=3,each=yes,b={nk,kn},constant=no"),
    (Depth::Smoke, "m={1,3},n=5,k=4096,fill=positive"),
    (Depth::Smoke, "m=1,n=128256,k=8"),
    // Every dim over the edges of tiles, the others fixed.
    (Depth::Standard, "m=@edges,n=34,k=35"),
    (Depth::Standard, "m={1,2,6},n=@edges,k=40"),
    (Depth::Standard, "m={1,5},n=18,k=@edges"),
    (Depth::Standard, "m=@counts,n=34,k=40"),
    (Depth::Standard, "m={1,3},n=@counts,k=40"),
    (Depth::Standard, "m={1,3},n=34,k=@counts"),
    (Depth::Standard, "m={8,10,12,24,48},n=128,k=256,b={nk,kn},constant={yes,no}"),
    (Depth::Standard, "m={255,257,300,513},n=34,k=35"),
    (Depth::Standard, "m={255,257},n=130,k=64,b={nk,kn},constant={yes,no}"),
    (Depth::Standard, "m={0,2,3,14,16,63},n={17,129},k=70,b=kn,constant={yes,no}"),
    (Depth::Standard, "m={1,2,15,16,17},n={1,31,48},k={1,31,65},constant=no"),
    (Depth::Standard, "m={1,7,13,97},n={13,97},k={7,251,509},b={nk,kn}"),
    // No dim at all, in every place.
    (Depth::Standard, "m={0,3},n={0,4},k={0,5},epilogue={none,bias_residual,gelu},constant={yes,no}"),
    (Depth::Standard, "m={1,3},n=4,k=0,epilogue={bias,silu_mul}"),
    // LM heads: one row against very many columns.
    (Depth::Standard, "m=1,n=@vocabularies,k=5"),
    (Depth::Standard, "m=1,n=151936,k=4,b=kn,constant=no"),
    (Depth::Standard, "m=2,n=128256,k=4,out=f32"),
    // Dims of real models, one of them cut.
    (Depth::Standard, "m={1,4},n=24,k=@model_inputs"),
    (Depth::Standard, "m={1,4},n=@model_outputs,k=24"),
    // Batches: b shared or its own, either way round.
    (Depth::Standard, "m={1,2,17},n=20,k=33,batch={1,2,5},each={no,yes},b={nk,kn},constant={yes,no}"),
    (
        Depth::Standard,
        "m=3,n=18,k=21,outer=2,batch=3,each={no,yes},b={nk,kn},constant=no,epilogue={none,bias_residual}",
    ),
    (Depth::Standard, "m=3,n=18,k=21,batch=0,outer=2,each=yes,constant=no"),
    // What follows, with and without its bias.
    (
        Depth::Standard,
        "m={1,3,16},n={34,130},k=66,epilogue={bias_residual,silu_mul,gelu},bias={yes,no},constant={yes,no}",
    ),
    (Depth::Standard, "m={1,5},n=2050,k=20,epilogue={bias,bias_residual,silu_mul,gelu}"),
    (Depth::Standard, "m={1,3},n=40,k=2050,epilogue={bias,bias_residual,silu_mul,gelu}"),
    (Depth::Standard, "m={1,6},n=34,k=48,epilogue={bias,bias_residual},tail={f32,f16,bf16},out={same,f32}"),
    (Depth::Standard, "m=4,n=18,k=21,batch=3,epilogue={bias,bias_residual,silu_mul,gelu},constant=no"),
    // Dtypes.
    (Depth::Standard, "m={1,5},n=33,k=66,weight={f32,f16,bf16},out={same,f32,f16,bf16}"),
    (Depth::Standard, "m={1,5},n=33,k=66,weight={f32,f16,bf16},constant=no"),
    (Depth::Standard, "m={1,9},n=33,k=260,precision=tf32,epilogue={none,bias}"),
    // Data.
    (Depth::Standard, "m={1,17},n=40,k={70,260},fill={wide,cancelling,subnormal,special,zero},constant={yes,no}"),
    (Depth::Standard, "m=9,n=66,k=48,fill={wide,cancelling,special},epilogue={bias_residual,silu_mul,gelu}"),
    (Depth::Standard, "m=9,n=40,k=70,fill=special,batch=2,each=yes,constant=no"),
    (Depth::Standard, "m={1,17},n=3,k={8192,16384},fill=positive,out={same,f32}"),
    (Depth::Standard, "m=2,n=3,k={2048,4096},fill={cancelling,wide},constant={yes,no}"),
    // Layouts.
    (Depth::Standard, "m={1,7},n=35,k=40,layout={gapped,strided,transposed,repeated},laid={a,all},constant={yes,no}"),
    (
        Depth::Standard,
        "m={1,7},n=35,k=40,layout={gapped,strided,transposed,repeated},laid=b,constant={yes,no},b={nk,kn}",
    ),
    (
        Depth::Standard,
        "m=5,n=34,k=40,layout={gapped,strided,repeated},laid={tail,all},epilogue={bias_residual,silu_mul}",
    ),
    (Depth::Standard, "m={1,6},n=34,k=40,layout={gapped,strided,transposed},laid=out,epilogue={none,bias_residual}"),
    (
        Depth::Standard,
        "m=4,n=18,k=21,batch=3,layout={gapped,strided,transposed,repeated},laid={a,b,all},each={yes,no},constant=no",
    ),
    // q and k, v, o, gate and up, down of Qwen2.5-0.5B, Llama-3.2-1B, Qwen3-4B, Llama-3-8B.
    (Depth::Full, "m={1,16},n={896,128,4864},k=896,epilogue={none,bias}"),
    (Depth::Full, "m={1,16},n=896,k=4864"),
    (Depth::Full, "m={1,16},n={2048,512,8192},k=2048"),
    (Depth::Full, "m={1,16},n=2048,k=8192"),
    (Depth::Full, "m=1,n={4096,1024,9728},k=2560"),
    (Depth::Full, "m=1,n=2560,k={4096,9728}"),
    (Depth::Full, "m=1,n={4096,1024,14336},k=4096"),
    (Depth::Full, "m=1,n=4096,k=14336"),
    (Depth::Full, "m={127,128,129},n={127,128,129},k={255,256,257}"),
    (Depth::Full, "m=1,n=151936,k=896"),
    (Depth::Full, "m=1,n={128256,248320},k=256"),
    (Depth::Full, "m={1,2},n=2,k=131072,fill={normal,positive}"),
];

pub(crate) const FAMILIES: &[Family] =
    &[Family { op: OpKind::Matmul, variant: "", dtypes: FLOATS, params: PARAMS, walk: WALK, build: matmul }];

/// The epilogue of a point.
pub(super) fn epilogue_of(p: &Point) -> Epilogue {
    let name = p.word("epilogue");
    *Epilogue::ALL.iter().find(|e| e.to_string() == name).expect("the words of epilogue are its names")
}

/// Adds bias and residual for a product of this shape before its epilogue.
///
/// # Errors
/// An epilogue that halves an odd number of columns.
pub(super) fn finished(
    trial: Trial,
    make: &mut Make,
    p: &Point,
    shape: &[usize],
    layout: &'static str,
) -> Result<Trial> {
    let (dtype, epilogue) = (dtype_or(p.word("tail"), make.dtype), epilogue_of(p));
    let n = *shape.last().expect("a product has rank 2 or more");
    let wants = epilogue == Epilogue::Bias || epilogue != Epilogue::None && p.flag("bias");
    let mut trial = trial;
    if wants {
        let bias = make.tensor_in(layout, dtype, &[n])?;
        trial = with(trial, bias);
    }
    if epilogue == Epilogue::BiasResidual {
        trial = if wants { trial } else { trial.without() };
        let residual = make.tensor_in(layout, dtype, shape)?;
        trial = with(trial, residual);
    }
    if epilogue == Epilogue::SiluMul && n % 2 == 1 {
        return Err(Error::invalid("case", format!("N = {n}"), "silu_mul halves an even N"));
    }
    Ok(trial)
}

fn matmul(make: &mut Make, p: &Point) -> Result<Trial> {
    let (m, n, k) = (p.size("m"), p.size("n"), p.size("k"));
    let trans_b = p.word("b") == "nk";
    let front: Vec<usize> = ["outer", "batch"].iter().map(|d| p.size(d)).filter(|d| *d > 0).collect();
    let of = |rows: usize, columns: usize| [&front[..], &[rows, columns]].concat();
    let layout = |part: &str| if [part, "all"].contains(&p.word("laid")) { p.word("layout") } else { "plain" };
    let a = make.tensor_in(layout("a"), make.dtype, &of(m, k))?;
    let matrix = if trans_b { [n, k] } else { [k, n] };
    let shape = if p.flag("each") { of(matrix[0], matrix[1]) } else { matrix.to_vec() };
    let mut b = make.tensor_in(layout("b"), dtype_or(p.word("weight"), make.dtype), &shape)?;
    if p.flag("constant") {
        b = constant(b);
    }
    let precision = if p.word("precision") == "tf32" { Precision::Tf32 } else { Precision::Ieee };
    let op = Op::Matmul(MatmulAttrs { trans_b, epilogue: epilogue_of(p), precision });
    let trial = with(with(Trial::new(op), a), b);
    let trial = finished(trial, make, p, &of(m, n), layout("tail"))?;
    let trial = trial.output_dtype(dtype_or(p.word("out"), make.dtype));
    let columns = if epilogue_of(p) == Epilogue::SiluMul { n / 2 } else { n };
    Ok(match layout("out") {
        "plain" | "repeated" => trial,
        layout => trial.output_strides(&strides(layout, &of(m, columns), 1)),
    })
}
