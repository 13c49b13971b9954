//! Quantised products beside the truth: every format that has kernels, what follows the product, and what no kernel takes, on
//! both kinds of devices.

mod kinds;
mod rig;

use kinds::{check, kinds};
use qiao_conformance::trials::matmul_quant::{is_refused_and_decomposes, odd_groups, of_zeros};

qiao_conformance::trials!(matmul_quant, |_, trials| check("gem", trials));

#[test]
fn weights_at_their_zero_are_exactly_zero() {
    for (kind, device) in kinds() {
        for trial in of_zeros() {
            let out = trial.run(&**device).unwrap();
            assert!(out[0].data.iter().all(|&y| y == 0.0), "{kind}: {:?}", &out[0].data[..8]);
        }
    }
}

#[test]
fn what_no_kernel_takes_is_refused_and_decomposes() {
    let Some((_, device)) = kinds().first() else { return };
    odd_groups().iter().for_each(|trial| is_refused_and_decomposes(&**device, trial));
}
