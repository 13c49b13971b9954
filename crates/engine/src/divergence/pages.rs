//! Keys or values of a sequence as plain rows, whatever the pages of a device look like.

use qiao_core::KvLayout;

use crate::model::CacheShape;

/// One layer's keys or values: in pages of this shape, of `heads` heads of `head` bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pages {
    pub(super) shape: CacheShape,
    pub(super) heads: usize,
    pub(super) head: usize,
}

impl Pages {
    /// The byte at which a head of a token starts. Pages follow each other in order.
    fn at(&self, token: usize, head: usize) -> usize {
        let CacheShape { layout, block_size, .. } = self.shape;
        let (block, inside) = (token / block_size, token % block_size);
        let row = match layout {
            KvLayout::BlockTokenHead => (block * block_size + inside) * self.heads + head,
            KvLayout::BlockHeadToken => (block * self.heads + head) * block_size + inside,
        };
        row * self.head
    }

    /// Bytes of a token.
    pub(super) fn row(&self) -> usize {
        self.heads * self.head
    }

    /// The first `tokens` tokens of pages, `[tokens, heads, D]`.
    pub(super) fn rows(&self, pages: &[u8], tokens: usize) -> Vec<u8> {
        let mut rows = Vec::with_capacity(tokens * self.row());
        for token in 0..tokens {
            for head in 0..self.heads {
                rows.extend_from_slice(&pages[self.at(token, head)..][..self.head]);
            }
        }
        rows
    }

    /// Pages that begin with these rows; what follows is zero.
    pub(super) fn pages(&self, rows: &[u8]) -> Vec<u8> {
        let mut pages = vec![0; self.shape.blocks * self.shape.block_size * self.row()];
        for (i, bytes) in rows.chunks_exact(self.head).enumerate() {
            let at = self.at(i / self.heads, i % self.heads);
            pages[at..][..self.head].copy_from_slice(bytes);
        }
        pages
    }
}

#[cfg(test)]
mod tests {
    use qiao_core::DType;

    use super::*;

    #[test]
    fn rows_survive_a_trip_through_any_pages() {
        let rows: Vec<u8> = (0..7 * 3 * 2).collect();
        for layout in [KvLayout::BlockTokenHead, KvLayout::BlockHeadToken] {
            for (block_size, table) in [(8, 1), (4, 2), (3, 3)] {
                let shape = CacheShape { layout, dtype: DType::I8, blocks: table, block_size, table };
                let pages = Pages { shape, heads: 3, head: 2 };
                let bytes = pages.pages(&rows);
                assert_eq!(bytes.len(), table * block_size * 6);
                assert_eq!(pages.rows(&bytes, 7), rows, "{layout:?} of {block_size}");
            }
        }
        let shape =
            CacheShape { layout: KvLayout::BlockHeadToken, dtype: DType::I8, blocks: 1, block_size: 2, table: 1 };
        let pages = Pages { shape, heads: 2, head: 1 };
        assert_eq!(pages.pages(&[1, 2, 3, 4]), [1, 3, 2, 4], "head by head");
    }
}
