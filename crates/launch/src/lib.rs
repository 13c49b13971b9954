//! What nodes of a graph become on a device that runs kernels over grids of blocks: launches, as plain data.
//!
//! A row of a family's table says what it accepts and makes a node into [`Launch`]es, which name kernels by symbol, and tensors by
//! their position in the graph. Nothing here knows a driver or a kernel's text: a backend loads the symbols that its kernels have,
//! fills addresses in and queues. Backends whose kernels keep to the same symbols, parameters and geometry share these rows.
//!
//! Modules, from ground to roof: `large`, `launch`, `sound`, `fields`, `walk`, the families, among them `several`, `fuse`.
#![forbid(unsafe_code)]

mod large;

mod launch;

mod sound;

pub mod fields;
mod walk;

pub mod moves;

pub mod casts;
pub mod elementwise;

pub mod product;

mod several;

pub mod matmul;

mod rowwise;

pub mod choose;
pub mod norms;
pub mod quantize;
pub mod rope;
pub mod rows;

mod cache;

pub mod attention;
pub mod kv;

pub mod prepack;

mod tiles;

pub mod matmul_quant;
pub mod scaled_matmul;

pub mod fuse;

pub use large::{LargeProduct, WORKSPACE};
pub use launch::{Arg, Chip, Launch, Layout, Prepare, Prepared, Table, What, row};
pub use sound::ALIGN;
