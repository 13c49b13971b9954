//! Streams: commands that run when somebody waits.

use std::collections::VecDeque;

use crate::codes::{AICORE_EXCEPTION, Code};
use crate::memory::Memory;
use crate::world::World;

/// What an operator or a copy does when its turn comes; in words what went wrong.
pub(crate) type Work = Box<dyn FnOnce(&mut Memory) -> Result<(), String> + Send>;

/// A command of a stream.
pub(crate) enum Command {
    /// Something to do.
    Run(&'static str, Work),
    /// Marks an event's point of this number.
    Record(usize, u64),
    /// Goes on when the event's point of this number is reached.
    Wait(usize, u64),
}

/// A stream.
pub(crate) struct Stream {
    pub(crate) context: usize,
    pub(crate) device: usize,
    pub(crate) queue: VecDeque<Command>,
    pub(crate) failed: Option<Code>,
    /// Whether what stands behind a failure is left undone.
    pub(crate) stops: bool,
}

/// An event: how often it was recorded, which of those points were reached, and when.
pub(crate) struct Event {
    pub(crate) device: usize,
    pub(crate) recorded: u64,
    pub(crate) reached: u64,
    pub(crate) at: u64,
}

/// Commands that one question after a stream's state lets run.
const AT_A_LOOK: usize = 24;

impl World {
    /// Lets a stream do up to so many commands. Stalled, or behind a failure that stops it, it does none.
    pub(crate) fn advance(&mut self, stream: usize, most: usize) {
        for _ in 0..most {
            if self.knobs.stalled != 0 {
                return;
            }
            let Some(s) = self.streams.get_mut(&stream) else { return };
            if s.failed.is_some() && s.stops {
                // What can no longer run is dropped; events behind the failure are never reached.
                s.queue.clear();
                return;
            }
            let Some(command) = s.queue.pop_front() else { return };
            self.clock += 1;
            match command {
                Command::Run(what, work) => {
                    if let Err(why) = work(&mut self.memory) {
                        self.say(&format!("{what}: {why}"));
                        if let Some(s) = self.streams.get_mut(&stream) {
                            s.failed.get_or_insert(AICORE_EXCEPTION);
                        }
                    }
                }
                Command::Record(event, point) => {
                    let clock = self.clock;
                    if let Some(event) = self.events.get_mut(&event) {
                        event.reached = event.reached.max(point);
                        event.at = clock;
                    }
                }
                Command::Wait(event, point) => {
                    if self.events.get(&event).is_some_and(|e| e.reached < point) {
                        self.advance_others(stream);
                        if self.events.get(&event).is_some_and(|e| e.reached < point) {
                            let Some(s) = self.streams.get_mut(&stream) else { return };
                            s.queue.push_front(Command::Wait(event, point));
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Lets every other stream do a little: devices work by themselves.
    pub(crate) fn advance_others(&mut self, stream: usize) {
        let others: Vec<usize> = self.streams.keys().copied().filter(|s| *s != stream).collect();
        for other in others {
            self.advance_a_step(other);
        }
    }

    /// One look's worth of commands, of which none waits for another stream's.
    fn advance_a_step(&mut self, stream: usize) {
        for _ in 0..AT_A_LOOK {
            let Some(s) = self.streams.get(&stream) else { return };
            if let Some(&Command::Wait(event, point)) = s.queue.front()
                && self.events.get(&event).is_some_and(|e| e.reached < point)
            {
                return;
            }
            self.advance(stream, 1);
        }
    }

    /// Whether a stream has nothing left to do, after a look at it.
    pub(crate) fn is_idle(&mut self, stream: usize) -> bool {
        self.advance(stream, AT_A_LOOK);
        self.streams.get(&stream).is_none_or(|s| s.queue.is_empty())
    }

    /// Whether an event's last point is reached, after a look at all streams.
    pub(crate) fn is_reached(&mut self, event: usize) -> bool {
        let streams: Vec<usize> = self.streams.keys().copied().collect();
        for stream in streams {
            self.advance_a_step(stream);
        }
        self.events.get(&event).is_none_or(|e| e.reached >= e.recorded)
    }
}
