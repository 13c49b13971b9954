//! Random attention over packed keys: lengths, groups, head sizes, windows, dtypes, on every tier, beside the truth.

mod trials;

use proptest::prelude::*;
use qiao_core::*;
use qiao_reference::Trial;
use trials::{Maker, devices, with};

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_attention_is_within_its_tolerance(
        seed in any::<u64>(),
        sequences in prop::collection::vec((0usize..30, 0usize..150), 0..4),
        (kv_heads, group, d, dv) in (1usize..4, 1usize..9, 1usize..40, 1usize..40),
        (causal, softcap) in any::<(bool, bool)>(),
        window in 0u32..40,
        dtypes in [0usize..3, 0usize..3, 0usize..3, 0usize..3],
        strided in any::<bool>(),
        spare in 0usize..3,
    ) {
        let mut m = Maker::new(seed);
        let window = window.saturating_sub(20);
        let attrs = AttentionAttrs { causal, window, softcap: if softcap { 3.0 } else { 0.0 }, ..Default::default() };
        let [a, b, c, out] = dtypes.map(|i| FLOATS[i]);
        let mut starts = vec![0.0];
        sequences.iter().for_each(|&(queries, _)| starts.push(starts[starts.len() - 1] + queries as f64));
        let tokens = starts[starts.len() - 1] as usize + spare;
        let keys = sequences.iter().map(|s| s.1).sum::<usize>() + spare;
        let lengths: Vec<f64> = sequences.iter().map(|s| s.1 as f64).collect();
        let shape = [tokens, kv_heads * group, d];
        let q = if strided { m.gapped(a, &shape) } else { m.of(a, &shape) };
        let (k, v) = (m.of(b, &[keys, kv_heads, d]), m.of(c, &[keys, kv_heads, dv]));
        let trial = with(with(with(Trial::new(Op::AttentionPrefill(attrs)), q), k), v);
        let trial = trial.values(DType::I32, &[starts.len()], &starts).values(DType::I64, &[lengths.len()], &lengths);
        let trial = trial.output_dtype(out);
        for device in devices() {
            for comparison in trial.check(&device).unwrap() {
                prop_assert!(comparison.passes(), "{}: {comparison:?}", device.info().arch);
            }
        }
    }
}
