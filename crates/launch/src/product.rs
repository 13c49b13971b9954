//! A product as its kernels see it: sizes, distances and dtypes, read from a node once.

use qiao_core::{DType, Epilogue, NodeView, Property, Reason, Rule, TensorDesc, TensorId};

use crate::sound::alignment;

/// The dtypes that the kernels read and write, as their text numbers them.
const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Axes in front of a batch's matrices that the kernels can walk.
pub const AXES: usize = 6;

/// The largest size or count that the kernels take.
const MOST: usize = i32::MAX as usize;

/// A matrix operand of one batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Side {
    /// Its dtype.
    pub dtype: DType,
    /// Distance along M of a, c and the residual, along N of b, in elements.
    pub row: usize,
    /// Distance along K of a and b, along the columns of c and the residual.
    pub col: usize,
    /// What the address of its first element is a multiple of, in bytes.
    align: usize,
}

/// An axis in front of M: its size and the distance along it in a, b, c and the residual.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    /// Its size.
    pub size: usize,
    /// The distance along it in a, b, c and the residual, in elements.
    pub steps: [usize; 4],
}

/// `c[m][n] = Σ_k a[m][k]·b[n][k]` for every batch, and what follows.
#[derive(Clone, Debug)]
pub struct Product {
    /// Rows of a.
    pub m: usize,
    /// Columns of the product; with [`Epilogue::SiluMul`] twice those of the result.
    pub n: usize,
    /// What is summed over.
    pub k: usize,
    /// What follows the sums.
    pub epilogue: Epilogue,
    /// The activations.
    pub a: Side,
    /// The weights.
    pub b: Side,
    /// The result.
    pub c: Side,
    /// What is added at last.
    pub residual: Option<Side>,
    /// The bias, a row of its own.
    pub bias: Option<Side>,
    /// The axes in front, outermost first.
    pub axes: Vec<Axis>,
}

/// How a launch divides a product.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Division {
    /// Tiles along M and along the columns.
    pub(crate) tiles: [u32; 2],
    /// Parts of K.
    pub(crate) splits: u32,
    /// The length of a part.
    pub(crate) k_part: u32,
}

/// An operand's dtype and strides if the kernels can read it.
fn side(node: &NodeView<'_>, operand: usize, id: TensorId, dtypes: &[DType]) -> Result<Side, Reason> {
    let desc = node.graph.desc(id);
    if !dtypes.contains(&desc.dtype) {
        return Err(Reason::dtype(operand, desc.dtype, dtypes));
    }
    if desc.layout != 0 {
        let layout = format!("{:#x}", desc.layout);
        return Err(Reason::operand(operand, Property::Layout, Rule::Equal, layout.as_str(), "0"));
    }
    if let Some(axis) = desc.shape.iter().position(|&d| d > MOST) {
        return Err(Reason::operand(operand, Property::Dim(axis), Rule::AtMost, desc.shape[axis], MOST));
    }
    let (row, col) = match &desc.strides[..] {
        [.., row, col] => (*row, *col),
        [col] => (0, *col),
        [] => (0, 0),
    };
    Ok(Side { dtype: desc.dtype, row, col, align: alignment(node.graph, id) })
}

impl Product {
    /// Reads a `matmul`.
    ///
    /// # Errors
    /// Why its kernels can't take it.
    pub fn of(node: &NodeView<'_>, trans_b: bool, epilogue: Epilogue) -> Result<Product, Reason> {
        Product::read(node, trans_b, epilogue, [2, 3], &DTYPES)
    }

    /// Reads a `matmul_quant`, whose weights may have any dtype.
    ///
    /// # Errors
    /// Why kernels can't take it.
    pub fn quantised(node: &NodeView<'_>, epilogue: Epilogue) -> Result<Product, Reason> {
        Product::read(node, true, epilogue, [5, 6], &[node.required(1).dtype])
    }

    /// Reads a product whose bias and residual are these operands, and whose weights have one of these dtypes.
    fn read(
        node: &NodeView<'_>,
        trans_b: bool,
        epilogue: Epilogue,
        [bias, residual]: [usize; 2],
        weights: &[DType],
    ) -> Result<Product, Reason> {
        let given = |i: usize| node.node.inputs.get(i).copied().flatten();
        let required = |i: usize| given(i).expect("the graph checked that required operands are given");
        let out = node.node.outputs[0];
        let (at_bias, at_residual) = (given(bias), given(residual));
        let a = side(node, 0, required(0), &DTYPES)?;
        let mut b = side(node, 1, required(1), weights)?;
        let bias = at_bias.map(|id| side(node, bias, id, &DTYPES)).transpose()?;
        let residual = at_residual.map(|id| side(node, residual, id, &DTYPES)).transpose()?;
        let c = side(node, node.node.inputs.len(), out, &DTYPES)?;
        let [rows, columns] = last_two(node.required(1));
        let (n, k) = if trans_b { (rows, columns) } else { (columns, rows) };
        if !trans_b {
            (b.row, b.col) = (b.col, b.row);
        }
        let front = node.required(0).rank() - 2;
        let strides = |id: Option<TensorId>| id.map(|id| node.graph.desc(id).strides);
        let all =
            [strides(given(0)), strides(given(1)).filter(|s| s.len() > 2), strides(Some(out)), strides(at_residual)];
        let m = last_two(node.required(0))[0];
        let mut p = Product { m, n, k, epilogue, a, b, c, residual, bias, axes: Vec::new() };
        for axis in (0..front).rev() {
            let steps = all.map(|s| s.map_or(0, |s| s[axis]));
            p.push(Axis { size: node.required(0).shape[axis], steps });
        }
        p.axes.reverse();
        p.check_counts()?;
        Ok(p)
    }

    /// Takes the axis in front of those taken so far: into M, into the axis behind it, or as one of its own.
    fn push(&mut self, axis: Axis) {
        let [a, b, c, r] = axis.steps;
        let follows = |step: usize, size: usize, inner: usize| size.checked_mul(inner) == Some(step);
        if axis.size == 1 {
            return;
        }
        if self.axes.is_empty() && b == 0 {
            let residual = self.residual.map_or((0, 0), |side| (r, side.row));
            let rows = [(a, self.a.row), (c, self.c.row), residual];
            let one = self.m == 1;
            if one || rows.iter().all(|&(step, row)| follows(step, self.m, row)) {
                if one {
                    (self.a.row, self.c.row) = (a, c);
                    self.residual = self.residual.map(|side| Side { row: r, ..side });
                }
                self.m = self.m.saturating_mul(axis.size);
                return;
            }
        }
        if let Some(inner) = self.axes.last_mut()
            && axis.steps.iter().zip(inner.steps).all(|(&step, behind)| follows(step, inner.size, behind))
        {
            inner.size = inner.size.saturating_mul(axis.size);
            return;
        }
        self.axes.push(axis);
    }

    /// Whether every count fits the kernels' numbers.
    fn check_counts(&self) -> Result<(), Reason> {
        let batches = self.batches();
        let tiles = self.m.div_ceil(8).saturating_mul(self.n.div_ceil(8));
        for count in [self.m, batches, tiles] {
            if count > MOST {
                return Err(Reason::operand(0, Property::Dim(0), Rule::AtMost, count, MOST));
            }
        }
        if self.axes.len() > AXES {
            return Err(Reason::operand(0, Property::Rank, Rule::AtMost, self.axes.len() + 2, AXES + 2));
        }
        Ok(())
    }

    /// How many products there are.
    pub fn batches(&self) -> usize {
        self.axes.iter().fold(1, |n, axis| n.saturating_mul(axis.size))
    }

    /// Columns of the result.
    pub fn columns(&self) -> usize {
        if self.pairs() { self.n / 2 } else { self.n }
    }

    /// Whether columns of the product meet in pairs.
    pub fn pairs(&self) -> bool {
        self.epilogue == Epilogue::SiluMul
    }

    /// Whether the result has no element.
    pub fn is_empty(&self) -> bool {
        self.m == 0 || self.columns() == 0 || self.batches() == 0
    }

    /// Whether a's rows lie along K and may be read 16 bytes at a time.
    pub(crate) fn a_lies_along_k(&self) -> bool {
        self.a.col == 1 && self.in_pieces(&self.a, self.k, &[self.a.row], 0)
    }

    /// Whether b may be read 16 bytes of K at a time.
    pub(crate) fn b_lies_along_k(&self) -> bool {
        self.b.col == 1 && self.in_pieces(&self.b, self.k, &[self.b.row], 1)
    }

    /// Whether b may be read 16 bytes of N at a time; with pairs both halves of it.
    pub(crate) fn b_lies_along_n(&self) -> bool {
        self.b.row == 1 && self.in_pieces(&self.b, self.columns(), &[self.b.col], 1)
    }

    /// Whether runs of `len` elements that start at multiples of these distances are whole and aligned pieces of 16 bytes.
    fn in_pieces(&self, side: &Side, len: usize, distances: &[usize], operand: usize) -> bool {
        let elements = 16 / side.dtype.block_bytes();
        let batches = self.axes.iter().map(|axis| axis.steps[operand]);
        side.align >= 16
            && len > 0
            && distances.iter().copied().chain(batches).chain([len]).all(|d| d.is_multiple_of(elements))
    }

    /// Whether results, residual and bias may be moved 8 elements at a time.
    fn is_wide(&self) -> bool {
        let whole = |side: &Side, operand: usize| {
            let batches = self.axes.iter().map(|axis| axis.steps[operand]);
            side.col == 1 && side.align >= 16 && batches.chain([side.row]).all(|d| d.is_multiple_of(8))
        };
        let bias = self
            .bias
            .is_none_or(|b| b.col == 1 && b.align >= 16 && (!self.pairs() || self.columns().is_multiple_of(8)));
        whole(&self.c, 2) && self.residual.is_none_or(|r| whole(&r, 3)) && bias
    }

    /// From row to row of a, b, the residual and the result, where a library that takes rows in order can run the product:
    /// one batch, rows that do not overlap, 8 columns at a time.
    pub(crate) fn library_rows(&self) -> Option<[usize; 4]> {
        let b = if self.b_lies_along_k() { (self.b.row, self.k) } else { (self.b.col, self.n) };
        let residual = self.residual.map_or(self.c.row, |r| r.row);
        let columns = self.columns();
        let rows = [(self.a.row, self.k), b, (residual, columns), (self.c.row, columns)];
        let apart = rows.iter().all(|&(row, len)| row >= len && row <= MOST);
        let fits = self.axes.is_empty() && apart && self.is_wide() && columns.is_multiple_of(8);
        fits.then_some(rows.map(|(row, _)| row))
    }

    /// What the addresses of a, b, the residual and the result are all multiples of, in bytes.
    pub(crate) fn align(&self) -> usize {
        let residual = self.residual.map_or(self.c.align, |r| r.align);
        [self.a.align, self.b.align, self.c.align, residual].into_iter().min().unwrap_or(1)
    }

    /// Whether nothing follows the sums but a residual of the result's dtype and the one rounding.
    pub(crate) fn is_plain_after_all(&self) -> bool {
        let plain = matches!(self.epilogue, Epilogue::None | Epilogue::BiasResidual) && self.bias.is_none();
        plain && self.residual.is_none_or(|r| r.dtype == self.c.dtype)
    }

    /// What products of one a may differ in, by itself, for kernels that take several.
    pub(crate) fn own_bytes(&self, by: Division) -> Vec<u8> {
        let longs = [self.c.row, self.c.col, self.bias.map_or(0, |b| b.col)].map(|v| (v as u64).to_ne_bytes());
        let words = [self.n as u32, self.bias.map_or(0, |b| code(b.dtype)), code(self.c.dtype), by.splits];
        longs.into_iter().flatten().chain(words.into_iter().flat_map(u32::to_ne_bytes)).collect()
    }

    /// The struct of a product without what is its own.
    pub(crate) fn shared_bytes(&self) -> Vec<u8> {
        let c = Side { dtype: DType::F32, row: 0, col: 0, align: 16 };
        // A bias is added wherever one is given.
        let epilogue = match self.epilogue {
            Epilogue::Bias | Epilogue::BiasResidual => Epilogue::None,
            other => other,
        };
        Product { n: 0, bias: None, c, epilogue, ..self.clone() }.bytes(Division::default())
    }

    /// The struct that the kernels take by value, as their text lays it out.
    pub(crate) fn bytes(&self, by: Division) -> Vec<u8> {
        let none = Side { dtype: DType::F32, row: 0, col: 0, align: 16 };
        let (residual, bias) = (self.residual.unwrap_or(none), self.bias.unwrap_or(none));
        let sides = [self.a, self.b, self.c, residual];
        let mut longs: Vec<usize> = sides.iter().flat_map(|s| [s.row, s.col]).collect();
        longs.push(bias.col);
        let axis = |i: usize| self.axes.get(i).copied().unwrap_or(Axis { size: 1, steps: [0; 4] });
        longs.extend((0..4).flat_map(|operand| (0..AXES).map(move |i| (operand, i))).map(|(o, i)| axis(i).steps[o]));
        let mut words: Vec<usize> = (0..AXES).map(|i| axis(i).size).collect();
        words.extend([self.axes.len(), self.batches(), self.m, self.n, self.k]);
        words.push(self.epilogue as usize);
        words.extend(sides.map(|s| code(s.dtype) as usize));
        words.extend([code(bias.dtype) as usize, usize::from(self.is_wide())]);
        let division = [by.tiles[0], by.tiles[1], by.splits, by.k_part];
        let longs = longs.iter().flat_map(|&v| (v as u64).to_le_bytes());
        let words = words.iter().map(|&v| v as u32).chain(division).flat_map(u32::to_le_bytes);
        longs.chain(words).collect()
    }
}

/// A dtype as the kernels number it.
fn code(dtype: DType) -> u32 {
    DTYPES.iter().position(|&d| d == dtype).expect("dtypes were checked") as u32
}

/// The two last sizes of a tensor of rank 2 or more.
fn last_two(desc: &TensorDesc) -> [usize; 2] {
    let rank = desc.rank();
    [desc.shape[rank - 2], desc.shape[rank - 1]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use qiao_core::{Graph, MatmulAttrs, Op};

    /// A product of a in these strides with b.
    fn product(a: (&[usize], &[usize]), b: &[usize]) -> Product {
        let mut g = Graph::new();
        let a = g.bind("a", TensorDesc::strided(DType::F16, a.0, a.1).unwrap());
        let b = g.bind("b", TensorDesc::new(DType::F16, b).unwrap());
        g.op1(Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() }), &[a, b]).unwrap();
        Product::of(&g.node(0), true, Epilogue::None).unwrap()
    }

    #[test]
    fn axes_in_front_of_shared_weights_are_rows() {
        let p = product((&[2, 3, 5, 8], &[120, 40, 8, 1]), &[16, 8]);
        assert_eq!((p.m, p.batches(), p.a.row, p.c.row), (30, 1, 8, 16));
        let p = product((&[6, 1, 8], &[24, 8, 1]), &[16, 8]);
        assert_eq!((p.m, p.batches(), p.a.row, p.c.row), (6, 1, 24, 16));
    }

    #[test]
    fn rows_that_are_not_even_are_batches() {
        let p = product((&[2, 3, 8], &[40, 8, 1]), &[16, 8]);
        assert_eq!((p.m, p.batches(), p.axes.len()), (3, 2, 1));
        assert_eq!(p.axes[0].steps, [40, 0, 48, 0]);
    }

    #[test]
    fn batches_that_continue_each_other_are_one_axis() {
        let p = product((&[2, 3, 5, 8], &[120, 40, 8, 1]), &[2, 3, 16, 8]);
        assert_eq!((p.m, p.batches(), p.axes.len()), (5, 6, 1));
        assert_eq!(p.axes[0].steps, [40, 128, 80, 0]);
    }

    #[test]
    fn a_struct_of_a_product_has_the_size_that_kernels_read() {
        let p = product((&[3, 8], &[8, 1]), &[16, 8]);
        assert_eq!(p.bytes(Division::default()).len(), 33 * 8 + 22 * 4);
    }
}
