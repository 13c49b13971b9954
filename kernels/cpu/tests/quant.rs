//! Products with quantised panels and their decoding, on every tier, beside a plain decode in f64.

mod oracle;

use oracle::{Guarded, Random, U, assert_close, tables};
use qiao_core::DType;
use qiao_kernels_cpu::{
    CHUNK, Kernels, NR, QUANT_HEIGHTS, QuantBlock, QuantFormat, QuantKernel, QuantOffset, QuantRows, pack_quant_panel,
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
    for kernels in tables() {
        for format in QuantFormat::ALL {
            let kernel = kernels.quant(format, false).unwrap_or_else(|| panic!("{format:?} on {}", kernels.isa));
            assert!(kernel.name.starts_with("gemv_") && kernel.name.ends_with(&format!(".{}", kernels.isa)));
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
                let tables = format.tables();
                for row in (0..n).step_by(NR) {
                    let panel = w.panel(row);
                    let chunks = k / CHUNK;
                    for (first, count) in [(0, chunks), (3, 2), (chunks - 1, 1)] {
                        let [scales, offsets] = w.scales(&kernels, &panel, row, first, count);
                        let bytes = format.codes().chunk_bytes();
                        let codes = &panel[first * bytes..(first + count) * bytes];
                        let block =
                            QuantBlock { codes, chunks: count, tables: &tables, scales: &scales, offsets: &offsets };
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

#[test]
fn products_are_those_of_the_decoded_weights() {
    let mut random = Random::new(32);
    for kernels in tables() {
        for (format, zeros) in formats(&kernels) {
            let k = if format.block().0 == 256 { 768 } else { 96 };
            let (n, chunks, per) = (19, k / CHUNK, format.scales_per_chunk());
            let w = Weights::new(&mut random, format, n, k, zeros);
            let kernel = kernels.quant(format, zeros).unwrap();
            let tables = format.tables();
            for rows in QUANT_HEIGHTS.into_iter().filter(|&rows| rows <= kernels.quant_rows) {
                assert_eq!(kernels.quant_height(rows), rows);
                let x = random.row(k * rows);
                let sums = sums(&x, rows, CHUNK / per);
                for row in (0..n).step_by(NR) {
                    let panel = w.panel(row);
                    let [scales, offsets] = w.scales(&kernels, &panel, row, 0, chunks);
                    let codes = &panel[..format.codes_len(k)];
                    let block = QuantBlock { codes, chunks, tables: &tables, scales: &scales, offsets: &offsets };
                    let stride = NR + 3;
                    let mut y = Guarded::new((rows - 1) * stride + NR, 0.25, -3.0);
                    (kernel.dot)(y.inside(), stride, &QuantRows { rows, x: &x, sums: &sums }, &block);
                    for (r, got) in y.checked().chunks(stride).enumerate() {
                        assert!(got[NR..].iter().all(|&gap| gap == 0.25), "{} writes into the gaps", kernel.name);
                        let alone = alone(kernel, &x, rows, r, CHUNK / per, &block);
                        assert_eq!(got[..NR], alone, "{} {format:?} row {r} of {rows}", kernel.name);
                        for (lane, &got) in got[..NR].iter().enumerate().filter(|(i, _)| row + i < n) {
                            let weight = |c: usize| w.truth[(row + lane) * k + c];
                            let terms = || (0..k).map(|c| f64::from(x[c * rows + r]) * weight(c));
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

/// The sums of every `each` inputs of rows packed as `[inputs][rows]`.
fn sums(x: &[f32], rows: usize, each: usize) -> Vec<f32> {
    let of = |group: &[f32], r: usize| group.iter().skip(r).step_by(rows).sum::<f32>();
    x.chunks_exact(each * rows).flat_map(|group| (0..rows).map(move |r| of(group, r))).collect()
}

/// Row `r` of some alone, its chunks in two blocks.
fn alone(kernel: &QuantKernel, x: &[f32], rows: usize, r: usize, each: usize, block: &QuantBlock<'_>) -> [f32; NR] {
    let x: Vec<f32> = x.iter().skip(r).step_by(rows).copied().collect();
    let (sums, per, bytes) = (sums(&x, 1, each), CHUNK / each, block.codes.len() / block.chunks);
    let mut y = [0.25; NR];
    for part in [0..block.chunks / 2, block.chunks / 2..block.chunks] {
        let block = QuantBlock {
            codes: &block.codes[part.start * bytes..part.end * bytes],
            chunks: part.len(),
            scales: &block.scales[part.start * per * NR..],
            offsets: &block.offsets[part.start * per * NR..],
            ..*block
        };
        let given = QuantRows { rows: 1, x: &x[part.start * CHUNK..], sums: &sums[part.start * per..] };
        (kernel.dot)(&mut y, NR, &given, &block);
    }
    y
}

#[test]
fn codes_of_fp8_that_are_no_numbers_stay_what_they_are() {
    for kernels in tables() {
        for (format, decode) in [(QuantFormat::F8E4M3, F8E4M3), (QuantFormat::F8E5M2, F8E5M2)] {
            let bytes: Vec<u8> = (0..=255).collect();
            let mut panel = vec![0; format.panel_len(256)];
            pack_quant_panel(&mut panel, format, 256, &[&bytes]);
            let (tables, scales) = (format.tables(), vec![1.0; 8 * NR]);
            let block = QuantBlock { codes: &panel, chunks: 8, tables: &tables, scales: &scales, offsets: &[] };
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
