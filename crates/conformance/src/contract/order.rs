//! Order across streams, which events alone make.

use std::sync::Arc;

use qiao_core::{Binding, Event, Result};

use super::scene::{Scene, pattern, read, same};
use super::{Clause, Held};
use crate::family::Depth;
use crate::subject::Subject;

pub(crate) const CLAUSES: &[Clause] = &[
    Clause { id: "device/order/a_consumer_follows_its_producer", depth: Depth::Smoke, run: hand_over },
    Clause { id: "device/order/ping_pong_over_two_events", depth: Depth::Standard, run: ping_pong },
    Clause { id: "device/order/a_fork_joins_again", depth: Depth::Standard, run: diamond },
    Clause { id: "device/order/a_ring_of_streams_hands_on", depth: Depth::Standard, run: ring },
];

/// Rounds in which two streams take turns at one byte.
const TURNS: usize = 2500;

/// One stream sets a byte, another notes it down, and the first waits until it is noted: any missing wait, in either
/// direction, leaves a wrong note. Everything is queued before anything is looked at.
fn turns(subject: &Subject, count: usize, new_events: bool) -> Held {
    let mut scene = Scene::new(subject)?;
    let mut consumer = scene.device.stream()?;
    let (cell, notes) = (scene.alloc(64)?, scene.alloc(count)?);
    let (mut full, mut empty) = (scene.device.event()?, scene.device.event()?);
    for i in 0..count {
        if new_events {
            full = scene.device.event()?;
        }
        scene.stream.wait(&*empty)?;
        scene.stream.fill(&cell, i as u8)?;
        scene.stream.record(&*full)?;
        consumer.wait(&*full)?;
        consumer.copy(&Binding::part(&notes.buffer, i, 1), &Binding::part(&cell.buffer, i % 64, 1))?;
        if new_events {
            empty = scene.device.event()?;
        }
        consumer.record(&*empty)?;
    }
    consumer.sync(scene.timeout)?;
    scene.done()?;
    let want: Vec<u8> = (0..count).map(|i| i as u8).collect();
    same(&read(&mut *consumer, &notes)?, &want, &format!("what one stream noted of another in {count} turns"))
}

fn hand_over(subject: &Subject) -> Held {
    turns(subject, 100, true)
}

fn ping_pong(subject: &Subject) -> Held {
    turns(subject, TURNS, false)
}

fn diamond(subject: &Subject) -> Held {
    const WIDTH: usize = 6;
    let mut scene = Scene::new(subject)?;
    let mut workers = (0..WIDTH).map(|_| scene.device.stream()).collect::<Result<Vec<_>>>()?;
    let start = scene.device.event()?;
    let ends = (0..WIDTH).map(|_| scene.device.event()).collect::<Result<Vec<Arc<dyn Event>>>>()?;
    let (source, result) = (scene.alloc(WIDTH * 500)?, scene.alloc(WIDTH * 500)?);
    let parts = (0..WIDTH).map(|_| scene.alloc(500)).collect::<std::result::Result<Vec<_>, _>>()?;
    for round in 0..100u64 {
        let data = pattern(round, WIDTH * 500);
        scene.stream.upload(&source, &data)?;
        scene.stream.record(&*start)?;
        for (i, worker) in workers.iter_mut().enumerate() {
            worker.wait(&*start)?;
            worker.copy(&parts[i], &Binding::part(&source.buffer, 500 * i, 500))?;
            worker.copy(&Binding::part(&result.buffer, 500 * i, 500), &parts[i])?;
            worker.record(&*ends[i])?;
        }
        for end in &ends {
            scene.stream.wait(&**end)?;
        }
        scene.expect(&result, &data, &format!("round {round}: what {WIDTH} streams copied"))?;
        scene.stream.fill(&result, 0xee)?;
    }
    scene.done()
}

fn ring(subject: &Subject) -> Held {
    const STREAMS: usize = 8;
    let mut scene = Scene::new(subject)?;
    let mut streams = (0..STREAMS).map(|_| scene.device.stream()).collect::<Result<Vec<_>>>()?;
    let data = pattern(77, 700);
    let cells = (0..STREAMS).map(|_| scene.alloc(700)).collect::<std::result::Result<Vec<_>, _>>()?;
    let mut last = scene.device.event()?;
    scene.stream.upload(&cells[0], &data)?;
    scene.stream.record(&*last)?;
    let laps = 40;
    for i in 0..laps * STREAMS {
        let stream = &mut streams[i % STREAMS];
        stream.wait(&*last)?;
        stream.copy(&cells[(i + 1) % STREAMS], &cells[i % STREAMS])?;
        stream.fill(&cells[i % STREAMS], i as u8)?;
        // The old event is dropped while the stream may still wait for it.
        last = scene.device.event()?;
        stream.record(&*last)?;
    }
    scene.stream.wait(&*last)?;
    scene.expect(&cells[0], &data, &format!("what {STREAMS} streams handed round {laps} times"))
}
