//! What a slot answers when it fails: a status and a record.

use std::any::Any;
use std::ffi::c_char;
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};

use qiao_core::{Error, Property, Reason};

use crate::abi::{self, ErrorRecord, Status};

/// A failure on its way out.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) code: Status,
    /// The operand's index + 1, 0 = none.
    pub(super) operand: i32,
    /// One of `REASON_*`.
    pub(super) reason: u32,
    pub(super) message: String,
}

pub(super) type Result<T, E = Fault> = std::result::Result<T, E>;

impl Fault {
    pub(super) fn new(code: Status, message: impl Into<String>) -> Self {
        Fault { code, operand: 0, reason: abi::REASON_NONE, message: message.into() }
    }

    /// The caller's mistake: what was asked, what was found, how to mend it.
    pub(super) fn invalid(what: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Error::invalid(what, found, mend).into()
    }

    /// A struct, version or extension that is not understood.
    pub(super) fn abi(message: impl Into<String>) -> Self {
        Fault::new(abi::ERR_ABI, message)
    }

    /// No such option.
    pub(super) fn unsupported(message: impl Into<String>) -> Self {
        Fault::new(abi::ERR_UNSUPPORTED, message)
    }

    /// The same failure, said of a part of what was given.
    pub(super) fn of(mut self, part: impl std::fmt::Display) -> Self {
        self.message = format!("{part}: {}", self.message);
        self
    }

    /// Writes the record, as far as the caller's struct goes. Does nothing for NULL.
    ///
    /// # Safety
    /// `record` is NULL, or valid for as many bytes as its `struct_size` says.
    unsafe fn write(&self, record: *mut ErrorRecord) {
        const MESSAGE: usize = offset_of!(ErrorRecord, message);
        if record.is_null() {
            return;
        }
        // SAFETY: a record begins with its size.
        let size = unsafe { record.cast::<u32>().read_unaligned() } as usize;
        let size = size.min(size_of::<ErrorRecord>());
        let mut own = ErrorRecord {
            struct_size: 0,
            code: self.code,
            vendor_code: 0,
            operand: self.operand,
            reason: self.reason,
            message: [0; 232],
        };
        if size > MESSAGE {
            put_text(&mut own.message[..size - MESSAGE], &self.message);
        }
        // SAFETY: both are valid for `size` bytes, of which the first four stay what they are.
        unsafe {
            let (from, to) = ((&raw const own).cast::<u8>(), record.cast::<u8>());
            from.add(4).copy_to_nonoverlapping(to.add(4), size.saturating_sub(4));
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Invalid { .. } => abi::ERR_INVALID_ARG,
            Error::Unsupported { .. } | Error::UnsupportedByBoth { .. } => abi::ERR_UNSUPPORTED,
            Error::OutOfMemory { .. } => abi::ERR_OUT_OF_MEMORY,
            Error::NotPresent { .. } => abi::ERR_NOT_PRESENT,
            Error::Timeout { .. } => abi::ERR_TIMEOUT,
            Error::Poisoned { .. } => abi::ERR_POISONED,
            Error::DeviceLost { .. } => abi::ERR_DEVICE_LOST,
            _ => abi::ERR_INTERNAL,
        };
        let reason = match &error {
            Error::Unsupported { list, .. } => list.first().map(|u| &u.reason),
            _ => None,
        };
        let operand = reason.and_then(|r| r.operand).map_or(0, |i| i as i32 + 1);
        Fault { code, operand, reason: reason.map_or(abi::REASON_NONE, reason_number), message: error.to_string() }
    }
}

/// The number of a reason's property.
pub(super) fn reason_number(reason: &Reason) -> u32 {
    match reason.property {
        Property::Operator => abi::REASON_OPCODE,
        Property::Revision => abi::REASON_REVISION,
        Property::Attribute(_) => abi::REASON_ATTRIBUTE,
        Property::Dtype => abi::REASON_DTYPE,
        Property::Rank => abi::REASON_RANK,
        Property::Dim(_) => abi::REASON_DIM,
        Property::Strides => abi::REASON_STRIDES,
        Property::Alignment => abi::REASON_ALIGN,
        Property::Quantisation => abi::REASON_QUANT,
        Property::Layout => abi::REASON_LAYOUT,
        Property::Memory => abi::REASON_MEMORY,
        Property::Presence => abi::REASON_PRESENCE,
        _ => abi::REASON_NONE,
    }
}

/// The first failure of a stream, out of what later commands answer.
pub(super) fn first(mut error: Error) -> Error {
    while let Error::Poisoned { first } = error {
        error = *first;
    }
    error
}

/// Puts a text into an array of the boundary: cut at a character's border, and NUL behind it.
pub(super) fn put_text(to: &mut [c_char], text: &str) {
    let Some(room) = to.len().checked_sub(1) else { return };
    let text = text.split('\0').next().unwrap_or_default();
    let cut = text.floor_char_boundary(room);
    for (to, &byte) in to.iter_mut().zip(&text.as_bytes()[..cut]) {
        *to = byte as c_char;
    }
    to[cut..].fill(0);
}

/// Runs the body of a slot: its failure goes into the record, and a panic becomes a failure.
///
/// # Safety
/// `record` is NULL, or valid for as many bytes as its `struct_size` says.
pub(super) unsafe fn guard(record: *mut ErrorRecord, body: impl FnOnce() -> Result<()>) -> Status {
    let fault = match catch(body) {
        Ok(Ok(())) => return abi::OK,
        Ok(Err(fault)) => fault,
        Err(panic) => Fault::from(panic),
    };
    // SAFETY: as the caller promises.
    unsafe { fault.write(record) };
    fault.code
}

/// Runs code of the backend, whose panic becomes an error. State that a panic may leave torn stays behind locks whose
/// users expect that.
pub(super) fn catch<R>(body: impl FnOnce() -> R) -> Result<R, Error> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| Error::internal("the backend panicked", words(panic)))
}

/// What a panic said.
fn words(panic: Box<dyn Any + Send>) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text.to_string(),
        (_, Some(text)) => text.clone(),
        _ => {
            // Dropping a payload of an unknown type may panic again.
            std::mem::forget(panic);
            "with something that is no text".into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(array: &[c_char]) -> String {
        let bytes: Vec<u8> = array.iter().map(|&c| c as u8).take_while(|&b| b != 0).collect();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn texts_are_cut_between_characters_and_end_in_nul() {
        let mut to = [1 as c_char; 8];
        put_text(&mut to, "桥桥桥");
        assert_eq!(text_of(&to), "桥桥");
        put_text(&mut to, "1234567890");
        assert_eq!(text_of(&to), "1234567");
        put_text(&mut to, "a\0b");
        assert_eq!((text_of(&to).as_str(), to[2]), ("a", 0));
        put_text(&mut [], "nothing to write to");
    }

    #[test]
    fn a_record_is_written_as_far_as_the_callers_struct_goes() {
        let fault = Fault::invalid("matmul", "桥".repeat(200), "shorten it");
        for size in [0usize, 3, 4, 12, 24, 25, 100, 256, 300] {
            let mut bytes = [0xAAu8; 320];
            bytes[..4].copy_from_slice(&(size as u32).to_ne_bytes());
            // SAFETY: the array holds more than any of these sizes.
            unsafe { fault.write(bytes.as_mut_ptr().cast()) };
            let end = size.clamp(4, 256);
            assert_eq!(u32::from_ne_bytes(bytes[..4].try_into().unwrap()), size as u32);
            assert!(bytes[end..].iter().all(|&b| b == 0xAA), "{size}: nothing is written behind the struct");
            if size > 24 {
                let text: Vec<u8> = bytes[24..end].iter().copied().take_while(|&b| b != 0).collect();
                assert!(text.len() < end - 24, "{size}: there is a NUL");
                assert!(String::from_utf8(text).is_ok(), "{size}: whole characters");
            }
        }
        // SAFETY: NULL is allowed.
        unsafe { fault.write(std::ptr::null_mut()) };
    }

    #[test]
    fn a_panic_becomes_an_internal_error_with_its_words() {
        let said = |f: fn()| catch(f).unwrap_err().to_string();
        assert_eq!(said(|| panic!("kernel {} failed", 7)), "the backend panicked: kernel 7 failed");
        assert_eq!(said(|| panic!("plain")), "the backend panicked: plain");
        assert!(said(|| std::panic::panic_any(7)).contains("no text"));
    }

    #[test]
    fn the_first_failure_is_found_under_later_ones() {
        let lost = Error::DeviceLost { device: "npu".into(), why: "gone".into() };
        let later = Error::Poisoned { first: Box::new(Error::Poisoned { first: Box::new(lost) }) };
        assert_eq!(Fault::from(later.clone()).code, abi::ERR_POISONED);
        assert_eq!(Fault::from(first(later)).code, abi::ERR_DEVICE_LOST);
    }
}
