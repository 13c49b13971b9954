//! The truth table of events.

use std::sync::Arc;
use std::time::{Duration, Instant};

use qiao_core::{Binding, Event, Stream};

use super::scene::{Busy, Found, Scene, StrangeEvent, eventually, pattern, read, refused, same};
use super::{Broken, Clause, Held, ensure};
use crate::family::Depth;
use crate::subject::Subject;

pub(crate) const CLAUSES: &[Clause] = &[
    Clause { id: "device/events/one_never_recorded_is_reached", depth: Depth::Smoke, run: never_recorded },
    Clause { id: "device/events/one_never_recorded_is_no_wait", depth: Depth::Smoke, run: no_wait },
    Clause { id: "device/events/a_recorded_one_is_reached_in_the_end", depth: Depth::Smoke, run: reached },
    Clause { id: "device/events/one_that_is_reached_has_its_work_done", depth: Depth::Smoke, run: polled },
    Clause { id: "device/events/a_wait_on_the_host_ends_with_the_work_done", depth: Depth::Smoke, run: waited },
    Clause { id: "device/events/recorded_again_it_means_the_later_point", depth: Depth::Smoke, run: again },
    Clause { id: "device/events/recorded_again_elsewhere_it_means_that_point", depth: Depth::Standard, run: elsewhere },
    Clause { id: "device/events/a_wait_keeps_the_point_it_was_given", depth: Depth::Standard, run: kept },
    Clause { id: "device/events/recorded_on_one_stream_it_holds_another", depth: Depth::Smoke, run: across },
    Clause { id: "device/events/one_of_another_device_is_refused", depth: Depth::Smoke, run: strange },
    Clause { id: "device/events/time_between_them_is_told_rightly", depth: Depth::Standard, run: since },
];

/// How coarse a device's clock may be.
const TICK: Duration = Duration::from_micros(20);

/// Rounds of a clause that looks for a race.
const ROUNDS: u64 = 12;

fn never_recorded(subject: &Subject) -> Held {
    let scene = Scene::new(subject)?;
    let event = scene.device.event()?;
    ensure(event.is_reached()?, || "an event never recorded is not reached".into())?;
    for timeout in [Duration::ZERO, Duration::from_millis(5), Duration::MAX] {
        event.sync(timeout).map_err(|e| Broken::contract(format!("waiting for an event never recorded: {e}")))?;
    }
    Ok(())
}

fn no_wait(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let event = scene.device.event()?;
    for _ in 0..10 {
        scene.stream.wait(&*event)?;
    }
    scene.usable("waiting for an event never recorded")
}

fn reached(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let busy = Busy::new(&*scene.device)?;
    let event = scene.device.event()?;
    busy.queue(&mut *scene.stream)?;
    scene.stream.record(&*event)?;
    // Nobody waits for the stream: its work runs without being asked for.
    let mut state = Ok(false);
    let seen = eventually(scene.timeout, || {
        state = event.is_reached();
        !matches!(state, Ok(false))
    });
    state?;
    ensure(seen, || "a recorded event is never reached unless somebody waits for its stream".into())?;
    scene.done()?;
    ensure(event.is_reached()?, || "an event before a sync is not reached after it".into())?;
    event.sync(Duration::ZERO)?;
    Ok(())
}

/// A stream with work behind which a buffer is filled, and a second stream that looks at the buffer.
struct Race {
    scene: Scene,
    second: Box<dyn Stream>,
    busy: Busy,
    buffer: Binding,
}

impl Race {
    fn new(subject: &Subject) -> Found<Race> {
        let scene = Scene::new(subject)?;
        let (second, busy, buffer) = (scene.device.stream()?, Busy::new(&*scene.device)?, scene.alloc(3000)?);
        Ok(Race { scene, second, busy, buffer })
    }

    /// Queues work, and behind it new contents of the buffer; all earlier work is done.
    fn queue(&mut self, round: u64) -> Held {
        self.scene.done()?;
        self.second.sync(self.scene.timeout)?;
        let source = self.scene.holding(&pattern(round, 3000))?;
        self.busy.queue(&mut *self.scene.stream)?;
        Ok(self.scene.stream.copy(&self.buffer, &source)?)
    }

    /// The second stream must see the contents.
    fn seen(&mut self, round: u64, how: &str) -> Held {
        let got = read(&mut *self.second, &self.buffer)?;
        same(&got, &pattern(round, 3000), &format!("round {round}: what another stream sees {how}"))
    }
}

fn polled(subject: &Subject) -> Held {
    let mut race = Race::new(subject)?;
    let event = race.scene.device.event()?;
    for round in 0..ROUNDS {
        race.queue(round)?;
        race.scene.stream.record(&*event)?;
        let start = Instant::now();
        while !event.is_reached()? {
            ensure(start.elapsed() < race.scene.timeout, || "a recorded event is never reached".into())?;
            std::thread::yield_now();
        }
        race.seen(round, "once the event is reached")?;
    }
    Ok(())
}

fn waited(subject: &Subject) -> Held {
    let mut race = Race::new(subject)?;
    let event = race.scene.device.event()?;
    for round in 0..ROUNDS {
        race.queue(round)?;
        race.scene.stream.record(&*event)?;
        event.sync(race.scene.timeout)?;
        race.seen(round, "after a wait for the event")?;
        ensure(event.is_reached()?, || "an event that was waited for is not reached".into())?;
    }
    Ok(())
}

fn again(subject: &Subject) -> Held {
    let mut race = Race::new(subject)?;
    let event = race.scene.device.event()?;
    for round in 0..ROUNDS {
        // The earlier point is reached at once; the later one is behind the work.
        race.scene.stream.record(&*event)?;
        event.sync(race.scene.timeout)?;
        race.queue(round)?;
        race.scene.stream.record(&*event)?;
        event.sync(race.scene.timeout)?;
        race.seen(round, "after a wait for an event that was recorded again")?;
    }
    Ok(())
}

fn elsewhere(subject: &Subject) -> Held {
    let mut race = Race::new(subject)?;
    let mut third = race.scene.device.stream()?;
    let event = race.scene.device.event()?;
    for round in 0..ROUNDS {
        third.record(&*event)?;
        race.queue(round)?;
        race.scene.stream.record(&*event)?;
        race.second.wait(&*event)?;
        race.seen(round, "behind an event that was recorded on another stream first")?;
    }
    Ok(())
}

fn kept(subject: &Subject) -> Held {
    let mut race = Race::new(subject)?;
    let (event, back) = (race.scene.device.event()?, race.scene.device.event()?);
    let late = Busy::new(&*race.scene.device)?;
    for round in 0..ROUNDS {
        race.queue(round)?;
        race.scene.stream.record(&*event)?;
        race.second.wait(&*event)?;
        race.second.record(&*back)?;
        // The first stream goes on only behind the second, and then marks a point that the second must not wait for.
        race.scene.stream.wait(&*back)?;
        late.queue(&mut *race.scene.stream)?;
        race.scene.stream.record(&*event)?;
        race.second.sync(race.scene.timeout)?;
        race.seen(round, "behind the point that it was given")?;
    }
    race.scene.done()
}

fn across(subject: &Subject) -> Held {
    let mut race = Race::new(subject)?;
    for round in 0..ROUNDS {
        let event = race.scene.device.event()?;
        race.queue(round)?;
        race.scene.stream.record(&*event)?;
        race.second.wait(&*event)?;
        race.seen(round, "behind an event of the first")?;
    }
    Ok(())
}

fn strange(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    refused(scene.stream.record(&StrangeEvent), "recording an event of another device")?;
    scene.usable("recording an event of another device")?;
    // A wait for it may be refused, or be one on the host.
    let _ = scene.stream.wait(&StrangeEvent);
    scene.usable("waiting for an event of another device")
}

fn since(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let busy = Busy::new(&*scene.device)?;
    let fresh = scene.device.event()?;
    let start = Instant::now();
    let mut marks: Vec<Arc<dyn Event>> = Vec::new();
    for _ in 0..4 {
        let event = scene.device.event()?;
        scene.stream.record(&*event)?;
        busy.queue(&mut *scene.stream)?;
        marks.push(event);
    }
    scene.done()?;
    let wall = start.elapsed();
    let told = |later: usize, earlier: usize| marks[later].since(&*marks[earlier]);
    if told(1, 0).is_none() {
        return Err(Broken::unsupported("it does not tell the time between events"));
    }
    ensure(fresh.since(&*marks[0]).is_none() && marks[0].since(&*fresh).is_none(), || {
        "it tells a time between an event and one never recorded".into()
    })?;
    for later in 1..marks.len() {
        for earlier in 0..later {
            let span = told(later, earlier).ok_or_else(|| {
                Broken::contract(format!("it tells the time from event 0 to 1, but not from {earlier} to {later}"))
            })?;
            ensure(span <= 2 * wall + Duration::from_millis(50), || {
                format!("{span:?} from event {earlier} to {later}, while {wall:?} passed on the host")
            })?;
            let shorter = told(later, earlier + 1).unwrap_or_default();
            ensure(later == earlier + 1 || shorter <= span + TICK, || {
                format!("event {later} is {span:?} after event {earlier}, but {shorter:?} after the next one")
            })?;
        }
    }
    let backwards = told(0, marks.len() - 1).filter(|span| !span.is_zero());
    ensure(backwards.is_none(), || format!("the first event is {backwards:?} after the last"))
}
