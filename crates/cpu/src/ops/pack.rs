//! Constant matmul weights in the panels that the kernels read.

use half::{bf16, f16};
use qiao_core::{Binding, DType, Error, Result, TensorDesc};
use qiao_kernels_cpu::{
    Weight, WeightMatrix, pack_panel, pack_panel_i8, packed_len, packed_len_i8, panel_len, panel_len_i8,
};

use super::quant_panels;
use super::sound::alignment;
use crate::memory::{resolve, resolve_mut};
use crate::threads::Pool;

/// Panels of 16 output features of a weight `[N, K]`; see the layout module of the kernels for each dtype.
pub(crate) const PANELS: u64 = 0x5061_6e65_6c31_3600;

/// As [`PANELS`], of a weight stored `[K, N]`.
pub(crate) const PANELS_T: u64 = PANELS + 1;

/// Rows and columns of the weight as the kernels see it, `[N, K]`.
fn dims(tensor: &TensorDesc, layout: u64) -> Result<(usize, usize)> {
    let panels = matches!(tensor.dtype, DType::F32 | DType::F16 | DType::BF16 | DType::I8);
    match (&tensor.shape[..], layout) {
        (&[n, k], PANELS) if panels && fits(n, k) => Ok((n, k)),
        (&[k, n], PANELS_T) if panels && fits(n, k) => Ok((n, k)),
        _ => {
            let mend = "ask only for the layout that the device named in its support answer";
            Err(Error::invalid(format!("private layout {layout:#x}"), tensor.to_string(), mend))
        }
    }
}

/// Whether a weight rounded up to whole panels stays far below overflow.
fn fits(n: usize, k: usize) -> bool {
    const MOST: usize = 1 << 48;
    n <= MOST && k <= MOST && n.saturating_mul(k) <= MOST
}

/// Bytes of a packed weight.
///
/// # Errors
/// A layout that the CPU does not have, or a tensor that it does not fit.
pub(crate) fn packed_bytes(tensor: &TensorDesc, layout: u64) -> Result<usize> {
    if let Some(bytes) = quant_panels::packed_bytes(tensor, layout) {
        return Ok(bytes);
    }
    let (n, k) = dims(tensor, layout)?;
    Ok(match tensor.dtype {
        DType::F32 => packed_len::<f32>(n, k) * 4,
        DType::F16 => packed_len::<f16>(n, k) * 2,
        DType::BF16 => packed_len::<bf16>(n, k) * 2,
        _ => packed_len_i8(n, k),
    })
}

/// Packs a weight, its panels spread over the pool.
///
/// # Errors
/// As [`packed_bytes`]; bindings that do not fit.
pub(crate) fn pack(pool: &Pool, tensor: &TensorDesc, src: &Binding, layout: u64, dst: &Binding) -> Result<()> {
    let need = packed_bytes(tensor, layout)?;
    let (from, from_range) = resolve(src, "weight to pack", tensor.bytes()?)?;
    let (to, to_range) = resolve_mut(dst, "packed weight", need)?;
    let (from, to) = (from.at(from_range.start) as usize, to.at(to_range.start) as usize);
    let aligned = |address: usize, what: &str| {
        if address.is_multiple_of(alignment(tensor)) {
            return Ok(());
        }
        Err(Error::invalid(what, "it is not aligned to its elements", "copy it to an allocated buffer first"))
    };
    aligned(from, "weight to pack")?;
    aligned(to, "packed weight")?;
    let (from_end, to_end) = (from + tensor.bytes()?, to + need);
    if from < to_end && to < from_end {
        return Err(Error::invalid("packed weight", "it overlaps its source", "pack into memory of its own"));
    }
    if quant_panels::packed_bytes(tensor, layout).is_some() {
        // SAFETY: both bindings were checked to hold all bytes and to be apart; allocated memory is initialised.
        return unsafe { quant_panels::pack(pool, tensor, from, layout, to) };
    }
    let (n, k) = dims(tensor, layout)?;
    if k == 0 {
        // SAFETY: the destination was checked to hold all panels.
        unsafe { std::ptr::write_bytes(to as *mut u8, 0, to_end - to) };
        return Ok(());
    }
    let strides = (tensor.strides[0], tensor.strides[1]);
    let (n_stride, k_stride) = if layout == PANELS { strides } else { (strides.1, strides.0) };
    let span = tensor.bytes()? / tensor.dtype.block_bytes();
    let shape = Shape { n, k, n_stride, k_stride, span };
    match tensor.dtype {
        DType::F32 => shape.pack::<f32>(pool, from, to, panel_len::<f32>(k), pack_panel),
        DType::F16 => shape.pack::<f16>(pool, from, to, panel_len::<f16>(k), pack_panel),
        DType::BF16 => shape.pack::<bf16>(pool, from, to, panel_len::<bf16>(k), pack_panel),
        _ => shape.pack::<i8>(pool, from, to, panel_len_i8(k), pack_panel_i8),
    }
    Ok(())
}

/// A weight matrix apart from its memory.
#[derive(Clone, Copy)]
struct Shape {
    n: usize,
    k: usize,
    n_stride: usize,
    k_stride: usize,
    /// Elements from the first to the last.
    span: usize,
}

impl Shape {
    fn pack<W: Copy + Sync>(
        self,
        pool: &Pool,
        from: usize,
        to: usize,
        panel: usize,
        run: fn(&mut [W], &WeightMatrix<'_, W>, usize),
    ) {
        let Shape { n, k, n_stride, k_stride, span } = self;
        if n == 0 {
            return;
        }
        // SAFETY: the source binding was checked to hold the tensor and to be aligned.
        let data = unsafe { std::slice::from_raw_parts(from as *const W, span) };
        let source = WeightMatrix { data, n, k, n_stride, k_stride };
        pool.run(n.div_ceil(qiao_kernels_cpu::NR), &|index, _| {
            // SAFETY: the destination binding was checked to hold all panels and to be aligned; each task writes its
            // own. Its memory is initialised, as all allocations are.
            let out = unsafe { std::slice::from_raw_parts_mut((to as *mut W).add(index * panel), panel) };
            run(out, &source, index);
        });
    }
}

/// The elements of a panel of dtype `W` for `k` inputs.
pub(crate) fn panel<W: Weight>(k: usize) -> usize {
    panel_len::<W>(k)
}
