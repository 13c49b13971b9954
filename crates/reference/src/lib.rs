//! The truth: every operator in f64, tolerances and comparison; itself a device.
