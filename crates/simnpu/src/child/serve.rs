//! The device's end of the socket: it reads requests in order and answers each, whatever the others wait for.
//!
//! A stream has a thread of its own, which makes its calls in the order of their requests; calls that may take long have
//! one for themselves. What a request names is looked up when it arrives. When the socket ends, so does the process.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use qiao_core::{Binding, Buffer, Device, Error, Event, Graph, Plan, Result, Stream, TensorDesc};

use super::wire::{Operation, Reader, Writer, garbled, receive, send};
use super::words::Word;
use crate::backend::{SimBackend, gate};
use crate::device::SimDevice;
use crate::options::Settings;

/// What a call answers, behind its number and whether it went well.
type Answer = Box<dyn FnOnce(Writer) -> Writer>;

/// A call on a stream.
type Call = Box<dyn FnOnce(&mut dyn Stream) -> Result<Answer> + Send>;

/// Something that the host holds by its number.
enum Thing {
    Device(Arc<SimDevice>),
    Buffer(Arc<dyn Buffer>),
    Event(Arc<dyn Event>),
    Plan(Arc<dyn Plan>),
    Stream(Sender<(u64, Call)>),
}

#[derive(Default)]
struct Things {
    next: u64,
    held: HashMap<u64, Thing>,
}

struct Server {
    backend: SimBackend,
    things: Mutex<Things>,
    writer: Mutex<UnixStream>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nothing() -> Result<Answer> {
    Ok(Box::new(|w| w))
}

fn no_thread(e: io::Error) -> Error {
    Error::internal("the process of the simulated device", format!("the system gives no thread: {e}"))
}

/// The number of something new.
fn named(id: u64) -> Result<Answer> {
    Ok(Box::new(move |w| w.u64(id)))
}

/// Serves one device to the process at the other end of the socket that is the standard input, until that end is closed.
///
/// # Errors
/// Words that are no options; a standard input that is no socket; requests that can't be read.
pub fn serve<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let failed = |e: io::Error| Error::internal("the process of the simulated device", e.to_string());
    let settings = Settings::from_words(words)?;
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    let writer = Mutex::new(socket.try_clone().map_err(failed)?);
    let server = Arc::new(Server { backend: SimBackend::far(settings), things: Mutex::default(), writer });
    // A host that is killed may leave half a frame behind.
    while let Ok(Some(frame)) = receive(&mut socket) {
        server.clone().take(&frame)?;
    }
    Ok(())
}

impl Server {
    fn hold(&self, thing: Thing) -> u64 {
        let mut things = locked(&self.things);
        things.next += 1;
        let id = things.next;
        things.held.insert(id, thing);
        id
    }

    fn reply(&self, number: u64, answer: Result<Answer>) {
        let w = Writer::default().u64(number);
        let w = match answer {
            Ok(values) => values(w.flag(true)),
            Err(error) => error.write(w.flag(false)),
        };
        // Where nobody reads any more the socket ends, and the process with it.
        let _ = send(&mut *locked(&self.writer), &w.0);
    }

    /// Makes a call; one that panics has failed.
    fn answered(&self, number: u64, call: impl FnOnce() -> Result<Answer>) {
        let panicked = |_| Err(Error::internal("the process of the simulated device", "a call panicked"));
        self.reply(number, catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(panicked));
    }

    /// Makes a call on a thread of its own.
    fn apart(
        self: Arc<Self>,
        number: u64,
        call: impl FnOnce(&Server) -> Result<Answer> + Send + 'static,
    ) -> Result<()> {
        let thread = thread::Builder::new().name("call".into());
        let thread = thread.spawn(move || self.answered(number, || call(&self)));
        thread.map(|_| ()).map_err(no_thread)
    }

    fn device(&self, r: &mut Reader<'_>) -> Result<Arc<SimDevice>> {
        match locked(&self.things).held.get(&r.u64()?) {
            Some(Thing::Device(device)) => Ok(device.clone()),
            _ => Err(garbled("a device")),
        }
    }

    fn event(&self, r: &mut Reader<'_>) -> Result<Arc<dyn Event>> {
        match locked(&self.things).held.get(&r.u64()?) {
            Some(Thing::Event(event)) => Ok(event.clone()),
            _ => Err(garbled("an event")),
        }
    }

    fn binding(&self, r: &mut Reader<'_>) -> Result<Binding> {
        match locked(&self.things).held.get(&r.u64()?) {
            Some(Thing::Buffer(buffer)) => Ok(Binding { buffer: buffer.clone(), offset: r.size()?, bytes: r.size()? }),
            _ => Err(garbled("a buffer")),
        }
    }

    fn plan(&self, r: &mut Reader<'_>) -> Result<Arc<dyn Plan>> {
        match locked(&self.things).held.get(&r.u64()?) {
            Some(Thing::Plan(plan)) => Ok(plan.clone()),
            _ => Err(garbled("a plan")),
        }
    }

    /// Takes a request.
    fn take(self: Arc<Self>, frame: &[u8]) -> Result<()> {
        let mut r = Reader::new(frame);
        let (number, operation) = (r.u64()?, r.operation()?);
        let result = match operation {
            Operation::DropStream | Operation::Free | Operation::Close | Operation::DropEvent | Operation::DropPlan => {
                let thing = locked(&self.things).held.remove(&r.u64()?);
                drop(thing);
                return Ok(());
            }
            Operation::Alloc | Operation::Plan | Operation::EventSync => self.clone().slow(number, operation, &mut r),
            Operation::Open | Operation::Stream | Operation::Event | Operation::PrepackBytes | Operation::Gate => {
                self.quick(number, operation, &mut r)
            }
            Operation::EventReached | Operation::EventSince => self.quick(number, operation, &mut r),
            _ => self.queue(number, operation, &mut r),
        };
        if let Err(error) = result {
            self.reply(number, Err(error));
        }
        Ok(())
    }

    /// Calls that may take long.
    fn slow(self: Arc<Self>, number: u64, operation: Operation, r: &mut Reader<'_>) -> Result<()> {
        if operation == Operation::EventSync {
            let (event, timeout) = (self.event(r)?, r.time()?);
            return self.apart(number, move |_| event.sync(timeout).and_then(|()| nothing()));
        }
        let device = self.device(r)?;
        if operation == Operation::Alloc {
            let (memory, bytes) = (r.size()?, r.size()?);
            return self.apart(number, move |server| named(server.hold(Thing::Buffer(device.alloc(memory, bytes)?))));
        }
        let graph = Graph::from_text(&r.text()?)?;
        self.apart(number, move |server| {
            let plan = device.plan(&graph)?;
            let info = plan.info();
            let id = server.hold(Thing::Plan(plan));
            Ok(Box::new(move |w| info.write(w.u64(id))))
        })
    }

    /// Calls that are answered at once.
    fn quick(self: &Arc<Self>, number: u64, operation: Operation, r: &mut Reader<'_>) -> Result<()> {
        let answer = match operation {
            Operation::Open => {
                let device = Arc::new(self.backend.open_device(0)?);
                let (info, id) = (device.info().clone(), self.hold(Thing::Device(device)));
                Ok(Box::new(move |w: Writer| info.write(w.u64(id))) as Answer)
            }
            Operation::Stream => named(self.clone().stream(self.device(r)?.stream()?)?),
            Operation::Event => named(self.hold(Thing::Event(self.device(r)?.event()?))),
            Operation::PrepackBytes => {
                let device = self.device(r)?;
                named(device.prepack_bytes(&TensorDesc::read(r)?, r.u64()?)? as u64)
            }
            Operation::Gate => {
                gate(None, r.flag()?);
                nothing()
            }
            Operation::EventReached => {
                let reached = self.event(r)?.is_reached()?;
                Ok(Box::new(move |w: Writer| w.flag(reached)) as Answer)
            }
            _ => {
                let (later, earlier) = (self.event(r)?, self.event(r)?);
                let span: Option<Duration> = later.since(&*earlier);
                Ok(Box::new(move |w: Writer| span.write(w)) as Answer)
            }
        };
        self.reply(number, answer);
        Ok(())
    }

    /// A thread for a stream; it ends when the host has let go of it and everything before is answered.
    fn stream(self: Arc<Self>, mut stream: Box<dyn Stream>) -> Result<u64> {
        let (sender, calls): (_, Receiver<(u64, Call)>) = channel();
        let server = self.clone();
        let thread = thread::Builder::new().name("stream".into()).spawn(move || {
            for (number, call) in calls {
                server.answered(number, || call(&mut *stream));
            }
        });
        thread.map_err(no_thread)?;
        Ok(self.hold(Thing::Stream(sender)))
    }

    /// Calls on a stream.
    fn queue(&self, number: u64, operation: Operation, r: &mut Reader<'_>) -> Result<()> {
        let stream = match locked(&self.things).held.get(&r.u64()?) {
            Some(Thing::Stream(stream)) => stream.clone(),
            _ => return Err(garbled("a stream")),
        };
        let call = self.call(operation, r)?;
        stream.send((number, call)).map_err(|_| garbled("a stream whose thread is gone"))
    }

    fn call(&self, operation: Operation, r: &mut Reader<'_>) -> Result<Call> {
        let done = |result: Result<()>| result.and_then(|()| nothing());
        Ok(match operation {
            Operation::Patience => {
                let limit = r.time()?;
                Box::new(move |s| {
                    s.set_patience(limit);
                    nothing()
                })
            }
            Operation::Upload => {
                let (dst, data) = (self.binding(r)?, r.bytes()?.to_vec());
                Box::new(move |s| done(s.upload(&dst, &data)))
            }
            Operation::Download => {
                let (src, len) = (self.binding(r)?, r.size()?);
                Box::new(move |s| {
                    src.check("download", len)?;
                    let mut bytes = vec![0; len];
                    s.download(&mut bytes, &src)?;
                    Ok(Box::new(move |w| w.bytes(&bytes)))
                })
            }
            Operation::Copy => {
                let (dst, src) = (self.binding(r)?, self.binding(r)?);
                Box::new(move |s| done(s.copy(&dst, &src)))
            }
            Operation::Fill => {
                let (dst, byte) = (self.binding(r)?, r.u8()?);
                Box::new(move |s| done(s.fill(&dst, byte)))
            }
            Operation::Sync => {
                let timeout = r.time()?;
                Box::new(move |s| done(s.sync(timeout)))
            }
            Operation::Record => {
                let event = self.event(r)?;
                Box::new(move |s| done(s.record(&*event)))
            }
            Operation::Wait => {
                let event = self.event(r)?;
                Box::new(move |s| done(s.wait(&*event)))
            }
            Operation::Execute => {
                let (plan, bindings) = (self.plan(r)?, r.list(|r| self.binding(r))?);
                let workspace = self.binding(r)?;
                Box::new(move |s| done(plan.execute(s, &bindings, &workspace)))
            }
            Operation::Prepack => {
                let (device, tensor, layout) = (self.device(r)?, TensorDesc::read(r)?, r.u64()?);
                let (src, dst) = (self.binding(r)?, self.binding(r)?);
                Box::new(move |s| done(device.prepack(s, &tensor, &src, layout, &dst)))
            }
            _ => return Err(garbled("an operation")),
        })
    }
}
