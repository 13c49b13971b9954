//! What a device says of itself.

use std::thread;

use qiao_core::{DType, DeviceInfo};

use super::scene::Scene;
use super::{Clause, Held, ensure};
use crate::family::Depth;
use crate::subject::Subject;

pub(crate) const CLAUSES: &[Clause] = &[
    Clause { id: "device/info/it_has_a_name_and_a_memory", depth: Depth::Smoke, run: named },
    Clause { id: "device/info/alignments_and_sizes_are_sane", depth: Depth::Smoke, run: sane },
    Clause { id: "device/info/dtypes_and_cache_layouts_stand_once", depth: Depth::Smoke, run: once },
    Clause { id: "device/info/declared_peaks_have_a_source", depth: Depth::Smoke, run: peaks },
    Clause { id: "device/info/it_is_the_same_at_every_call", depth: Depth::Smoke, run: stable },
    Clause { id: "device/info/it_is_the_same_when_opened_again", depth: Depth::Standard, run: reopened },
];

/// No device needs more spare bytes behind a tensor, and none more alignment.
const MOST_PADDING: usize = 1 << 20;

/// No cache has more tokens in a block.
const MOST_TOKENS: usize = 1 << 16;

fn named(subject: &Subject) -> Held {
    let info = subject.device.info();
    ensure(!info.name.trim().is_empty(), || "it has no name".into())?;
    for (what, text) in
        [("name", &info.name), ("vendor", &info.vendor), ("architecture", &info.arch), ("driver", &info.driver)]
    {
        ensure(!text.chars().any(char::is_control), || format!("its {what} {text:?} is not one line of text"))?;
    }
    ensure(!info.memories.is_empty(), || "it has no memory".into())
}

fn sane(subject: &Subject) -> Held {
    let info = subject.device.info();
    let (align, pad) = (info.tensor_align, info.tensor_tail_pad);
    ensure(align.is_power_of_two() && align <= MOST_PADDING, || format!("tensor_align = {align} is no power of two"))?;
    ensure(pad <= MOST_PADDING, || format!("tensor_tail_pad = {pad} is above {MOST_PADDING}"))?;
    for (i, m) in info.memories.iter().enumerate() {
        ensure(m.base_align > 0 && m.base_align.is_multiple_of(align), || {
            format!("memory {i}: base_align = {} is no multiple of tensor_align = {align}", m.base_align)
        })?;
        ensure(m.total_bytes == 0 || m.free_bytes <= m.total_bytes, || {
            format!("memory {i}: {} bytes are free of {}", m.free_bytes, m.total_bytes)
        })?;
        ensure(m.total_bytes == 0 || m.max_alloc <= m.total_bytes, || {
            format!("memory {i}: max_alloc = {} is above its {} bytes", m.max_alloc, m.total_bytes)
        })?;
    }
    Ok(())
}

fn once(subject: &Subject) -> Held {
    let info = subject.device.info();
    for (i, d) in info.dtypes.iter().enumerate() {
        let again = info.dtypes[..i].iter().any(|e| e.dtype == d.dtype);
        ensure(!again, || format!("dtype {} stands twice", d.dtype))?;
    }
    for (i, kv) in info.kv.iter().enumerate() {
        ensure(!info.kv[..i].contains(kv), || format!("cache layout {kv:?} stands twice"))?;
        ensure(kv.block_size <= MOST_TOKENS, || format!("cache layout {kv:?} has blocks above {MOST_TOKENS} tokens"))?;
    }
    let has_i64 = info.dtypes.iter().any(|d| d.dtype == DType::I64);
    ensure(!info.caps.index_i64 || has_i64, || "indices may be i64, yet i64 is none of its dtypes".into())
}

fn peaks(subject: &Subject) -> Held {
    let info = subject.device.info();
    let bandwidth = info.memories.iter().enumerate().map(|(i, m)| (format!("memory {i}"), m.peak_bytes_per_s));
    let compute = info.dtypes.iter().map(|d| (d.dtype.to_string(), d.peak_ops_per_s));
    for (what, peak) in bandwidth.chain(compute) {
        ensure(peak.is_finite() && peak >= 0.0, || format!("the peak of {what} is {peak}"))?;
        let sourced = peak == 0.0 || !info.peak_source.trim().is_empty();
        ensure(sourced, || {
            format!("the peak of {what} is declared, but peak_source does not say where it comes from")
        })?;
    }
    Ok(())
}

/// All but what is free now.
fn lasting(info: &DeviceInfo) -> DeviceInfo {
    let mut info = info.clone();
    info.memories.iter_mut().for_each(|m| m.free_bytes = 0);
    info
}

fn stable(subject: &Subject) -> Held {
    let device = &subject.device;
    let first = lasting(device.info());
    Scene::new(subject)?.usable("asking what it is")?;
    let elsewhere = thread::scope(|s| s.spawn(|| lasting(device.info())).join());
    for again in [Ok(lasting(device.info())), elsewhere] {
        let again = again.unwrap_or_default();
        ensure(again == first, || format!("it was {first:?} at first, and {again:?} later"))?;
    }
    Ok(())
}

fn reopened(subject: &Subject) -> Held {
    let mut scene = Scene::reopened(subject)?;
    let (first, again) = (lasting(subject.device.info()), lasting(scene.device.info()));
    ensure(again == first, || format!("it was {first:?} at first, and is {again:?} when opened again"))?;
    scene.usable("opening it again")?;
    drop(scene);
    Scene::new(subject)?.usable("closing the device that was opened last")
}
