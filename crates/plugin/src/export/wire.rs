//! What lies behind the pointers of a call, read and written by the rules of the header: R2 for structs, R7 for lifetimes.
//!
//! Each type stands for one pointer of a call and is made in an `unsafe` block of the slot, which lends it for that call;
//! from there on its methods are safe.

use std::ffi::c_char;

use crate::abi::{self, Ext, Sized32};
use crate::export::fault::{Fault, Result, put_text};

/// The largest struct that is read. A size above it is not a struct of a later minor but a mistake.
pub(super) const LARGEST_STRUCT: usize = 4096;
/// The longest extension chain that is read.
const LONGEST_CHAIN: usize = 64;

fn null(what: &str) -> Fault {
    Fault::invalid(what, "NULL", "give a pointer to it")
}

/// A struct that the caller gives.
pub(super) struct In<T>(*const T);

impl<T: Sized32> In<T> {
    /// # Safety
    /// `ptr` is NULL, or valid for reads of as many bytes as its `struct_size` says while this lives.
    pub(super) unsafe fn new(ptr: *const T) -> Self {
        In(ptr)
    }

    /// The struct by rule R2: what the caller does not know is 0.
    ///
    /// # Errors
    /// NULL; a size that is none; a used tail that is unknown here.
    pub(super) fn read(&self, what: &str) -> Result<T> {
        if self.0.is_null() {
            return Err(null(what));
        }
        let mut own = T::sized();
        // SAFETY: the caller's struct is lent to this value; `own` is valid for its size, and any bytes are a `T`.
        unsafe {
            let size = struct_size(self.0.cast(), what)?;
            let known = size.min(size_of::<T>());
            if known < size_of::<T>() && !T::OFFSETS.contains(&known) {
                // A part of a pointer is no pointer.
                return Err(Fault::abi(format!("{what}: its struct_size, {size}, is inside a field; give its sizeof")));
            }
            self.0.cast::<u8>().copy_to_nonoverlapping((&raw mut own).cast::<u8>(), known);
            if !tail_is_zero(self.0.cast(), known, size) {
                return Err(Fault::abi(format!(
                    "{what}: a part of it that this plugin does not know is in use ({size} bytes, {known} are known); \
                     leave it 0 or update the plugin"
                )));
            }
        }
        Ok(own)
    }
}

/// The size that a struct says it has.
///
/// # Safety
/// `ptr` is valid for reads of four bytes.
pub(super) unsafe fn struct_size(ptr: *const u8, what: &str) -> Result<usize> {
    // SAFETY: as promised.
    let size = unsafe { ptr.cast::<u32>().read_unaligned() } as usize;
    if !(4..=LARGEST_STRUCT).contains(&size) {
        return Err(Fault::abi(format!("{what}: its struct_size is {size}; set it to the size of the struct")));
    }
    Ok(size)
}

/// Whether the bytes of a struct from `known` on are all 0.
///
/// # Safety
/// `ptr` is valid for reads of `size` bytes.
pub(super) unsafe fn tail_is_zero(ptr: *const u8, known: usize, size: usize) -> bool {
    // SAFETY: as promised.
    (known..size).all(|i| unsafe { ptr.add(i).read() } == 0)
}

/// Walks an extension chain, of which nothing is known.
///
/// # Errors
/// An extension that must be understood, or a chain without an end.
///
/// # Safety
/// Every pointer of the chain is NULL or valid for reads.
pub(super) unsafe fn extensions(mut ext: *const Ext, what: &str) -> Result<()> {
    for _ in 0..LONGEST_CHAIN {
        if ext.is_null() {
            return Ok(());
        }
        // SAFETY: as promised.
        let head = unsafe { ext.read_unaligned() };
        if head.ty & abi::EXT_CRITICAL != 0 {
            let message = format!(
                "{what}: extension {:#x} must be understood and is not; leave it out or update the plugin",
                head.ty
            );
            return Err(Fault::unsupported(message));
        }
        ext = head.next;
    }
    Err(Fault::invalid(what, format!("more than {LONGEST_CHAIN} extensions"), "end the chain with NULL"))
}

/// A struct that the caller wants filled.
pub(super) struct OutStruct<T>(*mut T);

impl<T: Sized32> OutStruct<T> {
    /// # Safety
    /// `ptr` is NULL, or valid for reads and writes of as many bytes as its `struct_size` says while this lives.
    pub(super) unsafe fn new(ptr: *mut T) -> Self {
        OutStruct(ptr)
    }

    /// Checks that there is one, before anything is done for it.
    pub(super) fn check(&self, what: &str) -> Result<()> {
        if self.0.is_null() {
            return Err(null(what));
        }
        // SAFETY: it is lent to this value.
        unsafe { struct_size(self.0.cast_const().cast(), what) }.map(|_| ())
    }

    /// Writes as much as the caller knows; its `struct_size` stays.
    pub(super) fn write(&self, what: &str, value: &T) -> Result<()> {
        self.check(what)?;
        // SAFETY: it is lent to this value, and both are valid for the smaller of the sizes, which is at least four.
        unsafe {
            let size = struct_size(self.0.cast_const().cast(), what)?.min(size_of::<T>());
            let (from, to) = ((&raw const *value).cast::<u8>(), self.0.cast::<u8>());
            from.add(4).copy_to_nonoverlapping(to.add(4), size - 4);
        }
        Ok(())
    }
}

/// A plain value that the caller wants.
pub(super) struct Out<T>(*mut T);

impl<T: Copy> Out<T> {
    /// # Safety
    /// `ptr` is NULL or valid for writes while this lives.
    pub(super) unsafe fn new(ptr: *mut T) -> Self {
        Out(ptr)
    }

    /// Checks that there is a place for it, before anything is done for it.
    pub(super) fn check(&self, what: &str) -> Result<()> {
        if self.0.is_null() { Err(null(what)) } else { Ok(()) }
    }

    pub(super) fn write(&self, what: &str, value: T) -> Result<()> {
        self.check(what)?;
        // SAFETY: it is lent to this value.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }
}

/// An array that the caller gives.
pub(super) struct Array<T>(*const T);

impl<T: Copy> Array<T> {
    /// # Safety
    /// `ptr` is NULL, or valid for reads of as many elements as the call says while this lives; any bytes are a `T`.
    pub(super) unsafe fn new(ptr: *const T) -> Self {
        Array(ptr)
    }

    /// Whether there is none.
    pub(super) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// Its first `count` elements.
    ///
    /// # Errors
    /// NULL where there are elements, or more of them than `most`.
    pub(super) fn read(&self, what: &str, count: u32, most: u32) -> Result<impl ExactSizeIterator<Item = T> + use<T>> {
        if count > most {
            return Err(Fault::invalid(what, format!("{count} of them"), format!("give at most {most}")));
        }
        if self.0.is_null() && count > 0 {
            return Err(null(what));
        }
        let start = self.0;
        // SAFETY: the array is lent to this value, and the iterator is used up within the call.
        Ok((0..count as usize).map(move |i| unsafe { start.add(i).read_unaligned() }))
    }
}

/// Bytes of the host that a command reads.
pub(super) struct Bytes(*const u8);

impl Bytes {
    /// # Safety
    /// `ptr` is NULL, or valid for reads of as many bytes as the call says while this lives.
    pub(super) unsafe fn new(ptr: *const std::ffi::c_void) -> Self {
        Bytes(ptr.cast())
    }

    /// The bytes. `len` was compared with something that exists, so that it is no mere claim.
    pub(super) fn slice(&self, what: &str, len: usize) -> Result<&[u8]> {
        match len {
            0 => Ok(&[]),
            _ if self.0.is_null() => Err(null(what)),
            // SAFETY: the bytes are lent to this value.
            _ => Ok(unsafe { std::slice::from_raw_parts(self.0, len) }),
        }
    }
}

/// Bytes of the host that a command fills.
pub(super) struct BytesMut(*mut u8);

impl BytesMut {
    /// # Safety
    /// `ptr` is NULL, or valid for writes of as many bytes as the call says while this lives, and nobody else uses them.
    pub(super) unsafe fn new(ptr: *mut std::ffi::c_void) -> Self {
        BytesMut(ptr.cast())
    }

    /// The bytes, as [`Bytes::slice`].
    pub(super) fn slice(&mut self, what: &str, len: usize) -> Result<&mut [u8]> {
        match len {
            0 => Ok(&mut []),
            _ if self.0.is_null() => Err(null(what)),
            // SAFETY: the bytes are lent to this value.
            _ => Ok(unsafe { std::slice::from_raw_parts_mut(self.0, len) }),
        }
    }
}

/// A text as an array of the boundary.
pub(super) fn text<const N: usize>(text: &str) -> [c_char; N] {
    let mut out = [0; N];
    put_text(&mut out, text);
    out
}

/// A size of the boundary as one of this machine.
pub(super) fn size(what: &str, bytes: u64) -> Result<usize> {
    usize::try_from(bytes)
        .ok()
        .filter(|&b| isize::try_from(b).is_ok())
        .ok_or_else(|| Fault::invalid(what, format!("{bytes} bytes"), "no memory is that large"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::KvInfo;

    /// A struct of the boundary with this size and these bytes behind the size.
    fn raw(size: u32, bytes: &[u8]) -> Vec<u8> {
        let mut raw = size.to_ne_bytes().to_vec();
        raw.extend(bytes);
        raw
    }

    fn read(raw: &[u8]) -> Result<KvInfo> {
        // SAFETY: the tests give as many bytes as they say.
        unsafe { In::new(raw.as_ptr().cast::<KvInfo>()) }.read("info")
    }

    #[test]
    fn a_smaller_struct_is_extended_with_zeros() {
        let info = read(&raw(8, &[1, 0, 0, 0])).unwrap();
        assert_eq!((info.layout, info.block_size), (1, 0));
    }

    #[test]
    fn a_larger_struct_is_read_if_its_unknown_tail_is_zero() {
        let mut bytes = vec![2, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0];
        assert_eq!(read(&raw(15, &bytes)).unwrap().block_size, 16);
        bytes[10] = 1;
        assert_eq!(read(&raw(15, &bytes)).err().unwrap().code, abi::ERR_ABI);
        assert!(read(&raw(14, &bytes)).is_ok(), "what stands behind the struct is none of our business");
    }

    #[test]
    fn sizes_that_are_none_are_refused_before_anything_is_read() {
        for size in [0, 3, 5, 11, 4097, u32::MAX] {
            assert_eq!(read(&raw(size, &[])).err().unwrap().code, abi::ERR_ABI);
        }
        // SAFETY: NULL is allowed.
        let null = unsafe { In::<KvInfo>::new(std::ptr::null()) };
        assert_eq!(null.read("info").err().unwrap().code, abi::ERR_INVALID_ARG);
    }

    #[test]
    fn an_output_is_written_as_far_as_the_caller_knows_it() {
        let value = KvInfo { layout: 7, block_size: 9, ..KvInfo::sized() };
        let mut bytes = raw(8, &[0xAA; 12]);
        // SAFETY: the array holds what its size says.
        unsafe { OutStruct::new(bytes.as_mut_ptr().cast()) }.write("info", &value).unwrap();
        assert_eq!(bytes[..12], [8, 0, 0, 0, 7, 0, 0, 0, 0xAA, 0xAA, 0xAA, 0xAA]);
        let mut bytes = raw(16, &[0xAA; 12]);
        // SAFETY: as above.
        unsafe { OutStruct::new(bytes.as_mut_ptr().cast()) }.write("info", &value).unwrap();
        assert_eq!(bytes, [16, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0, 0xAA, 0xAA, 0xAA, 0xAA]);
    }

    #[test]
    fn unknown_extensions_pass_and_critical_ones_do_not() {
        let last = Ext { ty: 9, size: 16, next: std::ptr::null() };
        let head = Ext { ty: 5, size: 16, next: &last };
        // SAFETY: a chain of two.
        assert!(unsafe { extensions(&head, "op") }.is_ok());
        let critical = Ext { ty: 5 | abi::EXT_CRITICAL, size: 16, next: std::ptr::null() };
        let head = Ext { next: &critical, ..head };
        // SAFETY: a chain of two.
        assert_eq!(unsafe { extensions(&head, "op") }.unwrap_err().code, abi::ERR_UNSUPPORTED);
        let mut ring = Ext { ty: 5, size: 16, next: std::ptr::null() };
        ring.next = &raw const ring;
        // SAFETY: a chain that ends in itself.
        assert_eq!(unsafe { extensions(&raw const ring, "op") }.unwrap_err().code, abi::ERR_INVALID_ARG);
    }

    #[test]
    fn wild_counts_are_refused_before_anything_is_read() {
        // SAFETY: nothing is read from it.
        let array = unsafe { Array::<u32>::new(std::ptr::dangling()) };
        assert!(array.read("ops", u32::MAX, 1 << 20).is_err());
        // SAFETY: NULL is allowed.
        let null = unsafe { Array::<u32>::new(std::ptr::null()) };
        assert!(null.read("ops", 1, 4).is_err());
        assert_eq!(null.read("ops", 0, 4).unwrap().count(), 0);
    }
}
