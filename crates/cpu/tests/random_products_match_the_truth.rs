//! Random products: sizes, dtypes, strides, epilogues, constant or not, on every tier, beside the truth in f64.

mod trials;

use proptest::prelude::*;
use qiao_core::*;
use qiao_reference::Trial;
use trials::{Data, Maker, devices, with};

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const EPILOGUES: [Epilogue; 4] = [Epilogue::None, Epilogue::Bias, Epilogue::BiasResidual, Epilogue::Gelu];

/// An operand whose strides are one of four kinds.
fn operand(m: &mut Maker, kind: usize, dtype: DType, shape: &[usize]) -> Data {
    match (kind, shape) {
        (1, _) => m.gapped(dtype, shape),
        (2, _) => m.repeated(dtype, shape),
        (3, &[a, b, c]) => m.uneven(dtype, a, b, c),
        _ => m.of(dtype, shape),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_product_is_within_its_tolerance(
        seed in any::<u64>(),
        (batch, m, n, k) in (0usize..4, 0usize..40, 0usize..70, 0usize..100),
        dtypes in [0usize..3, 0usize..3, 0usize..3],
        strides in [0usize..4, 0usize..3, 0usize..3],
        (constant, trans_b, shared) in any::<(bool, bool, bool)>(),
        epilogue in 0usize..4,
    ) {
        let mut maker = Maker::new(seed);
        let [a, b, c] = dtypes.map(|d| FLOATS[d]);
        let matrix = if trans_b { [n, k] } else { [k, n] };
        let x = operand(&mut maker, strides[0], a, &[batch, m, k]);
        let mut w = match shared {
            true => operand(&mut maker, strides[1], b, &matrix),
            false => operand(&mut maker, strides[1], b, &[batch, matrix[0], matrix[1]]),
        };
        w.0.constant = constant;
        let epilogue = EPILOGUES[epilogue];
        let op = Op::Matmul(MatmulAttrs { trans_b, epilogue, ..Default::default() });
        let mut trial = with(with(Trial::new(op), x), w);
        if epilogue != Epilogue::None {
            trial = with(trial, operand(&mut maker, strides[2], c, &[n]));
        }
        if epilogue == Epilogue::BiasResidual {
            trial = with(trial, operand(&mut maker, strides[2], a, &[batch, m, n]));
        }
        let trial = trial.output_dtype(c);
        for device in devices() {
            for comparison in trial.check(&device).unwrap() {
                prop_assert!(comparison.passes(), "{}: {comparison:?}", device.info().arch);
            }
        }
    }
}
