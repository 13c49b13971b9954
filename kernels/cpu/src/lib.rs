//! SIMD micro-kernels for the CPU backend and the table that picks them.
