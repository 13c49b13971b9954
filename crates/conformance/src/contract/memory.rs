//! Allocation: sizes, places, limits, and what happens when there is no more.

use std::sync::Arc;

use qiao_core::{Binding, Buffer, Error, MemoryInfo};

use super::scene::{Found, Scene, pattern, read, room, same};
use super::{Broken, Clause, Held, ensure};
use crate::family::Depth;
use crate::subject::Subject;

pub(crate) const CLAUSES: &[Clause] = &[
    Clause { id: "device/memory/what_is_uploaded_is_downloaded", depth: Depth::Smoke, run: round_trip },
    Clause { id: "device/memory/a_buffer_is_as_large_as_asked", depth: Depth::Smoke, run: sizes },
    Clause { id: "device/memory/allocations_never_overlap", depth: Depth::Smoke, run: apart },
    Clause { id: "device/memory/a_memory_that_is_not_there_is_refused", depth: Depth::Smoke, run: nowhere },
    Clause { id: "device/memory/an_absurd_allocation_is_refused", depth: Depth::Smoke, run: absurd },
    Clause { id: "device/memory/more_than_the_largest_allocation_is_refused", depth: Depth::Standard, run: above_most },
    Clause { id: "device/memory/a_large_buffer_holds_all_its_bytes", depth: Depth::Standard, run: large },
    Clause { id: "device/memory/offsets_may_be_large", depth: Depth::Standard, run: super::far::far },
    Clause { id: "device/memory/a_full_memory_recovers", depth: Depth::Standard, run: full },
];

/// Sizes that round to nothing even.
const SIZES: &[usize] = &[0, 1, 2, 3, 7, 63, 64, 65, 255, 4095, 4096, 4097, 65_537, 1 << 20];

/// No clause that writes all it holds takes more than this at once, and no more than a quarter of what is free.
const MOST: u64 = 1 << 30;

fn round_trip(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    for memory in 0..scene.device.info().memories.len() {
        for (i, &bytes) in SIZES.iter().enumerate() {
            let data = pattern(i as u64 + 1, bytes);
            let buffer = Binding::part(&scene.device.alloc(memory, bytes)?, 0, bytes);
            scene.stream.upload(&buffer, &data)?;
            scene.expect(&buffer, &data, &format!("{bytes} bytes in memory {memory}"))?;
        }
    }
    Ok(())
}

fn sizes(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    for &bytes in SIZES {
        let buffer = scene.device.alloc(0, bytes)?;
        let found = buffer.bytes();
        ensure(found >= bytes, || format!("asked for {bytes} bytes, given {found}"))?;
        // What it claims beyond that is there.
        let data = pattern(bytes as u64 + 9, found);
        let whole = Binding::whole(buffer.clone());
        scene.stream.upload(&whole, &data)?;
        scene.expect(&whole, &data, &format!("all {found} bytes of a buffer of {bytes}"))?;
        ensure(buffer.bytes() == found, || format!("a buffer of {found} bytes has {} later", buffer.bytes()))?;
    }
    Ok(())
}

fn apart(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    for memory in 0..scene.device.info().memories.len() {
        let mut held = Vec::new();
        // Twice, so that what the first round gives back is handed out again beside what it keeps.
        for round in 0..2u64 {
            // Neighbours of one size, and of every other.
            let sizes = SIZES.iter().flat_map(|s| [s, s]).chain(SIZES.iter().rev());
            for (i, &bytes) in sizes.enumerate() {
                let data = pattern(1000 * (round + 1) + i as u64, bytes);
                let buffer = Binding::part(&scene.device.alloc(memory, bytes)?, 0, bytes);
                scene.stream.upload(&buffer, &data)?;
                held.push((buffer, data));
            }
            for (i, (buffer, data)) in held.iter().enumerate() {
                let what = format!("allocation {i} of {} bytes after others were written", data.len());
                same(&read(&mut *scene.stream, buffer)?, data, &what)?;
            }
            let mut i = 0;
            held.retain(|_| {
                i += 1;
                i % 2 == 0
            });
        }
    }
    Ok(())
}

fn nowhere(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let memories = scene.device.info().memories.len();
    for memory in [memories, memories + 1, usize::MAX] {
        match scene.device.alloc(memory, 64) {
            Err(Error::Invalid { .. }) => {}
            Err(e) => return Err(Broken::contract(format!("memory {memory} of {memories} is invalid, not: {e}"))),
            Ok(_) => return Err(Broken::refusal(format!("memory {memory} of {memories} was accepted"))),
        }
    }
    scene.usable("asking for a memory that is not there")
}

/// The allocation must be refused for want of room.
fn too_much(scene: &Scene, memory: usize, bytes: usize) -> Held {
    match scene.device.alloc(memory, bytes) {
        Err(Error::OutOfMemory { .. } | Error::Invalid { .. }) => Ok(()),
        Err(e) => Err(Broken::contract(format!("{bytes} bytes are out of memory, not: {e}"))),
        Ok(_) => Err(Broken::refusal(format!("an allocation of {bytes} bytes was granted"))),
    }
}

fn absurd(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    for memory in 0..scene.device.info().memories.len() {
        // More than any address space holds, and sizes whose rounding up wraps.
        for bytes in [1 << 60, isize::MAX as usize, isize::MAX as usize + 1, usize::MAX - 63, usize::MAX] {
            too_much(&scene, memory, bytes)?;
        }
    }
    scene.usable("absurd allocations")
}

fn above_most(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let mut declared = false;
    for (i, memory) in scene.device.info().memories.clone().iter().enumerate() {
        let bound = if memory.max_alloc > 0 { memory.max_alloc } else { memory.total_bytes };
        // A memory of pages that the host only promises is larger than it is.
        if bound == 0 || memory.max_alloc == 0 && memory.kind.host_visible {
            continue;
        }
        declared = true;
        too_much(&scene, i, usize::try_from(bound).unwrap_or(usize::MAX).saturating_add(1))?;
    }
    if !declared {
        return Err(Broken::unsupported("it declares neither a largest allocation nor how much memory it has"));
    }
    scene.usable("an allocation above the largest")
}

fn large(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    for (i, memory) in scene.device.info().memories.clone().iter().enumerate() {
        let bytes = room(memory) / 2 + 1;
        let buffer = scene.device.alloc(i, bytes)?;
        let whole = Binding::part(&buffer, 0, bytes);
        scene.stream.fill(&whole, 0x11)?;
        let mut want = vec![0x11; bytes];
        for (seed, at) in [0, bytes / 2, bytes - bytes.min(4097)].into_iter().enumerate() {
            let data = pattern(seed as u64, (bytes - at).min(4097));
            scene.stream.upload(&Binding::part(&buffer, at, data.len()), &data)?;
            want[at..at + data.len()].copy_from_slice(&data);
        }
        scene.expect(&whole, &want, &format!("a buffer of {bytes} bytes in memory {i}"))?;
    }
    Ok(())
}

/// How much of a memory may be taken, and whether that is all of it.
fn bound(memory: &MemoryInfo) -> Option<(u64, bool)> {
    match (memory.total_bytes, memory.free_bytes) {
        (0, _) => None,
        (total, _) if total <= MOST => Some((total, true)),
        (_, 0) => None,
        (_, free) => Some((MOST.min(free / 4), false)),
    }
}

/// Takes buffers until a memory gives no more or `most` bytes are taken, and whether it gave no more.
fn take(scene: &Scene, memory: usize, chunk: usize, most: u64) -> Found<(Vec<Arc<dyn Buffer>>, bool)> {
    let mut held = Vec::new();
    while held.len() as u64 * chunk as u64 <= most {
        match scene.device.alloc(memory, chunk) {
            Ok(buffer) => held.push(buffer),
            Err(Error::OutOfMemory { .. }) => return Ok((held, true)),
            Err(e) => return Err(Broken::contract(format!("a full memory is out of memory, not: {e}"))),
        }
    }
    Ok((held, false))
}

fn full(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let mut declared = false;
    for (i, memory) in scene.device.info().memories.clone().iter().enumerate() {
        let Some((most, whole)) = bound(memory) else { continue };
        declared = true;
        let chunk = room(memory).min((most / 16).max(1) as usize);
        let (mut held, refused) = take(&scene, i, chunk, most)?;
        ensure(refused || !whole, || format!("memory {i} of {most} bytes gave more than it has"))?;
        // What is held is still there, and is itself.
        if let (Some(first), Some(last)) = (held.first().cloned(), held.last().cloned()) {
            let (a, b) = (pattern(1, 999.min(chunk)), pattern(2, 999.min(chunk)));
            scene.stream.upload(&Binding::part(&first, 0, a.len()), &a)?;
            scene.stream.upload(&Binding::part(&last, 0, b.len()), &b)?;
            if held.len() > 1 {
                scene.expect(&Binding::part(&first, 0, a.len()), &a, "the first buffer of a full memory")?;
            }
            scene.expect(&Binding::part(&last, 0, b.len()), &b, "the last buffer of a full memory")?;
        }
        let had = held.len();
        held.clear();
        scene.done()?;
        let (again, _) = take(&scene, i, chunk, most)?;
        ensure(again.len() + 1 >= had, || {
            format!(
                "memory {i} gave {had} buffers of {chunk} bytes at first, and {} after they were freed",
                again.len()
            )
        })?;
    }
    if !declared {
        return Err(Broken::unsupported("it does not say how much memory it has, so that it can't be filled safely"));
    }
    scene.usable("filling its memory")
}
