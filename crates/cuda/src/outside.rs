//! Compilers that are programs: for a vendor whose run-time compiler, if there is one, is not public.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use qiao_core::{Error, Result};
use qiao_kernels_cuda::{HEADERS, Unit};

/// A compiler that its owner named.
pub(crate) struct Outside {
    program: PathBuf,
    /// The first line of what it says of itself.
    pub(crate) version: String,
}

/// Lines of a failure that are shown.
const SHOWN: usize = 20;

impl Outside {
    /// The program that a variable names.
    ///
    /// # Errors
    /// It names none, or what it names does not start.
    pub(crate) fn of(variable: &str, mend: &str) -> std::result::Result<Outside, String> {
        let named = std::env::var_os(variable).filter(|name| !name.is_empty()).ok_or_else(|| mend.to_string())?;
        let program = PathBuf::from(named);
        let said = Command::new(&program).arg("--version").output();
        let said = said.map_err(|e| format!("{variable}: {} does not start: {e}", program.display()))?;
        if !said.status.success() {
            return Err(format!("{variable}: {} --version ends with {}", program.display(), said.status));
        }
        let version = String::from_utf8_lossy(&said.stdout).lines().next().unwrap_or_default().trim().to_string();
        Ok(Outside { program, version })
    }

    /// Compiles a unit.
    ///
    /// # Errors
    /// The compiler's words; a folder for its files that can't be made.
    pub(crate) fn compile(&self, unit: &Unit, options: &[String]) -> Result<Vec<u8>> {
        let what = || format!("compiling unit {}", unit.name);
        let folder = Folder::new().map_err(|e| Error::internal(what(), format!("a folder for its files: {e}")))?;
        let (text, image) = (folder.0.join(format!("{}.cu", unit.name)), folder.0.join("image"));
        let files = HEADERS.iter().map(|(name, text)| (folder.0.join(name), *text));
        let written = files.chain([(text.clone(), unit.text)]).try_for_each(|(path, text)| fs::write(path, text));
        written.map_err(|e| Error::internal(what(), format!("{}: {e}", folder.0.display())))?;
        let mut command = Command::new(&self.program);
        command.args(options).arg("-I").arg(&folder.0).arg("-o").arg(&image).arg(&text);
        let output = command.output().map_err(|e| Error::internal(what(), format!("{command:?}: {e}")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).into_owned();
            let lines: Vec<&str> = said.lines().take(SHOWN).collect();
            return Err(Error::internal(
                what(),
                format!("{} ends with {}: {}", self.version, output.status, lines.join("\n")),
            ));
        }
        fs::read(&image).map_err(|e| Error::internal(what(), format!("{} made no image: {e}", self.version)))
    }
}

/// A folder of its own, gone when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Folder> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("qiao-compiling-{}-{number}", std::process::id()));
            match create(&path) {
                Ok(()) => return Ok(Folder(path)),
                // Left behind by a process of the same number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Makes a folder that only this user reads and writes.
fn create(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}
