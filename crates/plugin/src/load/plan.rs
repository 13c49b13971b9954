//! Plans of a plugin.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use qiao_core::{Binding, Error, Graph, Plan, PlanInfo, Result, Stream};

use super::arena::Arena;
use super::calls::{Kind, Raw};
use super::failure::{Asked, Failure};
use super::opened::{Memory, Opened};
use super::slots::Graphs;
use super::stream::DeviceStream;
use crate::abi;

/// No workspace starts on a larger multiple.
const MOST_ALIGN: u64 = 1 << 20;

/// A tensor that is bound at execute.
struct Bound {
    name: String,
    /// Bytes that it takes.
    need: usize,
    is_written: bool,
}

/// A prepared graph. Calls that name it are made one after the other; what they start runs side by side.
pub(super) struct DevicePlan {
    device: Arc<Opened>,
    raw: Raw<abi::Plan>,
    slots: Graphs,
    info: PlanInfo,
    bound: Vec<Bound>,
    /// The bindings of the call that is being made, so that a steady state allocates nothing.
    list: Mutex<Vec<abi::Binding>>,
}

// SAFETY: the list holds numbers that the plugin understands on any thread (R6); nobody here looks behind them.
unsafe impl Send for DevicePlan {}
// SAFETY: as above; the list is behind a lock.
unsafe impl Sync for DevicePlan {}

impl DevicePlan {
    /// Prepares a graph that the device calls native. `packed` tells the size of a tensor in a private layout.
    ///
    /// # Errors
    /// The plugin's; what it says of the plan makes no sense.
    pub(super) fn new(
        device: &Arc<Opened>,
        slots: Graphs,
        graph: &Graph,
        packed: impl Fn(&qiao_core::TensorDesc) -> Result<usize>,
    ) -> Result<DevicePlan> {
        device.present()?;
        let mut bound = Vec::with_capacity(graph.bound().len());
        for (position, &id) in graph.bound().iter().enumerate() {
            let tensor = graph.tensor(id);
            let need = if tensor.desc.layout == 0 { tensor.desc.bytes()? } else { packed(&tensor.desc)? };
            bound.push(Bound { name: tensor.name.clone(), need, is_written: graph.writes_bound(position) });
        }
        let arena = Arena::of_graph(graph)?;
        let made = device.session.calls.handle_filled("plan_create", Kind::Plan, |out, info, err| {
            // SAFETY: the device is open; the arena is alive for the call; the out-pointers are the call's.
            unsafe { (slots.plan_create)(device.raw(), arena.graph(), out, info, err) }
        });
        let (raw, info) = made.map_err(|failure| refusal(device, &failure))?;
        let list = Mutex::new(Vec::with_capacity(bound.len()));
        // Destroyed again by its drop where what it says makes no sense.
        let mut plan = DevicePlan { device: device.clone(), raw, slots, info: PlanInfo::default(), bound, list };
        plan.info = checked(&info.map_err(|failure| device.error(&failure, Asked::default()))?, device)?;
        Ok(plan)
    }

    /// The device's own buffer behind a binding that fits.
    fn operand<'a>(&self, binding: &'a Binding, bound: &Bound) -> Result<&'a Memory> {
        let memory = if bound.is_written {
            self.device.own_writable(binding, &bound.name, bound.need)?
        } else {
            self.device.own(binding, &bound.name, bound.need)?
        };
        aligned(memory, binding, &bound.name, self.device.info.tensor_align)?;
        Ok(memory)
    }

    /// The workspace as the plugin takes it, if there is one.
    fn workspace(&self, workspace: &Binding) -> Result<Option<abi::Binding>> {
        if self.info.workspace_bytes == 0 {
            return Ok(None);
        }
        let memory = self.device.own_writable(workspace, "workspace", self.info.workspace_bytes)?;
        aligned(memory, workspace, "workspace", self.info.workspace_align)?;
        Ok(Some(memory.range(workspace)))
    }
}

/// Checks that a range starts where it must.
fn aligned(memory: &Memory, binding: &Binding, name: &str, align: usize) -> Result<()> {
    if memory.is_aligned(binding.offset, align) {
        return Ok(());
    }
    let found = format!("it starts at byte {}", binding.offset);
    Err(Error::invalid(format!("binding of '{name}'"), found, format!("start it on a multiple of {align}")))
}

/// The error of a plan that the plugin did not make, though it called every node native.
fn refusal(device: &Opened, failure: &Failure) -> Error {
    match failure.status {
        abi::ERR_UNSUPPORTED => {
            let why =
                format!("graph_support calls it native, yet plan_create does not support it: {}", failure.words());
            Error::internal(device.name(), why)
        }
        _ => device.error(failure, Asked::default()),
    }
}

/// What a plan says that it needs.
fn checked(info: &abi::PlanInfo, device: &Opened) -> Result<PlanInfo> {
    let nonsense = |found: String, mend: &str| Err(Error::invalid(format!("a plan of {}", device.name()), found, mend));
    let align = if info.workspace_align == 0 { device.info.tensor_align as u64 } else { info.workspace_align };
    if !align.is_power_of_two() || align > MOST_ALIGN {
        return nonsense(format!("workspace_align = {align}"), "have the plugin give a power of two up to 1 MiB");
    }
    let whole = device.info.memories[0].total_bytes;
    let most = if whole == 0 { isize::MAX as u64 } else { whole };
    for (what, bytes) in [("workspace_bytes", info.workspace_bytes), ("resident_bytes", info.resident_bytes)] {
        if bytes > most {
            let found = format!("{what} = {bytes}; the device has {most}");
            return nonsense(found, "use a smaller batch or context, or have the plugin say what it needs");
        }
    }
    Ok(PlanInfo {
        workspace_bytes: info.workspace_bytes as usize,
        workspace_align: align as usize,
        resident_bytes: info.resident_bytes as usize,
    })
}

impl Plan for DevicePlan {
    fn info(&self) -> PlanInfo {
        self.info
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        let name = self.device.name();
        let own = (stream as &mut dyn Any).downcast_mut::<DeviceStream>();
        let Some(stream) = own.filter(|s| Arc::ptr_eq(&s.device, &self.device)) else {
            let found = format!("it is not of {name}");
            return Err(Error::invalid("stream of an execution", found, "use a stream of the same device handle"));
        };
        if bindings.len() != self.bound.len() {
            let mend = format!("give {}, one per bound tensor", self.bound.len());
            return Err(Error::invalid("bindings", format!("{} were given", bindings.len()), mend));
        }
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.clear();
        for (binding, bound) in bindings.iter().zip(&self.bound) {
            list.push(self.operand(binding, bound)?.range(binding));
        }
        let scratch = self.workspace(workspace)?;
        let scratch = scratch.as_ref().map_or(std::ptr::null(), |w| &raw const *w);
        stream.execute(|stream| {
            self.device.session.calls.call("plan_execute", |err| {
                // SAFETY: plan, stream and buffers are alive, and nobody else names plan or stream at the moment; the
                // ranges lie in their buffers and fit the graph; the lists are borrowed for the call.
                unsafe {
                    let count = list.len() as u32;
                    (self.slots.plan_execute)(self.raw.get(), stream, list.as_ptr(), count, scratch, err)
                }
            })
        })
    }
}

impl Drop for DevicePlan {
    fn drop(&mut self) {
        self.device.session.calls.gone("plan_destroy", Kind::Plan, self.raw, |raw| {
            // SAFETY: the plan is alive; executions that are in flight are the plugin's to mind.
            unsafe { (self.slots.plan_destroy)(raw) }
        });
    }
}
