//! Cases in a process of their own: a backend that crashes, hangs or aborts costs one case and not the run.
//!
//! The worker reads one request a line and answers with one line that begins with a mark; whatever else a driver prints is
//! passed over. The parent starts it again after each crash and kills it when a case takes too long.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use qiao_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::platform::DeviceFacts;
use crate::subject::Subject;
use crate::verdict::{Check, Failure, Outcome, Record};

/// What every line of the protocol begins with. A driver may print before it on the same line.
const MARK: &str = "\u{1}qiao-worker ";

/// Lines of a worker's standard error that are kept for the record of a crash.
const LAST_WORDS: usize = 12;

#[derive(Serialize, Deserialize)]
struct Request {
    id: String,
    seed: u64,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Ready(Box<DeviceFacts>),
    NotPresent(String),
    Broken(String),
    Record(Box<Record>),
}

/// The worker's side: opens the device, answers every request of `input` on `output`, ends when `input` does.
///
/// # Errors
/// A pipe that is closed.
pub fn serve(
    name: &str,
    open: impl FnOnce() -> Result<Subject>,
    input: impl Read,
    mut output: impl Write,
) -> std::io::Result<()> {
    let mut say = |answer: &Answer| {
        let text = serde_json::to_string(answer).map_err(std::io::Error::other)?;
        writeln!(output, "\n{MARK}{text}")?;
        output.flush()
    };
    let subject = match open() {
        Ok(subject) => subject,
        Err(Error::NotPresent { what, why }) => return say(&Answer::NotPresent(format!("{what}: {why}"))),
        Err(error) => return say(&Answer::Broken(error.to_string())),
    };
    say(&Answer::Ready(Box::new(DeviceFacts::of(name, subject.device.info()))))?;
    for line in BufReader::new(input).lines() {
        let line = line?;
        let record = match serde_json::from_str::<Request>(&line) {
            Ok(request) => match Case::parse(&request.id) {
                Ok(case) => case.run(&subject, request.seed),
                Err(e) => Record::of(request.id, Outcome::Failed(Failure::new(Check::Support, e.to_string()))),
            },
            Err(_) => continue,
        };
        say(&Answer::Record(Box::new(record)))?;
    }
    Ok(())
}

/// Starts the worker process; its standard streams are set by the caller of this.
pub type Start = Box<dyn FnMut() -> Command + Send>;

/// The parent's side.
pub struct Worker {
    start: Start,
    case_timeout: Duration,
    running: Option<Running>,
}

struct Running {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<Answer>,
    last_words: Arc<Mutex<VecDeque<String>>>,
}

impl Worker {
    /// A worker that is started by `start` and killed when one case takes longer than `case_timeout`.
    pub fn new(start: impl FnMut() -> Command + Send + 'static, case_timeout: Duration) -> Worker {
        Worker { start: Box::new(start), case_timeout, running: None }
    }

    /// Starts the worker if it does not run, and hears what its device is.
    ///
    /// # Errors
    /// [`Error::NotPresent`]; the worker can't be started; the device can't be opened, however that ends.
    pub fn device(&mut self) -> Result<DeviceFacts> {
        let failed = |why: String| Error::internal("opening the device in a worker process", why);
        let mut running = Running::start((self.start)()).map_err(|e| failed(e.to_string()))?;
        match running.answers.recv_timeout(self.case_timeout) {
            Ok(Answer::Ready(facts)) => {
                self.running = Some(running);
                Ok(*facts)
            }
            Ok(Answer::NotPresent(why)) => Err(Error::not_present("the device", why)),
            Ok(Answer::Broken(why)) => Err(failed(why)),
            Ok(Answer::Record(_)) => Err(failed("it answered before it was asked".into())),
            Err(RecvTimeoutError::Timeout) => {
                running.kill();
                Err(failed(format!(
                    "it took longer than {:.0?}; give it more with a longer time-out",
                    self.case_timeout
                )))
            }
            Err(RecvTimeoutError::Disconnected) => Err(failed(running.ended())),
        }
    }

    /// Runs a case. A worker that ends or does not answer is a failed case; the next case finds a new one.
    pub fn run(&mut self, id: &str, seed: u64) -> Record {
        let start = Instant::now();
        let fail = |check: Check, why: String| {
            let mut record = Record::of(id, Outcome::Failed(Failure::new(check, why)));
            record.millis = start.elapsed().as_secs_f64() * 1e3;
            record
        };
        if self.running.is_none()
            && let Err(e) = self.device()
        {
            return fail(Check::Crash, e.to_string());
        }
        let Some(mut running) = self.running.take() else { return fail(Check::Crash, "no worker".into()) };
        if running.ask(&Request { id: id.into(), seed }).is_err() {
            return fail(Check::Crash, running.ended());
        }
        match running.answers.recv_timeout(self.case_timeout) {
            Ok(Answer::Record(record)) if record.id == id => {
                self.running = Some(running);
                *record
            }
            Ok(_) => {
                running.kill();
                fail(Check::Crash, "the worker answered out of turn".into())
            }
            Err(RecvTimeoutError::Timeout) => {
                running.kill();
                fail(Check::Timeout, format!("no answer within {:.1?}; the worker was killed", self.case_timeout))
            }
            Err(RecvTimeoutError::Disconnected) => fail(Check::Crash, running.ended()),
        }
    }
}

impl Running {
    fn start(mut command: Command) -> std::io::Result<Running> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (sender, answers) = channel();
        let last_words = Arc::new(Mutex::new(VecDeque::new()));
        let missing = || std::io::Error::other("a pipe of the worker is missing");
        let output = child.stdout.take().ok_or_else(missing)?;
        std::thread::spawn(move || {
            each_line(output, |line| {
                let Some(at) = line.find(MARK) else { return true };
                match serde_json::from_str(&line[at + MARK.len()..]) {
                    Ok(answer) => sender.send(answer).is_ok(),
                    Err(_) => true,
                }
            });
        });
        let (errors, words) = (child.stderr.take().ok_or_else(missing)?, last_words.clone());
        std::thread::spawn(move || {
            each_line(errors, |line| {
                let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
                if words.len() == LAST_WORDS {
                    words.pop_front();
                }
                words.push_back(line.chars().take(400).collect());
                true
            });
        });
        let input = child.stdin.take();
        Ok(Running { child, input, answers, last_words })
    }

    fn ask(&mut self, request: &Request) -> std::io::Result<()> {
        let closed = || std::io::Error::other("closed");
        let input = self.input.as_mut().ok_or_else(closed)?;
        let text = serde_json::to_string(request).map_err(std::io::Error::other)?;
        writeln!(input, "{text}")?;
        input.flush()
    }

    fn kill(&mut self) {
        // It may have ended by itself in the meantime.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ended, and what it said last.
    fn ended(&mut self) -> String {
        self.input = None;
        let status = match self.child.wait() {
            Ok(status) => how(status),
            Err(e) => e.to_string(),
        };
        // The reader of its errors ends when the pipe does; its last lines may still be on their way.
        std::thread::sleep(Duration::from_millis(20));
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        if words.is_empty() { status } else { format!("{status}; it said: {}", words.join(" | ")) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Calls `f` with every line, whatever its bytes, until it says false or there are no more.
fn each_line(from: impl Read, mut f: impl FnMut(String) -> bool) {
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
        if !f(String::from_utf8_lossy(&line).trim_end().to_string()) {
            return;
        }
        line.clear();
    }
}

fn how(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let name = match signal {
            4 => " (illegal instruction)",
            6 => " (abort)",
            7 => " (bus error)",
            8 => " (arithmetic error)",
            9 => " (killed)",
            11 => " (segmentation fault)",
            _ => "",
        };
        return format!("the process ended by signal {signal}{name}");
    }
    format!("the process ended by itself, {status}")
}
