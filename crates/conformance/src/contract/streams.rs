//! Streams: in order within one, many at once, none in the way of another.

use qiao_core::{Binding, Stream};

use super::scene::{Busy, Scene, pattern, read, same};
use super::{Clause, Held};
use crate::family::Depth;
use crate::subject::Subject;

pub(crate) const CLAUSES: &[Clause] = &[
    Clause { id: "device/streams/commands_run_in_order", depth: Depth::Smoke, run: in_order },
    Clause { id: "device/streams/a_long_chain_of_copies_runs_in_order", depth: Depth::Standard, run: chain },
    Clause { id: "device/streams/a_download_comes_after_all_earlier_work", depth: Depth::Smoke, run: downloads },
    Clause { id: "device/streams/uploaded_bytes_may_be_reused_at_once", depth: Depth::Smoke, run: reused },
    Clause { id: "device/streams/many_exist_at_once", depth: Depth::Standard, run: many },
    Clause { id: "device/streams/two_do_not_disturb_each_other", depth: Depth::Standard, run: two },
    Clause { id: "device/streams/a_sync_ends_with_its_work_done", depth: Depth::Smoke, run: synced },
    Clause { id: "device/streams/a_sync_is_for_its_own_stream", depth: Depth::Standard, run: own_sync },
];

/// Commands of the chains, each of which depends on the one before.
const STEPS: usize = 2000;

/// One byte is set, then copied to the next place, thousands of times over: any two commands out of order leave a trace.
fn in_order(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let (cell, trail) = (scene.alloc(1)?, scene.alloc(STEPS)?);
    scene.stream.fill(&trail, 0xee)?;
    for i in 0..STEPS {
        scene.stream.fill(&cell, i as u8)?;
        scene.stream.copy(&Binding::part(&trail.buffer, i, 1), &cell)?;
    }
    let want: Vec<u8> = (0..STEPS).map(|i| i as u8).collect();
    scene.expect(&trail, &want, "the values that one byte had")
}

fn chain(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let data = pattern(1, 3000);
    let first = scene.holding(&data)?;
    let ring = (0..7).map(|_| scene.alloc(3000)).collect::<Result<Vec<_>, _>>()?;
    for buffer in &ring {
        scene.stream.fill(buffer, 0xee)?;
    }
    scene.stream.copy(&ring[0], &first)?;
    scene.stream.fill(&first, 0)?;
    // Each copy reads what the last one wrote, and what was read is overwritten behind it.
    for i in 0..STEPS {
        scene.stream.copy(&ring[(i + 1) % ring.len()], &ring[i % ring.len()])?;
        scene.stream.fill(&ring[i % ring.len()], i as u8)?;
    }
    scene.expect(&ring[STEPS % ring.len()], &data, &format!("what was handed on {STEPS} times"))
}

fn downloads(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let busy = Busy::new(&*scene.device)?;
    let (a, b) = (scene.alloc(5000)?, scene.alloc(5000)?);
    for round in 0..8u64 {
        let data = pattern(round, 5000);
        scene.stream.upload(&a, &data)?;
        busy.queue(&mut *scene.stream)?;
        scene.stream.copy(&b, &a)?;
        scene.expect(&b, &data, &format!("round {round}: a download behind work that was pending"))?;
    }
    Ok(())
}

fn reused(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let busy = Busy::new(&*scene.device)?;
    let targets = (0..16).map(|_| scene.alloc(4096)).collect::<Result<Vec<_>, _>>()?;
    busy.queue(&mut *scene.stream)?;
    let mut host = vec![0; 4096];
    for (i, target) in targets.iter().enumerate() {
        host.copy_from_slice(&pattern(i as u64, 4096));
        scene.stream.upload(target, &host)?;
        host.fill(0xee);
    }
    for (i, target) in targets.iter().enumerate() {
        scene.expect(target, &pattern(i as u64, 4096), "what was uploaded before the host's bytes were reused")?;
    }
    Ok(())
}

fn many(subject: &Subject) -> Held {
    const STREAMS: usize = 32;
    let scene = Scene::new(subject)?;
    let mut streams = (0..STREAMS).map(|_| scene.device.stream()).collect::<qiao_core::Result<Vec<_>>>()?;
    let pairs = (0..STREAMS).map(|_| Ok((scene.alloc(2048)?, scene.alloc(2048)?)));
    let pairs = pairs.collect::<Result<Vec<_>, super::Broken>>()?;
    for round in 0..10 {
        for (i, (stream, (a, b))) in streams.iter_mut().zip(&pairs).enumerate() {
            stream.upload(a, &pattern((round * STREAMS + i) as u64, 2048))?;
            stream.copy(b, a)?;
            stream.fill(a, 0xee)?;
        }
    }
    for (i, (stream, (_, b))) in streams.iter_mut().zip(&pairs).enumerate().rev() {
        let want = pattern((9 * STREAMS + i) as u64, 2048);
        same(&read(&mut **stream, b)?, &want, &format!("what stream {i} of {STREAMS} copied"))?;
        stream.sync(scene.timeout)?;
    }
    Ok(())
}

/// Adds one step to a stream's chain.
fn step(stream: &mut dyn Stream, cell: &Binding, trail: &Binding, i: usize, salt: u8) -> Held {
    stream.fill(cell, (i as u8) ^ salt)?;
    Ok(stream.copy(&Binding::part(&trail.buffer, i, 1), cell)?)
}

fn two(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let mut other = scene.device.stream()?;
    let (cells, trails) = ([scene.alloc(1)?, scene.alloc(1)?], [scene.alloc(STEPS)?, scene.alloc(STEPS)?]);
    for i in 0..STEPS {
        step(&mut *scene.stream, &cells[0], &trails[0], i, 0x00)?;
        step(&mut *other, &cells[1], &trails[1], i, 0x55)?;
    }
    let want = |salt: u8| (0..STEPS).map(|i| (i as u8) ^ salt).collect::<Vec<u8>>();
    scene.expect(&trails[0], &want(0x00), "the chain of one stream")?;
    same(&read(&mut *other, &trails[1])?, &want(0x55), "the chain of the other stream")
}

/// What was asked for before a sync is done when it ends: its events are reached, and whoever looks sees it.
fn synced(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let mut other = scene.device.stream()?;
    let busy = Busy::new(&*scene.device)?;
    let target = scene.alloc(3000)?;
    for round in 0..12 {
        let data = pattern(round, 3000);
        let source = scene.holding(&data)?;
        let event = scene.device.event()?;
        busy.queue(&mut *scene.stream)?;
        scene.stream.copy(&target, &source)?;
        scene.stream.record(&*event)?;
        scene.done()?;
        super::ensure(event.is_reached()?, || "a sync has ended, and an event before it is not reached".into())?;
        same(&read(&mut *other, &target)?, &data, &format!("round {round}: what another stream sees after a sync"))?;
    }
    Ok(())
}

/// A stream that fails or waits is no concern of another's sync.
fn own_sync(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let mut other = scene.device.stream()?;
    let busy = Busy::new(&*scene.device)?;
    let data = pattern(3, 1000);
    for _ in 0..20 {
        busy.queue(&mut *other)?;
        let buffer = scene.holding(&data)?;
        scene.done()?;
        scene.expect(&buffer, &data, "one stream while another is busy")?;
    }
    Ok(other.sync(scene.timeout)?)
}
