//! The Ascend backend as a plugin, for hosts that were built without it: `libqiao_ascend_plugin.so`.
//!
//! | option | values | meaning |
//! |---|---|---|
//! | `ascend.libraries` | a folder | Where AscendCL's libraries lie, and nowhere else. Default: where the backend looks for them. |
#![forbid(unsafe_code)]

use std::sync::Arc;

use qiao_ascend::AscendBackend;
use qiao_core::{Backend, Result};
use qiao_plugin::Host;

qiao_plugin::export! {
    vendor: "Qiao",
    name: "ascend",
    version: env!("CARGO_PKG_VERSION"),
    open: open_backend,
}

fn open_backend(host: &Host) -> Result<Arc<dyn Backend>> {
    let folder = host.option("ascend.libraries");
    Ok(Arc::new(folder.map_or_else(AscendBackend::default, AscendBackend::with_libraries)))
}
