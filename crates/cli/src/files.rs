//! Files that the command line asks for.

use std::path::Path;

use qiao_conformance::save;

/// Writes a file whole or not at all.
pub(crate) fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    save::whole(path, text.as_bytes())
        .map_err(|e| anyhow::anyhow!("{} can't be written: {e}; give another path", path.display()))
}
