//! Objects of the host that operators take: tensors, lists, scalars, arrays.

use std::ffi::c_void;
use std::sync::Arc;

use qiao_core::Dims;
use qiao_reference::round;

use crate::codes::{Code, NN_INVALID, SUCCESS, dtype};
use crate::tensors::Tensor;
use crate::world::{Object, Refused, World, refused, world};

/// A host array; none where it is empty.
///
/// # Safety
/// It has so many elements.
unsafe fn array<'a, T>(at: *const T, len: u64) -> &'a [T] {
    // SAFETY: as the caller says.
    if at.is_null() || len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(at, len as usize) } }
}

/// Makes an object; null where it can't be made.
fn make(name: &str, of: impl FnOnce(&mut World) -> Result<Object, Refused>) -> *mut c_void {
    let mut w = world();
    *w.calls.entry(name.into()).or_default() += 1;
    let failing = w.failing.get_mut(name);
    let fails = failing.is_some_and(|f| {
        let now = f.after == 0 && f.times > 0;
        f.after = f.after.saturating_sub(1);
        f.times -= u64::from(now);
        now
    });
    let object = if fails { refused(NN_INVALID, "it was asked to fail") } else { of(&mut w) };
    match object {
        Ok(object) => {
            let handle = w.handle();
            w.objects.insert(handle, object);
            handle as *mut c_void
        }
        Err((_, why)) => {
            w.say(&format!("{name}: {why}"));
            std::ptr::null_mut()
        }
    }
}

fn dims(list: &[i64], what: &str) -> Result<Dims, Refused> {
    let list: Option<Vec<usize>> = list.iter().map(|d| usize::try_from(*d).ok()).collect();
    let dims = list.and_then(|l| Dims::new(&l).ok());
    dims.ok_or_else(|| (NN_INVALID, format!("{what} are no sizes of up to eight dims")))
}

/// # Safety
/// Arrays are as long as is said.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclCreateTensor(
    view: *const i64,
    view_len: u64,
    data_type: i32,
    strides: *const i64,
    offset: i64,
    format: i32,
    storage: *const i64,
    storage_len: u64,
    data: *mut c_void,
) -> *mut c_void {
    // SAFETY: as the caller says.
    let (view, strides, storage) =
        unsafe { (array(view, view_len), array(strides, view_len), array(storage, storage_len)) };
    make("aclCreateTensor", |_| {
        let Some(dtype) = dtype(data_type) else { return refused(NN_INVALID, format!("dtype {data_type}")) };
        dims(storage, "dims of the storage")?;
        let offset = usize::try_from(offset).map_err(|_| (NN_INVALID, format!("offset {offset}")))?;
        Ok(Object::Tensor(Arc::new(Tensor {
            dtype,
            format,
            view: dims(view, "dims of the view")?,
            strides: dims(strides, "strides")?,
            offset,
            storage: storage.to_vec(),
            data: data as usize,
        })))
    })
}

/// # Safety
/// The list is as long as is said.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclCreateTensorList(list: *const *const c_void, len: u64) -> *mut c_void {
    // SAFETY: as the caller says.
    let list: Vec<usize> = unsafe { array(list, len) }.iter().map(|t| *t as usize).collect();
    make("aclCreateTensorList", |w| match list.iter().all(|t| matches!(w.objects.get(t), Some(Object::Tensor(_)))) {
        true => Ok(Object::List(list)),
        false => refused(NN_INVALID, "a tensor of the list is none"),
    })
}

/// # Safety
/// The value is of the dtype.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclCreateScalar(value: *mut c_void, data_type: i32) -> *mut c_void {
    make("aclCreateScalar", |_| {
        let Some(dtype) = dtype(data_type).filter(|_| !value.is_null()) else {
            return refused(NN_INVALID, format!("dtype {data_type}"));
        };
        // SAFETY: as the caller says.
        let bytes = unsafe { std::slice::from_raw_parts(value.cast::<u8>(), dtype.block_bytes()) };
        Ok(Object::Scalar(round::decode(dtype, bytes)))
    })
}

/// # Safety
/// The array is as long as is said.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclCreateIntArray(values: *const i64, len: u64) -> *mut c_void {
    // SAFETY: as the caller says.
    let list = unsafe { array(values, len) }.to_vec();
    make("aclCreateIntArray", |_| Ok(Object::Ints(list)))
}

fn destroy(name: &str, handle: *const c_void, is: fn(&Object) -> bool) -> Code {
    let mut w = world();
    *w.calls.entry(name.into()).or_default() += 1;
    if !w.objects.get(&(handle as usize)).is_some_and(is) {
        w.say(&format!("{name}: {handle:p} is none, or was destroyed before"));
        return NN_INVALID;
    }
    if let Some(Object::List(list)) = w.objects.remove(&(handle as usize)) {
        for tensor in list {
            w.objects.remove(&tensor);
        }
    }
    SUCCESS
}

macro_rules! destroyers {
    ($($name:ident $kind:ident)*) => {$(
        /// # Safety
        /// None is asked for: a handle is a number.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(handle: *const c_void) -> Code {
            destroy(stringify!($name), handle, |o| matches!(o, Object::$kind(_)))
        }
    )*};
}

destroyers! {
    aclDestroyTensor Tensor
    aclDestroyTensorList List
    aclDestroyScalar Scalar
    aclDestroyIntArray Ints
}

/// # Safety
/// None is asked for: a handle is a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclDestroyAclOpExecutor(executor: *mut c_void) -> Code {
    let mut w = world();
    *w.calls.entry("aclDestroyAclOpExecutor".into()).or_default() += 1;
    if w.executors.remove(&(executor as usize)).is_none() {
        w.say("aclDestroyAclOpExecutor: it is none, or ran already");
        return NN_INVALID;
    }
    SUCCESS
}
