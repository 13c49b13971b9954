// The driver interface's types and the numbers of its results, as CUDA 13 has them.
#pragma once
#include <cstddef>
#include <cstdint>

typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st* CUcontext;
typedef struct CUmod_st* CUmodule;
typedef struct CUfunc_st* CUfunction;
typedef struct CUstream_st* CUstream;
typedef struct CUevent_st* CUevent;
typedef struct CUgraph_st* CUgraph;
typedef struct CUgraphExec_st* CUgraphExec;
typedef struct CUgraphNode_st* CUgraphNode;

// Number, name, words.
#define CU_RESULTS(row)                                                                                                \
    row(0, CUDA_SUCCESS, "no error")                                                                                   \
    row(1, CUDA_ERROR_INVALID_VALUE, "invalid argument")                                                               \
    row(2, CUDA_ERROR_OUT_OF_MEMORY, "out of memory")                                                                  \
    row(3, CUDA_ERROR_NOT_INITIALIZED, "initialization error")                                                         \
    row(4, CUDA_ERROR_DEINITIALIZED, "driver shutting down")                                                           \
    row(34, CUDA_ERROR_STUB_LIBRARY, "CUDA driver is a stub library")                                                  \
    row(46, CUDA_ERROR_DEVICE_UNAVAILABLE, "CUDA-capable device(s) is/are busy or unavailable")                        \
    row(100, CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected")                                               \
    row(101, CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal")                                                      \
    row(200, CUDA_ERROR_INVALID_IMAGE, "device kernel image is invalid")                                               \
    row(201, CUDA_ERROR_INVALID_CONTEXT, "invalid device context")                                                     \
    row(209, CUDA_ERROR_NO_BINARY_FOR_GPU, "no kernel image is available for execution on the device")                 \
    row(214, CUDA_ERROR_ECC_UNCORRECTABLE, "uncorrectable ECC error encountered")                                      \
    row(218, CUDA_ERROR_INVALID_PTX, "a PTX JIT compilation failed")                                                   \
    row(222, CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "the provided PTX was compiled with an unsupported toolchain.")       \
    row(301, CUDA_ERROR_FILE_NOT_FOUND, "file not found")                                                              \
    row(400, CUDA_ERROR_INVALID_HANDLE, "invalid resource handle")                                                     \
    row(401, CUDA_ERROR_ILLEGAL_STATE, "the operation cannot be performed in the present state")                       \
    row(500, CUDA_ERROR_NOT_FOUND, "named symbol not found")                                                           \
    row(600, CUDA_ERROR_NOT_READY, "device not ready")                                                                 \
    row(700, CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered")                                   \
    row(701, CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch")                            \
    row(702, CUDA_ERROR_LAUNCH_TIMEOUT, "the launch timed out and was terminated")                                     \
    row(712, CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "part or all of the requested memory range is already mapped") \
    row(713, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "pointer does not correspond to a registered memory region")       \
    row(716, CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned address")                                                      \
    row(719, CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure")                                                   \
    row(800, CUDA_ERROR_NOT_PERMITTED, "operation not permitted")                                                      \
    row(801, CUDA_ERROR_NOT_SUPPORTED, "operation not supported")                                                      \
    row(900, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing")                \
    row(901, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "operation failed due to a previous error during capture")         \
    row(902, CUDA_ERROR_STREAM_CAPTURE_MERGE, "operation would result in a merge of separate capture sequences")       \
    row(903, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "capture was not ended in the same stream as it began")              \
    row(904, CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "capturing stream has unjoined work")                                 \
    row(905, CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "dependency created on uncaptured work in another stream")           \
    row(906, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,                                                                       \
        "operation would make the legacy stream depend on a capturing blocking stream")                                \
    row(907, CUDA_ERROR_CAPTURED_EVENT, "operation not permitted on an event last recorded in a capturing stream")     \
    row(908, CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "attempt to terminate a thread-local capture sequence from another thread") \
    row(909, CUDA_ERROR_TIMEOUT, "wait operation timed out")                                                           \
    row(999, CUDA_ERROR_UNKNOWN, "unknown error")

enum CUresult : int {
#define CU_RESULT_NAME(number, name, words) name = number,
    CU_RESULTS(CU_RESULT_NAME)
#undef CU_RESULT_NAME
};
