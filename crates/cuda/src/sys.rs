//! The driver, the run-time compiler and cuBLASLt as tables of functions, looked up by the names that a vendor gives them.
//!
//! The functions are looked up one by one before the first call, so that a library that is missing, or too old to have one of
//! them, is an error and no panic, and so that a code that a newer driver answers is a number like any other.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ops::Deref;
use std::ptr::null_mut;

use cudarc::cublaslt::sys as lt;
use cudarc::driver::sys as cu;
use cudarc::driver::sys::CUjit_option_enum as Jit;
use cudarc::nvrtc::sys as rtc;
use libloading::Library;
use qiao_core::{Error, Result};

use crate::library::Kept;
use crate::vendors::{Meaning, Row};

pub(crate) use cu::{CUcontext, CUdevice, CUdeviceptr, CUevent, CUfunction, CUgraph, CUgraphExec, CUmodule, CUstream};
pub(crate) use rtc::nvrtcProgram;

/// What a call to the driver answers.
pub(crate) type Code = u32;

/// What every vendor's calls answer when all is well.
pub(crate) const SUCCESS: Code = 0;

/// The function that goes by one of these names, `|` between them.
///
/// # Safety
/// The type is the function's.
unsafe fn find<F: Copy>(library: &Library, names: &'static str) -> Option<F> {
    // SAFETY: as the caller vouches.
    names
        .split('|')
        .filter(|name| !name.is_empty())
        .find_map(|name| unsafe { library.get::<F>(name.as_bytes()) }.ok().map(|f| *f))
}

macro_rules! table {
    (
        $(#[$doc:meta])* $table:ident named by $names:ident:
        must { $($must:ident ($($arg:ty),* $(,)?);)* }
        may { $($may:ident ($($marg:ty),* $(,)?) -> $answer:ty;)* }
    ) => {
        $(#[$doc])*
        pub(crate) struct $table {
            $(pub(crate) $must: unsafe extern "C" fn($($arg),*) -> Code,)*
            $(pub(crate) $may: Option<unsafe extern "C" fn($($marg),*) -> $answer>,)*
        }

        /// What a vendor calls each of them: one name or several with `|` between them, tried in order; nothing where it has none.
        pub(crate) struct $names {
            $(pub(crate) $must: &'static str,)*
            $(pub(crate) $may: &'static str,)*
        }

        impl $table {
            /// Looks up every function, or names one that is not there.
            pub(crate) fn load(library: &Library, names: &$names) -> Result<Self, &'static str> {
                // SAFETY: the types are those of the vendors' headers.
                unsafe {
                    Ok($table {
                        $($must: find(library, names.$must).ok_or(names.$must)?,)*
                        $($may: find(library, names.$may),)*
                    })
                }
            }
        }

        impl $names {
            /// Those without which nothing works.
            #[cfg(test)]
            pub(crate) fn must(&self) -> Vec<&'static str> {
                vec![$(self.$must),*]
            }

            /// Those that a vendor may lack.
            #[cfg(test)]
            pub(crate) fn may(&self) -> Vec<&'static str> {
                vec![$(self.$may),*]
            }
        }
    };
}

table! {
    /// The functions of a driver that are used, by CUDA's signatures.
    Calls named by Names:
    must {
        init (c_uint);
        version (*mut c_int);
        device_count (*mut c_int);
        device (*mut CUdevice, c_int);
        device_name (*mut c_char, c_int, CUdevice);
        device_attribute (*mut c_int, c_int, CUdevice);
        context_retain (*mut CUcontext, CUdevice);
        context_get (*mut CUcontext);
        context_set (CUcontext);
        memory_info (*mut usize, *mut usize);
        alloc (*mut CUdeviceptr, usize);
        free (CUdeviceptr);
        host_alloc (*mut *mut c_void, usize, c_uint);
        host_free (*mut c_void);
        upload (CUdeviceptr, *const c_void, usize, CUstream);
        download (*mut c_void, CUdeviceptr, usize, CUstream);
        copy (CUdeviceptr, CUdeviceptr, usize, CUstream);
        // A byte to some vendors and an int to others: both take it from the register of an int.
        set_bytes (CUdeviceptr, c_uint, usize, CUstream);
        stream_create (*mut CUstream, c_uint);
        stream_destroy (CUstream);
        stream_query (CUstream);
        stream_wait (CUstream, CUevent, c_uint);
        event_create (*mut CUevent, c_uint);
        event_destroy (CUevent);
        event_record (CUevent, CUstream);
        event_query (CUevent);
        event_elapsed (*mut f32, CUevent, CUevent);
        module_unload (CUmodule);
        module_function (*mut CUfunction, CUmodule, *const c_char);
        launch (
            CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, CUstream, *mut *mut c_void,
            *mut *mut c_void,
        );
    }
    may {
        // A launch with attributes.
        launch_with (*const cu::CUlaunchConfig, CUfunction, *mut *mut c_void, *mut *mut c_void) -> Code;
        device_memory (*mut usize, CUdevice) -> Code;
        properties (*mut c_void, c_int) -> Code;
        pci_bus_id (*mut c_char, c_int, CUdevice) -> Code;
        context_release (CUdevice) -> Code;
        error_name (Code, *mut *const c_char) -> Code;
        error_text (Code, *mut *const c_char) -> Code;
        // The same, where the words are the answer.
        error_name_of (Code) -> *const c_char;
        error_text_of (Code) -> *const c_char;
        module_load (*mut CUmodule, *const c_void, c_uint, *mut c_int, *mut *mut c_void) -> Code;
        // The same without a log.
        module_load_plainly (*mut CUmodule, *const c_void) -> Code;
        function_set (CUfunction, c_int, c_int) -> Code;
        capture_begin (CUstream, c_int) -> Code;
        capture_end (CUstream, *mut CUgraph) -> Code;
        graph_instantiate (*mut CUgraphExec, CUgraph, u64) -> Code;
        // The same as CUDA 11 had it: the node and the words of a failure.
        graph_instantiate_with_log (*mut CUgraphExec, CUgraph, *mut *mut c_void, *mut c_char, usize) -> Code;
        graph_launch (CUgraphExec, CUstream) -> Code;
        graph_exec_destroy (CUgraphExec) -> Code;
        graph_destroy (CUgraph) -> Code;
    }
}

table! {
    /// The functions of a run-time compiler that are used, by NVRTC's signatures.
    CompilerCalls named by CompilerNames:
    must {
        version (*mut c_int, *mut c_int);
        create (
            *mut nvrtcProgram, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char,
        );
        compile (nvrtcProgram, c_int, *const *const c_char);
        destroy (*mut nvrtcProgram);
        log_size (nvrtcProgram, *mut usize);
        log (nvrtcProgram, *mut c_char);
        image_size (nvrtcProgram, *mut usize);
        image (nvrtcProgram, *mut c_char);
    }
    may {
        arch_count (*mut c_int) -> Code;
        archs (*mut c_int) -> Code;
        ptx_size (nvrtcProgram, *mut usize) -> Code;
        ptx (nvrtcProgram, *mut c_char) -> Code;
    }
}

table! {
    /// The functions of cuBLASLt that are used.
    Blas named by BlasNames:
    must {
        create (*mut lt::cublasLtHandle_t);
        destroy (lt::cublasLtHandle_t);
        product_create (*mut lt::cublasLtMatmulDesc_t, c_uint, c_uint);
        product_set (lt::cublasLtMatmulDesc_t, c_uint, *const c_void, usize);
        product_destroy (lt::cublasLtMatmulDesc_t);
        layout_create (*mut lt::cublasLtMatrixLayout_t, c_uint, u64, u64, i64);
        layout_destroy (lt::cublasLtMatrixLayout_t);
        preference_create (*mut lt::cublasLtMatmulPreference_t);
        preference_set (lt::cublasLtMatmulPreference_t, c_uint, *const c_void, usize);
        preference_destroy (lt::cublasLtMatmulPreference_t);
        heuristic (
            lt::cublasLtHandle_t, lt::cublasLtMatmulDesc_t, lt::cublasLtMatrixLayout_t, lt::cublasLtMatrixLayout_t,
            lt::cublasLtMatrixLayout_t, lt::cublasLtMatrixLayout_t, lt::cublasLtMatmulPreference_t, c_int,
            *mut c_void, *mut c_int,
        );
        matmul (
            lt::cublasLtHandle_t, lt::cublasLtMatmulDesc_t, *const c_void, *const c_void, lt::cublasLtMatrixLayout_t,
            *const c_void, lt::cublasLtMatrixLayout_t, *const c_void, *const c_void, lt::cublasLtMatrixLayout_t,
            *mut c_void, lt::cublasLtMatrixLayout_t, *const c_void, *mut c_void, usize, CUstream,
        );
    }
    may {
        version () -> usize;
    }
}

/// A vendor's driver, initialised.
pub(crate) struct Driver {
    pub(crate) row: &'static Row,
    calls: Calls,
}

impl Deref for Driver {
    type Target = Calls;
    fn deref(&self) -> &Calls {
        &self.calls
    }
}

/// What captures executions and replays them.
#[derive(Clone, Copy)]
pub(crate) struct Graphs {
    pub(crate) begin: unsafe extern "C" fn(CUstream, c_int) -> Code,
    pub(crate) end: unsafe extern "C" fn(CUstream, *mut CUgraph) -> Code,
    pub(crate) launch: unsafe extern "C" fn(CUgraphExec, CUstream) -> Code,
    pub(crate) destroy: unsafe extern "C" fn(CUgraph) -> Code,
}

/// A vendor's driver, initialised. One that is not there may be there later, so only what was found is kept.
///
/// # Errors
/// [`Error::NotPresent`]: no driver, one that is too old, no card.
pub(crate) fn driver(row: &'static Row) -> Result<&'static Driver> {
    static FOUND: Kept<Driver> = Kept::new();
    FOUND.get(row.name, || {
        let absent = |why: String| Error::not_present(row.name, why);
        let start = |library: &Library| {
            let calls = Calls::load(library, &row.calls)?;
            // SAFETY: needs nothing.
            let code = unsafe { (calls.init)(0) };
            Ok((calls, code))
        };
        let (calls, code) = row.driver.open(start, |(_, code)| !row.codes.stub.contains(code)).map_err(absent)?;
        let driver = Driver { row, calls };
        match code {
            SUCCESS => Ok(driver),
            code if row.codes.no_device.contains(&code) => Err(absent("the driver finds no card".into())),
            code if row.codes.stub.contains(&code) => {
                Err(absent(format!("{} is a stub to link with: {}", row.driver.what, row.driver.mend)))
            }
            code => Err(absent(format!("the driver does not start: {}", driver.describe(code)))),
        }
    })
}

/// Whether a vendor's driver works with libraries of this major number.
pub(crate) fn takes(row: &'static Row, major: i32) -> bool {
    !row.stack.bounds || driver(row).is_ok_and(|driver| major <= row.stack.major(driver.version()))
}

/// cuBLASLt, where this vendor has it on this machine with all that is used of it. One that the driver is too old for is taken
/// where there is no other.
pub(crate) fn blas(row: &'static Row) -> Option<&'static Blas> {
    static FOUND: Kept<Blas> = Kept::new();
    let (library, names) = row.blas.as_ref()?;
    let absent = |why: String| Error::not_present(row.name, why);
    let fits = |blas: &Blas| blas.version().is_none_or(|[major, ..]| takes(row, major));
    FOUND.get(row.name, || library.open(|l| Blas::load(l, names), fits).map_err(absent)).ok()
}

impl Blas {
    /// Its version's numbers, where it says them.
    pub(crate) fn version(&self) -> Option<[i32; 3]> {
        // SAFETY: needs nothing.
        let version = i32::try_from(unsafe { (self.version?)() }).ok()?;
        Some([version / 10_000, version / 100 % 100, version % 100])
    }
}

impl Driver {
    /// A code in the driver's words.
    pub(crate) fn describe(&self, code: Code) -> String {
        let written = |of: Option<unsafe extern "C" fn(Code, *mut *const c_char) -> Code>| {
            let mut text = std::ptr::null();
            // SAFETY: the driver writes the address of a text of its own, or null.
            of.map(|of| unsafe { of(code, &mut text) });
            text
        };
        let answered = |of: Option<unsafe extern "C" fn(Code) -> *const c_char>| {
            // SAFETY: the driver answers the address of a text of its own, or null.
            of.map_or(std::ptr::null(), |of| unsafe { of(code) })
        };
        let word = |address: *const c_char| {
            // SAFETY: null, or a text of the driver's that stays.
            (!address.is_null()).then(|| unsafe { CStr::from_ptr(address) }.to_string_lossy().into_owned())
        };
        let name = word(written(self.error_name)).or_else(|| word(answered(self.error_name_of)));
        let text = word(written(self.error_text)).or_else(|| word(answered(self.error_text_of)));
        match (name, text) {
            (Some(name), Some(text)) => format!("{text} ({name}, {code})"),
            _ => format!("code {code}"),
        }
    }

    /// What a code says.
    pub(crate) fn means(&self, code: Code) -> Meaning {
        self.row.codes.means(code)
    }

    /// Its version, as it says it.
    pub(crate) fn version(&self) -> i32 {
        let mut version = 0;
        // SAFETY: writes a number.
        unsafe { (self.calls.version)(&mut version) };
        version
    }

    /// Loads an image into the current context.
    ///
    /// # Errors
    /// The code, and the driver's log where it writes one.
    ///
    /// # Safety
    /// The image is one that the vendor's compiler made, or a text with a zero at its end.
    pub(crate) unsafe fn load(&self, image: &[u8]) -> Result<CUmodule, (Code, String)> {
        let mut log = [0u8; 4096];
        let mut options = [Jit::CU_JIT_ERROR_LOG_BUFFER as c_int, Jit::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES as c_int];
        let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), (log.len() - 1) as *mut c_void];
        let (mut raw, address) = (null_mut(), image.as_ptr().cast());
        // SAFETY: the image is as the caller vouches; the log holds as many bytes as is said.
        let code = unsafe {
            match (self.module_load, self.module_load_plainly) {
                (Some(load), _) => load(&mut raw, address, 2, options.as_mut_ptr(), values.as_mut_ptr()),
                (None, Some(load)) => load(&mut raw, address),
                (None, None) => return Err((Code::MAX, "the driver has no call that loads code".into())),
            }
        };
        let said = || CStr::from_bytes_until_nul(&log).map(|l| l.to_string_lossy().trim().to_string());
        if code == SUCCESS { Ok(raw) } else { Err((code, said().unwrap_or_default())) }
    }

    /// What captures executions; none where the driver lacks a part of it.
    pub(crate) fn graphs(&self) -> Option<Graphs> {
        self.graph_instantiate.map(drop).or(self.graph_instantiate_with_log.map(drop))?;
        self.graph_exec_destroy?;
        Some(Graphs {
            begin: self.capture_begin?,
            end: self.capture_end?,
            launch: self.graph_launch?,
            destroy: self.graph_destroy?,
        })
    }

    /// Makes a captured graph one that can be launched.
    ///
    /// # Errors
    /// The code.
    ///
    /// # Safety
    /// The graph is one of the current context's.
    pub(crate) unsafe fn instantiate(&self, graph: CUgraph) -> Result<CUgraphExec, Code> {
        let mut exec = null_mut();
        // SAFETY: as the caller vouches; nothing is asked to be written but the handle.
        let code = unsafe {
            match (self.graph_instantiate, self.graph_instantiate_with_log) {
                (Some(make), _) => make(&mut exec, graph, 0),
                (None, Some(make)) => make(&mut exec, graph, null_mut(), null_mut(), 0),
                (None, None) => return Err(Code::MAX),
            }
        };
        if code == SUCCESS { Ok(exec) } else { Err(code) }
    }

    /// An attribute of a card; 0 where the vendor has no number for it, or the driver does not know it.
    pub(crate) fn attribute(&self, device: CUdevice, attribute: Option<i32>) -> usize {
        let Some(attribute) = attribute else { return 0 };
        let mut value = 0;
        // SAFETY: writes a number; the device is one that the driver named.
        match unsafe { (self.device_attribute)(&mut value, attribute, device) } {
            SUCCESS => usize::try_from(value).unwrap_or(0),
            _ => 0,
        }
    }
}
