//! The backends of this build. The one place that names them.

use std::sync::Arc;

use qiao_core::{Backend, Registry};

/// Every backend that was compiled in, the preferred first: `cpu`, `reference`. Whether its chip is on this machine is known
/// when it is asked for its devices.
pub fn registry() -> Registry {
    let backends: [Arc<dyn Backend>; 2] = [Arc::new(qiao_cpu::CpuBackend), Arc::new(qiao_reference::ReferenceBackend)];
    let mut registry = Registry::new();
    for backend in backends {
        registry.add(backend).expect("each backend of the list has a name of its own");
    }
    registry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backends_of_this_build_are_listed_by_name() {
        let names: Vec<_> = registry().list().into_iter().map(|l| l.backend).collect();
        assert_eq!(names, ["cpu", "reference"]);
    }
}
