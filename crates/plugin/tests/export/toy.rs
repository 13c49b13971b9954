//! A backend to export: host memory, a copy operator, and an option that says what goes wrong.

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use qiao_core::host::{HostBuffer, HostStream, host_range};
use qiao_core::{
    Accept, Backend, Binding, Buffer, BufferExt, Caps, DType, Device, DeviceInfo, DtypeInfo, Error, Event, Graph,
    HostMemory, KvInfo, KvLayout, MemoryInfo, NodeSupport, NodeView, OpKind, OpTable, Plan, PlanInfo, Property, Reason,
    Result, Row, Rule, Stream, TensorDesc, device,
};
use qiao_plugin::{Host, Level, export};

/// The toy as a plugin.
pub(crate) struct Toy;

impl export::Plugin for Toy {
    const VENDOR: &'static str = "Toys";
    const NAME: &'static str = "toy";
    const VERSION: &'static str = "1.2.3";

    fn open(host: &Host) -> Result<Arc<dyn Backend>> {
        let fault = host.option("fault").unwrap_or_default();
        host.log(Level::Info, "a toy is opened");
        match fault.as_str() {
            "absent" => Err(Error::not_present("toy", "the box is empty")),
            "open panics" => panic!("no key"),
            _ => Ok(Arc::new(Toys { host: host.clone(), fault: fault.leak() })),
        }
    }

    fn interface(id: &str) -> *const c_void {
        if id == "toy.wheels/1" { (&raw const WHEELS).cast() } else { std::ptr::null() }
    }
}

pub(crate) static WHEELS: u32 = 4;
/// Objects of the toy that are alive, by the option `count` of their backend. Tests use numbers of their own.
pub(crate) static ALIVE: [AtomicUsize; 8] = [const { AtomicUsize::new(0) }; 8];

/// The private layout in which the toy wants the second operand of a matmul.
pub(crate) const REVERSED: u64 = 0x70_79;

struct Toys {
    host: Host,
    fault: &'static str,
}

impl Backend for Toys {
    fn name(&self) -> &str {
        "toy"
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(vec![info(), info()])
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        if ordinal > 1 {
            return Err(Error::invalid(format!("toy:{ordinal}"), "there are two", "use 0 or 1"));
        }
        let count = self.host.option("count").map(|n| n.parse().expect("a number"));
        let alive = Alive::new(count);
        Ok(Arc::new(ToyDevice { info: info(), fault: self.fault, host: self.host.clone(), alive }))
    }
}

fn info() -> DeviceInfo {
    let memory = MemoryInfo { base_align: 64, total_bytes: 1 << 20, free_bytes: 7, ..Default::default() };
    DeviceInfo {
        name: "玩具".into(),
        vendor: "Toys".into(),
        arch: "wood".into(),
        driver: "hands".into(),
        memories: vec![memory],
        dtypes: vec![DtypeInfo { dtype: DType::F32, compute: true, peak_ops_per_s: 1e9 }],
        kv: vec![KvInfo { layout: KvLayout::BlockHeadToken, block_size: 16 }],
        caps: Caps { import_host: true, deterministic: true, ..Default::default() },
        tensor_align: 64,
        tensor_tail_pad: 32,
        peak_source: "the box".into(),
    }
}

/// Counts what lives.
#[derive(Clone)]
struct Alive(Option<usize>);

impl Alive {
    fn new(count: Option<usize>) -> Arc<Alive> {
        if let Some(count) = count {
            ALIVE[count].fetch_add(1, Ordering::SeqCst);
        }
        Arc::new(Alive(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        if let Some(count) = self.0 {
            ALIVE[count].fetch_sub(1, Ordering::SeqCst);
        }
    }
}

struct ToyDevice {
    info: DeviceInfo,
    fault: &'static str,
    host: Host,
    alive: Arc<Alive>,
}

fn table() -> OpTable<()> {
    let row = |op, name, accepts| Row { op, name, act_dtype: None, accepts, launch: () };
    let int8 = Row { act_dtype: Some(DType::I8), ..row(OpKind::Silu, "silu_i8.toy", f32_only) };
    OpTable::new(vec![
        row(OpKind::Copy, "copy_f32.toy", f32_only),
        int8,
        row(OpKind::Matmul, "matmul_f32.toy", |node| match node.required(1).layout {
            REVERSED => Ok(Accept::Native),
            _ if node.required(1).constant => Ok(Accept::Relayout { operand: 1, layout: REVERSED }),
            _ => Err(Reason::operand(1, Property::Layout, Rule::Equal, "plain", "reversed")),
        }),
        row(OpKind::Softmax, "softmax_f32.toy", |node| {
            let dim = node.required(0).shape.last_dim();
            match dim % 64 {
                0 => Err(Reason::attribute("scale", Rule::Equal, "other", "1")),
                _ => Err(Reason::operand(0, Property::Dim(1), Rule::MultipleOf, dim, 64usize)),
            }
        }),
    ])
}

fn f32_only(node: &NodeView<'_>) -> Result<Accept, Reason> {
    for (i, operand) in node.operands() {
        if operand.dtype != DType::F32 {
            return Err(Reason::dtype(i, operand.dtype, &[DType::F32, DType::BF16]));
        }
    }
    Ok(Accept::Native)
}

impl Device for ToyDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        match (self.fault, memory) {
            ("alloc panics", _) => panic!("the shelf broke after {bytes} bytes"),
            (_, 0) if bytes > 1 << 20 => Err(Error::OutOfMemory { device: "toy".into(), asked: bytes as u64, free: 7 }),
            (_, 0) => Ok(Arc::new(HostBuffer::new("toy", bytes)?)),
            _ => Err(Error::invalid("memory", format!("{memory}"), "use 0")),
        }
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        let stream = HostStream::default();
        Ok(Box::new(ToyStream { stream, fault: self.fault, kept: Vec::new(), _alive: self.alive.clone() }))
    }

    fn event(&self) -> Result<Arc<dyn Event>> {
        Ok(Arc::new(ToyEvent::default()))
    }

    fn import(&self, memory: Arc<dyn HostMemory>, offset: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        Ok(Arc::new(Imported { memory, offset, bytes }))
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        match self.fault {
            "support panics" => panic!("too hard a question"),
            "support is short" => Vec::new(),
            _ => table().support(graph),
        }
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        let answers = table().support(graph);
        if answers.iter().any(|a| matches!(a.answer, qiao_core::Support::No(_))) {
            return Err(device::refuse(&self.info, graph, &answers));
        }
        let alive = self.alive.clone();
        Ok(Arc::new(ToyPlan { graph: graph.clone(), fault: self.fault, host: self.host.clone(), _alive: alive }))
    }

    fn prepack_bytes(&self, tensor: &TensorDesc, layout: u64) -> Result<usize> {
        match layout {
            REVERSED => tensor.bytes(),
            _ => Err(Error::invalid("layout", format!("{layout:#x}"), "ask for the toy's")),
        }
    }

    fn prepack(
        &self,
        stream: &mut dyn Stream,
        tensor: &TensorDesc,
        src: &Binding,
        _: u64,
        dst: &Binding,
    ) -> Result<()> {
        let mut bytes = vec![0; tensor.bytes()?];
        stream.download(&mut bytes, src)?;
        bytes.reverse();
        stream.upload(dst, &bytes)
    }
}

/// Host memory that is lent.
struct Imported {
    memory: Arc<dyn HostMemory>,
    offset: usize,
    bytes: usize,
}

impl Buffer for Imported {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

struct ToyStream {
    stream: HostStream,
    fault: &'static str,
    /// What the stream lets go of only when it is next waited for.
    kept: Vec<Binding>,
    _alive: Arc<Alive>,
}

impl Stream for ToyStream {
    fn upload(&mut self, dst: &Binding, src: &[u8]) -> Result<()> {
        if self.fault == "upload panics" {
            panic!("dropped {} bytes", src.len());
        }
        self.stream.upload(dst, src)
    }

    fn download(&mut self, dst: &mut [u8], src: &Binding) -> Result<()> {
        if let Some(lent) = src.buffer.downcast::<Imported>() {
            src.check("download", dst.len())?;
            dst.copy_from_slice(&lent.memory.bytes()[lent.offset + src.offset..][..dst.len()]);
            self.kept.push(src.clone());
            return Ok(());
        }
        self.stream.download(dst, src)
    }

    fn sync(&mut self, timeout: Duration) -> Result<()> {
        self.kept.clear();
        if self.fault == "never done" {
            return Err(Error::Timeout { what: "the toy".into(), millis: timeout.as_millis() as u64 });
        }
        self.stream.sync(timeout)
    }

    fn record(&mut self, event: &dyn Event) -> Result<()> {
        let event = (event as &dyn std::any::Any).downcast_ref::<ToyEvent>().expect("an event of the toy");
        let failed = self.stream.sync(Duration::MAX).err();
        *event.state.lock().unwrap() = Some((Instant::now(), failed, self.fault == "never done"));
        Ok(())
    }
}

#[derive(Default)]
struct ToyEvent {
    state: Mutex<Option<(Instant, Option<Error>, bool)>>,
}

impl Event for ToyEvent {
    fn sync(&self, timeout: Duration) -> Result<()> {
        match self.is_reached()? {
            true => Ok(()),
            false => Err(Error::Timeout { what: "the event".into(), millis: timeout.as_millis() as u64 }),
        }
    }

    fn is_reached(&self) -> Result<bool> {
        match &*self.state.lock().unwrap() {
            Some((_, Some(error), _)) => Err(error.clone()),
            Some((.., pending)) => Ok(!pending),
            None => Ok(true),
        }
    }

    fn since(&self, earlier: &dyn Event) -> Option<Duration> {
        let earlier = (earlier as &dyn std::any::Any).downcast_ref::<ToyEvent>()?;
        let (from, to) = (earlier.state.lock().unwrap(), self.state.lock().unwrap());
        to.as_ref()?.0.checked_duration_since(from.as_ref()?.0)
    }
}

struct ToyPlan {
    graph: Graph,
    fault: &'static str,
    host: Host,
    _alive: Arc<Alive>,
}

impl Plan for ToyPlan {
    fn info(&self) -> PlanInfo {
        let workspace_bytes = if self.fault == "wants workspace" { 96 } else { 0 };
        PlanInfo { workspace_bytes, workspace_align: 64, resident_bytes: 3 }
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], _: &Binding) -> Result<()> {
        let stream = (stream as &mut dyn std::any::Any).downcast_mut::<ToyStream>().expect("a stream of the toy");
        let (graph, fault) = (&self.graph, self.fault);
        stream.stream.run(|| {
            match fault {
                "execute panics" => panic!("a wheel came off"),
                "execute fails" => return Err(Error::internal("copy", "it fell over")),
                "chip is lost" => {
                    return Err(Error::DeviceLost { device: "toy".into(), why: "the dog took it".into() });
                }
                _ => {}
            }
            for node in graph.nodes() {
                let at = |id| match graph.tensor(graph.root(id).0).storage {
                    qiao_core::Storage::Bound(position) => (position, graph.root(id).1),
                    _ => panic!("the toy copies between bound tensors"),
                };
                let (from, to) = (at(node.inputs[0].unwrap()), at(node.outputs[0]));
                let bytes = graph.desc(node.outputs[0]).bytes()?;
                let part = |(position, offset): (usize, usize)| {
                    let binding: &Binding = &bindings[position];
                    Binding::part(&binding.buffer, binding.offset + offset, bytes)
                };
                let (from, to) = (part(from), part(to));
                let (from, range) = host_range(&from)?;
                let copied = from.read(range, <[u8]>::to_vec);
                let (to, range) = host_range(&to)?;
                to.write(range, |b| b.copy_from_slice(&copied));
            }
            self.host.log(Level::Debug, "copied");
            Ok(())
        })
    }
}
