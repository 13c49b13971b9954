//! Full checks in front of a device: what the contract lets a backend assume, and what it must keep.
//!
//! The caller is held to: bindings in number, size, bounds, alignment and tail padding; written bytes that nothing else
//! shares; workspace; streams of this device; memories that exist; plans of graphs that [`Device::support`] calls
//! native. The device is held to: one answer per node; plans for what it calls native; allocations as large as asked.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use qiao_core::device::refuse;
use qiao_core::{
    Binding, Buffer, Device, DeviceInfo, Error, Event, Graph, HostMemory, NodeSupport, Plan, PlanInfo, Result, Stream,
    Support, TensorDesc,
};

/// A device behind full checks. Slower per execution; results are the inner device's.
pub struct Validate {
    inner: Arc<dyn Device>,
    // Streams carry the number of the device that made them.
    number: u64,
}

impl Validate {
    /// Puts checks in front of a device.
    pub fn new(inner: Arc<dyn Device>) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Validate { inner, number: NUMBERS.fetch_add(1, Ordering::Relaxed) }
    }

    /// [`Validate::new`] as a device.
    pub fn wrap(inner: Arc<dyn Device>) -> Arc<dyn Device> {
        Arc::new(Validate::new(inner))
    }

    /// What the device did against the contract.
    fn broken(&self, call: &str, why: impl Into<String>) -> Error {
        Error::internal(format!("{} breaks the contract in {call}", self.info().name), why)
    }
}

impl Device for Validate {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        let memories = self.info().memories.len();
        if memory >= memories {
            let found = format!("{} has {memories}", self.info().name);
            return Err(Error::invalid(format!("memory {memory}"), found, "use a position below that"));
        }
        let buffer = self.inner.alloc(memory, bytes)?;
        if buffer.bytes() < bytes {
            return Err(self.broken("alloc", format!("asked for {bytes} bytes, given {}", buffer.bytes())));
        }
        Ok(buffer)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(ValidStream { inner: self.inner.stream()?, device: self.number }))
    }

    fn event(&self) -> Result<Arc<dyn Event>> {
        self.inner.event()
    }

    fn import(&self, memory: Arc<dyn HostMemory>, offset: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        let have = memory.bytes().len();
        if offset.checked_add(bytes).is_none_or(|end| end > have) {
            let found = format!("bytes {offset} + {bytes} of host memory of {have}");
            return Err(Error::invalid("import", found, "stay within the host memory"));
        }
        let buffer = self.inner.import(memory, offset, bytes)?;
        if buffer.bytes() != bytes {
            return Err(self.broken("import", format!("asked for {bytes} bytes, given {}", buffer.bytes())));
        }
        Ok(buffer)
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        self.inner.support(graph)
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        let answers = self.inner.support(graph);
        if answers.len() != graph.nodes().len() {
            let why = format!("{} answers for {} nodes", answers.len(), graph.nodes().len());
            return Err(self.broken("support", why));
        }
        if answers.iter().any(|a| matches!(a.answer, Support::No(_))) {
            return Err(refuse(self.info(), graph, &answers));
        }
        for (node, answer) in graph.views().zip(&answers) {
            if let Support::Relayout { operand, layout } = answer.answer {
                let found = format!("operand {operand} is not in private layout {layout:#x} yet");
                let mend = "set the layout on the graph and bind the packed constant";
                return Err(Error::invalid(format!("plan of node {} {}", node.index, node.op()), found, mend));
            }
        }
        let plan = self.inner.plan(graph).map_err(|e| match e {
            Error::Unsupported { .. } | Error::Invalid { .. } | Error::Internal { .. } => {
                self.broken("plan", format!("every node was called native, yet: {e}"))
            }
            other => other,
        })?;
        Ok(Arc::new(ValidPlan::new(self, graph, plan)?))
    }

    fn prepack_bytes(&self, tensor: &TensorDesc, layout: u64) -> Result<usize> {
        if tensor.layout != 0 {
            let what = format!("private layout {layout:#x} of {tensor}");
            return Err(Error::invalid(what, "it is in a private layout already", "describe it as it was loaded"));
        }
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
        src.check("the tensor to pack", tensor.bytes()?)?;
        dst.check("the packed tensor", self.prepack_bytes(tensor, layout)?)?;
        if overlap(src, dst) {
            return Err(Error::invalid("prepack", "source and destination share bytes", "pack into another place"));
        }
        self.inner.prepack(own_stream(stream, self.number)?, tensor, src, layout, dst)
    }
}

/// The inner stream of a stream that this device made.
fn own_stream(stream: &mut dyn Stream, device: u64) -> Result<&mut dyn Stream> {
    match (stream as &mut dyn Any).downcast_mut::<ValidStream>() {
        Some(own) if own.device == device => Ok(&mut *own.inner),
        _ => Err(Error::invalid("stream", "it is of another device", "make it with Device::stream of this one")),
    }
}

/// Where a binding's buffer is, for comparison.
fn address(binding: &Binding) -> usize {
    Arc::as_ptr(&binding.buffer).cast::<()>() as usize
}

fn overlap(a: &Binding, b: &Binding) -> bool {
    a.bytes > 0
        && b.bytes > 0
        && address(a) == address(b)
        && a.offset < b.offset + b.bytes
        && b.offset < a.offset + a.bytes
}

struct ValidStream {
    inner: Box<dyn Stream>,
    device: u64,
}

impl Stream for ValidStream {
    fn set_patience(&mut self, limit: Duration) {
        self.inner.set_patience(limit);
    }

    fn upload(&mut self, dst: &Binding, src: &[u8]) -> Result<()> {
        dst.check("upload", src.len())?;
        self.inner.upload(dst, src)
    }

    fn download(&mut self, dst: &mut [u8], src: &Binding) -> Result<()> {
        src.check("download", dst.len())?;
        self.inner.download(dst, src)
    }

    fn copy(&mut self, dst: &Binding, src: &Binding) -> Result<()> {
        src.check("copy source", 0)?;
        dst.check("copy destination", src.bytes)?;
        if overlap(dst, src) {
            return Err(Error::invalid("copy", "source and destination share bytes", "copy by way of another buffer"));
        }
        self.inner.copy(dst, src)
    }

    fn fill(&mut self, dst: &Binding, byte: u8) -> Result<()> {
        dst.check("fill", 0)?;
        self.inner.fill(dst, byte)
    }

    fn sync(&mut self, timeout: Duration) -> Result<()> {
        self.inner.sync(timeout)
    }

    fn record(&mut self, event: &dyn Event) -> Result<()> {
        self.inner.record(event)
    }

    fn wait(&mut self, event: &dyn Event) -> Result<()> {
        self.inner.wait(event)
    }
}

/// What a plan needs to know of one bound tensor.
struct Bound {
    name: String,
    bytes: usize,
    written: bool,
}

struct ValidPlan {
    inner: Arc<dyn Plan>,
    device: u64,
    bound: Vec<Bound>,
    tensor_align: usize,
    tail_pad: usize,
}

impl ValidPlan {
    fn new(device: &Validate, graph: &Graph, inner: Arc<dyn Plan>) -> Result<Self> {
        let mut packed: HashMap<(TensorDesc, u64), usize> = HashMap::new();
        let mut bound = Vec::with_capacity(graph.bound().len());
        for (position, &id) in graph.bound().iter().enumerate() {
            let tensor = graph.tensor(id);
            let bytes = if tensor.desc.layout == 0 {
                tensor.desc.bytes()?
            } else {
                let layout = tensor.desc.layout;
                let plain = TensorDesc { layout: 0, ..tensor.desc.clone() };
                match packed.get(&(plain.clone(), layout)) {
                    Some(&bytes) => bytes,
                    None => *packed.entry((plain.clone(), layout)).or_insert(device.prepack_bytes(&plain, layout)?),
                }
            };
            bound.push(Bound { name: tensor.name.clone(), bytes, written: graph.writes_bound(position) });
        }
        let info = device.info();
        Ok(ValidPlan {
            inner,
            device: device.number,
            bound,
            tensor_align: info.tensor_align.max(1),
            tail_pad: info.tensor_tail_pad,
        })
    }

    fn check_binding(&self, bound: &Bound, binding: &Binding) -> Result<()> {
        binding.check(&bound.name, bound.bytes)?;
        if bound.bytes == 0 {
            return Ok(());
        }
        self.check_start(&bound.name, binding.offset, self.tensor_align)?;
        let padded = bound.bytes.saturating_add(self.tail_pad).saturating_add(binding.offset);
        if padded > binding.buffer.bytes() {
            let found = format!("{} bytes follow it", binding.buffer.bytes() - binding.offset - bound.bytes);
            let mend = format!("allocate {} spare bytes after every tensor", self.tail_pad);
            return Err(Error::invalid(format!("binding of '{}'", bound.name), found, mend));
        }
        Ok(())
    }

    fn check_start(&self, name: &str, offset: usize, align: usize) -> Result<()> {
        if offset.is_multiple_of(align.max(1)) {
            return Ok(());
        }
        let mend = format!("start it on a multiple of {align}");
        Err(Error::invalid(format!("binding of '{name}'"), format!("it starts at byte {offset}"), mend))
    }

    /// Nothing that the plan writes shares bytes with anything else.
    fn check_sharing(&self, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        let used = |i: usize| Binding::part(&bindings[i].buffer, bindings[i].offset, self.bound[i].bytes);
        let all: Vec<Binding> = (0..bindings.len()).map(used).collect();
        let shared = |a: &str, b: &str| {
            let found = format!("it shares bytes with '{b}'");
            Error::invalid(format!("binding of '{a}', which is written"), found, "bind them apart")
        };
        for (i, written) in self.bound.iter().enumerate().filter(|(_, b)| b.written) {
            if let Some(j) = (0..all.len()).find(|&j| j != i && overlap(&all[i], &all[j])) {
                return Err(shared(&written.name, &self.bound[j].name));
            }
        }
        let scratch = Binding::part(&workspace.buffer, workspace.offset, self.inner.info().workspace_bytes);
        match all.iter().position(|b| overlap(&scratch, b)) {
            Some(j) => Err(shared("workspace", &self.bound[j].name)),
            None => Ok(()),
        }
    }
}

impl Plan for ValidPlan {
    fn info(&self) -> PlanInfo {
        self.inner.info()
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        let stream = own_stream(stream, self.device)?;
        if bindings.len() != self.bound.len() {
            let found = format!("{} were given", bindings.len());
            let mend = format!("give {}, one per bound tensor", self.bound.len());
            return Err(Error::invalid("bindings", found, mend));
        }
        for (bound, binding) in self.bound.iter().zip(bindings) {
            self.check_binding(bound, binding)?;
        }
        let info = self.inner.info();
        workspace.check("workspace", info.workspace_bytes)?;
        if info.workspace_bytes > 0 {
            self.check_start("workspace", workspace.offset, info.workspace_align)?;
        }
        self.check_sharing(bindings, workspace)?;
        self.inner.execute(stream, bindings, workspace)
    }
}
