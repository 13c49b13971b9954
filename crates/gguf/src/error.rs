//! What can be wrong with a GGUF file, or with what is to become one.

/// Result of every fallible call of this crate.
pub type Result<T, E = GgufError> = std::result::Result<T, E>;

/// An error about one file. Which file it is, its reader knows.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file is something else.
    #[error("not a GGUF file: it begins with {found}: {mend}")]
    NotGguf {
        /// The first bytes.
        found: String,
        /// How to mend it.
        mend: &'static str,
    },

    /// A file for big-endian machines.
    #[error("GGUF version {version} in big-endian byte order: convert the file to little-endian first")]
    BigEndian {
        /// The version, read in that order.
        version: u32,
    },

    /// A version that is not read.
    #[error("GGUF version {found}, only 2 and 3 are read: make the file again with a newer converter")]
    Version {
        /// The version that the file states.
        found: u32,
    },

    /// The header breaks the format.
    #[error("byte {offset}: {place}: {found}: {mend}")]
    Malformed {
        /// Where in the file, in bytes from its start.
        offset: usize,
        /// Which part: the header, a key, a tensor.
        place: String,
        /// What was found.
        found: String,
        /// How to mend it.
        mend: &'static str,
    },

    /// A metadata value is not what its reader needs.
    #[error("key {key:?} must be {expected}, found {found}")]
    Key {
        /// The key.
        key: String,
        /// What would be accepted.
        expected: &'static str,
        /// What was found, shortened.
        found: String,
    },

    /// A tensor that the file does not hold.
    #[error("tensor {name:?} is not among the {count} tensors of the file: check that it is the right file")]
    MissingTensor {
        /// The name that was asked for.
        name: String,
        /// Tensors of the file.
        count: usize,
    },

    /// A tensor in a type that has no counterpart here.
    #[error(
        "tensor {name:?} has ggml type {id}{}, which is not read: use a file in one of {}",
        named(known_as),
        readable()
    )]
    UnknownType {
        /// The tensor.
        name: String,
        /// The type's id in the file.
        id: u32,
        /// Its name, where the id is one that ggml has given out.
        known_as: Option<&'static str>,
    },

    /// Parts of a split file that do not belong together.
    #[error("split file: {found}: {mend}")]
    Split {
        /// What was found.
        found: String,
        /// How to mend it.
        mend: &'static str,
    },

    /// What is to be written can not be.
    #[error("cannot write {what}: {found}: {mend}")]
    Unwritable {
        /// The key or tensor.
        what: String,
        /// What is wrong with it.
        found: String,
        /// How to mend it.
        mend: &'static str,
    },

    /// The output refused the bytes.
    #[error("cannot write the file: {0}: check the space and the rights of its folder")]
    Io(#[from] std::io::Error),
}

fn named(known_as: &Option<&'static str>) -> String {
    known_as.map_or(String::new(), |name| format!(" ({name})"))
}

/// Names of the types that have a dtype.
fn readable() -> String {
    let names: Vec<_> = crate::types::TYPES.iter().filter(|t| t.dtype.is_some()).map(|t| t.name).collect();
    names.join(", ")
}

/// A text of unknown size shortened for an error.
pub(crate) fn excerpt(text: &str) -> String {
    const LIMIT: usize = 80;
    match text.char_indices().nth(LIMIT) {
        None => text.to_string(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}
