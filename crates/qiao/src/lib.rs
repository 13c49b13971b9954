//! Qiao: load a checkpoint and stream tokens, on whatever chip is present.
