//! Operands that break an operator's meaning: indices and lengths that lead outside memory, if a kernel follows them.

use qiao_core::{AttentionAttrs, DType, Device, KvLayout, KvWriteAttrs, Op, Result};
use qiao_reference::Trial;

use super::run::Run;
use super::{Data, FLOATS, Maker, plain, with};

/// Two blocks of four tokens are named, of three that there are, and so many keys are said to be.
const INDEX_LIES: [([i64; 2], i64); 7] = [
    ([0, 7], 6),
    ([i64::MAX, 0], 6),
    ([-1, 0], 2),
    ([0, 1], i64::MAX),
    ([1, i64::MIN], 5),
    ([0, 1], 9),
    ([2, 1], 1 << 31),
];

fn index(data: &[i64], shape: &[usize]) -> Data {
    (plain(DType::I64, shape), data.iter().flat_map(|x| x.to_le_bytes()).collect())
}

/// Tokens decoded, and prompts of one, over pages that are not there: the result is NaN.
pub fn pages_that_are_not_there() -> Vec<Trial> {
    let attrs = AttentionAttrs { causal: true, ..Default::default() };
    let mut trials = Vec::new();
    for (dtype, (table, len)) in FLOATS.iter().flat_map(|&dtype| INDEX_LIES.map(|lie| (dtype, lie))) {
        let mut m = Maker::new(5);
        let (q, k, v) = (m.of(dtype, &[1, 2, 8]), m.of(dtype, &[3, 4, 1, 8]), m.of(dtype, &[3, 4, 1, 8]));
        let of = |op| with(with(with(Trial::new(op), q.clone()), k.clone()), v.clone()).output_dtype(DType::F32);
        let (len, table) = (index(&[len], &[1]), index(&table, &[1, 2]));
        trials.push(with(with(of(Op::AttentionDecode(attrs)), len.clone()), table.clone()));
        let prompt = with(of(Op::AttentionPrefill(attrs)), index(&[0, 1], &[2]));
        trials.push(with(with(prompt, len), table));
    }
    trials
}

/// Prompts of six packed queries and eight keys with offsets and lengths that are not theirs.
pub fn lengths_that_are_not_so() -> Vec<Trial> {
    let attrs = AttentionAttrs { causal: true, ..Default::default() };
    let far = i64::MAX;
    let mut trials = Vec::new();
    for dtype in FLOATS {
        for (cu, len) in [
            ([0, 3, 6], [far, far]),
            ([0, 6, 2], [4, 4]),
            ([-5, 99, 3], [-1, 4]),
            ([4, 2, 1], [4, 4]),
            ([0, 1, 6], [9, far]),
            ([i64::MIN, far, far], [i64::MIN, 8]),
        ] {
            let trial = Trial::new(Op::AttentionPrefill(attrs)).values(dtype, &[6, 2, 8], &[1.0; 96]);
            let trial = trial.values(dtype, &[8, 1, 8], &[1.0; 64]).values(dtype, &[8, 1, 8], &[1.0; 64]);
            trials.push(with(with(trial, index(&cu, &[3])), index(&len, &[2])));
        }
    }
    trials
}

/// A write of the cache to slots that are not there.
pub fn slots_that_are_not_there() -> Trial {
    let mut trial = Trial::new(Op::KvWrite(KvWriteAttrs { kv_layout: KvLayout::BlockTokenHead }));
    for _ in 0..2 {
        trial = trial.values(DType::F16, &[4, 2, 8], &[1.0; 64]);
    }
    trial = with(trial, index(&[8, -2, i64::MAX, i64::MIN], &[4]));
    for _ in 0..2 {
        trial = trial.values(DType::F16, &[2, 4, 2, 8], &[3.0; 128]);
    }
    trial
}

/// The bytes of a trial's bound tensors before a device runs it and after.
///
/// # Errors
/// Operands that the operator refuses; the device's own errors.
pub fn before_and_after(device: &dyn Device, trial: &Trial) -> Result<[Vec<Vec<u8>>; 2]> {
    let built = trial.build()?;
    let plan = device.plan(&built.graph)?;
    let mut run = Run::new(device, &*plan, &built.bytes)?;
    run.execute(&*plan)?;
    let after = (0..built.bytes.len()).map(|i| run.read(i)).collect::<Result<_>>()?;
    Ok([built.bytes, after])
}

/// The device follows none of the lies, nor is it stopped by them.
///
/// # Panics
/// It does, or is.
#[track_caller]
pub fn are_not_followed(device: &dyn Device) {
    let name = device.info().name.clone();
    for trial in pages_that_are_not_there() {
        let got = trial.run(device).expect("nothing stops the device");
        assert!(got[0].data.iter().all(|x| x.is_nan()), "{name}: {:?}: {:?}", trial.op(), got[0].data);
    }
    for trial in lengths_that_are_not_so() {
        let [before, after] = before_and_after(device, &trial).expect("nothing stops the device");
        assert_eq!(before[..5], after[..5], "{name}: {:?}", trial.op());
    }
    let [before, after] = before_and_after(device, &slots_that_are_not_there()).expect("nothing stops the device");
    assert_eq!(before, after, "{name}: nothing is written");
}
