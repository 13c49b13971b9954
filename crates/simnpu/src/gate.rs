//! The gate for those who loaded the plugin: a table of C functions.

use std::ffi::c_void;

use crate::{backend, child};

/// The name under which the plugin hands out the table.
pub const GATE: &str = "qiao.simnpu.gate/1";

/// The table behind [`GATE`]. In C:
///
/// ```c
/// struct qiao_simnpu_gate {
///   uint32_t struct_size, reserved;
///   void (*close)(uint32_t ordinal);   /* no command of this device starts until the gate is opened */
///   void (*open)(uint32_t ordinal);    /* UINT32_MAX stands for every device */
/// };
/// ```
///
/// Devices are named by their position in their backend; with several backends in a process, that position of each.
#[repr(C)]
#[derive(Debug)]
pub struct GateTable {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// Closes the gate of a device, or of all.
    pub close: extern "C" fn(u32),
    /// Opens it.
    pub open: extern "C" fn(u32),
}

fn set(ordinal: u32, closed: bool) {
    let ordinal = (ordinal != u32::MAX).then_some(ordinal as usize);
    backend::gate(ordinal, closed);
    child::gate(ordinal, closed);
}

extern "C" fn close(ordinal: u32) {
    set(ordinal, true);
}

extern "C" fn open(ordinal: u32) {
    set(ordinal, false);
}

static TABLE: GateTable = GateTable { struct_size: size_of::<GateTable>() as u32, reserved: 0, close, open };

/// The table of a name, as the plugin hands it out; null for any other name.
pub fn interface(id: &str) -> *const c_void {
    if id == GATE { (&raw const TABLE).cast() } else { std::ptr::null() }
}

/// The same table for Rust.
pub fn gate() -> &'static GateTable {
    &TABLE
}
