//! The proxy's end of the socket: requests in flight, and what becomes of them when the process goes.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use qiao_core::{Error, Result};

use super::wire::{Operation, Reader, Writer, receive, send};
use super::words::Word;

/// A process that takes no byte for as long is lost.
const DEAF: Duration = Duration::from_secs(30);

/// How much longer than a call's own bound the answer to it may take on its way.
const GRACE: Duration = Duration::from_secs(2);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process and the socket to it. It ends with the last who holds this.
pub(crate) struct Link {
    pid: u32,
    ordinal: usize,
    number: AtomicU64,
    writer: Mutex<UnixStream>,
    shared: Arc<Shared>,
}

/// What the thread that reads shares with those who wait.
struct Shared {
    waiting: Mutex<Waiting>,
    child: Mutex<Child>,
}

#[derive(Default)]
struct Waiting {
    gone: bool,
    calls: HashMap<u64, Sender<Vec<u8>>>,
}

impl Shared {
    /// Nobody answers any more: whoever waits hears of it.
    fn lose(&self) {
        let calls = {
            let mut waiting = locked(&self.waiting);
            waiting.gone = true;
            std::mem::take(&mut waiting.calls)
        };
        drop(calls);
    }

    /// The same, and the process is taken off the system's list.
    fn end(&self) {
        self.lose();
        let mut child = locked(&self.child);
        // It may have ended by itself, in which case there is nothing to kill.
        let _ = child.kill();
        let _ = child.wait();
    }

    fn read(&self, mut socket: UnixStream) {
        while let Ok(Some(frame)) = receive(&mut socket) {
            let Ok(number) = Reader::new(&frame).u64() else { break };
            let call = locked(&self.waiting).calls.remove(&number);
            if let Some(call) = call {
                // Whoever ran out of patience listens no more.
                let _ = call.send(frame);
            }
        }
        self.end();
    }
}

/// Every process that this one has started, for the gate that knows no backend.
static LINKS: Mutex<Vec<Weak<Link>>> = Mutex::new(Vec::new());

/// Closes or opens the gate of the device at this position of its backend, or of all, in every process.
pub(crate) fn gate(ordinal: Option<usize>, closed: bool) {
    let links: Vec<Arc<Link>> = locked(&LINKS).iter().filter_map(Weak::upgrade).collect();
    for link in links.iter().filter(|l| ordinal.is_none_or(|o| o == l.ordinal)) {
        // A device that is lost has no gate.
        let _ = link.close_gate(closed);
    }
}

impl Link {
    /// Starts the process of a device.
    ///
    /// # Errors
    /// The program can't be started.
    pub(crate) fn start(program: &Path, options: &[String], ordinal: usize) -> Result<Arc<Link>> {
        let failed = |e: io::Error| {
            let mend =
                "build it with `cargo build -p qiao-simnpu --bin qiao-simnpu-device`, or give its path as sim.program";
            Error::invalid(format!("the device program {}", program.display()), e.to_string(), mend)
        };
        let (near, far) = UnixStream::pair().map_err(failed)?;
        near.set_write_timeout(Some(DEAF)).map_err(failed)?;
        let reading = near.try_clone().map_err(failed)?;
        let child = Command::new(program)
            .args(options)
            .stdin(Stdio::from(OwnedFd::from(far)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let pid = child.id();
        let shared = Arc::new(Shared { waiting: Mutex::default(), child: Mutex::new(child) });
        let reader = shared.clone();
        let thread = thread::Builder::new().name(format!("simnpu process {pid}"));
        if let Err(e) = thread.spawn(move || reader.read(reading)) {
            shared.end();
            return Err(failed(e));
        }
        let link = Arc::new(Link { pid, ordinal, number: AtomicU64::new(1), writer: Mutex::new(near), shared });
        let mut links = locked(&LINKS);
        links.retain(|l| l.strong_count() > 0);
        links.push(Arc::downgrade(&link));
        Ok(link)
    }

    /// The number by which the system knows the process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the process has gone.
    pub(crate) fn is_lost(&self) -> bool {
        locked(&self.shared.waiting).gone
    }

    fn lost(&self) -> Error {
        let why = format!("its process {} is gone", self.pid);
        Error::DeviceLost { device: "the simulated device".into(), why }
    }

    /// Closes or opens the device's gate.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub(crate) fn close_gate(&self, closed: bool) -> Result<()> {
        self.call(Operation::Gate, |w| w.flag(closed), Duration::MAX, |_| Ok(()))
    }

    /// Sends a request and waits for the reply to it, no longer than `limit` and a little.
    ///
    /// # Errors
    /// What the device answers; [`Error::Timeout`]; [`Error::DeviceLost`].
    pub(crate) fn call<T>(
        &self,
        operation: Operation,
        values: impl FnOnce(Writer) -> Writer,
        limit: Duration,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T>,
    ) -> Result<T> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = channel();
        {
            let mut waiting = locked(&self.shared.waiting);
            if waiting.gone {
                return Err(self.lost());
            }
            waiting.calls.insert(number, sender);
        }
        self.send(&values(Writer::request(number, operation)))?;
        // A month is for ever, and can be added to the time of day.
        let bound = limit.saturating_add(GRACE).min(Duration::from_secs(30 * 86400));
        let frame = match receiver.recv_timeout(bound) {
            Ok(frame) => frame,
            Err(RecvTimeoutError::Disconnected) => return Err(self.lost()),
            Err(RecvTimeoutError::Timeout) => {
                locked(&self.shared.waiting).calls.remove(&number);
                let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                return Err(Error::Timeout { what: format!("process {} of the device", self.pid), millis });
            }
        };
        let mut r = Reader::new(&frame);
        r.u64()?;
        if r.flag()? { read(&mut r) } else { Err(Error::read(&mut r)?) }
    }

    /// Sends a request to which there is no reply. A process that is gone has forgotten what it was about.
    pub(crate) fn tell(&self, operation: Operation, id: u64) {
        let _ = self.send(&Writer::request(0, operation).u64(id));
    }

    fn send(&self, request: &Writer) -> Result<()> {
        let mut writer = locked(&self.writer);
        send(&mut *writer, &request.0).map_err(|_| {
            // Half a frame may be on its way, so nothing more can follow.
            let _ = writer.shutdown(Shutdown::Both);
            self.shared.lose();
            self.lost()
        })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = locked(&self.writer).shutdown(Shutdown::Both);
        self.shared.end();
    }
}
