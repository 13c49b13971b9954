//! Numbers of AscendCL: codes that calls answer, kinds of copies, dtypes, formats. Their names are those of the headers
//! `acl_base_rt.h`, `acl_rt.h` and `error_codes/rt_error_codes.h`.

use qiao_core::DType;

/// What a call answers.
pub(crate) type Code = i32;

/// An opaque object of AscendCL, or an address.
pub(crate) type Handle = *mut std::ffi::c_void;

pub(crate) const SUCCESS: Code = 0;
pub(crate) const REPEAT_INITIALIZE: Code = 100_002;

/// Codes that say that memory is used up.
const OUT_OF_MEMORY: &[Code] = &[200_000, 207_001, 207_018];

/// The codes that are told by name.
const NAMES: &[(Code, &str)] = &[
    (100_000, "ACL_ERROR_INVALID_PARAM"),
    (100_001, "ACL_ERROR_UNINITIALIZE"),
    (100_002, "ACL_ERROR_REPEAT_INITIALIZE"),
    (100_039, "ACL_ERROR_COMPILING_STUB_MODE"),
    (107_000, "ACL_ERROR_RT_PARAM_INVALID"),
    (107_001, "ACL_ERROR_RT_INVALID_DEVICEID"),
    (107_002, "ACL_ERROR_RT_CONTEXT_NULL"),
    (107_003, "ACL_ERROR_RT_STREAM_CONTEXT"),
    (107_008, "ACL_ERROR_RT_ADDR_UNALIGNED"),
    (107_017, "ACL_ERROR_RT_INVALID_HANDLE"),
    (107_019, "ACL_ERROR_RT_WAIT_TIMEOUT"),
    (107_020, "ACL_ERROR_RT_TASK_TIMEOUT"),
    (107_022, "ACL_ERROR_RT_DEVICE_TASK_ABORT"),
    (107_023, "ACL_ERROR_RT_STREAM_ABORT"),
    (161_001, "ACLNN_ERR_PARAM_NULLPTR"),
    (161_002, "ACLNN_ERR_PARAM_INVALID"),
    (200_000, "ACL_ERROR_BAD_ALLOC"),
    (207_000, "ACL_ERROR_RT_FEATURE_NOT_SUPPORT"),
    (207_001, "ACL_ERROR_RT_MEMORY_ALLOCATION"),
    (207_004, "ACL_ERROR_RT_NO_DEVICE"),
    (207_005, "ACL_ERROR_RT_RESOURCE_ALLOC_FAIL"),
    (207_006, "ACL_ERROR_RT_NO_PERMISSION"),
    (207_007, "ACL_ERROR_RT_NO_EVENT_RESOURCE"),
    (207_008, "ACL_ERROR_RT_NO_STREAM_RESOURCE"),
    (207_018, "ACL_ERROR_RT_DEVICE_OOM"),
    (361_001, "ACLNN_ERR_RUNTIME_ERROR"),
    (500_000, "ACL_ERROR_INTERNAL_ERROR"),
    (507_000, "ACL_ERROR_RT_INTERNAL_ERROR"),
    (507_001, "ACL_ERROR_RT_TS_ERROR"),
    (507_008, "ACL_ERROR_RT_SOC_VERSION"),
    (507_010, "ACL_ERROR_RT_LOST_HEARTBEAT"),
    (507_011, "ACL_ERROR_RT_MODEL_EXECUTE"),
    (507_013, "ACL_ERROR_RT_SYS_DMA"),
    (507_014, "ACL_ERROR_RT_AICORE_TIMEOUT"),
    (507_015, "ACL_ERROR_RT_AICORE_EXCEPTION"),
    (507_016, "ACL_ERROR_RT_AICORE_TRAP_EXCEPTION"),
    (507_017, "ACL_ERROR_RT_AICPU_TIMEOUT"),
    (507_018, "ACL_ERROR_RT_AICPU_EXCEPTION"),
    (507_033, "ACL_ERROR_RT_DEV_SETUP_ERROR"),
    (507_034, "ACL_ERROR_RT_VECTOR_CORE_TIMEOUT"),
    (507_035, "ACL_ERROR_RT_VECTOR_CORE_EXCEPTION"),
    (507_036, "ACL_ERROR_RT_VECTOR_CORE_TRAP_EXCEPTION"),
    (507_046, "ACL_ERROR_RT_STREAM_SYNC_TIMEOUT"),
    (507_053, "ACL_ERROR_RT_DEVICE_MEM_ERROR"),
    (507_054, "ACL_ERROR_RT_HBM_MULTI_BIT_ECC_ERROR"),
    (507_056, "ACL_ERROR_RT_LINK_ERROR"),
    (507_899, "ACL_ERROR_RT_DRV_INTERNAL_ERROR"),
    (507_901, "ACL_ERROR_RT_SOCKET_CLOSE"),
    (561_000, "ACLNN_ERR_INNER"),
    (561_001, "ACLNN_ERR_INNER_INFERSHAPE_ERROR"),
    (561_002, "ACLNN_ERR_INNER_TILING_ERROR"),
    (561_003, "ACLNN_ERR_INNER_FIND_KERNEL_ERROR"),
];

/// Codes after which the device itself is gone or can't be trusted: its heartbeat, its setup, its memory, its links, its driver.
/// What a kernel did wrong stops its stream and no more.
const LOST: &[Code] = &[507_001, 507_010, 507_033, 507_053, 507_054, 507_056, 507_899, 507_901];

/// Whether memory is used up.
pub(crate) fn is_out_of_memory(code: Code) -> bool {
    OUT_OF_MEMORY.contains(&code)
}

/// Whether the device is lost.
pub(crate) fn is_lost(code: Code) -> bool {
    LOST.contains(&code)
}

/// A code with its name, where it has one here.
pub(crate) fn named(code: Code) -> String {
    match NAMES.iter().find(|(known, _)| *known == code) {
        Some((_, name)) => format!("{name} ({code})"),
        None => format!("code {code}"),
    }
}

/// `ACL_FORMAT_ND`.
pub(crate) const ND: i32 = 2;
/// `ACL_FORMAT_FRACTAL_NZ`.
pub(crate) const NZ: i32 = 29;

/// `ACL_MEMCPY_HOST_TO_DEVICE`.
pub(crate) const UPLOAD: i32 = 1;
/// `ACL_MEMCPY_DEVICE_TO_HOST`.
pub(crate) const DOWNLOAD: i32 = 2;
/// `ACL_MEMCPY_DEVICE_TO_DEVICE`.
pub(crate) const WITHIN: i32 = 3;

/// The `aclDataType` of a dtype, where operators take it.
pub(crate) fn data_type(dtype: DType) -> Option<i32> {
    Some(match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::I8 => 2,
        DType::I32 => 3,
        DType::U8 => 4,
        DType::I16 => 6,
        DType::I64 => 9,
        DType::Bool => 12,
        DType::BF16 => 27,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_by_name_once_each() {
        for (i, (code, _)) in NAMES.iter().enumerate() {
            assert!(NAMES[..i].iter().all(|(before, _)| before < code), "{code} stands in order");
        }
        assert!(LOST.iter().chain(OUT_OF_MEMORY).all(|code| NAMES.iter().any(|(known, _)| known == code)));
        assert_eq!(named(107_002), "ACL_ERROR_RT_CONTEXT_NULL (107002)");
        assert_eq!(named(5), "code 5");
    }
}
