//! The Ascend backend: AscendCL's run time and aclnn's operators around a table of rows.
//!
//! - `libascendcl.so`, `libnnopbase.so` and `libopapi.so` are opened when asked for: a machine without them gets
//!   [`Error::NotPresent`], with what was looked for. Nothing of CANN is needed to build this crate.
//! - A chip is one of a family that `chips` has a row for, by the name that AscendCL tells; others are refused by name.
//! - An operator runs in two phases: the first makes an executor and tells a workspace, the second queues it. An executor runs
//!   once, so that every execution of a plan makes new ones. Tensor objects are given back after each node, whatever fails.
//! - Tensors start on 64 bytes with 32 spare behind; indices are int32; pages have 128 tokens; weights may lie in FRACTAL_NZ.
//! - A stream stops at its first failure, which is kept; what befalls the device itself loses it.
//! - What has no documented operator, or whose page leaves open what the contract pins down, is refused with its reason.
//!
//! It was never run on a chip: `docs/ascend.md` says what stands behind it.
//!
//! Modules, from ground to roof: `codes`, `chips`, `operators`, `sys`, `context`, `memory`, `event`, `staging`, `stream`, `ops`,
//! `device`, `backend`.
//!
//! [`Error::NotPresent`]: qiao_core::Error::NotPresent

mod codes;

mod chips;
mod operators;

mod sys;

mod context;

mod memory;

mod event;
mod staging;

mod stream;

mod ops;

mod device;

mod backend;

pub use backend::AscendBackend;
