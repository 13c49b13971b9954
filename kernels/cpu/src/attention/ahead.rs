//! What will be read next is asked for while something else is computed, a cache line now and then.

/// Rows that are wanted in the caches soon.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ahead<'a> {
    /// Where they start: any addresses.
    pub rows: &'a [*const u8],
    /// Bytes of each.
    pub bytes: usize,
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Cache lines that are asked for evenly over a number of steps: too many at once, and the processor waits for them.
pub(crate) struct Wanted<'a> {
    ahead: Ahead<'a>,
    /// Lines a step.
    lines: usize,
    row: usize,
    byte: usize,
}

impl<'a> Wanted<'a> {
    pub(crate) fn new(ahead: Ahead<'a>, steps: usize) -> Self {
        let lines = ahead.rows.len() * ahead.bytes.div_ceil(LINE);
        Wanted { ahead, lines: lines.div_ceil(steps.max(1)), row: 0, byte: 0 }
    }

    /// Nothing.
    pub(crate) fn none() -> Self {
        Wanted { ahead: Ahead::default(), lines: 0, row: 0, byte: 0 }
    }

    #[inline(always)]
    pub(crate) fn step(&mut self) {
        for _ in 0..self.lines {
            let Some(start) = self.ahead.rows.get(self.row) else { return };
            fetch_ahead(start.wrapping_add(self.byte), 1);
            self.byte += LINE;
            if self.byte >= self.ahead.bytes {
                (self.row, self.byte) = (self.row + 1, 0);
            }
        }
    }
}

/// Asks for `bytes` bytes from `p` on to be in the caches soon: the first, whose lines go to the second when they are too many.
/// Asked for in the second alone, they come a third slower on Zen 5 beside arithmetic. A hint: the address may be anything.
#[inline(always)]
pub fn fetch_ahead(p: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..bytes).step_by(64) {
        // SAFETY: the instruction never faults.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.wrapping_add(line).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (p, bytes);
}
