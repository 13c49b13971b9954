//! Numbers of the documented interface: error codes, dtypes, formats.

use qiao_core::DType;

/// What a call answers.
pub(crate) type Code = i32;

pub(crate) const SUCCESS: Code = 0;
pub(crate) const UNINITIALISED: Code = 100_001;
pub(crate) const REPEATED_INIT: Code = 100_002;
pub(crate) const PARAM_INVALID: Code = 107_000;
pub(crate) const INVALID_DEVICE: Code = 107_001;
pub(crate) const CONTEXT_NULL: Code = 107_002;
pub(crate) const STREAM_CONTEXT: Code = 107_003;
pub(crate) const INVALID_HANDLE: Code = 107_017;
pub(crate) const OUT_OF_MEMORY: Code = 207_001;
pub(crate) const AICORE_EXCEPTION: Code = 507_015;
/// Of the first phase: a null pointer.
pub(crate) const NN_NULL: Code = 161_001;
/// Of the first phase: a dtype, shape or attribute that is not documented.
pub(crate) const NN_INVALID: Code = 161_002;
/// Of the second phase: what the executor does not allow.
pub(crate) const NN_INNER: Code = 561_000;

pub(crate) const ND: i32 = 2;
pub(crate) const NZ: i32 = 29;

/// The dtypes that the operators here know, by their numbers.
const DTYPES: &[(i32, DType)] = &[
    (0, DType::F32),
    (1, DType::F16),
    (2, DType::I8),
    (3, DType::I32),
    (4, DType::U8),
    (6, DType::I16),
    (9, DType::I64),
    (11, DType::F64),
    (12, DType::Bool),
    (27, DType::BF16),
];

/// The dtype of a number.
pub(crate) fn dtype(number: i32) -> Option<DType> {
    DTYPES.iter().find(|(n, _)| *n == number).map(|(_, d)| *d)
}
