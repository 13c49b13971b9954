//! Memory: allocations with zones around them that nobody may write.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;

/// What the bytes around an allocation hold.
const ZONE: u8 = 0xFD;

/// Bytes before an allocation, and at least as many behind it.
const MARGIN: usize = 64;

/// Allocations of up to so many bytes are NaN until they are written.
const POISONED: usize = 1 << 20;

/// Where an allocation lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// On the device of this number.
    Device(usize),
    /// On the host, page-locked.
    Host,
}

struct Block {
    raw: *mut u8,
    layout: Layout,
    bytes: usize,
    home: Home,
}

// SAFETY: the block owns its memory, and everything here is called under one lock.
unsafe impl Send for Block {}

/// Every allocation by its address.
#[derive(Default)]
pub(crate) struct Memory {
    blocks: BTreeMap<usize, Block>,
}

/// Bytes that an allocation takes: whole 32, and 32 more.
pub(crate) fn padded(bytes: usize) -> usize {
    bytes.saturating_add(31) / 32 * 32 + 32
}

impl Memory {
    /// A new allocation, on a multiple of 64 that is none of 128. `None` where the host has no room.
    pub(crate) fn alloc(&mut self, bytes: usize, home: Home) -> Option<usize> {
        let all = padded(bytes).checked_add(2 * MARGIN)?;
        let layout = Layout::from_size_align(all, 2 * MARGIN).ok()?;
        // SAFETY: the layout is not empty.
        let raw = unsafe { alloc_zeroed(layout) };
        if raw.is_null() {
            return None;
        }
        let block = Block { raw, layout, bytes, home };
        // SAFETY: each range lies in what was just allocated.
        unsafe {
            raw.write_bytes(ZONE, MARGIN);
            raw.add(MARGIN + bytes).write_bytes(ZONE, all - MARGIN - bytes);
            if bytes <= POISONED {
                raw.add(MARGIN).write_bytes(0xFF, bytes);
            }
        }
        let address = raw as usize + MARGIN;
        self.blocks.insert(address, block);
        Some(address)
    }

    /// Gives an allocation back: its bytes and where it was.
    ///
    /// # Errors
    /// It is none, or somebody wrote around it.
    pub(crate) fn free(&mut self, address: usize) -> Result<(usize, Home), String> {
        let block =
            self.blocks.remove(&address).ok_or_else(|| format!("{address:#x} is freed, and is no allocation"))?;
        let all = block.layout.size();
        // SAFETY: the range is the block's own.
        let bytes = unsafe { std::slice::from_raw_parts(block.raw, all) };
        let intact = |range: std::ops::Range<usize>| bytes[range].iter().all(|b| *b == ZONE);
        let whole = intact(0..MARGIN) && intact(MARGIN + block.bytes..all);
        // SAFETY: allocated with this layout, and out of the table.
        unsafe { dealloc(block.raw, block.layout) };
        if whole {
            Ok((block.bytes, block.home))
        } else {
            Err(format!("bytes around the allocation {address:#x} were written"))
        }
    }

    /// The start, size and home of the allocation that holds an address.
    pub(crate) fn around(&self, address: usize) -> Option<(usize, usize, Home)> {
        let (&start, block) = self.blocks.range(..=address).next_back()?;
        (address < start + block.bytes.max(1)).then_some((start, block.bytes, block.home))
    }

    fn range(&self, address: usize, len: usize) -> Result<*mut u8, String> {
        let (start, bytes, _) =
            self.around(address).ok_or_else(|| format!("{address:#x} lies in no allocation; was it freed?"))?;
        match address.checked_add(len) {
            Some(end) if end <= start + bytes => Ok(address as *mut u8),
            _ => Err(format!("{len} bytes from {address:#x} pass the end of an allocation of {bytes} at {start:#x}")),
        }
    }

    /// Bytes of an allocation.
    ///
    /// # Errors
    /// The range does not lie in one.
    pub(crate) fn read(&self, address: usize, len: usize) -> Result<&[u8], String> {
        if len == 0 {
            return Ok(&[]);
        }
        let at = self.range(address, len)?;
        // SAFETY: the range lies in a live allocation, which only `&mut self` writes.
        Ok(unsafe { std::slice::from_raw_parts(at, len) })
    }

    /// As [`Memory::read`], to be written.
    ///
    /// # Errors
    /// As [`Memory::read`].
    pub(crate) fn write(&mut self, address: usize, len: usize) -> Result<&mut [u8], String> {
        if len == 0 {
            return Ok(&mut []);
        }
        let at = self.range(address, len)?;
        // SAFETY: the range lies in a live allocation, and `self` is borrowed alone.
        Ok(unsafe { std::slice::from_raw_parts_mut(at, len) })
    }
}
