//! Trials of operators that a backend with kernels of its own runs beside the suite, on its own devices: sizes around the
//! borders of tiles, dtypes that mix, strides of any kind, numbers that are none.
//!
//! What a trial's limits are is the truth's to say, by the dtypes of its operands and by the dtype that the device says it
//! rounds activations to: no backend has tolerances of its own.

pub mod attention;
pub mod block_formats;
pub mod casts;
pub mod elementwise;
pub mod kv_write;
pub mod lies;
pub mod matmul;
pub mod matmul_quant;
pub mod moves;
pub mod run;
pub mod scaled_matmul;
pub mod walk;

use qiao_core::{DType, Device, OpKind, Reason, Support, TensorDesc};
use qiao_reference::Trial;
use qiao_reference::data::{Fill, Rng, to_bytes, values};

use crate::family::{Depth, Family};

/// An operand: its description and its bytes.
pub type Data = (TensorDesc, Vec<u8>);

/// The dtypes of activations.
pub const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// The dtypes that are not packed.
pub const SCALARS: [DType; 18] = [
    DType::F64,
    DType::F32,
    DType::F16,
    DType::BF16,
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

/// A contiguous tensor.
///
/// # Panics
/// The shape is no tensor's.
#[track_caller]
pub fn plain(dtype: DType, shape: &[usize]) -> TensorDesc {
    TensorDesc::new(dtype, shape).expect("a trial's shapes are tensors'")
}

/// A tensor of these strides, in elements.
///
/// # Panics
/// Shape and strides are no tensor's.
#[track_caller]
pub fn strided(dtype: DType, shape: &[usize], strides: &[usize]) -> TensorDesc {
    TensorDesc::strided(dtype, shape, strides).expect("a trial's strides are tensors'")
}

/// The bytes that a trial's tensor takes.
fn bytes(desc: &TensorDesc) -> usize {
    desc.bytes().expect("a trial's tensors are small")
}

/// Operands from one seed.
pub struct Maker {
    /// Where the next operand comes from.
    pub rng: Rng,
}

impl Maker {
    /// Operands from this seed.
    pub fn new(seed: u64) -> Self {
        Maker { rng: Rng::new(seed) }
    }

    /// Values of a kind under any description that is not packed.
    pub fn fill(&mut self, fill: Fill, desc: TensorDesc) -> Data {
        let held = bytes(&desc) / desc.dtype.block_bytes();
        let data = values(&mut self.rng, fill, desc.dtype, held);
        (desc.clone(), to_bytes(desc.dtype, &data))
    }

    /// Contiguous.
    pub fn of(&mut self, dtype: DType, shape: &[usize]) -> Data {
        self.fill(Fill::Normal, plain(dtype, shape))
    }

    /// Contiguous, NaN and both infinities among the elements.
    pub fn special(&mut self, dtype: DType, shape: &[usize]) -> Data {
        self.fill(Fill::Special, plain(dtype, shape))
    }

    /// Contiguous, magnitudes far apart.
    pub fn wide(&mut self, dtype: DType, shape: &[usize]) -> Data {
        self.fill(Fill::WideRange, plain(dtype, shape))
    }

    /// Strided.
    pub fn strided(&mut self, dtype: DType, shape: &[usize], strides: &[usize]) -> Data {
        self.fill(Fill::Normal, strided(dtype, shape, strides))
    }

    /// Every axis with a gap behind each of its elements, the innermost included.
    pub fn gapped(&mut self, dtype: DType, shape: &[usize]) -> Data {
        let mut strides = vec![2; shape.len()];
        for axis in (0..shape.len().saturating_sub(1)).rev() {
            strides[axis] = strides[axis + 1] * shape[axis + 1].max(1) + 3;
        }
        self.strided(dtype, shape, &strides)
    }

    /// One element, repeated along every axis.
    pub fn repeated(&mut self, dtype: DType, shape: &[usize]) -> Data {
        self.strided(dtype, shape, &vec![0; shape.len()])
    }

    /// Random bits under any description.
    pub fn any(&mut self, desc: TensorDesc) -> Data {
        let bytes = (0..bytes(&desc)).map(|_| self.rng.bits() as u8).collect();
        (desc, bytes)
    }

    /// Random bits, contiguous or with a gap of `gap` elements behind each innermost row.
    pub fn bits(&mut self, dtype: DType, shape: &[usize], gap: usize) -> Data {
        let mut strides = plain(dtype, shape).strides.to_vec();
        if let ([rest @ .., _], [.., columns]) = (&mut strides[..], shape) {
            rest.iter_mut().for_each(|s| *s = *s / columns.max(&1) * (columns + gap));
        }
        self.any(strided(dtype, shape, &strides))
    }

    /// Indices below `count`.
    pub fn ids(&mut self, dtype: DType, shape: &[usize], count: usize) -> Data {
        let desc = plain(dtype, shape);
        let data: Vec<f64> = (0..desc.elements()).map(|_| self.rng.below(count) as f64).collect();
        (desc, to_bytes(dtype, &data))
    }
}

/// Adds an operand.
pub fn with(trial: Trial, (desc, bytes): Data) -> Trial {
    trial.input(desc, bytes)
}

/// The same operand as a constant.
pub fn constant((desc, bytes): Data) -> Data {
    (desc.as_constant(), bytes)
}

/// The suite's own trials of an operator: those of the smoke walk, and every `nth` of the others that are small.
///
/// # Panics
/// The suite has but a few.
pub fn of_suite(kind: OpKind, nth: usize) -> Vec<Trial> {
    const SMALL: usize = 1 << 17;
    let small = |trial: &Trial| trial.operands().iter().flatten().all(|(_, bytes)| bytes.len() <= SMALL);
    let mut out = Vec::new();
    for family in Family::of(kind) {
        let points = family.points(Depth::Standard);
        for (i, (depth, point)) in points.iter().enumerate() {
            let dtype = family.dtypes[i % family.dtypes.len()];
            if *depth == Depth::Smoke || i % nth == 0 {
                // Not every point is a graph: some ask for what the operator refuses.
                let trial = family.trial(dtype, point, 7 * i as u64);
                out.extend(trial.ok().filter(|t| small(t) && t.build().is_ok()));
            }
        }
    }
    assert!(out.len() > 10, "the suite has cases for {kind}");
    out
}

/// Why a device refuses a trial's node; nothing where it takes it.
///
/// # Panics
/// The operator refuses its operands.
#[track_caller]
pub fn refusal(device: &dyn Device, trial: &Trial) -> Option<Reason> {
    let graph = trial.graph().expect("a trial is a graph");
    match device.support(&graph).remove(0).answer {
        Support::No(reason) => Some(reason),
        _ => None,
    }
}

/// The trials that a device takes, of those that it need not all take.
pub fn taken(device: &dyn Device, trials: &[Trial]) -> Vec<Trial> {
    trials.iter().filter(|trial| refusal(device, trial).is_none()).cloned().collect()
}

/// What is wrong with a trial on a device: the node does not run natively, by a kernel for which `by` answers yes, or the result
/// is beyond its limits.
fn faults(device: &dyn Device, trial: &Trial, by: &dyn Fn(&str) -> bool) -> Vec<String> {
    let graph = match trial.graph() {
        Ok(graph) => graph,
        Err(e) => return vec![e.to_string()],
    };
    let (at, support) = (graph.node(0), device.support(&graph).remove(0));
    let mut faults = Vec::new();
    if !by(&support.kernel) {
        faults.push(format!("{at}: {support:?}"));
    }
    match trial.check(device) {
        Err(e) => faults.push(format!("{at}: {e}")),
        Ok(all) => faults.extend(all.iter().filter(|c| !c.passes()).map(|c| format!("{at}: {c:?}"))),
    }
    faults
}

/// What is wrong with trials on a device that runs them natively, each by a kernel for whose name `by` answers yes.
pub fn failures(device: &dyn Device, trials: &[Trial], by: impl Fn(&str) -> bool) -> Vec<String> {
    let of = |(i, trial)| faults(device, trial, &by).into_iter().map(move |why| format!("trial {i}: {why}"));
    trials.iter().enumerate().flat_map(of).collect()
}

/// Nothing is wrong.
///
/// # Panics
/// With the first failures, if there are any.
#[track_caller]
pub fn hold(failures: &[String]) {
    let shown = failures[..failures.len().min(12)].join("\n");
    assert!(failures.is_empty(), "{} failed:\n{shown}", failures.len());
}

/// Makes every list of one of these modules a cargo test. The second argument is given the name of a list and the list: trials, or
/// [`walk::Walk`]s where the module is one of walks.
///
/// ```ignore
/// // tests/moves.rs of the crate acme_npu
/// use qiao_conformance::trials::{failures, hold};
///
/// qiao_conformance::trials!(moves, |_, trials| hold(&failures(&*acme_npu::open().unwrap(), trials, |_| true)));
/// ```
#[macro_export]
macro_rules! trials {
    (elementwise, $check:expr) => {
        $crate::trials!(@ elementwise, $check, [
            rows_of_one_dtype_match_whatever_their_length,
            every_operator_takes_what_is_no_number_and_what_is_very_large_or_small,
            operands_repeat_along_any_axis,
            dtypes_mix_and_strides_are_free,
            gate_and_up_come_from_one_operand_or_two,
        ]);
    };
    (moves, $check:expr) => {
        $crate::trials!(@ moves, $check, [
            copies_of_every_dtype_keep_every_bit,
            strides_of_any_kind_are_followed,
            parts_are_put_together_and_taken_apart,
            axes_change_places,
            a_value_fills_every_dtype,
        ]);
    };
    (casts, $check:expr) => {
        $crate::trials!(@ casts, $check, [
            every_plain_dtype_becomes_every_other,
            activations_are_cast_side_by_side_and_one_by_one,
            every_packed_format_becomes_numbers,
            rows_of_every_dtype_are_looked_up,
            rows_are_looked_up_in_another_dtype,
        ]);
    };
    (matmul, $check:expr) => {
        $crate::trials!(@ matmul, $check, [
            few_rows_of_any_dtypes_and_either_layout,
            many_rows_of_any_dtypes_and_either_layout,
            operands_may_lie_in_any_strides,
            numbers_that_are_not_finite_stay_in_their_rows_and_columns,
            a_product_of_nothing_is_its_epilogue_or_nothing,
        ]);
    };
    (matmul_quant, $check:expr) => {
        $crate::trials!(@ matmul_quant, $check, [
            common_block_formats_at_one_to_nine_rows,
            many_rows,
            inputs_are_many,
            what_follows_the_product,
            activations_lie_as_they_like,
            groups_of_every_code_have_zeros_of_its_kind,
            groups_of_every_code_have_zeros_of_another_kind,
            blocks_of_outputs_share_scales,
            every_fp8_code_is_its_value_and_nan_taints_its_row_alone,
            numbers_that_are_not_finite_stay_in_their_rows,
            scales_may_be_zero_tiny_or_huge,
            weights_need_not_be_constant,
            empty_products_are_zeros,
        ]);
    };
    (block_formats, $check:expr) => {
        $crate::trials!(@ block_formats, $check, [
            one_row_of_every_dtype_meets_every_format,
            few_rows_meet_every_format,
            inputs_of_every_format_are_many,
            formats_are_read_eight_by_eight,
        ]);
    };
    (scaled_matmul, $check:expr) => {
        $crate::trials!(@ scaled_matmul, $check, [
            one_to_nine_rows_of_odd_sizes,
            many_rows,
            sums_are_exact_where_no_float_holds_them,
            scales_for_all_and_what_joins_the_sum,
            weights_and_activations_lie_as_they_like,
            empty_products_are_what_joins_them,
        ]);
    };
    (attention, $check:expr) => {
        $crate::trials!(@ attention, $check, [
            a_decoded_token_sees_its_pages_in_both_layouts,
            a_decoded_token_has_heads_of_any_group_and_size,
            a_decoded_token_has_windows_sinks_caps_and_scales,
            a_decoded_token_reads_codes_and_other_dtypes_than_its_own,
            numbers_that_are_none_reach_whom_they_should,
            a_prompt_sees_packed_keys,
            a_prompt_sees_pages_of_every_dtype,
            few_queries_over_many_keys_are_split,
            the_plain_kernel_takes_what_the_others_refuse,
        ]);
    };
    (kv_write, $check:expr) => {
        $crate::trials!(@ kv_write, $check, [
            rows_go_to_their_slots_in_both_layouts,
            every_dtype_becomes_every_cache,
            numbers_of_any_size_and_none_are_written_as_the_truth_has_them,
        ]);
    };
    (@ $module:ident, $check:expr, [$($list:ident),* $(,)?]) => {
        $(#[test]
        fn $list() {
            ($check)(stringify!($list), &$crate::trials::$module::$list());
        })*
    };
}
