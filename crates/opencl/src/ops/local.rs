//! Local memory: what launches ask for, held to what the device has.

use qiao_core::sound::{self, writes_nothing};
use qiao_core::{Accept, NodeView, Op, Property, Reason, Rule};
use qiao_launch::{Prepared, What};

use super::{Table, Target};

/// Bytes that kernels have beside the local memory of the launch's size, at most.
const BESIDE: usize = 2 << 10;

/// Whether the device has the local memory of a node that a row accepts.
///
/// # Errors
/// What asks for more.
pub(crate) fn check(table: &Table, target: &Target, node: &NodeView<'_>) -> Result<(), Reason> {
    match sound::find(table, node) {
        Ok((row, Accept::Native)) if !writes_nothing(node) => match row.launch.prepare(node, target) {
            Ok(prepared) => fits(node, &prepared, target),
            // The plan tells it.
            Err(_) => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Whether the device has the local memory of launches.
///
/// # Errors
/// What asks for more.
pub(crate) fn fits(node: &NodeView<'_>, prepared: &Prepared, target: &Target) -> Result<(), Reason> {
    let sizes = prepared.launches.iter().map(|launch| match launch.what {
        What::Kernel { shared, .. } => shared as usize,
        _ => 0,
    });
    let (asked, room) = (sizes.max().unwrap_or(0), (target.chip.shared as usize).saturating_sub(BESIDE));
    if asked == 0 || asked <= room {
        return Ok(());
    }
    Err(match *node.op() {
        // Bytes for every element of a query and of a value.
        Op::AttentionDecode(_) | Op::AttentionPrefill(_) => {
            let [(axis, d), (_, dv)] = [0, 2].map(|i| {
                let desc = node.required(i);
                (desc.rank() - 1, desc.shape.last_dim())
            });
            let most = room / (asked / (d + dv));
            Reason::operand(0, Property::Dim(axis), Rule::AtMost, d, most.saturating_sub(dv))
        }
        // Bytes for every place, of which there is a power of two.
        Op::TopK(attrs) => {
            let places = (attrs.k as usize).next_power_of_two();
            let most = room / (asked / places);
            Reason::attribute("k", Rule::AtMost, attrs.k as usize, most.checked_ilog2().map_or(0, |n| 1 << n))
        }
        _ => Reason::operand(0, Property::Memory, Rule::AtMost, asked, room),
    })
}

#[cfg(test)]
mod tests {
    use qiao_core::*;

    use crate::ops::{Target, support, table};
    use crate::tuning::{Limits, Tuning};

    /// The answer of a device with so many bytes of local memory.
    fn answer(local: u32, graph: &Graph) -> Support {
        let tuning = Tuning::of(false, Limits { items: 256, local }).unwrap();
        support(&table(), &Target::new(16, local, tuning), graph).remove(0).answer
    }

    fn top_k(k: u32) -> Graph {
        let mut g = Graph::new();
        let x = g.bind("x", TensorDesc::new(DType::F32, &[2, 5000]).unwrap());
        g.add(Op::TopK(TopKAttrs { k }), &[Some(x)]).unwrap();
        g
    }

    fn attention(d: usize) -> Graph {
        let mut g = Graph::new();
        let of = |dtype, shape: &[usize]| TensorDesc::new(dtype, shape).unwrap();
        let (cache, ints) = (of(DType::F32, &[4, 16, 1, d]), |shape: &[usize]| of(DType::I32, shape));
        let descs = [of(DType::F32, &[1, 1, d]), cache.clone(), cache, ints(&[1]), ints(&[1, 4])];
        let inputs: Vec<_> = descs.into_iter().map(|desc| Some(g.bind("x", desc))).collect();
        g.add(Op::AttentionDecode(AttentionAttrs::default()), &inputs).unwrap();
        g
    }

    #[test]
    fn what_takes_more_local_memory_than_there_is_is_refused_with_what_would_fit() {
        for (local, graph, refused) in [
            (32 << 10, top_k(2048), None),
            (32 << 10, top_k(4096), Some("attribute k = 4096 is above 2048")),
            (36 << 10, top_k(4096), None),
            (32 << 10, attention(480), None),
            (32 << 10, attention(512), Some("operand 0: dim 2 = 512 is above 448")),
            (64 << 10, attention(512), None),
        ] {
            match (answer(local, &graph), refused) {
                (Support::Native, None) => {}
                (Support::No(reason), Some(words)) => assert_eq!(reason.to_string(), words),
                other => panic!("{local}: {other:?}"),
            }
        }
    }
}
