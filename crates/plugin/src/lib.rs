//! The C ABI of Qiao, in both directions.
//!
//! `include/qiao_plugin.h` is the truth of the boundary; [`abi`] mirrors it.
//!
//! Modules, from ground to roof: `abi`, `dtypes`, `header`.

pub mod abi;
pub mod dtypes;
pub mod header;
