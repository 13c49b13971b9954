//! The plugin's entry: `qiao_plugin_query_v0`, made by the exporter.
#![allow(unsafe_code, reason = "the exporter's macro writes the entry point; nothing else here is unsafe")]

use std::sync::Arc;

use qiao_core::{Backend, Result};
use qiao_plugin::Host;

use crate::options::{OPTIONS, Settings};

qiao_plugin::export! {
    vendor: "Qiao",
    name: "simnpu",
    version: env!("CARGO_PKG_VERSION"),
    open: open_backend,
    interface: crate::gate::interface,
}

/// A host is asked for each option by its key. It can't be asked which others it has, so that a mistyped key goes unseen;
/// the option `sim` holds a list of all, in which none does.
fn open_backend(host: &Host) -> Result<Arc<dyn Backend>> {
    let list = host.option("sim").unwrap_or_default();
    let single = OPTIONS.iter().filter_map(|row| Some(format!("{}={}", row.key, host.option(row.key)?)));
    let words: Vec<String> = list.split_whitespace().map(String::from).chain(single).collect();
    crate::open(Settings::from_words(words.iter().map(String::as_str))?)
}
