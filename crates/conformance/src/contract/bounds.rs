//! Ranges that do not fit: refused at the call, nothing written, the stream as it was.

use qiao_core::{Binding, Result, Stream};

use super::scene::{Found, Scene, pattern, refused, same};
use super::{Clause, Held, ensure};
use crate::family::Depth;
use crate::subject::Subject;

pub(crate) const CLAUSES: &[Clause] = &[
    Clause { id: "device/bounds/an_upload_outside_its_buffer_is_refused", depth: Depth::Smoke, run: uploads },
    Clause { id: "device/bounds/a_download_outside_its_buffer_is_refused", depth: Depth::Smoke, run: downloads },
    Clause { id: "device/bounds/a_copy_from_outside_its_buffer_is_refused", depth: Depth::Smoke, run: sources },
    Clause { id: "device/bounds/a_copy_to_outside_its_buffer_is_refused", depth: Depth::Smoke, run: destinations },
    Clause { id: "device/bounds/a_fill_outside_its_buffer_is_refused", depth: Depth::Smoke, run: fills },
    Clause { id: "device/bounds/a_range_too_short_for_the_bytes_is_refused", depth: Depth::Smoke, run: too_short },
];

/// How many bytes are asked for. A buffer may have more; what it has is its bound.
const ASKED: usize = 1000;

/// Offset and length of ranges that do not lie in a buffer of `n` bytes.
fn outside(n: usize) -> [(usize, usize); 9] {
    [
        (0, n + 1),
        (1, n),
        (n - 1, 2),
        (n, 1),
        (n + 1, 0),
        (n / 2, 1 << 60),
        (usize::MAX, 1),
        // Offset + length wraps round to a place inside.
        (8, usize::MAX - 3),
        (usize::MAX - 3, 8),
    ]
}

/// Two full buffers whose every byte is watched.
struct Watched {
    scene: Scene,
    target: Binding,
    other: Binding,
    image: Vec<u8>,
    beside: Vec<u8>,
}

impl Watched {
    fn new(subject: &Subject) -> Found<Watched> {
        let mut scene = Scene::new(subject)?;
        let target = Binding::whole(scene.device.alloc(0, ASKED)?);
        let other = Binding::whole(scene.device.alloc(0, ASKED)?);
        let (image, beside) = (pattern(1, target.bytes), pattern(2, other.bytes));
        scene.stream.upload(&target, &image)?;
        scene.stream.upload(&other, &beside)?;
        Ok(Watched { scene, target, other, image, beside })
    }

    /// A command that must be refused and must have done nothing.
    fn refuses(&mut self, what: &str, command: impl FnOnce(&mut dyn Stream, &Binding) -> Result<()>) -> Held {
        refused(command(&mut *self.scene.stream, &self.other), what)?;
        self.scene.done()?;
        self.scene.expect(&self.target, &self.image, &format!("its buffer after {what}"))?;
        self.scene.expect(&self.other, &self.beside, &format!("another buffer after {what}"))
    }

    /// Holds a command to every range outside of the target.
    fn each(subject: &Subject, verb: &str, command: fn(&mut dyn Stream, &Binding, &Binding) -> Result<()>) -> Held {
        let mut watched = Watched::new(subject)?;
        let n = watched.target.bytes;
        for (offset, bytes) in outside(n) {
            let range = Binding::part(&watched.target.buffer, offset, bytes);
            let what = format!("{verb} bytes {offset} + {bytes} of a buffer of {n}");
            watched.refuses(&what, |stream, other| command(stream, &range, other))?;
        }
        watched.scene.usable("ranges outside of a buffer")
    }
}

/// As many bytes as a range claims, where that is no more than a buffer could hold.
fn claimed(range: &Binding) -> usize {
    if range.bytes <= 4 * ASKED + (1 << 20) { range.bytes } else { 16 }
}

fn uploads(subject: &Subject) -> Held {
    Watched::each(subject, "an upload to", |stream, range, _| stream.upload(range, &vec![0xee; claimed(range)]))
}

fn downloads(subject: &Subject) -> Held {
    let mut watched = Watched::new(subject)?;
    let n = watched.target.bytes;
    for (offset, bytes) in outside(n) {
        let range = Binding::part(&watched.target.buffer, offset, bytes);
        let what = format!("a download from bytes {offset} + {bytes} of a buffer of {n}");
        let mut host = vec![0xee; claimed(&range)];
        watched.refuses(&what, |stream, _| stream.download(&mut host, &range))?;
        let untouched = host.iter().all(|b| *b == 0xee);
        ensure(untouched, || format!("{what} was refused, yet the host's bytes have changed"))?;
    }
    watched.scene.usable("downloads from outside of a buffer")
}

fn sources(subject: &Subject) -> Held {
    Watched::each(subject, "a copy from", |stream, range, other| stream.copy(other, range))
}

fn destinations(subject: &Subject) -> Held {
    Watched::each(subject, "a copy to", |stream, range, other| {
        // The source lies in its buffer, so that the destination alone is wrong.
        let bytes = range.bytes.clamp(1, other.bytes);
        stream.copy(range, &Binding { bytes, ..other.clone() })
    })
}

fn fills(subject: &Subject) -> Held {
    Watched::each(subject, "a fill of", |stream, range, _| stream.fill(range, 0xee))
}

fn too_short(subject: &Subject) -> Held {
    let mut watched = Watched::new(subject)?;
    for (range, bytes) in [(0, 1), (1, 2), (63, 64), (64, 65), (512, 999)] {
        let part = Binding::part(&watched.target.buffer, 1, range);
        let what = |verb: &str| format!("{verb} of {bytes} bytes with a range of {range}");
        watched.refuses(&what("an upload"), |stream, _| stream.upload(&part, &vec![0xee; bytes]))?;
        let mut host = vec![0xee; bytes];
        watched.refuses(&what("a download"), |stream, _| stream.download(&mut host, &part))?;
        same(&host, &vec![0xee; bytes], &what("the host's bytes after a refused download"))?;
        watched.refuses(&what("a copy"), |stream, other| stream.copy(&part, &Binding { bytes, ..other.clone() }))?;
    }
    watched.scene.usable("ranges that are too short")
}
