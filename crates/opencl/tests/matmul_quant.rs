//! Quantised products beside the truth: every format that has kernels, what follows the product, and what no kernel takes, on
//! both kinds of devices.

mod kinds;
mod rig;

use kinds::{check, kinds};
use qiao_core::*;
use qiao_reference::Trial;
use qiao_reference::data::{Fill, block_bytes, to_bytes, values};
use rig::{Data, Maker, with};

const FLOATS: [DType; 3] = [DType::BF16, DType::F16, DType::F32];
const BLOCKS: [DType; 4] = [DType::Q4_0, DType::Q8_0, DType::Q4K, DType::Q6K];
const OTHERS: [DType; 9] = [
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q2K,
    DType::Q3K,
    DType::Q5K,
    DType::Iq4Nl,
    DType::Iq4Xs,
    DType::Mxfp4,
];
const CODES: [DType; 5] = [DType::I4, DType::U4, DType::I8, DType::U8, DType::F8E4M3];

fn op(group_size: u32, group_rows: u32, epilogue: Epilogue) -> Op {
    Op::MatmulQuant(MatmulQuantAttrs { group_size, group_rows, epilogue })
}

fn constant((desc, bytes): Data) -> Data {
    (desc.as_constant(), bytes)
}

/// A constant weight of `n` rows of `blocks` blocks.
fn weight(m: &mut Maker, format: DType, n: usize, blocks: usize) -> Data {
    let desc = TensorDesc::new(format, &[n, blocks * format.block_elems()]).unwrap();
    constant((desc, block_bytes(&mut m.rng, format, n * blocks)))
}

/// Constant codes; those of fp8 are numbers.
fn codes(m: &mut Maker, dtype: DType, shape: &[usize]) -> Data {
    if dtype == DType::F8E4M3 {
        return constant(m.of(dtype, shape));
    }
    let desc = TensorDesc::new(dtype, shape).unwrap();
    let bytes = (0..desc.bytes().unwrap()).map(|_| m.rng.bits() as u8).collect();
    constant((desc, bytes))
}

/// A constant table of numbers.
fn table(m: &mut Maker, dtype: DType, shape: &[usize], number: impl Fn(&mut Maker) -> f64) -> Data {
    let desc = TensorDesc::new(dtype, shape).unwrap();
    let data: Vec<f64> = (0..desc.elements()).map(|_| number(m)).collect();
    constant((desc, to_bytes(dtype, &data)))
}

fn scales(m: &mut Maker, dtype: DType, shape: &[usize]) -> Data {
    table(m, dtype, shape, |m| 0.01 + 0.02 * m.rng.uniform())
}

/// `rows` rows against codes in groups.
fn grouped(m: &mut Maker, x: DType, rows: usize, code: DType, [n, k]: [usize; 2], group: usize, scale: DType) -> Trial {
    let a = m.of(x, &[rows, k]);
    let w = codes(m, code, &[n, k]);
    let groups = if group == 0 { 1 } else { k.div_ceil(group) };
    let trial = with(with(Trial::new(op(group as u32, 0, Epilogue::None)), a), w);
    with(trial, scales(m, scale, &[n, groups]))
}

#[test]
fn every_block_format_at_one_to_nine_rows() {
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
    check("gem", &trials);
}

#[test]
fn formats_that_are_read_eight_by_eight() {
    let mut m = Maker::new(40);
    let mut trials = Vec::new();
    for (i, format) in OTHERS.into_iter().enumerate() {
        let rows = if i % 2 == 0 { 3 } else { 10 };
        let a = m.of(FLOATS[i % 3], &[rows, 2 * format.block_elems()]);
        trials.push(with(with(Trial::new(op(0, 0, Epilogue::None)), a), weight(&mut m, format, 19, 2)));
    }
    check("gem", &trials);
}

#[test]
fn many_rows() {
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
    check("gem", &trials);
}

#[test]
fn inputs_are_many() {
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
    check("gem", &trials);
}

#[test]
fn what_follows_the_product() {
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
    check("gem", &trials);
}

#[test]
fn activations_lie_as_they_like() {
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
    check("gem", &trials);
}

#[test]
fn groups_of_every_code_with_every_zero() {
    let mut m = Maker::new(46);
    let mut trials = Vec::new();
    for (i, code) in CODES.into_iter().enumerate() {
        for (j, (group, k)) in [(32, 96), (64, 128), (128, 384), (0, 96), (256, 512)].into_iter().enumerate() {
            for (z, zeros) in
                [None, Some(DType::U8), Some(DType::I8), Some(DType::F16), Some(code)].into_iter().enumerate()
            {
                let groups = usize::checked_div(k, group).unwrap_or(1);
                let fits = zeros.is_none_or(|z| code != DType::F8E4M3 && (!z.is_packed() || groups.is_multiple_of(2)));
                if !fits {
                    continue;
                }
                let (rows, n) = ([1, 4, 10][(i + z) % 3], [34, 16, 21][(i + j) % 3]);
                let scale = FLOATS[(i + j + z) % 3];
                let trial = grouped(&mut m, FLOATS[(j + z) % 2], rows, code, [n, k], group, scale);
                trials.push(match zeros {
                    None => trial,
                    Some(DType::F16) => with(trial, table(&mut m, DType::F16, &[n, groups], |m| 8.0 * m.rng.uniform())),
                    Some(z) => with(trial, codes(&mut m, z, &[n, groups])),
                });
            }
        }
    }
    check("gem", &trials);
}

#[test]
fn blocks_of_outputs_share_scales() {
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
    check("gem", &trials);
}

#[test]
fn every_fp8_code_is_its_value_and_nan_taints_its_row_alone() {
    let mut m = Maker::new(48);
    let mut trials = Vec::new();
    for x in FLOATS {
        for rows in [1, 9] {
            let a = m.of(x, &[rows, 256]);
            let mut bytes: Vec<u8> = (0..17).flat_map(|_| 0..=255u8).collect();
            bytes.iter_mut().enumerate().filter(|(i, b)| i / 256 != 3 && **b & 0x7f == 0x7f).for_each(|(_, b)| *b = 0);
            let w = TensorDesc::new(DType::F8E4M3, &[17, 256]).unwrap().as_constant();
            let trial = with(Trial::new(op(0, 0, Epilogue::None)), a).input(w, bytes);
            trials.push(with(trial, scales(&mut m, DType::F32, &[17, 1])));
        }
    }
    check("gem", &trials);
}

#[test]
fn numbers_that_are_not_finite_stay_in_their_rows() {
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
            let a = (TensorDesc::new(x, &[rows, 64]).unwrap(), to_bytes(x, &huge));
            let trial = with(with(Trial::new(op(32, 0, Epilogue::None)), a), codes(&mut m, DType::I8, &[18, 64]));
            trials.push(with(trial, scales(&mut m, DType::F32, &[18, 2])));
        }
    }
    check("gem", &trials);
}

#[test]
fn scales_may_be_zero_tiny_or_huge() {
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
            let w = TensorDesc::new(DType::Q8_0, &[18, 128]).unwrap().as_constant();
            let a = m.of(DType::BF16, &[rows, 128]);
            trials.push(with(Trial::new(op(0, 0, Epilogue::None)).output_dtype(DType::F32), a).input(w, blocks));
        }
        for fill in [Fill::Subnormal, Fill::WideRange, Fill::Zero] {
            let desc = TensorDesc::new(DType::F32, &[rows.min(2), 256]).unwrap();
            let a = (desc.clone(), to_bytes(DType::F32, &values(&mut m.rng, fill, DType::F32, desc.elements())));
            trials.push(with(with(Trial::new(op(0, 0, Epilogue::None)), a), weight(&mut m, DType::Q4K, 17, 1)));
        }
    }
    check("gem", &trials);
}

#[test]
fn weights_at_their_zero_are_exactly_zero() {
    for rows in [1, 9] {
        let mut m = Maker::new(51);
        let a = m.of(DType::F32, &[rows, 256]);
        let w = TensorDesc::new(DType::U4, &[18, 256]).unwrap().as_constant();
        let trial = with(Trial::new(op(64, 0, Epilogue::None)), a).input(w, vec![0x77; 18 * 128]);
        let trial = with(trial, scales(&mut m, DType::F16, &[18, 4]));
        let trial = with(trial, table(&mut m, DType::U8, &[18, 4], |_| 7.0));
        for (kind, device) in kinds() {
            let out = trial.run(&**device).unwrap();
            assert!(out[0].data.iter().all(|&y| y == 0.0), "{kind}: {:?}", &out[0].data[..8]);
        }
    }
}

#[test]
fn weights_need_not_be_constant() {
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
    check("gem", &trials);
}

#[test]
fn empty_products_are_zeros() {
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
    check("gem", &trials);
}

#[test]
fn what_no_kernel_takes_is_refused_and_decomposes() {
    let Some((_, device)) = kinds().first() else { return };
    let mut m = Maker::new(55);
    let refused = |trial: &Trial| {
        let graph = trial.graph().unwrap();
        let answer = device.support(&graph).remove(0).answer;
        assert!(matches!(answer, Support::No(_)), "{graph}: {answer:?}");
        let node = graph.node(0);
        let mut apart = graph.without_nodes();
        assert!(decompose::decompose(node.op(), &mut apart, &node.node.inputs, &node.node.outputs).unwrap(), "{graph}");
        let kinds: Vec<OpKind> = apart.views().map(|node| node.kind()).collect();
        assert_eq!((kinds.first(), kinds.last()), (Some(&OpKind::Cast), Some(&OpKind::Matmul)), "{graph}");
    };
    refused(&grouped(&mut m, DType::BF16, 1, DType::U4, [4, 96], 48, DType::F16));
    let trial = grouped(&mut m, DType::BF16, 1, DType::U4, [4, 64], 32, DType::F16);
    let order: Vec<f64> = (0..64).map(|k| f64::from(k % 2)).collect();
    refused(&trial.without().values(DType::I32, &[64], &order));
}
