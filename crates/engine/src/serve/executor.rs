//! What a scheduler runs its batches on.

use crate::entry::Entry;
use crate::error::Result;
use crate::sides::Deadline;

/// Sizes that a scheduler must keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Logits of a row.
    pub vocab: usize,
    /// Tokens of a block.
    pub block_size: usize,
    /// Blocks in the pool, block 0 included, which no sequence owns.
    pub blocks: usize,
    /// Bytes of one block: keys, values and scales of all layers.
    pub block_bytes: u64,
    /// The longest sequence.
    pub context: usize,
    /// The longest window that any layer sees, in tokens, where all layers slide.
    pub window: Option<usize>,
    /// Most tokens in one batch.
    pub batch_tokens: usize,
    /// Most sequences in one batch.
    pub batch_sequences: usize,
}

/// Contents of blocks on the host, in the order in which they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostBlocks {
    /// One block after the other, [`Limits::block_bytes`] each.
    pub bytes: Vec<u8>,
}

/// Runs batches over one pool of blocks. Every call has happened when it returns.
///
/// A row of logits depends on its sequence's tokens alone where the device is batch-invariant: not on the other entries, on
/// block ids, or on how the tokens were cut into steps.
pub trait Executor: Send {
    /// The sizes that bind.
    fn limits(&self) -> Limits;

    /// Writes keys and values of all entries' tokens; gives the logits wanted, row-major `[Σ rows, vocab]`, entry by entry.
    ///
    /// After an error the slots of the batch hold nothing of worth, the others what they held; the same batch may be given again
    /// once [`Executor::recover`] has answered.
    ///
    /// # Errors
    /// More tokens, sequences or positions than [`Limits`] allows; the device's own.
    fn run(&mut self, entries: &[Entry<'_>]) -> Result<&[f32]>;

    /// Copies blocks, `(from, to)`, in this order.
    ///
    /// # Errors
    /// The device's own.
    fn copy(&mut self, pairs: &[(u32, u32)]) -> Result<()>;

    /// Brings the contents of blocks to the host.
    ///
    /// # Errors
    /// The device's own; no host memory for them.
    fn save(&mut self, blocks: &[u32]) -> Result<HostBlocks>;

    /// Puts saved contents, from the block at position `first` of them on, into these blocks.
    ///
    /// # Errors
    /// Fewer contents than blocks; the device's own.
    fn restore(&mut self, saved: &HostBlocks, first: usize, blocks: &[u32]) -> Result<()>;

    /// Makes the executor usable after an error.
    ///
    /// # Errors
    /// The device can't go on.
    fn recover(&mut self) -> Result<()>;

    /// From now on no wait for the device lasts beyond this: such a call ends in [`qiao_core::Error::Timeout`]. Default: nothing.
    fn set_deadline(&mut self, deadline: Deadline) {
        let _ = deadline;
    }
}
