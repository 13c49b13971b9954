//! How launches describe operands to kernels that work row by row.

use qiao_core::{Accept, DType, Dims, NodeView, Property, Reason, Rule, TensorDesc};

use crate::launch::{Arg, Chip};

/// The dtypes of activations, in the order of the numbers that kernels know them by.
pub(crate) const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Accepts f32, f16 and bf16 in the operands (inputs first, outputs after them) that `floats` names, and sizes that 31 bits
/// hold.
pub(crate) fn floats(node: &NodeView<'_>, floats: &[usize]) -> Result<Accept, Reason> {
    for (i, desc) in node.operands() {
        if floats.contains(&i) && !desc.dtype.is_activation() {
            return Err(Reason::dtype(i, desc.dtype, &FLOATS));
        }
        fits(i, desc)?;
    }
    Ok(Accept::Native)
}

/// [`floats`] for every operand.
pub(crate) fn all_floats(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let all: Vec<usize> = node.operands().map(|(i, _)| i).collect();
    floats(node, &all)
}

/// No private layout, and rows, columns and dims below 2^31.
fn fits(operand: usize, desc: &TensorDesc) -> Result<(), Reason> {
    const MOST: usize = i32::MAX as usize;
    if desc.layout != 0 {
        let found = format!("{:#x}", desc.layout);
        return Err(Reason::operand(operand, Property::Layout, Rule::Equal, found.as_str(), "strided"));
    }
    for (axis, &dim) in desc.shape.iter().enumerate() {
        if dim > MOST {
            return Err(Reason::operand(operand, Property::Dim(axis), Rule::AtMost, dim, MOST));
        }
    }
    if desc.elements() > 0 && desc.shape.rows() > MOST {
        return Err(Reason::operand(operand, Property::Dim(0), Rule::AtMost, desc.shape.rows(), MOST));
    }
    Ok(())
}

/// Accepts a vector whose elements lie side by side, where it is given.
pub(crate) fn dense_vector(node: &NodeView<'_>, input: usize) -> Result<Accept, Reason> {
    match node.input(input) {
        Some(w) if !w.rows_are_contiguous() => Err(Reason::strides(input, "contiguous")),
        _ => Ok(Accept::Native),
    }
}

/// A tensor as a kernel sees it: rows along the innermost axis.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    pub(crate) dtype: DType,
    /// How many rows.
    pub(crate) count: usize,
    /// Elements a row.
    pub(crate) len: usize,
    /// Elements between neighbours of a row.
    step: usize,
    /// The outer axes, outermost first, as (size, stride); axes that continue each other are one.
    outer: Vec<(usize, usize)>,
}

impl Rows {
    /// A tensor's rows.
    pub(crate) fn of(desc: &TensorDesc) -> Self {
        Rows::new(desc.dtype, &desc.shape, &desc.strides)
    }

    /// Each element a row of one.
    pub(crate) fn of_elements(desc: &TensorDesc) -> Self {
        let shape: Vec<usize> = desc.shape.iter().copied().chain([1]).collect();
        let strides: Vec<usize> = desc.strides.iter().copied().chain([1]).collect();
        Rows::new(desc.dtype, &shape, &strides)
    }

    /// A tensor's rows, all of them one row where they follow each other without gaps.
    pub(crate) fn flat(desc: &TensorDesc) -> Self {
        let elements = desc.elements();
        match desc.is_contiguous() && elements <= i32::MAX as usize {
            true => Rows::new(desc.dtype, &[elements], &[1]),
            false => Rows::of(desc),
        }
    }

    /// The tensor repeated along axes to fill `shape`, which it broadcasts to.
    pub(crate) fn broadcast(desc: &TensorDesc, shape: &Dims) -> Self {
        let pad = shape.len() - desc.rank();
        let strides: Vec<usize> = (0..shape.len())
            .map(|i| if i < pad || desc.shape[i - pad] == 1 { 0 } else { desc.strides[i - pad] })
            .collect();
        Rows::new(desc.dtype, shape, &strides)
    }

    /// The tensor with its axes in another order.
    pub(crate) fn permuted(desc: &TensorDesc, axes: &[usize]) -> Self {
        let shape: Vec<usize> = axes.iter().map(|&a| desc.shape[a]).collect();
        let strides: Vec<usize> = axes.iter().map(|&a| desc.strides[a]).collect();
        Rows::new(desc.dtype, &shape, &strides)
    }

    /// No tensor.
    pub(crate) fn none() -> Self {
        Rows { dtype: DType::F32, count: 0, len: 0, step: 0, outer: Vec::new() }
    }

    fn new(dtype: DType, shape: &[usize], strides: &[usize]) -> Self {
        let inner = shape.len().saturating_sub(1);
        let mut outer: Vec<(usize, usize)> = Vec::new();
        // The strides of an empty tensor promise no memory.
        for axis in 0..if shape.contains(&0) { 0 } else { inner } {
            let (size, stride) = (shape[axis], strides[axis]);
            match outer.last_mut() {
                _ if size == 1 => {}
                Some(last) if size.checked_mul(stride) == Some(last.1) => *last = (last.0 * size, stride),
                _ => outer.push((size, stride)),
            }
        }
        let (len, step) = (shape.last().copied().unwrap_or(1), strides.last().copied().unwrap_or(1));
        let count = shape[..inner].iter().fold(1usize, |n, &d| n.saturating_mul(d));
        Rows { dtype, count, len, step: if len <= 1 { 1 } else { step }, outer }
    }

    /// Whether the elements of a row lie side by side.
    pub(crate) fn is_dense(&self) -> bool {
        self.step == 1
    }
}

/// The name of the accessor that fits all of these: their dtype where it is one and their rows are dense, else `any`.
pub(crate) fn accessor(all: &[&Rows]) -> &'static str {
    let first = all[0].dtype;
    match all.iter().all(|r| r.dtype == first && r.is_dense()) {
        true => first.name(),
        false => "any",
    }
}

/// Threads for each row: a group of lanes where a row is short, else a block; of 128 threads where there are rows enough to
/// fill the card with those, and the kernel has such.
pub(crate) fn team(accessor: &str, rows: usize, cols: usize, chip: &Chip, teams_of_128: bool) -> usize {
    match cols {
        ..=256 => 32,
        ..=1024 if accessor != "any" => 32,
        ..=4096 if accessor != "any" && teams_of_128 && rows > 4 * chip.processors as usize => 128,
        _ => 512,
    }
}

/// Blocks for this many rows.
pub(crate) fn blocks(rows: usize, team: usize) -> u32 {
    (if team == 32 { rows.div_ceil(4) } else { rows }) as u32
}

/// The number by which kernels know a dtype of activations.
pub(crate) fn number(dtype: DType) -> u32 {
    FLOATS.iter().position(|&d| d == dtype).unwrap_or(0) as u32
}

/// A kernel's struct, field by field as it lies in memory.
#[derive(Default)]
pub(crate) struct Fields(Vec<u8>);

impl Fields {
    /// A [`Rows`].
    pub(crate) fn rows(mut self, rows: &Rows) -> Self {
        let mut sizes = [0u32; 8];
        let mut strides = [0u64; 8];
        for (i, &(size, stride)) in rows.outer.iter().enumerate() {
            (sizes[i], strides[i]) = (size as u32, stride as u64);
        }
        self = self.u32(number(rows.dtype)).u32(rows.outer.len() as u32).u64(rows.step as u64);
        self = sizes.into_iter().fold(self, Fields::u32);
        strides.into_iter().fold(self, Fields::u64)
    }

    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    /// A size, which was found to fit.
    pub(crate) fn size(self, value: usize) -> Self {
        self.u32(value as u32)
    }

    pub(crate) fn flag(self, value: bool) -> Self {
        self.u32(value.into())
    }

    pub(crate) fn f32(mut self, value: f32) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    /// The struct, filled up to a multiple of its alignment, 8.
    pub(crate) fn arg(mut self) -> Arg {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        Arg::Struct(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_that_continue_each_other_are_one() {
        let desc = TensorDesc::strided(DType::F16, &[2, 1, 3, 4], &[36, 7, 12, 1]).unwrap();
        let rows = Rows::of(&desc);
        assert_eq!((rows.outer, rows.count, rows.len), (vec![(6, 12)], 6, 4));
    }

    #[test]
    fn a_row_of_one_element_is_dense_whatever_its_stride() {
        let desc = TensorDesc::strided(DType::F16, &[5, 1], &[3, 9]).unwrap();
        assert!(Rows::of(&desc).is_dense());
        assert_eq!(accessor(&[&Rows::of(&desc)]), "f16");
    }

    #[test]
    fn a_struct_of_rows_has_the_size_that_kernels_read() {
        let Arg::Struct(bytes) = Fields::default().rows(&Rows::none()).u32(7).arg() else { panic!("a struct") };
        assert_eq!(bytes.len(), 112 + 8);
    }
}
