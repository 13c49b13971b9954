//! Host memory that a device reads where it stands.

use std::sync::Arc;

use qiao_core::{Binding, Error, HostMemory};

use super::scene::{Scene, eventually, pattern, refused, same};
use super::{Broken, Clause, Held, ensure};
use crate::family::Depth;
use crate::subject::Subject;

pub(crate) const CLAUSES: &[Clause] = &[
    Clause { id: "device/import/it_is_there_as_declared", depth: Depth::Smoke, run: declared },
    Clause { id: "device/import/what_is_imported_is_seen", depth: Depth::Smoke, run: seen },
    Clause { id: "device/import/an_imported_buffer_is_never_written", depth: Depth::Smoke, run: read_only },
    Clause { id: "device/import/a_range_outside_the_memory_is_refused", depth: Depth::Smoke, run: outside },
    Clause { id: "device/import/memory_lives_as_long_as_its_buffer", depth: Depth::Standard, run: lives },
];

/// Host memory whose start is a multiple of a page within its buffer, as that of a mapped file is.
struct Pages {
    bytes: Vec<u8>,
    start: usize,
}

/// What a mapped file starts on.
const PAGE: usize = 4096;

/// Bytes of host memory in these clauses.
const SIZE: usize = 20_000;

impl Pages {
    fn new(seed: u64) -> Arc<Pages> {
        let mut bytes = vec![0; SIZE + PAGE];
        let start = bytes.as_ptr().align_offset(PAGE).min(PAGE);
        bytes[start..start + SIZE].copy_from_slice(&pattern(seed, SIZE));
        Arc::new(Pages { bytes, start })
    }
}

impl HostMemory for Pages {
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + SIZE]
    }
}

/// The clause has a subject only where the device imports.
fn imports(subject: &Subject) -> Held {
    if subject.device.info().caps.import_host {
        return Ok(());
    }
    Err(Broken::unsupported("it does not declare import_host"))
}

fn declared(subject: &Subject) -> Held {
    let caps = subject.device.info().caps;
    match subject.device.import(Pages::new(1), 0, SIZE) {
        Ok(_) if caps.import_host => Ok(()),
        Ok(_) => Err(Broken::contract("it imports host memory, yet does not declare import_host")),
        Err(Error::Unsupported { .. }) if !caps.import_host => Ok(()),
        Err(e) if caps.import_host => Err(Broken::contract(format!("it declares import_host, yet: {e}"))),
        Err(e) => Err(Broken::contract(format!("without import_host the answer is unsupported, not: {e}"))),
    }
}

fn seen(subject: &Subject) -> Held {
    imports(subject)?;
    let mut scene = Scene::new(subject)?;
    let memory = Pages::new(2);
    for (offset, bytes) in [(0, SIZE), (0, 1), (PAGE, 5000), (64, 4096), (SIZE, 0)] {
        let buffer = scene.device.import(memory.clone(), offset, bytes)?;
        ensure(buffer.bytes() >= bytes, || format!("a buffer of {} bytes for {bytes}", buffer.bytes()))?;
        let want = &memory.bytes()[offset..offset + bytes];
        let whole = Binding::part(&buffer, 0, bytes);
        scene.expect(&whole, want, &format!("bytes {offset} + {bytes} of imported memory"))?;
        if bytes > 100 {
            scene.expect(&Binding::part(&buffer, 33, 60), &want[33..93], "a part of imported memory")?;
        }
        let copy = scene.alloc(bytes)?;
        scene.stream.copy(&copy, &whole)?;
        scene.expect(&copy, want, "a copy of imported memory")?;
    }
    Ok(())
}

fn read_only(subject: &Subject) -> Held {
    imports(subject)?;
    let mut scene = Scene::new(subject)?;
    let memory = Pages::new(3);
    let before = memory.bytes().to_vec();
    let buffer = scene.device.import(memory.clone(), 0, SIZE)?;
    let part = Binding::part(&buffer, 16, 64);
    let other = scene.holding(&[0xee; 64])?;
    // Each is refused, or without effect.
    let stream = &mut *scene.stream;
    let _ = (stream.upload(&part, &[0xee; 64]), stream.fill(&part, 0xee), stream.copy(&part, &other));
    scene.done()?;
    same(memory.bytes(), &before, "host memory after its buffer was to be written")?;
    scene.expect(&Binding::part(&buffer, 0, SIZE), &before, "an imported buffer after it was to be written")?;
    scene.usable("writing to an imported buffer")
}

fn outside(subject: &Subject) -> Held {
    imports(subject)?;
    let mut scene = Scene::new(subject)?;
    for (offset, bytes) in [(0, SIZE + 1), (1, SIZE), (SIZE, 1), (SIZE + 1, 0), (usize::MAX, 2), (8, usize::MAX - 3)] {
        let what = format!("an import of bytes {offset} + {bytes} of {SIZE}");
        refused(scene.device.import(Pages::new(4), offset, bytes), &what)?;
    }
    scene.usable("imports outside of their memory")
}

fn lives(subject: &Subject) -> Held {
    imports(subject)?;
    let mut scene = Scene::new(subject)?;
    let memory = Pages::new(5);
    let (want, watch) = (memory.bytes().to_vec(), Arc::downgrade(&memory));
    let buffer = Binding::part(&scene.device.import(memory, 0, SIZE)?, 0, SIZE);
    scene.expect(&buffer, &want, "imported memory of which its owner has let go")?;
    let copy = scene.alloc(SIZE)?;
    scene.stream.copy(&copy, &buffer)?;
    drop(buffer);
    scene.expect(&copy, &want, "a copy of imported memory that was dropped at once")?;
    scene.done()?;
    let timeout = scene.timeout;
    drop(scene);
    let gone = eventually(timeout, || watch.upgrade().is_none());
    ensure(gone, || "imported memory is held after its buffer and all work are gone".into())
}
