//! `qiao devices`: what this machine has.

use std::io::Write;

use qiao::core::registry::Listing;
use qiao::core::{DeviceInfo, MemoryInfo};
use serde_json::{Value, json};

use crate::args::Devices;
use crate::exit::Exit;

pub(crate) fn devices(args: &Devices, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let listings = qiao::registry().list();
    if args.json {
        writeln!(out, "{}", to_json(&listings))?;
        return Ok(Exit::Ok);
    }
    for listing in &listings {
        match &listing.devices {
            Ok(devices) => {
                for (ordinal, info) in devices.iter().enumerate() {
                    write!(out, "{}", to_text(&listing.backend, ordinal, info))?;
                }
            }
            Err(why) => writeln!(out, "{}: {why}", listing.backend)?,
        }
    }
    Ok(Exit::Ok)
}

fn to_json(listings: &[Listing]) -> Value {
    let (mut devices, mut absent) = (Vec::new(), Vec::new());
    for Listing { backend, devices: found } in listings {
        match found {
            Ok(found) => devices.extend(found.iter().enumerate().map(|(i, info)| device(backend, i, info))),
            Err(why) => absent.push(json!({ "backend": backend, "why": why.to_string() })),
        }
    }
    json!({ "devices": devices, "absent": absent })
}

fn device(backend: &str, ordinal: usize, info: &DeviceInfo) -> Value {
    let memory = |m: &MemoryInfo| {
        json!({
            "device_local": m.kind.device_local,
            "host_visible": m.kind.host_visible,
            "total_bytes": m.total_bytes,
            "free_bytes": m.free_bytes,
            "peak_bytes_per_s": m.peak_bytes_per_s,
        })
    };
    let dtypes = info
        .dtypes
        .iter()
        .map(|d| json!({ "dtype": d.dtype.name(), "compute": d.compute, "peak_ops_per_s": d.peak_ops_per_s }));
    json!({
        "device": format!("{backend}:{ordinal}"),
        "name": info.name,
        "vendor": info.vendor,
        "arch": info.arch,
        "driver": info.driver,
        "memories": info.memories.iter().map(memory).collect::<Vec<_>>(),
        "dtypes": dtypes.collect::<Vec<_>>(),
        "peak_source": info.peak_source,
    })
}

fn to_text(backend: &str, ordinal: usize, info: &DeviceInfo) -> String {
    let mut text = format!("{backend}:{ordinal}  {}\n", info.name);
    let mut line = |what: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&format!("    {what:8} {value}\n"));
        }
    };
    line("vendor", info.vendor.clone());
    line("arch", info.arch.clone());
    line("driver", info.driver.clone());
    for memory in info.memories.iter().filter(|m| m.total_bytes > 0) {
        let free = if memory.free_bytes > 0 { format!(", {} free", gib(memory.free_bytes)) } else { String::new() };
        line("memory", gib(memory.total_bytes) + &free);
    }
    let names = |compute: bool| {
        let of = info.dtypes.iter().filter(|d| d.compute == compute).map(|d| d.dtype.name());
        of.collect::<Vec<_>>().join(" ")
    };
    line("computes", names(true));
    line("stores", names(false));
    text
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use qiao::core::Error;

    #[test]
    fn absent_backends_are_told_apart_from_devices() {
        let info = DeviceInfo { name: "Toy".into(), arch: "toy1".into(), ..Default::default() };
        let listings = [
            Listing { backend: "toy".into(), devices: Ok(vec![info.clone(), info]) },
            Listing { backend: "npu".into(), devices: Err(Error::not_present("npu", "no driver")) },
        ];
        let json = to_json(&listings);
        assert_eq!(json["devices"][1]["device"], "toy:1");
        assert_eq!(json["devices"][1]["arch"], "toy1");
        assert_eq!(json["absent"][0]["backend"], "npu");
        assert!(json["absent"][0]["why"].as_str().unwrap().contains("no driver"));
    }

    #[test]
    fn what_a_device_does_not_say_has_no_line() {
        let text = to_text("toy", 0, &DeviceInfo { name: "Toy".into(), arch: "toy1".into(), ..Default::default() });
        assert_eq!(text, "toy:0  Toy\n    arch     toy1\n");
    }
}
