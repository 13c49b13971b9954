//! How full the cache is, and what it has done.

/// Blocks and their bytes, as they are now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blocks that sequences can have: all but the null block. `used + cached + free`.
    pub total: usize,
    /// Blocks that sequences hold, reserved ones included; a shared one counts once.
    pub used: usize,
    /// Blocks that nobody uses and whose tokens can still be found.
    pub cached: usize,
    /// Blocks that hold nothing.
    pub free: usize,
    /// Open sequences.
    pub sequences: usize,
    /// Bytes of [`Usage::total`].
    pub total_bytes: u64,
    /// Bytes of [`Usage::used`].
    pub used_bytes: u64,
    /// Bytes of [`Usage::cached`].
    pub cached_bytes: u64,
    /// Bytes of [`Usage::free`].
    pub free_bytes: u64,
}

/// What has happened since the cache was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Tokens of prompts that were looked up.
    pub looked_up: u64,
    /// Those of them that were found.
    pub found: u64,
    /// Blocks whose tokens were given up for room.
    pub evicted: u64,
    /// Blocks copied before a write, as others used them too.
    pub copied: u64,
    /// Blocks that sequences gave back as no later token sees them.
    pub released: u64,
}
