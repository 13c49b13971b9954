//! What a device that calls itself batch-invariant promises: a row of a result depends on its own row of the operands alone.

use std::ops::Range;

use qiao_core::{
    AttentionAttrs, DType, Device, Error, KvInfo, KvLayout, MatmulAttrs, MatmulQuantAttrs, NormAttrs, Op, SoftmaxAttrs,
    TensorDesc,
};
use qiao_reference::Trial;
use qiao_reference::data::{Fill, Rng, block_bytes, to_bytes, values};

use super::scene::Found;
use super::{Broken, Clause, Held};
use crate::family::Depth;
use crate::subject::Subject;

pub(crate) const CLAUSES: &[Clause] = &[
    Clause { id: "device/batches/rows_of_products_stand_alone", depth: Depth::Standard, run: products },
    Clause { id: "device/batches/rows_of_norms_stand_alone", depth: Depth::Standard, run: rowwise },
    Clause { id: "device/batches/sequences_stand_alone", depth: Depth::Standard, run: sequences },
];

/// Rows of a batch.
const ROWS: usize = 37;

/// Parts of the batch that are run alone.
const PARTS: &[Range<usize>] = &[0..1, 20..21, 36..37, 3..5, 4..8, 7..16, 0..36];

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// The bits of the first result, or nothing where the device does not run it.
fn bits(trial: &Trial, device: &dyn Device) -> Found<Option<Vec<u64>>> {
    match trial.run(device) {
        Ok(values) => Ok(values.first().map(|v| v.data.iter().map(|x| x.to_bits()).collect())),
        Err(Error::Unsupported { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Refuses a device that promises nothing.
fn promised(subject: &Subject) -> Held {
    match subject.device.info().caps.batch_invariant {
        true => Ok(()),
        false => Err(Broken::unsupported("it does not call itself batch-invariant")),
    }
}

/// Rows of one operator, all at once and in parts.
fn rows_alone(subject: &Subject, what: &str, make: &dyn Fn(Range<usize>) -> Trial) -> Found<bool> {
    let device = &*subject.device;
    let Some(whole) = bits(&make(0..ROWS), device)? else { return Ok(false) };
    let width = whole.len() / ROWS;
    for part in PARTS {
        let Some(alone) = bits(&make(part.clone()), device)? else { continue };
        if let Some(at) = alone.iter().zip(&whole[part.start * width..]).position(|(a, b)| a != b) {
            return Err(Broken::contract(format!(
                "{what}: row {} of {ROWS} is another where it runs among {}: element {} is {:e}, and {:e} there",
                part.start + at / width,
                part.len(),
                at % width,
                f64::from_bits(whole[part.start * width + at]),
                f64::from_bits(alone[at]),
            )));
        }
    }
    Ok(true)
}

/// Unsupported where nothing ran.
fn ran(any: bool) -> Held {
    if any { Ok(()) } else { Err(Broken::unsupported("it runs none of the operators")) }
}

fn part(data: &[f64], width: usize, rows: Range<usize>) -> &[f64] {
    &data[rows.start * width..rows.end * width]
}

/// Products with plain and with quantised weights, with one row and with some.
fn products(subject: &Subject) -> Held {
    promised(subject)?;
    let mut any = false;
    for (n, k) in [(40, 150), (33, 704)] {
        let mut rng = Rng::new(n as u64);
        for dtype in FLOATS {
            let a = values(&mut rng, Fill::Normal, dtype, ROWS * k);
            let w = to_bytes(dtype, &values(&mut rng, Fill::Normal, dtype, n * k));
            let desc = TensorDesc::new(dtype, &[n, k]).expect("the shapes are small").as_constant();
            let op = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
            any |= rows_alone(subject, &format!("matmul {dtype} {n}x{k}"), &|rows| {
                let x = part(&a, k, rows.clone());
                Trial::new(op).values(dtype, &[rows.len(), k], x).input(desc.clone(), w.clone())
            })?;
        }
    }
    for (act, format) in
        [DType::Q8_0, DType::Q4_0, DType::Q4K, DType::Q6K].into_iter().flat_map(|f| FLOATS.map(|a| (a, f)))
    {
        let (n, k) = (40, 512);
        let mut rng = Rng::new(k as u64);
        let a = values(&mut rng, Fill::Normal, act, ROWS * k);
        let w = block_bytes(&mut rng, format, n * k / format.block_elems());
        let desc = TensorDesc::new(format, &[n, k]).expect("the shapes are small").as_constant();
        let op = Op::MatmulQuant(MatmulQuantAttrs::default());
        any |= rows_alone(subject, &format!("matmul_quant {act} by {format}"), &|rows| {
            let x = part(&a, k, rows.clone());
            Trial::new(op).values(act, &[rows.len(), k], x).input(desc.clone(), w.clone())
        })?;
    }
    ran(any)
}

/// Norms and softmax.
fn rowwise(subject: &Subject) -> Held {
    promised(subject)?;
    let mut any = false;
    for (dtype, columns) in FLOATS.into_iter().flat_map(|d| [(d, 96), (d, 1531)]) {
        let mut rng = Rng::new(columns as u64);
        let x = values(&mut rng, Fill::Normal, dtype, ROWS * columns);
        for op in [Op::RmsNorm(NormAttrs { eps: 1e-6, ..Default::default() }), Op::Softmax(SoftmaxAttrs::default())] {
            any |= rows_alone(subject, &format!("{} {dtype} of {columns}", op.kind().name()), &|rows| {
                Trial::new(op).values(dtype, &[rows.len(), columns], part(&x, columns, rows))
            })?;
        }
    }
    ran(any)
}

/// Tokens of a block where the device takes any.
const BLOCK: usize = 16;

/// Query heads to a key head, the size of a head.
const GROUP: usize = 2;
const HEAD: usize = 64;

/// Queries and keys of a crowd's sequences.
const CROWD: [(usize, usize); 4] = [(1, 150), (5, 40), (17, 17), (1, 600)];

/// A crowd over one pool of pages.
struct Scenery {
    dtype: DType,
    attrs: AttentionAttrs,
    block: usize,
    q: Vec<f64>,
    pages: [Vec<f64>; 2],
    blocks: usize,
    tables: Vec<Vec<i64>>,
}

impl Scenery {
    fn new(dtype: DType, attrs: AttentionAttrs, block: usize) -> Scenery {
        let mut rng = Rng::new(7);
        let each = CROWD.map(|(_, keys)| keys.div_ceil(block));
        let blocks = 1 + each.iter().sum::<usize>();
        let mut free = rng.permutation(blocks - 1).into_iter().map(|b| b as i64 + 1);
        let tables = each.iter().map(|&n| free.by_ref().take(n).collect()).collect();
        let queries: usize = CROWD.iter().map(|(queries, _)| queries).sum();
        let mut fill = |n| values(&mut rng, Fill::Normal, dtype, n);
        let q = fill(queries * GROUP * HEAD);
        let pages = [fill(blocks * block * HEAD), fill(blocks * block * HEAD)];
        Scenery { dtype, attrs, block, q, pages, blocks, tables }
    }

    /// The last `queries` queries of some sequences.
    fn trial(&self, which: Range<usize>, queries: &dyn Fn(usize) -> usize, decode: bool) -> Trial {
        let (mut q, mut cu, mut lengths, mut table) = (Vec::new(), vec![0.0], Vec::new(), Vec::new());
        let widest = which.clone().map(|s| self.tables[s].len()).max().unwrap_or(0);
        let row = GROUP * HEAD;
        for s in which.clone() {
            let before: usize = CROWD[..s].iter().map(|(queries, _)| queries).sum();
            let end = before + CROWD[s].0;
            q.extend_from_slice(part(&self.q, row, end - queries(s)..end));
            cu.push((q.len() / row) as f64);
            lengths.push(CROWD[s].1 as f64);
            table.extend((0..widest).map(|i| self.tables[s].get(i).copied().unwrap_or(0) as f64));
        }
        let cache = match self.attrs.kv_layout {
            KvLayout::BlockTokenHead => [self.blocks, self.block, 1, HEAD],
            KvLayout::BlockHeadToken => [self.blocks, 1, self.block, HEAD],
        };
        let op = if decode { Op::AttentionDecode(self.attrs) } else { Op::AttentionPrefill(self.attrs) };
        let [k, v] = &self.pages;
        let t = Trial::new(op).values(self.dtype, &[q.len() / row, GROUP, HEAD], &q);
        let t = t.values(self.dtype, &cache, k).values(self.dtype, &cache, v);
        let t = if decode { t } else { t.values(DType::I32, &[cu.len()], &cu) };
        t.values(DType::I32, &[lengths.len()], &lengths).values(DType::I32, &[which.len(), widest], &table)
    }
}

/// Sequences in a crowd, alone, and token by token.
fn sequences(subject: &Subject) -> Held {
    promised(subject)?;
    let device = &*subject.device;
    let any = KvInfo { layout: KvLayout::BlockHeadToken, block_size: 0 };
    let pages = device.info().kv.first().copied().unwrap_or(any);
    let block = if pages.block_size == 0 { BLOCK } else { pages.block_size };
    let plain = AttentionAttrs { causal: true, kv_layout: pages.layout, ..Default::default() };
    let mut any = false;
    for (dtype, attrs) in FLOATS.into_iter().flat_map(|d| [(d, plain), (d, AttentionAttrs { window: 33, ..plain })]) {
        let scenery = Scenery::new(dtype, attrs, block);
        let whole = bits(&scenery.trial(0..CROWD.len(), &|s| CROWD[s].0, false), device)?;
        let Some(whole) = whole else { continue };
        any = true;
        let row = GROUP * HEAD;
        let mut end = 0;
        for (s, (queries, keys)) in CROWD.into_iter().enumerate() {
            end += queries * row;
            for (count, decode) in [(queries, false), (1, false), (1, true)] {
                let Some(alone) = bits(&scenery.trial(s..s + 1, &|_| count, decode), device)? else { continue };
                let there = &whole[end - count * row..end];
                if let Some(at) = alone.iter().zip(there).position(|(a, b)| a != b) {
                    let how = if decode { "decoded alone" } else { "alone" };
                    return Err(Broken::contract(format!(
                        "attention {dtype}, window {}: of {queries} queries over {keys} keys the last {count} {how} are \
                         others than in a crowd: element {at} is {:e}, and {:e} there",
                        attrs.window,
                        f64::from_bits(alone[at]),
                        f64::from_bits(there[at]),
                    )));
                }
            }
        }
    }
    ran(any)
}
