//! What the tests of attention and of the KV cache share: the conformance suite's families walked at points of their own, on both
//! kinds of devices.

#![allow(dead_code, reason = "each test file uses a part")]

use std::time::Duration;

use qiao_conformance::Family;
use qiao_conformance::point::Point;
use qiao_core::{AttentionAttrs, Binding, DType, Device, Op, OpKind, TensorDesc};
use qiao_reference::Trial;
use qiao_reference::data::{Fill, Rng, to_bytes, values};

use crate::kinds::kinds;

/// Every point of the pattern is within its limits, in these dtypes, with three sets of data in turn.
#[track_caller]
pub(crate) fn check(kind: OpKind, variant: &str, dtypes: &[DType], pattern: &str) {
    let family = Family::of(kind).find(|f| f.variant == variant).expect("the suite has this family");
    let points = Point::expand(family.params, pattern).expect("the pattern is one of the family's");
    let mut failures = Vec::new();
    for (i, (point, &dtype)) in points.iter().flat_map(|p| dtypes.iter().map(move |d| (p, d))).enumerate() {
        let at = format!("{} {dtype} {}", family.name(), point.text());
        let trial = family.trial(dtype, point, 7 + i as u64 % 3).unwrap_or_else(|e| panic!("{at}: {e}"));
        for (kind, device) in kinds() {
            match trial.check(&**device) {
                Err(e) => failures.push(format!("{kind} {at}: {e}")),
                Ok(all) => failures.extend(all.iter().filter(|c| !c.passes()).map(|c| format!("{kind} {at}: {c:?}"))),
            }
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures[..failures.len().min(6)].join("\n"));
}

/// Blocks that the table names, and how many keys there are said to be.
pub(crate) type Lie = ([i64; 2], i64);

/// Two blocks of four tokens are named, of three that there are.
pub(crate) const INDEX_LIES: [Lie; 7] = [
    ([0, 7], 6),
    ([i64::MAX, 0], 6),
    ([-1, 0], 2),
    ([0, 1], i64::MAX),
    ([1, i64::MIN], 5),
    ([0, 1], 9),
    ([2, 1], 1 << 31),
];

/// Decodes a token over pages that are not there: NaN, and no fault.
pub(crate) fn lying(attrs: AttentionAttrs, dtype: DType, (table, len): Lie) {
    let mut rng = Rng::new(5);
    let mut tensor = |shape: &[usize]| {
        let desc = TensorDesc::new(dtype, shape).unwrap();
        let data = values(&mut rng, Fill::Normal, dtype, desc.elements());
        (desc, to_bytes(dtype, &data))
    };
    let (q, k, v) = (tensor(&[1, 2, 8]), tensor(&[3, 4, 1, 8]), tensor(&[3, 4, 1, 8]));
    let raw = |v: &[i64]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let index = |shape: &[usize]| TensorDesc::new(DType::I64, shape).unwrap();
    let of = |(desc, bytes): (TensorDesc, Vec<u8>), trial: Trial| trial.input(desc, bytes);
    let decode = of(v.clone(), of(k.clone(), of(q.clone(), Trial::new(Op::AttentionDecode(attrs)))));
    let decode = decode.input(index(&[1]), raw(&[len])).input(index(&[1, 2]), raw(&table));
    let prompt = of(v, of(k, of(q, Trial::new(Op::AttentionPrefill(attrs)))));
    let prompt =
        prompt.input(index(&[2]), raw(&[0, 1])).input(index(&[1]), raw(&[len])).input(index(&[1, 2]), raw(&table));
    for trial in [decode, prompt] {
        let trial = trial.output_dtype(DType::F32);
        for (kind, device) in kinds() {
            let got = trial.run(&**device).unwrap();
            assert!(got[0].data.iter().all(|x| x.is_nan()), "{kind} {dtype} {table:?} {len}: {:?}", got[0].data);
        }
    }
}

/// Runs a prompt of six packed queries and eight keys with these offsets and lengths, that a device may neither follow outside
/// its memory nor be stopped by; the operands stay as they are.
pub(crate) fn lying_lengths(dtype: DType, cu: [i64; 3], len: [i64; 2]) {
    let attrs = AttentionAttrs { causal: true, ..Default::default() };
    let ones = |n: usize| vec![1.0; n];
    let raw = |v: &[i64]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let index = |n: usize| TensorDesc::new(DType::I64, &[n]).unwrap();
    let trial = Trial::new(Op::AttentionPrefill(attrs)).values(dtype, &[6, 2, 8], &ones(96));
    let trial = trial.values(dtype, &[8, 1, 8], &ones(64)).values(dtype, &[8, 1, 8], &ones(64));
    let trial = trial.input(index(3), raw(&cu)).input(index(2), raw(&len));
    for (kind, device) in kinds() {
        let (before, after) = (trial.build().unwrap().bytes, survives(&**device, &trial));
        assert_eq!(before[..5], after[..5], "{kind} {dtype} {cu:?} {len:?}");
    }
}

/// Runs a trial whose data break the operator's meaning; the bytes of its bound tensors afterwards.
pub(crate) fn survives(device: &dyn Device, trial: &Trial) -> Vec<Vec<u8>> {
    let built = trial.build().unwrap();
    let mut stream = device.stream().unwrap();
    let bindings: Vec<Binding> =
        built.bytes.iter().map(|b| Binding::whole(device.alloc(0, b.len()).unwrap())).collect();
    for (binding, bytes) in bindings.iter().zip(&built.bytes) {
        stream.upload(binding, bytes).unwrap();
    }
    let plan = device.plan(&built.graph).unwrap();
    let work = Binding::whole(device.alloc(0, plan.info().workspace_bytes).unwrap());
    plan.execute(&mut *stream, &bindings, &work).unwrap();
    stream.sync(Duration::MAX).unwrap();
    let read = |b: &Binding| {
        let mut out = vec![0; b.bytes];
        stream.download(&mut out, b).unwrap();
        out
    };
    bindings.iter().map(read).collect()
}
