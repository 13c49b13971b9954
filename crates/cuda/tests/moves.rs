//! Operators that move elements, cast them and look rows up match the truth.

mod rig;

qiao_conformance::trials!(moves, |_, trials| rig::check_all(trials));
qiao_conformance::trials!(casts, |_, trials| rig::check_all(trials));
