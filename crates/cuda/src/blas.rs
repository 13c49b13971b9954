//! Large products by cuBLASLt, where it is on this machine: described while a plan is made, then called with nothing
//! but addresses.
//!
//! The library counts columns first. What it is asked for is therefore `cᵀ = b·aᵀ`: its first operand is b, its second a, and
//! rows of ours are columns of its.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::{Mutex, OnceLock, PoisonError};

use cudarc::cublaslt::sys as lt;
use cudarc::cublaslt::sys::cublasLtMatmulPreferenceAttributes_t as Preference;
use qiao_core::DType;
use qiao_launch::{LargeProduct, WORKSPACE};

use crate::sys::{Blas, CUstream, Code, SUCCESS, blas};
use crate::vendors::Row;

/// What algorithms may use, how they may add parts of K, and what operands' addresses are multiples of.
const MOST_WORKSPACE: u32 = Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES as u32;
const REDUCTION_SCHEMES: u32 = Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK as u32;
const ALIGNMENTS: [u32; 4] = [
    Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES as u32,
    Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES as u32,
    Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES as u32,
    Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES as u32,
];
const IN_COMPUTE_TYPE: u32 = lt::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;

/// What is done to an operand first, as the library numbers it.
const AS_IT_IS: u32 = 0;
const TRANSPOSED: u32 = 1;

/// The library for one card.
#[derive(Default)]
pub(crate) struct Library {
    handle: OnceLock<Option<Handle>>,
    /// The algorithms that were asked for: layers of a model are alike. Of refusals none is kept.
    algorithms: Mutex<HashMap<LargeProduct, lt::cublasLtMatmulAlgo_t>>,
}

#[derive(Clone, Copy)]
struct Handle(lt::cublasLtHandle_t);

// SAFETY: any thread may use a handle, several at once.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Library {
    /// The handle, made at the first call. The context is current.
    fn handle(&self, blas: &Blas) -> Option<lt::cublasLtHandle_t> {
        let create = || {
            let mut handle = null_mut();
            // SAFETY: writes a handle; the context is current.
            (unsafe { (blas.create)(&mut handle) } == SUCCESS).then_some(Handle(handle))
        };
        self.handle.get_or_init(create).map(|h| h.0)
    }

    /// The algorithm of a product, asked for at the first call.
    fn algorithm(
        &self,
        p: &LargeProduct,
        ask: impl FnOnce() -> Option<lt::cublasLtMatmulAlgo_t>,
    ) -> Option<lt::cublasLtMatmulAlgo_t> {
        let mut known = self.algorithms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(algorithm) = known.get(p) {
            return Some(*algorithm);
        }
        let algorithm = ask()?;
        known.insert(*p, algorithm);
        Some(algorithm)
    }

    /// Gives the handle back. The context is current, and no product is under way.
    pub(crate) fn close(&self, row: &'static Row) {
        if let (Some(Some(handle)), Some(blas)) = (self.handle.get(), blas(row)) {
            // SAFETY: the handle is given back once, when its context goes.
            unsafe { (blas.destroy)(handle.0) };
        }
    }
}

/// A product, ready to be called.
pub(crate) struct Ready {
    blas: &'static Blas,
    handle: lt::cublasLtHandle_t,
    described: Described,
    algorithm: lt::cublasLtMatmulAlgo_t,
    residual: f32,
}

/// What the library knows of a product; handles that are still null were not made.
struct Described {
    blas: &'static Blas,
    product: lt::cublasLtMatmulDesc_t,
    /// b, a, the residual, the result.
    layouts: [lt::cublasLtMatrixLayout_t; 4],
    preference: lt::cublasLtMatmulPreference_t,
}

impl Drop for Described {
    fn drop(&mut self) {
        // SAFETY: each handle was made by the library, is given back once, and is used by nobody afterwards.
        unsafe {
            if !self.product.is_null() {
                (self.blas.product_destroy)(self.product);
            }
            for layout in self.layouts.into_iter().filter(|l| !l.is_null()) {
                (self.blas.layout_destroy)(layout);
            }
            if !self.preference.is_null() {
                (self.blas.preference_destroy)(self.preference);
            }
        }
    }
}

/// A dtype as the library names it.
fn named(dtype: DType) -> Option<lt::cudaDataType> {
    match dtype {
        DType::F32 => Some(lt::cudaDataType::CUDA_R_32F),
        DType::F16 => Some(lt::cudaDataType::CUDA_R_16F),
        DType::BF16 => Some(lt::cudaDataType::CUDA_R_16BF),
        _ => None,
    }
}

impl Described {
    /// Describes a product; `None` where the library refuses a part of it.
    fn new(blas: &'static Blas, p: &LargeProduct) -> Option<Described> {
        use lt::cublasLtMatmulDescAttributes_t as Attribute;
        let (product, layouts, preference) = (null_mut(), [null_mut(); 4], null_mut());
        let mut all = Described { blas, product, layouts, preference };
        let (dtype, out) = (named(p.dtype)?, named(p.out)?);
        let (compute, scale) = (lt::cublasComputeType_t::CUBLAS_COMPUTE_32F, lt::cudaDataType::CUDA_R_32F);
        let turns = [
            (Attribute::CUBLASLT_MATMUL_DESC_TRANSA, if p.trans_b { TRANSPOSED } else { AS_IT_IS }),
            (Attribute::CUBLASLT_MATMUL_DESC_TRANSB, AS_IT_IS),
        ];
        let b = if p.trans_b { (p.k, p.n) } else { (p.n, p.k) };
        let [a_row, b_row, r_row, c_row] = p.rows;
        let layouts =
            [(dtype, b, b_row), (dtype, (p.k, p.m), a_row), (out, (p.n, p.m), r_row), (out, (p.n, p.m), c_row)];
        let most = WORKSPACE as u64;
        // Parts of K are added in f32, in order.
        let mut preferences = vec![(REDUCTION_SCHEMES, IN_COMPUTE_TYPE)];
        preferences.extend(ALIGNMENTS.map(|of| (of, p.align as u32)));
        // SAFETY: each call writes a handle or reads a value of the size that it is told.
        unsafe {
            if (blas.product_create)(&mut all.product, compute as u32, scale as u32) != SUCCESS {
                return None;
            }
            for (attribute, value) in turns {
                let value: *const u32 = &value;
                if (blas.product_set)(all.product, attribute as u32, value.cast(), size_of::<u32>()) != SUCCESS {
                    return None;
                }
            }
            for (layout, (dtype, (rows, columns), row)) in all.layouts.iter_mut().zip(layouts) {
                if (blas.layout_create)(layout, dtype as u32, rows as u64, columns as u64, row as i64) != SUCCESS {
                    return None;
                }
            }
            if (blas.preference_create)(&mut all.preference) != SUCCESS {
                return None;
            }
            let workspace: *const u64 = &most;
            let bytes = size_of::<u64>();
            let mut code = (blas.preference_set)(all.preference, MOST_WORKSPACE, workspace.cast(), bytes);
            for (attribute, value) in preferences {
                let value: *const u32 = &value;
                code = code.max((blas.preference_set)(all.preference, attribute, value.cast(), size_of::<u32>()));
            }
            (code == SUCCESS).then_some(all)
        }
    }

    /// The algorithm that the library holds for the fastest.
    fn algorithm(&self, handle: lt::cublasLtHandle_t) -> Option<lt::cublasLtMatmulAlgo_t> {
        let mut found = std::mem::MaybeUninit::<lt::cublasLtMatmulHeuristicResult_t>::zeroed();
        let mut count = 0;
        let [b, a, r, c] = self.layouts;
        // SAFETY: the handles are those that were made; the library writes at most one result, and how many.
        let code = unsafe {
            (self.blas.heuristic)(
                handle,
                self.product,
                b,
                a,
                r,
                c,
                self.preference,
                1,
                found.as_mut_ptr().cast(),
                &mut count,
            )
        };
        // SAFETY: the state is a number of the result's, which was zero before. It is read as a number, since it may be one that
        // has no name here.
        let state = unsafe { (&raw const (*found.as_ptr()).state).cast::<Code>().read() };
        if code != SUCCESS || count < 1 || state != SUCCESS {
            return None;
        }
        // SAFETY: the library wrote one result, whose state is a success.
        let found = unsafe { found.assume_init() };
        (found.workspaceSize <= WORKSPACE).then_some(found.algo)
    }
}

impl Ready {
    /// Describes a product and finds its algorithm; `None` where the library is not there or refuses. The context is
    /// current.
    pub(crate) fn new(row: &'static Row, library: &Library, p: &LargeProduct) -> Option<Ready> {
        let blas = blas(row)?;
        let handle = library.handle(blas)?;
        let described = Described::new(blas, p)?;
        let algorithm = library.algorithm(p, || described.algorithm(handle))?;
        Some(Ready { blas, handle, described, algorithm, residual: if p.residual { 1.0 } else { 0.0 } })
    }

    /// Queues the product: a, b, the residual or the result once more, the result, scratch. The library's status.
    ///
    /// # Safety
    /// The addresses are those of what was described, and of [`WORKSPACE`] bytes on a multiple of 256; the context of the
    /// stream is current.
    pub(crate) unsafe fn launch(&self, stream: CUstream, addresses: [u64; 5]) -> Code {
        let at = |i: usize| addresses[i] as *mut c_void;
        let (one, [b, a, r, c]) = (1.0f32, self.described.layouts);
        let (alpha, beta): (*const f32, *const f32) = (&one, &self.residual);
        // SAFETY: as the caller vouches; alpha and beta are read before the call returns.
        unsafe {
            (self.blas.matmul)(
                self.handle,
                self.described.product,
                alpha.cast(),
                at(1),
                b,
                at(0),
                a,
                beta.cast(),
                at(2),
                r,
                at(3),
                c,
                (&raw const self.algorithm).cast(),
                at(4),
                WORKSPACE,
                stream,
            )
        }
    }
}
