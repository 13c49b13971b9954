//! Writing the KV cache.

use half::{bf16, f16};
use qiao_core::{
    Accept, DType, Error, KvLayout, NodeView, Op, OpKind, Property, Reason, Result as CoreResult, Row, Rule,
};

use super::access::{FP8, Operand, fp8};
use super::exec::{Core, Exec, Prepare, Prepared, activations, no_layouts, row};

pub(super) fn rows() -> Vec<Row<Prepare>> {
    vec![row(OpKind::KvWrite, "kv_write", accepts, kv_write)]
}

fn accepts(node: &NodeView<'_>) -> Result<Accept, Reason> {
    activations(node, &[0, 1])?;
    for i in [3, 4] {
        let cache = node.required(i);
        let known = cache.dtype.is_activation() || cache.dtype == DType::I8 || FP8.contains(&cache.dtype);
        if !known {
            return Err(Reason::operand(i, Property::Dtype, Rule::None, cache.dtype, ""));
        }
        if !cache.rows_are_contiguous() {
            return Err(Reason::strides(i, "contiguous within a head"));
        }
    }
    no_layouts(node)
}

/// Rows of k or v, their cache and its scales.
struct Target {
    rows: Operand,
    cache: usize,
    dtype: DType,
    /// Strides of block, head and token.
    strides: [usize; 3],
    scale: Option<(usize, [usize; 3])>,
}

impl Target {
    fn new(node: &NodeView<'_>, rows: usize, cache: usize, scale: usize, layout: KvLayout) -> Self {
        let order = |s: &[usize]| match layout {
            KvLayout::BlockHeadToken => [s[0], s[1], s[2]],
            KvLayout::BlockTokenHead => [s[0], s[2], s[1]],
        };
        let desc = node.required(cache);
        let tensor = |i: usize| node.node.inputs[i].expect("the operand is given").index();
        Target {
            rows: Operand::required(node, rows),
            cache: tensor(cache),
            dtype: desc.dtype,
            strides: order(&desc.strides),
            scale: node.input(scale).map(|d| (tensor(scale), order(&d.strides))),
        }
    }

    /// Writes the head of a token.
    ///
    /// # Safety
    /// The block and the token are inside the cache, no other task writes them, and `thread` is this task's.
    unsafe fn write(&self, exec: &Exec<'_>, t: usize, head: usize, at: (usize, usize), thread: usize) {
        let k = exec.kernels();
        let dim = self.rows.len;
        let place = |s: &[usize; 3]| at.0 * s[0] + head * s[1] + at.1 * s[2];
        let to = place(&self.strides);
        // SAFETY: as the caller vouches.
        unsafe {
            let buf = exec.scratch(thread);
            let r = t * self.rows.shape[1] + head;
            let row = self.rows.read(k, exec.address(self.rows.tensor), r, buf);
            let out = exec.address(self.cache);
            match self.dtype {
                DType::F32 => out.cast::<f32>().add(to).copy_from_nonoverlapping(row.as_ptr(), dim),
                DType::F16 => (k.f32_to_f16.run)(std::slice::from_raw_parts_mut(out.cast::<f16>().add(to), dim), row),
                DType::BF16 => {
                    (k.f32_to_bf16.run)(std::slice::from_raw_parts_mut(out.cast::<bf16>().add(to), dim), row)
                }
                DType::I8 => {
                    let codes = std::slice::from_raw_parts_mut(out.cast::<i8>().add(to), dim);
                    let scale = (k.quantize_row_i8.run)(codes, row);
                    let (tensor, s) = self.scale.as_ref().expect("the graph checked that an i8 cache has scales");
                    *exec.address(*tensor).cast::<f32>().add(place(s)) = scale;
                }
                dtype => {
                    let scale = self.scale.map(|(tensor, s)| {
                        let scale = fp8_scale(row);
                        *exec.address(tensor).cast::<f32>().add(place(&s)) = scale;
                        f64::from(scale)
                    });
                    for (i, &v) in row.iter().enumerate() {
                        let code = match scale {
                            Some(0.0) => 0.0,
                            Some(scale) => f64::from(v) / scale,
                            None => f64::from(v),
                        };
                        *out.add(to + i) = fp8(dtype).encode(code) as u8;
                    }
                }
            }
        }
    }
}

/// `max abs / 448` for either fp8 format; NaN where the row holds one.
fn fp8_scale(row: &[f32]) -> f32 {
    let larger = |m: f32, v: &f32| if m.is_nan() || v.abs() <= m { m } else { v.abs() };
    row.iter().fold(0.0, larger) / 448.0
}

fn kv_write(node: &NodeView<'_>, _: &Core) -> Prepared {
    let Op::KvWrite(attrs) = *node.op() else { unreachable!("the table pairs kv_write with its kernel") };
    let layout = attrs.kv_layout;
    let targets = [Target::new(node, 0, 3, 5, layout), Target::new(node, 1, 4, 6, layout)];
    let slots = Operand::required(node, 2);
    let pages = qiao_core::Pages::of(node.required(3), layout).expect("the graph checked the cache");
    let tokens = slots.len;
    let capacity = pages.blocks.saturating_mul(pages.block_size);
    let longest = targets[0].rows.len.max(targets[1].rows.len);
    let run = move |exec: &Exec<'_>| {
        // SAFETY: the entry is one of the slots.
        let slot = |t: usize| unsafe { slots.index(exec.address(slots.tensor), t * slots.step()) };
        // SAFETY: the plan laid out eight bytes a token of shared scratch for this step, aligned to 64.
        let seen = unsafe { std::slice::from_raw_parts_mut(exec.shared().0.cast::<i64>(), tokens) };
        check_slots(seen, slot, capacity)?;
        let size = pages.block_size.max(1);
        exec.rows(tokens, pages.heads * longest, &|first, last, thread| {
            for t in first..last {
                let Ok(slot) = usize::try_from(slot(t)) else { continue };
                for (head, target) in (0..pages.heads).flat_map(|h| targets.iter().map(move |target| (h, target))) {
                    // SAFETY: slots were checked to be distinct and inside the cache; the pool gave this thread.
                    unsafe { target.write(exec, t, head, (slot / size, slot % size), thread) };
                }
            }
        });
        Ok(())
    };
    Prepared { run: Box::new(run), shared: tokens * 8, per_thread: longest * 4 }
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
