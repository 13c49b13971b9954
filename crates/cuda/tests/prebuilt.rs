//! Images that were built in go to the driver first. That of the simulated card takes no code of a real one, so that what
//! follows is seen as well: the unit is compiled.

#![cfg(feature = "prebuilt")]

mod rig;

use qiao_core::*;

#[test]
fn an_image_that_the_driver_does_not_take_gives_way_to_a_compiled_one() {
    let card = rig::card();
    let device = rig::device();
    let mut g = Graph::new();
    let x = g.bind("x", TensorDesc::new(DType::F32, &[64]).unwrap());
    let y = g.bind("y", TensorDesc::new(DType::F32, &[64]).unwrap());
    g.add_into(Op::Exp(NoAttrs {}), &[Some(x)], &[y]).unwrap();
    let (loads, compilations) = (card.calls("cuModuleLoadDataEx"), card.compilations());
    device.plan(&g).unwrap();
    assert_eq!(card.calls("cuModuleLoadDataEx"), loads + 2, "the image that was built in, then the compiled one");
    assert_eq!(card.compilations(), compilations + 1);
}
