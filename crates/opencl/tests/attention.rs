//! Attention and writes of the KV cache beside the truth, on both kinds of devices.

mod kinds;
mod rig;

use kinds::kinds;
use qiao_conformance::trials::walk::Walk;
use rig::{hold, kv_write, lies};

/// The points of the walks are within their limits on both kinds.
#[track_caller]
fn check(walks: &[Walk]) {
    let mut wrong = Vec::new();
    for (kind, device) in kinds() {
        let each = walks.iter().flat_map(|walk| walk.failures(&**device, |_, _| true));
        wrong.extend(each.map(|why| format!("{kind} {why}")));
    }
    hold(&wrong);
}

qiao_conformance::trials!(attention, |_, walks| check(walks));
qiao_conformance::trials!(kv_write, |_, walks| check(walks));

#[test]
fn keys_and_values_may_differ_in_dtype() {
    kinds::check("", &kv_write::keys_and_values_differ_in_dtype());
}

#[test]
fn indices_and_lengths_that_lie_never_lead_outside_memory() {
    kinds().iter().for_each(|(_, device)| lies::are_not_followed(&**device));
}
