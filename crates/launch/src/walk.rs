//! Walks as arguments of kernels.

use crate::launch::Arg;

pub(crate) use qiao_core::walk::{Walk, broadcast_strides, no_layouts};

/// Threads of a block of every kernel that walks.
const THREADS: u64 = 256;

/// The most blocks of such a launch: every thread takes several elements where there are more.
const MOST_BLOCKS: u64 = 1 << 20;

/// What a launch needs of a walk.
pub(crate) trait Launched {
    /// Blocks that take an element a thread, or several where there are very many.
    fn grid(&self) -> [u32; 3];

    /// The kernels' `Walk`.
    fn arg(&self) -> Arg;
}

impl<const N: usize> Launched for Walk<N> {
    fn grid(&self) -> [u32; 3] {
        [self.count().div_ceil(THREADS).min(MOST_BLOCKS) as u32, 1, 1]
    }

    fn arg(&self) -> Arg {
        let mut bytes = Vec::with_capacity(272);
        let mut row = |values: &[u64], none: u64| {
            (0..8).for_each(|i| bytes.extend(values.get(i).unwrap_or(&none).to_ne_bytes()));
        };
        row(&self.dims, 1);
        (0..3).for_each(|k| row(self.steps.get(k).map_or(&[], |s| s), 0));
        bytes.splice(0..0, self.count().to_ne_bytes());
        bytes.extend((self.dims.len() as u32).to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        Arg::Struct(bytes)
    }
}
