//! Graphs, plans and private layouts.

use std::sync::Arc;

use qiao_core::Binding;

use super::streams::range;
use crate::abi::{self, ErrorRecord, Sized32, Status};
use crate::export::answer;
use crate::export::fault::{Fault, Result, catch, guard};
use crate::export::handles::Handle;
use crate::export::objects::{BUFFERS, DEVICES, PLANS, PlanObject, STREAMS, StreamObject, release};
use crate::export::request::{Request, Tensor};
use crate::export::wire::{Array, In, Out, OutStruct, size};

pub(in crate::export) unsafe extern "C" fn support(
    device: *mut abi::Device,
    graph: *const abi::Graph,
    per_op: *const *mut abi::Support,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe {
        let (graph, per_op) = (In::new(graph), Array::new(per_op));
        guard(err, || {
            let object = DEVICES.get(Handle::of(device))?;
            let request = Request::read(&graph)?;
            let count = request.ops.len() as u32;
            let records: Vec<_> = per_op.read("per_op", count, count)?.map(|record| OutStruct::new(record)).collect();
            records.iter().try_for_each(|record| record.check("record"))?;
            let asked = request.translate()?;
            let answers = match asked.graph.nodes() {
                [] => Vec::new(),
                _ => object.chip.call(|| Ok(object.device.support(&asked.graph)))?,
            };
            if answers.len() != asked.graph.nodes().len() {
                let why = format!("{} answers for {} operators", answers.len(), asked.graph.nodes().len());
                return Err(qiao_core::Error::internal("the backend's support", why).into());
            }
            for (node, record) in asked.nodes.iter().zip(&records) {
                let answer = match node {
                    Ok(node) => answer::support(&answers[*node], &asked.graph.node(*node)),
                    Err(refusal) => answer::refused(refusal),
                };
                record.write("record", &answer)?;
            }
            Ok(())
        })
    }
}

pub(in crate::export) unsafe extern "C" fn create(
    device: *mut abi::Device,
    graph: *const abi::Graph,
    out: *mut *mut abi::Plan,
    info: *mut abi::PlanInfo,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe {
        let (graph, out, info) = (In::new(graph), Out::new(out), OutStruct::new(info));
        guard(err, || {
            out.check("out")?;
            info.check("info")?;
            let object = DEVICES.get(Handle::of(device))?;
            let graph = Request::read(&graph)?.graph()?;
            if graph.nodes().len() > 1 && !object.device.info().caps.multi_op {
                let found = format!("it has {}", graph.nodes().len());
                return Err(Fault::invalid("graph of one op", found, "the device does not say QIAO_CAP_GRAPH"));
            }
            let plan = object.chip.call(|| object.device.plan(&graph))?;
            let needs = plan.info();
            let no_workspace = match needs.workspace_bytes {
                0 => Some(Binding::whole(object.chip.call(|| object.device.alloc(0, 0))?)),
                _ => None,
            };
            let told = abi::PlanInfo {
                workspace_bytes: needs.workspace_bytes as u64,
                workspace_align: needs.workspace_align as u64,
                resident_bytes: needs.resident_bytes as u64,
                ..abi::PlanInfo::sized()
            };
            let plan = PlanObject::new(object, plan, graph, needs.workspace_bytes, no_workspace);
            info.write("info", &told)?;
            out.write("out", PLANS.insert(Arc::new(plan))?.ptr())
        })
    }
}

pub(in crate::export) unsafe extern "C" fn destroy(plan: *mut abi::Plan) {
    let _ = catch(|| {
        if let Some(plan) = PLANS.remove(Handle::of(plan)) {
            let host = plan.chip.host.clone();
            release(&host, "destroying a plan", || drop(plan));
        }
    });
}

pub(in crate::export) unsafe extern "C" fn execute(
    plan: *mut abi::Plan,
    stream: *mut abi::Stream,
    bindings: *const abi::Binding,
    n_bindings: u32,
    workspace: *const abi::Binding,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe {
        let (bindings, workspace) = (Array::new(bindings), Array::new(workspace));
        guard(err, || {
            let (plan, stream) = (PLANS.get(Handle::of(plan))?, STREAMS.get(Handle::of(stream))?);
            plan.chip.check(&stream.chip, "plan")?;
            let need = plan.graph.bound().len();
            if n_bindings as usize != need {
                let found = format!("{n_bindings} were given");
                return Err(Fault::invalid("bindings", found, format!("give {need}, one per bound tensor")));
            }
            let mut own = plan.bindings();
            bind(&stream, bindings.read("bindings", n_bindings, n_bindings)?, &mut own.list)?;
            plan.graph.check_bindings(&own.list)?;
            let workspace = workspace_of(&plan, &stream, &workspace)?;
            stream.command(|s| plan.plan.execute(s, &own.list, &workspace))
        })
    }
}

/// Finds the buffers of bindings, all under one lock.
fn bind(stream: &StreamObject, given: impl Iterator<Item = abi::Binding>, list: &mut Vec<Binding>) -> Result<()> {
    let buffers = BUFFERS.read();
    for (position, binding) in given.enumerate() {
        let what = || format!("binding {position}");
        let object = buffers.get(Handle::of(binding.buffer)).map_err(|f| f.of(what()))?;
        stream.chip.check(&object.chip, "buffer").map_err(|f| f.of(what()))?;
        let offset = usize::try_from(binding.offset).unwrap_or(usize::MAX);
        let bytes = size("binding", binding.bytes).map_err(|f| f.of(what()))?;
        list.push(Binding { buffer: object.buffer.clone(), offset, bytes });
    }
    Ok(())
}

/// The workspace of an execute.
fn workspace_of(plan: &PlanObject, stream: &StreamObject, given: &Array<abi::Binding>) -> Result<Binding> {
    let given = match (given.is_null(), &plan.no_workspace) {
        (true, Some(none)) => return Ok(none.clone()),
        _ => given.read("workspace", 1, 1)?.next(),
    };
    let given = given.ok_or_else(|| Fault::invalid("workspace", "nothing", "give a binding"))?;
    let binding = range(stream, given.buffer, given.offset, given.bytes, "workspace")?;
    binding.check("workspace", plan.workspace_bytes)?;
    Ok(binding)
}

pub(in crate::export) unsafe extern "C" fn prepack_size(
    device: *mut abi::Device,
    tensor: *const abi::Tensor,
    layout: u64,
    bytes: *mut u64,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe {
        let (tensor, out) = (In::new(tensor), Out::new(bytes));
        guard(err, || {
            out.check("bytes")?;
            let object = DEVICES.get(Handle::of(device))?;
            let desc = Tensor::read(&tensor)?.known()?;
            let bytes = object.chip.call(|| object.device.prepack_bytes(&desc, layout))?;
            out.write("bytes", bytes as u64)
        })
    }
}

pub(in crate::export) unsafe extern "C" fn prepack(
    stream: *mut abi::Stream,
    tensor: *const abi::Tensor,
    src: *const abi::Binding,
    layout: u64,
    dst: *const abi::Binding,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe {
        let (tensor, src, dst) = (In::new(tensor), Array::new(src), Array::new(dst));
        guard(err, || {
            let stream = STREAMS.get(Handle::of(stream))?;
            let desc = Tensor::read(&tensor)?.known()?;
            let one = |given: &Array<abi::Binding>, what: &str| {
                let given = given.read(what, 1, 1)?.next();
                let given = given.ok_or_else(|| Fault::invalid(what, "nothing", "give a binding"))?;
                range(&stream, given.buffer, given.offset, given.bytes, what)
            };
            let (src, dst) = (one(&src, "source")?, one(&dst, "destination")?);
            src.check("source", desc.bytes()?)?;
            let need = stream.chip.call(|| stream.device.prepack_bytes(&desc, layout))?;
            dst.check("destination", need)?;
            stream.command(|s| stream.device.prepack(s, &desc, &src, layout, &dst))
        })
    }
}
