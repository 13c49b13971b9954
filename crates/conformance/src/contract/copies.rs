//! The copy matrix: host to device, device to device, device to host, at every offset and length; and fills.

use qiao_core::{Binding, Error};

use super::scene::{Found, Scene, pattern, read, room, same};
use super::{Broken, Clause, Held, ensure};
use crate::family::Depth;
use crate::subject::Subject;

pub(crate) const CLAUSES: &[Clause] = &[
    Clause { id: "device/copies/an_upload_writes_its_range_and_no_more", depth: Depth::Smoke, run: uploads },
    Clause { id: "device/copies/a_download_reads_its_range", depth: Depth::Smoke, run: downloads },
    Clause { id: "device/copies/a_copy_between_buffers_is_exact", depth: Depth::Smoke, run: between },
    Clause { id: "device/copies/a_copy_within_a_buffer_is_exact", depth: Depth::Smoke, run: within },
    Clause { id: "device/copies/a_copy_between_memories_is_exact", depth: Depth::Smoke, run: memories },
    Clause { id: "device/copies/a_longer_destination_keeps_its_tail", depth: Depth::Smoke, run: tails },
    Clause { id: "device/copies/a_fill_sets_its_range_and_no_more", depth: Depth::Smoke, run: fills },
    Clause { id: "device/copies/nothing_is_moved_by_no_bytes", depth: Depth::Smoke, run: nothing },
    Clause { id: "device/copies/ranges_that_overlap_are_copied_or_refused", depth: Depth::Standard, run: overlapping },
    Clause { id: "device/copies/a_large_copy_is_exact", depth: Depth::Standard, run: large },
];

/// Starts that are multiples of something, and that are not.
const OFFSETS: &[usize] = &[0, 1, 3, 64, 65];

/// Lengths either side of what moves at once.
const LENGTHS: &[usize] = &[1, 2, 7, 63, 64, 65, 1000, 4097];

/// Bytes of the buffers between which ranges move.
const BUFFER: usize = 4400;

fn uploads(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let mut image = pattern(1, BUFFER);
    let target = scene.holding(&image)?;
    for &offset in OFFSETS {
        for &bytes in LENGTHS {
            let data = pattern((offset * 5000 + bytes) as u64, bytes);
            scene.stream.upload(&Binding::part(&target.buffer, offset, bytes), &data)?;
            image[offset..offset + bytes].copy_from_slice(&data);
            scene.expect(&target, &image, &format!("a buffer after an upload of {bytes} bytes to offset {offset}"))?;
        }
    }
    Ok(())
}

fn downloads(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let image = pattern(2, BUFFER);
    let source = scene.holding(&image)?;
    for &offset in OFFSETS {
        for &bytes in LENGTHS {
            let range = Binding::part(&source.buffer, offset, bytes);
            scene.expect(&range, &image[offset..offset + bytes], &format!("bytes {offset} + {bytes} of a buffer"))?;
            // A range may be longer than what is asked of it.
            let mut start = vec![0; bytes / 2];
            scene.stream.download(&mut start, &range)?;
            same(&start, &image[offset..offset + bytes / 2], &format!("the first half of bytes {offset} + {bytes}"))?;
        }
    }
    scene.expect(&source, &image, "a buffer that was only read")
}

/// Copies every range from one buffer to every offset of another.
fn matrix(scene: &mut Scene, source: &Binding, from: &[u8], target: &Binding) -> Held {
    let mut image = pattern(4, BUFFER);
    scene.stream.upload(target, &image)?;
    for &to in OFFSETS {
        for &at in OFFSETS {
            for &bytes in LENGTHS {
                let (dst, src) = (Binding::part(&target.buffer, to, bytes), Binding::part(&source.buffer, at, bytes));
                scene.stream.copy(&dst, &src)?;
                image[to..to + bytes].copy_from_slice(&from[at..at + bytes]);
                let what = format!("the destination after a copy of {bytes} bytes from offset {at} to offset {to}");
                scene.expect(target, &image, &what)?;
            }
        }
    }
    scene.expect(source, from, "the source of copies")
}

fn between(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let from = pattern(3, BUFFER);
    let (source, target) = (scene.holding(&from)?, scene.alloc(BUFFER)?);
    matrix(&mut scene, &source, &from, &target)
}

fn memories(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let count = scene.device.info().memories.len();
    if count < 2 {
        return Err(Broken::unsupported("it has one memory"));
    }
    let buffer = |scene: &Scene, memory: usize| -> Found<Binding> {
        Ok(Binding::part(&scene.device.alloc(memory, BUFFER)?, 0, BUFFER))
    };
    for a in 0..count {
        for b in 0..count {
            let (source, target) = (buffer(&scene, a)?, buffer(&scene, b)?);
            let from = pattern(7 + a as u64, BUFFER);
            scene.stream.upload(&source, &from)?;
            matrix(&mut scene, &source, &from, &target)?;
        }
    }
    Ok(())
}

fn within(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let mut image = pattern(5, 3 * BUFFER);
    let buffer = scene.holding(&image)?;
    for &offset in OFFSETS {
        for &bytes in LENGTHS {
            // Upwards, downwards, and side by side.
            for (at, to) in [(offset, BUFFER + 1), (BUFFER + 1, offset), (offset, offset + bytes)] {
                let (dst, src) = (Binding::part(&buffer.buffer, to, bytes), Binding::part(&buffer.buffer, at, bytes));
                scene.stream.copy(&dst, &src)?;
                image.copy_within(at..at + bytes, to);
                let what = format!("a buffer after {bytes} bytes were copied from offset {at} to offset {to}");
                scene.expect(&buffer, &image, &what)?;
            }
        }
    }
    Ok(())
}

fn tails(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let mut image = pattern(6, 500);
    let target = scene.holding(&image)?;
    let source = scene.holding(&pattern(7, 500))?;
    for bytes in [0, 1, 63, 65, 200] {
        let data = pattern(bytes as u64, bytes);
        scene.stream.upload(&Binding::part(&target.buffer, 10, 300), &data)?;
        image[10..10 + bytes].copy_from_slice(&data);
        scene.expect(&target, &image, &format!("a range of 300 after an upload of {bytes}"))?;
        scene.stream.copy(&Binding::part(&target.buffer, 20, 400), &Binding::part(&source.buffer, 5, bytes))?;
        image[20..20 + bytes].copy_from_slice(&pattern(7, 500)[5..5 + bytes]);
        scene.expect(&target, &image, &format!("a range of 400 after a copy of {bytes}"))?;
    }
    Ok(())
}

fn fills(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let mut image = pattern(8, BUFFER);
    let target = scene.holding(&image)?;
    for (i, &offset) in OFFSETS.iter().enumerate() {
        for (j, &bytes) in LENGTHS.iter().enumerate() {
            let byte = [0x00, 0xff, 0xa5, 0x01, 0x80][(i + j) % 5];
            scene.stream.fill(&Binding::part(&target.buffer, offset, bytes), byte)?;
            image[offset..offset + bytes].fill(byte);
            scene.expect(
                &target,
                &image,
                &format!("a buffer after {bytes} bytes at {offset} were set to {byte:#04x}"),
            )?;
        }
    }
    Ok(())
}

fn nothing(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let image = pattern(9, 100);
    let (a, empty) = (scene.holding(&image)?, scene.alloc(0)?);
    // The last is the end of the buffer, which is inside for no bytes.
    for offset in [0, 1, a.buffer.bytes()] {
        let none = Binding::part(&a.buffer, offset, 0);
        scene.stream.upload(&none, &[])?;
        scene.stream.download(&mut [], &none)?;
        scene.stream.fill(&none, 0xee)?;
        scene.stream.copy(&none, &Binding::part(&a.buffer, 50, 0))?;
        scene.stream.copy(&empty, &none)?;
        scene.stream.copy(&none, &empty)?;
    }
    scene.stream.upload(&empty, &[])?;
    scene.stream.fill(&empty, 0xee)?;
    scene.done()?;
    scene.expect(&a, &image, "a buffer after commands of no bytes")
}

fn overlapping(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let mut image = pattern(10, 3000);
    let buffer = scene.holding(&image)?;
    for (at, to, bytes) in [(0, 1, 64), (1, 0, 64), (0, 64, 1000), (64, 0, 1000), (100, 101, 2048), (7, 7, 333)] {
        let (dst, src) = (Binding::part(&buffer.buffer, to, bytes), Binding::part(&buffer.buffer, at, bytes));
        match scene.stream.copy(&dst, &src) {
            Ok(()) => image.copy_within(at..at + bytes, to),
            Err(Error::Invalid { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        let what = format!("a buffer after {bytes} bytes were to be copied from offset {at} to offset {to}");
        scene.expect(&buffer, &image, &what)?;
    }
    scene.usable("copies of ranges that overlap")
}

fn large(subject: &Subject) -> Held {
    let mut scene = Scene::new(subject)?;
    let bytes = room(&scene.device.info().memories[0]).min(24 << 20) | 1;
    let data = pattern(11, bytes);
    let (a, b) = (scene.holding(&data)?, scene.alloc(bytes)?);
    scene.stream.copy(&b, &a)?;
    let back = read(&mut *scene.stream, &b)?;
    same(&back, &data, &format!("a copy of {bytes} bytes"))?;
    // Nearly all of it once more, by one byte further.
    scene.stream.copy(&Binding::part(&b.buffer, 1, bytes - 1), &Binding::part(&a.buffer, 0, bytes - 1))?;
    let back = read(&mut *scene.stream, &b)?;
    ensure(back[0] == data[0], || "the byte before a large copy was changed".into())?;
    same(&back[1..], &data[..bytes - 1], &format!("a copy of {} bytes to offset 1", bytes - 1))
}
