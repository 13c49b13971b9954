//! The device: a handle to a chip.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use qiao_core::{
    Binding, Buffer, Device, DeviceInfo, Error, Event, Graph, HostMemory, NodeSupport, Plan, Result, Stream, TensorDesc,
};

use crate::chip::Chip;
use crate::event::SimEvent;
use crate::fractal::Fractal;
use crate::memory::{SimBuffer, Storage};
use crate::plan::SimPlan;
use crate::schedule::{Outcome, Step};
use crate::stream::SimStream;

/// A simulated device in this process.
pub struct SimDevice {
    chip: Arc<Chip>,
    info: DeviceInfo,
}

impl SimDevice {
    /// A handle to a chip; `near` where the host's memory is in reach.
    pub(crate) fn new(chip: Arc<Chip>, driver: &str, near: bool) -> SimDevice {
        chip.opened();
        let info = chip.limits().info(driver.into(), chip.arena.free(), near);
        SimDevice { chip, info }
    }

    /// Closes the gate: no command starts until it is opened again. The gate is the device's, whichever handle closes
    /// it; when the last handle goes, it opens.
    pub fn close_gate(&self) {
        self.chip.referee.close(true);
    }

    /// Opens the gate.
    pub fn open_gate(&self) {
        self.chip.referee.close(false);
    }

    /// The streams of the commands that have started, in order, by their numbers: the last few thousand.
    pub fn trace(&self) -> Vec<u64> {
        self.chip.referee.trace()
    }

    /// Executors that plans have made so far. With `sim.one_shot` every execution makes one.
    pub fn executors(&self) -> u64 {
        self.chip.executors.load(Ordering::Relaxed)
    }
}

impl Drop for SimDevice {
    fn drop(&mut self) {
        self.chip.closed();
    }
}

impl Device for SimDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        let chip = &self.chip;
        chip.referee.alive()?;
        let memories = chip.limits().memories();
        if memory >= memories {
            let found = format!("position {memory} of {memories}");
            return Err(Error::invalid("memory", found, format!("use a position below {memories}")));
        }
        std::thread::sleep(Duration::from_micros(chip.limits().alloc_us));
        if chip.faults.strikes_alloc(&chip.counters) {
            return Err(chip.arena.full(memory, bytes));
        }
        Ok(Arc::new(SimBuffer::new(chip.arena.alloc(memory, bytes)?, chip.number)))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(SimStream::new(self.chip.clone())?))
    }

    fn event(&self) -> Result<Arc<dyn Event>> {
        self.chip.referee.alive()?;
        Ok(Arc::new(SimEvent::new(self.chip.clone())))
    }

    fn import(&self, memory: Arc<dyn HostMemory>, offset: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        self.chip.referee.alive()?;
        if !self.info.caps.import_host {
            return Err(Error::Unsupported { device: self.info.name.clone(), list: Vec::new() });
        }
        Ok(Arc::new(SimBuffer::new(Storage::import(memory, offset, bytes)?, self.chip.number)))
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        std::thread::sleep(self.chip.faults.slow_support);
        self.chip.kernels.support(graph)
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        self.chip.referee.alive()?;
        Ok(Arc::new(SimPlan::new(self.chip.clone(), &self.info, graph)?))
    }

    fn prepack_bytes(&self, tensor: &TensorDesc, layout: u64) -> Result<usize> {
        if self.chip.limits().weights == crate::limits::Weights::Plain {
            let found = format!("{} has none", self.info.name);
            return Err(Error::invalid(
                format!("private layout {layout:#x} of {tensor}"),
                found,
                "leave weights plain",
            ));
        }
        Fractal::check(tensor, layout)?.bytes()
    }

    fn prepack(
        &self,
        stream: &mut dyn Stream,
        tensor: &TensorDesc,
        src: &Binding,
        layout: u64,
        dst: &Binding,
    ) -> Result<()> {
        let bytes = self.prepack_bytes(tensor, layout)?;
        let own = (stream as &mut dyn Any).downcast_mut::<SimStream>().filter(|s| s.chip.number == self.chip.number);
        let stream = own.ok_or_else(|| {
            Error::invalid("stream", "it belongs to another device", "make it with the device that packs")
        })?;
        stream.healthy()?;
        let fractal = Fractal::check(tensor, layout)?;
        let need = tensor.bytes()?;
        let (from, start) = self.chip.operand(src, "weight", need, false)?;
        let (to, at) = self.chip.operand(dst, "packed weight", bytes, true)?;
        let work = move || {
            let packed = fractal.pack(&from.read()[start..start + need]);
            Outcome::Done(packed.map(|packed| to.write(at..at + bytes, |bytes| bytes.copy_from_slice(&packed))))
        };
        stream.push(Step::Run(Box::new(work))).map(|_| ())
    }
}
