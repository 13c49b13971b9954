//! Frames and plain values between a proxy and the process of its device.
//!
//! A frame is its length as u64, then so many bytes; every number is little-endian. A request is a number of the proxy's
//! choice, an operation and its values; the reply repeats the number, says with one byte whether it went well, and holds
//! the values or the error.

use std::io::{self, Read, Write};
use std::time::Duration;

use qiao_core::{Error, Result};

macro_rules! operations {
    ($($name:ident = $value:literal,)*) => {
        /// What a request asks for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Operation { $($name = $value,)* }

        impl Operation {
            fn of(byte: u8) -> Option<Operation> {
                match byte { $($value => Some(Operation::$name),)* _ => None }
            }
        }
    };
}

operations! {
    Open = 1, Close = 2, Alloc = 3, Free = 4, Plan = 5, DropPlan = 6, PrepackBytes = 7, Gate = 8,
    Stream = 20, DropStream = 21, Patience = 22, Upload = 23, Download = 24, Copy = 25, Fill = 26, Sync = 27,
    Record = 28, Wait = 29, Execute = 30, Prepack = 31,
    Event = 40, DropEvent = 41, EventSync = 42, EventReached = 43, EventSince = 44,
}

/// Writes values one after the other.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    /// A request of this number.
    pub(crate) fn request(number: u64, operation: Operation) -> Writer {
        Writer::default().u64(number).u8(operation as u8)
    }

    pub(crate) fn u8(mut self, v: u8) -> Writer {
        self.0.push(v);
        self
    }

    pub(crate) fn u64(mut self, v: u64) -> Writer {
        self.0.extend(v.to_le_bytes());
        self
    }

    pub(crate) fn size(self, v: usize) -> Writer {
        self.u64(v as u64)
    }

    pub(crate) fn flag(self, v: bool) -> Writer {
        self.u8(u8::from(v))
    }

    pub(crate) fn bytes(self, v: &[u8]) -> Writer {
        let mut out = self.size(v.len());
        out.0.extend_from_slice(v);
        out
    }

    pub(crate) fn text(self, v: &str) -> Writer {
        self.bytes(v.as_bytes())
    }

    /// Nanoseconds; the longest ones are for ever.
    pub(crate) fn time(self, v: Duration) -> Writer {
        self.u64(u64::try_from(v.as_nanos()).unwrap_or(u64::MAX))
    }

    /// A list, its length first.
    pub(crate) fn list<T>(self, items: &[T], each: impl Fn(Writer, &T) -> Writer) -> Writer {
        let out = self.size(items.len());
        items.iter().fold(out, each)
    }
}

/// Reads values one after the other.
pub(crate) struct Reader<'a> {
    left: &'a [u8],
}

/// What was read is no frame of this protocol.
pub(crate) fn garbled(what: &str) -> Error {
    Error::internal("the process of the simulated device", format!("{what} could not be read"))
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { left: bytes }
    }

    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8]> {
        let (head, tail) = self.left.split_at_checked(n).ok_or_else(|| garbled(what))?;
        self.left = tail;
        Ok(head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1, "a byte")?[0])
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        let bytes = self.take(8, "a number")?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("the slice has this length")))
    }

    pub(crate) fn size(&mut self) -> Result<usize> {
        usize::try_from(self.u64()?).map_err(|_| garbled("a size"))
    }

    pub(crate) fn flag(&mut self) -> Result<bool> {
        Ok(self.u8()? != 0)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8]> {
        let n = self.size()?;
        self.take(n, "bytes")
    }

    pub(crate) fn text(&mut self) -> Result<String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| garbled("a text"))
    }

    pub(crate) fn time(&mut self) -> Result<Duration> {
        let nanos = self.u64()?;
        Ok(if nanos == u64::MAX { Duration::MAX } else { Duration::from_nanos(nanos) })
    }

    pub(crate) fn operation(&mut self) -> Result<Operation> {
        Operation::of(self.u8()?).ok_or_else(|| garbled("an operation"))
    }

    /// A list. Its claimed length is believed item by item.
    pub(crate) fn list<T>(&mut self, mut each: impl FnMut(&mut Reader<'a>) -> Result<T>) -> Result<Vec<T>> {
        let n = self.size()?;
        let mut items = Vec::new();
        for _ in 0..n {
            items.push(each(self)?);
        }
        Ok(items)
    }
}

/// Writes a frame.
///
/// # Errors
/// The socket's.
pub(crate) fn send(socket: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    socket.write_all(&(frame.len() as u64).to_le_bytes())?;
    socket.write_all(frame)
}

/// Reads a frame; nothing where the other side has gone.
///
/// # Errors
/// The socket's; a frame cut short.
pub(crate) fn receive(socket: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 8];
    match socket.read_exact(&mut length) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u64::from_le_bytes(length);
    let mut frame = Vec::new();
    // The length that is claimed is not taken before the bytes are there.
    let read = socket.take(length).read_to_end(&mut frame)?;
    if read as u64 == length { Ok(Some(frame)) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were() {
        let w =
            Writer::request(7, Operation::Execute).text("µ").time(Duration::MAX).list(&[1usize, 2], |w, &v| w.size(v));
        let mut socket = Vec::new();
        send(&mut socket, &w.0).unwrap();
        let frame = receive(&mut &socket[..]).unwrap().unwrap();
        let mut r = Reader::new(&frame);
        assert_eq!((r.u64().unwrap(), r.operation().unwrap()), (7, Operation::Execute));
        assert_eq!((r.text().unwrap().as_str(), r.time().unwrap()), ("µ", Duration::MAX));
        assert_eq!(r.list(Reader::size).unwrap(), [1, 2]);
        assert!(r.u8().is_err());
    }

    #[test]
    fn what_is_cut_short_or_claims_too_much_is_an_error() {
        assert!(receive(&mut &[][..]).unwrap().is_none());
        let mut socket = u64::MAX.to_le_bytes().to_vec();
        socket.extend([1, 2, 3]);
        assert!(receive(&mut &socket[..]).is_err());
        let w = Writer::default().u64(u64::MAX);
        assert!(Reader::new(&w.0).bytes().is_err());
        assert!(Reader::new(&w.0).list(Reader::u64).is_err());
        assert!(Reader::new(&[200]).operation().is_err());
    }
}
