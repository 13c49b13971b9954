//! A device that counts what is allocated on it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use qiao_core::{
    Binding, Buffer, Device, DeviceInfo, Event, Graph, HostMemory, NodeSupport, Plan, Result, Stream, TensorDesc,
};

/// A device whose buffers are counted while they live. Streams, buffers and plans are the inner device's own, so nothing
/// that runs is slower; a buffer costs one entry in a list.
pub(crate) struct Metered {
    inner: Arc<dyn Device>,
    use_: Arc<Mutex<Use>>,
}

#[derive(Default)]
struct Use {
    buffers: Vec<(Weak<dyn Buffer>, u64)>,
    peak: u64,
}

impl Use {
    /// Bytes of the buffers that live; forgets the others.
    fn live(&mut self) -> u64 {
        self.buffers.retain(|(buffer, _)| buffer.strong_count() > 0);
        self.buffers.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Metered {
    pub(crate) fn new(inner: Arc<dyn Device>) -> Arc<Metered> {
        Arc::new(Metered { inner, use_: Arc::default() })
    }

    /// From now on the peak is that of what follows.
    pub(crate) fn reset(&self) {
        let mut of = self.lock();
        of.peak = of.live();
    }

    /// Bytes of the buffers that live now.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.lock().live()
    }

    /// The most bytes that lived at once since the last reset. Memory that was imported, as mapped weights are, is not
    /// allocated and does not count.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.lock().peak
    }

    fn lock(&self) -> MutexGuard<'_, Use> {
        self.use_.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for Metered {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        let buffer = self.inner.alloc(memory, bytes)?;
        let mut of = self.lock();
        of.buffers.push((Arc::downgrade(&buffer), buffer.bytes() as u64));
        of.peak = of.peak.max(of.live());
        Ok(buffer)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        self.inner.stream()
    }

    fn event(&self) -> Result<Arc<dyn Event>> {
        self.inner.event()
    }

    fn import(&self, memory: Arc<dyn HostMemory>, offset: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        self.inner.import(memory, offset, bytes)
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        self.inner.support(graph)
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        self.inner.plan(graph)
    }

    fn prepack_bytes(&self, tensor: &TensorDesc, layout: u64) -> Result<usize> {
        self.inner.prepack_bytes(tensor, layout)
    }

    fn prepack(
        &self,
        stream: &mut dyn Stream,
        tensor: &TensorDesc,
        src: &Binding,
        layout: u64,
        dst: &Binding,
    ) -> Result<()> {
        self.inner.prepack(stream, tensor, src, layout, dst)
    }
}

#[cfg(test)]
mod tests {
    use qiao_core::Backend;
    use qiao_core::noop::NoopBackend;

    use super::*;

    #[test]
    fn the_peak_is_of_buffers_that_live_at_once() {
        let metered = Metered::new(NoopBackend.open(0).unwrap());
        let kept = metered.alloc(0, 100).unwrap();
        drop(metered.alloc(0, 50).unwrap());
        drop(metered.alloc(0, 30).unwrap());
        assert_eq!(metered.peak_bytes(), 150);
        metered.reset();
        assert_eq!((metered.peak_bytes(), metered.live_bytes()), (100, kept.bytes() as u64));
        drop(metered.alloc(0, 30).unwrap());
        assert_eq!(metered.peak_bytes(), 130);
    }
}
