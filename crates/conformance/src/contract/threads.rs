//! Any call may come from any thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use qiao_core::{Binding, Event};

use super::scene::{Found, Scene, joined, pattern};
use super::{Broken, Clause, Held};
use crate::family::Depth;
use crate::subject::Subject;

pub(crate) const CLAUSES: &[Clause] = &[
    Clause { id: "device/threads/a_stream_moves_from_thread_to_thread", depth: Depth::Smoke, run: moves },
    Clause { id: "device/threads/sixteen_work_on_streams_of_their_own", depth: Depth::Standard, run: own },
    Clause { id: "device/threads/sixteen_allocate_and_free", depth: Depth::Standard, run: allocate },
    Clause { id: "device/threads/sixteen_read_one_buffer", depth: Depth::Standard, run: readers },
    Clause { id: "device/threads/sixteen_hand_on_buffers_by_events", depth: Depth::Standard, run: hand_on },
    Clause { id: "device/threads/an_event_is_asked_while_its_streams_go", depth: Depth::Standard, run: ask },
];

/// How many threads.
const THREADS: usize = 16;

/// Runs a job on every thread, each with a stream of its own; the first that is broken tells.
fn each(subject: &Subject, job: impl Fn(usize, &mut Scene) -> Held + Sync) -> Held {
    thread::scope(|s| {
        let threads: Vec<_> = (0..THREADS)
            .map(|i| {
                let job = &job;
                s.spawn(move || job(i, &mut Scene::new(subject)?))
            })
            .collect();
        // Every thread is waited for, whatever another found.
        let results: Vec<Held> = threads.into_iter().map(joined).collect();
        results.into_iter().collect()
    })
}

fn moves(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let data = pattern(1, 5000);
    let cells = (0..9).map(|_| scene.alloc(5000)).collect::<Found<Vec<_>>>()?;
    scene.stream.upload(&cells[0], &data)?;
    for pair in cells.windows(2) {
        scene = thread::scope(|s| {
            joined(s.spawn(move || -> Found<Scene> {
                scene.stream.copy(&pair[1], &pair[0])?;
                scene.stream.fill(&pair[0], 0xee)?;
                Ok(scene)
            }))
        })?;
    }
    scene.expect(&cells[8], &data, "what eight threads copied on one stream")
}

fn own(subject: &Subject) -> Held {
    each(subject, |thread, scene| {
        let (a, b) = (scene.alloc(4000)?, scene.alloc(4000)?);
        for round in 0..40 {
            let data = pattern((thread * 1000 + round) as u64, 4000);
            scene.stream.upload(&a, &data)?;
            scene.stream.copy(&b, &a)?;
            scene.stream.fill(&a, round as u8)?;
            scene.expect(&b, &data, &format!("round {round} of thread {thread}"))?;
        }
        scene.done()
    })
}

fn allocate(subject: &Subject) -> Held {
    each(subject, |thread, scene| {
        let mut held: Vec<(Binding, Vec<u8>)> = Vec::new();
        for round in 0..150usize {
            let bytes = 1 + (round * 7919 + thread * 104_729) % 9000;
            let data = pattern((thread * 1000 + round) as u64, bytes);
            held.push((scene.holding(&data)?, data));
            if held.len() > 12 {
                let (buffer, data) = held.swap_remove(round % 12);
                scene.expect(&buffer, &data, &format!("a buffer of thread {thread} among those of others"))?;
            }
        }
        for (buffer, data) in &held {
            scene.expect(buffer, data, &format!("a buffer of thread {thread} among those of others"))?;
        }
        Ok(())
    })
}

fn readers(subject: &Subject) -> Held {
    let mut first = Scene::new(subject)?;
    let data = pattern(5, 30_000);
    let shared = first.holding(&data)?;
    first.done()?;
    each(subject, |thread, scene| {
        let copy = scene.alloc(30_000)?;
        for _ in 0..20 {
            scene.expect(&shared, &data, &format!("a buffer that thread {thread} and others read"))?;
            scene.stream.copy(&copy, &shared)?;
        }
        scene.expect(&copy, &data, &format!("thread {thread}'s copy of a buffer that others read"))
    })
}

/// What a thread hands to the next: the event behind its work. Nothing where a thread before it was broken.
type Baton = Option<Arc<dyn Event>>;

fn hand_on(subject: &Subject) -> Held {
    const LAPS: usize = 25;
    let mut first = Scene::new(subject)?;
    let data = pattern(6, 2000);
    let cells = (0..THREADS).map(|_| first.alloc(2000)).collect::<Found<Vec<_>>>()?;
    let start = first.device.event()?;
    first.stream.upload(&cells[0], &data)?;
    first.stream.record(&*start)?;
    let (senders, receivers): (Vec<Sender<Baton>>, Vec<Receiver<Baton>>) = (0..THREADS).map(|_| channel()).unzip();
    senders[0].send(Some(start)).map_err(|_| Broken::contract("the first thread has ended"))?;
    let run = |thread: usize, receiver: Receiver<Baton>, next: Sender<Baton>| -> Held {
        let lap = |scene: &mut Scene, before: Arc<dyn Event>| -> Found<Arc<dyn Event>> {
            scene.stream.wait(&*before)?;
            scene.stream.copy(&cells[(thread + 1) % THREADS], &cells[thread])?;
            scene.stream.fill(&cells[thread], 0xee)?;
            let event = scene.device.event()?;
            scene.stream.record(&*event)?;
            Ok(event)
        };
        let mut scene = Scene::new(subject);
        let mut held = Ok(());
        for _ in 0..LAPS {
            let before = receiver.recv().ok().flatten();
            let after = match (&mut scene, before) {
                (Ok(scene), Some(before)) => lap(scene, before).map_err(|e| held = Err(e)).ok(),
                _ => None,
            };
            // The next thread may have ended with its last lap.
            let _ = next.send(after);
        }
        let mut scene = scene?;
        held.and_then(|()| scene.done())
    };
    thread::scope(|s| {
        let run = &run;
        let threads: Vec<_> = receivers
            .into_iter()
            .enumerate()
            .map(|(i, receiver)| {
                let next = senders[(i + 1) % THREADS].clone();
                s.spawn(move || run(i, receiver, next))
            })
            .collect();
        let results: Vec<Held> = threads.into_iter().map(joined).collect();
        results.into_iter().collect::<Held>()
    })?;
    first.expect(&cells[0], &data, &format!("what {THREADS} threads handed round {LAPS} times"))
}

/// One thread records an event on streams that it drops at once; the others ask the event all the while.
fn ask(subject: &Subject) -> Held {
    const STREAMS: usize = 200;
    let mut scene = Scene::new(subject)?;
    let event = scene.device.event()?;
    let device = scene.device.clone();
    let record = |round: usize| -> Held {
        let (mut stream, cell) = (device.stream()?, Binding::whole(device.alloc(0, 2000)?));
        for _ in 0..round % 20 {
            stream.fill(&cell, round as u8)?;
        }
        Ok(stream.record(&*event)?)
    };
    let done = AtomicBool::new(false);
    let ask = || -> Held {
        while !done.load(Ordering::Relaxed) {
            event.is_reached()?;
        }
        Ok(())
    };
    thread::scope(|s| {
        let asking: Vec<_> = (1..THREADS).map(|_| s.spawn(ask)).collect();
        let recorder = s.spawn(|| (0..STREAMS).try_for_each(record));
        let recorded = joined(recorder);
        done.store(true, Ordering::Relaxed);
        let asked: Vec<Held> = asking.into_iter().map(joined).collect();
        asked.into_iter().collect::<Held>().and(recorded)
    })?;
    event.sync(scene.timeout)?;
    scene.stream.wait(&*event)?;
    scene.done()
}
