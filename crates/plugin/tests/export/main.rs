//! The exporter without the loader: its table, called as a C host calls it.

mod host;
mod toy;

mod arguments;
mod faults;
mod graphs;
mod life;
mod wild;
