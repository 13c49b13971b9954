//! Programs an embedder or a vendor can copy.
