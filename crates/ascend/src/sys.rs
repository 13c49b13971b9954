//! AscendCL as a table of functions, opened where it is on this machine.
//!
//! The functions are declared once, in C's words, by [`for_each_function!`]: the table is made of it, and `cargo xtask ascend`
//! holds it to Huawei's headers. Each is looked up before the first call, so that a library which is missing, or too old to
//! have one of them, is an error and no panic.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use libloading::Library;
use qiao_core::{Error, Result};

use crate::codes::{Code, REPEAT_INITIALIZE, SUCCESS, named};
use crate::operators::Operators;

pub(crate) use crate::codes::Handle;

/// Calls `$callback!` with every function of the run time and of the operators' base: a name here, the name in its library, the
/// result and the arguments.
macro_rules! for_each_function {
    ($callback:ident) => {
        $callback! {
            Runtime "libascendcl.so":
            init = aclInit(config: *const c_char) -> Code;
            device_count = aclrtGetDeviceCount(count: *mut u32) -> Code;
            soc_name = aclrtGetSocName() -> *const c_char;
            version = aclrtGetVersion(major: *mut i32, minor: *mut i32, patch: *mut i32) -> Code;
            recent_message = aclGetRecentErrMsg() -> *const c_char;
            context_create = aclrtCreateContext(context: *mut Handle, device: i32) -> Code;
            context_destroy = aclrtDestroyContext(context: Handle) -> Code;
            context_get = aclrtGetCurrentContext(context: *mut Handle) -> Code;
            context_set = aclrtSetCurrentContext(context: Handle) -> Code;
            memory_info = aclrtGetMemInfo(attr: i32, free: *mut usize, total: *mut usize) -> Code;
            alloc = aclrtMalloc(address: *mut Handle, size: usize, policy: i32) -> Code;
            free = aclrtFree(address: Handle) -> Code;
            host_alloc = aclrtMallocHost(address: *mut Handle, size: usize) -> Code;
            host_free = aclrtFreeHost(address: Handle) -> Code;
            copy = aclrtMemcpyAsync(
                dst: Handle, most: usize, src: *const c_void, count: usize, kind: i32, stream: Handle
            ) -> Code;
            set_bytes = aclrtMemsetAsync(address: Handle, most: usize, value: i32, count: usize, stream: Handle) -> Code;
            stream_create = aclrtCreateStream(stream: *mut Handle) -> Code;
            stream_failure_mode = aclrtSetStreamFailureMode(stream: Handle, mode: u64) -> Code;
            stream_destroy = aclrtDestroyStream(stream: Handle) -> Code;
            stream_query = aclrtStreamQuery(stream: Handle, status: *mut i32) -> Code;
            stream_sync = aclrtSynchronizeStreamWithTimeout(stream: Handle, millis: i32) -> Code;
            stream_wait = aclrtStreamWaitEvent(stream: Handle, event: Handle) -> Code;
            event_create = aclrtCreateEventWithFlag(event: *mut Handle, flag: u32) -> Code;
            event_destroy = aclrtDestroyEvent(event: Handle) -> Code;
            event_record = aclrtRecordEvent(event: Handle, stream: Handle) -> Code;
            event_query = aclrtQueryEventStatus(event: Handle, status: *mut i32) -> Code;
            event_elapsed = aclrtEventElapsedTime(millis: *mut f32, start: Handle, end: Handle) -> Code;
        }
        $callback! {
            Objects "libnnopbase.so":
            tensor_create = aclCreateTensor(
                view: *const i64, view_len: u64, data_type: i32, strides: *const i64, offset: i64, format: i32,
                storage: *const i64, storage_len: u64, data: Handle
            ) -> Handle;
            tensor_destroy = aclDestroyTensor(tensor: *const c_void) -> Code;
            list_create = aclCreateTensorList(list: *const *const c_void, len: u64) -> Handle;
            list_destroy = aclDestroyTensorList(list: *const c_void) -> Code;
            scalar_create = aclCreateScalar(value: *mut c_void, data_type: i32) -> Handle;
            scalar_destroy = aclDestroyScalar(scalar: *const c_void) -> Code;
            ints_create = aclCreateIntArray(values: *const i64, len: u64) -> Handle;
            ints_destroy = aclDestroyIntArray(array: *const c_void) -> Code;
            executor_destroy = aclDestroyAclOpExecutor(executor: Handle) -> Code;
        }
    };
}

macro_rules! tables {
    ($table:ident $library:literal: $($name:ident = $symbol:ident($($arg:ident: $ty:ty),*) -> $result:ty;)*) => {
        #[doc = concat!("The functions of ", $library, " that are used.")]
        pub(crate) struct $table {
            $(pub(crate) $name: unsafe extern "C" fn($($ty),*) -> $result,)*
        }

        impl $table {
            /// Looks up every function, or names the one that is missing.
            fn load(library: &Library) -> Result<Self, &'static str> {
                // SAFETY: the types are those of the headers, to which they are held; the library stays open.
                unsafe {
                    Ok($table {
                        $($name: *library
                            .get::<unsafe extern "C" fn($($ty),*) -> $result>(stringify!($symbol).as_bytes())
                            .map_err(|_| stringify!($symbol))?,)*
                    })
                }
            }
        }
    };
}

for_each_function!(tables);

/// AscendCL, opened and initialised.
pub(crate) struct Api {
    pub(crate) run: Runtime,
    pub(crate) objects: Objects,
    pub(crate) operators: Operators,
    /// The version of the run time's interface, e.g. `1.17.0`.
    pub(crate) version: String,
}

/// Where the libraries are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Places {
    /// The one folder, where a caller named it.
    pub(crate) folder: Option<PathBuf>,
}

impl Places {
    /// The paths of a library to try, in order.
    fn of(&self, name: &str) -> Vec<PathBuf> {
        if let Some(folder) = &self.folder {
            return vec![folder.join(name)];
        }
        let mut paths = vec![PathBuf::from(name)];
        if let Some(home) = std::env::var_os("ASCEND_TOOLKIT_HOME").filter(|h| !h.is_empty()) {
            paths.push(Path::new(&home).join("lib64").join(name));
        }
        paths.push(Path::new("/usr/local/Ascend/ascend-toolkit/latest/lib64").join(name));
        paths
    }

    fn open(&self, name: &str) -> Result<Library> {
        let paths = self.of(name);
        for path in &paths {
            // SAFETY: the vendor's library, by its own name; it is never closed once it was used.
            if let Ok(library) = unsafe { Library::new(path) } {
                return Ok(library);
            }
        }
        let tried = paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
        let mend = "install CANN, and set ASCEND_TOOLKIT_HOME or source its set_env.sh";
        Err(Error::not_present("ascend", format!("{name} was not found (tried {tried}): {mend}")))
    }
}

/// AscendCL in these places, opened once for each; what was not found may be there later.
///
/// # Errors
/// [`Error::NotPresent`]: a library is missing, lacks a function, or does not start.
pub(crate) fn api(places: &Places) -> Result<&'static Api> {
    static OPEN: Mutex<Option<HashMap<Places, &'static Api>>> = Mutex::new(None);
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let open = open.get_or_insert_default();
    if let Some(api) = open.get(places) {
        return Ok(api);
    }
    let api = Api::load(places)?;
    Ok(open.entry(places.clone()).or_insert(Box::leak(Box::new(api))))
}

impl Api {
    fn load(places: &Places) -> Result<Api> {
        let lacks = |library: &str, symbol: &str| {
            Error::not_present("ascend", format!("{library} has no {symbol}: install CANN 8.2 or newer"))
        };
        let [runtime, base, operators] = ["libascendcl.so", "libnnopbase.so", "libopapi.so"];
        let libraries = [places.open(runtime)?, places.open(base)?, places.open(operators)?];
        let run = Runtime::load(&libraries[0]).map_err(|symbol| lacks(runtime, symbol))?;
        let objects = Objects::load(&libraries[1]).map_err(|symbol| lacks(base, symbol))?;
        let operators = Operators::load(&libraries[2]);
        // They stay for as long as the process does: CANN does not start again once it was closed.
        std::mem::forget(libraries);
        let mut api = Api { run, objects, operators, version: String::new() };
        // SAFETY: no configuration is allowed for.
        match unsafe { (api.run.init)(std::ptr::null()) } {
            SUCCESS | REPEAT_INITIALIZE => {}
            code => {
                return Err(Error::not_present("ascend", format!("AscendCL does not start: {}", api.describe(code))));
            }
        }
        let (mut major, mut minor, mut patch) = (0, 0, 0);
        // SAFETY: writes three numbers.
        unsafe { (api.run.version)(&mut major, &mut minor, &mut patch) };
        api.version = format!("{major}.{minor}.{patch}");
        Ok(api)
    }

    /// A code by name, with AscendCL's own words.
    pub(crate) fn describe(&self, code: Code) -> String {
        // SAFETY: answers the address of a text of its own, or null.
        let words = unsafe {
            let text = (self.run.recent_message)();
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().trim().to_string())
        };
        match words.filter(|w| !w.is_empty()) {
            Some(words) => format!("{}: {words}", named(code)),
            None => named(code),
        }
    }
}
