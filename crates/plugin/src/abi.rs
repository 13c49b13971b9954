//! `qiao_plugin.h` in Rust, field by field. Tests hold the two to one layout.
//!
//! Fields are integers and pointers as they cross the boundary: nothing here is an enum, a bool or a reference, since a
//! peer may write anything into them. What they mean stands in the header.
#![allow(missing_docs, reason = "the header documents every field, once")]

use std::ffi::{c_char, c_void};

pub const MAJOR: u32 = 0;
pub const MINOR: u32 = 1;
/// The oldest plugin that this host still speaks with.
pub const MIN_PLUGIN_MINOR: u32 = 1;
/// The symbol that a plugin of this major exports.
pub const QUERY_SYMBOL: &str = "qiao_plugin_query_v0";
pub const WAIT_FOREVER: u64 = u64::MAX;
pub const MAX_RANK: usize = 8;
pub const ABSENT: u32 = u32::MAX;
pub const EXT_CRITICAL: u32 = 0x8000_0000;

pub type Status = i32;

pub const OK: Status = 0;
pub const ERR_INVALID_ARG: Status = 1;
pub const ERR_UNSUPPORTED: Status = 2;
pub const ERR_OUT_OF_MEMORY: Status = 3;
pub const ERR_NOT_READY: Status = 4;
pub const ERR_TIMEOUT: Status = 5;
pub const ERR_POISONED: Status = 6;
pub const ERR_DEVICE_LOST: Status = 7;
pub const ERR_ABI: Status = 8;
pub const ERR_INTERNAL: Status = 9;
pub const ERR_NOT_PRESENT: Status = 10;

pub const LOG_ERROR: u32 = 1;
pub const LOG_WARN: u32 = 2;
pub const LOG_INFO: u32 = 3;
pub const LOG_DEBUG: u32 = 4;

pub const MEM_DEVICE_LOCAL: u32 = 1;
pub const MEM_HOST_VISIBLE: u32 = 2;
pub const MEM_PINNED: u32 = 4;

pub const DTYPE_STORE: u64 = 1;
pub const DTYPE_COMPUTE: u64 = 2;

pub const CAP_GRAPH: u64 = 1;
pub const CAP_IMPORT_HOST: u64 = 2;
pub const CAP_STRIDED: u64 = 4;
pub const CAP_INDEX_I64: u64 = 8;
pub const CAP_DETERMINISTIC: u64 = 16;
pub const CAP_FLUSH_SUBNORMALS: u64 = 32;
pub const CAP_BATCH_INVARIANT: u64 = 64;

pub const TENSOR_CONST: u32 = 1;

pub const SUPPORT_NO: u32 = 0;
pub const SUPPORT_NATIVE: u32 = 1;
pub const SUPPORT_RELAYOUT: u32 = 2;

pub const REASON_NONE: u32 = 0;
pub const REASON_OPCODE: u32 = 1;
pub const REASON_REVISION: u32 = 2;
pub const REASON_ATTRIBUTE: u32 = 3;
pub const REASON_DTYPE: u32 = 4;
pub const REASON_RANK: u32 = 5;
pub const REASON_DIM: u32 = 6;
pub const REASON_STRIDES: u32 = 7;
pub const REASON_ALIGN: u32 = 8;
pub const REASON_QUANT: u32 = 9;
pub const REASON_LAYOUT: u32 = 10;
pub const REASON_MEMORY: u32 = 11;
pub const REASON_PRESENCE: u32 = 12;

pub const RULE_NONE: u32 = 0;
pub const RULE_MULTIPLE_OF: u32 = 1;
pub const RULE_AT_MOST: u32 = 2;
pub const RULE_AT_LEAST: u32 = 3;
pub const RULE_EQUAL: u32 = 4;
pub const RULE_ONE_OF: u32 = 5;

pub const SANITIZER_NONE: u32 = 0;
pub const SANITIZER_ADDRESS: u32 = 1;
pub const SANITIZER_MEMORY: u32 = 2;
pub const SANITIZER_THREAD: u32 = 3;

/// Opaque handles. Never dereferenced by the host, so they need not be addresses.
macro_rules! handles {
    ($($name:ident)*) => {$(
        #[repr(C)]
        pub struct $name { _opaque: [u8; 0] }
    )*};
}
handles! { Backend Device Buffer Stream Event Plan }

/// A struct of the boundary, which some peer may know in part.
pub trait Fields {
    /// Where its fields begin: the sizes that a peer of an older header may say it has.
    const OFFSETS: &'static [usize];
}

/// A struct that crosses the boundary: it begins with its `struct_size`, and all zero is a value of it.
///
/// # Safety
/// `repr(C)`, the first field is a `u32` that holds the size of the struct, no padding, and every bit pattern is a value.
pub unsafe trait Sized32: Copy + Fields {
    /// All zero but for the size.
    fn sized() -> Self {
        // SAFETY: all zero is a value by the contract of the trait.
        let mut zero: Self = unsafe { std::mem::zeroed() };
        // SAFETY: the first field is the u32 that holds the size.
        unsafe { (&raw mut zero).cast::<u32>().write(size_of::<Self>() as u32) };
        zero
    }
}

macro_rules! structs {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug)]
            pub struct $name { $(pub $field: $ty,)* }

            impl Fields for $name {
                const OFFSETS: &'static [usize] = &[$(std::mem::offset_of!($name, $field)),*];
            }
        )*

        /// Name, size and alignment of every struct, and name, offset and size of its fields.
        pub const LAYOUT: &[Layout] = &[$(Layout {
            name: stringify!($name),
            size: size_of::<$name>(),
            align: align_of::<$name>(),
            fields: &[$((stringify!($field), std::mem::offset_of!($name, $field), {
                const fn width<T>(_: &std::mem::ManuallyDrop<Option<T>>) -> usize { size_of::<T>() }
                const NONE: &std::mem::ManuallyDrop<Option<$ty>> = &std::mem::ManuallyDrop::new(None);
                width(NONE)
            }),)*],
        },)*];
    };
}

/// How a struct lies in memory.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The struct's name here.
    pub name: &'static str,
    /// Its size in bytes.
    pub size: usize,
    /// Its alignment in bytes.
    pub align: usize,
    /// Its fields: name, offset and size in bytes.
    pub fields: &'static [(&'static str, usize, usize)],
}

structs! {
    ErrorRecord {
        struct_size: u32,
        code: Status,
        vendor_code: i64,
        operand: i32,
        reason: u32,
        message: [c_char; 232],
    }
    Ext {
        ty: u32,
        size: u32,
        next: *const Ext,
    }
    Host {
        struct_size: u32,
        abi_minor: u32,
        ctx: *mut c_void,
        log: Option<unsafe extern "C" fn(*mut c_void, u32, *const c_char, u64)>,
        get_option: Option<unsafe extern "C" fn(*mut c_void, *const c_char) -> *const c_char>,
        ext: *const Ext,
    }
    MemoryInfo {
        struct_size: u32,
        flags: u32,
        total_bytes: u64,
        free_bytes: u64,
        max_alloc: u64,
        base_align: u64,
        peak_bytes_per_s: u64,
    }
    DtypeInfo {
        struct_size: u32,
        dtype: u32,
        flags: u64,
        peak_ops_per_s: u64,
    }
    KvInfo {
        struct_size: u32,
        layout: u32,
        block_size: u32,
    }
    DeviceInfo {
        struct_size: u32,
        flags: u32,
        caps: u64,
        name: [c_char; 64],
        arch: [c_char; 32],
        driver: [c_char; 64],
        memory_count: u32,
        dtype_count: u32,
        kv_count: u32,
        reserved: u32,
        tensor_align: u64,
        tensor_tail_pad: u64,
        peak_source: [c_char; 128],
        ext: *const Ext,
    }
    Tensor {
        struct_size: u32,
        dtype: u32,
        rank: u32,
        flags: u32,
        dims: [i64; MAX_RANK],
        strides: [i64; MAX_RANK],
        layout: u64,
        bound: u32,
        view_of: u32,
        view_offset: u64,
        ext: *const Ext,
    }
    Binding {
        buffer: *mut Buffer,
        offset: u64,
        bytes: u64,
    }
    Op {
        struct_size: u32,
        opcode: u32,
        revision: u32,
        flags: u32,
        n_in: u32,
        n_out: u32,
        operands: *const u32,
        attrs: *const c_void,
        ext: *const Ext,
    }
    Graph {
        struct_size: u32,
        n_tensors: u32,
        n_ops: u32,
        n_bound: u32,
        tensors: *const *const Tensor,
        ops: *const *const Op,
        bound: *const u32,
        ext: *const Ext,
    }
    Support {
        struct_size: u32,
        level: u32,
        reason: u32,
        operand: i32,
        property: u32,
        rule: u32,
        value: i64,
        limit: i64,
        layout: u64,
        act_dtype: u32,
        flags: u32,
        kernel: [c_char; 64],
        words: [c_char; 64],
    }
    PlanInfo {
        struct_size: u32,
        flags: u32,
        workspace_bytes: u64,
        workspace_align: u64,
        resident_bytes: u64,
    }
    Api {
        struct_size: u32,
        abi_minor: u32,
        backend_init: Option<unsafe extern "C" fn(*const Host, *mut *mut Backend, *mut ErrorRecord) -> Status>,
        backend_shutdown: Option<unsafe extern "C" fn(*mut Backend)>,
        get_interface: Option<unsafe extern "C" fn(*mut Backend, *const c_char) -> *const c_void>,
        device_count: Option<unsafe extern "C" fn(*mut Backend, *mut u32, *mut ErrorRecord) -> Status>,
        device_open: Option<unsafe extern "C" fn(*mut Backend, u32, *mut *mut Device, *mut ErrorRecord) -> Status>,
        device_close: Option<unsafe extern "C" fn(*mut Device)>,
        device_info: Option<unsafe extern "C" fn(*mut Device, *mut DeviceInfo, *mut ErrorRecord) -> Status>,
        memory_info: Option<unsafe extern "C" fn(*mut Device, u32, *mut MemoryInfo, *mut ErrorRecord) -> Status>,
        dtype_info: Option<unsafe extern "C" fn(*mut Device, u32, *mut DtypeInfo, *mut ErrorRecord) -> Status>,
        kv_info: Option<unsafe extern "C" fn(*mut Device, u32, *mut KvInfo, *mut ErrorRecord) -> Status>,
        buffer_alloc: Option<unsafe extern "C" fn(*mut Device, u32, u64, *mut *mut Buffer, *mut ErrorRecord) -> Status>,
        buffer_import: Option<unsafe extern "C" fn(*mut Device, *const c_void, u64, *mut *mut Buffer, *mut ErrorRecord) -> Status>,
        buffer_free: Option<unsafe extern "C" fn(*mut Buffer)>,
        stream_create: Option<unsafe extern "C" fn(*mut Device, u32, *mut *mut Stream, *mut ErrorRecord) -> Status>,
        stream_destroy: Option<unsafe extern "C" fn(*mut Stream)>,
        stream_sync: Option<unsafe extern "C" fn(*mut Stream, u64, *mut ErrorRecord) -> Status>,
        upload: Option<unsafe extern "C" fn(*mut Stream, *mut Buffer, u64, *const c_void, u64, *mut ErrorRecord) -> Status>,
        download: Option<unsafe extern "C" fn(*mut Stream, *mut c_void, *mut Buffer, u64, u64, *mut ErrorRecord) -> Status>,
        copy: Option<unsafe extern "C" fn(*mut Stream, *mut Buffer, u64, *mut Buffer, u64, u64, *mut ErrorRecord) -> Status>,
        fill: Option<unsafe extern "C" fn(*mut Stream, *mut Buffer, u64, u64, u32, *mut ErrorRecord) -> Status>,
        stream_wait: Option<unsafe extern "C" fn(*mut Stream, *mut Event, *mut ErrorRecord) -> Status>,
        event_create: Option<unsafe extern "C" fn(*mut Device, u32, *mut *mut Event, *mut ErrorRecord) -> Status>,
        event_destroy: Option<unsafe extern "C" fn(*mut Event)>,
        event_record: Option<unsafe extern "C" fn(*mut Event, *mut Stream, *mut ErrorRecord) -> Status>,
        event_sync: Option<unsafe extern "C" fn(*mut Event, u64, *mut ErrorRecord) -> Status>,
        event_query: Option<unsafe extern "C" fn(*mut Event, *mut ErrorRecord) -> Status>,
        event_elapsed_ns: Option<unsafe extern "C" fn(*mut Event, *mut Event, *mut u64, *mut ErrorRecord) -> Status>,
        graph_support: Option<unsafe extern "C" fn(*mut Device, *const Graph, *const *mut Support, *mut ErrorRecord) -> Status>,
        plan_create: Option<unsafe extern "C" fn(*mut Device, *const Graph, *mut *mut Plan, *mut PlanInfo, *mut ErrorRecord) -> Status>,
        plan_destroy: Option<unsafe extern "C" fn(*mut Plan)>,
        plan_execute: Option<unsafe extern "C" fn(*mut Plan, *mut Stream, *const Binding, u32, *const Binding, *mut ErrorRecord) -> Status>,
        prepack_size: Option<unsafe extern "C" fn(*mut Device, *const Tensor, u64, *mut u64, *mut ErrorRecord) -> Status>,
        prepack: Option<unsafe extern "C" fn(*mut Stream, *const Tensor, *const Binding, u64, *const Binding, *mut ErrorRecord) -> Status>,
    }
    Query {
        struct_size: u32,
        host_minor: u32,
        host_min_minor: u32,
        host_flags: u32,
        plugin_minor: u32,
        plugin_min_host_minor: u32,
        sanitizer: u32,
        plugin_flags: u32,
        api: *const Api,
        vendor: [c_char; 32],
        name: [c_char; 32],
        version: [c_char; 32],
    }
}

/// The type of the exported function.
pub type QueryFn = unsafe extern "C" fn(*mut Query, *mut ErrorRecord) -> Status;

macro_rules! sized {
    ($($name:ident)*) => {$(
        // SAFETY: repr(C), begins with `struct_size`, without padding (the header is compiled with -Wpadded and the layouts
        // are compared), and made of integers, pointers and `Option`s of function pointers, of which all zero is a value.
        unsafe impl Sized32 for $name {}
    )*};
}
sized! { ErrorRecord Host MemoryInfo DtypeInfo KvInfo DeviceInfo Tensor Op Graph Support PlanInfo Api Query }

// SAFETY: a table of functions that may be called from any thread (R6).
unsafe impl Send for Api {}
// SAFETY: as above; nobody writes to it.
unsafe impl Sync for Api {}
