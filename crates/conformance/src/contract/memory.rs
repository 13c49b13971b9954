//! Allocation and copies.

use qiao_core::Binding;

use super::{Clause, Held, ensure};
use crate::family::Depth;
use crate::subject::Subject;

pub(crate) const CLAUSES: &[Clause] =
    &[Clause { id: "device/memory/what_is_uploaded_is_downloaded", depth: Depth::Smoke, run: round_trip }];

fn round_trip(subject: &Subject) -> Held {
    let mut stream = subject.device.stream()?;
    for bytes in [1usize, 3, 64, 4097, 1 << 20] {
        let data: Vec<u8> = (0..bytes).map(|i| (i.wrapping_mul(31) >> 3) as u8).collect();
        let buffer = Binding::whole(subject.device.alloc(0, bytes)?);
        stream.upload(&Binding { bytes, ..buffer.clone() }, &data)?;
        let mut back = vec![0; bytes];
        stream.download(&mut back, &Binding { bytes, ..buffer })?;
        ensure(back == data, || format!("{bytes} bytes came back changed"))?;
    }
    Ok(())
}
