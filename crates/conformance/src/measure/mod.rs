//! Measurement: what a device reaches, beside what it can reach.
//!
//! - [`probe()`] measures the limits: bytes per second and, for each dtype, operations per second of products.
//! - [`bench()`] times operators at shapes of real models. Operands take turns in so many copies that caches hold none of
//!   them; times are the device's own where it has events that tell them; results are compared with the truth after the
//!   timing. What is not measured has a record that says why.
//!
//! Modules, from ground to roof: `figures`, `models`, `caches`, `source`, `work`, `products` with `rowwise` and `attention`,
//! `shapes`, `list`, `clock`, `stage`, `verify`, `time`, `probe`, `bench`.

pub mod figures;

pub mod models;

mod caches;
mod source;

mod work;

mod attention;
mod products;
mod rowwise;

mod shapes;

mod list;

mod clock;

mod stage;

mod verify;

mod time;

mod probe;

mod bench;

pub use bench::{OpsProgress, bench, some_measured};
pub use figures::{Figures, Limits, OpFigure, OpsBench, Probe, Timer};
pub use list::{OpsSelection, Set, paths};
pub use models::{MODELS, ModelShape};
pub use probe::{Probes, probe, probes};
