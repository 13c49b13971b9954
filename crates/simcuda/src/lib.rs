//! A simulated CUDA card for tests.
