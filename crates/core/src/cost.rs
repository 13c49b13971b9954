//! What a node costs: arithmetic and bytes, from its description alone. Where the work depends on values (lengths,
//! slots), the cost is that of the whole capacity: an upper bound.

use std::ops::Add;

use crate::for_each_op;
use crate::graph::{Graph, NodeView};
use crate::op::{Op, OpKind};
use crate::shape::{Pages, TensorDesc};

/// Arithmetic operations and bytes moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating point or integer operations; a multiply-add counts as two.
    pub flops: u64,
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
}

impl Add for Cost {
    type Output = Cost;

    fn add(self, o: Cost) -> Cost {
        Cost {
            flops: self.flops.saturating_add(o.flops),
            read: self.read.saturating_add(o.read),
            written: self.written.saturating_add(o.written),
        }
    }
}

type CostFn = fn(&NodeView<'_>) -> Cost;

fn bytes(desc: &TensorDesc) -> u64 {
    // Repeated elements are read once.
    desc.bytes().unwrap_or(usize::MAX) as u64
}

fn traffic(n: &NodeView<'_>) -> Cost {
    let read = n.node.inputs.iter().flatten().map(|&id| bytes(n.graph.desc(id))).fold(0, u64::saturating_add);
    let written = n.node.outputs.iter().map(|&id| bytes(n.graph.desc(id))).fold(0, u64::saturating_add);
    Cost { flops: 0, read, written }
}

fn product(factors: &[usize]) -> u64 {
    factors.iter().fold(1u64, |n, &f| n.saturating_mul(f as u64))
}

fn moves(n: &NodeView<'_>) -> Cost {
    let mut cost = traffic(n);
    // A slice reads only what it keeps.
    cost.read =
        cost.read.min(cost.written.max(n.input(0).map_or(0, |x| if n.kind() == OpKind::Cast { bytes(x) } else { 0 })));
    cost
}

fn elementwise(n: &NodeView<'_>) -> Cost {
    let elements = n.node.inputs.iter().flatten().chain(&n.node.outputs).map(|&id| n.graph.desc(id).elements()).max();
    Cost { flops: elements.unwrap_or(0) as u64, ..traffic(n) }
}

fn norm(n: &NodeView<'_>) -> Cost {
    Cost { flops: (n.required(0).elements() as u64).saturating_mul(4), ..traffic(n) }
}

fn gather_rows(n: &NodeView<'_>) -> Cost {
    let (table, ids) = (n.required(0), n.required(1));
    let row = table.dtype.bytes_for(table.shape.last_dim()).unwrap_or(usize::MAX);
    let read = product(&[row, ids.elements()]).saturating_add(bytes(ids));
    Cost { flops: 0, read, written: bytes(n.output(0)) }
}

fn matmul(n: &NodeView<'_>) -> Cost {
    let (a, b) = (n.required(0), n.required(1));
    let columns = match n.op() {
        Op::Matmul(attrs) if !attrs.trans_b => b.shape.last_dim(),
        _ => b.shape[b.rank() - 2],
    };
    Cost { flops: product(&[2, a.elements(), columns]), ..traffic(n) }
}

fn kv_write(n: &NodeView<'_>) -> Cost {
    let (k, v, slots) = (n.required(0), n.required(1), n.required(2));
    let cache = n.required(3).dtype;
    let rows = |t: &TensorDesc| cache.bytes_for(t.elements()).unwrap_or(usize::MAX) as u64;
    Cost { flops: 0, read: bytes(k) + bytes(v) + bytes(slots), written: rows(k).saturating_add(rows(v)) }
}

fn attention(n: &NodeView<'_>) -> Cost {
    let (q, k, v) = (n.required(0), n.required(1), n.required(2));
    let (Op::AttentionPrefill(attrs) | Op::AttentionDecode(attrs)) = n.op() else {
        unreachable!("the list pairs attention with its cost")
    };
    let table = n.input(if n.kind() == OpKind::AttentionDecode { 4 } else { 5 });
    let (keys, kv_read) = match (table, Pages::of(k, attrs.kv_layout)) {
        (Some(table), Some(pages)) => {
            let row = |t: &TensorDesc| t.dtype.bytes_for(t.shape.last_dim() * pages.heads).unwrap_or(usize::MAX);
            let tokens = table.elements().saturating_mul(pages.block_size);
            let keys = table.shape.last_dim().saturating_mul(pages.block_size);
            (keys, product(&[tokens, row(k).saturating_add(row(v))]))
        }
        _ => (k.shape[0], bytes(k).saturating_add(bytes(v))),
    };
    let keys = if attrs.window > 0 { keys.min(attrs.window as usize) } else { keys };
    let per_pair = 2 * (q.shape.last_dim() + v.shape.last_dim());
    Cost {
        flops: product(&[q.shape[0], q.shape[1], keys, per_pair]),
        read: bytes(q).saturating_add(kv_read),
        written: bytes(n.output(0)),
    }
}

macro_rules! cost_table {
    ($($(#[doc = $doc:literal])* $variant:ident($attrs:ident) = $code:literal, $name:literal, $tier:ident,
       [$($input:literal),*] => [$($output:literal),*], $rule:ident, $cost:ident, $decompose:ident;)*) => {
        fn cost_of(kind: OpKind) -> CostFn {
            match kind { $(OpKind::$variant => $cost,)* }
        }
    };
}

for_each_op!(cost_table);

impl NodeView<'_> {
    /// The work of this node.
    pub fn cost(&self) -> Cost {
        cost_of(self.kind())(self)
    }
}

impl Graph {
    /// The work of all nodes together.
    pub fn cost(&self) -> Cost {
        self.views().fold(Cost::default(), |sum, n| sum + n.cost())
    }
}
