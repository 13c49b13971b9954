//! The exporter: any Rust [`Backend`] as a plugin.
//!
//! ```ignore
//! // lib.rs of a crate with crate-type = ["cdylib", "rlib"]
//! qiao_plugin::export! { vendor: "Acme", name: "acme", version: env!("CARGO_PKG_VERSION"), open: open_backend }
//!
//! fn open_backend(host: &qiao_plugin::Host) -> qiao_core::Result<Arc<dyn Backend>> { .. }
//! ```
//!
//! - Handles are integers into tables of the process: one that is stale, foreign or of another kind is an error that says so.
//! - A panic of the backend is `QIAO_ERR_INTERNAL` with its message. One in a command is the failure of its stream.
//! - What the rules promise of a plugin is kept here for every backend: sizes of structs, the first failure of a stream, a lost
//!   device that stays lost, host memory that is in use no more when its buffer is freed, one call at a time on a stream.
//! - Graphs are built anew through the checked methods of [`Graph`](qiao_core::Graph), so that a backend meets valid ones only.
//!
//! Modules, from ground to roof: `fault`, `wire`, `host`, `handles`, `objects`, `request`, `translate`, `answer`, `slots`.

mod fault;
mod wire;

mod host;

mod handles;
mod objects;

mod request;
mod translate;

mod answer;

mod slots;

use std::ffi::c_void;
use std::mem::offset_of;
use std::sync::Arc;

use qiao_core::{Backend, Result};

pub use host::{Host, Level};

use crate::abi::{self, Api, ErrorRecord, Query, Status};
use fault::{Fault, guard};
use wire::{In, OutStruct, text};

/// The oldest minor of a host that a plugin of this crate speaks with.
pub const MIN_HOST_MINOR: u32 = 1;

/// What [`export!`](crate::export!) is told of a plugin.
pub trait Plugin: 'static {
    /// Its maker, for people; at most 31 bytes.
    const VENDOR: &'static str;
    /// The backend's name, what stands before the colon of a device name: a-z 0-9 - _, at most 31 bytes.
    const NAME: &'static str;
    /// The plugin's version; at most 31 bytes.
    const VERSION: &'static str;

    /// Starts the backend.
    ///
    /// # Errors
    /// [`NotPresent`](qiao_core::Error::NotPresent) where driver or chip is not on this machine.
    fn open(host: &Host) -> Result<Arc<dyn Backend>>;

    /// An extra by name, as `get_interface` says; NULL where there is none.
    fn interface(id: &str) -> *const c_void {
        let _ = id;
        std::ptr::null()
    }
}

/// Makes this crate's library a plugin: exports `qiao_plugin_query_v0`, and nothing else. The crate's type is `cdylib`, beside
/// `rlib` for its tests; one library, and one program that links it, holds one plugin. The crate may forbid unsafe code, and
/// must be built with `panic = "unwind"`.
#[macro_export]
macro_rules! export {
    (vendor: $vendor:expr, name: $name:expr, version: $version:expr, open: $open:path $(, interface: $interface:path)? $(,)?) => {
        const _: () = {
            struct Exported;

            impl $crate::export::Plugin for Exported {
                const VENDOR: &'static str = $vendor;
                const NAME: &'static str = $name;
                const VERSION: &'static str = $version;

                fn open(
                    host: &$crate::Host,
                ) -> ::core::result::Result<::std::sync::Arc<dyn $crate::core::Backend>, $crate::core::Error> {
                    $open(host)
                }

                $(fn interface(id: &str) -> *const ::core::ffi::c_void {
                    $interface(id)
                })?
            }

            static TABLE: $crate::abi::Api = $crate::export::table::<Exported>();

            #[unsafe(no_mangle)]
            unsafe extern "C" fn qiao_plugin_query_v0(
                query: *mut $crate::abi::Query,
                error: *mut $crate::abi::ErrorRecord,
            ) -> $crate::abi::Status {
                // SAFETY: the caller keeps to the header, as `answer` demands.
                unsafe { $crate::export::answer_query::<Exported>(&TABLE, query, error) }
            }
        };
    };
}

/// The table of a plugin: every slot of this minor. One that changes its table, to leave slots out, starts from this.
pub const fn table<P: Plugin>() -> Api {
    const { assert_names(P::VENDOR, P::NAME, P::VERSION) };
    Api {
        struct_size: size_of::<Api>() as u32,
        abi_minor: abi::MINOR,
        backend_init: Some(slots::backend::init::<P>),
        backend_shutdown: Some(slots::backend::shutdown),
        get_interface: Some(slots::backend::interface::<P>),
        device_count: Some(slots::backend::device_count),
        device_open: Some(slots::backend::device_open),
        device_close: Some(slots::backend::device_close),
        device_info: Some(slots::device::info),
        memory_info: Some(slots::device::memory),
        dtype_info: Some(slots::device::dtype),
        kv_info: Some(slots::device::kv),
        buffer_alloc: Some(slots::memory::alloc),
        buffer_import: Some(slots::memory::import),
        buffer_free: Some(slots::memory::buffer_free),
        stream_create: Some(slots::streams::create),
        stream_destroy: Some(slots::streams::destroy),
        stream_sync: Some(slots::streams::sync),
        upload: Some(slots::streams::upload),
        download: Some(slots::streams::download),
        copy: Some(slots::streams::copy),
        fill: Some(slots::streams::fill),
        stream_wait: Some(slots::events::wait),
        event_create: Some(slots::events::create),
        event_destroy: Some(slots::events::destroy),
        event_record: Some(slots::events::record),
        event_sync: Some(slots::events::sync),
        event_query: Some(slots::events::query),
        event_elapsed_ns: Some(slots::events::elapsed_ns),
        graph_support: Some(slots::plans::support),
        plan_create: Some(slots::plans::create),
        plan_destroy: Some(slots::plans::destroy),
        plan_execute: Some(slots::plans::execute),
        prepack_size: Some(slots::plans::prepack_size),
        prepack: Some(slots::plans::prepack),
    }
}

/// Refuses, while the plugin is compiled, names that do not fit the query or are no names.
const fn assert_names(vendor: &str, name: &str, version: &str) {
    assert!(vendor.len() < 32 && name.len() < 32 && version.len() < 32, "a name of the plugin is above 31 bytes");
    assert!(!name.is_empty(), "the backend has no name");
    let (bytes, mut i) = (name.as_bytes(), 0);
    while i < bytes.len() {
        let plain = matches!(bytes[i], b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        assert!(plain, "the backend's name holds something else than a-z 0-9 - _");
        i += 1;
    }
}

/// Answers the query of a plugin with this table.
///
/// # Safety
/// Both pointers are NULL, or valid for as many bytes as their `struct_size` says.
pub unsafe fn answer_query<P: Plugin>(table: &'static Api, query: *mut Query, error: *mut ErrorRecord) -> Status {
    // SAFETY: as promised.
    unsafe {
        let (given, out) = (In::new(query.cast_const()), OutStruct::new(query));
        guard(error, || {
            let asked = given.read("query")?;
            let who = format!("plugin {} {} speaks ABI {}.{}", P::NAME, P::VERSION, abi::MAJOR, abi::MINOR);
            if (asked.struct_size as usize) < offset_of!(Query, version) + 32 {
                let size = asked.struct_size;
                return Err(Fault::abi(format!(
                    "{who}; the query is {size} bytes, too few for an answer: update the host"
                )));
            }
            if asked.host_flags != 0 {
                let flags = asked.host_flags;
                return Err(Fault::abi(format!(
                    "{who} and does not know flags {flags:#x} of the query: update the plugin"
                )));
            }
            if asked.host_minor < MIN_HOST_MINOR {
                return Err(Fault::abi(format!(
                    "{who} and needs a host of {}.{MIN_HOST_MINOR} or newer; this host speaks {}.{}: update the host",
                    abi::MAJOR,
                    abi::MAJOR,
                    asked.host_minor
                )));
            }
            let answer = Query {
                plugin_minor: table.abi_minor,
                plugin_min_host_minor: MIN_HOST_MINOR,
                sanitizer: abi::SANITIZER_NONE,
                plugin_flags: 0,
                api: table,
                vendor: text(P::VENDOR),
                name: text(P::NAME),
                version: text(P::VERSION),
                ..asked
            };
            out.write("query", &answer)
        })
    }
}
