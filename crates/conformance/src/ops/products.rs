//! matmul.

use qiao_core::{MatmulAttrs, Op, OpKind, Result};
use qiao_reference::Trial;

use crate::family::{Depth, FLOATS, Family, with};
use crate::make::{FILL, Make, constant};
use crate::point::{Param, Point, size, word};

const PARAMS: &[Param] =
    &[size("m"), size("n"), size("k"), word("b", &["nk", "kn"]), word("constant", &["yes", "no"]), FILL];

pub(crate) const FAMILIES: &[Family] = &[Family {
    op: OpKind::Matmul,
    variant: "",
    dtypes: FLOATS,
    params: PARAMS,
    walk: &[(Depth::Smoke, "m={1,5},n={64,33},k={64,70},b={nk,kn},constant={yes,no}")],
    build: matmul,
}];

fn matmul(make: &mut Make, p: &Point) -> Result<Trial> {
    let (m, n, k) = (p.size("m"), p.size("n"), p.size("k"));
    let trans_b = p.word("b") == "nk";
    let (a, mut b) = (make.tensor(&[m, k])?, make.tensor(&if trans_b { [n, k] } else { [k, n] })?);
    if p.flag("constant") {
        b = constant(b);
    }
    Ok(with(with(Trial::new(Op::Matmul(MatmulAttrs { trans_b, ..Default::default() })), a), b))
}
