//! Offsets behind 2^31 and 2^32 bytes of one buffer, of which little is touched.
//!
//! A host takes few large buffers and parts them, so that large offsets are the common case of a large model. What lies where
//! fewer bits of an offset lead could be taken for what is meant, and must stay.

use std::sync::Arc;

use qiao_core::{Binding, Buffer, Error, MemoryInfo};

use super::members::{Member, Places};
use super::probe::Probe;
use super::scene::{Found, Scene, pattern, same};
use super::{Broken, Held};
use crate::subject::Subject;

/// Bytes behind the last power of two.
const SLACK: u64 = 4 << 20;

/// Where tensors begin behind a power of two, and so where fewer bits of their offset lead. Marks lie before.
const BEHIND: usize = 1 << 17;

/// Bytes of a mark.
const MARK: usize = 1024;

/// A buffer with room behind some powers of two.
struct Wide {
    buffer: Arc<dyn Buffer>,
    powers: Vec<usize>,
}

/// How many bytes of a memory may be asked for: where it is the host's, others live there.
fn spare(memory: &MemoryInfo) -> u64 {
    let has = if memory.free_bytes > 0 { memory.free_bytes } else { memory.total_bytes };
    if memory.kind.host_visible { has / 2 } else { has - has / 16 }
}

impl Wide {
    /// The largest such buffer that the device has memory for.
    fn new(scene: &Scene) -> Found<Wide> {
        let memory = &scene.device.info().memories[0];
        let spare = if memory.max_alloc > 0 { spare(memory).min(memory.max_alloc) } else { spare(memory) };
        for last in [32, 31] {
            let size = (1u64 << last) + SLACK;
            let Ok(bytes) = usize::try_from(size) else { continue };
            if spare < size {
                continue;
            }
            match scene.device.alloc(0, bytes) {
                Ok(buffer) => return Ok(Wide { buffer, powers: (31..=last).map(|power| 1 << power).collect() }),
                // What was free when the device was opened is taken since.
                Err(Error::OutOfMemory { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let least = (1u64 << 31) + SLACK;
        Err(Broken::unsupported(format!("memory 0 has no {least} bytes to spare in one buffer")))
    }

    fn at(&self, offset: usize, bytes: usize) -> Binding {
        Binding::part(&self.buffer, offset, bytes)
    }
}

/// Uploads, copies, fills, and then plans.
pub(crate) fn far(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let wide = Wide::new(&scene)?;
    marks(&mut scene, &wide)?;
    for member in Member::all(&subject.device)? {
        operands(&mut scene, &wide, &member)?;
    }
    chain(&mut scene, &wide)
}

/// Marks on both sides of each power of two: each stays where it is put, and none comes to lie where fewer bits of its offset
/// lead.
fn marks(scene: &mut Scene, wide: &Wide) -> Held {
    let at = |offset: usize| wide.at(offset, MARK);
    let mut starts = vec![0, 4096];
    for power in &wide.powers {
        starts.extend([power - 4096, *power, power + 4096]);
    }
    let last = wide.powers[wide.powers.len() - 1];
    starts.push(last + SLACK as usize - 4096);
    let marks: Vec<Vec<u8>> = (0..starts.len()).map(|i| pattern(700 + i as u64, MARK)).collect();
    for (&start, mark) in starts.iter().zip(&marks) {
        scene.stream.upload(&at(start), mark)?;
    }
    let all = |scene: &mut Scene, after: &str| -> Held {
        for (&start, mark) in starts.iter().zip(&marks) {
            scene.expect(&at(start), mark, &format!("what lies {start} bytes from the start, after {after}"))?;
        }
        Ok(())
    };
    all(scene, "uploads")?;
    let near_and_far = wide.powers.iter().flat_map(|power| [(0, power - 8192), (1, power + 8192)]);
    for (from, to) in near_and_far.chain([(3, 8192), (starts.len() - 2, 12288)]) {
        scene.stream.copy(&at(to), &at(starts[from]))?;
        scene.expect(&at(to), &marks[from], &format!("a copy to {to} bytes from the start"))?;
    }
    for to in wide.powers.iter().flat_map(|power| [power - 12288, power + 16384]) {
        scene.stream.fill(&at(to), 0x3c)?;
        scene.expect(&at(to), &[0x3c; MARK], &format!("a fill at {to} bytes from the start"))?;
    }
    all(scene, "copies and fills")
}

/// Each operand, result and workspace of a node in turn behind each power of two, and a decoy where fewer bits lead.
fn operands(scene: &mut Scene, wide: &Wide, member: &Member) -> Held {
    let (facts, decoys, room) = (member.facts(1)?, member.decoys(1)?, member.room()?);
    let (align, pad) = (scene.device.info().tensor_align, scene.device.info().tensor_tail_pad);
    let behind = BEHIND.next_multiple_of(align.max(member.plan.info().workspace_align).max(1));
    for (place, bytes) in member.sizes()?.into_iter().enumerate() {
        if bytes == 0 || (behind + bytes + pad) as u64 > SLACK / 2 {
            continue;
        }
        let near = wide.at(behind, bytes);
        for power in &wide.powers {
            let mut room: Places = room.clone();
            room.0[place] = wide.at(power + behind, bytes);
            scene.stream.upload(&near, &decoys[place])?;
            member.load(&mut *scene.stream, &room, &facts)?;
            member.execute(&mut *scene.stream, &room)?;
            let what = format!("{} lies {} bytes from the start of its buffer", member.name(place), power + behind);
            let got = member.read(&mut *scene.stream, &room)?;
            member.right(&facts, &got, &what)?;
            scene.expect(&near, &decoys[place], &format!("what lies at {behind} bytes, where {what}"))?;
        }
    }
    Ok(())
}

/// The workspace of several nodes, where the device plans them at once.
fn chain(scene: &mut Scene, wide: &Wide) -> Held {
    let probe = match Probe::find(&*scene.device) {
        Err(Broken::Unsupported(_)) => return Ok(()),
        found => found?,
    };
    let Some(graph) = probe.chained(&*scene.device)? else { return Ok(()) };
    let plan = scene.device.plan(&graph)?;
    let bytes = plan.info().workspace_bytes;
    let behind = BEHIND.next_multiple_of(plan.info().workspace_align.max(1));
    if bytes == 0 || (behind + bytes) as u64 > SLACK / 2 {
        return Ok(());
    }
    let (room, data) = (probe.room(&*scene.device)?, probe.data(1)?);
    let run = |scene: &mut Scene, workspace: &Binding| -> Found<Vec<u8>> {
        probe.load(&mut *scene.stream, &room, &data)?;
        plan.execute(&mut *scene.stream, &room.bindings, workspace)?;
        scene.read(room.output())
    };
    let own = scene.alloc(bytes)?;
    let first = run(scene, &own)?;
    let (near, decoy) = (wide.at(behind, bytes), pattern(77, bytes));
    scene.stream.upload(&near, &decoy)?;
    for power in &wide.powers {
        let got = run(scene, &wide.at(power + behind, bytes))?;
        let what = format!("the workspace of several nodes lies {} bytes from the start of its buffer", power + behind);
        if scene.device.info().caps.deterministic {
            same(&got, &first, &what)?;
        }
        scene.expect(&near, &decoy, &format!("what lies at {behind} bytes, where {what}"))?;
    }
    Ok(())
}
