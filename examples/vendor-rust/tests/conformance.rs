//! The suite, on the chip: the device contract, every case of the operators that it runs, and all of those that it claims. It does
//! not claim matmul, whose plain cases want the gelu of an epilogue, too.

qiao_conformance::suite!(
    acme_npu_rust::open,
    profile = Device,
    required = [Add, Sub, Mul, Div, Silu, SiluMul, RmsNorm]
);
