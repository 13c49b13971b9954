//! The C ABI of Qiao, in both directions.
//!
//! `include/qiao_plugin.h` is the truth of the boundary; [`abi`] mirrors it.
//!
//! Modules, from ground to roof: `abi`, `dtypes`, `header`; `export`; `load`.

pub mod abi;
pub mod dtypes;
pub mod header;

pub mod export;

pub mod load;

pub use export::{Host, Level};
pub use load::{Options, Plugin, PluginBackend};

/// The words that backends are written in.
pub use qiao_core as core;
