//! From a checkpoint to tokens, over any device.
