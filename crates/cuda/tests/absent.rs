//! A machine without a driver: alone in its process, so that no simulated one is there.

use qiao_core::{Backend, Error};
use qiao_cuda::CudaBackend;

#[test]
fn without_a_driver_the_backend_is_not_present() {
    match CudaBackend.devices() {
        Err(Error::NotPresent { what, why }) => {
            assert_eq!(what, "cuda");
            assert!(!why.is_empty());
            assert!(matches!(CudaBackend.open(0), Err(Error::NotPresent { .. })));
        }
        // A machine with a card: what it lists can be opened.
        found => {
            let count = found.unwrap().len();
            assert!((0..count).all(|i| CudaBackend.open(i).is_ok()));
            assert!(matches!(CudaBackend.open(count), Err(Error::Invalid { .. })));
        }
    }
}
