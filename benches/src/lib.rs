//! Benchmarks against peers and limits, and the second opinion on the truth.

#![forbid(unsafe_code)]
