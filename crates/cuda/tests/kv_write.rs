//! Writes of the KV cache on the simulated card beside the truth.

mod rig;

use qiao_conformance::trials::walk::Walk;
use rig::{check_all, device, hold, kv_write};

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
