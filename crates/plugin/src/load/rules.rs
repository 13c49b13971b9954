//! Rule R2 of the header, tried on a plugin's own functions: structs larger and smaller than those of its header, as a newer
//! and an older host give them.
//!
//! Whoever breaks the rule reads or writes what is not there, so that this belongs into a process of its own
//! ([`super::probe`]). Not tried are a shorter `qiao_error` and the structs of prepack.

use std::path::Path;
use std::ptr::NonNull;

use qiao_core::{DType, Error, GeluAttrs, Graph, MatmulAttrs, NoAttrs, NormAttrs, Op, Result, TensorDesc};

use super::arena::Arena;
use super::calls::{Calls, Kind, Padded, Raw, overrun, whole};
use super::failure::{Answer, Failure};
use super::options::Options;
use super::services::Services;
use super::slots::{Graphs, Slots};
use super::{library, query};
use crate::abi::{self, ErrorRecord, QueryFn, Sized32, Status};

/// How many bytes a struct of a newer host has more.
const TAIL: usize = 512;

/// How many bytes behind a struct that is filled are watched.
const PAD: usize = 1024;

/// Which host gives a struct.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// This one.
    Own,
    /// An older one, without the last field.
    Older,
    /// A newer one, with a tail of zeros.
    Newer,
    /// A newer one that uses what the plugin can't know.
    Used,
}

/// The structs of a graph.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Graph,
    Op,
    Tensor,
    Attributes,
}

impl Part {
    const ALL: [Part; 4] = [Part::Graph, Part::Op, Part::Tensor, Part::Attributes];

    fn name(self) -> &'static str {
        match self {
            Part::Graph => "qiao_graph",
            Part::Op => "qiao_op",
            Part::Tensor => "qiao_tensor",
            Part::Attributes => "qiao_attr struct",
        }
    }
}

/// A struct that ends where readable memory ends: whoever reads on crashes.
struct Edge {
    base: NonNull<u8>,
    page: usize,
    size: usize,
}

impl Edge {
    fn of<T: Sized32>(own: &T, form: Form) -> Result<Edge> {
        let last = T::OFFSETS.last().copied().unwrap_or(size_of::<u32>());
        // SAFETY: a whole struct, borrowed for the call.
        unsafe { Edge::new((&raw const *own).cast(), size_of::<T>(), last, form) }
    }

    /// # Safety
    /// `own` is a struct of `whole` bytes, at least four; its last field begins at byte `last`.
    unsafe fn new(own: *const u8, whole: usize, last: usize, form: Form) -> Result<Edge> {
        let size = match form {
            Form::Own => whole,
            Form::Older => last,
            Form::Newer | Form::Used => whole + TAIL,
        };
        let none = || Error::internal("the host", "no page of memory for a struct");
        // SAFETY: a question.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok().filter(|&page| page >= size);
        let page = page.ok_or_else(none)?;
        let (readable, anonymous) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new memory, at no place that is asked for.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), 2 * page, readable, anonymous, -1, 0) };
        let base = NonNull::new(base.cast::<u8>()).filter(|_| base != libc::MAP_FAILED).ok_or_else(none)?;
        let edge = Edge { base, page, size };
        // SAFETY: the second of the two pages, which are this value's own.
        if unsafe { libc::mprotect(base.add(page).as_ptr().cast(), page, libc::PROT_NONE) } != 0 {
            return Err(none());
        }
        // SAFETY: `size` bytes before the end of the first page, aligned to four as every size is; the struct has as many as
        // are copied.
        unsafe {
            edge.at::<u8>().copy_from_nonoverlapping(own, size.min(whole));
            edge.at::<u32>().write(size as u32);
            if form == Form::Used {
                edge.at::<u8>().add(size - 1).write(1);
            }
        }
        Ok(edge)
    }

    /// The struct.
    fn at<T>(&self) -> *mut T {
        // SAFETY: `size` is no more than the first page.
        unsafe { self.base.add(self.page - self.size) }.as_ptr().cast()
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // SAFETY: the two pages of this value, which nobody reads any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), 2 * self.page) };
    }
}

/// Room for a struct of some size, and a pattern behind it.
struct Room {
    words: Vec<u64>,
    size: usize,
}

impl Room {
    fn new(size: usize) -> Room {
        let mut bytes: Vec<u8> = (0..(size + PAD).next_multiple_of(8)).map(Room::pattern).collect();
        bytes[..size].fill(0);
        bytes[..4].copy_from_slice(&(size as u32).to_ne_bytes());
        let words = bytes.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
        Room { words, size }
    }

    fn pattern(i: usize) -> u8 {
        (i as u8).wrapping_mul(167) ^ 0xa5
    }

    fn place<T>(&mut self) -> *mut T {
        self.words.as_mut_ptr().cast()
    }

    /// What a writer did that it must not.
    fn fault(&self, what: &str) -> Option<String> {
        let bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let last = (self.size..bytes.len()).rev().find(|&i| bytes[i] != Room::pattern(i));
        if let Some(last) = last {
            return Some(overrun(last + 1 - self.size, &format!("the {what} of {} bytes", self.size)));
        }
        let kept = bytes[..4] == (self.size as u32).to_ne_bytes();
        (!kept).then(|| format!("changes struct_size of the {what} of {} bytes (rule R2)", self.size))
    }
}

/// The structs of a graph, one kind of them in another form.
struct Altered {
    graph: Edge,
    _structs: Vec<Edge>,
    _tensors: Vec<*const abi::Tensor>,
    _ops: Vec<*const abi::Op>,
}

impl Altered {
    fn new(arena: &Arena, part: Part, form: Form) -> Result<Altered> {
        let form = |of: Part| if of == part { form } else { Form::Own };
        let (mut structs, mut tensors, mut ops) = (Vec::new(), Vec::new(), Vec::new());
        // SAFETY: the arena is alive and its graph points into it; counts are those of its lists, and attributes begin with
        // their size.
        unsafe {
            let mut graph = *arena.graph();
            for i in 0..graph.n_tensors as usize {
                let edge = Edge::of(&**graph.tensors.add(i), form(Part::Tensor))?;
                tensors.push(edge.at::<abi::Tensor>().cast_const());
                structs.push(edge);
            }
            for i in 0..graph.n_ops as usize {
                let mut op = **graph.ops.add(i);
                if !op.attrs.is_null() {
                    let size = op.attrs.cast::<u32>().read() as usize;
                    let edge = Edge::new(op.attrs.cast(), size, size - 4, form(Part::Attributes))?;
                    op.attrs = edge.at::<std::ffi::c_void>();
                    structs.push(edge);
                }
                let edge = Edge::of(&op, form(Part::Op))?;
                ops.push(edge.at::<abi::Op>().cast_const());
                structs.push(edge);
            }
            (graph.tensors, graph.ops) = (tensors.as_ptr(), ops.as_ptr());
            let graph = Edge::of(&graph, form(Part::Graph))?;
            Ok(Altered { graph, _structs: structs, _tensors: tensors, _ops: ops })
        }
    }

    fn graph(&self) -> *const abi::Graph {
        self.graph.at()
    }
}

/// Graphs of one operator, those with attributes first.
fn graphs() -> impl Iterator<Item = Arena> {
    let ops: [(Op, &[&[usize]]); 4] = [
        (Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() }), &[&[64, 64], &[64, 64]]),
        (Op::RmsNorm(NormAttrs { eps: 1e-5, ..Default::default() }), &[&[64, 64], &[64]]),
        (Op::Gelu(GeluAttrs::default()), &[&[64, 64]]),
        (Op::Add(NoAttrs {}), &[&[64, 64], &[64, 64]]),
    ];
    let both = ops.into_iter().flat_map(|op| [DType::F32, DType::F16, DType::BF16].map(|dtype| (op, dtype)));
    both.filter_map(|((op, shapes), dtype)| {
        let mut graph = Graph::new();
        let mut inputs = Vec::new();
        for shape in shapes {
            inputs.push(Some(graph.bind("x", TensorDesc::new(dtype, shape).ok()?)));
        }
        let y = graph.bind("y", TensorDesc::new(dtype, &[64, 64]).ok()?);
        graph.add_into(op, &inputs, &[y]).ok()?;
        Arena::of_graph(&graph).ok()
    })
}

/// Loads a plugin and holds it to the rule: what breaks it, a line each. `tell` is told what comes next. A plugin whose driver
/// or chip is not here is asked no more than its query.
///
/// # Errors
/// A file that can't be loaded, as for [`super::Plugin::load`].
pub(super) fn broken(path: &Path, options: &Options, tell: &dyn Fn(&str)) -> Result<Vec<String>> {
    let library = library::open(path)?;
    // SAFETY: the function carries the name that the header gives it.
    unsafe { broken_of(library.query, &library.path.display().to_string(), options, tell) }
}

/// As [`broken`], of a query.
///
/// # Safety
/// `query` is the exported function of a plugin.
unsafe fn broken_of(query: QueryFn, place: &str, options: &Options, tell: &dyn Fn(&str)) -> Result<Vec<String>> {
    // SAFETY: by the contract of this function.
    let asked = unsafe { query::ask(query, place, query::sanitizer_here()) }?;
    let mut trial = Trial { calls: Calls::new(&asked.name), slots: asked.slots, tell, broken: Vec::new() };
    trial.query(query);
    trial.backend(&Services::new(&asked.name, options))?;
    Ok(trial.broken)
}

struct Trial<'a> {
    calls: Calls,
    slots: Slots,
    tell: &'a dyn Fn(&str),
    broken: Vec<String>,
}

impl Trial<'_> {
    fn breaks(&mut self, slot: &str, how: &str) {
        self.broken.push(format!("{slot} {how}"));
    }

    fn tell(&self, slot: &str, what: &str, size: usize) {
        (self.tell)(&format!("{slot} with a {what} of {size} bytes"));
    }

    /// Judges the answer to a struct that is read.
    fn judge(&mut self, slot: &str, what: &str, form: Form, failure: Option<&Failure>) {
        match (form, failure) {
            (Form::Used, None) => self.breaks(
                slot,
                &format!("takes a {what} that says more than it knows: it must look at the unknown tail (rule R2)"),
            ),
            (Form::Used, Some(_)) | (_, None) => {}
            (Form::Older, Some(failure)) => self.breaks(
                slot,
                &format!("refuses a {what} without its last field, which counts as 0 (rule R2): {}", failure.words()),
            ),
            (Form::Own | Form::Newer, Some(failure)) => self.breaks(
                slot,
                &format!("refuses a {what} with {TAIL} zeros behind what it knows (rule R2): {}", failure.words()),
            ),
        }
    }

    /// A function that fills a struct, smaller and larger than its own.
    fn fills<T: Sized32>(&mut self, slot: &'static str, what: &str, run: impl Fn(*mut T, *mut ErrorRecord) -> Status) {
        for size in [T::OFFSETS.last().copied().unwrap_or(size_of::<T>()), size_of::<T>() + TAIL] {
            self.tell(slot, what, size);
            let mut room = Room::new(size);
            let answer = self.calls.call(slot, |err| run(room.place(), err));
            // A query that has no room for the answer may be refused.
            let may_refuse = slot == abi::QUERY_SYMBOL && size < size_of::<T>();
            let refused = answer.err().filter(|_| !may_refuse);
            let refused = refused.map(|f| format!("refuses a {what} of {size} bytes (rule R2): {}", f.words()));
            if let Some(how) = room.fault(what).or(refused) {
                self.breaks(slot, &how);
            }
        }
    }

    fn query(&mut self, query: QueryFn) {
        self.fills(abi::QUERY_SYMBOL, "qiao_query", |q: *mut abi::Query, err| {
            // SAFETY: both structs are the callee's to fill for the call, and these fields lie in the smallest.
            unsafe {
                (&raw mut (*q).host_minor).write(abi::MINOR);
                (&raw mut (*q).host_min_minor).write(abi::MIN_PLUGIN_MINOR);
                query(q, err)
            }
        });
    }

    fn backend(&mut self, services: &Services) -> Result<()> {
        let slots = self.slots.required;
        // SAFETY: the host struct never goes.
        let host = unsafe { *services.host() };
        for form in [Form::Own, Form::Older, Form::Newer, Form::Used] {
            let edge = Edge::of(&host, form)?;
            self.tell("backend_init", "qiao_host", edge.size);
            let started = self.calls.handle("backend_init", Kind::Backend, |out, err| {
                // SAFETY: the host struct lives until the backend is shut down; the out-pointers are the call's.
                unsafe { (slots.backend_init)(edge.at(), out, err) }
            });
            if form == Form::Own && started.is_err() {
                return Ok(());
            }
            self.judge("backend_init", "qiao_host", form, started.as_ref().err());
            let Ok(backend) = started else { continue };
            let tried = if form == Form::Own { self.device(backend) } else { Ok(()) };
            self.calls.gone("backend_shutdown", Kind::Backend, backend, |raw| {
                // SAFETY: the backend is alive, and nothing made on it is any more.
                unsafe { (slots.backend_shutdown)(raw) }
            });
            tried?;
        }
        Ok(())
    }

    fn device(&mut self, backend: Raw<abi::Backend>) -> Result<()> {
        let slots = self.slots.required;
        // SAFETY: the backend is alive; the out-pointers are the call's.
        let count =
            self.calls.small("device_count", |out, err| unsafe { (slots.device_count)(backend.get(), out, err) });
        if count.unwrap_or(0) == 0 {
            return Ok(());
        }
        let opened = self.calls.handle("device_open", Kind::Device, |out, err| {
            // SAFETY: as above.
            unsafe { (slots.device_open)(backend.get(), 0, out, err) }
        });
        let Ok(device) = opened else { return Ok(()) };
        self.infos(device);
        let tried = self.slots.graphs.map_or(Ok(()), |graphs| self.graphs(device, &graphs));
        self.calls.gone("device_close", Kind::Device, device, |raw| {
            // SAFETY: the device is open, and nothing made on it is alive any more.
            unsafe { (slots.device_close)(raw) }
        });
        tried
    }

    /// What a device says of itself.
    fn infos(&mut self, device: Raw<abi::Device>) {
        let (slots, single, device) = (self.slots.required, self.slots.single, device.get());
        // SAFETY: the device is open; the out-pointers are the call's.
        let info = self.calls.filled("device_info", |out, err| unsafe { (slots.device_info)(device, out, err) });
        let Ok(abi::DeviceInfo { dtype_count, kv_count, .. }) = info else { return };
        // SAFETY: the device is open; rooms are as large as they say; the records are the calls'.
        unsafe {
            self.fills("device_info", "qiao_device_info", |out, err| (slots.device_info)(device, out, err));
            self.fills("memory_info", "qiao_memory_info", |out, err| (slots.memory_info)(device, 0, out, err));
            if let Some(ask) = single.dtype_info.filter(|_| dtype_count > 0) {
                self.fills("dtype_info", "qiao_dtype_info", |out, err| ask(device, 0, out, err));
            }
            if let Some(ask) = single.kv_info.filter(|_| kv_count > 0) {
                self.fills("kv_info", "qiao_kv_info", |out, err| ask(device, 0, out, err));
            }
        }
    }

    /// Whether the device runs the operator of a graph; refused is an answer of no, too.
    fn support(&self, device: Raw<abi::Device>, slots: &Graphs, graph: *const abi::Graph) -> Answer<()> {
        let mut record = Padded::new(abi::Support::sized());
        let places = [record.place()];
        self.calls.call("graph_support", |err| {
            // SAFETY: the device is open; graph and record are alive for the call.
            unsafe { (slots.graph_support)(device.get(), graph, places.as_ptr(), err) }
        })?;
        let record = whole("graph_support", "a record", &record)?;
        if record.level == abi::SUPPORT_NATIVE {
            return Ok(());
        }
        let message = format!("it answers level {} with reason {}", record.level, record.reason);
        Err(Failure { slot: "graph_support", status: abi::ERR_UNSUPPORTED, message })
    }

    fn graphs(&mut self, device: Raw<abi::Device>, slots: &Graphs) -> Result<()> {
        let runs = |arena: &Arena| self.support(device, slots, arena.graph()).is_ok();
        let Some(arena) = graphs().find(runs) else { return Ok(()) };
        // SAFETY: the arena is alive; it has one operator.
        let has_attributes = unsafe { !(**(*arena.graph()).ops).attrs.is_null() };
        let create = |graph: *const abi::Graph, info: *mut abi::PlanInfo, err: *mut ErrorRecord| {
            let mut plan = std::ptr::null_mut();
            // SAFETY: the device is open; graph and info are alive for the call; a plan that was made goes back.
            unsafe {
                let status = (slots.plan_create)(device.get(), graph, &raw mut plan, info, err);
                if status == abi::OK {
                    (slots.plan_destroy)(plan);
                }
                status
            }
        };
        self.fills("graph_support", "qiao_support", |record, err| {
            // SAFETY: the device is open; graph and record are alive for the call.
            unsafe { (slots.graph_support)(device.get(), arena.graph(), &raw const record, err) }
        });
        self.fills("plan_create", "qiao_plan_info", |info, err| create(arena.graph(), info, err));
        for part in Part::ALL.into_iter().filter(|&part| part != Part::Attributes || has_attributes) {
            for form in [Form::Older, Form::Newer, Form::Used] {
                let altered = Altered::new(&arena, part, form)?;
                (self.tell)(&format!("a graph with a {} of another size", part.name()));
                let answer = self.support(device, slots, altered.graph());
                self.judge("graph_support", part.name(), form, answer.err().as_ref());
                let made = self.calls.filled("plan_create", |info, err| create(altered.graph(), info, err));
                self.judge("plan_create", part.name(), form, made.err().as_ref());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;

    use qiao_core::{Backend, Device, DeviceInfo};
    use qiao_cpu::{CpuDevice, CpuOptions};

    use super::*;
    use crate::export::{self, Host};

    struct Cpu;

    impl Backend for Cpu {
        fn name(&self) -> &str {
            "cpu"
        }

        fn devices(&self) -> Result<Vec<DeviceInfo>> {
            Ok(vec![CpuDevice::describe(&CpuOptions::default())?])
        }

        fn open(&self, _: usize) -> Result<Arc<dyn Device>> {
            Ok(Arc::new(CpuDevice::with(&CpuOptions::default())?))
        }
    }

    impl export::Plugin for Cpu {
        const VENDOR: &'static str = "Qiao";
        const NAME: &'static str = "cpu";
        const VERSION: &'static str = "1";

        fn open(_: &Host) -> Result<Arc<dyn Backend>> {
            Ok(Arc::new(Cpu))
        }
    }

    static TABLE: abi::Api = export::table::<Cpu>();

    unsafe extern "C" fn exported(query: *mut abi::Query, error: *mut ErrorRecord) -> Status {
        // SAFETY: the caller keeps to the header.
        unsafe { export::answer_query::<Cpu>(&TABLE, query, error) }
    }

    #[test]
    fn an_exported_backend_keeps_the_rule_in_every_struct() {
        let tried = RefCell::new(Vec::new());
        let tell = |what: &str| tried.borrow_mut().push(what.to_string());
        // SAFETY: the query of an exported backend.
        let broken = unsafe { broken_of(exported, "here", &Options::default(), &tell) }.unwrap();
        assert_eq!(broken, [""; 0]);
        let tried = tried.into_inner().join("\n");
        for what in
            ["query", "host", "device_info", "memory_info", "dtype_info", "support", "plan_info", "tensor", "attr"]
        {
            assert!(tried.contains(&format!("qiao_{what}")), "{what}: {tried}");
        }
    }
}
