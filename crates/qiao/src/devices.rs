//! The backends of this build. The one place that names them.

use std::sync::Arc;

use qiao_core::{Backend, Device, Error, Registry, Result};
use qiao_cpu::{CpuDevice, CpuOptions};
use qiao_layers::{Fallback, Policy};

use crate::plugin;

/// The backends that were compiled in, the preferred first.
pub(crate) fn built_in() -> Vec<Arc<dyn Backend>> {
    let mut all: Vec<Arc<dyn Backend>> = vec![Arc::new(qiao_cpu::CpuBackend)];
    all.extend(qiao_cuda::Family::ALL.map(|family| Arc::new(family) as Arc<dyn Backend>));
    all.push(Arc::new(qiao_opencl::OpenClBackend));
    all.push(Arc::new(qiao_ascend::AscendBackend::default()));
    all.push(Arc::new(qiao_reference::ReferenceBackend));
    all
}

/// Every backend that was compiled in, the preferred first: `cpu`; `cuda` and the vendors of its family, [`qiao_cuda::Family`];
/// `opencl`; `ascend`; `reference`; then the plugins. Whether its chip is on this machine is known when it is asked for its devices.
pub fn registry() -> Registry {
    let mut registry = Registry::new();
    for backend in built_in().into_iter().chain(plugin::all()) {
        // Of two of one name the first is the one that is meant.
        registry.add(backend).ok();
    }
    registry
}

/// Opens a device of [`registry`] by name; with a number of threads where its backend takes one, as `cpu` does.
///
/// # Errors
/// A name that is not there; threads for a device that takes no number of them, or more than it can have; the backend's own.
pub fn open(name: &str, threads: Option<usize>) -> Result<Arc<dyn Device>> {
    match (threads, name) {
        (None, _) => registry().open(name),
        (threads, "cpu" | "cpu:0") => {
            Ok(Arc::new(CpuDevice::with(&CpuOptions { threads, ..CpuOptions::from_env()? })?))
        }
        (Some(threads), _) => {
            registry().open(name)?;
            let found = format!("{threads} threads for '{name}'");
            Err(Error::invalid("device", found, "leave the threads out: only 'cpu' takes a number of them"))
        }
    }
}

/// Opens devices of [`registry`] by their names, with commas between, in this order. A name may stand there twice.
///
/// # Errors
/// No name at all between two commas; as [`open`].
pub(crate) fn open_all(names: &str) -> Result<Vec<Arc<dyn Device>>> {
    let registry = registry();
    let open = |name: &str| match name.trim() {
        "" => Err(Error::invalid("device", format!("a name is missing in '{names}'"), "name devices as 'cpu,cuda:0'")),
        name => registry.open(name),
    };
    names.split(',').map(open).collect()
}

/// The policy by which operators that a device refuses run on the CPU. Each call gives one of its own: what the CPU keeps of a
/// device's weights is shared by those who share the policy.
///
/// # Errors
/// The CPU's, such as an unknown `QIAO_ISA`.
pub fn host_fallback() -> Result<Policy> {
    Ok(Policy::Fallback(Fallback::new(open("cpu", None)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_processor_takes_a_number_of_threads() {
        assert!(open("cpu:0", Some(2)).unwrap().info().driver.contains("2 threads"));
        for (name, threads, words) in
            [("reference", 2, "only 'cpu' takes"), ("npu", 2, "no backend 'npu'"), ("cpu", 0, "1 to 1024")]
        {
            let message = open(name, Some(threads)).err().unwrap().to_string();
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn several_devices_are_named_with_commas() {
        let names = |text| open_all(text).map(|all| all.iter().map(|d| d.info().name.clone()).collect::<Vec<_>>());
        let (cpu, truth) = (names("cpu").unwrap().remove(0), names("reference").unwrap().remove(0));
        assert_eq!(names("cpu, reference:0,cpu").unwrap(), [cpu.clone(), truth, cpu]);
        for (text, words) in [("cpu,", "a name is missing"), ("", "a name is missing"), ("cpu,npu", "no backend 'npu'")]
        {
            let message = names(text).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn the_backends_of_this_build_are_listed_by_name() {
        let registry = registry();
        let (names, own): (Vec<_>, _) = (registry.names().collect(), built_in());
        assert!(names.iter().copied().take(own.len()).eq(own.iter().map(|backend| backend.name())), "{names:?}");
        assert!(["cpu", "cuda", "hip", "opencl", "ascend", "reference"].iter().all(|name| names.contains(name)));
    }
}
