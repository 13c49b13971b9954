//! A device that has memory and nothing else: the smallest that keeps the contract, and what a new backend starts from.
//!
//! Clone this file, replace the three required methods with the chip's own, and run the device part of the suite. Then
//! answer `support` for one operator and give `plan` for it; every further operator removes one refusal.

use std::sync::Arc;

use crate::device::{Backend, Buffer, Device, DeviceInfo, MemoryInfo, MemoryKind, Stream};
use crate::error::{Error, Result};
use crate::host::{HostBuffer, HostStream};

/// The backend of the noop device.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoopBackend;

impl Backend for NoopBackend {
    fn name(&self) -> &str {
        "noop"
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(vec![NoopDevice::default().info])
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        match ordinal {
            0 => Ok(Arc::new(NoopDevice::default())),
            n => Err(Error::invalid("device", format!("noop:{n}"), "there is noop:0 only")),
        }
    }
}

/// Host memory, and no kernels.
#[derive(Clone, Debug)]
pub struct NoopDevice {
    info: DeviceInfo,
}

impl Default for NoopDevice {
    fn default() -> Self {
        let memory = MemoryInfo {
            kind: MemoryKind { device_local: true, host_visible: true, pinned: false },
            base_align: 1,
            ..Default::default()
        };
        let info = DeviceInfo {
            name: "noop".into(),
            vendor: "Qiao".into(),
            memories: vec![memory],
            tensor_align: 1,
            ..Default::default()
        };
        NoopDevice { info }
    }
}

impl Device for NoopDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        if memory != 0 {
            return Err(Error::invalid("memory", format!("position {memory}"), "noop has memory 0 only"));
        }
        Ok(Arc::new(HostBuffer::new(&self.info.name, bytes)?))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(HostStream::default()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::attrs::NoAttrs;
    use crate::device::Binding;
    use crate::{DType, Graph, Op, Support, TensorDesc};

    #[test]
    fn three_methods_make_a_device() {
        let device = NoopBackend.open(0).unwrap();
        let mut stream = device.stream().unwrap();
        let a = Binding::whole(device.alloc(0, 16).unwrap());
        let b = Binding::whole(device.alloc(0, 16).unwrap());
        stream.upload(&a, &[7; 16]).unwrap();
        stream.copy(&b, &a).unwrap();
        stream.fill(&Binding::part(&b.buffer, 4, 4), 1).unwrap();
        let event = device.event().unwrap();
        stream.record(&*event).unwrap();
        assert!(event.is_reached().unwrap());
        stream.sync(Duration::from_secs(1)).unwrap();
        let mut out = [0; 8];
        stream.download(&mut out, &b).unwrap();
        assert_eq!(out, [7, 7, 7, 7, 1, 1, 1, 1]);
    }

    #[test]
    fn ranges_outside_a_buffer_are_errors() {
        let device = NoopBackend.open(0).unwrap();
        let mut stream = device.stream().unwrap();
        let buffer = device.alloc(0, 8).unwrap();
        assert!(stream.upload(&Binding::part(&buffer, 4, 8), &[0; 8]).is_err());
        assert!(stream.upload(&Binding::part(&buffer, usize::MAX, 8), &[0; 8]).is_err());
        assert!(stream.upload(&Binding::part(&buffer, 0, 4), &[0; 8]).is_err());
        assert!(matches!(device.alloc(0, usize::MAX), Err(Error::OutOfMemory { .. })));
        assert!(matches!(device.alloc(1, 8), Err(Error::Invalid { .. })));
    }

    #[test]
    fn a_range_that_claims_too_much_is_refused_before_anything_is_allocated_for_it() {
        let device = NoopBackend.open(0).unwrap();
        let mut stream = device.stream().unwrap();
        let buffer = device.alloc(0, 8).unwrap();
        let claims = Binding::part(&buffer, 0, 1 << 60);
        assert!(matches!(stream.copy(&Binding::whole(buffer.clone()), &claims), Err(Error::Invalid { .. })));
        assert!(matches!(stream.fill(&claims, 1), Err(Error::Invalid { .. })));
    }

    #[test]
    fn a_device_without_kernels_refuses_with_a_reason() {
        let device = NoopBackend.open(0).unwrap();
        let mut g = Graph::new();
        let x = g.bind("x", TensorDesc::new(DType::F32, &[4]).unwrap());
        g.op1(Op::Silu(NoAttrs {}), &[x]).unwrap();
        assert!(matches!(device.support(&g)[0].answer, Support::No(_)));
        let error = device.plan(&g).err().unwrap().to_string();
        assert_eq!(error, "noop does not run 1 operator(s): silu: no kernel for this operator");
    }
}
