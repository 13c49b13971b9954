//! Products with quantised weights of every format, group, zero, epilogue and stride, on every ISA tier, beside the
//! truth in f64.

mod trials;

use qiao_core::*;
use qiao_reference::Trial;
use qiao_reference::data::{block_bytes, to_bytes};
use trials::{Data, Maker, byte_devices, check_on, devices, with};

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const CODES: [DType; 7] = [DType::I4, DType::U4, DType::I8, DType::U8, DType::F8E4M3, DType::F8E5M2, DType::F4E2M1];

fn blocks() -> impl Iterator<Item = DType> {
    DType::ALL.iter().copied().filter(|d| d.is_block())
}

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
    if matches!(dtype, DType::F8E4M3 | DType::F8E5M2) {
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

/// Every trial, with either rounding of activations.
fn check_all(trials: &[Trial]) {
    check_on(&devices(), trials);
    check_on(&byte_devices(), trials);
}

#[test]
fn every_block_format_at_every_number_of_rows() {
    let mut m = Maker::new(21);
    let mut trials = Vec::new();
    for format in blocks() {
        for (rows, n, blocks) in
            [(1, 1, 1), (1, 50, 5), (2, 17, 1), (3, 16, 2), (4, 33, 3), (5, 47, 2), (8, 16, 1), (14, 35, 9)]
        {
            let a = m.of(FLOATS[(rows + n) % 3], &[rows, blocks * format.block_elems()]);
            let w = weight(&mut m, format, n, blocks);
            trials.push(with(with(Trial::new(op(0, 0, Epilogue::None)), a), w));
        }
    }
    check_all(&trials);
}

#[test]
fn long_inputs_cross_every_block_of_k() {
    let mut m = Maker::new(22);
    let mut trials = Vec::new();
    for format in [DType::Q4_0, DType::Q4K, DType::Q6K, DType::Q8_0, DType::Q5_1, DType::Q3K, DType::Mxfp4] {
        for rows in [1, 2, 6] {
            let k = 2560 + 256 * (rows % 2);
            let a = m.of(DType::F32, &[rows, k]);
            let w = weight(&mut m, format, 20, k / format.block_elems());
            trials.push(with(with(Trial::new(op(0, 0, Epilogue::None)), a), w));
        }
    }
    check_all(&trials);
}

#[test]
fn what_follows_the_product_and_the_strides_of_what_comes_before() {
    let mut m = Maker::new(23);
    let mut trials = Vec::new();
    for (i, format) in blocks().enumerate() {
        let (rows, n, k) = ([1, 3, 7][i % 3], 37, 2 * format.block_elems());
        let (x, y) = (FLOATS[i % 3], FLOATS[(i + 1) % 3]);
        for epilogue in [Epilogue::Bias, Epilogue::BiasResidual, Epilogue::Gelu] {
            let a = if i % 2 == 0 { m.gapped(x, &[rows, k]) } else { m.repeated(x, &[rows, k]) };
            let trial = with(with(Trial::new(op(0, 0, epilogue)), a), weight(&mut m, format, n, 2));
            let trial = with(trial.without().without().without(), m.gapped(y, &[n]));
            let residual = m.gapped(x, &[rows, n]);
            let trial = if epilogue == Epilogue::BiasResidual { with(trial, residual) } else { trial };
            trials.push(trial.output_dtype(y));
        }
        let a = m.uneven(x, 2, rows, k);
        trials.push(with(with(Trial::new(op(0, 0, Epilogue::None)), a), weight(&mut m, format, n, 2)));
    }
    check_all(&trials);
}

#[test]
fn weights_that_are_not_constant_are_multiplied_alike() {
    let mut m = Maker::new(24);
    let mut trials = Vec::new();
    for format in blocks() {
        for rows in [1, 5] {
            let a = m.of(DType::F32, &[rows, 2 * format.block_elems()]);
            let (mut desc, bytes) = weight(&mut m, format, 19, 2);
            desc.constant = false;
            trials.push(with(with(Trial::new(op(0, 0, Epilogue::None)), a), (desc, bytes)));
        }
    }
    check_all(&trials);
}

#[test]
fn groups_of_every_code_with_every_kind_of_zero() {
    let mut m = Maker::new(25);
    let mut trials = Vec::new();
    for (i, &code) in CODES.iter().enumerate() {
        for (j, group) in [32, 64, 128, 0, 48].into_iter().enumerate() {
            let k = [256, 192, 384, 96, 96][j];
            let groups = usize::checked_div(k, group).unwrap_or(1);
            for (z, zeros) in
                [None, Some(code), Some(DType::U8), Some(DType::F16), Some(DType::F32)].into_iter().enumerate()
            {
                let (rows, n) = ([1, 4, 6][(i + z) % 3], [34, 16, 21][(i + j) % 3]);
                let groups = if zeros.is_some_and(|z| z.is_packed()) { groups.next_multiple_of(2) } else { groups };
                let k = if group == 0 { if groups == 1 { k } else { continue } } else { groups * group };
                let a = m.of(FLOATS[j % 3], &[rows, k]);
                let w = codes(&mut m, code, &[n, k]);
                let trial = with(with(Trial::new(op(group as u32, 0, Epilogue::None)), a), w);
                let trial = with(trial, scales(&mut m, FLOATS[(i + j + z) % 3], &[n, groups]));
                trials.push(match zeros {
                    None => trial,
                    Some(z) if z == code => with(trial, codes(&mut m, z, &[n, groups])),
                    Some(z) => {
                        let step = if z == DType::U8 { 1.0 } else { 0.25 };
                        with(trial, table(&mut m, z, &[n, groups], |m| m.rng.below(61) as f64 * step))
                    }
                });
            }
        }
    }
    check_all(&trials);
}

#[test]
fn blocks_of_outputs_share_scales() {
    let mut m = Maker::new(26);
    let mut trials = Vec::new();
    for code in [DType::F8E4M3, DType::I8, DType::I4] {
        for (n, k, group, rows) in
            [(200, 256, 128, 128), (100, 200, 128, 128), (40, 64, 32, 2), (33, 96, 32, 16), (20, 70, 32, 4)]
        {
            for batch in [1, 5] {
                let table = [usize::div_ceil(n, rows), usize::div_ceil(k, group)];
                let a = m.of(DType::F32, &[batch, k]);
                let w = codes(&mut m, code, &[n, k]);
                let trial = with(with(Trial::new(op(group as u32, rows as u32, Epilogue::None)), a), w);
                let trial = with(trial, scales(&mut m, DType::F32, &table));
                trials.push(trial.clone());
                let zeros = crate::table(&mut m, DType::F16, &table, |m| m.rng.below(9) as f64);
                trials.push(with(trial, zeros));
            }
        }
    }
    check_all(&trials);
}

#[test]
fn inputs_in_the_order_of_activations() {
    let mut m = Maker::new(27);
    let mut trials = Vec::new();
    for (code, index) in [(DType::U4, DType::I32), (DType::I4, DType::I64), (DType::U8, DType::I32)] {
        for (rows, zeros, k, group) in
            [(1, false, 128, 32), (5, true, 128, 32), (2, true, 1120, 40), (7, false, 1216, 64)]
        {
            let n = 21;
            let a = m.of(DType::BF16, &[rows, k]);
            let w = codes(&mut m, code, &[n, k]);
            let trial = with(with(Trial::new(op(group as u32, 0, Epilogue::None)), a), w);
            let trial = with(trial, scales(&mut m, DType::F16, &[n, k / group]));
            let trial = match zeros {
                true => with(trial, table(&mut m, DType::U8, &[n, k / group], |m| m.rng.below(16) as f64)),
                false => trial.without(),
            };
            let order: Vec<f64> = m.rng.permutation(k).iter().map(|&c| (c / group) as f64).collect();
            trials.push(trial.values(index, &[k], &order));
        }
    }
    check_all(&trials);
}

#[test]
fn a_group_that_has_no_scales_is_an_error() {
    for device in devices() {
        let mut m = Maker::new(28);
        let a = m.of(DType::F32, &[1, 64]);
        let w = codes(&mut m, DType::U4, &[5, 64]);
        let trial = with(with(Trial::new(op(32, 0, Epilogue::None)), a), w);
        let trial = with(trial, scales(&mut m, DType::F32, &[5, 2])).without();
        let mut order = [0.0; 64];
        order[40] = 2.0;
        let error = trial.values(DType::I32, &[64], &order).run(&device).unwrap_err().to_string();
        assert!(error.contains("group 2 of 2") && error.contains("input 40"), "{error}");
    }
}

#[test]
fn numbers_that_are_not_finite_stay_in_their_rows() {
    let mut m = Maker::new(29);
    let mut trials = Vec::new();
    for format in blocks() {
        for rows in [1, 4, 7] {
            let a = m.special(DType::F32, &[rows, 2 * format.block_elems()]);
            trials.push(with(with(Trial::new(op(0, 0, Epilogue::None)), a), weight(&mut m, format, 18, 2)));
        }
    }
    // Products of codes would overflow where those of weights do not.
    for rows in [1, 3, 6] {
        let huge: Vec<f64> = (0..rows * 64).map(|i| if i % 64 == 7 { 3e36 } else { 1.0 }).collect();
        let a = (TensorDesc::new(DType::F32, &[rows, 64]).unwrap(), to_bytes(DType::F32, &huge));
        let trial = with(with(Trial::new(op(32, 0, Epilogue::None)), a), codes(&mut m, DType::I8, &[18, 64]));
        trials.push(with(trial, scales(&mut m, DType::F32, &[18, 2])));
    }
    check_all(&trials);
}

#[test]
fn weights_at_their_zero_are_exactly_zero() {
    for device in devices() {
        for rows in [1, 6] {
            let mut m = Maker::new(30);
            let a = m.of(DType::F32, &[rows, 256]);
            let w = TensorDesc::new(DType::U4, &[18, 256]).unwrap().as_constant();
            let trial = with(Trial::new(op(64, 0, Epilogue::None)), a).input(w, vec![0x77; 18 * 128]);
            let trial = with(trial, scales(&mut m, DType::F16, &[18, 4]));
            let trial = with(trial, table(&mut m, DType::U8, &[18, 4], |_| 7.0));
            let out = trial.run(&device).unwrap();
            assert!(out[0].data.iter().all(|&y| y == 0.0), "{:?}", &out[0].data[..8]);
        }
    }
}

#[test]
fn empty_products_are_zeros() {
    let mut m = Maker::new(31);
    let mut trials = Vec::new();
    for (rows, n, blocks) in [(0, 3, 1), (2, 0, 1), (2, 3, 0), (1, 3, 0)] {
        for format in [DType::Q8_0, DType::Q6K] {
            let a = m.of(DType::F32, &[rows, blocks * format.block_elems()]);
            trials.push(with(with(Trial::new(op(0, 0, Epilogue::None)), a), weight(&mut m, format, n, blocks)));
        }
        let (a, w) = (m.of(DType::F16, &[rows, 64 * blocks]), codes(&mut m, DType::I8, &[n, 64 * blocks]));
        let trial = with(with(Trial::new(op(32, 0, Epilogue::None)), a), w);
        trials.push(with(trial, scales(&mut m, DType::F32, &[n, 2 * blocks])));
    }
    check_all(&trials);
}

/// The kernels that a trial's node gets once all constants are as the device wants them, and the bytes of each.
fn settled(device: &dyn Device, trial: &Trial) -> (String, Vec<usize>) {
    let mut graph = trial.graph().unwrap();
    let mut bytes = Vec::new();
    loop {
        let answer = device.support(&graph).remove(0);
        let Support::Relayout { operand, layout } = answer.answer else {
            assert_eq!(answer.answer, Support::Native);
            return (answer.kernel, bytes);
        };
        let id = graph.nodes()[0].inputs[operand].unwrap();
        bytes.push(device.prepack_bytes(graph.desc(id), layout).unwrap());
        graph.set_layout(id, layout).unwrap();
    }
}

#[test]
fn constant_weights_become_panels_of_about_their_own_size() {
    for device in devices() {
        let mut m = Maker::new(32);
        for (rows, kernel) in [(1, "gemv_quant."), (4, "gemv_quant."), (5, "gemm_quant.")] {
            for format in blocks() {
                let k = 2 * format.block_elems();
                let (a, w) = (m.of(DType::F32, &[rows, k]), weight(&mut m, format, 32, 2));
                let stored = w.1.len();
                let (name, bytes) = settled(&device, &with(with(Trial::new(op(0, 0, Epilogue::None)), a), w));
                assert!(name.starts_with(kernel), "{format}: {name}");
                // Whole cache lines, and factors of 6 bits in bytes.
                assert!(bytes.len() == 1 && bytes[0] <= stored + stored / 16 + 128, "{format}: {bytes:?} of {stored}");
            }
            for code in CODES {
                let (a, w) = (m.of(DType::F32, &[rows, 256]), codes(&mut m, code, &[32, 256]));
                let stored = w.1.len();
                let trial = with(with(Trial::new(op(64, 0, Epilogue::None)), a), w);
                let trial = with(trial, scales(&mut m, DType::F16, &[32, 4]));
                let (name, bytes) = settled(&device, &trial);
                assert!(name.starts_with(kernel), "{code}: {name}");
                assert_eq!(bytes, [stored, 2 * 32 * 4], "{code}");
            }
        }
    }
}
