//! Paged KV cache bookkeeping: which blocks a sequence has, and which it shares. Host only.
#![forbid(unsafe_code)]
