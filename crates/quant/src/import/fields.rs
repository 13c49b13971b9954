//! Small unsigned integers packed into 32-bit words, in every order that checkpoints have.
//!
//! Words are split into streams; integer i of a stream lies at bit `i·bits` of it, or in a field of the word of its own.

/// How integers lie in the words of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// A dense little-endian bit stream, also across words.
    Dense,
    /// ⌊32/bits⌋ to a word, the bits left over unused.
    PerWord,
    /// Eight nibbles to a word, in AWQ's order.
    Awq,
}

/// In which nibble of a word AWQ keeps integer j of eight.
const AWQ_NIBBLE: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// A table of packed integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    /// The tensor.
    pub(super) suffix: &'static str,
    /// Bits of an integer, 1 to 8.
    pub(super) bits: u32,
    /// How they lie in a stream.
    pub(super) order: Order,
    /// Streams.
    pub(super) streams: usize,
    /// Words of a stream.
    pub(super) width: usize,
    /// Words of different streams alternate: word r of stream s is word `r·streams + s`, else `s·width + r`.
    pub(super) across: bool,
    /// A stream is a column of the table, else a row.
    pub(super) by_column: bool,
}

/// Words of 32 bits that a stream of `count` integers takes; `None` on overflow.
pub(super) fn words(order: Order, count: usize, bits: u32) -> Option<usize> {
    match order {
        Order::PerWord => Some(count.div_ceil(32 / bits as usize)),
        Order::Dense | Order::Awq => Some(count.checked_mul(bits as usize)?.div_ceil(32)),
    }
}

impl Fields {
    /// Words in all.
    pub(super) fn total(&self) -> usize {
        self.streams * self.width
    }

    fn word(&self, bytes: &[u8], stream: usize, r: usize) -> u32 {
        let at = 4 * if self.across { r * self.streams + stream } else { stream * self.width + r };
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    }

    /// The integer of a row and column of the table.
    pub(super) fn get(&self, bytes: &[u8], row: usize, column: usize) -> u8 {
        let (stream, i) = if self.by_column { (column, row) } else { (row, column) };
        let (bits, mask) = (self.bits as usize, ((1u64 << self.bits) - 1) as u32);
        let (r, shift) = match self.order {
            Order::Dense => (i * bits / 32, (i * bits % 32) as u32),
            Order::PerWord => (i / (32 / bits), (i % (32 / bits) * bits) as u32),
            Order::Awq => (i / 8, 4 * AWQ_NIBBLE[i % 8]),
        };
        let low = self.word(bytes, stream, r) >> shift;
        let high = if shift + self.bits > 32 { self.word(bytes, stream, r + 1) << (32 - shift) } else { 0 };
        ((low | high) & mask) as u8
    }

    /// Row `row` of `columns` integers as codes of 4 (`out` half as long) or 8 bits; `signed` ones less 2^(bits − 1).
    pub(super) fn row(&self, bytes: &[u8], row: usize, columns: usize, wide: bool, signed: bool, out: &mut [u8]) {
        let half = 1u8 << (self.bits - 1);
        let same = self.order == Order::Dense && !self.by_column && self.bits == if wide { 8 } else { 4 };
        if same && out.len().is_multiple_of(4) {
            // The codes lie as they should already; subtracting the half is turning each top bit.
            let turn = if !signed {
                0
            } else if wide {
                0x8080_8080
            } else {
                0x8888_8888
            };
            for (r, word) in out.chunks_exact_mut(4).enumerate() {
                word.copy_from_slice(&(self.word(bytes, row, r) ^ turn).to_le_bytes());
            }
            return;
        }
        let code = |j: usize| self.get(bytes, row, j).wrapping_sub(if signed { half } else { 0 });
        if wide {
            (0..columns).for_each(|j| out[j] = code(j));
        } else {
            (0..columns / 2).for_each(|j| out[j] = code(2 * j) & 15 | code(2 * j + 1) << 4);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(bits: u32, order: Order) -> Fields {
        Fields { suffix: "", bits, order, streams: 1, width: 3, across: false, by_column: false }
    }

    #[test]
    fn eight_codes_lie_where_each_packing_puts_them() {
        let read = |word: u32, order| {
            let bytes = word.to_le_bytes();
            (0..8).map(|j| Fields { width: 1, ..fields(4, order) }.get(&bytes, 0, j)).collect::<Vec<_>>()
        };
        let codes: Vec<u8> = (0..8).collect();
        assert_eq!(read(0x7654_3210, Order::Dense), codes);
        assert_eq!(read(0x7531_6420, Order::Awq), codes);
        // The words of i32 tensors have no sign.
        assert_eq!(read(0xfedc_ba98, Order::Dense), (8..16).collect::<Vec<u8>>());
    }

    #[test]
    fn three_bits_cross_words() {
        let bytes: Vec<u8> = [0x43c6_7543u32, 0x7543_c675, 0xc675_43c6].iter().flat_map(|w| w.to_le_bytes()).collect();
        for i in 0..32 {
            assert_eq!(fields(3, Order::Dense).get(&bytes, 0, i), ((5 * i + 3) % 8) as u8);
        }
        assert_eq!(words(Order::Dense, 33, 3), Some(4));
        assert_eq!(words(Order::PerWord, 33, 3), Some(4));
        assert_eq!(words(Order::PerWord, 32, 5), Some(6));
        assert_eq!(words(Order::Dense, usize::MAX, 3), None);
    }

    #[test]
    fn a_row_read_at_once_equals_its_codes_one_by_one() {
        let bytes: Vec<u8> = (0..96u32).map(|i| (i * 73 + 41) as u8).collect();
        for (bits, wide) in [(4, false), (8, true), (4, true), (3, false), (2, false)] {
            for signed in [false, true] {
                for across in [false, true] {
                    let f = Fields { streams: 2, width: 12, across, ..fields(bits, Order::Dense) };
                    let n = 40;
                    let mut row = vec![0u8; if wide { n } else { n / 2 }];
                    f.row(&bytes, 1, n, wide, signed, &mut row);
                    for j in 0..n {
                        let want = f.get(&bytes, 1, j) as i8 as i32 - if signed { 1 << (bits - 1) } else { 0 };
                        let got = match (wide, signed) {
                            (true, _) => row[j] as i8 as i32,
                            (false, true) => crate::nibble::i4(&row, j) as i32,
                            (false, false) => crate::nibble::u4(&row, j) as i32,
                        };
                        assert_eq!(got as i8, want as i8, "{bits} {wide} {signed} {across} {j}");
                    }
                }
            }
        }
    }
}
