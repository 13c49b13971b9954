//! Operators over the simulated AscendCL, beside the truth: the suite's plain cases of every operator, and what is refused.

mod rig;

use std::collections::BTreeMap;

use qiao_conformance::{Case, Depth, Status, Subject};
use qiao_core::*;
use qiao_simascend::{Alone, Kind, Soc};

/// Operators that no case of the walk runs, not even in pieces: indices of ties, and what becomes of a float that is made an
/// integer, are not documented, and nothing samples.
const REFUSED: [&str; 5] = ["argmax", "quantize_dynamic", "quantize_static", "sample", "top_k"];

/// Runs the plain cases; for each operator how many passed natively, and those that failed.
fn walk(card: &Alone<'_>) -> (BTreeMap<OpKind, usize>, Vec<String>) {
    let subject = Subject::open(|| rig::backend().open(0)).unwrap();
    let mut passed: BTreeMap<OpKind, usize> = OpKind::ALL.iter().map(|&kind| (kind, 0)).collect();
    let mut failures = Vec::new();
    for case in Case::all(Depth::Smoke) {
        let Case::Op { family, .. } = &case else { continue };
        let record = case.run(&subject, 1);
        match record.status {
            Status::Passed => *passed.entry(family.op).or_default() += 1,
            Status::Unsupported => {}
            _ => failures.push(format!("{}: {:?} ({})", record.id, record.failure.map(|f| f.why), card.fault())),
        }
    }
    (passed, failures)
}

#[test]
fn plain_cases_pass_on_chips_with_bf16_and_nothing_is_left() {
    let card = rig::card().alone();
    for soc in [Soc::Ascend910B3, Soc::Ascend910_9391] {
        card.pretend(soc);
        let (passed, failures) = walk(&card);
        assert!(
            failures.is_empty(),
            "{} cases failed:\n{}",
            failures.len(),
            failures[..failures.len().min(12)].join("\n")
        );
        let lacking: Vec<&str> = passed.iter().filter(|(_, n)| **n == 0).map(|(kind, _)| kind.name()).collect();
        assert_eq!(lacking.len(), REFUSED.len(), "{lacking:?}");
        assert!(REFUSED.iter().all(|name| lacking.contains(name)), "{lacking:?}");
    }
    for kind in Kind::OBJECTS {
        assert_eq!(card.live(kind), 0, "{kind:?}");
    }
}

#[test]
fn plain_cases_pass_on_a_chip_without_bf16() {
    let card = rig::card().alone();
    card.pretend(Soc::Ascend310P3);
    let (passed, failures) = walk(&card);
    assert!(failures.is_empty(), "{} cases failed:\n{}", failures.len(), failures[..failures.len().min(12)].join("\n"));
    let count = |kind| passed[&kind];
    assert!(count(OpKind::Matmul) > 0 && count(OpKind::RmsNorm) > 0 && count(OpKind::Mul) > 0);
    assert_eq!((count(OpKind::Add), count(OpKind::AttentionDecode), count(OpKind::KvWrite)), (0, 0, 0));
}

#[test]
fn constant_weights_of_two_rows_and_columns_are_brought_into_blocks() {
    let card = rig::card().alone();
    // What the chip is asked of `x·wᵀ`, the shape of the weight, and whether it is constant: the kernel, and whether it is packed first.
    let asked = |dtype: DType, [n, k]: [usize; 2], constant: bool| {
        let mut g = Graph::new();
        let x = g.bind("x", TensorDesc::new(dtype, &[3, k]).unwrap());
        let w = TensorDesc::new(dtype, &[n, k]).unwrap();
        let w = g.bind("w", if constant { w.as_constant() } else { w });
        g.add(Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() }), &[Some(x), Some(w)]).unwrap();
        let said = rig::open().support(&g).remove(0);
        (said.kernel.split('.').next().unwrap_or_default().to_string(), matches!(said.answer, Support::Relayout { .. }))
    };
    let (blocks, rows) = (("matmul_nz".to_string(), true), ("matmul".to_string(), false));
    for (soc, dtype) in
        [(Soc::Ascend910B3, DType::F16), (Soc::Ascend910B3, DType::BF16), (Soc::Ascend310P3, DType::F16)]
    {
        card.pretend(soc);
        assert_eq!(asked(dtype, [32, 48], true), blocks, "{soc:?} {dtype}");
        assert_eq!(asked(dtype, [2, 17], true), blocks, "{soc:?} {dtype}");
        assert_eq!(asked(dtype, [32, 48], false), rows, "{soc:?} {dtype}");
        assert_eq!(asked(dtype, [1, 48], true), rows, "{soc:?} {dtype}");
    }
    card.pretend(Soc::Ascend910B3);
    assert_eq!(asked(DType::F32, [32, 48], true), rows);
}

/// The reason for which a node of these operands is refused.
fn reason(op: Op, inputs: &[(DType, &[usize])]) -> String {
    let mut g = Graph::new();
    let ids: Vec<_> = inputs.iter().map(|(d, s)| Some(g.bind("x", TensorDesc::new(*d, s).unwrap()))).collect();
    g.add(op, &ids).unwrap();
    match rig::open().support(&g).remove(0).answer {
        Support::No(reason) => reason.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn refusals_name_what_and_why() {
    let card = rig::card().alone();
    let attention = AttentionAttrs { causal: true, softcap: 30.0, ..Default::default() };
    let f16 = DType::F16;
    let packed: [(DType, &[usize]); 5] =
        [(f16, &[4, 2, 16]), (f16, &[4, 2, 16]), (f16, &[4, 2, 16]), (DType::I32, &[2]), (DType::I32, &[1])];
    assert!(reason(Op::AttentionPrefill(attention), &packed).contains("softcap"));
    let plain = AttentionAttrs { causal: true, ..Default::default() };
    let mut odd = packed;
    (odd[0].1, odd[1].1, odd[2].1) = (&[4, 2, 20], &[4, 2, 20], &[4, 2, 20]);
    assert_eq!(reason(Op::AttentionPrefill(plain), &odd), "operand 0: dim 2 = 20 is not a multiple of 16");
    let f32s = packed.map(|(d, s)| (if d == f16 { DType::F32 } else { d }, s));
    assert!(reason(Op::AttentionPrefill(plain), &f32s).contains("f32 is not one of f16, bf16"));
    let slots: [(DType, &[usize]); 5] =
        [(f16, &[3, 2, 16]), (f16, &[3, 2, 16]), (DType::I32, &[3]), (f16, &[2, 16, 2, 16]), (f16, &[2, 16, 2, 16])];
    assert_eq!(reason(Op::KvWrite(KvWriteAttrs::default()), &slots), "operand 3: dim 1 = 16 must be 128");
    card.pretend(Soc::Ascend310P3);
    let two: [(DType, &[usize]); 2] = [(f16, &[4]), (f16, &[4])];
    assert!(reason(Op::Add(NoAttrs {}), &two).contains("aclnnAdd, which is not documented for Atlas inference series"));
    let one: [(DType, &[usize]); 1] = [(DType::BF16, &[4])];
    assert!(reason(Op::Silu(NoAttrs {}), &one).contains("bf16 is not one of f32, f16"));
    let product: [(DType, &[usize]); 2] = [(DType::F32, &[4, 32]), (DType::F32, &[4, 32])];
    let matmul = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
    assert!(reason(matmul, &product).contains("f32 is not one of f16"));
}
