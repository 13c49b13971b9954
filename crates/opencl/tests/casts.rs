//! Elements become those of another dtype, and rows of tables are looked up, as the truth has it.

mod rig;

qiao_conformance::trials!(casts, |_, trials| rig::check_all(trials));
