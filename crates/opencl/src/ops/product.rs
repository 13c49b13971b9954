//! Products with weights of any format: which kernels run one, and how it is divided among them.
//!
//! A processor takes up to 8 rows as they are, by another kernel where columns of weights lie side by side, and more as f32 that are
//! laid end to end first; other chips take up to 8 rows by teams of work-items, and more in tiles.

use qiao_core::{DType, Epilogue, NodeView, Property, Reason, Rule};
use qiao_kernels_opencl::Size;
use qiao_launch::fields::Fields;
use qiao_launch::product::{AXES, Product};
use qiao_launch::{Arg, Launch, Prepared};

use super::Target;

/// Rows that are few.
pub(crate) const FEW: usize = 8;

/// Inputs of a step, on a multiple of which staged rows end.
const STEP: usize = 32;

/// Groups along y, at most; kernels walk the batches beyond.
pub(crate) const MOST_Y: usize = 65_535;

/// The most groups of a launch that walks.
const MOST_WALKING: usize = 1 << 16;

/// The dtypes of tables, as the kernels' text numbers them.
const TABLES: [DType; 7] = [DType::F32, DType::F16, DType::BF16, DType::U8, DType::I8, DType::U4, DType::I4];

/// The number by which kernels know a table's dtype, if they read it.
pub(crate) fn table_type(dtype: DType) -> Option<usize> {
    TABLES.iter().position(|&d| d == dtype)
}

/// Scales and zeros beside codes: strides along rows and groups, and dtypes; inputs of a group, groups, and rows to a row of
/// scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Groups {
    pub(crate) scale: [usize; 2],
    pub(crate) zero: [usize; 2],
    pub(crate) types: [usize; 2],
    pub(crate) size: usize,
    pub(crate) count: usize,
    pub(crate) rows: usize,
}

/// No groups.
pub(crate) const WHOLE: Groups = Groups { scale: [0; 2], zero: [0; 2], types: [0; 2], size: 1, count: 1, rows: 1 };

/// A product with its operands: weights, scales, zeros, activations, bias, residual, result.
pub(crate) struct Call {
    pub(crate) product: Product,
    pub(crate) groups: Groups,
    pub(crate) args: [Arg; 7],
}

/// The activations as kernels read them.
struct Rows {
    arg: Arg,
    row: usize,
    col: usize,
    dtype: DType,
    batch: [usize; AXES],
}

/// Accepts a product of few rows.
pub(crate) fn few(product: &Product) -> Result<(), Reason> {
    if product.m > FEW {
        return Err(Reason::operand(0, Property::Dim(0), Rule::AtMost, product.m, FEW));
    }
    Ok(())
}

/// The addresses of inputs, and of the result behind them.
pub(crate) fn args(node: &NodeView<'_>, inputs: [Option<usize>; 6]) -> [Arg; 7] {
    let input = |i: Option<usize>| i.map_or(Arg::Null, |i| Arg::optional(node, i));
    std::array::from_fn(|i| inputs.get(i).map_or_else(|| Arg::output(node, 0), |&i| input(i)))
}

/// A number that the row checked to fit.
fn word(n: usize) -> u32 {
    u32::try_from(n).expect("the row accepts what fits")
}

impl Call {
    /// The launches.
    pub(crate) fn prepare(&self, target: &Target) -> Prepared {
        let p = &self.product;
        if p.is_empty() {
            return Prepared::default();
        }
        let y = word(p.batches().min(MOST_Y));
        let format = p.b.dtype.name();
        let (few, alone) = (p.m <= FEW, p.m == 1);
        let size = |size| target.tuning.size(size) as usize;
        let (symbol, x) = match (target.tuning.is_processor, few) {
            (true, true) if self.is_across() => {
                let symbol = format!("product_across_{format}_{}", if alone { "1" } else { "n" });
                (symbol, p.n.div_ceil(size(Size::AcrossColumns)).min(target.shares()))
            }
            (true, true) => {
                let symbol = format!("product_few_{format}_{}", if alone { "1" } else { "n" });
                (symbol, p.n.div_ceil(size(Size::FewColumns)).min(target.shares()))
            }
            (true, false) => {
                let bands = p.m.div_ceil(size(Size::ManyRows));
                (format!("product_many_{format}"), p.n.div_ceil(size(Size::ManyColumns)) * bands)
            }
            (false, true) => {
                let symbol = format!("product_team_{format}_{}", if alone { 1 } else { FEW });
                (symbol, p.n.div_ceil(size(Size::TeamColumns)))
            }
            (false, false) => {
                let tile = size(Size::Tile);
                (format!("product_tile_{format}"), p.n.div_ceil(tile) * p.m.div_ceil(tile))
            }
        };
        let mut prepared = Prepared::default();
        let rows = match target.tuning.is_processor && !few {
            true => self.staged(target, &mut prepared),
            false => self.rows(),
        };
        let mut args = self.args.to_vec();
        args[3] = rows.arg.clone();
        args.push(self.fields(&rows));
        prepared.launches.push(Launch::new(&symbol, [word(x), y, 1], 0, args));
        prepared
    }

    /// Whether columns of weights lie side by side, as those of [K, N] do, and there are enough of them.
    fn is_across(&self) -> bool {
        let (b, n) = (self.product.b, self.product.n);
        b.dtype.is_activation() && b.row == 1 && b.col >= n && n >= 32 && self.product.epilogue != Epilogue::SiluMul
    }

    /// The activations where they are.
    fn rows(&self) -> Rows {
        let a = self.product.a;
        let batch = std::array::from_fn(|i| self.product.axes.get(i).map_or(0, |axis| axis.steps[0]));
        Rows { arg: self.args[3].clone(), row: a.row, col: a.col, dtype: a.dtype, batch }
    }

    /// The activations as f32 that lie side by side in whole steps: where they are so, or else in scratch.
    fn staged(&self, target: &Target, prepared: &mut Prepared) -> Rows {
        let (p, rows) = (&self.product, self.rows());
        if rows.dtype == DType::F32 && rows.col == 1 && p.k.is_multiple_of(STEP) {
            return rows;
        }
        let deep = p.k.next_multiple_of(STEP);
        let elements = p.batches() * p.m * deep;
        prepared.scratch = elements * size_of::<f32>();
        let items = target.tuning.walk as usize;
        let grid = [word(elements.div_ceil(items).min(MOST_WALKING)), 1, 1];
        let args = vec![rows.arg.clone(), Arg::Scratch(0), self.fields(&rows)];
        prepared.launches.push(Launch::new("product_stage", grid, 0, args));
        let mut batch = [0; AXES];
        let mut step = p.m * deep;
        for (i, axis) in p.axes.iter().enumerate().rev() {
            batch[i] = step;
            step *= axis.size;
        }
        Rows { arg: Arg::Scratch(0), row: deep, col: 1, dtype: DType::F32, batch }
    }

    /// The kernels' `Product`.
    fn fields(&self, rows: &Rows) -> Arg {
        let (p, g) = (&self.product, &self.groups);
        let b = p.b;
        let bytes = |elements: usize| elements / b.dtype.block_elems() * b.dtype.block_bytes();
        let residual = p.residual.unwrap_or(p.c);
        let bias = p.bias.unwrap_or(p.c);
        let steps = |operand: usize| {
            let axes = p.axes.iter().map(move |axis| axis.steps[operand]);
            axes.chain(std::iter::repeat(0)).take(AXES).collect::<Vec<_>>()
        };
        let sizes: Vec<usize> = p.axes.iter().map(|axis| axis.size).chain(std::iter::repeat(1)).take(AXES).collect();
        let number = |dtype| table_type(dtype).expect("dtypes were checked");
        Fields::default()
            .longs(&[rows.row, rows.col, bytes(b.row), b.col, p.c.row, p.c.col, residual.row, residual.col, bias.col])
            .longs(&[g.scale[0], g.scale[1], g.zero[0], g.zero[1]])
            .longs(&rows.batch)
            .longs(&steps(1).into_iter().map(bytes).collect::<Vec<_>>())
            .longs(&steps(2))
            .longs(&steps(3))
            .words(&sizes)
            .words(&[p.axes.len(), p.batches(), p.m, p.n, p.k, p.k.next_multiple_of(STEP), p.epilogue as usize])
            .words(&[rows.dtype, p.c.dtype, residual.dtype, bias.dtype].map(number))
            .words(&g.types)
            .words(&[g.size, g.count, g.rows])
            .end()
            .arg()
    }
}
