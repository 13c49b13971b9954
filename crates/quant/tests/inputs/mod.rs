//! Deterministic inputs, the same bit for bit as those of `tools/quant_encoders.py`: made of integers.

/// Elements of one input.
pub(crate) const LENGTH: usize = 8192;

/// The inputs' names, in the order of their seeds.
pub(crate) const NAMES: [&str; 6] = ["normal", "heavy", "constant", "outlier", "tiny", "shifted"];

/// splitmix64.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Twelve 16-bit uniforms, summed and centred: variance 1, exact in f32.
    fn normal(&mut self) -> f64 {
        let mut total = 0;
        for _ in 0..3 {
            let z = self.next();
            total += (z & 0xffff) + (z >> 16 & 0xffff) + (z >> 32 & 0xffff) + (z >> 48);
        }
        (total as f64 - 393_210.0) / 65536.0
    }
}

/// Elements and importances of a named input.
pub(crate) fn input(name: &str) -> (Vec<f32>, Vec<f32>) {
    let seed = NAMES.iter().position(|n| *n == name).expect("a known name") as u64 + 1;
    let mut r = SplitMix(seed);
    (0..LENGTH)
        .map(|i| {
            let n = r.normal();
            let x = match name {
                "normal" => n,
                "heavy" => n * n * n,
                "constant" => ((i / 256) as f64 - 15.5) / 16.0,
                "outlier" if i % 256 == 77 => 8.0,
                "outlier" => n / 16.0,
                "tiny" => n / 1_048_576.0,
                _ => n / 4.0 + 1.5,
            };
            let n = r.normal();
            (x as f32, (n * n + 0.007_812_5) as f32)
        })
        .unzip()
}
