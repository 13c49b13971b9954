//! Waits with a bound.

use std::thread;
use std::time::{Duration, Instant};

use qiao_core::{Error, Event, Stream};

use super::scene::{Busy, Found, Scene, pattern};
use super::{Broken, Clause, Held, ensure};
use crate::family::Depth;
use crate::subject::Subject;

pub(crate) const CLAUSES: &[Clause] = &[
    Clause { id: "device/time/no_time_at_all_is_an_answer", depth: Depth::Smoke, run: no_time },
    Clause { id: "device/time/the_longest_wait_is_one", depth: Depth::Smoke, run: longest },
    Clause { id: "device/time/a_short_sync_ends_in_time", depth: Depth::Standard, run: short_sync },
    Clause { id: "device/time/a_short_wait_for_an_event_ends_in_time", depth: Depth::Standard, run: short_event },
    Clause { id: "device/time/a_wait_ends_though_others_record", depth: Depth::Standard, run: others_record },
];

/// A wait that may have run out of time: whether it did.
fn ran_out(result: qiao_core::Result<()>, what: &str) -> Found<bool> {
    match result {
        Ok(()) => Ok(false),
        Err(Error::Timeout { .. }) => Ok(true),
        Err(e) => Err(Broken::contract(format!("{what} is done or out of time, not: {e}"))),
    }
}

fn no_time(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let (busy, event) = (Busy::new(&*scene.device)?, scene.device.event()?);
    let data = pattern(1, 2000);
    ensure(!ran_out(scene.stream.sync(Duration::ZERO), "a sync of a new stream")?, || {
        "a stream with no work is not done in no time".into()
    })?;
    for _ in 0..5 {
        busy.queue(&mut *scene.stream)?;
        let buffer = scene.holding(&data)?;
        scene.stream.record(&*event)?;
        for _ in 0..3 {
            ran_out(scene.stream.sync(Duration::ZERO), "a sync of no time")?;
            ran_out(event.sync(Duration::ZERO), "a wait of no time")?;
        }
        scene.expect(&buffer, &data, "a buffer behind waits of no time")?;
        event.sync(scene.timeout)?;
        scene.done()?;
        ensure(!ran_out(scene.stream.sync(Duration::ZERO), "a sync")?, || {
            "what is done is not done in no time".into()
        })?;
    }
    Ok(())
}

fn longest(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let (busy, event) = (Busy::new(&*scene.device)?, scene.device.event()?);
    for timeout in [Duration::MAX, Duration::from_secs(u64::MAX / 2), Duration::from_nanos(u64::MAX)] {
        busy.queue(&mut *scene.stream)?;
        scene.stream.record(&*event)?;
        event.sync(timeout)?;
        busy.queue(&mut *scene.stream)?;
        scene.stream.sync(timeout)?;
    }
    Ok(())
}

/// How much pending work is enough to see whether a wait is cut short.
const ENOUGH: Duration = Duration::from_millis(200);

/// Rounds of work that keep a stream busy for [`ENOUGH`] after the last was queued, and how long they did.
fn pending(scene: &mut Scene, busy: &Busy) -> Found<(usize, Duration)> {
    let begin = Instant::now();
    let mut rounds = 1;
    while begin.elapsed() < scene.timeout / 4 {
        let start = Instant::now();
        for _ in 0..rounds {
            busy.queue(&mut *scene.stream)?;
        }
        let queued = start.elapsed();
        scene.done()?;
        let waited = start.elapsed() - queued;
        if waited >= ENOUGH {
            return Ok((rounds, waited));
        }
        if queued > ENOUGH / 2 && waited < queued / 4 {
            break;
        }
        rounds *= 2;
    }
    Err(Broken::unsupported("its commands have run when their calls return, so that nothing is ever waited for"))
}

/// A wait that ends while its work goes on, or because the work is done, takes no longer than this.
const SOON: Duration = Duration::from_millis(20);

/// A wait of a millisecond for work of hundreds ends while the work goes on. Tried several times, since the system may
/// have had other things to do.
fn cut_short(subject: &Subject, what: &str, wait: fn(&mut dyn Stream, &dyn Event) -> qiao_core::Result<()>) -> Held {
    let mut scene = Scene::new(subject)?;
    let (busy, event) = (Busy::new(&*scene.device)?, scene.device.event()?);
    let (rounds, whole) = pending(&mut scene, &busy)?;
    let mut longest = Duration::ZERO;
    for _ in 0..5 {
        for _ in 0..rounds {
            busy.queue(&mut *scene.stream)?;
        }
        scene.stream.record(&*event)?;
        let start = Instant::now();
        let out = ran_out(wait(&mut *scene.stream, &*event), what)?;
        let took = start.elapsed();
        let done = event.is_reached()?;
        ensure(out || done, || format!("{what} answers that the work is done, and it is not"))?;
        scene.done()?;
        scene.usable(&format!("{what} that ran out of time"))?;
        if !done || !out && took < SOON {
            return Ok(());
        }
        longest = longest.max(took);
    }
    Err(Broken::contract(format!("{what} of 1 ms lasted {longest:?}, until the work of {whole:?} was done")))
}

fn short_sync(subject: &Subject) -> Held {
    cut_short(subject, "a sync", |stream, _| stream.sync(Duration::from_millis(1)))
}

fn short_event(subject: &Subject) -> Held {
    cut_short(subject, "a wait for an event", |_, event| event.sync(Duration::from_millis(1)))
}

fn others_record(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let event = scene.device.event()?;
    let (device, timeout) = (scene.device.clone(), scene.timeout);
    let busy = Busy::new(&*device)?;
    thread::scope(|s| {
        let recorder = s.spawn(|| -> Held {
            let mut stream = device.stream()?;
            for _ in 0..20 {
                busy.queue(&mut *stream)?;
                stream.record(&*event)?;
            }
            Ok(stream.sync(timeout)?)
        });
        let waits = (|| -> Held {
            for _ in 0..50 {
                event.sync(timeout)?;
                event.is_reached()?;
                scene.stream.wait(&*event)?;
                scene.done()?;
            }
            Ok(())
        })();
        super::scene::joined(recorder).and(waits)
    })?;
    event.sync(timeout)?;
    ensure(event.is_reached()?, || "an event that was waited for is not reached".into())
}
