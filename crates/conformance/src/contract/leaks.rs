//! What is made and dropped thousands of times leaves nothing behind.
//!
//! A leak shows as growth in every single round: of the process's resident memory, its threads, its open files, and what
//! is taken of the device's memory. One round without growth, of up to fifteen, clears a device; whatever else the process
//! does meanwhile would have to grow as steadily.

use std::time::{Duration, Instant};

use qiao_core::OpKind;

use super::members::{Member, Places};
use super::scene::{Found, Scene};
use super::{Broken, Clause, Held};
use crate::family::Depth;
use crate::subject::Subject;

pub(crate) const CLAUSES: &[Clause] = &[
    Clause { id: "device/leaks/buffers_are_given_back", depth: Depth::Standard, run: buffers },
    Clause { id: "device/leaks/streams_are_given_back", depth: Depth::Standard, run: streams },
    Clause { id: "device/leaks/events_are_given_back", depth: Depth::Standard, run: events },
    Clause { id: "device/leaks/commands_are_given_back", depth: Depth::Standard, run: commands },
    Clause { id: "device/leaks/plans_are_given_back", depth: Depth::Standard, run: plans },
    Clause { id: "device/leaks/devices_are_given_back", depth: Depth::Standard, run: devices },
];

/// Rounds that must all grow for a leak, and how often they are tried.
const ROUNDS: usize = 5;
const TRIES: usize = 3;

/// What one round may leave behind, of each kind, before it counts as growth.
#[derive(Clone, Copy)]
struct Least {
    bytes: u64,
    things: u64,
}

/// What the process and the device hold now.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    resident: u64,
    threads: u64,
    files: u64,
    device: u64,
}

/// A number of a file that has a line for each.
fn field(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|l| l.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Resident bytes, threads and open files of this process, as Linux tells them; `None` elsewhere.
fn process() -> Option<(u64, u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    // The one counts pages, the other adds up what each processor has counted so far.
    let resident = std::fs::read_to_string("/proc/self/smaps_rollup").ok();
    let resident = resident.and_then(|text| field(&text, "Rss:")).or_else(|| field(&status, "VmRSS:"));
    let files = std::fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    Some((resident? << 10, field(&status, "Threads:")?, files))
}

/// Bytes taken of device memory that is not the host's, where the device says what is free; 0 where it does not.
fn device_bytes(subject: &Subject) -> u64 {
    let local = |m: &&qiao_core::MemoryInfo| !m.kind.host_visible && m.free_bytes > 0 && m.total_bytes > 0;
    let known = subject.device.info().memories.iter().any(|m| local(&m));
    let Some(device) = known.then(|| (subject.open)().ok()).flatten() else { return 0 };
    device.info().memories.iter().filter(local).map(|m| m.total_bytes - m.free_bytes.min(m.total_bytes)).sum()
}

fn now(subject: &Subject) -> Found<Figures> {
    let (resident, threads, files) =
        process().ok_or_else(|| Broken::unsupported("this system does not tell what a process holds"))?;
    Ok(Figures { resident, threads, files, device: device_bytes(subject) })
}

/// Runs a round again and again; it tells how many times it did its work.
fn steady(subject: &Subject, what: &str, each: Least, mut round: impl FnMut() -> Found<u64>) -> Held {
    let mut first = true;
    let mut found = String::new();
    for _ in 0..TRIES {
        let mut grown = [true; 4];
        let mut total = [0u64; 4];
        let mut cycles = 0;
        // The first rounds fill what is kept for later.
        for _ in 0..if first { 3 } else { 1 } {
            round()?;
        }
        first = false;
        let mut before = now(subject)?;
        for _ in 0..ROUNDS {
            let times = round()?;
            cycles += times;
            let after = now(subject)?;
            let pairs = [
                (before.resident, after.resident, each.bytes),
                (before.threads, after.threads, each.things),
                (before.files, after.files, each.things),
                (before.device, after.device, each.bytes),
            ];
            for (i, (b, a, least)) in pairs.into_iter().enumerate() {
                let growth = a.saturating_sub(b);
                // Half of what a leak of every single one would leave.
                grown[i] &= growth > 0 && 2 * growth >= least * times;
                total[i] += growth;
            }
            before = after;
        }
        let names = ["bytes of resident memory", "threads", "open files", "bytes of device memory"];
        match grown.iter().position(|g| *g) {
            None => return Ok(()),
            Some(i) => found = format!("{cycles} {what} left {} {} behind, round by round", total[i], names[i]),
        }
    }
    Err(Broken::contract(found))
}

/// How long one round may take: a slow device does fewer of what is counted.
fn within(subject: &Subject, most: u64, cycle: impl FnMut() -> Held) -> Found<u64> {
    between(subject, 4, most, cycle)
}

fn between(subject: &Subject, least: u64, most: u64, mut cycle: impl FnMut() -> Held) -> Found<u64> {
    let limit = (subject.timeout / 60).min(Duration::from_millis(500));
    let start = Instant::now();
    let mut times = 0;
    while times < most && (times < least || start.elapsed() < limit) {
        cycle()?;
        times += 1;
    }
    Ok(times)
}

fn buffers(subject: &Subject) -> Held {
    const BYTES: usize = 64 << 10;
    let mut scene = Scene::new(subject)?;
    steady(subject, "buffers of 64 KiB", Least { bytes: BYTES as u64, things: 1 }, || {
        within(subject, 400, || {
            let buffer = scene.alloc(BYTES)?;
            scene.stream.fill(&buffer, 1)?;
            scene.done()
        })
    })
}

fn streams(subject: &Subject) -> Held {
    let scene = Scene::new(subject)?;
    let buffer = scene.alloc(64)?;
    steady(subject, "streams", Least { bytes: 256, things: 1 }, || {
        within(subject, 400, || {
            let mut stream = scene.device.stream()?;
            stream.fill(&buffer, 1)?;
            Ok(stream.sync(scene.timeout)?)
        })
    })
}

fn events(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let mut other = scene.device.stream()?;
    steady(subject, "events", Least { bytes: 48, things: 1 }, || {
        within(subject, 4000, || {
            let event = scene.device.event()?;
            scene.stream.record(&*event)?;
            other.wait(&*event)?;
            event.sync(scene.timeout)?;
            Ok(other.sync(scene.timeout)?)
        })
    })
}

/// Executions, where the device runs anything, copies and fills.
fn commands(subject: &Subject) -> Held {
    const PAIRS: u64 = 50;
    executions(subject)?;
    let mut scene = Scene::new(subject)?;
    let (a, b) = (scene.alloc(256)?, scene.alloc(256)?);
    steady(subject, "commands", Least { bytes: 32, things: 1 }, || {
        // What is queued takes its time when it is waited for.
        let times = between(subject, 2, 4000 / PAIRS, || {
            for _ in 0..PAIRS {
                scene.stream.copy(&a, &b)?;
                scene.stream.fill(&b, 1)?;
            }
            scene.done()
        })?;
        Ok(2 * PAIRS * times)
    })
}

/// A small node of an operator, with all that it needs to run.
struct Ready {
    member: Member,
    room: Places,
}

/// Every node that the device runs, ready on one stream.
fn ready(subject: &Subject, scene: &mut Scene) -> Found<Vec<Ready>> {
    let mut all = Vec::new();
    for member in Member::all(&subject.device)? {
        let (room, facts) = (member.room()?, member.facts(1)?);
        member.load(&mut *scene.stream, &room, &facts)?;
        all.push(Ready { member, room });
    }
    scene.done()?;
    Ok(all)
}

/// Something done with each node, round by round. Which one leaves the most behind is asked where something is left.
fn of_each(subject: &Subject, most: u64, what: &str, mut one: impl FnMut(&mut Scene, &Ready) -> Held) -> Held {
    const TIMES: u64 = 32;
    let mut scene = Scene::new(subject)?;
    let all = ready(subject, &mut scene)?;
    let found = steady(subject, what, Least { bytes: 512, things: 1 }, || {
        // A cycle is many commands.
        between(subject, 2, most, || {
            all.iter().try_for_each(|ready| one(&mut scene, ready))?;
            scene.done()
        })
    });
    let Err(Broken::Failed(mut failure)) = found else { return found };
    let mut worst = (0, OpKind::Copy);
    for ready in &all {
        let before = now(subject)?;
        for _ in 0..TIMES {
            one(&mut scene, ready)?;
            scene.done()?;
        }
        let after = now(subject)?;
        let grown = after.resident.saturating_sub(before.resident) + after.device.saturating_sub(before.device);
        worst = worst.max((grown, ready.member.kind));
    }
    if worst.0 > 0 {
        failure.why = format!("{}; {TIMES} more of {} left {} bytes", failure.why, worst.1, worst.0);
    }
    Err(Broken::Failed(failure))
}

fn executions(subject: &Subject) -> Held {
    of_each(subject, 128, "executions of each small node", |scene, ready| {
        ready.member.execute(&mut *scene.stream, &ready.room)
    })
}

fn plans(subject: &Subject) -> Held {
    Member::each(&subject.device)?;
    let device = subject.device.clone();
    of_each(subject, 100, "plans of each small node", |scene, ready| {
        let plan = device.plan(&ready.member.graph)?;
        ready.member.execute_as(&*plan, &mut *scene.stream, &ready.room)?;
        // It goes when it has run, as most do.
        scene.done()
    })
}

fn devices(subject: &Subject) -> Held {
    steady(subject, "openings of the device", Least { bytes: 1024, things: 1 }, || {
        within(subject, 100, || {
            let mut scene = Scene::reopened(subject)?;
            let buffer = scene.alloc(4096)?;
            scene.stream.fill(&buffer, 1)?;
            scene.done()
        })
    })
}
