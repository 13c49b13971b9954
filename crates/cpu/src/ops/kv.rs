//! Writing the KV cache.

use std::ops::Range;

use half::{bf16, f16};
use qiao_core::{Accept, DType, Error, KvLayout, NodeView, Op, OpKind, Reason, Result as CoreResult, Row};

use super::access::Operand;
use super::by_rows::{ByRows, Rows};
use super::cache::{self, Cache};
use super::exec::{Core, Exec, Prepare, Prepared, activations, no_layouts, row};

pub(super) fn rows() -> Vec<Row<Prepare>> {
    vec![row(OpKind::KvWrite, "kv_write", accepts, kv_write)]
}

fn accepts(node: &NodeView<'_>) -> Result<Accept, Reason> {
    activations(node, &[0, 1])?;
    cache::accepts(node, [3, 4])?;
    no_layouts(node)
}

/// Rows of k or v, and their cache.
struct Target {
    rows: Operand,
    cache: Cache,
}

impl Target {
    fn new(node: &NodeView<'_>, rows: usize, cache: usize, scale: usize, layout: KvLayout) -> Self {
        Target { rows: Operand::required(node, rows), cache: Cache::new(node, cache, scale, layout, true) }
    }

    /// Writes the head of a token.
    ///
    /// # Safety
    /// The block and the token are inside the cache, no other task writes them, and `thread` is this task's.
    unsafe fn write(&self, exec: &Exec<'_>, t: usize, head: usize, at: (usize, usize), thread: usize) {
        let k = exec.kernels();
        let dim = self.rows.len;
        if dim == 0 {
            return;
        }
        let to = self.cache.at(at.0, head, at.1);
        let scale_at = self.cache.scale_at(at.0, head, at.1);
        // SAFETY: as the caller vouches.
        unsafe {
            let buf = exec.scratch(thread);
            let r = t * self.rows.shape[1] + head;
            let row = self.rows.read(k, exec.address(self.rows.tensor), r, buf);
            let out = exec.address(self.cache.tensor);
            match self.cache.dtype {
                DType::F32 => out.cast::<f32>().add(to).copy_from_nonoverlapping(row.as_ptr(), dim),
                DType::F16 => (k.f32_to_f16.run)(std::slice::from_raw_parts_mut(out.cast::<f16>().add(to), dim), row),
                DType::BF16 => {
                    (k.f32_to_bf16.run)(std::slice::from_raw_parts_mut(out.cast::<bf16>().add(to), dim), row)
                }
                DType::I8 => {
                    let codes = std::slice::from_raw_parts_mut(out.cast::<i8>().add(to), dim);
                    let scale = (k.quantize_row_i8.run)(codes, row);
                    let (tensor, to) = scale_at.expect("the graph checked that an i8 cache has scales");
                    *exec.address(tensor).cast::<f32>().add(to) = scale;
                }
                dtype => {
                    let scale = scale_at.map(|(tensor, to)| {
                        // The same for either format.
                        let scale = (k.largest.run)(row) / 448.0;
                        *exec.address(tensor).cast::<f32>().add(to) = scale;
                        scale
                    });
                    let (codes, scale) = (out.add(to), scale.unwrap_or(1.0));
                    match dtype {
                        DType::F8E5M2 => {
                            (k.f32_to_e5m2.run)(std::slice::from_raw_parts_mut(codes.cast(), dim), row, scale);
                        }
                        _ => (k.f32_to_e4m3.run)(std::slice::from_raw_parts_mut(codes.cast(), dim), row, scale),
                    }
                }
            }
        }
    }
}

fn kv_write(node: &NodeView<'_>, _: &Core) -> Prepared {
    let Op::KvWrite(attrs) = *node.op() else { unreachable!("the table pairs kv_write with its kernel") };
    let layout = attrs.kv_layout;
    let targets = [Target::new(node, 0, 3, 5, layout), Target::new(node, 1, 4, 6, layout)];
    let pages = targets[0].cache.pages;
    let slots = Operand::required(node, 2);
    let tokens = slots.len;
    let capacity = pages.blocks.saturating_mul(pages.block_size);
    let longest = targets[0].rows.len.max(targets[1].rows.len);
    let slot = move |exec: &Exec<'_>, t: usize| {
        // SAFETY: the entry is one of the slots.
        unsafe { slots.index(exec.address(slots.tensor), t * slots.step()) }
    };
    let check = {
        let slot = slot.clone();
        move |exec: &Exec<'_>| {
            // SAFETY: the plan laid out eight bytes a token of shared scratch for this step, aligned to 64.
            let seen = unsafe { std::slice::from_raw_parts_mut(exec.shared().0.cast::<i64>(), tokens) };
            check_slots(seen, |t| slot(exec, t), capacity)
        }
    };
    let size = pages.block_size.max(1);
    // Slots are looked at before any row, all of them.
    let rows = Rows::split(&[&targets[0].rows, &targets[1].rows], tokens, pages.heads * longest);
    let write = move |exec: &Exec<'_>, tokens: Range<usize>, thread: usize| {
        for t in tokens {
            let Ok(slot) = usize::try_from(slot(exec, t)) else { continue };
            for (head, target) in (0..pages.heads).flat_map(|h| targets.iter().map(move |target| (h, target))) {
                // SAFETY: slots were checked to be distinct and inside the cache; the pool gave this thread.
                unsafe { target.write(exec, t, head, (slot / size, slot % size), thread) };
            }
        }
    };
    Prepared::rows(ByRows::one(rows, longest * 4, Box::new(write)).checked(tokens * 8, Box::new(check)))
}

/// Slots are −1 or inside the cache, and no two are the same.
fn check_slots(seen: &mut [i64], slot: impl Fn(usize) -> i64, capacity: usize) -> CoreResult<()> {
    let bad = |found: String, mend: String| Err(Error::invalid("kv_write operand 2 (slots)", found, mend));
    for (t, out) in seen.iter_mut().enumerate() {
        *out = slot(t);
        if *out < -1 || usize::try_from(*out).is_ok_and(|s| s >= capacity) {
            return bad(format!("slot {} of token {t}", *out), format!("use -1 or a slot below {capacity}"));
        }
    }
    seen.sort_unstable();
    match seen.windows(2).find(|w| w[0] == w[1] && w[0] >= 0) {
        Some(w) => bad(format!("slot {} twice", w[0]), "give each token a slot of its own".into()),
        None => Ok(()),
    }
}
