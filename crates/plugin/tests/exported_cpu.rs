//! The CPU as a plugin of this process: what a Rust backend keeps, it keeps through the boundary there and back.

use std::sync::{Arc, OnceLock};

use qiao_core::{Backend, Device, DeviceInfo, Error, Result};
use qiao_cpu::{CpuDevice, CpuOptions};
use qiao_plugin::abi::{ErrorRecord, Query, Status};
use qiao_plugin::{Host, Options, Plugin, PluginBackend};

struct Cpu(CpuOptions);

impl Backend for Cpu {
    fn name(&self) -> &str {
        "cpu"
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(vec![CpuDevice::describe(&self.0)?])
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        match ordinal {
            0 => Ok(Arc::new(CpuDevice::with(&self.0)?)),
            n => Err(Error::invalid(format!("cpu:{n}"), "there is one", "open cpu:0")),
        }
    }
}

fn start(host: &Host) -> Result<Arc<dyn Backend>> {
    let threads = host.option("threads").map(|n| n.parse().expect("a number of threads"));
    Ok(Arc::new(Cpu(CpuOptions { isa: None, threads, ..Default::default() })))
}

qiao_plugin::export! { vendor: "Qiao", name: "cpu", version: env!("CARGO_PKG_VERSION"), open: start }

unsafe extern "C" {
    fn qiao_plugin_query_v0(query: *mut Query, error: *mut ErrorRecord) -> Status;
}

fn open() -> Result<Arc<dyn Device>> {
    static PLUGIN: OnceLock<Result<Arc<PluginBackend>>> = OnceLock::new();
    let load = || {
        let options = Options::parse(["threads=2"])?;
        // SAFETY: the exporter keeps the contract of the header.
        unsafe { Plugin::of_query(qiao_plugin_query_v0, &options) }
    };
    PLUGIN.get_or_init(load).clone()?.open(0)
}

#[test]
fn what_the_cpu_says_of_itself_arrives() {
    let (plugin, cpu) = (
        open().unwrap(),
        CpuDevice::describe(&CpuOptions { isa: None, threads: Some(2), ..Default::default() }).unwrap(),
    );
    let (there, here) = (plugin.info(), &cpu);
    assert_eq!((&there.arch, &there.driver, there.caps), (&here.arch, &here.driver, here.caps));
    assert_eq!((&there.dtypes, &there.kv), (&here.dtypes, &here.kv));
    assert_eq!((there.tensor_align, there.tensor_tail_pad), (here.tensor_align, here.tensor_tail_pad));
    assert_eq!(there.memories[0].kind, here.memories[0].kind);
    assert!(!there.name.is_empty() && here.name.starts_with(there.name.trim_end_matches('…')));
}

qiao_conformance::suite!(open, profile = LlmCore);
