//! A library under the driver's name that is there to link with. Alone in its process: a driver that was found is kept.

use qiao_core::{Backend, Error};
use qiao_cuda::CudaBackend;

#[test]
fn a_stub_to_link_with_is_passed_over() {
    const STUB: i32 = 34;
    let card = qiao_simcuda::install();
    // Under both names, then under the first one alone.
    card.fail("cuInit", 0, 2, STUB);
    match CudaBackend.devices() {
        Err(Error::NotPresent { why, .. }) => assert!(why.contains("a stub to link with"), "{why}"),
        other => panic!("{other:?}"),
    }
    card.forget();
    card.fail("cuInit", 0, 1, STUB);
    assert_eq!(CudaBackend.devices().unwrap().len(), 1);
    assert_eq!(card.calls("cuInit"), 2);
}
