//! Rows of a table.

use qiao_core::{DType, NodeView, Result};
use qiao_reference::value::{Output, Value};

use super::truths::truth;
use crate::limits::Numerics;

/// `out[i] = table[ids[i]]`, reading those rows alone where rows are moved as they are.
///
/// # Errors
/// Operands that are too short.
pub(super) fn gather_rows(numerics: Numerics, node: NodeView<'_>, bytes: &[Option<&[u8]>]) -> Result<Vec<Output>> {
    let (table, ids) = (node.required(0), node.required(1));
    let moved = table.dtype == node.output(0).dtype && table.is_contiguous() && table.dtype.is_activation();
    let (Some(rows), Some(id_bytes), true) = (bytes[0], bytes[1], moved) else {
        return truth(numerics, node, bytes);
    };
    let line = table.shape[1] * table.dtype.block_bytes();
    let nan: &[u8] = match table.dtype {
        DType::F32 => &[0, 0, 0xc0, 0x7f],
        DType::F16 => &[0, 0x7e],
        _ => &[0xc0, 0x7f],
    };
    let mut out = Vec::with_capacity(ids.elements() * line);
    for id in Value::load(ids, id_bytes)?.data {
        if (0.0..table.shape[0] as f64).contains(&id) {
            out.extend_from_slice(&rows[id as usize * line..][..line]);
        } else {
            out.extend(nan.iter().cycle().take(line));
        }
    }
    Ok(vec![Output::Exact(out)])
}
