//! Compiles every unit as the backend does at run time, by a compiler that needs no card:
//!
//! ```text
//! compile_units nvrtc <folder of libnvrtc> sm_80 sm_90a
//! compile_units hiprtc gfx906
//! ```
//!
//! Exit status: 0 all units are compiled and hold their rows' kernels; 1 not; 3 the compiler's library does not open.

use std::error::Error;
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;
use std::process::ExitCode;
use std::ptr::null_mut;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use libloading::Library;
use library::Opened;
use qiao_kernels_cuda::{HEADERS, UNITS, Unit};

#[path = "../src/library.rs"]
#[allow(dead_code, reason = "the backend uses more of it")]
mod library;

type Answer<T> = Result<T, Box<dyn Error + Send + Sync>>;
type Strings = *const *const c_char;

/// NVRTC's functions, or hipRTC's, which are the same but for their names.
struct Compiler {
    create: unsafe extern "C" fn(*mut *mut c_void, *const c_char, *const c_char, c_int, Strings, Strings) -> c_int,
    compile: unsafe extern "C" fn(*mut c_void, c_int, Strings) -> c_int,
    destroy: unsafe extern "C" fn(*mut *mut c_void) -> c_int,
    log: Bytes,
    code: Bytes,
}

/// How many bytes there are, and the bytes.
type Bytes =
    (unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int, unsafe extern "C" fn(*mut c_void, *mut c_char) -> c_int);

/// Why nothing can be compiled.
const ABSENT: u8 = 3;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (compiler, targets) = match &words[..] {
        ["nvrtc", folder, targets @ ..] => (nvrtc(folder), targets),
        ["hiprtc", targets @ ..] => (hiprtc(), targets),
        _ => {
            eprintln!("usage: compile_units nvrtc <folder of libnvrtc> <arch>... | hiprtc <arch>...");
            return ExitCode::from(2);
        }
    };
    let compiler = match compiler {
        Ok(compiler) => compiler,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(ABSENT);
        }
    };
    let jobs: Vec<(&Unit, &str)> = UNITS.iter().flat_map(|u| targets.iter().map(move |t| (u, *t))).collect();
    let faults = run(&compiler, &jobs);
    println!("{}: {} units for {}, {} faults", words[0], UNITS.len(), targets.join(", "), faults.len());
    for fault in &faults {
        eprintln!("{fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// That of NVIDIA's wheels, opened as the backend opens it.
fn nvrtc(folder: &str) -> Answer<Compiler> {
    let path = Path::new(folder).join("libnvrtc.so.13");
    let opened = Opened::new(&path, "libnvrtc-builtins.so");
    let opened = opened.ok_or_else(|| format!("{} does not open", path.display()))?;
    let compiler = Compiler::load(&opened.library, "nvrtc", "CUBIN")?;
    Ok(opened.keep(compiler))
}

/// hipRTC is a part of the run-time library up to release 5, and a library of its own since.
fn hiprtc() -> Answer<Compiler> {
    let names = ["libhiprtc.so", "libhiprtc.so.6", "libamdhip64.so", "libamdhip64.so.5"];
    let open = |name: &&str| {
        // SAFETY: the library is the run-time compiler, whose initialisers only fill tables.
        unsafe { Library::new(*name) }.ok().and_then(|l| Compiler::load(&l, "hiprtc", "Code").ok().map(|c| (l, c)))
    };
    let (library, compiler) = names.iter().find_map(open).ok_or("hipRTC is not here")?;
    std::mem::forget(library);
    Ok(compiler)
}

impl Compiler {
    fn load(library: &Library, prefix: &str, code: &str) -> Answer<Compiler> {
        macro_rules! find {
            ($name:expr) => {
                // SAFETY: the type is that of the library's header.
                *unsafe { library.get(format!("{prefix}{}", $name).as_bytes()) }?
            };
        }
        Ok(Compiler {
            create: find!("CreateProgram"),
            compile: find!("CompileProgram"),
            destroy: find!("DestroyProgram"),
            log: (find!("GetProgramLogSize"), find!("GetProgramLog")),
            code: (find!(format!("Get{code}Size")), find!(format!("Get{code}"))),
        })
    }

    /// Compiles a unit; every kernel of its rows must be named in the code.
    fn check(&self, unit: &Unit, target: &str) -> Answer<()> {
        let code = self.compile(unit, target)?;
        let named = |symbol: &str| {
            code.windows(symbol.len() + 1).any(|w| w[..symbol.len()] == *symbol.as_bytes() && w[symbol.len()] == 0)
        };
        match unit.kernels.iter().find(|k| !named(k.symbol)) {
            Some(kernel) => Err(format!("{} is not in the code", kernel.symbol).into()),
            None => Ok(()),
        }
    }

    fn compile(&self, unit: &Unit, target: &str) -> Answer<Vec<u8>> {
        let words = |text: &str| CString::new(text);
        let (text, name) = (words(unit.text)?, words(&format!("{}.cu", unit.name))?);
        let names = HEADERS.iter().map(|(name, _)| words(name)).collect::<Result<Vec<_>, _>>()?;
        let texts = HEADERS.iter().map(|(_, text)| words(text)).collect::<Result<Vec<_>, _>>()?;
        let options = [words(&format!("--gpu-architecture={target}"))?, words("--std=c++17")?];
        let pointers = |all: &[CString]| all.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let mut program = null_mut();
        // SAFETY: every text ends with a zero byte and lives until the program is destroyed.
        unsafe {
            let (count, texts, names) = (HEADERS.len() as c_int, pointers(&texts), pointers(&names));
            let made = (self.create)(&mut program, text.as_ptr(), name.as_ptr(), count, texts.as_ptr(), names.as_ptr());
            if made != 0 {
                return Err(format!("no program is made: {made}").into());
            }
            let compiled = (self.compile)(program, options.len() as c_int, pointers(&options).as_ptr());
            let bytes = read(program, if compiled == 0 { self.code } else { self.log });
            (self.destroy)(&mut program);
            let bytes = bytes?;
            if compiled == 0 { Ok(bytes) } else { Err(String::from_utf8_lossy(&bytes).into_owned().into()) }
        }
    }
}

/// # Safety
/// The program is one of the compiler's that the functions are of.
unsafe fn read(program: *mut c_void, (size, get): Bytes) -> Answer<Vec<u8>> {
    let mut count = 0;
    // SAFETY: the second call writes as many bytes as the first one says.
    unsafe {
        if size(program, &mut count) != 0 {
            return Err("the compiler does not say how many bytes it has".into());
        }
        let mut bytes = vec![0u8; count];
        if get(program, bytes.as_mut_ptr().cast()) != 0 {
            return Err("the compiler does not give its bytes".into());
        }
        Ok(bytes)
    }
}

/// Compiles everything, as many at once as the machine has threads; what went wrong.
fn run(compiler: &Compiler, jobs: &[(&Unit, &str)]) -> Vec<String> {
    let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((unit, target)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = compiler.check(unit, target) {
                        faults.lock().expect("no thread panics").push(format!("{}.cu for {target}: {why}", unit.name));
                    }
                }
            });
        }
    });
    faults.into_inner().expect("no thread panics")
}
