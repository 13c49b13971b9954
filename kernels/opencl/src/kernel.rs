//! What a kernel's row says.

use crate::size::Size;

/// What every program begins with.
const PRELUDE: &str = include_str!("../text/prelude.cl");

/// A symbol: a program of one kernel.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// The name by which launches ask for it.
    pub symbol: &'static str,
    /// Its text, piece by piece; what every program begins with stands before the first.
    pub texts: &'static [&'static str],
    /// Definitions that make this symbol of the text: `-DT=1 -DROWS=4`.
    pub options: &'static str,
    /// Sizes of the device's row of tuning that the text reads.
    pub sizes: &'static [Size],
    /// Work-items of a group.
    pub group: Group,
    /// Its parameters, one letter each: `p` an address, which is a memory object and a u64 of bytes, `u` u32, `i` i32, `l` u64,
    /// `f` f32, `s` a struct by value; at the end `m` where it takes local memory of the launch's size.
    pub params: &'static str,
}

/// How many work-items a group of a kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// One.
    One,
    /// As many as a team has ([`Size::Team`]).
    Team,
    /// One for every four by four elements of a tile ([`Size::Tile`]).
    Tile,
    /// As suits kernels that work element by element.
    Walk,
    /// As suits kernels that work row by row: 1, or a power of two from 4 on.
    Rows,
}

impl Kernel {
    /// The whole text.
    pub fn source(&self) -> String {
        [&[PRELUDE][..], self.texts].concat().join("\n")
    }
}
