//! What this machine has, as the contract describes it.
//!
//! Run it:   cargo run --release -p qiao-examples --bin devices
//!
//! It shows: a registry of backends, the answer of each when asked for its devices, and what a device says of itself. A
//! backend whose driver or chip is missing is a typed answer, not a failure.
#![forbid(unsafe_code)]

fn main() {
    for listing in qiao::registry().list() {
        match listing.devices {
            Ok(devices) => {
                for (ordinal, info) in devices.iter().enumerate() {
                    println!("{}:{ordinal}  {} ({}, {})", listing.backend, info.name, info.vendor, info.arch);
                    let computes = info.dtypes.iter().filter(|d| d.compute).map(|d| d.dtype.name());
                    println!("    computes in {}", computes.collect::<Vec<_>>().join(" "));
                    let caps = info.caps;
                    println!(
                        "    whole graphs: {}, deterministic: {}, batch-invariant: {}",
                        caps.multi_op, caps.deterministic, caps.batch_invariant
                    );
                }
            }
            Err(why) => println!("{}: {why}", listing.backend),
        }
    }
}
