//! Dense products: which kernel runs one, and how it is divided over the card.
//!
//! Up to 8 rows read b once in a GEMV. More rows go in tiles, on tensor cores where the dtypes allow it and by multiply-add
//! else; where tiles are too few to fill the card, K goes in parts, whose sums a second launch adds in order.

use qiao_core::{
    Accept, DType, Epilogue, Graph, MatmulAttrs, NodeView, Op, OpKind, Precision, Property, Reason, Result, Row, Rule,
};

use crate::large::{LargeProduct, WORKSPACE};
use crate::launch::{Arg, Chip, Launch, Prepare, Prepared, What, row};
use crate::product::{Division, Product};
use crate::several::{Part, Several};

/// The rows of this family, best kernel first for each operator.
pub fn rows() -> Vec<Row<Prepare>> {
    vec![
        row(OpKind::Matmul, "gemv", accepts_gemv, gemv),
        row(OpKind::Matmul, "gemm_mma", accepts_mma, mma),
        row(OpKind::Matmul, "gemm_fma", accepts_fma, fma),
        row(OpKind::Matmul, "gemm_any", accepts_any, any),
    ]
}

/// Rows of a that a GEMV takes.
const GEMV_ROWS: usize = 8;
/// Groups of 32 threads in a block of a GEMV.
const GROUPS: usize = 8;
/// Blocks along y; a kernel walks the batches beyond.
const MOST_Y: usize = 65_535;
/// Parts of K at most, each a block of its own.
const MOST_SPLITS: usize = 32;

fn attrs(node: &NodeView<'_>) -> MatmulAttrs {
    let Op::Matmul(attrs) = *node.op() else { unreachable!("the table pairs matmul with its kernels") };
    attrs
}

fn product(node: &NodeView<'_>) -> Result<Product, Reason> {
    let attrs = attrs(node);
    Product::of(node, attrs.trans_b, attrs.epilogue)
}

/// A product that a row accepted.
fn accepted(node: &NodeView<'_>) -> Product {
    product(node).expect("the row accepted the node")
}

/// What lies side by side in b, in whole pieces of 16 bytes.
fn layout(p: &Product) -> Result<&'static str, Reason> {
    if p.b_lies_along_k() {
        Ok("nk")
    } else if p.b_lies_along_n() {
        Ok("kn")
    } else {
        Err(Reason::strides(1, "whole pieces of 16 bytes along N or K"))
    }
}

fn a_along_k(p: &Product) -> Result<(), Reason> {
    if p.a_lies_along_k() { Ok(()) } else { Err(Reason::strides(0, "whole pieces of 16 bytes along K")) }
}

/// The kernels that read ahead of K need one.
fn some_k(p: &Product) -> Result<(), Reason> {
    if p.k > 0 { Ok(()) } else { Err(Reason::operand(0, Property::Dim(1), Rule::AtLeast, p.k, 1usize)) }
}

fn accepts_gemv(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let p = product(node)?;
    some_k(&p)?;
    if p.m > GEMV_ROWS {
        return Err(Reason::operand(0, Property::Dim(0), Rule::AtMost, p.m, GEMV_ROWS));
    }
    if layout(&p)? == "nk" {
        a_along_k(&p)?;
    }
    Ok(Accept::Native)
}

/// The unit that multiplies on tensor cores, as symbols name it.
fn unit(p: &Product, precision: Precision) -> Option<&'static str> {
    match (p.a.dtype, p.b.dtype, precision) {
        (DType::F16, DType::F16, _) => Some("f16"),
        (DType::BF16, DType::BF16, _) => Some("bf16"),
        (DType::F32, DType::F32, Precision::Tf32) if p.b_lies_along_k() => Some("tf32"),
        _ => None,
    }
}

fn accepts_mma(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let p = product(node)?;
    some_k(&p)?;
    if unit(&p, attrs(node).precision).is_none() {
        return Err(Reason::dtype(1, p.b.dtype, &[DType::F16, DType::BF16]));
    }
    layout(&p)?;
    a_along_k(&p)?;
    Ok(Accept::Native)
}

fn accepts_fma(node: &NodeView<'_>) -> Result<Accept, Reason> {
    let p = product(node)?;
    some_k(&p)?;
    for (i, side) in [p.a, p.b].iter().enumerate() {
        if side.dtype != DType::F32 {
            return Err(Reason::dtype(i, side.dtype, &[DType::F32]));
        }
    }
    layout(&p)?;
    a_along_k(&p)?;
    Ok(Accept::Native)
}

fn accepts_any(node: &NodeView<'_>) -> Result<Accept, Reason> {
    product(node).map(|_| Accept::Native)
}

/// The addresses of a, b, bias, residual and c.
fn addresses(node: &NodeView<'_>) -> Vec<Arg> {
    let mut args: Vec<Arg> = (0..4).map(|i| Arg::optional(node, i)).collect();
    args.push(Arg::output(node, 0));
    args
}

/// A number that the row checked to fit.
fn word(n: usize) -> u32 {
    u32::try_from(n).expect("the row accepts what fits")
}

/// A kernel for up to 8 rows: its symbol, slots for columns to a group of threads, and elements of K that a group takes at
/// a time.
struct Gemv {
    symbol: String,
    slots: usize,
    step: usize,
    /// Whether its kernels take several products.
    thin: bool,
}

impl Gemv {
    /// The kernel for a product, of so many columns with those that run beside it.
    fn of(p: &Product, columns: usize, chip: &Chip) -> Gemv {
        let (name, size) = (p.b.dtype.name(), p.b.dtype.block_bytes());
        if !p.b_lies_along_k() {
            let rows = if p.m == 1 { 1 } else { 8 };
            return Gemv { symbol: format!("matmul_gemv_{name}_kn_{rows}"), slots: 64 / size, step: 64, thin: false };
        }
        if p.a.dtype == p.b.dtype && size == 2 {
            // Few columns go to more blocks by eights; pairs need both halves of 16.
            let blocks = columns.div_ceil(16) * p.batches();
            let slots = if p.pairs() || blocks >= chip.processors as usize { 16 } else { 8 };
            return Gemv { symbol: format!("matmul_thin_{name}_8x{slots}"), slots, step: 32, thin: true };
        }
        let rows = [1, 4, 8].into_iter().find(|&rows| rows >= p.m).unwrap_or(8);
        Gemv { symbol: format!("matmul_gemv_{name}_nk_{rows}"), slots: 4, step: 32 * 16 / size, thin: false }
    }

    /// How a product is divided: blocks, and what the kernel is told.
    fn division(&self, p: &Product, chip: &Chip) -> ([u32; 3], Division) {
        let width = if p.pairs() { self.slots / 2 } else { self.slots };
        let tiles = p.columns().div_ceil(width);
        let parts = self.parts(p, tiles, chip);
        let by = Division { splits: word(parts), ..Division::default() };
        ([word(tiles.div_ceil(GROUPS / parts)), word(p.batches().min(MOST_Y)), 1], by)
    }

    /// Parts of K, each a group's: as many as fill the card, none shorter than four steps.
    fn parts(&self, p: &Product, tiles: usize, chip: &Chip) -> usize {
        if !p.b_lies_along_k() {
            return GROUPS;
        }
        let wanted = (chip.processors as usize * 24).div_ceil(tiles.saturating_mul(p.batches()).max(1));
        let long = (p.k / (4 * self.step)).max(1);
        [8, 4, 2].into_iter().find(|&parts| parts <= long && parts < 2 * wanted).unwrap_or(1)
    }
}

fn gemv(node: &NodeView<'_>, chip: &Chip) -> Result<Prepared> {
    let p = accepted(node);
    if p.is_empty() {
        return Ok(Prepared::default());
    }
    let kernel = Gemv::of(&p, p.n, chip);
    let launch = match kernel.thin {
        true => thin(node, &p, &kernel, chip).launch(),
        false => {
            let (grid, by) = kernel.division(&p, chip);
            let mut args = addresses(node);
            args.push(Arg::Struct(p.bytes(by)));
            Launch::new(&kernel.symbol, grid, 0, args)
        }
    };
    Ok(Prepared { launches: vec![launch], scratch: 0 })
}

/// A product by the kernels that take several.
fn thin(node: &NodeView<'_>, p: &Product, kernel: &Gemv, chip: &Chip) -> Several {
    let (grid, by) = kernel.division(p, chip);
    let [a, b, bias, residual, c] = <[Arg; 5]>::try_from(addresses(node)).expect("a product has five addresses");
    let up = p.pairs().then(|| match &b {
        Arg::Tensor(id, offset) => vec![Arg::Tensor(*id, offset + p.n / 2 * p.b.row * p.b.dtype.block_bytes())],
        _ => unreachable!("weights are a tensor"),
    });
    let part = Part { addresses: vec![b, bias, c], own: p.own_bytes(by), blocks: grid[0] };
    let up = up.map(|addresses| (addresses, false));
    Several {
        symbol: kernel.symbol.clone(),
        a,
        residual,
        shared: p.shared_bytes(),
        parts: vec![part],
        up,
        batches: grid[1],
    }
}

/// The product of a node that the kernels for several would take by itself.
fn thin_product(node: &NodeView<'_>, chip: &Chip) -> Option<Product> {
    let p = (accepts_gemv(node).is_ok()).then(|| accepted(node)).filter(|p| !p.is_empty() && p.batches() == 1)?;
    Gemv::of(&p, p.n, chip).thin.then_some(p)
}

/// This one as one of several products, of so many columns in all.
pub(crate) fn one_of(node: &NodeView<'_>, columns: usize, chip: &Chip) -> Option<Several> {
    let p = thin_product(node, chip)?;
    Some(thin(node, &p, &Gemv::of(&p, columns, chip), chip))
}

/// Two products and the product of the one's SiLU with the other, as one launch.
pub(crate) fn gated(graph: &Graph, [gate, up]: [usize; 2], at: usize, chip: &Chip) -> Option<Launch> {
    let [gate, up, at] = [gate, up, at].map(|n| graph.node(n));
    let products = [thin_product(&gate, chip)?, thin_product(&up, chip)?];
    let plain = |p: &Product| p.epilogue == Epilogue::None && p.bias.is_none() && p.residual.is_none();
    let [one, other] = products.each_ref().map(|p| p.bytes(Division::default()));
    let alike = one == other && products.iter().all(plain);
    if !alike || at.output(0).layout != 0 || at.output(0) != gate.output(0) {
        return None;
    }
    let [p, _] = products;
    let n = p.n.checked_mul(2).filter(|&n| i32::try_from(n).is_ok())?;
    let p = Product { n, epilogue: Epilogue::SiluMul, ..p };
    let mut launch = thin(&gate, &p, &Gemv::of(&p, p.n, chip), chip);
    launch.parts[0].addresses[2] = Arg::output(&at, 0);
    launch.up = Some((vec![Arg::input(&up, 1)], true));
    Some(launch.launch())
}

/// A kernel that has a tile of the result to a block.
#[derive(Clone, Copy)]
struct Tile {
    /// What the symbol says.
    family: &'static str,
    /// Rows and columns.
    size: [usize; 2],
    /// Elements of K to a step.
    step: usize,
    /// Bytes of dynamic shared memory.
    shared: u32,
    /// Blocks that a multiprocessor holds.
    resident: usize,
}

impl Tile {
    /// Tiles along M and along the columns. Pairs take whole groups of eight from each half.
    fn counts(&self, p: &Product) -> [usize; 2] {
        let columns = if p.pairs() { 2 * p.columns().next_multiple_of(8) } else { p.n };
        [p.m.div_ceil(self.size[0]), columns.div_ceil(self.size[1])]
    }

    fn blocks(&self, p: &Product) -> usize {
        let [m, n] = self.counts(p);
        m.saturating_mul(n).saturating_mul(p.batches())
    }

    /// Parts of K and their length: as many as fill the card, none shorter than four steps.
    fn parts(&self, p: &Product, chip: &Chip) -> (usize, usize) {
        let slots = chip.processors as usize * self.resident;
        let wanted = (slots / self.blocks(p).max(1)).clamp(1, MOST_SPLITS).min((p.k / (4 * self.step)).max(1));
        let part = p.k.div_ceil(wanted).next_multiple_of(self.step).max(self.step);
        (p.k.div_ceil(part).max(1), part)
    }

    /// The launches: the tiles, and with K in parts their sum.
    fn prepare(&self, node: &NodeView<'_>, p: &Product, layout: &str, chip: &Chip) -> Prepared {
        let [m, n] = self.counts(p);
        let (splits, part) = self.parts(p, chip);
        let by = Division { tiles: [word(m), word(n)], splits: word(splits), k_part: word(part) };
        let row_length = n * self.size[1];
        let rows = p.batches() * p.m;
        let scratch = if splits > 1 { splits * rows * row_length * size_of::<f32>() } else { 0 };
        let partial = if splits > 1 { Arg::Scratch(0) } else { Arg::Null };
        let mut args = addresses(node);
        args.extend([partial.clone(), Arg::Struct(p.bytes(by))]);
        let [bm, bn] = self.size;
        let symbol = format!("matmul_{}_{bm}x{bn}{layout}", self.family);
        let grid = [word(m * n), word(p.batches().min(MOST_Y)), word(splits)];
        let mut launches = vec![Launch::new(&symbol, grid, self.shared, args)];
        if splits > 1 {
            let mut args = addresses(node).split_off(2);
            args.extend([partial, Arg::U32(word(row_length)), Arg::Struct(p.bytes(by))]);
            let threads = rows.saturating_mul(p.columns().div_ceil(8));
            let blocks = threads.div_ceil(256).min(chip.processors as usize * 32);
            launches.push(Launch::new("matmul_join", [word(blocks), 1, 1], 0, args));
        }
        Prepared { launches, scratch }
    }
}

/// Of a large and a small tile the large one, where the small one would fill the card many times.
fn chosen(p: &Product, chip: &Chip, large: Tile, small: Tile) -> Tile {
    let fills = large.blocks(p) >= chip.processors as usize && p.m > small.size[0];
    if fills { large } else { small }
}

fn mma(node: &NodeView<'_>, chip: &Chip) -> Result<Prepared> {
    let p = accepted(node);
    if p.is_empty() {
        return Ok(Prepared::default());
    }
    let unit = unit(&p, attrs(node).precision).expect("the row accepted the node");
    let (family, step) = match unit {
        "f16" => ("mma_f16", 1),
        "bf16" => ("mma_bf16", 1),
        _ => ("mma_tf32", 2),
    };
    let tile = |size: [usize; 2], step, shared, resident| Tile { family, size, step, shared, resident };
    let large = tile([128, 128], 32 / step, 69_632, 2);
    let small = tile([64, 64], 64 / step, 65_536, 3);
    let flat = tile([16, 64], 64 / step, 61_440, 3);
    let tile = if p.m <= 16 && unit != "tf32" { flat } else { chosen(&p, chip, large, small) };
    if tile.shared > chip.shared {
        return any(node, chip);
    }
    let layout = layout(&p).expect("the row accepted the node");
    let own = tile.prepare(node, &p, if layout == "nk" { "_nk" } else { "_kn" }, chip);
    Ok(if chip.blas { by_library(node, &p, own) } else { own })
}

/// Sizes from which on the library runs a product.
const LARGE: [usize; 3] = [128, 256, 128];

/// A large product by the library, with its own kernels for what it refuses. What the library does not round once, or knows
/// in another meaning, it leaves as sums in f32, which a kernel finishes.
fn by_library(node: &NodeView<'_>, p: &Product, own: Prepared) -> Prepared {
    let large = [p.m, p.n, p.k].iter().zip(LARGE).all(|(&size, least)| size >= least);
    let tf32 = p.a.dtype == DType::F32;
    let Some(rows) = p.library_rows().filter(|_| large && !tf32) else { return own };
    let (out, args) = (addresses(node), addresses(node));
    let [a, b, _, residual, c] = <[Arg; 5]>::try_from(args).expect("a product has five addresses");
    let direct = p.is_plain_after_all();
    let workspace = own.scratch.max(WORKSPACE).next_multiple_of(256);
    let mut product = LargeProduct {
        m: p.m,
        n: p.n,
        k: p.k,
        dtype: p.a.dtype,
        out: p.c.dtype,
        trans_b: p.b_lies_along_k(),
        rows,
        residual: residual != Arg::Null,
        align: p.align(),
    };
    let (args, then, scratch) = if direct {
        let add = if product.residual { residual } else { c.clone() };
        (vec![a, b, add, c, Arg::Scratch(0)], Vec::new(), workspace)
    } else {
        let sums = Arg::Scratch(workspace);
        product = LargeProduct { out: DType::F32, residual: false, rows: [rows[0], rows[1], p.n, p.n], ..product };
        let mut tail = out[2..].to_vec();
        tail.extend([sums.clone(), Arg::Struct(p.bytes(Division { splits: 1, ..Division::default() }))]);
        let blocks = (p.m * p.columns().div_ceil(8)).div_ceil(256).min(1 << 16);
        let tail = Launch::new("matmul_tail", [word(blocks), 1, 1], 0, tail);
        (vec![a, b, sums.clone(), sums, Arg::Scratch(0)], vec![tail], workspace + p.m * p.n * size_of::<f32>())
    };
    let what = What::Product { product, then, otherwise: own.launches };
    Prepared { launches: vec![Launch { what, args }], scratch }
}

fn fma(node: &NodeView<'_>, chip: &Chip) -> Result<Prepared> {
    let p = accepted(node);
    if p.is_empty() {
        return Ok(Prepared::default());
    }
    let large = Tile { family: "fma_f32", size: [128, 128], step: 8, shared: 0, resident: 2 };
    let small = Tile { size: [64, 64], step: 16, ..large };
    let layout = layout(&p).expect("the row accepted the node");
    Ok(chosen(&p, chip, large, small).prepare(node, &p, if layout == "nk" { "_nk" } else { "_kn" }, chip))
}

fn any(node: &NodeView<'_>, chip: &Chip) -> Result<Prepared> {
    let p = accepted(node);
    if p.is_empty() {
        return Ok(Prepared::default());
    }
    let tile = Tile { family: "fma_any", size: [64, 64], step: 16, shared: 0, resident: 2 };
    Ok(tile.prepare(node, &p, "", chip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use qiao_core::TensorDesc;

    const H100: Chip = Chip { arch: 90, processors: 132, shared: 232_448, blas: false };

    /// The launches of a bf16 product with weights `[n, k]`.
    fn launches(m: usize, n: usize, k: usize, epilogue: Epilogue, chip: &Chip) -> Prepared {
        let (mut g, bf16) = (Graph::new(), |shape: &[usize]| TensorDesc::new(DType::BF16, shape).unwrap());
        let (a, b) = (g.bind("a", bf16(&[m, k])), g.bind("b", bf16(&[n, k])));
        g.op1(Op::Matmul(MatmulAttrs { trans_b: true, epilogue, ..Default::default() }), &[a, b]).unwrap();
        let node = g.node(0);
        let row = rows().into_iter().find(|row| (row.accepts)(&node).is_ok()).unwrap();
        (row.launch)(&node, chip).unwrap()
    }

    fn blocks(launch: &Launch) -> u32 {
        match launch.what {
            What::Kernel { grid, .. } => grid.iter().product(),
            What::Product { .. } => 0,
        }
    }

    #[test]
    fn every_product_of_a_large_models_step_fills_the_card() {
        for m in [1, 8, 16, 64] {
            for (n, k, epilogue) in [
                (6144, 4096, Epilogue::None),
                (4096, 4096, Epilogue::None),
                (28_672, 4096, Epilogue::SiluMul),
                (4096, 14_336, Epilogue::None),
                (128_256, 4096, Epilogue::None),
            ] {
                let prepared = launches(m, n, k, epilogue, &H100);
                let first = blocks(&prepared.launches[0]);
                assert!(first >= H100.processors, "{m}x{n}x{k}: {first} blocks");
            }
        }
    }

    #[test]
    fn a_few_rows_are_one_launch_without_scratch() {
        for (n, k) in [(896, 896), (1152, 896), (4096, 14_336)] {
            let prepared = launches(8, n, k, Epilogue::None, &H100);
            assert_eq!((prepared.launches.len(), prepared.scratch), (1, 0));
        }
    }

    #[test]
    fn the_library_takes_large_products_only() {
        let chip = Chip { blas: true, ..H100 };
        let by_library =
            |m| matches!(launches(m, 4096, 4096, Epilogue::None, &chip).launches[0].what, What::Product { .. });
        assert!(by_library(128) && by_library(4096));
        assert!(!by_library(1) && !by_library(64));
    }

    #[test]
    fn a_card_with_little_shared_memory_takes_the_kernel_that_needs_none() {
        let chip = Chip { shared: 49_152, ..H100 };
        let launch = &launches(256, 256, 256, Epilogue::None, &chip).launches[0];
        let What::Kernel { symbol, shared, .. } = &launch.what else { panic!("{launch:?}") };
        assert_eq!((&**symbol, *shared), ("matmul_fma_any_64x64", 0));
    }
}
