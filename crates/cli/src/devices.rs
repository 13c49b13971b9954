//! `qiao devices`: what this machine has.

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use qiao::Peaks;
use qiao::core::registry::Listing;
use qiao::core::{DeviceInfo, MemoryInfo};
use qiao_conformance::measure::probe;
use serde_json::{Map, Value, json};

use crate::args::Devices;
use crate::exit::Exit;
use crate::load::listings;
use crate::terminal::tell_line;

/// What devices were measured to reach, by their names; or why they were not.
type Measured = HashMap<String, Result<Peaks, String>>;

pub(crate) fn devices(args: &Devices, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let listings = listings();
    let measured = args.measure.map_or_else(Measured::new, |seconds| measure(&listings, seconds));
    match args.json {
        true => writeln!(out, "{}", to_json(&listings, &measured))?,
        false => write!(out, "{}", to_text(&listings, &measured))?,
    }
    Ok(if measured.values().any(Result::is_err) { Exit::Failure } else { Exit::Ok })
}

/// Measures the limits of every device, one after the other, each for about so many seconds.
fn measure(listings: &[Listing], seconds: f64) -> Measured {
    if cfg!(debug_assertions) {
        tell_line("warning: this is a debug build: no figure of it is a speed; use cargo run --release");
    }
    let budget = Duration::from_secs_f64(seconds);
    let one = |name: &str| qiao::open(name, None).and_then(|device| probe(&device, budget)).map_err(|e| e.to_string());
    names(listings).map(|name| (name.clone(), one(&name))).collect()
}

/// The devices that are here, as `--device` takes them.
fn names(listings: &[Listing]) -> impl Iterator<Item = String> {
    let of = |listing: &Listing| listing.devices.as_ref().map_or(0, Vec::len);
    listings.iter().flat_map(move |listing| (0..of(listing)).map(|i| format!("{}:{i}", listing.backend)))
}

fn to_json(listings: &[Listing], measured: &Measured) -> Value {
    let (mut devices, mut absent) = (Vec::new(), Vec::new());
    for Listing { backend, devices: found } in listings {
        match found {
            Ok(found) => devices.extend(found.iter().enumerate().map(|(i, info)| device(backend, i, info, measured))),
            Err(why) => absent.push(json!({ "backend": backend, "why": why.to_string() })),
        }
    }
    json!({ "devices": devices, "absent": absent })
}

fn device(backend: &str, ordinal: usize, info: &DeviceInfo, measured: &Measured) -> Value {
    let name = format!("{backend}:{ordinal}");
    let limits = measured.get(&name).map(|found| match found {
        Ok(peaks) => {
            let ops = peaks.ops_per_s.iter().map(|(dtype, ops)| (dtype.name().to_string(), json!(ops)));
            json!({ "bytes_per_s": peaks.bytes_per_s, "ops_per_s": ops.collect::<Map<_, _>>() })
        }
        Err(why) => json!({ "why": why }),
    });
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
        "device": name,
        "name": info.name,
        "vendor": info.vendor,
        "arch": info.arch,
        "driver": info.driver,
        "memories": info.memories.iter().map(memory).collect::<Vec<_>>(),
        "dtypes": dtypes.collect::<Vec<_>>(),
        "peak_source": info.peak_source,
        "measured": limits,
    })
}

/// Columns of a line.
const WIDTH: usize = 80;

/// Columns of a device's name in the table.
const NAME: usize = 32;

/// A row for every device, with what it says of itself below it, and one for every backend without any.
fn to_text(listings: &[Listing], measured: &Measured) -> String {
    let mut rows = Vec::new();
    for Listing { backend, devices } in listings {
        match devices {
            Ok(devices) if devices.is_empty() => rows.push((backend.clone(), Err("it has no device here".to_string()))),
            Ok(devices) => {
                rows.extend(devices.iter().enumerate().map(|(i, info)| (format!("{backend}:{i}"), Ok(info))))
            }
            Err(why) => rows.push((backend.clone(), Err(why.to_string()))),
        }
    }
    let first = rows.iter().map(|(device, _)| device.chars().count()).max().unwrap_or(0).max("device".len());
    let mut text = format!("{:first$}  {:NAME$} {:>10} {:>10}  state\n", "device", "name", "memory", "free");
    for (device, row) in &rows {
        match row {
            Ok(info) => {
                let memory = info.memories.first();
                let size = |bytes: Option<u64>| bytes.filter(|bytes| *bytes > 0).map_or("-".into(), gib);
                let (total, free) = (size(memory.map(|m| m.total_bytes)), size(memory.map(|m| m.free_bytes)));
                let name = shortened(&info.name, NAME);
                text.push_str(&format!("{device:first$}  {name:NAME$} {total:>10} {free:>10}  ready\n"));
                text.push_str(&details(info, measured.get(device)));
            }
            Err(why) => text.push_str(&wrapped(&format!("{device:first$}  "), first + 2, why)),
        }
    }
    text
}

/// What a device says of itself beside its row, a line for each thing that it says.
fn details(info: &DeviceInfo, measured: Option<&Result<Peaks, String>>) -> String {
    let names = |compute: bool| {
        let of = info.dtypes.iter().filter(|d| d.compute == compute).map(|d| d.dtype.name());
        of.collect::<Vec<_>>().join(" ")
    };
    let more = info.memories.iter().skip(1).filter(|m| m.total_bytes > 0);
    let more: Vec<_> = more.map(|m| format!("{} of another memory", gib(m.total_bytes))).collect();
    let lines = [
        ("name", if info.name.chars().count() > NAME { info.name.clone() } else { String::new() }),
        ("vendor", info.vendor.clone()),
        ("arch", info.arch.clone()),
        ("driver", info.driver.clone()),
        ("memory", more.join(", ")),
        (
            "peaks",
            if measured.is_some() && limits(&Peaks::declared(info)).is_empty() {
                String::new()
            } else {
                declared(info)
            },
        ),
        ("reaches", measured.map(reached).unwrap_or_default()),
        ("computes", names(true)),
        ("stores", names(false)),
    ];
    let line = |(what, value): &(&str, String)| wrapped(&format!("    {what:8} "), 13, value);
    lines.iter().filter(|(_, value)| !value.is_empty()).map(line).collect()
}

/// The declared peaks and where they come from.
fn declared(info: &DeviceInfo) -> String {
    match limits(&Peaks::declared(info)) {
        none if none.is_empty() => "none declared; qiao devices --measure finds out".into(),
        all => format!("{all} (declared: {})", info.peak_source),
    }
}

/// The measured limits, or why there are none.
fn reached(measured: &Result<Peaks, String>) -> String {
    match measured.as_ref().map(limits) {
        Ok(none) if none.is_empty() => "nothing ran that could be measured".into(),
        Ok(all) => format!("{all} (measured here)"),
        Err(why) => format!("not measured: {why}"),
    }
}

fn limits(peaks: &Peaks) -> String {
    let bytes = (peaks.bytes_per_s > 0.0).then(|| format!("{}B/s", metric(peaks.bytes_per_s)));
    let ops = peaks.ops_per_s.iter().map(|(dtype, ops)| format!("{} {}op/s", dtype.name(), metric(*ops)));
    bytes.into_iter().chain(ops).collect::<Vec<_>>().join(", ")
}

/// A number with three digits and the prefix of its unit.
fn metric(value: f64) -> String {
    let prefixes = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (unit, prefix) = prefixes.into_iter().find(|(unit, _)| value >= *unit).unwrap_or((1.0, ""));
    let value = value / unit;
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {prefix}")
}

/// A text of at most so many characters.
fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.into();
    }
    let head: String = text.chars().take(most - 1).collect();
    head + "…"
}

/// Words behind a beginning, in lines of at most [`WIDTH`] columns where words allow; later lines are indented.
fn wrapped(begin: &str, indent: usize, text: &str) -> String {
    let (mut out, mut line) = (String::new(), begin.to_string());
    let mut bare = true;
    for word in text.split_whitespace() {
        if !bare && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = " ".repeat(indent);
            bare = true;
        }
        if !bare {
            line.push(' ');
        }
        line.push_str(word);
        bare = false;
    }
    out + line.trim_end() + "\n"
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use qiao::core::{DType, DtypeInfo, Error};

    #[test]
    fn absent_backends_are_told_apart_from_devices() {
        let info = DeviceInfo { name: "Toy".into(), arch: "toy1".into(), ..Default::default() };
        let listings = [
            Listing { backend: "toy".into(), devices: Ok(vec![info.clone(), info]) },
            Listing { backend: "npu".into(), devices: Err(Error::not_present("npu", "no driver")) },
        ];
        let json = to_json(&listings, &Measured::new());
        assert_eq!(json["devices"][1]["device"], "toy:1");
        assert_eq!(json["devices"][1]["arch"], "toy1");
        assert_eq!(json["absent"][0]["backend"], "npu");
        assert!(json["absent"][0]["why"].as_str().unwrap().contains("no driver"));
    }

    #[test]
    fn what_a_device_does_not_say_has_no_line() {
        let info = DeviceInfo { name: "Toy".into(), arch: "toy1".into(), ..Default::default() };
        let listings = [Listing { backend: "toy".into(), devices: Ok(vec![info]) }];
        let text = to_text(&listings, &Measured::new());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("device  name ") && lines[0].ends_with("free  state"), "{text}");
        assert!(lines[1].starts_with("toy:0   Toy ") && lines[1].ends_with("-          -  ready"), "{text}");
        assert_eq!(lines[2..], ["    arch     toy1", "    peaks    none declared; qiao devices --measure finds out"]);
    }

    #[test]
    fn what_was_measured_stands_beside_what_is_declared() {
        let toy = |name: &str| DeviceInfo { name: name.into(), ..Default::default() };
        let listings = [Listing { backend: "toy".into(), devices: Ok(vec![toy("a"), toy("b")]) }];
        let provenance = qiao::Provenance::Measured("a probe".into());
        let peaks = Peaks { bytes_per_s: 2.5e10, ops_per_s: vec![(DType::F32, 1e11)], provenance };
        let measured = [("toy:0".into(), Ok(peaks)), ("toy:1".into(), Err("it is gone".into()))].into();
        let text = to_text(&listings, &measured);
        assert!(text.contains("\n    reaches  25.0 GB/s, f32 100 Gop/s (measured here)\n"), "{text}");
        assert!(text.contains("\n    reaches  not measured: it is gone\n"), "{text}");
        assert!(!text.contains("none declared"), "{text}");
        let json = to_json(&listings, &measured);
        assert_eq!(json["devices"][0]["measured"]["ops_per_s"]["f32"], 1e11);
        assert_eq!(json["devices"][1]["measured"]["why"], "it is gone");
    }

    #[test]
    fn the_table_keeps_to_eighty_columns_and_says_all() {
        let dtype = |dtype, peak_ops_per_s| DtypeInfo { dtype, compute: true, peak_ops_per_s };
        let memory =
            MemoryInfo { total_bytes: 64 << 30, free_bytes: 63 << 30, peak_bytes_per_s: 1.2e12, ..Default::default() };
        let info = DeviceInfo {
            name: "A Very Long Product Name Of An Accelerator, Rev. B".into(),
            vendor: "Acme".into(),
            memories: vec![memory.clone(), MemoryInfo { total_bytes: 1 << 30, ..memory }],
            dtypes: vec![dtype(DType::F16, 3.2e14), dtype(DType::F32, 9.9e11), dtype(DType::I8, 0.0)],
            peak_source: "the data sheet of the product, revision 3 of May, table 2 on page 14".into(),
            ..Default::default()
        };
        let why = "no driver library could be opened on this machine: install the vendor's driver and try it again";
        let listings = [
            Listing { backend: "acme".into(), devices: Ok(vec![info]) },
            Listing { backend: "reference".into(), devices: Err(Error::not_present("reference", why)) },
            Listing { backend: "void".into(), devices: Ok(vec![]) },
        ];
        let text = to_text(&listings, &Measured::new());
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let peaks = "1.20 TB/s, f16 320 Top/s, f32 990 Gop/s (declared: the data sheet of the product, revision 3";
        for part in
            ["64.0 GiB 63.0 GiB ready", "Accelerator, Rev. B", "1.0 GiB of another", peaks, why, "no device here"]
        {
            assert!(words.contains(part), "{part}: {text}");
        }
    }
}
