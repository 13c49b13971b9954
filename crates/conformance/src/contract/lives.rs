//! Everything may be dropped in any order, with work pending.

use std::sync::Arc;
use std::time::{Duration, Instant};

use qiao_core::{Binding, Device, Event, Stream};

use super::scene::{Busy, Found, Scene, pattern, read, same};
use super::{Clause, Held};
use crate::family::Depth;
use crate::subject::Subject;

pub(crate) const CLAUSES: &[Clause] = &[
    Clause { id: "device/lives/a_source_dropped_while_it_is_read_is_read", depth: Depth::Smoke, run: source },
    Clause { id: "device/lives/a_target_dropped_while_it_is_written_harms_none", depth: Depth::Smoke, run: target },
    Clause { id: "device/lives/a_dropped_stream_finishes_its_work", depth: Depth::Smoke, run: stream },
    Clause { id: "device/lives/an_event_outlives_its_stream", depth: Depth::Smoke, run: event_outlives },
    Clause { id: "device/lives/an_event_may_go_while_it_is_waited_for", depth: Depth::Smoke, run: event_goes },
    Clause { id: "device/lives/the_device_handle_may_go_first", depth: Depth::Standard, run: handle },
    Clause { id: "device/lives/two_handles_live_side_by_side", depth: Depth::Standard, run: handles },
    Clause { id: "device/lives/everything_may_go_in_any_order", depth: Depth::Standard, run: any_order },
];

const BYTES: usize = 6000;

/// Takes and fills new buffers on another stream, where something might be released too early.
fn crowd(scene: &Scene, stream: &mut dyn Stream, bytes: usize) -> Found<Vec<(Binding, Vec<u8>)>> {
    let mut held = Vec::new();
    for i in 0..6 {
        let data = pattern(900 + i, bytes);
        let binding = scene.alloc(bytes)?;
        stream.upload(&binding, &data)?;
        held.push((binding, data));
    }
    stream.sync(scene.timeout)?;
    Ok(held)
}

fn source(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let mut other = scene.device.stream()?;
    let busy = Busy::new(&*scene.device)?;
    for round in 0..10 {
        let data = pattern(round, BYTES);
        let target = scene.alloc(BYTES)?;
        let source = scene.holding(&data)?;
        scene.done()?;
        busy.queue(&mut *scene.stream)?;
        scene.stream.copy(&target, &source)?;
        drop(source);
        let crowd = crowd(&scene, &mut *other, BYTES)?;
        scene.expect(&target, &data, "a copy of a buffer that was dropped while the copy was pending")?;
        drop(crowd);
    }
    Ok(())
}

fn target(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let mut other = scene.device.stream()?;
    let busy = Busy::new(&*scene.device)?;
    for _ in 0..10 {
        let target = scene.alloc(BYTES)?;
        busy.queue(&mut *scene.stream)?;
        scene.stream.fill(&target, 0xee)?;
        drop(target);
        let crowd = crowd(&scene, &mut *other, BYTES)?;
        scene.done()?;
        for (binding, data) in &crowd {
            same(&read(&mut *other, binding)?, data, "a new buffer, taken while a dropped one was to be written")?;
        }
    }
    Ok(())
}

/// A stream with pending work that fills a buffer, dropped; and the event behind the work.
fn abandoned(scene: &mut Scene, busy: &Busy, seed: u64) -> Found<(Binding, Vec<u8>, Arc<dyn Event>)> {
    let data = pattern(seed, BYTES);
    let (source, target) = (scene.holding(&data)?, scene.alloc(BYTES)?);
    scene.done()?;
    let (mut stream, event) = (scene.device.stream()?, scene.device.event()?);
    busy.queue(&mut *stream)?;
    stream.copy(&target, &source)?;
    stream.record(&*event)?;
    drop(stream);
    Ok((target, data, event))
}

fn stream(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let busy = Busy::new(&*scene.device)?;
    for round in 0..10 {
        let (target, data, event) = abandoned(&mut scene, &busy, round)?;
        scene.stream.wait(&*event)?;
        scene.expect(&target, &data, "what a stream was to copy when it was dropped")?;
    }
    Ok(())
}

fn event_outlives(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let busy = Busy::new(&*scene.device)?;
    for round in 0..10 {
        let (target, data, event) = abandoned(&mut scene, &busy, round)?;
        event.sync(scene.timeout)?;
        super::ensure(event.is_reached()?, || "an event that was waited for is not reached".into())?;
        scene.expect(&target, &data, "what a stream copied before an event that outlives it")?;
        // It may be used again.
        scene.stream.record(&*event)?;
        event.sync(scene.timeout)?;
    }
    Ok(())
}

fn event_goes(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let mut producer = scene.device.stream()?;
    let busy = Busy::new(&*scene.device)?;
    for round in 0..10 {
        let data = pattern(round, BYTES);
        let (source, target, last) = (scene.holding(&data)?, scene.alloc(BYTES)?, scene.alloc(BYTES)?);
        scene.done()?;
        busy.queue(&mut *producer)?;
        producer.copy(&target, &source)?;
        let event = scene.device.event()?;
        producer.record(&*event)?;
        scene.stream.wait(&*event)?;
        drop(event);
        scene.stream.copy(&last, &target)?;
        scene.expect(&last, &data, "what was copied behind an event that was dropped at once")?;
    }
    Ok(producer.sync(scene.timeout)?)
}

fn handle(subject: &Subject) -> Held {
    let Scene { device, mut stream, timeout } = Scene::reopened(subject)?;
    let data = pattern(1, BYTES);
    let (a, b) = (Binding::part(&device.alloc(0, BYTES)?, 0, BYTES), Binding::part(&device.alloc(0, BYTES)?, 0, BYTES));
    let (busy, event) = (Busy::new(&*device)?, device.event()?);
    stream.upload(&a, &data)?;
    busy.queue(&mut *stream)?;
    drop(device);
    stream.copy(&b, &a)?;
    stream.record(&*event)?;
    event.sync(timeout)?;
    same(&read(&mut *stream, &b)?, &data, "a copy after the device handle was dropped")?;
    stream.sync(timeout)?;
    drop((stream, a, b, busy, event));
    Scene::new(subject)?.usable("another handle of the device was dropped")
}

fn handles(subject: &Subject) -> Held {
    let mut scenes = vec![Scene::new(subject)?, Scene::reopened(subject)?, Scene::reopened(subject)?];
    let data: Vec<Vec<u8>> = (0..3).map(|i| pattern(i, BYTES)).collect();
    let mut buffers = Vec::new();
    for (scene, data) in scenes.iter_mut().zip(&data) {
        buffers.push(scene.holding(data)?);
    }
    for (i, (scene, buffer)) in scenes.iter_mut().zip(&buffers).enumerate() {
        scene.expect(buffer, &data[i], &format!("a buffer of handle {i} of 3"))?;
    }
    drop(buffers.pop());
    drop(scenes.pop());
    for (i, (scene, buffer)) in scenes.iter_mut().zip(&buffers).enumerate() {
        scene.expect(buffer, &data[i], &format!("a buffer of handle {i} after another was closed"))?;
        scene.usable("another handle was closed")?;
    }
    Ok(())
}

/// What is dropped, in some order.
enum Part {
    Device(Arc<dyn Device>),
    Stream(Box<dyn Stream>),
    Buffers(Vec<Binding>),
    Event(Arc<dyn Event>),
}

/// Every order of four things.
fn orders() -> Vec<[usize; 4]> {
    let mut all = Vec::new();
    for code in 0..256usize {
        let order = [code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6];
        if (0..4).all(|i| order.contains(&i)) {
            all.push(order);
        }
    }
    all
}

fn any_order(subject: &Subject) -> Held {
    let limit = subject.timeout.min(Duration::from_secs(10));
    let start = Instant::now();
    for order in orders() {
        let Scene { device, mut stream, .. } = Scene::reopened(subject)?;
        let busy = Busy::new(&*device)?;
        let buffers = (0..3).map(|_| Ok(Binding::part(&device.alloc(0, BYTES)?, 0, BYTES)));
        let buffers = buffers.collect::<qiao_core::Result<Vec<_>>>()?;
        let event = device.event()?;
        stream.upload(&buffers[0], &pattern(2, BYTES))?;
        busy.queue(&mut *stream)?;
        stream.copy(&buffers[1], &buffers[0])?;
        stream.record(&*event)?;
        stream.wait(&*event)?;
        stream.copy(&buffers[2], &buffers[1])?;
        let mut parts =
            [Part::Device(device), Part::Stream(stream), Part::Buffers(buffers), Part::Event(event)].map(Some);
        for i in order {
            match parts[i].take() {
                Some(Part::Device(device)) => drop(device),
                Some(Part::Stream(stream)) => drop(stream),
                Some(Part::Buffers(buffers)) => drop(buffers),
                Some(Part::Event(event)) => drop(event),
                None => {}
            }
        }
        // A device that takes long to open is asked for fewer orders.
        if start.elapsed() > limit / 2 {
            break;
        }
    }
    Scene::new(subject)?.usable("handles, streams, buffers and events were dropped in every order")
}
