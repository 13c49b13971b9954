//! Products with quantised panels and their decoding, on every tier, beside their definition in plain loops and a plain
//! decode in f64.

mod oracle;

use oracle::{Guarded, Random, U, assert_close, integer_tables, tables};
use qiao_core::DType;
use qiao_kernels_cpu::{
    CHUNK, FloatRows, IntegerRows, IntegerRowsMut, Isa, Kernels, NR, QuantBlock, QuantDot, QuantFormat, QuantKernel,
    QuantOffset, pack_quant_panel,
};
use qiao_quant::minifloat::{F4E2M1, F8E4M3, F8E5M2};
use qiao_quant::{decode_row, nibble, scale_offsets};

/// The dtype that the reference decoder knows a block format by.
fn block_dtype(format: QuantFormat) -> Option<DType> {
    use QuantFormat as F;
    Some(match format {
        F::Q4_0 => DType::Q4_0,
        F::Q4_1 => DType::Q4_1,
        F::Q5_0 => DType::Q5_0,
        F::Q5_1 => DType::Q5_1,
        F::Q8_0 => DType::Q8_0,
        F::Q2K => DType::Q2K,
        F::Q3K => DType::Q3K,
        F::Q4K => DType::Q4K,
        F::Q5K => DType::Q5K,
        F::Q6K => DType::Q6K,
        F::Iq4Nl => DType::Iq4Nl,
        F::Iq4Xs => DType::Iq4Xs,
        F::Mxfp4 => DType::Mxfp4,
        _ => return None,
    })
}

/// A weight matrix of a format, its decoded values, and the scales and zeros beside it.
struct Weights {
    format: QuantFormat,
    n: usize,
    k: usize,
    bytes: Vec<u8>,
    scales: Vec<f32>,
    zeros: Option<Vec<f32>>,
    truth: Vec<f64>,
}

impl Weights {
    fn new(random: &mut Random, format: QuantFormat, n: usize, k: usize, zeros: bool) -> Self {
        let mut bytes: Vec<u8> = (0..n * format.row_bytes(k)).map(|_| (random.bits() >> 40) as u8).collect();
        let chunks = k.div_ceil(CHUNK);
        let scales: Vec<f32> = (0..n * chunks).map(|_| random.signed()).collect();
        let zeros = zeros.then(|| (0..n * chunks).map(|_| (random.bits() % 37) as f32).collect::<Vec<_>>());
        let truth = match block_dtype(format) {
            Some(dtype) => {
                tame(&mut bytes, dtype);
                let mut out = vec![0.0; n * k];
                decode_row(dtype, &bytes, &mut out).unwrap();
                out.into_iter().map(f64::from).collect()
            }
            None => {
                let at = |i: usize| (i / k * chunks) + i % k / CHUNK;
                let zero = |i: usize| zeros.as_ref().map_or(0.0, |z| f64::from(z[at(i)]));
                if matches!(format, QuantFormat::F8E4M3 | QuantFormat::F8E5M2) {
                    // Codes of NaN and ∞ are another test's.
                    bytes.iter_mut().for_each(|b| *b &= 0xbb);
                }
                (0..n * k).map(|i| (code(format, &bytes, i) - zero(i)) * f64::from(scales[at(i)])).collect()
            }
        };
        Weights { format, n, k, bytes, scales, zeros, truth }
    }

    fn panel(&self, first: usize) -> Vec<u8> {
        let row = self.format.row_bytes(self.k);
        let rows: Vec<&[u8]> = self.bytes.chunks_exact(row).skip(first).take(NR).collect();
        let mut panel = vec![0xa5; self.format.panel_len(self.k)];
        pack_quant_panel(&mut panel, self.format, self.k, &rows);
        panel
    }

    /// Scales and offsets of chunks `first..first + chunks` of the panel that starts at output `row`.
    fn scales(&self, kernels: &Kernels, panel: &[u8], row: usize, first: usize, chunks: usize) -> [Vec<f32>; 2] {
        let len = chunks * self.format.scales_per_chunk() * NR;
        let mut out = [vec![f32::NAN; len], vec![f32::NAN; len]];
        if self.format.carries_scales() {
            let [scales, offsets] = &mut out;
            (kernels.quant_scales.run)(scales, offsets, self.format, panel, self.k, first, chunks);
            return out;
        }
        let all = self.k.div_ceil(CHUNK);
        for c in 0..chunks {
            for lane in 0..NR {
                let at = (row + lane) * all + first + c;
                let inside = row + lane < self.n;
                out[0][c * NR + lane] = if inside { self.scales[at] } else { 0.0 };
                out[1][c * NR + lane] = self.zeros.as_ref().filter(|_| inside).map_or(0.0, |z| z[at]);
            }
        }
        out
    }
}

/// Keeps the f16 fields of random blocks small numbers.
fn tame(bytes: &mut [u8], dtype: DType) {
    let at = scale_offsets(dtype);
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        at.iter().for_each(|&at| block[at + 1] &= 0xb9);
        if dtype == DType::Mxfp4 {
            block[0] = 120 + block[0] % 12;
        }
    }
}

/// The number that code `i` stands for.
fn code(format: QuantFormat, bytes: &[u8], i: usize) -> f64 {
    match format {
        QuantFormat::I4 => f64::from(nibble::i4(bytes, i)),
        QuantFormat::U4 => f64::from(nibble::u4(bytes, i)),
        QuantFormat::F4E2M1 => F4E2M1.decode(u32::from(nibble::u4(bytes, i))),
        QuantFormat::I8 => f64::from(bytes[i] as i8),
        QuantFormat::U8 => f64::from(bytes[i]),
        QuantFormat::F8E4M3 => F8E4M3.decode(u32::from(bytes[i])),
        _ => F8E5M2.decode(u32::from(bytes[i])),
    }
}

/// Every format, with zeros too where a kernel takes them.
fn formats(kernels: &Kernels) -> Vec<(QuantFormat, bool)> {
    let both = QuantFormat::ALL.into_iter().flat_map(|f| [(f, false), (f, true)]);
    both.filter(|&(f, z)| kernels.quant(f, z).is_some() && !(z && f.carries_scales())).collect()
}

#[test]
fn every_format_has_a_kernel_on_every_tier() {
    for kernels in integer_tables() {
        for format in QuantFormat::ALL {
            let kernel = kernels.quant(format, false).unwrap_or_else(|| panic!("{format:?} on {}", kernels.isa));
            let (what, how) = kernel.name.split_once('.').unwrap();
            assert!(what.starts_with("gemv_") && how.parse::<Isa>().unwrap() <= kernels.isa, "{}", kernel.name);
        }
        let names: std::collections::BTreeSet<_> = kernels.quant_kernels.iter().map(|k| k.name).collect();
        assert_eq!(names.len(), kernels.quant_kernels.len());
    }
}

#[test]
fn panels_decode_to_what_the_rows_hold() {
    let mut random = Random::new(31);
    for kernels in tables() {
        for (format, zeros) in formats(&kernels) {
            for (n, k) in [(16, 512), (5, 256), (33, 768)] {
                let w = Weights::new(&mut random, format, n, k, zeros);
                let kernel = kernels.quant(format, zeros).unwrap();
                for row in (0..n).step_by(NR) {
                    let panel = w.panel(row);
                    let chunks = k / CHUNK;
                    for (first, count) in [(0, chunks), (3, 2), (chunks - 1, 1)] {
                        let [scales, offsets] = w.scales(&kernels, &panel, row, first, count);
                        let bytes = format.codes().chunk_bytes();
                        let codes = &panel[first * bytes..(first + count) * bytes];
                        let block = QuantBlock {
                            format,
                            codes,
                            chunks: count,
                            scales: &scales,
                            offsets: &offsets,
                            ahead: (0, 64),
                        };
                        let mut out = Guarded::new(count * CHUNK * NR, f32::NAN, 7.5);
                        (kernel.decode)(out.inside(), &block);
                        for (i, &got) in out.checked().iter().enumerate() {
                            let (input, lane) = (first * CHUNK + i / NR, row + i % NR);
                            let truth = if lane < n { w.truth[lane * k + input] } else { 0.0 };
                            let what = format!("{} {format:?} [{lane}, {input}]", kernel.name);
                            // A product of integers is exact; a scale beside codes, or a minimum, rounds once or twice.
                            let exact = format.carries_scales() && format.offset(zeros) == QuantOffset::None;
                            let ulps = if exact { 0.0 } else { 4.0 * U * (truth.abs() + 64.0) };
                            if lane < n {
                                assert_close(&what, got, truth, ulps);
                            } else {
                                assert!(got.is_finite(), "{what}: {got}");
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Rows of activations of all kinds, `k` each: chunks of very different sizes, of one outlier, of zeros, next to too small, and
/// those whose largest magnitude is the border between two scales.
fn activations(random: &mut Random, rows: usize, k: usize) -> Vec<Vec<f32>> {
    let mut out: Vec<Vec<f32>> = (0..rows).map(|_| random.row(k)).collect();
    for (chunk, x) in out.iter_mut().flat_map(|row| row.chunks_mut(CHUNK)).enumerate() {
        let size = (2.0f32).powi((random.bits() % 40) as i32 - 20);
        x.iter_mut().for_each(|x| *x *= size);
        let at = (random.bits() % CHUNK as u64) as usize;
        match chunk % 7 {
            1 => x[at] = 900.0 * size,
            2 => x[at] = -32639.0 * size,
            3 => x[at] = (32639.0f32).next_up() * size,
            4 => x.iter_mut().for_each(|x| *x *= (2.0f32).powi(-70)),
            5 if chunk % 2 == 1 => x.fill(0.0),
            _ => {}
        }
    }
    out
}

/// Packed activations of some rows together.
struct Digits {
    rows: usize,
    digits: Vec<u8>,
    scales: Vec<f32>,
    starts: Vec<i32>,
    sums: Vec<f32>,
}

impl Digits {
    fn new(kernels: &Kernels, format: QuantFormat, zeros: bool, rows: &[&[f32]]) -> Self {
        let cells = rows.len() * rows[0].len() / CHUNK;
        let sums = cells * format.scales_per_chunk();
        let mut out = Digits {
            rows: rows.len(),
            digits: vec![0x5a; 64 * cells],
            scales: vec![f32::NAN; cells],
            starts: vec![i32::MIN; sums],
            sums: vec![f32::NAN; if format.offset(zeros) == QuantOffset::None { 0 } else { sums }],
        };
        for (r, x) in rows.iter().enumerate() {
            let Digits { digits, scales, starts, sums, .. } = &mut out;
            let mut to = IntegerRowsMut { rows: rows.len(), digits, scales, starts, sums };
            assert!((kernels.pack_integers.run)(&mut to, r, format, zeros, x), "a row of small numbers can be packed");
        }
        out
    }

    fn rows(&self) -> IntegerRows<'_> {
        let Digits { rows, digits, scales, starts, sums } = self;
        IntegerRows { rows: *rows, digits, scales, starts, sums }
    }
}

/// `y` with the products of one row of activations in so many bits with the output in lane `lane`, as they are defined. `codes` are the
/// block's weights with scales of one and no offsets.
fn by_definition(bits: u32, y: f32, x: &[f32], lane: usize, codes: &[f32], block: &QuantBlock<'_>, zeros: bool) -> f32 {
    let (per, unit) = (block.format.scales_per_chunk(), block.format.unit());
    let mut total = y;
    for (chunk, x) in x.chunks(CHUNK).enumerate() {
        let most = x.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
        let power = (-111..).map(|e| (2.0f64).powi(e)).find(|power| f64::from(most) <= 32639.0 * power).unwrap();
        let inverse = if most == 0.0 { 0.0 } else { 127.0 / most };
        let (scale, a): (f32, Vec<i64>) = match bits {
            16 => (power as f32, x.iter().map(|x| (f64::from(*x) / power).round_ties_even() as i64).collect()),
            _ => (most / 127.0, x.iter().map(|x| (x * inverse).round_ties_even() as i64).collect()),
        };
        let scale = if most == 0.0 { 0.0 } else { scale };
        for (half, a) in a.chunks(CHUNK / per).enumerate() {
            let first = chunk * CHUNK + half * CHUNK / per;
            let code = |i: usize| (codes[(first + i) * NR + lane] / unit) as i64;
            let product: i64 = a.iter().enumerate().map(|(i, a)| a * code(i)).sum();
            let (sum, at) = (a.iter().sum::<i64>() as f32, (chunk * per + half) * NR + lane);
            let mut t = product as f32;
            if block.format.offset(zeros) == QuantOffset::Zero {
                t = (-block.offsets[at]).mul_add(sum / unit, t);
            }
            t *= scale * unit;
            total = block.scales[at].mul_add(t, total);
            if block.format.offset(zeros) == QuantOffset::Min {
                total = block.offsets[at].mul_add(sum * scale, total);
            }
        }
    }
    total
}

/// A step of the integers of a chunk, halved; two roundings to f32 make a little more of it in 8 bits.
fn half_step(bits: u32, x: &[f32]) -> f64 {
    let most = f64::from(x.iter().fold(0.0, |most: f32, x| most.max(x.abs())));
    if bits == 8 { most * (1.0 / 254.0 + 4.0 * U) } else { (most / 32639.0).max((2.0f64).powi(-112)) }
}

/// The weights of a block with scales of one and no offsets.
fn codes_of(kernel: &QuantKernel, block: &QuantBlock<'_>) -> Vec<f32> {
    let (ones, none) = (vec![1.0; block.scales.len()], vec![0.0; block.scales.len()]);
    let mut out = vec![f32::NAN; block.chunks * CHUNK * NR];
    (kernel.decode)(&mut out, &QuantBlock { scales: &ones, offsets: &none, ..*block });
    out
}

#[test]
fn products_of_integers_are_as_they_are_defined_on_every_tier() {
    let mut random = Random::new(32);
    let scalar = tables().remove(0);
    let all = || formats(&scalar).into_iter().filter(|(f, _)| f.has_integers()).flat_map(|f| [(f, 16), (f, 8)]);
    for ((format, zeros), bits) in all() {
        let k = if format.block().0 == 256 { 768 } else { 352 };
        let (n, chunks) = (19, k / CHUNK);
        let w = Weights::new(&mut random, format, n, k, zeros);
        let x = activations(&mut random, 8, k);
        for row in (0..n).step_by(NR) {
            let panel = w.panel(row);
            let [scales, offsets] = w.scales(&scalar, &panel, row, 0, chunks);
            let codes = &panel[..format.codes_len(k)];
            let block = QuantBlock { format, codes, chunks, scales: &scales, offsets: &offsets, ahead: (0, 64) };
            let decoded = codes_of(scalar.quant(format, zeros).unwrap(), &block);
            let lanes = |x: &Vec<f32>| -> Vec<f32> {
                (0..NR).map(|lane| by_definition(bits, 0.25, x, lane, &decoded, &block, zeros)).collect()
            };
            let truth: Vec<Vec<f32>> = x.iter().map(lanes).collect();
            for (r, y) in truth.iter().enumerate() {
                for (lane, &y) in y.iter().enumerate().take(n - row) {
                    let weight = |c: usize| w.truth[(row + lane) * k + c];
                    let terms = || (0..k).map(|c| f64::from(x[r][c]) * weight(c));
                    let (exact, size) = (0.25 + terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>() + 0.25);
                    let steps = x[r].chunks(CHUNK).enumerate().map(|(chunk, x)| {
                        half_step(bits, x) * (0..CHUNK).map(|i| weight(chunk * CHUNK + i).abs()).sum::<f64>()
                    });
                    let limit = 6.0 * (k as f64).sqrt() * U * size + steps.sum::<f64>();
                    assert_close(&format!("{format:?} row {r} in {bits} bits"), y, exact, limit);
                }
            }
            for kernels in integer_tables().into_iter().filter(|k| k.integer_bits == bits) {
                let kernel = kernels.quant(format, zeros).unwrap();
                check_rows(&kernels, kernel, zeros, &x, &truth, &block);
            }
        }
    }
}

/// Multiplies rows of `x`, the first and then any, in every number that the kernel takes together, and beside gaps; `truth`
/// is what they give, beginning with 0.25.
fn check_rows(
    kernels: &Kernels,
    kernel: &QuantKernel,
    zeros: bool,
    x: &[Vec<f32>],
    truth: &[Vec<f32>],
    block: &QuantBlock<'_>,
) {
    let QuantDot::Integers(dot) = kernel.dot else { panic!("{} multiplies integers", kernel.name) };
    assert_eq!((kernel.heights[0], kernel.height(1), kernel.height(99)), (1, 1, kernel.most()));
    let chosen = |r: usize| (r + r / x.len()) % x.len();
    for &rows in kernel.heights {
        assert_eq!(kernel.height(rows), rows);
        let given: Vec<&[f32]> = (0..rows).map(|r| &x[chosen(r)][..]).collect();
        let stride = NR + 3;
        let mut y = Guarded::new((rows - 1) * stride + NR, 0.25, -3.0);
        let digits = Digits::new(kernels, block.format, zeros, &given);
        dot(y.inside(), stride, &digits.rows(), &[*block]);
        for (r, got) in y.checked().chunks(stride).enumerate() {
            assert!(got[NR..].iter().all(|&gap| gap == 0.25), "{} writes into the gaps", kernel.name);
            let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
            assert_eq!(
                bits(&got[..NR]),
                bits(&truth[chosen(r)]),
                "{} {:?} row {r} of {rows}",
                kernel.name,
                block.format
            );
        }
        // Beside other panels.
        let codes: Vec<u8> = block.codes.iter().rev().copied().collect();
        let [scales, offsets] = [block.scales, block.offsets].map(|f| f.iter().rev().copied().collect::<Vec<_>>());
        let panels = [*block, QuantBlock { codes: &codes, scales: &scales, offsets: &offsets, ..*block }, *block];
        let stride = 3 * NR + 1;
        let [mut together, mut alone] = [(); 2].map(|()| Guarded::new((rows - 1) * stride + 3 * NR, 0.25, -3.0));
        dot(together.inside(), stride, &digits.rows(), &panels);
        for (i, panel) in panels.iter().enumerate() {
            dot(&mut alone.inside()[i * NR..], stride, &digits.rows(), &[*panel]);
        }
        let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(together.checked()), bits(alone.checked()), "{} {:?} {rows}", kernel.name, block.format);
    }
    // In two blocks.
    let (per, bytes) = (block.format.scales_per_chunk(), block.codes.len() / block.chunks);
    let mut y = [0.25; NR];
    for part in [0..block.chunks / 2, block.chunks / 2..block.chunks] {
        let block = QuantBlock {
            codes: &block.codes[part.start * bytes..part.end * bytes],
            chunks: part.len(),
            scales: &block.scales[part.start * per * NR..],
            offsets: &block.offsets[part.start * per * NR..],
            ..*block
        };
        let x = &x[0][part.start * CHUNK..part.end * CHUNK];
        dot(&mut y, NR, &Digits::new(kernels, block.format, zeros, &[x]).rows(), &[block]);
    }
    assert_eq!(y[..], truth[0][..], "{} in two blocks", kernel.name);
}

#[test]
fn rows_that_integers_cannot_hold_are_told() {
    for kernels in integer_tables() {
        let most = (2.0f32).powi(64);
        for (number, fits) in [
            (most.next_down(), true),
            (most, false),
            (f32::MAX, false),
            (f32::INFINITY, false),
            (f32::NEG_INFINITY, false),
            (f32::NAN, false),
            (-f32::NAN, false),
            (f32::from_bits(1), true),
            (0.0, true),
        ] {
            for at in [0, 17, 63, 95] {
                let mut x = [1.0; 3 * CHUNK];
                x[at] = number;
                let (mut digits, mut scales, mut starts) = ([0; 3 * 64], [0.0; 3], [0; 3]);
                let mut to = IntegerRowsMut {
                    rows: 1,
                    digits: &mut digits,
                    scales: &mut scales,
                    starts: &mut starts,
                    sums: &mut [],
                };
                let told = (kernels.pack_integers.run)(&mut to, 0, QuantFormat::Q4_0, false, &x);
                assert_eq!(told, fits, "{number} at {at} on {}", kernels.isa);
            }
        }
    }
}

#[test]
fn a_chunk_that_would_lose_digits_is_told() {
    for kernels in integer_tables() {
        let small = |exponent: i32| (2.0f32).powi(exponent);
        for (number, fits) in [(small(-96), true), (small(-98), false), (f32::from_bits(1), false), (0.0, true)] {
            let mut x = [1.0; 3 * CHUNK];
            x[CHUNK..2 * CHUNK].fill(-number);
            let (mut digits, mut scales, mut starts) = ([0; 3 * 64], [0.0; 3], [0; 3]);
            let (digits, scales, starts) = (&mut digits[..], &mut scales[..], &mut starts[..]);
            let mut to = IntegerRowsMut { rows: 1, digits, scales, starts, sums: &mut [] };
            let told = (kernels.pack_integers.run)(&mut to, 0, QuantFormat::Q4_0, false, &x);
            assert_eq!(told, fits, "{number:e} on {}", kernels.isa);
        }
    }
}

#[test]
fn products_of_floats_are_those_of_the_decoded_weights() {
    let mut random = Random::new(33);
    for kernels in tables() {
        for (format, zeros) in formats(&kernels).into_iter().filter(|(f, _)| !f.has_integers()) {
            let (k, n, chunks) = (96, 19, 3);
            let w = Weights::new(&mut random, format, n, k, zeros);
            let kernel = kernels.quant(format, zeros).unwrap();
            let QuantDot::Floats(dot) = kernel.dot else { panic!("{} multiplies floats", kernel.name) };
            for &rows in kernel.heights {
                let x = random.row(k * rows);
                for row in (0..n).step_by(NR) {
                    let panel = w.panel(row);
                    let [scales, offsets] = w.scales(&kernels, &panel, row, 0, chunks);
                    let codes = &panel[..format.codes_len(k)];
                    let block =
                        QuantBlock { format, codes, chunks, scales: &scales, offsets: &offsets, ahead: (0, 64) };
                    let stride = NR + 3;
                    let mut y = Guarded::new((rows - 1) * stride + NR, 0.25, -3.0);
                    dot(y.inside(), stride, &FloatRows { rows, x: &x }, &block);
                    for (r, got) in y.checked().chunks(stride).enumerate() {
                        assert!(got[NR..].iter().all(|&gap| gap == 0.25), "{} writes into the gaps", kernel.name);
                        let x: Vec<f32> = x.iter().skip(r).step_by(rows).copied().collect();
                        let mut alone = [0.25; NR];
                        for part in [0..1, 1..3] {
                            let bytes = format.codes().chunk_bytes();
                            let codes = &codes[part.start * bytes..part.end * bytes];
                            let block =
                                QuantBlock { codes, chunks: part.len(), scales: &scales[part.start * NR..], ..block };
                            dot(&mut alone, NR, &FloatRows { rows: 1, x: &x[part.start * CHUNK..] }, &block);
                        }
                        assert_eq!(got[..NR], alone, "{} {format:?} row {r} of {rows}", kernel.name);
                        for (lane, &got) in got[..NR].iter().enumerate().filter(|(i, _)| row + i < n) {
                            let weight = |c: usize| w.truth[(row + lane) * k + c];
                            let terms = || (0..k).map(|c| f64::from(x[c]) * weight(c));
                            let (truth, size) =
                                (0.25 + terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>() + 0.25);
                            let limit = 6.0 * (k as f64).sqrt() * U * size;
                            assert_close(&format!("{} {format:?} row {r} of {rows}", kernel.name), got, truth, limit);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn codes_of_fp8_that_are_no_numbers_stay_what_they_are() {
    for kernels in tables() {
        for (format, decode) in [(QuantFormat::F8E4M3, F8E4M3), (QuantFormat::F8E5M2, F8E5M2)] {
            let bytes: Vec<u8> = (0..=255).collect();
            let mut panel = vec![0; format.panel_len(256)];
            pack_quant_panel(&mut panel, format, 256, &[&bytes]);
            let scales = vec![1.0; 8 * NR];
            let block = QuantBlock { format, codes: &panel, chunks: 8, scales: &scales, offsets: &[], ahead: (0, 64) };
            let mut out = vec![0.0; 256 * NR];
            (kernels.quant(format, false).unwrap().decode)(&mut out, &block);
            for (code, out) in out.chunks_exact(NR).enumerate() {
                let truth = decode.decode(code as u32) as f32;
                assert!(out[0] == truth || out[0].is_nan() && truth.is_nan(), "{format:?} {code}: {}", out[0]);
            }
        }
    }
}

#[test]
fn panels_take_about_the_bits_of_their_format() {
    for format in QuantFormat::ALL {
        let (elems, bytes) = format.block();
        let own = bytes as f64 * 8.0 / elems as f64;
        let packed = format.panel_len(4096) as f64 * 8.0 / (4096 * NR) as f64;
        assert!(packed >= own - 1e-9 && packed <= own + 0.126, "{format:?}: {packed} bits for {own}");
    }
}
