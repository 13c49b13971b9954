//! Writing the KV cache.

use qiao_core::{Accept, DType, KvLayout, NodeView, Op, OpKind, Property, Reason, Result as CoreResult, Row, Rule};

use crate::cache::{self, Cache, aligned};
use crate::fields::Fields;
use crate::launch::{Arg, Chip, Launch, Prepare, Prepared, row, suffix};

/// Heads of tokens that a block writes.
const ROWS: usize = 4;

/// The rows of this family, best kernel first for each operator.
pub fn rows() -> Vec<Row<Prepare>> {
    vec![row(OpKind::KvWrite, "kv_write", accepts, kv_write)]
}

fn accepts(node: &NodeView<'_>) -> Result<Accept, Reason> {
    cache::accepts_floats(node, &[0, 1])?;
    cache::accepts(node, [3, 4])?;
    let rows = node.required(0);
    let most = i32::MAX as usize;
    if rows.shape[0].saturating_mul(rows.shape[1]) > most {
        return Err(Reason::operand(0, Property::Dim(0), Rule::AtMost, rows.shape[0], most));
    }
    Ok(Accept::Native)
}

/// What is written of keys or values: rows, cache and scales, by the positions of the operands.
#[derive(Clone, Copy)]
struct Target {
    rows: usize,
    cache: usize,
    scale: usize,
}

const TARGETS: [Target; 2] = [Target { rows: 0, cache: 3, scale: 5 }, Target { rows: 1, cache: 4, scale: 6 }];

impl Target {
    /// Whether rows may be copied in whole 16 bytes.
    fn is_whole(self, node: &NodeView<'_>) -> bool {
        let (rows, cache) = (node.required(self.rows), node.required(self.cache));
        rows.dtype == cache.dtype
            && (rows.shape.last_dim() * rows.dtype.block_bytes()).is_multiple_of(16)
            && aligned(node, self.rows, 16)
            && aligned(node, self.cache, 16)
    }

    fn fields(self, node: &NodeView<'_>, layout: KvLayout, to: Fields) -> Fields {
        let cache = Cache::new(node, self.cache, self.scale, layout, true);
        let rows = node.required(self.rows);
        to.longs(&rows.strides[..3])
            .longs(&cache.strides)
            .longs(&cache.scale)
            .words(&[rows.shape[2], self.is_whole(node).into()])
    }
}

/// The launch that writes these targets, whose rows have one dtype.
fn launch(node: &NodeView<'_>, layout: KvLayout, targets: &[Target]) -> Launch {
    let slots = node.required(2);
    let cache = Cache::new(node, 3, 5, layout, true);
    let [tokens, heads] = [node.required(0).shape[0], cache.pages.heads];
    let mut fields = Fields::default();
    for i in 0..2 {
        fields = targets.get(i).unwrap_or(&targets[0]).fields(node, layout, fields);
    }
    let capacity = cache.pages.blocks.saturating_mul(cache.pages.block_size);
    let wide = usize::from(slots.dtype == DType::I64);
    let fields =
        fields.longs(&[slots.strides[0], capacity]).words(&[tokens, heads, cache.pages.block_size.max(1), wide]).end();
    let arg = |i: usize, of: fn(&Target) -> usize| targets.get(i).map_or(Arg::Null, |t| Arg::optional(node, of(t)));
    let args = vec![
        arg(0, |t| t.rows),
        arg(1, |t| t.rows),
        Arg::input(node, 2),
        arg(0, |t| t.cache),
        arg(1, |t| t.cache),
        arg(0, |t| t.scale),
        arg(1, |t| t.scale),
        fields.arg(),
    ];
    let symbol = format!("kv_write_{}_{}", suffix(node.required(targets[0].rows).dtype), suffix(cache.dtype));
    let blocks = (tokens * heads).div_ceil(ROWS) as u32;
    Launch::new(&symbol, [blocks, targets.len() as u32, 1], 0, args)
}

fn kv_write(node: &NodeView<'_>, _: &Chip) -> CoreResult<Prepared> {
    let Op::KvWrite(attrs) = *node.op() else { unreachable!("the table pairs kv_write with its kernel") };
    let (k, v) = (node.required(0), node.required(1));
    if k.shape[0] == 0 || k.shape[1] == 0 {
        return Ok(Prepared::default());
    }
    let launches = if k.dtype == v.dtype {
        vec![launch(node, attrs.kv_layout, &TARGETS)]
    } else {
        TARGETS.iter().map(|t| launch(node, attrs.kv_layout, &[*t])).collect()
    };
    Ok(Prepared { launches, scratch: 0 })
}
