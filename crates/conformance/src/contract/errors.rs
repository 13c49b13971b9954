//! What is refused is no failure; what fails is kept.

use std::sync::Arc;

use qiao_core::{Binding, Buffer, Error};

use super::probe::Failing;
use super::scene::{Found, Scene, pattern, read, refused, room, same, strange};
use super::{Broken, Clause, Held, ensure};
use crate::family::Depth;
use crate::subject::Subject;

pub(crate) const CLAUSES: &[Clause] = &[
    Clause { id: "device/errors/what_is_refused_leaves_the_stream_as_it_was", depth: Depth::Smoke, run: no_failure },
    Clause { id: "device/errors/buffers_of_another_device_are_refused", depth: Depth::Smoke, run: foreign },
    Clause { id: "device/errors/they_say_what_was_asked_and_found", depth: Depth::Smoke, run: words },
    Clause { id: "device/errors/the_first_failure_of_a_stream_is_kept", depth: Depth::Standard, run: kept },
    Clause { id: "device/errors/a_failure_stays_on_its_stream", depth: Depth::Standard, run: alone },
    Clause { id: "device/errors/a_failure_is_told_by_the_events_behind_it", depth: Depth::Standard, run: by_events },
    Clause { id: "device/errors/a_failure_is_told_when_all_is_over", depth: Depth::Standard, run: over },
];

fn no_failure(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let data = pattern(1, 100);
    let buffer = scene.holding(&data)?;
    let n = buffer.buffer.bytes();
    let beyond = Binding::part(&buffer.buffer, n, 1);
    let event = scene.device.event()?;
    for _ in 0..3 {
        refused(scene.stream.upload(&beyond, &[1]), "an upload outside its buffer")?;
        refused(scene.stream.fill(&beyond, 1), "a fill outside its buffer")?;
        refused(scene.stream.copy(&beyond, &Binding::part(&buffer.buffer, 0, 1)), "a copy outside its buffer")?;
        refused(scene.stream.download(&mut [0], &beyond), "a download outside its buffer")?;
        refused(scene.stream.upload(&strange(8), &[1]), "an upload to a buffer of another device")?;
        scene.done()?;
        scene.stream.record(&*event)?;
        event.sync(scene.timeout)?;
        scene.expect(&buffer, &data, "a buffer that only refused commands named")?;
    }
    scene.usable("commands that were refused")
}

fn foreign(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let own = scene.holding(&pattern(2, 64))?;
    let other = strange(64);
    refused(scene.stream.upload(&other, &[1; 64]), "an upload to a buffer of another device")?;
    refused(scene.stream.download(&mut [0; 64], &other), "a download from a buffer of another device")?;
    refused(scene.stream.copy(&other, &own), "a copy to a buffer of another device")?;
    refused(scene.stream.copy(&own, &other), "a copy from a buffer of another device")?;
    refused(scene.stream.fill(&other, 1), "a fill of a buffer of another device")?;
    scene.expect(&own, &pattern(2, 64), "a buffer beside one of another device")?;
    scene.usable("buffers of another device")
}

fn words(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let buffer: Arc<dyn Buffer> = scene.device.alloc(0, 100)?;
    let beyond = Binding::part(&buffer, buffer.bytes(), 1);
    let memories = scene.device.info().memories.len();
    let errors = [
        refused(scene.stream.upload(&beyond, &[1]), "an upload outside its buffer")?,
        refused(scene.stream.upload(&strange(8), &[1]), "an upload to a buffer of another device")?,
        refused(scene.device.alloc(memories, 8), "a memory that is not there")?,
    ];
    for error in errors {
        let Error::Invalid { what, found, mend } = &error else {
            return Err(Broken::contract(format!("a caller's mistake is invalid, not: {error}")));
        };
        for (part, text) in [("what was asked", what), ("what was found", found), ("how to mend it", mend)] {
            ensure(!text.trim().is_empty(), || format!("'{error}' does not say {part}"))?;
        }
    }
    Ok(())
}

/// The error that came first.
fn root(error: &Error) -> &Error {
    match error {
        Error::Poisoned { first } => root(first),
        other => other,
    }
}

/// A scene whose stream has failed, the plan that did it, and the failure.
fn failed(subject: &Subject) -> Found<(Scene, Failing, Error)> {
    let mut scene = Scene::new(subject)?;
    let failing = Failing::new(&mut scene)?
        .ok_or_else(|| Broken::unsupported("nothing makes it fail from outside: it does not run kv_write"))?;
    match failing.fail(&mut scene) {
        Some(first) => Ok((scene, failing, root(&first).clone())),
        None => Err(Broken::unsupported("nothing makes it fail from outside: it takes two tokens for one slot")),
    }
}

/// A call on a failed stream must tell the first failure.
fn tells<T>(result: qiao_core::Result<T>, first: &Error, what: &str) -> Held {
    match result {
        Ok(_) => Err(Broken::contract(format!("{what} after a failure is taken as if nothing were: {first}"))),
        Err(e) => ensure(root(&e).to_string() == root(first).to_string(), || {
            format!("{what} after a failure tells '{e}' instead of the first one, '{first}'")
        }),
    }
}

fn kept(subject: &Subject) -> Held {
    let (mut scene, failing, first) = failed(subject)?;
    let (a, b) = (scene.alloc(64)?, scene.alloc(64)?);
    for _ in 0..2 {
        tells(scene.stream.upload(&a, &[1; 64]), &first, "an upload")?;
        tells(scene.stream.download(&mut [0; 64], &a), &first, "a download")?;
        tells(scene.stream.copy(&b, &a), &first, "a copy")?;
        tells(scene.stream.fill(&a, 1), &first, "a fill")?;
        tells(failing.execute(&mut *scene.stream), &first, "an execution")?;
        let timeout = scene.timeout;
        tells(scene.stream.sync(timeout), &first, "a sync")?;
    }
    Ok(())
}

fn alone(subject: &Subject) -> Held {
    let (scene, _, _) = failed(subject)?;
    Scene::new(subject)?.usable("a failure on another stream")?;
    drop(scene);
    Scene::new(subject)?.usable("a failed stream was dropped")
}

/// Copies from one buffer to the next, a failure behind them: once a sync has told it, the last copy is done.
fn over(subject: &Subject) -> Held {
    const COPIES: usize = 16;
    let mut scene = Scene::new(subject)?;
    let failing = Failing::new(&mut scene)?
        .ok_or_else(|| Broken::unsupported("nothing makes it fail from outside: it does not run kv_write"))?;
    let bytes = (room(&scene.device.info().memories[0]) / (2 * COPIES)).clamp(64, 1 << 20);
    let data = pattern(3, bytes);
    let mut chain = vec![scene.holding(&data)?];
    for _ in 0..COPIES {
        let next = scene.alloc(bytes)?;
        scene.stream.fill(&next, 0x11)?;
        chain.push(next);
    }
    scene.done()?;
    for pair in chain.windows(2) {
        scene.stream.copy(&pair[1], &pair[0])?;
    }
    let failed = failing.execute(&mut *scene.stream);
    let told = scene.stream.sync(scene.timeout);
    match (failed, told) {
        (Ok(()), Ok(())) => {
            Err(Broken::unsupported("nothing makes it fail from outside: it takes two tokens for one slot"))
        }
        (Err(first), Ok(())) => {
            Err(Broken::contract(format!("a sync after a failure is taken as if nothing were: {first}")))
        }
        (_, Err(_)) => {
            let mut other = scene.device.stream()?;
            let got = read(&mut *other, &chain[COPIES])?;
            same(&got, &data, "copies that were queued before a failure, once a sync has told it")
        }
    }
}

fn by_events(subject: &Subject) -> Held {
    let (mut scene, _, first) = failed(subject)?;
    let event = scene.device.event()?;
    tells(scene.stream.record(&*event), &first, "recording an event")?;
    tells(event.sync(scene.timeout), &first, "waiting for an event")?;
    tells(event.is_reached(), &first, "asking an event")?;
    // Another stream that waits for it hears of it, at the wait or behind it; it does not go on as if all were well.
    let mut other = scene.device.stream()?;
    let heard = other.wait(&*event).and_then(|()| other.sync(scene.timeout));
    tells(heard, &first, "another stream's wait for an event")?;
    Scene::new(subject)?.usable("a failure was told by an event")
}
