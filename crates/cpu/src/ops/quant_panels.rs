//! Quantised weights and their scales in the layouts that the kernels read.

use qiao_core::{DType, Error, Result, TensorDesc};
use qiao_kernels_cpu::{NR, QuantFormat, pack_quant_panel};
use qiao_quant::nibble;

use crate::threads::Pool;

/// Panels of 16 output features of a quantised weight `[N, K]`: codes, then the scales that the format carries.
pub(crate) const QUANT_PANELS: u64 = 0x5061_6e65_6c51_3600;

/// Scales or zeros `[N, G]` for [`QUANT_PANELS`]: for each panel `[G][16]`, codes of 4 bits widened to bytes.
pub(crate) const QUANT_GROUPS: u64 = QUANT_PANELS + 1;

/// The kernels' name of a dtype; `None` where they have none.
pub(crate) fn format(dtype: DType) -> Option<QuantFormat> {
    Some(match dtype {
        DType::Q4_0 => QuantFormat::Q4_0,
        DType::Q4_1 => QuantFormat::Q4_1,
        DType::Q5_0 => QuantFormat::Q5_0,
        DType::Q5_1 => QuantFormat::Q5_1,
        DType::Q8_0 => QuantFormat::Q8_0,
        DType::Q2K => QuantFormat::Q2K,
        DType::Q3K => QuantFormat::Q3K,
        DType::Q4K => QuantFormat::Q4K,
        DType::Q5K => QuantFormat::Q5K,
        DType::Q6K => QuantFormat::Q6K,
        DType::Iq4Nl => QuantFormat::Iq4Nl,
        DType::Iq4Xs => QuantFormat::Iq4Xs,
        DType::Mxfp4 => QuantFormat::Mxfp4,
        DType::I4 => QuantFormat::I4,
        DType::U4 => QuantFormat::U4,
        DType::F4E2M1 => QuantFormat::F4E2M1,
        DType::I8 => QuantFormat::I8,
        DType::U8 => QuantFormat::U8,
        DType::F8E4M3 => QuantFormat::F8E4M3,
        DType::F8E5M2 => QuantFormat::F8E5M2,
        _ => return None,
    })
}

/// Bytes of a scale or zero in [`QUANT_GROUPS`]; `None` for a dtype that has no such layout.
pub(crate) fn group_bytes(dtype: DType) -> Option<usize> {
    match dtype {
        DType::F32 => Some(4),
        DType::F16 | DType::BF16 => Some(2),
        DType::I8 | DType::U8 | DType::I4 | DType::U4 => Some(1),
        _ => None,
    }
}

/// Whether a weight can be packed as far as its own description tells.
pub(crate) fn has_panels(tensor: &TensorDesc) -> bool {
    tensor.rank() == 2 && format(tensor.dtype).is_some() && tensor.rows_are_contiguous()
}

/// Bytes of a tensor in one of the layouts of this module; `None` for another layout, or a tensor it does not fit.
pub(crate) fn packed_bytes(tensor: &TensorDesc, layout: u64) -> Option<usize> {
    let &[n, k] = &tensor.shape[..] else { return None };
    let panel = match layout {
        QUANT_PANELS if has_panels(tensor) => format(tensor.dtype)?.panel_len(k),
        QUANT_GROUPS => group_bytes(tensor.dtype)?.checked_mul(k)?.checked_mul(NR)?,
        _ => return None,
    };
    n.div_ceil(NR).checked_mul(panel)
}

/// Packs a tensor, its panels spread over the pool. `from` and `to` are the addresses of its first element and of
/// [`packed_bytes`] bytes.
///
/// # Errors
/// A layout that is not of this module, or a tensor it does not fit.
///
/// # Safety
/// The source holds the tensor, the destination all panels, both initialised, and nobody else uses the destination.
pub(crate) unsafe fn pack(pool: &Pool, tensor: &TensorDesc, from: usize, layout: u64, to: usize) -> Result<()> {
    let bytes = packed_bytes(tensor, layout).ok_or_else(|| {
        let mend = "ask only for the layout that the device named in its support answer";
        Error::invalid(format!("private layout {layout:#x}"), tensor.to_string(), mend)
    })?;
    let (n, k) = (tensor.shape[0], tensor.shape[1]);
    if bytes == 0 {
        return Ok(());
    }
    let panel = bytes / n.div_ceil(NR);
    pool.run(n.div_ceil(NR), &|index, _| {
        let rows = index * NR..n.min((index + 1) * NR);
        // SAFETY: as the caller vouches; each task writes its own panel, and rows lie in the tensor.
        unsafe {
            let dst = std::slice::from_raw_parts_mut((to as *mut u8).add(index * panel), panel);
            if layout == QUANT_GROUPS {
                return pack_groups(dst, tensor, from as *const u8, rows);
            }
            let format = format(tensor.dtype).expect("only formats with panels have bytes in them");
            let (elems, block) = format.block();
            let mut list = [&[][..]; NR];
            let count = rows.len();
            for (slot, r) in list.iter_mut().zip(rows) {
                let at = r * tensor.strides[0] / elems * block;
                *slot = std::slice::from_raw_parts((from as *const u8).add(at), format.row_bytes(k));
            }
            pack_quant_panel(dst, format, k, &list[..count]);
        }
    });
    Ok(())
}

/// Packs the scales or zeros of one panel.
///
/// # Safety
/// `from` is the address of the tensor's first element, which is live.
unsafe fn pack_groups(dst: &mut [u8], tensor: &TensorDesc, from: *const u8, rows: std::ops::Range<usize>) {
    let (n_stride, g_stride) = (tensor.strides[0], tensor.strides[1]);
    let size = dst.len() / tensor.shape[1] / NR;
    dst.fill(0);
    for (lane, r) in rows.enumerate() {
        for (g, out) in dst.chunks_exact_mut(NR * size).enumerate() {
            let at = r * n_stride + g * g_stride;
            let out = &mut out[lane * size..][..size];
            // SAFETY: the element lies in the tensor.
            unsafe {
                match tensor.dtype {
                    DType::I4 => out[0] = nibble::i4(&[*from.add(at / 2)], at % 2) as u8,
                    DType::U4 => out[0] = nibble::u4(&[*from.add(at / 2)], at % 2),
                    _ => out.copy_from_slice(std::slice::from_raw_parts(from.add(at * size), size)),
                }
            }
        }
    }
}
