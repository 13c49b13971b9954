//! The header of a session file, and what the file must weigh by it. All numbers are little-endian.
//!
//! ```text
//! offset  bytes
//!      0      8  "QIAO-KV\n"
//!      8      4  version, 2
//!     12      4  layers
//!     16      4  heads of keys and values
//!     20      4  width of a head
//!     24     16  dtype of keys and values: its name, filled up with zeros
//!     40      8  tokens
//!     48     32  SHA-256 of the model's settings
//!     80     32  SHA-256 of the model's weights
//!    112  4 · n  token ids
//!                for each layer: keys [tokens, heads, width], values likewise; where they are codes,
//!                the scales of the keys and those of the values, f32 [tokens, heads]
//!            32  SHA-256 of everything before
//! ```

use std::path::Path;

use crate::error::{EngineError, Result};
use crate::fingerprint::Fingerprint;

pub(super) const MAGIC: [u8; 8] = *b"QIAO-KV\n";
pub(super) const VERSION: u32 = 2;
pub(super) const HEADER_BYTES: usize = 112;
pub(super) const SUM_BYTES: usize = 32;

const DTYPE_BYTES: usize = 16;

/// The name of the format in error texts.
pub(super) const FORMAT: &str = "session";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) layers: u32,
    pub(super) kv_heads: u32,
    pub(super) head_dim: u32,
    pub(super) dtype: [u8; DTYPE_BYTES],
    pub(super) tokens: u64,
    pub(super) fingerprint: Fingerprint,
}

/// A dtype's name as it stands in the header.
pub(super) fn dtype_field(name: &str) -> [u8; DTYPE_BYTES] {
    let mut field = [0; DTYPE_BYTES];
    for (to, from) in field.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    field
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend(MAGIC);
        for number in [VERSION, self.layers, self.kv_heads, self.head_dim] {
            out.extend(number.to_le_bytes());
        }
        out.extend(self.dtype);
        out.extend(self.tokens.to_le_bytes());
        out.extend(self.fingerprint.settings);
        out.extend(self.fingerprint.weights);
        out
    }

    /// Reads a header; `path` stands in error texts only.
    ///
    /// # Errors
    /// Another kind of file, or another version.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES], path: &Path) -> Result<Header> {
        if bytes[..8] != MAGIC {
            let found = "it does not begin with the mark of one";
            return Err(EngineError::malformed(path, FORMAT, found, "give a file that --save-session has written"));
        }
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if word(8) != VERSION {
            let found = format!("it has version {}, this build reads version {VERSION}", word(8));
            return Err(EngineError::malformed(path, FORMAT, found, "save the session again with this build"));
        }
        let mut header = Header {
            layers: word(12),
            kv_heads: word(16),
            head_dim: word(20),
            dtype: [0; DTYPE_BYTES],
            tokens: u64::from(word(40)) | u64::from(word(44)) << 32,
            fingerprint: Fingerprint { settings: [0; 32], weights: [0; 32] },
        };
        header.dtype.copy_from_slice(&bytes[24..40]);
        header.fingerprint.settings.copy_from_slice(&bytes[48..80]);
        header.fingerprint.weights.copy_from_slice(&bytes[80..112]);
        Ok(header)
    }

    /// Refuses a file of another model than `here`, whose number of tokens does not count.
    ///
    /// # Errors
    /// [`EngineError::OtherSession`] with the first thing that differs.
    pub(super) fn require(&self, here: &Header, path: &Path) -> Result<()> {
        let other = |what, saved: String, here: String| {
            Err(EngineError::OtherSession { path: path.to_path_buf(), what, saved, here })
        };
        let sizes = [
            ("layers", self.layers, here.layers),
            ("heads of keys and values", self.kv_heads, here.kv_heads),
            ("elements in a head", self.head_dim, here.head_dim),
        ];
        for (what, saved, here) in sizes {
            if saved != here {
                return other(what, saved.to_string(), here.to_string());
            }
        }
        let name = |field: &[u8]| String::from_utf8_lossy(field).trim_end_matches('\0').escape_debug().to_string();
        if self.dtype != here.dtype {
            return other("as the dtype of keys and values", name(&self.dtype), name(&here.dtype));
        }
        let (saved, here) = (&self.fingerprint, &here.fingerprint);
        let sums = [
            ("as the sum of config.json and compute dtype", saved.settings, here.settings),
            ("as the sum of the weights", saved.weights, here.weights),
        ];
        for (what, saved, here) in sums {
            if saved != here {
                return other(what, short(&saved), short(&here));
            }
        }
        Ok(())
    }

    /// Bytes of the whole file: `per_token` for each token in all layers. `None` where that is more than can be.
    pub(super) fn file_bytes(&self, per_token: u64) -> Option<u64> {
        let tokens = self.tokens.checked_mul(per_token.checked_add(4)?)?;
        tokens.checked_add((HEADER_BYTES + SUM_BYTES) as u64)
    }
}

/// The first digits of a sum.
fn short(sum: &[u8; 32]) -> String {
    sum[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}
