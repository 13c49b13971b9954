//! Writes of the KV cache on the simulated card beside the truth.

mod rig;

use qiao_conformance::trials::lies::before_and_after;
use qiao_conformance::trials::walk::Walk;
use qiao_core::{DType, KvWriteAttrs, Op};
use qiao_reference::Trial;
use rig::{Data, check_all, device, hold, kv_write, plain, with};

/// The points of the walks are within their limits by the kernel.
#[track_caller]
fn check(walks: &[Walk]) {
    let device = device();
    let of = |walk: &Walk| walk.failures(&*device, |_, name| name == "kv_write.cuda");
    hold(&walks.iter().flat_map(of).collect::<Vec<_>>());
}

qiao_conformance::trials!(kv_write, |_, walks| check(walks));

#[test]
fn keys_and_values_may_differ_in_dtype() {
    check_all(&kv_write::keys_and_values_differ_in_dtype());
}

/// Every bit of a NaN is somebody's.
#[test]
fn elements_of_the_caches_own_dtype_keep_their_bits() {
    for (dtype, nans) in [(DType::F16, [0x7c01, 0xfdab]), (DType::BF16, [0x7f81, 0xffab])] {
        // Rows of 7 and of 8 elements: one by one, and sixteen bytes at once.
        for d in [7, 8] {
            let rows = |first: usize| -> Data {
                let bits = (0..3 * 2 * d).map(|i| if i % 3 == 0 { nans[i % 2] } else { (first + i) as u16 });
                (plain(dtype, &[3, 2, d]), bits.flat_map(u16::to_le_bytes).collect())
            };
            let cache = || (plain(dtype, &[1, 4, 2, d]), vec![0; 4 * 2 * d * 2]);
            let (k, v) = (rows(0x100), rows(0x900));
            let trial = with(with(Trial::new(Op::KvWrite(KvWriteAttrs::default())), k.clone()), v.clone());
            let trial = trial.values(DType::I32, &[3], &[0.0, 1.0, 2.0]);
            let [_, after] = before_and_after(&*device(), &with(with(trial, cache()), cache())).unwrap();
            assert_eq!(after[3][..k.1.len()], k.1, "{dtype}, {d} elements");
            assert_eq!(after[4][..v.1.len()], v.1, "{dtype}, {d} elements");
        }
    }
}
