//! MXFP4: 32 codes of fp4 with one power-of-two scale.

use crate::minifloat::F4E2M1;
use crate::q32::nibble;

/// `e[1] qs[16]`: `2^(e − 127)·fp4(q)`. Every exponent is a number here, 255 too; a product beyond f32 is ∞.
pub(crate) fn mxfp4(b: &[u8], out: &mut [f32]) {
    let scale = 2f64.powi(b[0] as i32 - 127);
    for (j, x) in out.iter_mut().enumerate() {
        *x = (scale * F4E2M1.decode(nibble(&b[1..], j) as u32)) as f32;
    }
}
