//! A plugin's `.so` as a backend of the contract.
//!
//! - [`Plugin::load`] opens the file, asks it who it is, checks that the two sides understand each other and starts its
//!   backend; what comes back is a [`qiao_core::Backend`] like any other.
//! - Nothing that a plugin says is trusted: texts are cut, counts are capped, out-parameters are poisoned, handles are
//!   watched. What makes no sense is one clear error, never a panic and never an allocation of what a number claims.
//! - What a plugin does not have is made up for by the host ([`PluginBackend::notes`] says what), so that fourteen functions
//!   are a device.
//!
//! Files, from ground to roof: `words`, `options`, `services`, `failure`, `calls`, `slots`, `query`, `session`, `info`,
//! `opened`, `event`, `stream`, `arena`, `support`, `plan`, `device`, `elf`, `library`, `backend`,
//! `manifest`, `lazy`, `discover`, `rules`, `probe`.

mod words;

mod options;
mod services;

mod failure;

mod calls;
mod slots;

mod query;

mod session;

mod info;
mod opened;

mod event;
mod stream;

mod arena;
mod support;

mod plan;

mod device;

mod elf;
mod library;

mod backend;

mod manifest;

mod lazy;

mod discover;

mod rules;

pub mod probe;

pub use backend::{Plugin, PluginBackend};
pub use discover::{Finding, Found, Places, VARIABLE, discover, discover_in};
pub use lazy::LazyBackend;
pub use library::QUERY_SYMBOLS;
pub use manifest::Manifest;
pub use options::{Before, Log, Options, TIMEOUT};

pub use crate::export::Level;
