//! How kernels reach the rows of a tensor: any strides, f32 in registers whatever the dtype in memory.

use half::{bf16, f16};
use qiao_core::{DType, Dims, NodeView, TensorDesc, TensorId};
use qiao_kernels_cpu::{Element, Kernels, RowMut, stream_copy};
use qiao_quant::minifloat::{F8E4M3, F8E5M2, Format};

/// A tensor as a kernel sees it: rows along the innermost axis.
#[derive(Clone, Debug)]
pub(crate) struct Operand {
    /// The tensor's position in the graph.
    pub(crate) tensor: usize,
    /// Its dtype.
    pub(crate) dtype: DType,
    /// Its shape.
    pub(crate) shape: Dims,
    /// Elements a row.
    pub(crate) len: usize,
    /// Distance between neighbours in a row, in elements.
    step: usize,
    /// The outer axes, outermost first, as (size, stride); axes that continue each other are one.
    outer: Vec<(usize, usize)>,
    /// Whether what is written goes past the caches.
    streamed: bool,
}

/// Bytes of a result from which on it is not looked for in the caches.
const STREAMED: usize = 32 << 20;

/// Bytes of a row below which it is not worth to write past the caches.
const STREAMED_ROW: usize = 256;

/// Elements of a row that element-by-element operators are cut into: conversions of them stay in the first-level cache.
const PIECE: usize = 1024;

/// Elements of a row from which on it is cut wherever the operands lie.
const LONG: usize = 16 * PIECE;

impl Operand {
    /// The operand or result with this id.
    pub(crate) fn new(node: &NodeView<'_>, id: TensorId) -> Self {
        let desc = node.graph.desc(id);
        Operand::from_parts(id.index(), desc, &desc.shape, &desc.strides)
    }

    /// An input that is given.
    pub(crate) fn input(node: &NodeView<'_>, index: usize) -> Option<Self> {
        node.node.inputs.get(index).copied().flatten().map(|id| Operand::new(node, id))
    }

    /// An input that the op list does not mark as optional.
    pub(crate) fn required(node: &NodeView<'_>, index: usize) -> Self {
        Operand::input(node, index).expect("the graph checked that required operands are given")
    }

    /// A result.
    pub(crate) fn output(node: &NodeView<'_>, index: usize) -> Self {
        Operand::new(node, node.node.outputs[index])
    }

    /// A result that is written whole rows at a time, past the caches where it is large. Its tasks run by
    /// [`Exec::rows_together`](super::exec::Exec::rows_together), which orders such writes.
    pub(crate) fn whole_rows(node: &NodeView<'_>, index: usize) -> Self {
        let mut out = Operand::output(node, index);
        let size = out.dtype.block_bytes();
        let large = node.output(index).elements().saturating_mul(size) >= STREAMED;
        out.streamed = large && out.is_dense() && out.len.saturating_mul(size) >= STREAMED_ROW;
        out
    }

    /// Operands of one shape, cut into shorter rows where all of them lie without gaps, or where rows are long.
    pub(crate) fn in_pieces<const N: usize>(mut operands: [Self; N]) -> [Self; N] {
        let (rows, len) = (operands[0].rows(), operands[0].len);
        let Some(all) = rows.checked_mul(len).filter(|&all| all > 0) else { return operands };
        let whole = |o: &Operand| o.is_dense() && o.is_even() && (o.rows() <= 1 || o.pitch() == o.len);
        let pieces = |elements: usize| {
            let fewest = elements.div_ceil(PIECE);
            (fewest..fewest.saturating_mul(4)).take(64).find(|&count| elements.is_multiple_of(count))
        };
        if let (true, Some(count)) = (operands.iter().all(whole), pieces(all)) {
            for o in &mut operands {
                // A row of one element may have any step.
                (o.len, o.step) = (all / count, 1);
                o.outer = vec![(count, o.len)];
                o.shape = Dims::new(&[count, o.len]).expect("two axes");
            }
        } else if let (true, Some(count)) = (len >= LONG, pieces(len)) {
            operands.iter_mut().for_each(|o| o.cut(count));
        }
        operands
    }

    /// Cuts every row into so many, which divides its length.
    fn cut(&mut self, count: usize) {
        let rows = self.rows() * count;
        self.len /= count;
        push_axis(&mut self.outer, count, self.len * self.step);
        self.shape = Dims::new(&[rows, self.len]).expect("two axes");
    }

    /// An input, repeated along axes to fill `shape`, which it broadcasts to.
    pub(crate) fn broadcast(node: &NodeView<'_>, index: usize, shape: &Dims) -> Option<Self> {
        let id = node.node.inputs.get(index).copied().flatten()?;
        let desc = node.graph.desc(id);
        let pad = shape.len() - desc.rank();
        let strides: Vec<usize> = (0..shape.len())
            .map(|i| if i < pad || desc.shape[i - pad] == 1 { 0 } else { desc.strides[i - pad] })
            .collect();
        Some(Operand::from_parts(id.index(), desc, shape, &strides))
    }

    /// The tensor with its axes in another order.
    pub(crate) fn permuted(node: &NodeView<'_>, id: TensorId, axes: &[usize]) -> Self {
        let desc = node.graph.desc(id);
        let shape: Vec<usize> = axes.iter().map(|&a| desc.shape[a]).collect();
        let strides: Vec<usize> = axes.iter().map(|&a| desc.strides[a]).collect();
        Operand::from_parts(id.index(), desc, &Dims::new(&shape).expect("as many axes as before"), &strides)
    }

    /// The same tensor with fewer indices along its axes, starting at its first element.
    pub(crate) fn with_shape(self, shape: &[usize], desc: &TensorDesc) -> Self {
        Operand::from_parts(self.tensor, desc, &Dims::new(shape).expect("as many axes as before"), &desc.strides)
    }

    fn from_parts(tensor: usize, desc: &TensorDesc, shape: &Dims, strides: &[usize]) -> Self {
        let inner = shape.len().saturating_sub(1);
        // The strides of an empty tensor promise no memory, so every row of it starts at its first byte.
        let empty = shape.contains(&0);
        let mut outer: Vec<(usize, usize)> = Vec::new();
        for axis in 0..if empty { 0 } else { inner } {
            push_axis(&mut outer, shape[axis], strides[axis]);
        }
        let step = if empty { 1 } else { strides.last().copied().unwrap_or(1) };
        Operand { tensor, dtype: desc.dtype, shape: *shape, len: shape.last_dim(), step, outer, streamed: false }
    }

    /// The dtype whose elements all of these have side by side in their rows, where it is one.
    pub(crate) fn common<const N: usize>(operands: [&Self; N]) -> Option<DType> {
        let dtype = operands[0].dtype;
        operands.iter().all(|o| o.dtype == dtype && o.is_dense()).then_some(dtype)
    }

    /// How many rows there are.
    pub(crate) fn rows(&self) -> usize {
        self.shape.rows()
    }

    /// Whether the elements of a row lie side by side.
    pub(crate) fn is_dense(&self) -> bool {
        self.step == 1 || self.len <= 1
    }

    /// Whether all rows are [`Operand::pitch`] apart.
    pub(crate) fn is_even(&self) -> bool {
        self.outer.len() <= 1
    }

    /// Whether a row is one element repeated.
    pub(crate) fn repeats(&self) -> bool {
        self.step == 0 && self.len > 1
    }

    /// The distance between neighbours in a row, in elements.
    pub(crate) fn step(&self) -> usize {
        self.step
    }

    /// The distance between the first two rows, in elements.
    pub(crate) fn pitch(&self) -> usize {
        if self.rows() > 1 { self.offset(1) } else { self.len }
    }

    /// The first element of row `r`, in elements from the first of the tensor.
    pub(crate) fn offset(&self, r: usize) -> usize {
        match self.outer[..] {
            [] => 0,
            [(_, stride)] => r * stride,
            ref outer => {
                let (mut rest, mut at) = (r, 0);
                for &(size, stride) in outer.iter().rev() {
                    at += rest % size * stride;
                    rest /= size;
                }
                at
            }
        }
    }

    /// Floats of scratch that [`Operand::read`] needs.
    pub(crate) fn room_to_read(&self) -> usize {
        if self.is_read_in_place() { 0 } else { self.len }
    }

    /// Whether rows can be read as f32 where they lie.
    fn is_read_in_place(&self) -> bool {
        self.dtype == DType::F32 && self.is_dense()
    }

    /// Floats of scratch that [`Operand::fill`] needs.
    pub(crate) fn room_to_fill(&self) -> usize {
        if self.is_written_in_place() { 0 } else { self.len }
    }

    /// Whether rows can be written as f32 where they lie.
    fn is_written_in_place(&self) -> bool {
        self.is_read_in_place() && !self.streamed
    }

    /// Row `r` as f32: the memory itself for dense f32, else converted into `buf`, which holds a row.
    ///
    /// # Safety
    /// `base` is the address of this operand's tensor, its memory is live and initialised, nothing writes to the row
    /// while the slice lives, and `r` is below [`Operand::rows`]. The dtype is f32, f16 or bf16.
    pub(crate) unsafe fn read<'a>(&self, k: &Kernels, base: *const u8, r: usize, buf: &'a mut [f32]) -> &'a [f32] {
        let at = self.offset(r);
        if self.is_read_in_place() {
            // SAFETY: the caller vouches for the row; elements of activations are aligned to their size.
            return unsafe { std::slice::from_raw_parts(base.cast::<f32>().add(at), self.len) };
        }
        let buf = &mut buf[..self.len];
        if self.is_dense() {
            // SAFETY: as above.
            unsafe {
                match self.dtype {
                    DType::F16 => {
                        (k.f16_to_f32.run)(buf, std::slice::from_raw_parts(base.cast::<f16>().add(at), self.len));
                    }
                    _ => (k.bf16_to_f32.run)(buf, std::slice::from_raw_parts(base.cast::<bf16>().add(at), self.len)),
                }
            }
        } else if self.repeats() {
            // SAFETY: as the caller vouches.
            let value = unsafe { load(self.dtype, base, at) };
            buf.fill(value);
        } else {
            for (i, out) in buf.iter_mut().enumerate() {
                // SAFETY: as the caller vouches.
                *out = unsafe { load(self.dtype, base, at + i * self.step) };
            }
        }
        buf
    }

    /// Row `r` as it lies, of a dtype whose elements are `T`.
    ///
    /// # Safety
    /// As [`Operand::read`]; the operand has the dtype and is dense.
    pub(crate) unsafe fn row<'a, T>(&self, base: *const u8, r: usize) -> &'a [T] {
        // SAFETY: as the caller vouches.
        unsafe { self.rows_from(base, r, 1) }
    }

    /// Row `r` and those after it, `count` in all, as they lie.
    ///
    /// # Safety
    /// As [`Operand::row`], for each of the rows, which lie side by side.
    pub(crate) unsafe fn rows_from<'a, T>(&self, base: *const u8, r: usize, count: usize) -> &'a [T] {
        // SAFETY: the caller vouches for the rows; elements of activations are aligned to their size.
        unsafe { std::slice::from_raw_parts(base.cast::<T>().add(self.offset(r)), count * self.len) }
    }

    /// Row `r` for writing as it lies, of a dtype whose elements are `T`. What lies at `ahead` is fetched while a row of a large
    /// result is computed.
    ///
    /// # Safety
    /// As [`Operand::row`], and nothing else reads or writes the row while the slice lives.
    pub(crate) unsafe fn row_to<'a, T>(&self, base: *mut u8, r: usize, ahead: *const u8) -> RowMut<'a, T> {
        // SAFETY: as the caller vouches.
        unsafe { self.rows_to(base, r, 1, ahead) }
    }

    /// Row `r` and those after it, `count` in all, for writing as they lie.
    ///
    /// # Safety
    /// As [`Operand::row_to`], for each of the rows, which lie side by side.
    pub(crate) unsafe fn rows_to<'a, T>(
        &self,
        base: *mut u8,
        r: usize,
        count: usize,
        ahead: *const u8,
    ) -> RowMut<'a, T> {
        // SAFETY: as there.
        let row = unsafe { std::slice::from_raw_parts_mut(base.cast::<T>().add(self.offset(r)), count * self.len) };
        RowMut { row, past: self.streamed, ahead: Some(ahead) }
    }

    /// Elements `first..first + buf.len()` of row `r`, converted into `buf`.
    ///
    /// # Safety
    /// As [`Operand::read`]; the elements lie in the row.
    pub(crate) unsafe fn read_part(&self, k: &Kernels, base: *const u8, r: usize, first: usize, buf: &mut [f32]) {
        debug_assert!(first + buf.len() <= self.len);
        let at = self.offset(r) + first * self.step;
        if !self.is_dense() {
            for (i, out) in buf.iter_mut().enumerate() {
                // SAFETY: the caller vouches for the row.
                *out = unsafe { load(self.dtype, base, at + i * self.step) };
            }
            return;
        }
        // SAFETY: the caller vouches for the row.
        unsafe {
            match self.dtype {
                DType::F32 => buf.copy_from_slice(std::slice::from_raw_parts(base.cast::<f32>().add(at), buf.len())),
                DType::F16 => {
                    let row = std::slice::from_raw_parts(base.cast::<f16>().add(at), buf.len());
                    (k.f16_to_f32.run)(buf, row);
                }
                _ => {
                    let row = std::slice::from_raw_parts(base.cast::<bf16>().add(at), buf.len());
                    (k.bf16_to_f32.run)(buf, row);
                }
            }
        }
    }

    /// Row `r` for writing, where it can be written as f32 in place.
    ///
    /// # Safety
    /// As [`Operand::read`], and nothing else reads or writes the row while the slice lives.
    pub(crate) unsafe fn row_mut<'a>(&self, base: *mut u8, r: usize) -> Option<&'a mut [f32]> {
        if !self.is_written_in_place() {
            return None;
        }
        // SAFETY: the caller vouches for the row.
        Some(unsafe { std::slice::from_raw_parts_mut(base.cast::<f32>().add(self.offset(r)), self.len) })
    }

    /// Writes one value to every element of rows `r` and those after it, `count` in all.
    ///
    /// # Safety
    /// As [`Operand::row_mut`], for each of the rows.
    pub(crate) unsafe fn repeat(&self, base: *mut u8, r: usize, count: usize, value: f32) {
        for at in (r..r + count).map(|r| self.offset(r)) {
            // SAFETY: the caller vouches for the row.
            unsafe {
                match self.dtype {
                    _ if !self.is_dense() => {
                        (0..self.len).for_each(|i| store(self.dtype, base, at + i * self.step, value));
                    }
                    DType::F32 => std::slice::from_raw_parts_mut(base.cast::<f32>().add(at), self.len).fill(value),
                    DType::F16 => {
                        std::slice::from_raw_parts_mut(base.cast::<f16>().add(at), self.len).fill(f16::from_f32(value));
                    }
                    _ => {
                        let row = std::slice::from_raw_parts_mut(base.cast::<bf16>().add(at), self.len);
                        row.fill(bf16::from_f32(value));
                    }
                }
            }
        }
    }

    /// Writes `values` to row `r` from element `first` on, rounding to the dtype.
    ///
    /// # Safety
    /// As [`Operand::row_mut`]; `first + values.len()` is at most the row.
    pub(crate) unsafe fn write(&self, k: &Kernels, base: *mut u8, r: usize, first: usize, values: &[f32]) {
        debug_assert!(first + values.len() <= self.len);
        let at = self.offset(r) + first * self.step;
        if self.streamed {
            // SAFETY: as the caller vouches; results that are streamed are dense.
            return unsafe { self.stream(k, base, at, values, &[]) };
        }
        if self.is_dense() {
            // SAFETY: the caller vouches for the row.
            unsafe {
                match self.dtype {
                    DType::F32 => base.cast::<f32>().add(at).copy_from_nonoverlapping(values.as_ptr(), values.len()),
                    DType::F16 => {
                        let out = std::slice::from_raw_parts_mut(base.cast::<f16>().add(at), values.len());
                        (k.f32_to_f16.run)(out, values);
                    }
                    _ => {
                        let out = std::slice::from_raw_parts_mut(base.cast::<bf16>().add(at), values.len());
                        (k.f32_to_bf16.run)(out, values);
                    }
                }
            }
            return;
        }
        for (i, &value) in values.iter().enumerate() {
            // SAFETY: the caller vouches for the row.
            unsafe { store(self.dtype, base, at + i * self.step, value) };
        }
    }

    /// Writes `values` from element `at` on, past the caches, while what lies at `ahead` is fetched.
    ///
    /// # Safety
    /// As [`Operand::write`]; the elements lie side by side.
    unsafe fn stream(&self, k: &Kernels, base: *mut u8, at: usize, values: &[f32], ahead: &[*const u8]) {
        /// Writes values rounded: a part of them for each address, of which as much is fetched meanwhile.
        ///
        /// # Safety
        /// As many elements as there are values lie at `out`, for this call alone.
        unsafe fn rounded<T: Element>(k: &Kernels, out: *mut T, values: &[f32], ahead: &[*const u8]) {
            let part = values.len().div_ceil(ahead.len().max(1)).next_multiple_of(64);
            for (i, values) in values.chunks(part).enumerate() {
                // SAFETY: as the caller vouches.
                let row = unsafe { std::slice::from_raw_parts_mut(out.add(i * part), values.len()) };
                let out = RowMut { row, past: true, ahead: ahead.get(i).copied() };
                (T::rows(k).scaled.run)(out, values, 1.0);
            }
        }
        // SAFETY: as the caller vouches; f32 has no bits that a byte does not.
        unsafe {
            match self.dtype {
                DType::F32 => {
                    let bytes = size_of_val(values);
                    let out = std::slice::from_raw_parts_mut(base.add(at * size_of::<f32>()), bytes);
                    stream_copy(out, std::slice::from_raw_parts(values.as_ptr().cast(), bytes), ahead);
                }
                DType::F16 => rounded(k, base.cast::<f16>().add(at), values, ahead),
                _ => rounded(k, base.cast::<bf16>().add(at), values, ahead),
            }
        }
    }

    /// Where row `r` starts; anywhere where there is no such row, for a hint.
    pub(crate) fn ahead(&self, base: *const u8, r: usize) -> *const u8 {
        base.wrapping_add(self.offset(r).wrapping_mul(self.dtype.block_bytes()))
    }

    /// Whether what is written goes past the caches.
    pub(crate) fn is_streamed(&self) -> bool {
        self.streamed
    }

    /// Computes row `r`: `f` fills a whole row, in place where the dtype allows, else in `buf`. What lies at `ahead` is
    /// fetched while a large result is written.
    ///
    /// # Safety
    /// As [`Operand::row_mut`].
    pub(crate) unsafe fn fill(
        &self,
        k: &Kernels,
        base: *mut u8,
        r: usize,
        buf: &mut [f32],
        ahead: &[*const u8],
        f: impl FnOnce(&mut [f32]),
    ) {
        // SAFETY: as the caller vouches.
        if let Some(row) = unsafe { self.row_mut(base, r) } {
            return f(row);
        }
        let row = &mut buf[..self.len];
        f(row);
        // SAFETY: as the caller vouches; results that are streamed are dense.
        unsafe {
            match self.streamed {
                true => self.stream(k, base, self.offset(r), row, ahead),
                false => self.write(k, base, r, 0, row),
            }
        }
    }

    /// An index (i32 or i64) of a tensor of rank 1 or a row of rank 2, at element `at`.
    ///
    /// # Safety
    /// The element exists and its memory is live.
    pub(crate) unsafe fn index(&self, base: *const u8, at: usize) -> i64 {
        // SAFETY: the caller vouches for the element.
        unsafe {
            match self.dtype {
                DType::I64 => *base.cast::<i64>().add(at),
                _ => i64::from(*base.cast::<i32>().add(at)),
            }
        }
    }
}

/// Adds an axis inside the others, which may continue the last of them.
fn push_axis(outer: &mut Vec<(usize, usize)>, size: usize, stride: usize) {
    match outer.last_mut() {
        _ if size == 1 => {}
        Some(last) if size.checked_mul(stride) == Some(last.1) => *last = (last.0 * size, stride),
        _ => outer.push((size, stride)),
    }
}

/// One element of an activation dtype as f32.
///
/// # Safety
/// Element `at` from `base` exists and its memory is live.
pub(crate) unsafe fn load(dtype: DType, base: *const u8, at: usize) -> f32 {
    // SAFETY: the caller vouches for the element.
    unsafe {
        match dtype {
            DType::F32 => *base.cast::<f32>().add(at),
            DType::F16 => (*base.cast::<f16>().add(at)).to_f32(),
            _ => (*base.cast::<bf16>().add(at)).to_f32(),
        }
    }
}

/// Writes one element of an activation dtype.
///
/// # Safety
/// Element `at` from `base` exists, its memory is live, and nothing else uses it meanwhile.
pub(crate) unsafe fn store(dtype: DType, base: *mut u8, at: usize, value: f32) {
    // SAFETY: the caller vouches for the element.
    unsafe {
        match dtype {
            DType::F32 => *base.cast::<f32>().add(at) = value,
            DType::F16 => *base.cast::<f16>().add(at) = f16::from_f32(value),
            _ => *base.cast::<bf16>().add(at) = bf16::from_f32(value),
        }
    }
}

/// The fp8 formats that are read and written code by code.
pub(crate) const FP8: [DType; 2] = [DType::F8E4M3, DType::F8E5M2];

/// The format of one of [`FP8`].
pub(crate) fn fp8(dtype: DType) -> Format {
    if dtype == DType::F8E5M2 { F8E5M2 } else { F8E4M3 }
}
