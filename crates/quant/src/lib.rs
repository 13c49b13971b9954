//! Block and group formats of quantised weights: layout and exact decoding.
