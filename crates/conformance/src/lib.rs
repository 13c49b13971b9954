//! Cases, device contract, profiles, measurement and reports.
#![forbid(unsafe_code)]
