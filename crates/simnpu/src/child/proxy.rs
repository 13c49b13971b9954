//! A device of another process as a device of this one.

use std::any::Any;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use qiao_core::{
    Backend, Binding, Buffer, BufferExt, Device, DeviceInfo, Error, Event, Graph, NodeSupport, Plan, PlanInfo, Result,
    Stream, TensorDesc,
};

use super::link::Link;
use super::wire::{Operation, Reader, Writer};
use super::words::Word;
use crate::backend::absent;
use crate::ops::Kernels;
use crate::options::Settings;
use crate::place;

/// Simulated devices, each in a process of its own.
pub struct ChildBackend {
    program: PathBuf,
    settings: Settings,
    links: Vec<Mutex<Option<Arc<Link>>>>,
}

impl ChildBackend {
    /// The devices that options ask for. Processes start when devices are opened.
    ///
    /// # Errors
    /// The program of the process is not found.
    pub fn new(settings: Settings) -> Result<ChildBackend> {
        let program = match &settings.program {
            Some(path) => path.clone(),
            None => place::beside("qiao-simnpu-device").ok_or_else(|| {
                let mend = "build it with `cargo build -p qiao-simnpu --bin qiao-simnpu-device`, or give its path as \
                            sim.program";
                Error::invalid("sim.process=child", "there is no qiao-simnpu-device beside this program", mend)
            })?,
        };
        let links = (0..settings.devices).map(|_| Mutex::default()).collect();
        Ok(ChildBackend { program, settings, links })
    }

    /// Opens a device as what it is, in its process; one that is gone is replaced.
    ///
    /// # Errors
    /// There is no device of that number; its process can't be started.
    pub fn open_device(&self, ordinal: usize) -> Result<ChildDevice> {
        let slot = self.links.get(ordinal).ok_or_else(|| absent(ordinal, self.links.len()))?;
        let link = {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            match slot.as_ref().filter(|l| !l.is_lost()) {
                Some(link) => link.clone(),
                None => slot.insert(Link::start(&self.program, &self.settings.for_child(), ordinal)?).clone(),
            }
        };
        ChildDevice::open(link, &self.settings)
    }
}

impl Backend for ChildBackend {
    fn name(&self) -> &str {
        "simnpu"
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        (0..self.links.len()).map(|i| self.open_device(i).map(|d| d.info.clone())).collect()
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        Ok(Arc::new(self.open_device(ordinal)?))
    }
}

/// Something in the other process, by its number there; let go when this goes.
struct Far {
    link: Arc<Link>,
    id: u64,
    gone: Operation,
}

impl Drop for Far {
    fn drop(&mut self) {
        self.link.tell(self.gone, self.id);
    }
}

impl Far {
    fn is_on(&self, link: &Arc<Link>) -> bool {
        Arc::ptr_eq(&self.link, link)
    }

    /// A call about this, without a bound.
    fn ask<T>(
        &self,
        operation: Operation,
        values: impl FnOnce(Writer) -> Writer,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T>,
    ) -> Result<T> {
        self.link.call(operation, |w| values(w.u64(self.id)), Duration::MAX, read)
    }

    /// What a call about this has made.
    fn make(&self, operation: Operation, values: impl FnOnce(Writer) -> Writer, gone: Operation) -> Result<Far> {
        let id = self.ask(operation, values, |r| r.u64())?;
        Ok(Far { link: self.link.clone(), id, gone })
    }
}

fn nothing(_: &mut Reader<'_>) -> Result<()> {
    Ok(())
}

/// A device in a process of its own.
pub struct ChildDevice {
    far: Far,
    info: DeviceInfo,
    kernels: Kernels,
    slow_support: Duration,
}

impl ChildDevice {
    fn open(link: Arc<Link>, settings: &Settings) -> Result<ChildDevice> {
        let (id, info) = link.call(Operation::Open, |w| w, Duration::MAX, |r| Ok((r.u64()?, DeviceInfo::read(r)?)))?;
        let (kernels, slow_support) = (Kernels::new(settings.limits.clone()), settings.faults.slow_support);
        Ok(ChildDevice { far: Far { link, id, gone: Operation::Close }, info, kernels, slow_support })
    }

    /// The number by which the system knows the device's process. The driver in [`Device::info`] tells it, too.
    pub fn child_pid(&self) -> u32 {
        self.far.link.pid()
    }

    /// Closes the gate: no command starts until it is opened again.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn close_gate(&self) -> Result<()> {
        self.far.link.close_gate(true)
    }

    /// Opens the gate.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn open_gate(&self) -> Result<()> {
        self.far.link.close_gate(false)
    }
}

impl Device for ChildDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        let far = self.far.make(Operation::Alloc, |w| w.size(memory).size(bytes), Operation::Free)?;
        Ok(Arc::new(ChildBuffer { far, bytes }))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        let far = self.far.make(Operation::Stream, |w| w, Operation::DropStream)?;
        Ok(Box::new(ChildStream { far, patience: Duration::MAX }))
    }

    fn event(&self) -> Result<Arc<dyn Event>> {
        let far = self.far.make(Operation::Event, |w| w, Operation::DropEvent)?;
        Ok(Arc::new(ChildEvent { far }))
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        // The answer follows from the limits alone, and is the same when the process is gone.
        std::thread::sleep(self.slow_support);
        self.kernels.support(graph)
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        let text = graph.to_text();
        let (id, info) = self.far.ask(Operation::Plan, |w| w.text(&text), |r| Ok((r.u64()?, PlanInfo::read(r)?)))?;
        Ok(Arc::new(ChildPlan { far: Far { link: self.far.link.clone(), id, gone: Operation::DropPlan }, info }))
    }

    fn prepack_bytes(&self, tensor: &TensorDesc, layout: u64) -> Result<usize> {
        self.far.ask(Operation::PrepackBytes, |w| tensor.write(w).u64(layout), |r| r.size())
    }

    fn prepack(
        &self,
        stream: &mut dyn Stream,
        tensor: &TensorDesc,
        src: &Binding,
        layout: u64,
        dst: &Binding,
    ) -> Result<()> {
        let stream = own_stream(stream, &self.far.link)?;
        let (src, dst) = (Range::of(src, &stream.far.link)?, Range::of(dst, &stream.far.link)?);
        stream.ask(Operation::Prepack, |w| dst.write(src.write(tensor.write(w.u64(self.far.id)).u64(layout))), nothing)
    }
}

struct ChildBuffer {
    far: Far,
    bytes: usize,
}

impl Buffer for ChildBuffer {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A range of a buffer, as it crosses.
struct Range {
    buffer: u64,
    offset: usize,
    bytes: usize,
}

impl Range {
    fn of(binding: &Binding, link: &Arc<Link>) -> Result<Range> {
        let own = binding.buffer.downcast::<ChildBuffer>().filter(|b| b.far.is_on(link));
        let buffer = own.ok_or_else(|| {
            let mend = "copy it through the host with download and upload";
            Error::invalid("buffer", "it belongs to another device", mend)
        })?;
        Ok(Range { buffer: buffer.far.id, offset: binding.offset, bytes: binding.bytes })
    }

    fn write(&self, w: Writer) -> Writer {
        w.u64(self.buffer).size(self.offset).size(self.bytes)
    }
}

struct ChildStream {
    far: Far,
    patience: Duration,
}

fn own_stream<'a>(stream: &'a mut dyn Stream, link: &Arc<Link>) -> Result<&'a mut ChildStream> {
    let own = (stream as &mut dyn Any).downcast_mut::<ChildStream>().filter(|s| s.far.is_on(link));
    own.ok_or_else(|| Error::invalid("stream", "it belongs to another device", "make it with this device"))
}

impl ChildStream {
    /// A call on the stream, which waits no longer than its patience.
    fn ask<T>(
        &self,
        operation: Operation,
        values: impl FnOnce(Writer) -> Writer,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T>,
    ) -> Result<T> {
        self.far.link.call(operation, |w| values(w.u64(self.far.id)), self.patience, read)
    }

    fn event<'a>(&self, event: &'a dyn Event) -> Result<&'a ChildEvent> {
        let own = (event as &dyn Any).downcast_ref::<ChildEvent>().filter(|e| e.far.is_on(&self.far.link));
        own.ok_or_else(|| {
            Error::invalid("event", "it is of another device", "use events of the device that made the stream")
        })
    }
}

impl Stream for ChildStream {
    fn set_patience(&mut self, limit: Duration) {
        self.patience = limit;
        // A device that is gone waits for nothing.
        let _ = self.ask(Operation::Patience, |w| w.time(limit), nothing);
    }

    fn upload(&mut self, dst: &Binding, src: &[u8]) -> Result<()> {
        let range = Range::of(dst, &self.far.link)?;
        dst.check("upload", src.len())?;
        self.ask(Operation::Upload, |w| range.write(w).bytes(src), nothing)
    }

    fn download(&mut self, dst: &mut [u8], src: &Binding) -> Result<()> {
        let range = Range::of(src, &self.far.link)?;
        src.check("download", dst.len())?;
        let len = dst.len();
        self.ask(
            Operation::Download,
            |w| range.write(w).size(len),
            |r| {
                let bytes = r.bytes()?;
                if bytes.len() != len {
                    return Err(super::wire::garbled("a download"));
                }
                dst.copy_from_slice(bytes);
                Ok(())
            },
        )
    }

    fn copy(&mut self, dst: &Binding, src: &Binding) -> Result<()> {
        let (to, from) = (Range::of(dst, &self.far.link)?, Range::of(src, &self.far.link)?);
        self.ask(Operation::Copy, |w| from.write(to.write(w)), nothing)
    }

    fn fill(&mut self, dst: &Binding, byte: u8) -> Result<()> {
        let range = Range::of(dst, &self.far.link)?;
        self.ask(Operation::Fill, |w| range.write(w).u8(byte), nothing)
    }

    fn sync(&mut self, timeout: Duration) -> Result<()> {
        let timeout = timeout.min(self.patience);
        self.far.link.call(Operation::Sync, |w| w.u64(self.far.id).time(timeout), timeout, nothing)
    }

    fn record(&mut self, event: &dyn Event) -> Result<()> {
        let event = self.event(event)?;
        self.ask(Operation::Record, |w| w.u64(event.far.id), nothing)
    }

    fn wait(&mut self, event: &dyn Event) -> Result<()> {
        let event = self.event(event)?;
        self.ask(Operation::Wait, |w| w.u64(event.far.id), nothing)
    }
}

struct ChildEvent {
    far: Far,
}

impl Event for ChildEvent {
    fn sync(&self, timeout: Duration) -> Result<()> {
        self.far.link.call(Operation::EventSync, |w| w.u64(self.far.id).time(timeout), timeout, nothing)
    }

    fn is_reached(&self) -> Result<bool> {
        self.far.ask(Operation::EventReached, |w| w, |r| r.flag())
    }

    fn since(&self, earlier: &dyn Event) -> Option<Duration> {
        let earlier = (earlier as &dyn Any).downcast_ref::<ChildEvent>().filter(|e| e.far.is_on(&self.far.link))?;
        self.far.ask(Operation::EventSince, |w| w.u64(earlier.far.id), Option::read).ok().flatten()
    }
}

struct ChildPlan {
    far: Far,
    info: PlanInfo,
}

impl Plan for ChildPlan {
    fn info(&self) -> PlanInfo {
        self.info
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        let stream = own_stream(stream, &self.far.link)?;
        let ranges = bindings.iter().map(|b| Range::of(b, &self.far.link)).collect::<Result<Vec<_>>>()?;
        let workspace = Range::of(workspace, &self.far.link)?;
        let values = |w: Writer| workspace.write(w.u64(self.far.id).list(&ranges, |w, r| r.write(w)));
        stream.ask(Operation::Execute, values, nothing)
    }
}
