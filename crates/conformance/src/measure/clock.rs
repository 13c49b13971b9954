//! Time: what a piece of work takes on the device, on the host that queues it, and from the call until it is done.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qiao_core::{Device, Event, HostEvent, Result, Stream};
use qiao_layers::Summary;

use super::figures::Timer;

/// How long one piece of work may take.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Laps over nothing that tell what the timer itself takes.
const EMPTY: usize = 50;

/// One piece of work, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Lap {
    /// By the device's own events; `None` where it has none.
    pub(crate) device: Option<f64>,
    /// Until the host had queued it.
    pub(crate) host: f64,
    /// Until it was done.
    pub(crate) wall: f64,
}

impl Lap {
    /// The time by which an operator is judged: the device's own where it can tell, else the host's.
    pub(crate) fn judged(&self) -> f64 {
        self.device.unwrap_or(self.wall)
    }
}

/// A stream under a clock.
pub(crate) struct Clock {
    pub(crate) stream: Box<dyn Stream>,
    /// Where the device has events of its own that can tell the time between them.
    events: Option<[Arc<dyn Event>; 2]>,
    /// What a lap over nothing takes; taken off every lap.
    empty: Lap,
}

impl Clock {
    /// A clock on a new stream of a device.
    ///
    /// # Errors
    /// The device's own.
    pub(crate) fn new(device: &dyn Device) -> Result<Clock> {
        let mut clock = Clock { stream: device.stream()?, events: None, empty: Lap::default() };
        let events = [device.event()?, device.event()?];
        // The contract's own event is the host's clock around a stream that waits: no time of the device's.
        if !(&*events[0] as &dyn Any).is::<HostEvent>() {
            clock.events = Some(events);
            if clock.lap(|_| Ok(()))?.device.is_none() {
                clock.events = None;
            }
        }
        let laps = (0..EMPTY).map(|_| clock.lap(|_| Ok(()))).collect::<Result<Vec<_>>>()?;
        let median = |of: fn(&Lap) -> f64| Summary::of(&laps.iter().map(of).collect::<Vec<_>>()).p50;
        clock.empty = Lap {
            device: clock.events.as_ref().map(|_| median(|l| l.device.unwrap_or(0.0))),
            host: median(|l| l.host),
            wall: median(|l| l.wall),
        };
        Ok(clock)
    }

    /// Times one piece of work; a time shorter than that of nothing is 0.
    ///
    /// # Errors
    /// The work's own; the device's; [`qiao_core::Error::Timeout`].
    pub(crate) fn lap(&mut self, work: impl FnOnce(&mut dyn Stream) -> Result<()>) -> Result<Lap> {
        let start = Instant::now();
        if let Some([first, _]) = &self.events {
            self.stream.record(&**first)?;
        }
        work(&mut *self.stream)?;
        if let Some([_, last]) = &self.events {
            self.stream.record(&**last)?;
        }
        let host = start.elapsed().as_secs_f64();
        self.stream.sync(TIMEOUT)?;
        let wall = start.elapsed().as_secs_f64();
        let device = self.events.as_ref().and_then(|[first, last]| last.since(&**first)).map(|d| d.as_secs_f64());
        Ok(Lap {
            device: device.map(|d| (d - self.empty.device.unwrap_or(0.0)).max(0.0)),
            host: (host - self.empty.host).max(0.0),
            wall: (wall - self.empty.wall).max(0.0),
        })
    }

    /// What tells the time, and what was taken off.
    pub(crate) fn timer(&self) -> Timer {
        let source = match self.events {
            Some(_) => "the device's events",
            None => "the host's clock around each call: the device has no events of its own that tell the time",
        };
        let Lap { device, host, wall } = self.empty;
        Timer { source: source.into(), device, host, wall }
    }
}
