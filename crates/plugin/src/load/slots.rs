//! A plugin's table of functions, checked: what is required is there, and a group is there whole or not at all.

use std::ffi::{c_char, c_void};

use crate::abi::{
    Api, Backend, Binding, Buffer, Device, DeviceInfo, DtypeInfo, ErrorRecord, Event, Graph, Host, KvInfo, MemoryInfo,
    Plan, PlanInfo, Sized32, Status, Stream, Support, Tensor,
};

macro_rules! slots {
    ($($(#[$doc:meta])* $name:ident { $($slot:ident: ($($arg:ty),*) $(-> $ret:ty)?,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $name { $(pub(super) $slot: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)* }

        impl $name {
            const COUNT: usize = [$(stringify!($slot)),*].len();

            /// The slots, or the names of those that are missing.
            fn of(api: &Api) -> Result<$name, Vec<&'static str>> {
                let mut missing = Vec::new();
                $(if api.$slot.is_none() { missing.push(stringify!($slot)); })*
                match ($(api.$slot,)*) {
                    ($(Some($slot),)*) => Ok($name { $($slot,)* }),
                    _ => Err(missing),
                }
            }
        }
    )*};
}

slots! {
    /// What every plugin has.
    Required {
        backend_init: (*const Host, *mut *mut Backend, *mut ErrorRecord) -> Status,
        backend_shutdown: (*mut Backend),
        device_count: (*mut Backend, *mut u32, *mut ErrorRecord) -> Status,
        device_open: (*mut Backend, u32, *mut *mut Device, *mut ErrorRecord) -> Status,
        device_close: (*mut Device),
        device_info: (*mut Device, *mut DeviceInfo, *mut ErrorRecord) -> Status,
        memory_info: (*mut Device, u32, *mut MemoryInfo, *mut ErrorRecord) -> Status,
        buffer_alloc: (*mut Device, u32, u64, *mut *mut Buffer, *mut ErrorRecord) -> Status,
        buffer_free: (*mut Buffer),
        stream_create: (*mut Device, u32, *mut *mut Stream, *mut ErrorRecord) -> Status,
        stream_destroy: (*mut Stream),
        stream_sync: (*mut Stream, u64, *mut ErrorRecord) -> Status,
        upload: (*mut Stream, *mut Buffer, u64, *const c_void, u64, *mut ErrorRecord) -> Status,
        download: (*mut Stream, *mut c_void, *mut Buffer, u64, u64, *mut ErrorRecord) -> Status,
    }
    /// Group [E].
    Events {
        stream_wait: (*mut Stream, *mut Event, *mut ErrorRecord) -> Status,
        event_create: (*mut Device, u32, *mut *mut Event, *mut ErrorRecord) -> Status,
        event_destroy: (*mut Event),
        event_record: (*mut Event, *mut Stream, *mut ErrorRecord) -> Status,
        event_sync: (*mut Event, u64, *mut ErrorRecord) -> Status,
    }
    /// Group [G].
    Graphs {
        graph_support: (*mut Device, *const Graph, *const *mut Support, *mut ErrorRecord) -> Status,
        plan_create: (*mut Device, *const Graph, *mut *mut Plan, *mut PlanInfo, *mut ErrorRecord) -> Status,
        plan_destroy: (*mut Plan),
        plan_execute: (*mut Plan, *mut Stream, *const Binding, u32, *const Binding, *mut ErrorRecord) -> Status,
    }
    /// Group [P].
    Prepack {
        prepack_size: (*mut Device, *const Tensor, u64, *mut u64, *mut ErrorRecord) -> Status,
        prepack: (*mut Stream, *const Tensor, *const Binding, u64, *const Binding, *mut ErrorRecord) -> Status,
    }
}

/// Slots that stand alone.
#[derive(Clone, Copy)]
pub(super) struct Single {
    pub(super) get_interface: Option<unsafe extern "C" fn(*mut Backend, *const c_char) -> *const c_void>,
    pub(super) dtype_info: Option<unsafe extern "C" fn(*mut Device, u32, *mut DtypeInfo, *mut ErrorRecord) -> Status>,
    pub(super) kv_info: Option<unsafe extern "C" fn(*mut Device, u32, *mut KvInfo, *mut ErrorRecord) -> Status>,
    pub(super) buffer_import:
        Option<unsafe extern "C" fn(*mut Device, *const c_void, u64, *mut *mut Buffer, *mut ErrorRecord) -> Status>,
    pub(super) copy:
        Option<unsafe extern "C" fn(*mut Stream, *mut Buffer, u64, *mut Buffer, u64, u64, *mut ErrorRecord) -> Status>,
    pub(super) fill: Option<unsafe extern "C" fn(*mut Stream, *mut Buffer, u64, u64, u32, *mut ErrorRecord) -> Status>,
    pub(super) event_query: Option<unsafe extern "C" fn(*mut Event, *mut ErrorRecord) -> Status>,
    pub(super) event_elapsed_ns:
        Option<unsafe extern "C" fn(*mut Event, *mut Event, *mut u64, *mut ErrorRecord) -> Status>,
}

/// A plugin's functions.
#[derive(Clone, Copy)]
pub(super) struct Slots {
    pub(super) required: Required,
    pub(super) events: Option<Events>,
    pub(super) graphs: Option<Graphs>,
    pub(super) prepack: Option<Prepack>,
    pub(super) single: Single,
}

/// A group by its mark and what it holds.
fn group<T>(mark: &str, count: usize, found: Result<T, Vec<&'static str>>) -> Result<Option<T>, String> {
    match found {
        Ok(slots) => Ok(Some(slots)),
        Err(missing) if missing.len() == count => Ok(None),
        Err(missing) => Err(format!("half of group [{mark}]: without {}", missing.join(", "))),
    }
}

impl Slots {
    /// The functions of a table.
    ///
    /// # Errors
    /// What is missing, by name.
    pub(super) fn of(api: &Api) -> Result<Slots, String> {
        let required = Required::of(api).map_err(|missing| {
            format!(
                "a table without {} of the {} required slots: {}",
                missing.len(),
                Required::COUNT,
                missing.join(", ")
            )
        })?;
        Ok(Slots {
            required,
            events: group("E", Events::COUNT, Events::of(api))?,
            graphs: group("G", Graphs::COUNT, Graphs::of(api))?,
            prepack: group("P", Prepack::COUNT, Prepack::of(api))?,
            single: Single {
                get_interface: api.get_interface,
                dtype_info: api.dtype_info,
                kv_info: api.kv_info,
                buffer_import: api.buffer_import,
                copy: api.copy,
                fill: api.fill,
                event_query: api.event_query,
                event_elapsed_ns: api.event_elapsed_ns,
            },
        })
    }

    /// What is absent, and what the host does instead.
    pub(super) fn defaults(&self) -> Vec<String> {
        let events = self.events.is_some();
        let absent = [
            (events, "events", "the host synchronises the stream instead"),
            (!events || self.single.event_query.is_some(), "event_query", "an event is asked by event_sync of 0 ns"),
            (!events || self.single.event_elapsed_ns.is_some(), "event_elapsed_ns", "no time between events is told"),
            (self.graphs.is_some(), "graphs", "every operator counts as unsupported"),
            (self.prepack.is_some(), "prepack", "no private layouts"),
            (self.single.copy.is_some(), "copy", "a download and an upload"),
            (self.single.fill.is_some(), "fill", "an upload"),
            (self.single.buffer_import.is_some(), "buffer_import", "an upload"),
            (self.single.dtype_info.is_some(), "dtype_info", "no dtype is declared"),
            (self.single.kv_info.is_some(), "kv_info", "no cache layout is declared"),
        ];
        absent
            .iter()
            .filter(|(there, ..)| !there)
            .map(|(_, slot, instead)| format!("{slot} absent: {instead}"))
            .collect()
    }
}

/// A copy of a plugin's table: as much of it as both sides know, the rest empty.
///
/// # Safety
/// `api` points to a table of the plugin, which begins with its `struct_size`.
pub(super) unsafe fn copied(api: *const Api) -> Result<Api, String> {
    if api.is_null() || !api.is_aligned() {
        return Err(format!("a table at {api:p}, which is no place for one"));
    }
    // SAFETY: the table begins with its size, by the contract of this function.
    let size = unsafe { api.cast::<u32>().read() } as usize;
    let head = std::mem::offset_of!(Api, backend_init);
    if size < head {
        return Err(format!("a table of {size} bytes"));
    }
    // Whole slots only.
    let slot = size_of::<*const c_void>();
    let known = (size - (size - head) % slot).min(size_of::<Api>());
    let mut own = Api::sized();
    // SAFETY: the table holds `size` bytes, and `known` is no more than that and no more than there is room for.
    unsafe { std::ptr::copy_nonoverlapping(api.cast::<u8>(), (&raw mut own).cast::<u8>(), known) };
    own.struct_size = size_of::<Api>() as u32;
    Ok(own)
}
