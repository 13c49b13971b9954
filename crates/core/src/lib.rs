//! The words of Qiao.
//!
//! A model meets a chip through the contract in this crate, and nothing else:
//!
//! - **Operators are data.** [`for_each_op!`] is the one list; ids, names, attributes, shape rules, costs and
//!   decompositions all come from it.
//! - **The unit of work is a [`Graph`]**; one operator is a graph of one node. [`Device::support`] answers per node and
//!   with a [`Reason`], [`Device::plan`] prepares once, [`Plan::execute`] runs many times.
//! - **Validation stands once, in front.** [`Graph`] checks shapes, dtypes and attributes while it is built;
//!   [`Graph::check_bindings`] checks buffers. A backend may assume checked arguments.
//! - **Three methods are required of a device** ([`Device::info`], [`Device::alloc`], [`Device::stream`]); the rest has
//!   a default.
//!
//! Modules, from ground to roof: `attrs`, `dtype`, `support`, `error`, `shape`, `op`, `rules`, `graph`, `text`,
//! `cost`, `decompose`, `place`, `table`, `sound`,
//! `walk`, `event`, `patience`, `device`, `host`, `noop`, `registry`.
#![forbid(unsafe_code)]

pub mod attrs;
pub mod dtype;

pub mod support;

pub mod error;

pub mod shape;

pub mod op;
mod rules;

pub mod graph;
mod text;

pub mod cost;

pub mod decompose;
pub mod place;

pub mod table;

pub mod sound;
pub mod walk;

pub mod event;
pub mod patience;

pub mod device;
pub mod host;
pub mod noop;
pub mod registry;

pub use attrs::*;
pub use cost::Cost;
pub use device::{
    Backend, Binding, Buffer, BufferExt, Caps, Device, DeviceInfo, DtypeInfo, HostMemory, KvInfo, MemoryInfo,
    MemoryKind, Plan, PlanInfo, Stream,
};
pub use dtype::{DType, DTypeKind};
pub use error::{Error, Result};
pub use event::{Event, HostEvent};
pub use graph::{Graph, Node, NodeId, NodeView, Storage, Tensor, TensorId};
pub use op::{Op, OpKind, Tier};
pub use place::Placement;
pub use registry::Registry;
pub use shape::{Dims, MAX_RANK, Pages, TensorDesc};
pub use support::{Limit, NodeSupport, Property, Reason, Rule, Support};
pub use table::{Accept, OpTable, Row};
