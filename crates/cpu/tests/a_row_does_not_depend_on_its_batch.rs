//! A row of a result depends on its own row of the operands and on the weights alone, bit for bit: not on how many rows run
//! beside it, nor on its place among them, nor on the number of threads.
//!
//! Every case holds some rows. Each runs alone; then all of them run at random places among other rows, and have to give
//! the same bits.

mod trials;

use qiao_core::*;
use qiao_cpu::{Activations, CpuDevice, Isa};
use qiao_reference::data::{Fill, Rng, block_bytes, to_bytes, values};
use qiao_reference::{Trial, Value};
use trials::{Data, Maker, open_with};

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const CODES: [DType; 7] = [DType::I4, DType::U4, DType::I8, DType::U8, DType::F8E4M3, DType::F8E5M2, DType::F4E2M1];
/// Rows of a batch.
const BATCHES: [usize; 10] = [2, 3, 4, 5, 8, 9, 16, 17, 33, 130];

/// An operand of a case.
enum Slot {
    /// A row of this dtype and shape for each row of the batch, made of such numbers.
    Rows(DType, Vec<usize>, fn(&mut Rng) -> f64),
    /// The same for all.
    Fixed(Data),
    Absent,
}

/// An operator and its operands.
struct Case {
    name: String,
    op: Op,
    slots: Vec<Slot>,
    out: Option<DType>,
    /// Whether some rows hold numbers that are not finite, or whose squares are not.
    wild: bool,
}

impl Case {
    fn new(name: impl Into<String>, op: Op) -> Self {
        Case { name: name.into(), op, slots: Vec::new(), out: None, wild: false }
    }

    fn rows(mut self, dtype: DType, shape: &[usize]) -> Self {
        self.slots.push(Slot::Rows(dtype, shape.to_vec(), Rng::normal));
        self
    }

    fn numbers(mut self, dtype: DType, shape: &[usize], number: fn(&mut Rng) -> f64) -> Self {
        self.slots.push(Slot::Rows(dtype, shape.to_vec(), number));
        self
    }

    fn fixed(mut self, data: Data) -> Self {
        self.slots.push(Slot::Fixed(data));
        self
    }

    fn absent(mut self, count: usize) -> Self {
        self.slots.extend((0..count).map(|_| Slot::Absent));
        self
    }

    fn out(mut self, dtype: DType) -> Self {
        self.out = Some(dtype);
        self
    }

    fn wild(mut self) -> Self {
        self.wild = true;
        self
    }

    /// One row of every operand that has rows, as bytes.
    fn row(&self, rng: &mut Rng, wild: bool) -> Vec<Vec<u8>> {
        let make = |slot: &Slot, rng: &mut Rng, wild: bool| match slot {
            Slot::Rows(dtype, shape, number) => {
                let len = shape.iter().product();
                let data = if wild {
                    let mut data = values(rng, Fill::Special, *dtype, len);
                    if rng.below(2) == 0 {
                        // The squares of such a row overflow and its numbers do not.
                        data.iter_mut().for_each(|x| *x = if x.is_finite() { *x } else { 1.0 });
                        data[len / 2] = 3e38;
                    }
                    data
                } else {
                    (0..len).map(|_| number(rng)).collect()
                };
                to_bytes(*dtype, &data)
            }
            _ => Vec::new(),
        };
        self.slots.iter().enumerate().map(|(i, slot)| make(slot, rng, wild && i == 0)).collect()
    }

    /// The results for these rows.
    fn run(&self, device: &CpuDevice, rows: &[&Vec<Vec<u8>>]) -> Vec<Value> {
        let mut trial = Trial::new(self.op);
        for (i, slot) in self.slots.iter().enumerate() {
            trial = match slot {
                Slot::Rows(dtype, shape, _) => {
                    let shape = [&[rows.len()][..], shape].concat();
                    let bytes = rows.iter().flat_map(|row| row[i].iter().copied()).collect();
                    trial.input(TensorDesc::new(*dtype, &shape).unwrap(), bytes)
                }
                Slot::Fixed((desc, bytes)) => trial.input(desc.clone(), bytes.clone()),
                Slot::Absent => trial.without(),
            };
        }
        let trial = if let Some(dtype) = self.out { trial.output_dtype(dtype) } else { trial };
        trial.run(device).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }
}

/// The bits of row `r` of every result; every NaN counts as the same.
fn bits(results: &[Value], r: usize, rows: usize) -> Vec<Vec<u64>> {
    let part = |v: &Value| {
        let len = v.data.len() / rows;
        let row = &v.data[r * len..][..len];
        row.iter().map(|x| if x.is_nan() { f64::NAN } else { *x }.to_bits()).collect()
    };
    results.iter().map(part).collect()
}

/// Every tier of this machine on one and on two threads, with either rounding of activations.
fn devices() -> Vec<Vec<CpuDevice>> {
    let both = |isa| [(isa, Activations::Bits16), (isa, Activations::Bits8)];
    let on_threads =
        |(isa, bits)| [1, 2].into_iter().filter_map(move |threads| open_with(isa, threads, bits)).collect();
    Isa::ALL.into_iter().flat_map(both).map(on_threads).collect()
}

/// Runs the cases, each with batches of these sizes.
fn check(seed: u64, cases: &[Case], batches: &[usize]) {
    let mut failures = Vec::new();
    let mut rng = Rng::new(seed);
    for tier in devices() {
        for case in cases {
            let rows: Vec<_> = (0..3).map(|i| case.row(&mut rng, case.wild && i == 2)).collect();
            let Some(first) = tier.first() else { continue };
            let alone: Vec<_> = rows.iter().map(|row| bits(&case.run(first, &[row]), 0, 1)).collect();
            for (i, &batch) in batches.iter().enumerate() {
                let others: Vec<_> = (0..batch).map(|_| case.row(&mut rng, case.wild && rng_is(batch, i))).collect();
                let mut mixed: Vec<_> = others.iter().collect();
                let places = rng.permutation(batch);
                let planted: Vec<_> = places.iter().copied().zip((0..3).cycle()).take(batch.div_ceil(2)).collect();
                planted.iter().for_each(|&(place, row)| mixed[place] = &rows[row]);
                let device = &tier[(batch + i) % tier.len()];
                let results = case.run(device, &mixed);
                let differs = |&&(place, row): &&(usize, usize)| bits(&results, place, batch) != alone[row];
                if let Some((place, row)) = planted.iter().find(differs) {
                    let (got, want) = (bits(&results, *place, batch), &alone[*row]);
                    let at = got.iter().flatten().zip(want.iter().flatten()).position(|(a, b)| a != b);
                    failures.push(format!(
                        "{} on {}: row {row} at {place} of {batch} differs first at {at:?}",
                        case.name,
                        device.info().arch
                    ));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures[..failures.len().min(40)].join("\n"));
}

/// Whether the other rows of a batch hold wild ones too.
fn rng_is(batch: usize, i: usize) -> bool {
    (batch + i).is_multiple_of(2)
}

fn constant((desc, bytes): Data) -> Data {
    (desc.as_constant(), bytes)
}

fn product(epilogue: Epilogue) -> Op {
    Op::Matmul(MatmulAttrs { trans_b: true, epilogue, ..Default::default() })
}

fn quant(group_size: u32, group_rows: u32, epilogue: Epilogue) -> Op {
    Op::MatmulQuant(MatmulQuantAttrs { group_size, group_rows, epilogue })
}

/// A case of a product with what its epilogue takes behind `before` operands that are not given.
fn follow(case: Case, m: &mut Maker, epilogue: Epilogue, before: usize, n: usize, act: DType) -> Case {
    match epilogue {
        Epilogue::None => case,
        Epilogue::BiasResidual => case.absent(before).fixed(m.of(act, &[n])).rows(act, &[n]),
        _ => case.absent(before).fixed(m.of(act, &[n])),
    }
}

const EPILOGUES: [Epilogue; 4] = [Epilogue::None, Epilogue::Bias, Epilogue::BiasResidual, Epilogue::Gelu];

#[test]
fn products_with_plain_weights() {
    let mut m = Maker::new(1);
    let mut cases = Vec::new();
    for (i, act) in FLOATS.into_iter().enumerate() {
        for (j, weight) in FLOATS.into_iter().enumerate() {
            for (s, (n, k)) in [(50, 1), (17, 31), (300, 402), (33, 1603)].into_iter().enumerate() {
                let epilogue = EPILOGUES[(i + j + s) % 4];
                let out = FLOATS[(i + s) % 3];
                let case =
                    Case::new(format!("{act} by {weight} {n}x{k} {epilogue}"), product(epilogue)).rows(act, &[k]);
                let case = case.fixed(constant(m.of(weight, &[n, k]))).out(out);
                cases.push(follow(case, &mut m, epilogue, 0, n, act));
            }
            let case = Case::new(format!("{act} by {weight} wild"), product(Epilogue::None)).rows(act, &[97]);
            cases.push(case.fixed(constant(m.of(weight, &[40, 97]))).out(DType::F32).wild());
        }
    }
    check(1, &cases, &BATCHES);
}

#[test]
fn products_with_operands_that_are_not_constant() {
    let mut m = Maker::new(2);
    let mut cases = Vec::new();
    for act in FLOATS {
        for weight in FLOATS {
            let case = Case::new(format!("{act} by variable {weight}"), product(Epilogue::Bias)).rows(act, &[139]);
            cases.push(case.fixed(m.of(weight, &[50, 139])).fixed(m.of(act, &[50])));
            // Every row has a matrix of its own.
            let case = Case::new(format!("{act} by {weight} in batches"), product(Epilogue::None)).rows(act, &[3, 70]);
            cases.push(case.rows(weight, &[20, 70]));
            let (desc, bytes) = constant(m.of(weight, &[139, 50]));
            let turned = Op::Matmul(MatmulAttrs { trans_b: false, ..Default::default() });
            cases.push(Case::new(format!("{act} by turned {weight}"), turned).rows(act, &[139]).fixed((desc, bytes)));
        }
    }
    check(2, &cases, &BATCHES);
}

fn blocks() -> impl Iterator<Item = DType> {
    DType::ALL.iter().copied().filter(|d| d.is_block())
}

#[test]
fn products_with_blocks_of_every_format() {
    let mut m = Maker::new(3);
    let mut cases = Vec::new();
    for (i, format) in blocks().enumerate() {
        for (n, count) in [(150, 5), (17, if format.block_elems() == 32 { 37 } else { 7 })] {
            let k = count * format.block_elems();
            let (act, epilogue) = (FLOATS[(i + n) % 3], EPILOGUES[(i + n) % 4]);
            let w = TensorDesc::new(format, &[n, k]).unwrap().as_constant();
            let bytes = block_bytes(&mut m.rng, format, n * count);
            let case = Case::new(format!("{act} by {format} {n}x{k} {epilogue}"), quant(0, 0, epilogue));
            let case = case.rows(act, &[k]).fixed((w.clone(), bytes.clone())).out(FLOATS[i % 3]);
            cases.push(follow(case, &mut m, epilogue, 3, n, act));
            let case = Case::new(format!("f32 by {format} wild"), quant(0, 0, Epilogue::None));
            cases.push(case.rows(DType::F32, &[k]).fixed((w.clone(), bytes.clone())).wild());
            let variable = TensorDesc { constant: false, ..w };
            let case = Case::new(format!("{act} by variable {format}"), quant(0, 0, Epilogue::None));
            cases.push(case.rows(act, &[k]).fixed((variable, bytes)));
        }
    }
    check(3, &cases, &BATCHES);
}

fn codes(m: &mut Maker, dtype: DType, shape: &[usize]) -> Data {
    if matches!(dtype, DType::F8E4M3 | DType::F8E5M2) {
        return constant(m.of(dtype, shape));
    }
    let desc = TensorDesc::new(dtype, shape).unwrap().as_constant();
    let bytes = (0..desc.bytes().unwrap()).map(|_| m.rng.bits() as u8).collect();
    (desc, bytes)
}

fn table(m: &mut Maker, dtype: DType, shape: &[usize], number: impl Fn(&mut Rng) -> f64) -> Data {
    let desc = TensorDesc::new(dtype, shape).unwrap().as_constant();
    let data: Vec<f64> = (0..desc.elements()).map(|_| number(&mut m.rng)).collect();
    (desc, to_bytes(dtype, &data))
}

#[test]
fn products_with_codes_in_groups() {
    let mut m = Maker::new(4);
    let mut cases = Vec::new();
    for (i, code) in CODES.into_iter().enumerate() {
        for (j, (group, k)) in [(32, 448), (128, 1280), (0, 100), (48, 192)].into_iter().enumerate() {
            let groups = usize::checked_div(k, group).unwrap_or(1);
            for zeros in [None, Some(DType::U8), Some(DType::F16)] {
                let (n, act) = ([34, 150][(i + j) % 2], FLOATS[(i + j) % 3]);
                let name = format!("{act} by {code} {n}x{k} in groups of {group}, zeros {zeros:?}");
                let mut case = Case::new(name, quant(group as u32, 0, Epilogue::None));
                case = case.rows(act, &[k]).fixed(codes(&mut m, code, &[n, k]));
                case = case.fixed(table(&mut m, DType::F16, &[n, groups], |r| 0.01 + 0.02 * r.uniform()));
                if let Some(dtype) = zeros {
                    case = case.fixed(table(&mut m, dtype, &[n, groups], |r| r.below(15) as f64));
                }
                cases.push(if j == 1 && act != DType::F16 { case.wild() } else { case });
            }
        }
        let case =
            Case::new(format!("f32 by {code} in tiles"), quant(128, 128, Epilogue::None)).rows(DType::F32, &[256]);
        let case = case.fixed(codes(&mut m, code, &[200, 256]));
        cases.push(case.fixed(table(&mut m, DType::F32, &[2, 2], |r| 0.01 + r.uniform())));
    }
    check(4, &cases, &BATCHES);
}

#[test]
fn products_with_inputs_that_name_their_groups() {
    let mut m = Maker::new(5);
    let mut cases = Vec::new();
    for (code, act, group) in [(DType::U4, DType::F32, 40), (DType::I4, DType::BF16, 64), (DType::U8, DType::F16, 32)] {
        for zeros in [false, true] {
            let (n, k) = (37, 10 * group);
            let case = Case::new(format!("{act} by {code} in order"), quant(group as u32, 0, Epilogue::None));
            let case = case.rows(act, &[k]).fixed(codes(&mut m, code, &[n, k]));
            let case = case.fixed(table(&mut m, DType::F16, &[n, 10], |r| 0.01 + 0.02 * r.uniform()));
            let case = match zeros {
                true => case.fixed(table(&mut m, DType::U8, &[n, 10], |r| r.below(16) as f64)),
                false => case.absent(1),
            };
            let order: Vec<f64> = m.rng.permutation(k).iter().map(|&c| (c / group) as f64).collect();
            cases.push(case.fixed((TensorDesc::new(DType::I32, &[k]).unwrap(), to_bytes(DType::I32, &order))));
        }
    }
    check(5, &cases, &BATCHES);
}

#[test]
fn products_of_int8() {
    let mut m = Maker::new(6);
    let mut cases = Vec::new();
    let code: fn(&mut Rng) -> f64 = |r| r.below(256) as f64 - 128.0;
    for (n, k) in [(16, 4), (150, 403), (33, 1700)] {
        for constant in [true, false] {
            let (mut w, bytes) = m.codes(&[n, k]);
            w.constant = constant;
            let case = Case::new(format!("int8 {n}x{k}"), Op::ScaledMatmul(NoAttrs {})).numbers(DType::I8, &[k], code);
            let case = case.fixed((w, bytes)).rows(DType::F32, &[]).fixed(m.of(DType::F32, &[n]));
            cases.push(case.fixed(m.of(DType::F16, &[n])).out(DType::BF16));
        }
    }
    check(6, &cases, &BATCHES);
}

/// Operators that work row by row, for one dtype.
fn rowwise(m: &mut Maker, x: DType) -> Vec<Case> {
    let plain = |kind: OpKind| Op::from_words(kind, &[]).unwrap();
    let norm = |offset, round| NormAttrs { eps: 1e-5, weight_offset: offset, round_before_weight: round };
    let mut cases = Vec::new();
    for n in [5, 97, 1500] {
        for (offset, round) in [(0, false), (1, false), (0, true)] {
            let case = Case::new(format!("rms_norm {x} {n}"), Op::RmsNorm(norm(offset, round)));
            cases.push(case.rows(x, &[n]).fixed(m.of(x, &[n])));
            let case = Case::new(format!("add_rms_norm {x} {n}"), Op::AddRmsNorm(norm(offset, round)));
            cases.push(case.rows(x, &[n]).rows(x, &[n]).fixed(m.of(x, &[n])));
        }
        let case = Case::new(format!("layer_norm {x} {n}"), Op::LayerNorm(LayerNormAttrs { eps: 1e-5 }));
        cases.push(case.rows(x, &[n]).fixed(m.of(x, &[n])).fixed(m.of(x, &[n])));
        let softmax = Op::Softmax(SoftmaxAttrs { causal: false, scale: 0.3 });
        cases.push(Case::new(format!("softmax {x} {n}"), softmax).rows(x, &[n]).wild());
        for kind in [ReduceKind::Sum, ReduceKind::Mean, ReduceKind::Max] {
            let op = Op::Reduce(ReduceAttrs { kind, axis: 1, keep_dim: true });
            cases.push(Case::new(format!("reduce {x} {n}"), op).rows(x, &[n]));
        }
        let silu_mul = Op::SiluMul(SiluMulAttrs { gate_second: false, clamp: 0.0 });
        cases.push(Case::new(format!("silu_mul {x} {n}"), silu_mul).rows(x, &[n]).rows(x, &[n]));
        cases.push(Case::new(format!("silu_mul in one {x} {n}"), silu_mul).rows(x, &[2 * n]));
        let kinds = [OpKind::Silu, OpKind::Gelu, OpKind::Sigmoid, OpKind::Tanh, OpKind::Exp, OpKind::QuantizeDynamic];
        for kind in kinds {
            cases.push(Case::new(format!("{kind} {x} {n}"), plain(kind)).rows(x, &[n]));
        }
        for kind in [OpKind::Add, OpKind::Mul] {
            cases.push(Case::new(format!("{kind} {x} {n}"), plain(kind)).rows(x, &[n]).rows(x, &[n]));
            cases.push(Case::new(format!("{kind} {x} {n} by one row"), plain(kind)).rows(x, &[n]).fixed(m.of(x, &[n])));
        }
        let one = |x: f64| (TensorDesc::new(DType::F32, &[1]).unwrap(), to_bytes(DType::F32, &[x]));
        let case = Case::new(format!("quantize_static {x} {n}"), plain(OpKind::QuantizeStatic)).rows(x, &[n]);
        cases.push(case.fixed(one(0.013)).fixed(one(-3.0)));
        cases.push(Case::new(format!("argmax {x} {n}"), plain(OpKind::Argmax)).rows(x, &[n]).wild());
        cases.push(Case::new(format!("top_k {x} {n}"), Op::TopK(TopKAttrs { k: 4 })).rows(x, &[n]));
        let case = Case::new(format!("sample {x} {n}"), plain(OpKind::Sample)).rows(x, &[n]);
        let case = case.numbers(DType::F32, &[], Rng::uniform).numbers(DType::F32, &[], |r| r.below(3) as f64 * 0.6);
        let case = case.numbers(DType::I32, &[], |r| r.below(4) as f64);
        let case = case.numbers(DType::F32, &[], |r| 0.5 + 0.5 * r.uniform());
        cases.push(case.numbers(DType::F32, &[], |r| 0.1 * r.uniform()));
    }
    for style in [RopeStyle::HalfSplit, RopeStyle::Interleaved] {
        let op = Op::Rope(RopeAttrs { style, rotary_dim: 20, offset: 4 });
        let case = Case::new(format!("rope {x}"), op).rows(x, &[3, 26]);
        let case = case.numbers(DType::I32, &[], |r| r.below(11) as f64);
        cases.push(case.fixed(m.of(DType::F32, &[11, 10])).fixed(m.of(DType::F32, &[11, 10])));
    }
    let ids: fn(&mut Rng) -> f64 = |r| r.below(9) as f64;
    let gather = plain(OpKind::GatherRows);
    cases.push(Case::new("gather_rows", gather).fixed(m.of(x, &[9, 70])).numbers(DType::I32, &[], ids));
    let q6 = TensorDesc::new(DType::Q6K, &[9, 512]).unwrap();
    let bytes = block_bytes(&mut m.rng, DType::Q6K, 18);
    cases.push(Case::new("gather_rows of blocks", gather).fixed((q6, bytes)).numbers(DType::I32, &[], ids).out(x));
    cases
}

#[test]
fn operators_that_work_row_by_row() {
    let mut m = Maker::new(7);
    let cases: Vec<Case> = FLOATS.into_iter().flat_map(|x| rowwise(&mut m, x)).collect();
    check(7, &cases, &[2, 3, 9, 33, 130]);
}
