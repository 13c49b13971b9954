//! The suite, on the chip: the device contract, and every case of the operators that the chip claims.

qiao_conformance::suite!(
    acme_npu_rust::open,
    profile = Device,
    required = [Add, Sub, Mul, Div, Silu, SiluMul, RmsNorm, Matmul]
);
