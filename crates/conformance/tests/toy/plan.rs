//! The chip's operators: copy, add, matmul, sums, softmax and kv_write in f32, on tensors without gaps.

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use qiao_core::{
    Binding, DType, Error, Graph, KvLayout, NodeView, Op, Placement, Plan, PlanInfo, ReduceKind, Result,
    Storage as Where, Stream, TensorId, place,
};
use qiao_cpu::{CpuDevice, CpuOptions};
use qiao_reference::{Trial, data::to_bytes};

use super::memory::{Storage, resolve, resolve_mut, storage_of};
use super::stream::ToyStream;
use super::{ALIGN, Fault};

/// Whether the chip has a kernel for a node.
pub(crate) fn runs(node: &NodeView<'_>) -> bool {
    let op = match node.op() {
        Op::Copy(_) => true,
        Op::Add(_) => node.required(0).shape == node.required(1).shape,
        Op::Matmul(a) => a.trans_b && a.epilogue == Default::default() && node.required(0).rank() == 2,
        Op::Reduce(a) => a.kind == ReduceKind::Sum && a.axis as usize + 1 == node.required(0).rank(),
        Op::Softmax(a) => node.input(1).is_none() && !a.causal && a.scale == 0.0,
        Op::KvWrite(a) => a.kv_layout == KvLayout::BlockTokenHead,
        _ => false,
    };
    let plain =
        |d: &qiao_core::TensorDesc| matches!(d.dtype, DType::F32 | DType::I32) && d.is_contiguous() && d.layout == 0;
    op && node.operands().all(|(_, d)| plain(d))
}

/// A graph on the chip.
pub(crate) struct ToyPlan {
    body: Arc<Body>,
}

struct Body {
    fault: Fault,
    graph: Graph,
    placement: Placement,
    /// Room for the result of a node, which a broken chip shares among executions.
    scratch: Mutex<Vec<f32>>,
    runs: AtomicUsize,
}

impl ToyPlan {
    pub(crate) fn new(fault: Fault, graph: &Graph) -> Result<ToyPlan> {
        let placement = place::place(graph, ALIGN, 32)?;
        let (scratch, runs) = Default::default();
        let body = Arc::new(Body { fault, graph: graph.clone(), placement, scratch, runs });
        if fault == Fault::LeaksPlans {
            std::mem::forget((body.clone(), vec![1u8; 100_000]));
        }
        Ok(ToyPlan { body })
    }
}

impl Plan for ToyPlan {
    fn info(&self) -> PlanInfo {
        let workspace_bytes = self.body.placement.bytes;
        PlanInfo { workspace_bytes, workspace_align: ALIGN, resident_bytes: 0 }
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        let stream = (stream as &mut dyn Any)
            .downcast_mut::<ToyStream>()
            .ok_or_else(|| Error::invalid("stream", "it is of another device", "use one of this device"))?;
        let (body, fault) = (self.body.clone(), self.body.fault);
        let bound = body.graph.bound().len();
        let bindings = if fault == Fault::TooManyTaken { &bindings[..bindings.len().min(bound)] } else { bindings };
        let checked = check(&body, bindings, workspace);
        let (places, workspace) = stream.checked(checked)?;
        if fault == Fault::RunsAtOnce {
            return body.run(&places, &workspace);
        }
        stream.push(move || body.run(&places, &workspace))
    }
}

/// Where something lies.
type At = (Arc<Storage>, usize);

fn check(body: &Body, bindings: &[Binding], workspace: &Binding) -> Result<(Vec<At>, At)> {
    let bound = body.graph.bound();
    if bindings.len() != bound.len() {
        let found = format!("{} were given", bindings.len());
        return Err(Error::invalid("bindings", found, format!("give {}", bound.len())));
    }
    let mut places = Vec::new();
    for (position, (&id, binding)) in bound.iter().zip(bindings).enumerate() {
        let need = if body.fault == Fault::ShortBindingTaken { 0 } else { body.graph.desc(id).bytes()? };
        if body.fault == Fault::OutsideTaken {
            places.push((storage_of(binding)?, binding.offset));
            continue;
        }
        let find = if body.graph.writes_bound(position) { resolve_mut } else { resolve };
        let (storage, range) = find(binding, "binding", need)?;
        places.push((storage, range.start));
    }
    let need = if body.fault == Fault::WorkspaceUnchecked { 0 } else { body.placement.bytes };
    let (storage, range) = resolve_mut(workspace, "workspace", need)?;
    Ok((places, (storage, range.start)))
}

impl Body {
    fn at(&self, id: TensorId, places: &[At], workspace: &At) -> At {
        let (root, inside) = self.graph.root(id);
        let (storage, start) = match self.graph.tensor(root).storage {
            Where::Bound(position) => places[position].clone(),
            _ => (workspace.0.clone(), workspace.1 + self.placement.offsets[root.index()].unwrap_or(0)),
        };
        (storage, start + inside)
    }

    fn bytes(&self, id: TensorId, places: &[At], workspace: &At) -> Result<Vec<u8>> {
        let (storage, start) = self.at(id, places, workspace);
        let need = self.graph.desc(id).bytes()?;
        let have = storage.bytes();
        // A chip that does not look reads what there is.
        let mut bytes = storage.read(start.min(have)..start.saturating_add(need).min(have));
        bytes.resize(need, 0);
        Ok(bytes)
    }

    fn run(&self, places: &[At], workspace: &At) -> Result<()> {
        let nth = self.runs.fetch_add(1, Ordering::Relaxed);
        for node in self.graph.views() {
            if let Op::KvWrite(_) = node.op() {
                self.kv_write(&node, places, workspace)?;
                continue;
            }
            let operands = node.node.inputs.iter().flatten().map(|&id| self.bytes(id, places, workspace));
            let operands = operands.collect::<Result<Vec<_>>>()?;
            let mut result = self.compute(&node, &operands)?;
            if self.fault == Fault::RightOnceOnly && nth > 0 {
                result[0] += 1.0;
            }
            if self.fault == Fault::SharedScratch {
                *self.scratch.lock().unwrap_or_else(PoisonError::into_inner) = result;
                std::thread::sleep(std::time::Duration::from_micros(80));
                result = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).clone();
            }
            let (storage, start) = self.at(node.node.outputs[0], places, workspace);
            storage.write(start, &result.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        }
        if self.fault == Fault::WorkspaceOverrun {
            workspace.0.write(workspace.1 + self.placement.bytes, &[0; 4]);
        }
        Ok(())
    }

    fn compute(&self, node: &NodeView<'_>, operands: &[Vec<u8>]) -> Result<Vec<f32>> {
        let values: Vec<Vec<f32>> = operands.iter().map(|bytes| floats(bytes)).collect();
        Ok(match node.op() {
            Op::Add(_) => values[0].iter().zip(&values[1]).map(|(a, b)| a + b).collect(),
            Op::Copy(_) => values[0].clone(),
            _ if self.fault == Fault::HostKernels => on_the_host(node, operands)?,
            Op::Matmul(_) => {
                let k = node.required(0).shape.last_dim().max(1);
                let rows = values[0].chunks_exact(k);
                rows.flat_map(|a| values[1].chunks_exact(k).map(|b| self.dot(a, b))).collect()
            }
            Op::Reduce(_) => {
                let (n, ones) = (node.required(0).shape.last_dim().max(1), vec![1.0; values[0].len()]);
                values[0].chunks_exact(n).map(|row| self.dot(row, &ones)).collect()
            }
            _ => values[0].chunks_exact(node.required(0).shape.last_dim().max(1)).flat_map(softmax).collect(),
        })
    }

    fn dot(&self, a: &[f32], b: &[f32]) -> f32 {
        if self.fault == Fault::HostTruth {
            return a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32;
        }
        // Seven sums side by side: the order is the chip's own.
        let mut sums = [0f32; 7];
        a.iter().zip(b).enumerate().for_each(|(i, (a, b))| sums[i % 7] += a * b);
        sums.iter().sum()
    }

    fn kv_write(&self, node: &NodeView<'_>, places: &[At], workspace: &At) -> Result<()> {
        let ids: Vec<TensorId> = node.node.inputs.iter().flatten().copied().collect();
        let slots = self.bytes(ids[2], places, workspace)?;
        let slots: Vec<i32> = slots.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        for (token, &slot) in slots.iter().enumerate() {
            if slots[..token].contains(&slot) {
                return Err(Error::internal("kv_write", format!("slot {slot} twice")));
            }
            let Ok(slot) = usize::try_from(slot) else { continue };
            for (rows, cache) in [(0, 3), (1, 4)] {
                let row = self.graph.desc(ids[rows]).shape[1..].iter().product::<usize>() * 4;
                let bytes = self.bytes(ids[rows], places, workspace)?;
                let (storage, start) = self.at(ids[cache], places, workspace);
                storage.write(start + slot * row, &bytes[token * row..][..row]);
            }
        }
        Ok(())
    }
}

fn softmax(row: &[f32]) -> Vec<f32> {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = row.iter().map(|x| (x - most).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// What a chip that passes the host's work off as its own does.
fn on_the_host(node: &NodeView<'_>, operands: &[Vec<u8>]) -> Result<Vec<f32>> {
    let host = CpuDevice::with(&CpuOptions { isa: None, threads: Some(2), ..Default::default() })?;
    let mut trial = Trial::new(*node.op());
    for (i, bytes) in operands.iter().enumerate() {
        trial = trial.input(node.required(i).clone(), bytes.clone());
    }
    let result = trial.run(&host)?;
    Ok(floats(&to_bytes(DType::F32, &result[0].data)))
}
