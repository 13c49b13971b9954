//! A host in a few lines: options, a log, and the slots with their errors as results.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::null_mut;
use std::sync::Mutex;

use qiao_plugin::abi::{self, Api, Binding, ErrorRecord, Host, Query, Sized32, Status};
use qiao_plugin::export;

use crate::toy::Toy;

static TABLE: Api = export::table::<Toy>();

/// What a slot answered when it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) code: Status,
    pub(crate) operand: i32,
    pub(crate) reason: u32,
    pub(crate) message: String,
}

/// Calls a slot with a record, and reads it as a host does.
pub(crate) fn call(slot: impl FnOnce(*mut ErrorRecord) -> Status) -> Result<(), Failed> {
    let mut record = ErrorRecord::sized();
    match slot(&raw mut record) {
        abi::OK => Ok(()),
        code => {
            assert_eq!((record.code, record.struct_size), (code, 256));
            let bytes: Vec<u8> = record.message.iter().map(|&c| c as u8).take_while(|&b| b != 0).collect();
            assert!(bytes.len() < record.message.len(), "the message ends");
            let message = String::from_utf8(bytes).expect("whole characters");
            assert!(!message.is_empty(), "status {code} says nothing");
            Err(Failed { code, operand: record.operand, reason: record.reason, message })
        }
    }
}

/// As [`call`], for a slot that gives something.
pub(crate) fn get<T>(zero: T, slot: impl FnOnce(*mut T, *mut ErrorRecord) -> Status) -> Result<T, Failed> {
    let mut value = zero;
    call(|err| slot(&raw mut value, err)).map(|()| value)
}

/// A slot of the table.
macro_rules! slot {
    ($name:ident($($arg:expr),*)) => {
        // SAFETY: the arguments are handles, values, or pointers to things that outlive the call.
        unsafe { crate::host::api().$name.expect("the slot is there")($($arg),*) }
    };
}
pub(crate) use slot;

/// The plugin's table, found as the loader finds it.
pub(crate) fn api() -> &'static Api {
    let mut query = Query { host_minor: abi::MINOR, host_min_minor: 1, ..Query::sized() };
    // SAFETY: a query of its own size.
    call(|err| unsafe { export::answer_query::<Toy>(&TABLE, &raw mut query, err) }).unwrap();
    // SAFETY: the table is static.
    unsafe { &*query.api }
}

/// What a host keeps.
pub(crate) struct Services {
    options: BTreeMap<CString, CString>,
    pub(crate) lines: Mutex<Vec<String>>,
}

unsafe extern "C" fn log(ctx: *mut c_void, level: u32, text: *const c_char, len: u64) {
    // SAFETY: the context is the services, which live as long as the process.
    let (services, text) = unsafe { (&*ctx.cast::<Services>(), CStr::from_ptr(text)) };
    assert_eq!(text.count_bytes() as u64, len);
    services.lines.lock().unwrap().push(format!("{level} {}", text.to_str().unwrap()));
}

unsafe extern "C" fn get_option(ctx: *mut c_void, key: *const c_char) -> *const c_char {
    // SAFETY: as above; a key ends in NUL.
    let (services, key) = unsafe { (&*ctx.cast::<Services>(), CStr::from_ptr(key)) };
    services.options.get(key).map_or(std::ptr::null(), |v| v.as_ptr())
}

/// A host with these options.
pub(crate) fn host(options: &[(&str, &str)]) -> (Host, &'static Services) {
    let text = |t: &str| CString::new(t).unwrap();
    let options = options.iter().map(|(k, v)| (text(k), text(v))).collect();
    let services: &'static Services = Box::leak(Box::new(Services { options, lines: Mutex::default() }));
    let ctx = (&raw const *services).cast_mut().cast();
    let host = Host { abi_minor: abi::MINOR, ctx, log: Some(log), get_option: Some(get_option), ..Host::sized() };
    (host, services)
}

/// A backend, opened down to a stream. Shut down at the end.
pub(crate) struct Session {
    pub(crate) services: &'static Services,
    pub(crate) backend: *mut abi::Backend,
    pub(crate) device: *mut abi::Device,
    pub(crate) stream: *mut abi::Stream,
}

impl Session {
    pub(crate) fn new(options: &[(&str, &str)]) -> Session {
        let (host, services) = host(options);
        let backend = get(null_mut(), |out, err| slot!(backend_init(&host, out, err))).unwrap();
        let device = get(null_mut(), |out, err| slot!(device_open(backend, 0, out, err))).unwrap();
        let stream = get(null_mut(), |out, err| slot!(stream_create(device, 0, out, err))).unwrap();
        Session { services, backend, device, stream }
    }

    pub(crate) fn with_fault(fault: &str) -> Session {
        Session::new(&[("fault", fault)])
    }

    pub(crate) fn alloc(&self, bytes: u64) -> *mut abi::Buffer {
        get(null_mut(), |out, err| slot!(buffer_alloc(self.device, 0, bytes, out, err))).unwrap()
    }

    pub(crate) fn upload(&self, dst: *mut abi::Buffer, offset: u64, src: &[u8]) -> Result<(), Failed> {
        call(|err| slot!(upload(self.stream, dst, offset, src.as_ptr().cast(), src.len() as u64, err)))
    }

    pub(crate) fn download(&self, src: *mut abi::Buffer, offset: u64, bytes: usize) -> Result<Vec<u8>, Failed> {
        let mut to = vec![0u8; bytes];
        call(|err| slot!(download(self.stream, to.as_mut_ptr().cast(), src, offset, bytes as u64, err)))?;
        Ok(to)
    }

    pub(crate) fn sync(&self) -> Result<(), Failed> {
        call(|err| slot!(stream_sync(self.stream, abi::WAIT_FOREVER, err)))
    }

    pub(crate) fn execute(&self, plan: *mut abi::Plan, bindings: &[Binding]) -> Result<(), Failed> {
        let (list, n) = (bindings.as_ptr(), bindings.len() as u32);
        call(|err| slot!(plan_execute(plan, self.stream, list, n, std::ptr::null(), err)))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        slot!(stream_destroy(self.stream));
        slot!(device_close(self.device));
        slot!(backend_shutdown(self.backend));
    }
}
