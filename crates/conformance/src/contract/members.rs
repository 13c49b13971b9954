//! One small node of each family of operators that a device runs, with data for it: what clauses stand on that any kernel may
//! break by itself. Scratch that is shared, what is kept of each execution and offsets that are cut are a kernel's own.

use std::sync::Arc;

use qiao_core::{
    AttentionAttrs, Binding, ConcatAttrs, DType, Device, Graph, KvInfo, KvLayout, KvWriteAttrs, LayerNormAttrs,
    MatmulAttrs, MatmulQuantAttrs, NoAttrs, NormAttrs, Op, OpKind, Plan, ReduceAttrs, RopeAttrs, SiluMulAttrs,
    SoftmaxAttrs, Stream, Support, TensorDesc, TopKAttrs,
};
use qiao_reference::data::{Fill, Rng, block_bytes, to_bytes, values};
use qiao_reference::trial::Golden;
use qiao_reference::{Trial, Value};

use super::probe::POISON;
use super::scene::{Found, pattern, read};
use super::{Broken, Held, ensure};

/// Rows and columns of most operands.
const ROWS: usize = 24;
const COLUMNS: usize = 64;

/// Heads of queries and the size of a head; there is one head of keys.
const HEADS: usize = 4;
const HEAD: usize = 64;

/// Input channels to a scale.
const GROUP: usize = 32;

const PLAIN: NoAttrs = NoAttrs {};

/// What the operands of a node are drawn from.
struct Draw {
    rng: Rng,
    dtype: DType,
    pages: KvInfo,
}

impl Draw {
    /// Normal numbers in the activation dtype.
    fn normal(&mut self, shape: &[usize]) -> Vec<f64> {
        values(&mut self.rng, Fill::Normal, self.dtype, shape.iter().product())
    }

    /// Adds an operand of normal numbers.
    fn onto(&mut self, trial: Trial, shape: &[usize]) -> Trial {
        let data = self.normal(shape);
        trial.values(self.dtype, shape, &data)
    }

    /// A plain operator on so many operands of `ROWS` by `COLUMNS`.
    fn plain(&mut self, op: Op, count: usize) -> Trial {
        (0..count).fold(Trial::new(op), |trial, _| self.onto(trial, &[ROWS, COLUMNS]))
    }

    /// An operand of rows, and `count` weights for its columns.
    fn weighted(&mut self, op: Op, rows: usize, count: usize) -> Trial {
        let trial = self.plain(op, rows);
        (0..count).fold(trial, |trial, _| self.onto(trial, &[COLUMNS]))
    }

    fn scales(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| 0.01 * (6.0 * self.rng.uniform()).exp2()).collect()
    }

    /// Some of 0..n, each once.
    fn some(&mut self, count: usize, n: usize) -> Vec<f64> {
        self.rng.permutation(n).into_iter().take(count).map(|i| i as f64).collect()
    }

    fn codes(&mut self, shape: &[usize]) -> Found<(TensorDesc, Vec<u8>)> {
        let bytes = (0..shape.iter().product()).map(|_| self.rng.bits() as u8).collect();
        Ok((TensorDesc::new(DType::I8, shape)?, bytes))
    }

    /// The shape of a cache of so many pages.
    fn cache(&self, pages: usize) -> [usize; 4] {
        match self.pages.layout {
            KvLayout::BlockTokenHead => [pages, self.pages.block_size, 1, HEAD],
            KvLayout::BlockHeadToken => [pages, 1, self.pages.block_size, HEAD],
        }
    }
}

/// Makes a node with operands. Shapes do not depend on what is drawn, and each operand goes with the others of any other draw.
type Make = fn(&mut Draw) -> Found<Trial>;

/// A node of each family.
const NODES: &[Make] = &[
    |d| Ok(d.plain(Op::Add(PLAIN), 2)),
    |d| Ok(d.plain(Op::Silu(PLAIN), 1)),
    |d| Ok(d.plain(Op::SiluMul(SiluMulAttrs::default()), 2)),
    |d| Ok(d.plain(Op::Copy(PLAIN), 1)),
    |d| Ok(d.plain(Op::Concat(ConcatAttrs { axis: 0 }), 2)),
    |d| {
        let to = if d.dtype == DType::F32 { DType::F16 } else { DType::F32 };
        Ok(d.plain(Op::Cast(PLAIN), 1).output_dtype(to))
    },
    gather_rows,
    |d| Ok(d.plain(product(), 2)),
    constant_product,
    |d| Ok(d.weighted(Op::RmsNorm(norm()), 1, 1)),
    |d| Ok(d.weighted(Op::AddRmsNorm(norm()), 2, 1)),
    |d| Ok(d.weighted(Op::LayerNorm(LayerNormAttrs { eps: 1e-5 }), 1, 2)),
    rope,
    |d| Ok(d.plain(Op::Softmax(SoftmaxAttrs::default()), 1)),
    |d| Ok(d.plain(Op::Reduce(ReduceAttrs { axis: 1, ..Default::default() }), 1)),
    |d| Ok(d.plain(Op::Argmax(PLAIN), 1)),
    |d| Ok(d.plain(Op::TopK(TopKAttrs { k: 5 }), 1)),
    sample,
    kv_write,
    attention_prefill,
    attention_decode,
    grouped_product,
    block_product,
    |d| Ok(d.plain(Op::QuantizeDynamic(PLAIN), 1)),
    scaled_product,
];

fn norm() -> NormAttrs {
    NormAttrs { eps: 1e-5, ..Default::default() }
}

fn product() -> Op {
    Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() })
}

fn gather_rows(d: &mut Draw) -> Found<Trial> {
    let trial = d.plain(Op::GatherRows(PLAIN), 1);
    let ids = d.some(ROWS / 2, ROWS);
    Ok(trial.values(DType::I32, &[ids.len()], &ids))
}

fn constant_product(d: &mut Draw) -> Found<Trial> {
    let trial = d.plain(product(), 1);
    let weights = d.normal(&[COLUMNS, COLUMNS]);
    let desc = TensorDesc::new(d.dtype, &[COLUMNS, COLUMNS])?.as_constant();
    Ok(trial.input(desc, to_bytes(d.dtype, &weights)))
}

fn rope(d: &mut Draw) -> Found<Trial> {
    let trial = Trial::new(Op::Rope(RopeAttrs::default()));
    let trial = d.onto(trial, &[ROWS, HEADS, HEAD]);
    let positions = d.some(ROWS, 2 * ROWS);
    let angles: Vec<f64> = (0..ROWS * HEAD).map(|_| 6.3 * d.rng.uniform()).collect();
    let table = |f: fn(f64) -> f64| angles.iter().map(|a| f(*a)).collect::<Vec<_>>();
    let trial = trial.values(DType::I32, &[ROWS], &positions);
    let shape = [2 * ROWS, HEAD / 2];
    Ok(trial.values(DType::F32, &shape, &table(f64::cos)).values(DType::F32, &shape, &table(f64::sin)))
}

fn sample(d: &mut Draw) -> Found<Trial> {
    let trial = d.plain(Op::Sample(PLAIN), 1);
    let uniform: Vec<f64> = (0..ROWS).map(|_| d.rng.uniform() * (1.0 - 2f64.powi(-24))).collect();
    let each = |value: f64| vec![value; ROWS];
    let trial = trial.values(DType::F32, &[ROWS], &uniform).values(DType::F32, &[ROWS], &each(0.75));
    let trial = trial.values(DType::I32, &[ROWS], &each(9.0)).values(DType::F32, &[ROWS], &each(0.875));
    Ok(trial.values(DType::F32, &[ROWS], &each(0.015_625)))
}

fn kv_write(d: &mut Draw) -> Found<Trial> {
    const TOKENS: usize = 5;
    let mut trial = Trial::new(Op::KvWrite(KvWriteAttrs { kv_layout: d.pages.layout }));
    for _ in 0..2 {
        trial = d.onto(trial, &[TOKENS, 1, HEAD]);
    }
    let slots = d.some(TOKENS, 2 * d.pages.block_size);
    trial = trial.values(DType::I32, &[TOKENS], &slots);
    let cache = d.cache(2);
    Ok((0..2).fold(trial, |trial, _| d.onto(trial, &cache)))
}

/// Three sequences in any order: queries and keys, of which the sums are the same.
fn attention_prefill(d: &mut Draw) -> Found<Trial> {
    const CROWD: [(usize, usize); 3] = [(5, 9), (1, 17), (3, 6)];
    let order = d.rng.permutation(CROWD.len());
    let tokens: usize = CROWD.iter().map(|(queries, _)| queries).sum();
    let keys: usize = CROWD.iter().map(|(_, keys)| keys).sum();
    let mut trial = Trial::new(Op::AttentionPrefill(AttentionAttrs { causal: true, ..Default::default() }));
    trial = d.onto(trial, &[tokens, HEADS, HEAD]);
    for _ in 0..2 {
        trial = d.onto(trial, &[keys, 1, HEAD]);
    }
    let mut starts = vec![0.0];
    order.iter().for_each(|&i| starts.push(starts[starts.len() - 1] + CROWD[i].0 as f64));
    let lengths: Vec<f64> = order.iter().map(|&i| CROWD[i].1 as f64).collect();
    Ok(trial.values(DType::I32, &[starts.len()], &starts).values(DType::I32, &[lengths.len()], &lengths))
}

fn attention_decode(d: &mut Draw) -> Found<Trial> {
    const BATCH: usize = 3;
    let block = d.pages.block_size;
    let each = if block < 64 { 2 } else { 1 };
    let attrs = AttentionAttrs { causal: true, kv_layout: d.pages.layout, ..Default::default() };
    let mut trial = d.onto(Trial::new(Op::AttentionDecode(attrs)), &[BATCH, HEADS, HEAD]);
    let cache = d.cache(BATCH * each + 1);
    for _ in 0..2 {
        trial = d.onto(trial, &cache);
    }
    let lengths: Vec<f64> = (0..BATCH).map(|_| (1 + d.rng.below(each * block)) as f64).collect();
    let table = d.some(BATCH * each, BATCH * each + 1);
    Ok(trial.values(DType::I32, &[BATCH], &lengths).values(DType::I32, &[BATCH, each], &table))
}

fn grouped_product(d: &mut Draw) -> Found<Trial> {
    let op = Op::MatmulQuant(MatmulQuantAttrs { group_size: GROUP as u32, ..Default::default() });
    let trial = d.plain(op, 1);
    let (desc, codes) = d.codes(&[COLUMNS, COLUMNS])?;
    let groups = [COLUMNS, COLUMNS / GROUP];
    let scales = to_bytes(DType::F32, &d.scales(groups[0] * groups[1]));
    Ok(trial.input(desc.as_constant(), codes).input(TensorDesc::new(DType::F32, &groups)?.as_constant(), scales))
}

fn block_product(d: &mut Draw) -> Found<Trial> {
    let trial = d.plain(Op::MatmulQuant(MatmulQuantAttrs::default()), 1);
    let blocks = COLUMNS * COLUMNS / DType::Q8_0.block_elems();
    let weights = block_bytes(&mut d.rng, DType::Q8_0, blocks);
    Ok(trial.input(TensorDesc::new(DType::Q8_0, &[COLUMNS, COLUMNS])?.as_constant(), weights))
}

fn scaled_product(d: &mut Draw) -> Found<Trial> {
    let ((a, left), (b, right)) = (d.codes(&[ROWS, COLUMNS])?, d.codes(&[COLUMNS, COLUMNS])?);
    let trial = Trial::new(Op::ScaledMatmul(PLAIN)).input(a, left).input(b.as_constant(), right);
    let (rows, columns) = (d.scales(ROWS), d.scales(COLUMNS));
    let trial = trial.values(DType::F32, &[ROWS], &rows).values(DType::F32, &[COLUMNS], &columns);
    Ok(trial.output_dtype(d.dtype))
}

/// A constant that the device wants in a layout of its own.
struct Packed {
    position: usize,
    desc: TensorDesc,
    layout: u64,
    bytes: usize,
}

/// A node that the device under test runs, planned.
pub(crate) struct Member {
    device: Arc<dyn Device>,
    make: Make,
    dtype: DType,
    pages: KvInfo,
    pub(crate) kind: OpKind,
    pub(crate) graph: Graph,
    pub(crate) plan: Arc<dyn Plan>,
    act: Option<DType>,
    /// The places of its results, and whether each is an operand, too.
    outputs: Vec<(usize, bool)>,
    packed: Vec<Packed>,
}

/// What operands hold, by their place, and the truth about them.
pub(crate) struct Facts {
    /// Nothing where something is packed or scratch.
    pub(crate) bytes: Vec<Option<Vec<u8>>>,
    golden: Golden,
}

/// Where a node finds everything: what is bound, then what constants are packed from, then the workspace.
#[derive(Clone)]
pub(crate) struct Places(pub(crate) Vec<Binding>);

impl Member {
    /// Every family that the device runs: one or more.
    pub(crate) fn each(device: &Arc<dyn Device>) -> Found<Vec<Member>> {
        let found = Member::all(device)?;
        if found.is_empty() {
            return Err(Broken::unsupported("it runs no small node of any operator as it is"));
        }
        Ok(found)
    }

    /// Every family that the device runs, in the first dtype that it takes.
    pub(crate) fn all(device: &Arc<dyn Device>) -> Found<Vec<Member>> {
        let mut found = Vec::new();
        for &make in NODES {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                if let Some(member) = Member::new(device, make, dtype)? {
                    found.push(member);
                    break;
                }
            }
        }
        Ok(found)
    }

    fn new(device: &Arc<dyn Device>, make: Make, dtype: DType) -> Found<Option<Member>> {
        let any = KvInfo { layout: KvLayout::BlockTokenHead, block_size: 0 };
        let mut pages = device.info().kv.first().copied().unwrap_or(any);
        pages.block_size = if pages.block_size == 0 { 16 } else { pages.block_size };
        let trial = draw(make, dtype, pages, 0)?;
        let built = trial.build()?;
        let node = &built.graph.nodes()[0];
        let taken = |position: &usize| node.inputs.contains(&Some(built.graph.bound()[*position]));
        let outputs = built.written().into_iter().map(|p| (p, taken(&p))).collect();
        let (kind, mut graph, mut packed) = (node.op.kind(), built.graph, Vec::new());
        loop {
            let answer = device.support(&graph).into_iter().next();
            match answer.as_ref().map(|s| &s.answer) {
                Some(&Support::Relayout { operand, layout }) if packed.len() < 8 => {
                    let Some(id) = graph.nodes()[0].inputs.get(operand).copied().flatten() else { return Ok(None) };
                    let position = graph.bound().iter().position(|b| *b == id).expect("operands are bound");
                    let desc = graph.desc(id).clone();
                    let bytes = device.prepack_bytes(&desc, layout)?;
                    packed.push(Packed { position, desc, layout, bytes });
                    graph.set_layout(id, layout)?;
                }
                Some(Support::Native) => {
                    let plan = device.plan(&graph).map_err(|e| {
                        Broken::contract(format!("support calls {kind} native, yet it can't be planned: {e}"))
                    })?;
                    let (device, act) = (device.clone(), answer.and_then(|s| s.act_dtype));
                    let member = Member { device, make, dtype, pages, kind, graph, plan, act, outputs, packed };
                    return Ok(Some(member));
                }
                _ => return Ok(None),
            }
        }
    }

    fn drawn(&self, seed: u64) -> Found<Trial> {
        draw(self.make, self.dtype, self.pages, seed)
    }

    /// The bytes of a trial, by place.
    fn placed(&self, trial: &Trial) -> Found<Vec<Option<Vec<u8>>>> {
        let mut bytes: Vec<Option<Vec<u8>>> = trial.build()?.bytes.into_iter().map(Some).collect();
        let sources: Vec<_> = self.packed.iter().map(|p| bytes[p.position].take()).collect();
        bytes.extend(sources);
        bytes.push(None);
        Ok(bytes)
    }

    /// Operands of a seed, and the truth about them. Constants are those of every seed.
    pub(crate) fn facts(&self, seed: u64) -> Found<Facts> {
        let trial = self.drawn(seed)?.with_constants_of(&self.drawn(0)?);
        Ok(Facts { bytes: self.placed(&trial)?, golden: trial.golden(self.act)? })
    }

    /// Bytes that any place could hold and that are others than those of this seed, constants included.
    pub(crate) fn decoys(&self, seed: u64) -> Found<Vec<Vec<u8>>> {
        let mut bytes = self.placed(&self.drawn(seed.wrapping_add(1000))?)?;
        for &(place, taken) in &self.outputs {
            bytes[place] = bytes[place].take().filter(|_| taken);
        }
        let sizes = self.sizes()?.into_iter().enumerate();
        Ok(bytes.into_iter().zip(sizes).map(|(b, (i, n))| b.unwrap_or_else(|| pattern(90 + i as u64, n))).collect())
    }

    /// Bytes of each place.
    pub(crate) fn sizes(&self) -> Found<Vec<usize>> {
        let bound = self.graph.bound().iter();
        let mut sizes = bound.map(|&id| self.graph.desc(id).bytes()).collect::<qiao_core::Result<Vec<_>>>()?;
        for packed in &self.packed {
            sizes.push(sizes[packed.position]);
            sizes[packed.position] = packed.bytes;
        }
        sizes.push(self.plan.info().workspace_bytes);
        Ok(sizes)
    }

    /// What a place is, for people.
    pub(crate) fn name(&self, place: usize) -> String {
        match place.checked_sub(self.graph.bound().len()) {
            None if self.outputs.iter().any(|(p, _)| *p == place) => format!("a result of {}", self.kind),
            None => format!("operand {place} of {}", self.kind),
            Some(i) => match self.packed.get(i) {
                Some(packed) => format!("what operand {} of {} is packed from", packed.position, self.kind),
                None => format!("the workspace of {}", self.kind),
            },
        }
    }

    /// Room for one execution, nothing in it yet.
    pub(crate) fn room(&self) -> Found<Places> {
        let pad = self.device.info().tensor_tail_pad;
        let each = self.sizes()?.into_iter();
        let each = each.map(|bytes| Ok(Binding::part(&self.device.alloc(0, bytes + pad)?, 0, bytes)));
        Ok(Places(each.collect::<qiao_core::Result<Vec<_>>>()?))
    }

    /// Fills operands, packs what is packed, and poisons results.
    pub(crate) fn load(&self, stream: &mut dyn Stream, room: &Places, facts: &Facts) -> Held {
        for (binding, bytes) in room.0.iter().zip(&facts.bytes) {
            if let Some(bytes) = bytes {
                stream.upload(binding, bytes)?;
            }
        }
        for (i, packed) in self.packed.iter().enumerate() {
            let (from, to) = (&room.0[self.graph.bound().len() + i], &room.0[packed.position]);
            self.device.prepack(stream, &packed.desc, from, packed.layout, to)?;
        }
        self.poison(stream, room)
    }

    /// Poisons results that are no operands.
    pub(crate) fn poison(&self, stream: &mut dyn Stream, room: &Places) -> Held {
        for (place, _) in self.outputs.iter().filter(|(_, taken)| !taken) {
            stream.fill(&room.0[*place], POISON)?;
        }
        Ok(())
    }

    /// Executes on what is there.
    pub(crate) fn execute(&self, stream: &mut dyn Stream, room: &Places) -> Held {
        self.execute_as(&*self.plan, stream, room)
    }

    /// Executes another plan of the same graph.
    pub(crate) fn execute_as(&self, plan: &dyn Plan, stream: &mut dyn Stream, room: &Places) -> Held {
        let workspace = room.0.last().expect("the workspace is a place");
        Ok(plan.execute(stream, &room.0[..self.graph.bound().len()], workspace)?)
    }

    /// Where results are.
    pub(crate) fn results<'a>(&self, room: &'a Places) -> Vec<&'a Binding> {
        self.outputs.iter().map(|(place, _)| &room.0[*place]).collect()
    }

    /// What results hold.
    pub(crate) fn read(&self, stream: &mut dyn Stream, room: &Places) -> Found<Vec<Vec<u8>>> {
        self.results(room).into_iter().map(|binding| read(stream, binding)).collect()
    }

    /// The operands that a node only reads, by their place.
    pub(crate) fn reads<'a>(&'a self, facts: &'a Facts) -> impl Iterator<Item = (usize, &'a Vec<u8>)> {
        let written = |place: usize| self.outputs.iter().any(|(p, _)| *p == place);
        facts
            .bytes
            .iter()
            .enumerate()
            .filter_map(move |(i, b)| Some((i, b.as_ref()?)))
            .filter(move |(i, _)| !written(*i))
    }

    /// The bytes must be the results for these operands.
    pub(crate) fn right(&self, facts: &Facts, got: &[Vec<u8>], what: &str) -> Held {
        let desc = |place: usize| self.graph.desc(self.graph.bound()[place]);
        let values = self.outputs.iter().zip(got).map(|((place, _), bytes)| Value::load(desc(*place), bytes));
        let found = facts.golden.compare(&values.collect::<qiao_core::Result<Vec<_>>>()?);
        for (i, one) in found.iter().enumerate() {
            ensure(one.passes(), || {
                let unwritten = got[i].iter().all(|b| *b == POISON);
                let how = if unwritten { "it was not written" } else { "it is wrong" };
                format!("{what}: result {i} of {}: {how} ({} of {} elements)", self.kind, one.failures, one.elements)
            })?;
        }
        Ok(())
    }
}

fn draw(make: Make, dtype: DType, pages: KvInfo, seed: u64) -> Found<Trial> {
    make(&mut Draw { rng: Rng::new(seed.wrapping_mul(7919).wrapping_add(23)), dtype, pages })
}

#[cfg(test)]
mod tests {
    use qiao_reference::ReferenceDevice;

    use super::*;

    #[test]
    fn every_node_runs_on_the_reference_and_goes_with_decoys() {
        let device: Arc<dyn Device> = Arc::new(ReferenceDevice::default());
        let members = Member::each(&device).unwrap();
        assert_eq!(members.len(), NODES.len());
        for member in &members {
            let (mut stream, room) = (device.stream().unwrap(), member.room().unwrap());
            let (facts, decoys) = (member.facts(1).unwrap(), member.decoys(1).unwrap());
            let mut seen = Vec::new();
            for (place, decoy) in room.0.iter().zip(&decoys) {
                member.load(&mut *stream, &room, &facts).unwrap();
                member.execute(&mut *stream, &room).unwrap();
                let got = member.read(&mut *stream, &room).unwrap();
                member.right(&facts, &got, "an execution").unwrap();
                // A decoy is a legal operand, and most make another result.
                stream.upload(place, decoy).unwrap();
                member.execute(&mut *stream, &room).unwrap();
                seen.push(member.read(&mut *stream, &room).unwrap() != got);
            }
            assert!(seen[0], "{}: another first operand makes no other result", member.kind);
        }
    }
}
