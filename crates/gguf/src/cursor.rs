//! Reading a header from front to back, no further than it goes.

use std::fmt;

use crate::error::{GgufError, Result, excerpt};

const TRUNCATED: &str = "the file is cut short or damaged: compare its size with the source and download it again";

/// What is being read, for error texts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    Header,
    /// The entry with this number, its key not yet read.
    Entry(u64),
    Key(&'a str),
    /// The tensor description with this number, its name not yet read.
    Description(u64),
    Tensor(&'a str),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Header => f.write_str("header"),
            Place::Entry(n) => write!(f, "metadata entry {n}"),
            Place::Key(key) => write!(f, "key {:?}", excerpt(key)),
            Place::Description(n) => write!(f, "tensor {n}"),
            Place::Tensor(name) => write!(f, "tensor {:?}", excerpt(name)),
        }
    }
}

/// A position in the bytes of a file.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    /// Bytes not yet read.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The error for something wrong at an offset.
    pub(crate) fn bad(offset: usize, place: Place<'_>, found: String, mend: &'static str) -> GgufError {
        GgufError::Malformed { offset, place: place.to_string(), found, mend }
    }

    pub(crate) fn take(&mut self, count: usize, place: Place<'_>) -> Result<&'a [u8]> {
        if count > self.left() {
            let found = format!("{count} bytes are due where the file has {} left", self.left());
            return Err(Self::bad(self.at, place, found, TRUNCATED));
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, place: Place<'_>) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, place)?);
        Ok(out)
    }

    pub(crate) fn u32(&mut self, place: Place<'_>) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(place)?))
    }

    pub(crate) fn u64(&mut self, place: Place<'_>) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(place)?))
    }

    /// A count of things that take at least `least` bytes each: never more than the rest of the file can hold.
    pub(crate) fn count(&mut self, least: usize, what: &str, place: Place<'_>) -> Result<usize> {
        let at = self.at;
        let count = self.u64(place)?;
        let fits = usize::try_from(count).ok().filter(|n| n.checked_mul(least).is_some_and(|b| b <= self.left()));
        fits.ok_or_else(|| {
            let found = format!("a count of {count} {what}, more than the {} bytes that follow can hold", self.left());
            Self::bad(at, place, found, TRUNCATED)
        })
    }

    pub(crate) fn string(&mut self, place: Place<'_>) -> Result<&'a str> {
        let length = self.count(1, "bytes", place)?;
        let at = self.at;
        std::str::from_utf8(self.take(length, place)?).map_err(|e| {
            let found = format!("a text that is not UTF-8 from its byte {} on", e.valid_up_to());
            Self::bad(at, place, found, "make the file again: the format allows UTF-8 only")
        })
    }
}
