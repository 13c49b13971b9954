//! Quantised products: block formats, codes in groups, what follows the product.
#![allow(missing_docs, reason = "the name of a list is the promise that its trials hold a device to")]

use qiao_core::*;
use qiao_reference::Trial;
use qiao_reference::data::{Fill, block_bytes, to_bytes};

use super::{Data, Maker, constant, plain, with};

/// The dtypes of activations, in the order in which these lists take turns.
const FLOATS: [DType; 3] = [DType::BF16, DType::F16, DType::F32];
/// The block formats that most checkpoints have.
pub const BLOCKS: [DType; 4] = [DType::Q4_0, DType::Q8_0, DType::Q4K, DType::Q6K];

/// Codes whose scales lie beside them.
pub const CODES: [DType; 5] = [DType::I4, DType::U4, DType::I8, DType::U8, DType::F8E4M3];

/// The operator on weights in groups of so many inputs and outputs; 0 = the format's own, or all.
pub fn op(group_size: u32, group_rows: u32, epilogue: Epilogue) -> Op {
    Op::MatmulQuant(MatmulQuantAttrs { group_size, group_rows, epilogue })
}

/// A constant weight of `n` rows of `blocks` blocks.
pub fn weight(m: &mut Maker, format: DType, n: usize, blocks: usize) -> Data {
    let desc = plain(format, &[n, blocks * format.block_elems()]);
    constant((desc, block_bytes(&mut m.rng, format, n * blocks)))
}

/// Constant codes; those of fp8 are numbers.
pub fn codes(m: &mut Maker, dtype: DType, shape: &[usize]) -> Data {
    if dtype == DType::F8E4M3 {
        return constant(m.of(dtype, shape));
    }
    constant(m.bits(dtype, shape, 0))
}

/// A constant table of numbers.
pub fn table(m: &mut Maker, dtype: DType, shape: &[usize], number: impl Fn(&mut Maker) -> f64) -> Data {
    let desc = plain(dtype, shape);
    let data: Vec<f64> = (0..desc.elements()).map(|_| number(m)).collect();
    constant((desc, to_bytes(dtype, &data)))
}

/// Constant scales.
pub fn scales(m: &mut Maker, dtype: DType, shape: &[usize]) -> Data {
    table(m, dtype, shape, |m| 0.01 + 0.02 * m.rng.uniform())
}

/// `rows` rows against codes in groups.
pub fn grouped(
    m: &mut Maker,
    x: DType,
    rows: usize,
    code: DType,
    [n, k]: [usize; 2],
    group: usize,
    scale: DType,
) -> Trial {
    let a = m.of(x, &[rows, k]);
    let w = codes(m, code, &[n, k]);
    let groups = if group == 0 { 1 } else { k.div_ceil(group) };
    let trial = with(with(Trial::new(op(group as u32, 0, Epilogue::None)), a), w);
    with(trial, scales(m, scale, &[n, groups]))
}

pub fn common_block_formats_at_one_to_nine_rows() -> Vec<Trial> {
    let mut m = Maker::new(41);
    let mut trials = Vec::new();
    for format in BLOCKS {
        for rows in 1..=9 {
            let (n, blocks) = ([17, 5, 33, 16, 1, 47, 18, 31, 17][rows - 1], [1, 2, 5, 3, 1, 2, 4, 1, 3][rows - 1]);
            let a = m.of(FLOATS[(rows + n) % 3], &[rows, blocks * format.block_elems()]);
            let w = weight(&mut m, format, n, blocks);
            trials.push(with(with(Trial::new(op(0, 0, Epilogue::None)), a), w));
        }
    }
    trials
}

pub fn many_rows() -> Vec<Trial> {
    let mut m = Maker::new(42);
    let mut trials = Vec::new();
    for (i, format) in BLOCKS.into_iter().enumerate() {
        for (rows, n) in [(17, 19), (33, 130)] {
            let a = m.of(FLOATS[(rows + i) % 2], &[rows, 2 * format.block_elems()]);
            trials.push(with(with(Trial::new(op(0, 0, Epilogue::None)), a), weight(&mut m, format, n, 2)));
        }
    }
    for (rows, n, format) in [(65, 19, DType::Q4_0), (131, 34, DType::Q4K), (22, 33, DType::Q6K), (70, 17, DType::Q8_0)]
    {
        let x = if rows == 22 { DType::F32 } else { DType::BF16 };
        let a = m.of(x, &[rows, 256]);
        let w = weight(&mut m, format, n, 256 / format.block_elems());
        trials.push(with(with(Trial::new(op(0, 0, Epilogue::None)), a), w));
    }
    trials
}

pub fn inputs_are_many() -> Vec<Trial> {
    let mut m = Maker::new(43);
    let mut trials = Vec::new();
    for (i, format) in BLOCKS.into_iter().enumerate() {
        for rows in [1, 10] {
            let k = 2560 + 256 * i;
            let a = m.of(FLOATS[i % 2], &[rows, k]);
            let w = weight(&mut m, format, 18, k / format.block_elems());
            trials.push(with(with(Trial::new(op(0, 0, Epilogue::None)), a), w));
        }
    }
    for code in CODES {
        trials.push(grouped(&mut m, DType::BF16, 1, code, [17, 2048], 128, DType::F16));
    }
    trials
}

pub fn what_follows_the_product() -> Vec<Trial> {
    let mut m = Maker::new(44);
    let mut trials = Vec::new();
    for (i, format) in BLOCKS.into_iter().enumerate() {
        for rows in [1, 3, 12] {
            let (x, y) = (FLOATS[(i + rows) % 3], FLOATS[(i + 1) % 3]);
            for (e, epilogue) in
                [Epilogue::Bias, Epilogue::BiasResidual, Epilogue::Gelu, Epilogue::SiluMul].into_iter().enumerate()
            {
                let (n, k) = (38, format.block_elems());
                let a = m.of(x, &[rows, k]);
                let trial = with(with(Trial::new(op(0, 0, epilogue)), a), weight(&mut m, format, n, 1));
                let trial = trial.without().without().without();
                let needed = matches!(epilogue, Epilogue::Bias);
                let trial = if needed || (i + e) % 2 == 0 { with(trial, m.of(y, &[n])) } else { trial.without() };
                let residual = m.of(x, &[rows, n]);
                let trial = if epilogue == Epilogue::BiasResidual { with(trial, residual) } else { trial };
                trials.push(trial.output_dtype(y));
            }
        }
    }
    for rows in [2, 11] {
        let a = m.of(DType::F16, &[rows, 96]);
        let trial = with(with(Trial::new(op(32, 0, Epilogue::SiluMul)), a), codes(&mut m, DType::U4, &[22, 96]));
        let trial = with(trial, scales(&mut m, DType::F16, &[22, 3]));
        trials.push(with(trial, table(&mut m, DType::U8, &[22, 3], |m| m.rng.below(16) as f64)));
    }
    trials
}

pub fn activations_lie_as_they_like() -> Vec<Trial> {
    let mut m = Maker::new(45);
    let mut trials = Vec::new();
    for x in FLOATS {
        for rows in [1, 2, 9] {
            for a in
                [m.strided(x, &[rows, 256], &[515, 2]), m.strided(x, &[rows, 256], &[0, 0]), m.of(x, &[1, rows, 256])]
            {
                trials.push(with(with(Trial::new(op(0, 0, Epilogue::None)), a), weight(&mut m, DType::Q8_0, 18, 8)));
            }
        }
        let a = m.of(x, &[4, 128]);
        let trial = with(with(Trial::new(op(0, 0, Epilogue::None)), a), weight(&mut m, DType::Q4_0, 18, 4));
        trials.push(trial.output_strides(&[40, 1]));
    }
    trials
}

/// Codes in groups of every size, with the zeros of these dtypes that are in the list `zeros` of their code.
fn in_groups(seed: u64, zeros: impl Fn(DType) -> Vec<Option<DType>>) -> Vec<Trial> {
    let mut m = Maker::new(seed);
    let mut trials = Vec::new();
    for (i, code) in CODES.into_iter().enumerate() {
        for (j, (group, k)) in [(32, 96), (64, 128), (128, 384), (0, 96), (256, 512)].into_iter().enumerate() {
            let groups = usize::checked_div(k, group).unwrap_or(1);
            for (z, zero) in zeros(code).into_iter().enumerate() {
                if zero.is_some_and(|z| code == DType::F8E4M3 || z.is_packed() && !groups.is_multiple_of(2)) {
                    continue;
                }
                let (rows, n) = ([1, 4, 10][(i + z) % 3], [34, 16, 21][(i + j) % 3]);
                let scale = FLOATS[(i + j + z) % 3];
                let trial = grouped(&mut m, FLOATS[(j + z) % 2], rows, code, [n, k], group, scale);
                trials.push(match zero {
                    None => trial,
                    Some(DType::F16) => with(trial, table(&mut m, DType::F16, &[n, groups], |m| 8.0 * m.rng.uniform())),
                    Some(z) => with(trial, codes(&mut m, z, &[n, groups])),
                });
            }
        }
    }
    trials
}

pub fn groups_of_every_code_have_zeros_of_its_kind() -> Vec<Trial> {
    let same = |code: DType, zero: &DType| zero.kind() == code.kind();
    let zeros = |code| [DType::U8, DType::I8, code].into_iter().filter(move |z| same(code, z)).map(Some);
    in_groups(46, |code| [None].into_iter().chain(zeros(code)).collect())
}

pub fn groups_of_every_code_have_zeros_of_another_kind() -> Vec<Trial> {
    let other = |code: DType, zero: &DType| zero.kind() != code.kind();
    in_groups(56, |code| [DType::U8, DType::I8, DType::F16].into_iter().filter(|z| other(code, z)).map(Some).collect())
}

pub fn blocks_of_outputs_share_scales() -> Vec<Trial> {
    let mut m = Maker::new(47);
    let mut trials = Vec::new();
    for (code, n, k, group, rows) in [
        (DType::F8E4M3, 200, 256, 128, 128),
        (DType::F8E4M3, 100, 200, 128, 128),
        (DType::F8E4M3, 30, 130, 0, 30),
        (DType::I8, 40, 64, 32, 2),
        (DType::U4, 33, 96, 32, 16),
    ] {
        for batch in [1, 9] {
            let groups = if group == 0 { 1 } else { usize::div_ceil(k, group) };
            let a = m.of(DType::BF16, &[batch, k]);
            let w = codes(&mut m, code, &[n, k]);
            let trial = with(with(Trial::new(op(group as u32, rows as u32, Epilogue::None)), a), w);
            trials.push(with(trial, scales(&mut m, DType::F32, &[usize::div_ceil(n, rows), groups])));
        }
    }
    trials
}

pub fn every_fp8_code_is_its_value_and_nan_taints_its_row_alone() -> Vec<Trial> {
    let mut m = Maker::new(48);
    let mut trials = Vec::new();
    for x in FLOATS {
        for rows in [1, 9] {
            let a = m.of(x, &[rows, 256]);
            let mut bytes: Vec<u8> = (0..17).flat_map(|_| 0..=255u8).collect();
            bytes.iter_mut().enumerate().filter(|(i, b)| i / 256 != 3 && **b & 0x7f == 0x7f).for_each(|(_, b)| *b = 0);
            let w = plain(DType::F8E4M3, &[17, 256]).as_constant();
            let trial = with(Trial::new(op(0, 0, Epilogue::None)), a).input(w, bytes);
            trials.push(with(trial, scales(&mut m, DType::F32, &[17, 1])));
        }
    }
    trials
}

pub fn numbers_that_are_not_finite_stay_in_their_rows() -> Vec<Trial> {
    let mut m = Maker::new(49);
    let mut trials = Vec::new();
    for (i, format) in BLOCKS.into_iter().enumerate() {
        for rows in [1, 4, 12] {
            let a = m.special(FLOATS[(i + rows) % 3], &[rows, 256]);
            let w = weight(&mut m, format, 18, 256 / format.block_elems());
            trials.push(with(with(Trial::new(op(0, 0, Epilogue::None)), a), w));
        }
    }
    // Products of codes would overflow where those of weights do not.
    for rows in [1, 3, 9] {
        let huge: Vec<f64> = (0..rows * 64).map(|i| if i % 64 == 7 { 3e36 } else { 1.0 }).collect();
        for x in [DType::F32, DType::BF16] {
            let a = (plain(x, &[rows, 64]), to_bytes(x, &huge));
            let trial = with(with(Trial::new(op(32, 0, Epilogue::None)), a), codes(&mut m, DType::I8, &[18, 64]));
            trials.push(with(trial, scales(&mut m, DType::F32, &[18, 2])));
        }
    }
    trials
}

pub fn scales_may_be_zero_tiny_or_huge() -> Vec<Trial> {
    let mut m = Maker::new(50);
    let mut trials = Vec::new();
    for rows in [1, 10] {
        for scale in [0.0, 6e-8, 65504.0, -3.0] {
            let blocks: Vec<u8> = (0..18 * 4)
                .flat_map(|i| {
                    let mut block = block_bytes(&mut m.rng, DType::Q8_0, 1);
                    let chosen = if i % 2 == 0 { scale } else { 0.01 };
                    block[..2].copy_from_slice(&to_bytes(DType::F16, &[chosen]));
                    block
                })
                .collect();
            let w = plain(DType::Q8_0, &[18, 128]).as_constant();
            let a = m.of(DType::BF16, &[rows, 128]);
            trials.push(with(Trial::new(op(0, 0, Epilogue::None)).output_dtype(DType::F32), a).input(w, blocks));
        }
        for fill in [Fill::Subnormal, Fill::WideRange, Fill::Zero] {
            let a = m.fill(fill, plain(DType::F32, &[rows.min(2), 256]));
            trials.push(with(with(Trial::new(op(0, 0, Epilogue::None)), a), weight(&mut m, DType::Q4K, 17, 1)));
        }
    }
    trials
}

/// Products whose weights are their zero, each: exactly zero.
pub fn of_zeros() -> Vec<Trial> {
    let of = |rows| {
        let mut m = Maker::new(51);
        let a = m.of(DType::F32, &[rows, 256]);
        let w = plain(DType::U4, &[18, 256]).as_constant();
        let trial = with(Trial::new(op(64, 0, Epilogue::None)), a).input(w, vec![0x77; 18 * 128]);
        let trial = with(trial, scales(&mut m, DType::F16, &[18, 4]));
        with(trial, table(&mut m, DType::U8, &[18, 4], |_| 7.0))
    };
    [1, 9].map(of).to_vec()
}

pub fn weights_need_not_be_constant() -> Vec<Trial> {
    let mut m = Maker::new(52);
    let mut trials = Vec::new();
    for format in BLOCKS {
        for rows in [1, 9] {
            let a = m.of(DType::F32, &[rows, 256]);
            let (mut desc, bytes) = weight(&mut m, format, 19, 256 / format.block_elems());
            desc.constant = false;
            trials.push(with(with(Trial::new(op(0, 0, Epilogue::None)), a), (desc, bytes)));
        }
    }
    trials
}

pub fn empty_products_are_zeros() -> Vec<Trial> {
    let mut m = Maker::new(53);
    let mut trials = Vec::new();
    for (rows, n, blocks) in [(0, 3, 1), (2, 0, 1), (2, 3, 0), (9, 3, 0)] {
        for format in [DType::Q8_0, DType::Q6K] {
            let a = m.of(DType::BF16, &[rows, blocks * format.block_elems()]);
            trials.push(with(with(Trial::new(op(0, 0, Epilogue::None)), a), weight(&mut m, format, n, blocks)));
        }
        let a = m.of(DType::F16, &[rows, 64 * blocks]);
        let w = codes(&mut m, DType::I8, &[n, 64 * blocks]);
        let trial = with(with(Trial::new(op(32, 0, Epilogue::None)), a), w);
        trials.push(with(trial, scales(&mut m, DType::F32, &[n, 2 * blocks])));
    }
    trials
}

/// Groups that no step of inputs divides, and inputs in an order of their own: no kernel takes them.
pub fn odd_groups() -> Vec<Trial> {
    let mut m = Maker::new(55);
    let odd = grouped(&mut m, DType::BF16, 1, DType::U4, [4, 96], 48, DType::F16);
    let plain = grouped(&mut m, DType::BF16, 1, DType::U4, [4, 64], 32, DType::F16);
    let order: Vec<f64> = (0..64).map(|k| f64::from(k % 2)).collect();
    vec![odd, plain.without().values(DType::I32, &[64], &order)]
}

/// A device refuses the trial's node, which becomes a cast and what else it takes, up to a plain product.
///
/// # Panics
/// It does not.
#[track_caller]
pub fn is_refused_and_decomposes(device: &dyn Device, trial: &Trial) {
    let graph = trial.graph().expect("a trial is a graph");
    let answer = device.support(&graph).remove(0).answer;
    assert!(matches!(answer, Support::No(_)), "{graph}: {answer:?}");
    let node = graph.node(0);
    let mut apart = graph.without_nodes();
    let done = decompose::decompose(node.op(), &mut apart, &node.node.inputs, &node.node.outputs);
    assert!(done.expect("the pieces fit"), "{graph}");
    let kinds: Vec<OpKind> = apart.views().map(|node| node.kind()).collect();
    assert_eq!((kinds.first(), kinds.last()), (Some(&OpKind::Cast), Some(&OpKind::Matmul)), "{graph}");
}
