//! What benchmarks share: nodes on the CPU device, operands for every operator of the list, kernels of every tier, and a small
//! model, and how long a benchmark takes.
//!
//! Modules, from ground to roof: `timing`, `node`, `operators`, `kernels`, `model`.

#![forbid(unsafe_code)]

pub mod timing;

pub mod node;

pub mod operators;

pub mod kernels;

pub mod model;
