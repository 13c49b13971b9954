//! Random graphs on devices that refuse random operators, with random homes: the results are those of the host alone, and
//! what moves is what the account says.

mod chip;
mod toy;

use std::collections::HashSet;
use std::sync::Arc;

use chip::{Bare, Bound, Chip};
use qiao_core::*;
use qiao_layers::*;
use qiao_reference::ReferenceDevice;
use toy::{desc, floats, raw};

const PLAIN: NoAttrs = NoAttrs {};
/// Rows and columns of every value.
const SHAPE: [usize; 2] = [4, 8];

/// A linear congruential generator with the constants of Knuth's MMIX; the upper bits are used.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.below(2001) as f32 / 1000.0 - 1.0).collect()
    }
}

/// A graph while it grows, and the bytes of its bound tensors.
struct Made {
    g: Graph,
    data: Vec<Vec<u8>>,
    values: Vec<TensorId>,
}

impl Made {
    fn bind(&mut self, random: &mut Random, shape: &[usize], constant: bool) -> TensorId {
        let desc = if constant { desc(shape).as_constant() } else { desc(shape) };
        self.data.push(raw(&random.values(desc.elements())));
        self.g.bind(format!("b{}", self.data.len()), desc)
    }

    fn ints(&mut self, shape: &[usize], values: &[i32]) -> TensorId {
        self.data.push(values.iter().flat_map(|v| v.to_le_bytes()).collect());
        self.g.bind("i", TensorDesc::new(DType::I32, shape).unwrap())
    }

    /// Two values with storage of their own.
    fn apart(&self, random: &mut Random) -> Option<[TensorId; 2]> {
        let (a, b) = (random.pick(&self.values), random.pick(&self.values));
        (self.g.root(a).0 != self.g.root(b).0).then_some([a, b])
    }

    fn grow(&mut self, random: &mut Random) {
        let (a, b) = (random.pick(&self.values), random.pick(&self.values));
        let made = match random.below(12) {
            0 => self.g.op1(Op::Add(PLAIN), &[a, b]).unwrap(),
            1 => self.g.op1(Op::Mul(PLAIN), &[a, b]).unwrap(),
            2 => self.g.op1(Op::Tanh(PLAIN), &[a]).unwrap(),
            3 => self.g.op1(Op::Softmax(SoftmaxAttrs::default()), &[a]).unwrap(),
            4 => self.g.op1(Op::SiluMul(SiluMulAttrs::default()), &[a, b]).unwrap(),
            5 | 6 => self.product(random, a, b),
            7 => self.norm_in_place(random, a),
            8 => self.turned(a),
            9 => self.part(random, a, b),
            10 => self.attention(random, a, b),
            _ => self.norm(random, a, b),
        };
        self.values.push(made);
    }

    fn product(&mut self, random: &mut Random, a: TensorId, b: TensorId) -> TensorId {
        let w = self.bind(random, &[8, 8], true);
        let epilogue = random.pick(&[Epilogue::None, Epilogue::BiasResidual, Epilogue::Gelu]);
        let op = Op::Matmul(MatmulAttrs { trans_b: true, epilogue, ..Default::default() });
        let last = (epilogue == Epilogue::BiasResidual).then_some(b);
        self.g.add(op, &[Some(a), Some(w), None, last]).unwrap()[0]
    }

    fn norm(&mut self, random: &mut Random, a: TensorId, b: TensorId) -> TensorId {
        let w = self.bind(random, &[8], true);
        let attrs = NormAttrs { eps: 1e-3, ..Default::default() };
        let out = self.g.add(Op::AddRmsNorm(attrs), &[Some(a), Some(b), Some(w)]).unwrap();
        self.values.push(out[0]);
        out[1]
    }

    fn norm_in_place(&mut self, random: &mut Random, a: TensorId) -> TensorId {
        let Some([x, y]) = self.apart(random) else { return self.g.op1(Op::Silu(PLAIN), &[a]).unwrap() };
        let out = self.g.temporary("y", desc(&SHAPE));
        let op = Op::AddRmsNorm(NormAttrs { eps: 1e-3, ..Default::default() });
        self.g.add_into(op, &[Some(x), Some(y)], &[x, out]).unwrap();
        out
    }

    /// The same bytes as rows of four, through an operator, and back.
    fn turned(&mut self, a: TensorId) -> TensorId {
        let rows = self.g.reshape(a, &[8, 4]).unwrap();
        let made = self.g.op1(Op::Softmax(SoftmaxAttrs::default()), &[rows]).unwrap();
        self.g.reshape(made, &SHAPE).unwrap()
    }

    /// Half of one value written into the other half of a tensor of its own, or of one that is bound.
    fn part(&mut self, random: &mut Random, a: TensorId, b: TensorId) -> TensorId {
        let half = desc(&[2, 8]);
        let upper = self.g.view(a, half.clone(), 64).unwrap();
        let whole = match random.below(2) {
            0 => self.bind(random, &SHAPE, false),
            _ => {
                let made = self.g.temporary("t", desc(&SHAPE));
                self.g.add_into(Op::Copy(PLAIN), &[Some(b)], &[made]).unwrap();
                made
            }
        };
        let lower = self.g.view(whole, half, 32).unwrap();
        self.g.add_into(Op::Silu(PLAIN), &[Some(upper)], &[lower]).unwrap();
        whole
    }

    /// Four tokens into a cache of their own, and attention over it.
    fn attention(&mut self, random: &mut Random, a: TensorId, b: TensorId) -> TensorId {
        let slots = self.ints(&[4], &[3, 0, 2, 5]);
        let (cu_q, kv_len, table) = (self.ints(&[2], &[0, 4]), self.ints(&[1], &[6]), self.ints(&[1, 2], &[1, 0]));
        let caches = [(); 2].map(|()| self.bind(random, &[2, 4, 2, 4], false));
        let [q, k] = [a, b].map(|id| self.g.reshape(id, &[4, 2, 4]).unwrap());
        let write = Op::KvWrite(KvWriteAttrs::default());
        self.g.add(write, &[k, k, slots, caches[0], caches[1]].map(Some)).unwrap();
        let attrs = AttentionAttrs { causal: true, ..Default::default() };
        let inputs = [q, caches[0], caches[1], cu_q, kv_len, table];
        let y = self.g.op1(Op::AttentionPrefill(attrs), &inputs).unwrap();
        self.g.reshape(y, &SHAPE).unwrap()
    }
}

fn make(seed: u64) -> Made {
    let mut random = Random(seed);
    let mut made = Made { g: Graph::new(), data: Vec::new(), values: Vec::new() };
    for _ in 0..2 {
        let x = made.bind(&mut random, &SHAPE, false);
        made.values.push(x);
    }
    for _ in 0..4 + random.below(8) {
        made.grow(&mut random);
    }
    for _ in 0..2 {
        let (last, y) = (random.pick(&made.values), made.bind(&mut random, &SHAPE, false));
        made.g.add_into(Op::Copy(PLAIN), &[Some(last)], &[y]).unwrap();
    }
    made
}

fn run(device: &Arc<dyn Device>, host: &Arc<dyn Device>, lowered: &Lowered, made: &Made) -> Vec<Vec<u8>> {
    let mut bound = Bound::new(device, host, lowered, &made.data);
    // Twice, so that state goes from one execution to the next.
    bound.execute().unwrap();
    bound.execute().unwrap();
    (0..made.data.len()).map(|at| bound.read(at)).collect()
}

fn close(want: &[Vec<u8>], got: &[Vec<u8>], made: &Made, seed: u64) {
    for ((w, g), &id) in want.iter().zip(got).zip(made.g.bound()) {
        if made.g.desc(id).dtype != DType::F32 {
            assert_eq!(w, g);
            continue;
        }
        for (w, g) in floats(w).into_iter().zip(floats(g)) {
            assert!((w - g).abs() <= 1e-3 * (1.0 + w.abs()), "seed {seed}: {g} instead of {w} in\n{}", made.g);
        }
    }
}

/// Operators that the graphs have, and some of their pieces.
const KINDS: [OpKind; 14] = [
    OpKind::Add,
    OpKind::Mul,
    OpKind::Tanh,
    OpKind::Softmax,
    OpKind::SiluMul,
    OpKind::Matmul,
    OpKind::AddRmsNorm,
    OpKind::RmsNorm,
    OpKind::Silu,
    OpKind::Copy,
    OpKind::KvWrite,
    OpKind::AttentionPrefill,
    OpKind::Gelu,
    OpKind::Cast,
];

#[test]
fn any_refusal_and_any_homes_give_the_results_of_the_host_alone() {
    let host: Arc<dyn Device> = Arc::new(ReferenceDevice::default());
    let mut seen = HashSet::new();
    for seed in 0..400 {
        let made = make(seed);
        let mut random = Random(seed ^ 0x5eed);
        let share = random.below(4);
        let refused: Vec<OpKind> = KINDS.into_iter().filter(|_| random.below(4) < share).collect();
        let chip = Chip::new(&refused, random.below(2) == 0);
        let log = chip.log.clone();
        let device: Arc<dyn Device> = match random.below(2) {
            0 => Validate::wrap(Arc::new(chip)),
            _ => Arc::new(chip),
        };
        let homes = [None, None, None, Some(Home::Device), Some(Home::Host)];
        let fixed: Vec<_> = match random.below(2) {
            0 => Vec::new(),
            _ => made.data.iter().map(|_| random.pick(&homes)).collect(),
        };
        let policy = Policy::Fallback(Fallback::new(host.clone()));
        let lowered = lower_with(&device, made.g.clone(), &policy, &fixed).unwrap();
        seen.insert(lowered.account.on_host().min(2));
        for (home, fixed) in lowered.homes.iter().zip(&fixed) {
            assert!(fixed.is_none_or(|fixed| fixed == *home), "seed {seed}");
        }
        let alone = lower(&host, made.g.clone(), &Policy::DeviceOnly).unwrap();
        let want = run(&host, &host, &alone, &made);
        close(&want, &run(&device, &host, &lowered, &made), &made, seed);

        let mut bound = Bound::new(&device, &host, &lowered, &made.data);
        log.take();
        bound.execute().unwrap();
        let told = lowered.account().hosted();
        assert_eq!(log.take(), (told.down + told.once, told.up), "seed {seed}\n{}", lowered.account());
        bound.execute().unwrap();
        assert_eq!(log.take(), (told.down, told.up), "seed {seed}\n{}", lowered.account());
        check_moves(&made.g, &lowered, seed);
    }
    assert_eq!(seen.len(), 3, "some graphs run on the device alone, some have one node on the host, some have more");
}

/// No node moves more than what it touches, and nothing that lives on the host.
fn check_moves(given: &Graph, lowered: &Lowered, seed: u64) {
    for entry in &lowered.account.entries {
        let Some(hosted) = entry.hosted() else { continue };
        let node = &given.nodes()[entry.node];
        let on_device = |id: &TensorId| match given.tensor(given.root(*id).0).storage {
            Storage::Bound(position) => lowered.homes[position] == Home::Device,
            _ => true,
        };
        let bytes = |ids: Vec<TensorId>| -> u64 {
            let roots: HashSet<TensorId> = ids.iter().filter(|id| on_device(id)).map(|id| given.root(*id).0).collect();
            roots.iter().map(|id| given.desc(*id).bytes().unwrap() as u64).sum()
        };
        let inputs: Vec<TensorId> = node.inputs.iter().flatten().copied().collect();
        let touched = bytes(inputs.iter().chain(&node.outputs).copied().collect());
        assert!(hosted.down + hosted.once <= touched, "seed {seed}: {entry:?}");
        // What a node wrote is uploaded once for the device and, where it was changed there since, not again.
        assert!(hosted.up <= bytes(node.outputs.clone()), "seed {seed}: {entry:?}");
    }
}

#[test]
fn a_device_that_refuses_everything_gives_the_bits_of_the_host() {
    let host: Arc<dyn Device> = Arc::new(ReferenceDevice::default());
    for seed in 1000..1150 {
        let made = make(seed);
        let mut random = Random(seed);
        let device: Arc<dyn Device> = match random.below(2) {
            0 => Arc::new(Bare(Chip::new(&[], true))),
            _ => Arc::new(Chip::new(OpKind::ALL, false)),
        };
        let fixed: Vec<_> = made.data.iter().map(|_| random.pick(&[None, Some(Home::Device)])).collect();
        let policy = Policy::Fallback(Fallback::new(host.clone()));
        let lowered = lower_with(&device, made.g.clone(), &policy, &fixed).unwrap();
        assert_eq!(lowered.account.on_host(), made.g.nodes().len());
        let alone = lower(&host, made.g.clone(), &Policy::DeviceOnly).unwrap();
        assert_eq!(run(&host, &host, &alone, &made), run(&device, &host, &lowered, &made), "seed {seed}\n{}", made.g);
    }
}
