//! Operators that move elements match the truth.

mod rig;

qiao_conformance::trials!(moves, |_, trials| rig::check_all(trials));
