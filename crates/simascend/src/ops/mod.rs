//! The operators: for each the documented arguments, and what it holds them to.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use qiao_core::{DType, Graph, Op};
use qiao_reference::truth;
use qiao_reference::value::Output;

use crate::codes::{Code, NN_INVALID};
use crate::executors::{Operands, Prepared, first, second};
use crate::memory::Memory;
use crate::tensors::Shared;
use crate::world::{Refused, SOCS, refused};

mod attention;
mod plain;
mod products;
mod rows;

type Handle = *const c_void;

/// Dtypes of most operators.
const FLOATS: &[DType] = &[DType::F32, DType::F16, DType::BF16];

macro_rules! operators {
    ($($first:ident $second:ident ($($arg:ident: $ty:ty),*) = $prepare:expr;)*) => {$(
        /// The first phase.
        ///
        /// # Safety
        /// Pointers lead where the documented interface says.
        #[unsafe(no_mangle)]
        #[allow(clippy::too_many_arguments, reason = "as many as are documented")]
        pub unsafe extern "C" fn $first($($arg: $ty,)* size: *mut u64, executor: *mut *mut c_void) -> Code {
            first(stringify!($first), size, executor, |o| {
                chip_has(o, stringify!($second))?;
                let prepare: fn(&mut Operands<'_>, $($ty),*) -> Result<Prepared, Refused> = $prepare;
                prepare(o, $($arg),*)
            })
        }

        /// The second phase.
        ///
        /// # Safety
        /// None is asked for: what it is given are numbers.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $second(at: *mut c_void, size: u64, executor: *mut c_void, stream: *mut c_void) -> Code {
            second(stringify!($second), at, size, executor, stream)
        }
    )*};
}

operators! {
    aclnnInplaceCopyGetWorkspaceSize aclnnInplaceCopy(to: Handle, from: Handle) = plain::copy;
    aclnnCastGetWorkspaceSize aclnnCast(x: Handle, dtype: i32, out: Handle) = plain::cast;
    aclnnInplaceFillScalarGetWorkspaceSize aclnnInplaceFillScalar(to: Handle, value: Handle) = plain::fill;
    aclnnAddGetWorkspaceSize aclnnAdd(a: Handle, b: Handle, alpha: Handle, out: Handle) = plain::add;
    aclnnSubGetWorkspaceSize aclnnSub(a: Handle, b: Handle, alpha: Handle, out: Handle) = plain::sub;
    aclnnMulGetWorkspaceSize aclnnMul(a: Handle, b: Handle, out: Handle) = |o, a, b, out| plain::binary(o, a, b, out, |a, b| a * b);
    aclnnDivGetWorkspaceSize aclnnDiv(a: Handle, b: Handle, out: Handle) = |o, a, b, out| plain::binary(o, a, b, out, |a, b| a / b);
    aclnnMulsGetWorkspaceSize aclnnMuls(a: Handle, by: Handle, out: Handle) = plain::muls;
    aclnnSiluGetWorkspaceSize aclnnSilu(x: Handle, out: Handle) = |o, x, out| plain::unary(o, plain::SILU, x, out);
    aclnnReluGetWorkspaceSize aclnnRelu(x: Handle, out: Handle) = |o, x, out| plain::unary(o, plain::RELU, x, out);
    aclnnSigmoidGetWorkspaceSize aclnnSigmoid(x: Handle, out: Handle) = |o, x, out| plain::unary(o, plain::SIGMOID, x, out);
    aclnnTanhGetWorkspaceSize aclnnTanh(x: Handle, out: Handle) = |o, x, out| plain::unary(o, plain::TANH, x, out);
    aclnnExpGetWorkspaceSize aclnnExp(x: Handle, out: Handle) = |o, x, out| plain::unary(o, plain::EXP, x, out);
    aclnnGeluV2GetWorkspaceSize aclnnGeluV2(x: Handle, approximate: i64, out: Handle) = plain::gelu;
    aclnnSwiGluGetWorkspaceSize aclnnSwiGlu(x: Handle, dim: i64, out: Handle) = rows::swiglu;
    aclnnClampGetWorkspaceSize aclnnClamp(x: Handle, least: Handle, most: Handle, out: Handle) = plain::clamp;
    aclnnNeTensorGetWorkspaceSize aclnnNeTensor(a: Handle, b: Handle, out: Handle) = plain::ne;
    aclnnInplaceMaskedFillScalarGetWorkspaceSize aclnnInplaceMaskedFillScalar(to: Handle, mask: Handle, value: Handle) = plain::masked_fill;
    aclnnCatGetWorkspaceSize aclnnCat(parts: Handle, dim: i64, out: Handle) = plain::cat;
    aclnnEmbeddingGetWorkspaceSize aclnnEmbedding(table: Handle, ids: Handle, out: Handle) = rows::embedding;
    aclnnScatterNdUpdateGetWorkspaceSize aclnnScatterNdUpdate(to: Handle, ids: Handle, rows: Handle) = rows::scatter;
    aclnnRmsNormGetWorkspaceSize aclnnRmsNorm(x: Handle, w: Handle, eps: f64, y: Handle, rstd: Handle)
        = |o, x, w, eps, y, rstd| rows::rms_norm(o, x, w, eps, 0, y, rstd);
    aclnnGemmaRmsNormGetWorkspaceSize aclnnGemmaRmsNorm(x: Handle, w: Handle, eps: f64, y: Handle, rstd: Handle)
        = |o, x, w, eps, y, rstd| rows::rms_norm(o, x, w, eps, 1, y, rstd);
    aclnnAddRmsNormGetWorkspaceSize aclnnAddRmsNorm(a: Handle, b: Handle, w: Handle, eps: f64, y: Handle, rstd: Handle, sum: Handle)
        = rows::add_rms_norm;
    aclnnLayerNormGetWorkspaceSize aclnnLayerNorm(
        x: Handle, shape: Handle, w: Handle, b: Handle, eps: f64, y: Handle, mean: Handle, rstd: Handle
    ) = rows::layer_norm;
    aclnnSoftmaxGetWorkspaceSize aclnnSoftmax(x: Handle, dim: i64, out: Handle) = rows::softmax;
    aclnnReduceSumGetWorkspaceSize aclnnReduceSum(x: Handle, dims: Handle, keep: bool, dtype: i32, out: Handle) = rows::sum;
    aclnnMeanGetWorkspaceSize aclnnMean(x: Handle, dims: Handle, keep: bool, dtype: i32, out: Handle) = rows::mean;
    aclnnAmaxGetWorkspaceSize aclnnAmax(x: Handle, dims: Handle, keep: bool, out: Handle) = rows::amax;
    aclnnArgMaxGetWorkspaceSize aclnnArgMax(x: Handle, dim: i64, keep: bool, out: Handle) = rows::argmax;
    aclnnMatmulGetWorkspaceSize aclnnMatmul(a: Handle, b: Handle, out: Handle, cube: i8) = products::matmul;
    aclnnMatmulWeightNzGetWorkspaceSize aclnnMatmulWeightNz(a: Handle, b: Handle, out: Handle, cube: i8) = products::matmul_nz;
    aclnnRotaryPositionEmbeddingGetWorkspaceSize aclnnRotaryPositionEmbedding(
        x: Handle, cos: Handle, sin: Handle, mode: i64, out: Handle
    ) = products::rotary;
    aclnnFusedInferAttentionScoreV3GetWorkspaceSize aclnnFusedInferAttentionScoreV3(
        query: Handle, key: Handle, value: Handle, shift: Handle, mask: Handle, lengths: Handle, lengths_kv: Handle,
        deq_scale1: Handle, quant_scale1: Handle, deq_scale2: Handle, quant_scale2: Handle, quant_offset2: Handle,
        antiquant_scale: Handle, antiquant_offset: Handle, table: Handle, query_padding: Handle, kv_padding: Handle,
        key_antiquant_scale: Handle, key_antiquant_offset: Handle, value_antiquant_scale: Handle,
        value_antiquant_offset: Handle, key_prefix: Handle, value_prefix: Handle, prefix_length: Handle,
        query_rope: Handle, key_rope: Handle, key_rope_scale: Handle, heads: i64, scale: f64, before: i64, after: i64,
        layout: *const c_char, kv_heads: i64, sparse: i64, precise: i64, block: i64, antiquant_mode: i64, lse_flag: bool,
        key_mode: i64, value_mode: i64, out: Handle, lse: Handle
    ) = attention::prepare;
}

/// Operators that a chip's documentation leaves out, by the start of its name.
const LACKS: &[(&str, &[&str])] = &[
    (
        "Ascend310P",
        &["aclnnAdd", "aclnnSub", "aclnnNeTensor", "aclnnScatterNdUpdate", "aclnnFusedInferAttentionScoreV3"],
    ),
    ("Ascend910A", &["aclnnMatmulWeightNz", "aclnnRmsNorm", "aclnnAddRmsNorm", "aclnnSwiGlu", "aclnnScatterNdUpdate"]),
];

fn soc(o: &Operands<'_>) -> &'static str {
    SOCS.get(o.world.knobs.soc as usize).and_then(|name| name.to_str().ok()).unwrap_or_default()
}

/// # Errors
/// The chip's documentation leaves the operator out.
fn chip_has(o: &Operands<'_>, name: &str) -> Result<(), Refused> {
    let lacks = LACKS.iter().find(|(chip, _)| soc(o).starts_with(chip)).is_some_and(|(_, list)| list.contains(&name));
    if lacks { refused(NN_INVALID, format!("{} has no {name}", soc(o))) } else { Ok(()) }
}

/// # Errors
/// The tensor's dtype is not one of these, or the chip lacks it.
fn among(o: &Operands<'_>, tensor: &Shared, what: &str, dtypes: &[DType]) -> Result<(), Refused> {
    if !dtypes.contains(&tensor.dtype) {
        return refused(NN_INVALID, format!("{what} is {}, and not one of {dtypes:?}", tensor.dtype));
    }
    if tensor.dtype == DType::BF16 && !soc(o).contains("910B") && !soc(o).contains("910_93") {
        return refused(NN_INVALID, format!("{what} is bf16, which {} lacks", soc(o)));
    }
    Ok(())
}

/// # Errors
/// The two have different shapes.
fn same_shape(a: &Shared, b: &Shared, what: &str) -> Result<(), Refused> {
    if a.view == b.view { Ok(()) } else { refused(NN_INVALID, format!("{what}: shapes {:?} and {:?}", a.view, b.view)) }
}

/// # Errors
/// The tensor has gaps.
fn dense(tensor: &Shared, what: &str) -> Result<(), Refused> {
    if tensor.is_contiguous() { Ok(()) } else { refused(NN_INVALID, format!("{what} has gaps")) }
}

/// Work that is an operator of the list: its truth, rounded once.
fn by_truth(op: Op, inputs: Vec<Option<Shared>>, outputs: Vec<Shared>) -> Prepared {
    Prepared::new(move |memory| {
        let found = results(op, &inputs, &outputs, memory)?;
        for (tensor, output) in outputs.iter().zip(found) {
            tensor.store(memory, &output)?;
        }
        Ok(())
    })
}

/// The results of an operator of the list on these operands.
fn results(op: Op, inputs: &[Option<Shared>], outputs: &[Shared], memory: &Memory) -> Result<Vec<Output>, String> {
    let given: Vec<Option<(qiao_core::TensorDesc, &[u8])>> = inputs
        .iter()
        .map(|t| t.as_ref().map(|t| Ok((t.desc(), t.bytes(memory)?))).transpose())
        .collect::<Result<_, String>>()?;
    let outs: Vec<qiao_core::TensorDesc> = outputs.iter().map(|t| t.desc()).collect();
    results_of(op, &given, &outs)
}

/// As [`results`], of descriptions and bytes.
fn results_of(
    op: Op,
    inputs: &[Option<(qiao_core::TensorDesc, &[u8])>],
    outputs: &[qiao_core::TensorDesc],
) -> Result<Vec<Output>, String> {
    let mut graph = Graph::new();
    let ids: Vec<_> = inputs.iter().map(|t| t.as_ref().map(|(desc, _)| graph.bind("x", desc.clone()))).collect();
    let outs: Vec<_> = outputs.iter().map(|desc| graph.bind("y", desc.clone())).collect();
    graph.add_into(op, &ids, &outs).map_err(|e| e.to_string())?;
    let bytes: Vec<Option<&[u8]>> = inputs.iter().map(|t| t.as_ref().map(|(_, b)| *b)).collect();
    truth::eval(graph.node(0), &bytes).map_err(|e| e.to_string())
}

/// A tensor of one value for each row, that an operator writes beside its result.
fn store_all(tensor: &Shared, memory: &mut Memory, values: Vec<f64>) -> Result<(), String> {
    tensor.store(memory, &Output::Values(values))
}

/// A shared tensor under another shape over the same bytes, row-major.
fn reshaped(tensor: &Shared, shape: &[usize]) -> Result<Shared, Refused> {
    let view = qiao_core::Dims::new(shape).map_err(|e| (NN_INVALID, e.to_string()))?;
    dense(tensor, "a tensor that is read under another shape")?;
    Ok(Arc::new(crate::tensors::Tensor { view, strides: view.contiguous_strides(), ..(**tensor).clone() }))
}
