//! Operators that work element by element match the truth.

mod rig;

qiao_conformance::trials!(elementwise, |_, trials| rig::check_all(trials));
