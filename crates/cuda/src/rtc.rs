//! Run-time compilers: libraries of NVRTC's interface, by the names that a vendor gives them, or programs.

use std::ffi::{CString, c_char, c_int};

use qiao_core::{Error, Result};
use qiao_kernels_cuda::{HEADERS, Unit};

use crate::compile::Target;
use crate::library::Kept;
use crate::outside::Outside;
use crate::sys::{Code, CompilerCalls, SUCCESS, nvrtcProgram, takes};
use crate::vendors::{Compiling, Row};

/// A vendor's run-time compiler.
pub(crate) struct Compiler {
    kind: Kind,
    options: &'static [&'static str],
    /// What it is called.
    what: &'static str,
}

enum Kind {
    Library(CompilerCalls),
    Program(Outside),
}

/// What a unit is compiled with.
pub(crate) struct Job {
    pub(crate) options: Vec<String>,
    /// Whether code of the card comes out, and no text that the driver translates.
    is_code: bool,
}

/// The run-time compiler of a vendor. One whose code the driver is too old for is taken where there is no other.
///
/// # Errors
/// [`Error::NotPresent`]: it is not there, or is too old.
pub(crate) fn compiler(row: &'static Row) -> Result<&'static Compiler> {
    static FOUND: Kept<Compiler> = Kept::new();
    FOUND.get(row.name, || {
        let found = match &row.compiler {
            Compiling::Library { library, calls, options } => {
                let fits = |calls: &CompilerCalls| takes(row, calls.version().0);
                let calls = library.open(|found| CompilerCalls::load(found, calls), fits);
                calls.map(|calls| Compiler { kind: Kind::Library(calls), options, what: library.what })
            }
            Compiling::Program { what, variable, options, mend } => {
                let program = Outside::of(variable, mend);
                program.map(|program| Compiler { kind: Kind::Program(program), options, what })
            }
        };
        found.map_err(|why| Error::not_present(row.name, why))
    })
}

impl CompilerCalls {
    /// The major number of the compiler's version, and the minor.
    fn version(&self) -> (c_int, c_int) {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: writes two numbers.
        unsafe { (self.version)(&mut major, &mut minor) };
        (major, minor)
    }
}

impl Compiler {
    /// Its name and version.
    pub(crate) fn version(&self) -> String {
        let calls = match &self.kind {
            Kind::Library(calls) => calls,
            Kind::Program(program) => return format!("{} ({})", self.what, program.version),
        };
        let (major, minor) = calls.version();
        format!("{} {major}.{minor}", self.what)
    }

    /// What units are compiled with for a card.
    pub(crate) fn job(&self, target: &Target) -> Job {
        let (arch, is_code) = self.arch_of(target);
        Job { options: self.options.iter().map(|option| option.replace("{arch}", &arch)).collect(), is_code }
    }

    /// What to compile for: the card itself where the compiler knows it or does not say what it knows, else the newest that it
    /// knows and that the driver can translate from.
    fn arch_of(&self, target: &Target) -> (String, bool) {
        let own = (target.name.clone(), true);
        let Kind::Library(calls) = &self.kind else { return own };
        let (Some(arch_count), Some(archs)) = (calls.arch_count, calls.archs) else { return own };
        let mut count = 0;
        // SAFETY: writes a number, and then as many as it said.
        let known = unsafe {
            arch_count(&mut count);
            let mut known = vec![0; usize::try_from(count).unwrap_or(0)];
            if !known.is_empty() {
                archs(known.as_mut_ptr());
            }
            known
        };
        let arch = target.arch as c_int;
        match known.iter().copied().filter(|&a| a <= arch).max() {
            Some(best) if best < arch && calls.ptx.is_some() => (format!("compute_{best}"), false),
            _ => own,
        }
    }

    /// Compiles a unit.
    ///
    /// # Errors
    /// The compiler's words, with the unit's name.
    pub(crate) fn compile(&self, unit: &Unit, job: &Job) -> Result<Vec<u8>> {
        match &self.kind {
            Kind::Library(calls) => Program::new(calls, self.what, unit)?.compile(job),
            Kind::Program(program) => program.compile(unit, &job.options),
        }
    }
}

/// A text on its way through the compiler.
struct Program<'a> {
    calls: &'a CompilerCalls,
    /// What the compiler is called.
    what: &'static str,
    unit: &'a Unit,
    raw: nvrtcProgram,
}

impl<'a> Program<'a> {
    fn new(calls: &'a CompilerCalls, what: &'static str, unit: &'a Unit) -> Result<Self> {
        let zero_ended = |text: &str| CString::new(text).expect("texts hold no zero");
        let (text, name) = (zero_ended(unit.text), zero_ended(&format!("{}.cu", unit.name)));
        let headers: Vec<(CString, CString)> = HEADERS.iter().map(|(n, t)| (zero_ended(n), zero_ended(t))).collect();
        let names: Vec<*const c_char> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
        let texts: Vec<*const c_char> = headers.iter().map(|(_, text)| text.as_ptr()).collect();
        let mut raw = std::ptr::null_mut();
        let count = headers.len() as c_int;
        // SAFETY: every text ends with a zero and outlives the call, which copies them.
        let code =
            unsafe { (calls.create)(&mut raw, text.as_ptr(), name.as_ptr(), count, texts.as_ptr(), names.as_ptr()) };
        if code != SUCCESS {
            return Err(Error::internal(format!("compiling unit {}", unit.name), format!("{} answers {code}", what)));
        }
        Ok(Program { calls, what, unit, raw })
    }

    fn compile(&self, job: &Job) -> Result<Vec<u8>> {
        let options: Vec<CString> =
            job.options.iter().map(|o| CString::new(o.as_str()).expect("options hold no zero")).collect();
        let list: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let c = self.calls;
        // SAFETY: the program was created; every option ends with a zero.
        let code = unsafe { (c.compile)(self.raw, list.len() as c_int, list.as_ptr()) };
        if code != SUCCESS {
            let log = self.bytes(c.log_size, c.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let why = format!("{} answers {code}: {}", self.what, log.trim_end_matches('\0').trim());
            return Err(Error::internal(format!("compiling unit {}", self.unit.name), why));
        }
        let image = match (job.is_code, c.ptx_size.zip(c.ptx)) {
            (false, Some((size, get))) => self.bytes(size, get),
            _ => self.bytes(c.image_size, c.image),
        };
        let what = || format!("compiling unit {}", self.unit.name);
        image.ok_or_else(|| Error::internal(what(), format!("{} gives no image", self.what)))
    }

    /// What the compiler has to give, by its size and its bytes.
    fn bytes(
        &self,
        size: unsafe extern "C" fn(nvrtcProgram, *mut usize) -> Code,
        get: unsafe extern "C" fn(nvrtcProgram, *mut c_char) -> Code,
    ) -> Option<Vec<u8>> {
        let mut bytes = 0;
        // SAFETY: the program was created; the second call writes as many bytes as the first one said.
        unsafe {
            if size(self.raw, &mut bytes) != SUCCESS || bytes == 0 {
                return None;
            }
            let mut out = vec![0u8; bytes];
            (get(self.raw, out.as_mut_ptr().cast()) == SUCCESS).then_some(out)
        }
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: created by this compiler, and not used again.
        unsafe { (self.calls.destroy)(&mut self.raw) };
    }
}
