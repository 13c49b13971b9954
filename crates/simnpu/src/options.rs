//! Options: key = value, each read by its row of one table.

use std::path::PathBuf;

use qiao_core::{DType, Error, KvInfo, KvLayout, Result};

use crate::fault::Faults;
use crate::limits::{Accumulate, Limits, Weights};
use crate::presets;

/// Everything that options decide.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of the preset.
    pub preset: &'static str,
    /// What each device can do.
    pub limits: Limits,
    /// How many devices there are.
    pub devices: usize,
    /// Whether each device lives in a process of its own.
    pub child: bool,
    /// The program of that process, where it is not the one beside this library.
    pub program: Option<PathBuf>,
    /// What decides the order of work and its delays.
    pub seed: u64,
    /// How many commands of a device may be under way at once.
    pub engines: usize,
    /// Microseconds of the longest random delay before a command.
    pub jitter_us: u64,
    /// Microseconds that every command takes at least.
    pub latency_us: u64,
    /// What goes wrong.
    pub faults: Faults,
    /// The options as they were given.
    given: Vec<(String, String)>,
}

/// Why a value is none: what to use instead.
type Refused = String;

/// One option.
pub struct Row {
    /// Its key.
    pub key: &'static str,
    /// The values it takes.
    pub values: &'static str,
    /// What it decides.
    pub meaning: &'static str,
    apply: fn(&mut Settings, &str) -> std::result::Result<(), Refused>,
}

macro_rules! rows {
    ($($key:literal $values:literal $meaning:literal => $apply:expr;)*) => {
        /// Every option, in the order of the table in the documentation.
        pub const OPTIONS: &[Row] =
            &[$(Row { key: $key, values: $values, meaning: $meaning, apply: $apply },)*];
    };
}

rows! {
    "sim.preset" "a preset" "The chip to mimic; other options change single limits of it. Default `plain`."
        => |_, _| Ok(());
    "sim.devices" "1 to 64" "How many independent devices there are. Default 1."
        => |s, v| { s.devices = number(v, 1, 64)? as usize; Ok(()) };
    "sim.process" "inline, child" "Where each device lives: in this process, or in a child that can be killed. Default inline."
        => |s, v| { s.child = one_of(v, &[("inline", false), ("child", true)])?; Ok(()) };
    "sim.program" "a path" "The program of the child; by default `qiao-simnpu-device` beside the library."
        => |s, v| { s.program = Some(PathBuf::from(v)); Ok(()) };
    "sim.seed" "a number" "Decides which stream goes next, and the random delays. Default 1."
        => |s, v| { s.seed = number(v, 0, u64::MAX)?; Ok(()) };
    "sim.engines" "1 to 64" "Commands of a device that may be under way at once. With 1 the seed alone decides the order of what is queued. Default 4."
        => |s, v| { s.engines = number(v, 1, 64)? as usize; Ok(()) };
    "sim.jitter_us" "microseconds" "The longest random delay before a command; one command in sixteen is delayed. Default 50."
        => |s, v| { s.jitter_us = number(v, 0, 10_000_000)?; Ok(()) };
    "sim.latency_us" "microseconds" "What every command takes at least. Default 0."
        => |s, v| { s.latency_us = number(v, 0, 10_000_000)?; Ok(()) };
    "sim.align" "a power of two" "What operands and workspace start on."
        => |s, v| { s.limits.align = power(v, 1 << 16)?; Ok(()) };
    "sim.tail_pad" "bytes" "What must be allocated behind every operand."
        => |s, v| { s.limits.tail_pad = number(v, 0, 1 << 20)? as usize; Ok(()) };
    "sim.memory" "bytes" "Size of each memory; k, m and g are understood."
        => |s, v| { s.limits.memory = bytes(v)?; Ok(()) };
    "sim.max_alloc" "bytes" "The largest allocation."
        => |s, v| { s.limits.max_alloc = bytes(v)?; Ok(()) };
    "sim.memory_info" "on, off" "Whether the device tells how much memory it has."
        => |s, v| { s.limits.memory_info = switch(v)?; Ok(()) };
    "sim.host_visible" "on, off" "Whether its memory is the host's, too, so that host memory can be imported."
        => |s, v| { s.limits.host_visible = switch(v)?; Ok(()) };
    "sim.pinned" "on, off" "Whether there is a second memory, page-locked on the host."
        => |s, v| { s.limits.pinned = switch(v)?; Ok(()) };
    "sim.streams" "a number" "Streams that may exist at once; 0 = any."
        => |s, v| { s.limits.streams = number(v, 0, 1 << 20)? as usize; Ok(()) };
    "sim.dtypes" "dtypes" "What operands may be."
        => |s, v| { s.limits.dtypes = dtypes(v, false)?; Ok(()) };
    "sim.f64" "on, off" "Whether f64 is among them." => |s, v| toggle(s, v, &[DType::F64]);
    "sim.f16" "on, off" "Whether f16 is among them." => |s, v| toggle(s, v, &[DType::F16]);
    "sim.bf16" "on, off" "Whether bf16 is among them." => |s, v| toggle(s, v, &[DType::BF16]);
    "sim.fp8" "on, off" "Whether f8_e4m3 and f8_e5m2 are among them."
        => |s, v| toggle(s, v, &[DType::F8E4M3, DType::F8E5M2]);
    "sim.i8" "on, off" "Whether i8 is among them." => |s, v| toggle(s, v, &[DType::I8]);
    "sim.i64" "on, off" "Whether i64 is among them, and so among indices." => |s, v| toggle(s, v, &[DType::I64]);
    "sim.formats" "block formats" "Block formats of weights; empty = none."
        => |s, v| { s.limits.formats = dtypes(v, true)?; Ok(()) };
    "sim.grouped" "on, off" "Whether quantised weights may have a scale for each group of channels."
        => |s, v| { s.limits.grouped = switch(v)?; Ok(()) };
    "sim.max_rank" "1 to 8" "The highest rank of an operand."
        => |s, v| { s.limits.max_rank = number(v, 1, 8)? as usize; Ok(()) };
    "sim.strided" "on, off" "Whether operands may have gaps; a copy always may."
        => |s, v| { s.limits.strided = switch(v)?; Ok(()) };
    "sim.multi_op" "on, off" "Whether a plan may have several nodes."
        => |s, v| { s.limits.multi_op = switch(v)?; Ok(()) };
    "sim.one_shot" "on, off" "Whether an executor runs once, so that every execution of a plan makes one."
        => |s, v| { s.limits.one_shot = switch(v)?; Ok(()) };
    "sim.k_multiple" "a number" "What the inner size of matrix products is a multiple of."
        => |s, v| { s.limits.k_multiple = number(v, 1, 1 << 16)? as usize; Ok(()) };
    "sim.weights" "plain, fractal, fractal-only" "Layout of constant weights of 8 and 16 bits: as they are, packed where they can be, packed always."
        => |s, v| {
            let all = [("plain", Weights::Plain), ("fractal", Weights::Fractal), ("fractal-only", Weights::FractalOnly)];
            s.limits.weights = one_of(v, &all)?;
            Ok(())
        };
    "sim.kv" "layout:block, ..." "Pages of the KV cache that kernels read, e.g. `token_head:128,head_token:16`; block 0 = any size; `any` = all."
        => |s, v| { s.limits.kv = kv(v)?; Ok(()) };
    "sim.partial_rope" "on, off" "Whether a part of a head may be rotated."
        => |s, v| { s.limits.partial_rope = switch(v)?; Ok(()) };
    "sim.event_timing" "on, off" "Whether the time between events is told."
        => |s, v| { s.limits.event_timing = switch(v)?; Ok(()) };
    "sim.fill" "on, off" "Whether the device fills memory itself; else it is uploaded."
        => |s, v| { s.limits.fill = switch(v)?; Ok(()) };
    "sim.alloc_us" "microseconds" "What an allocation takes."
        => |s, v| { s.limits.alloc_us = number(v, 0, 10_000_000)?; Ok(()) };
    "sim.plan_ms" "milliseconds" "What a plan takes to make."
        => |s, v| { s.limits.plan_ms = number(v, 0, 600_000)?; Ok(()) };
    "sim.accumulate" "f32, f16, bf16" "How wide the sums of matrix products and attention are: in 16 bits they are rounded after every sixteen products."
        => |s, v| {
            let all = [("f32", Accumulate::F32), ("f16", Accumulate::F16), ("bf16", Accumulate::BF16)];
            s.limits.numerics.accumulate = one_of(v, &all)?;
            Ok(())
        };
    "sim.flush" "on, off" "Whether numbers below the smallest normal f32 become zeros."
        => |s, v| { s.limits.numerics.flush = switch(v)?; Ok(()) };
    "sim.fault" "faults" "What goes wrong, counted from 1 on each device: `alloc:N` is out of memory, `execute:N` fails behind the call, `hang:N` never ends, `lost:N` loses the device, `corrupt:N` has one wrong element, `short:N` uploads half, `lying-plan`, `lying-second` (a plan runs once), `slow-support:MS`."
        => |s, v| { s.faults = Faults::parse(v).map_err(|e| e.to_string())?; Ok(()) };
}

impl Settings {
    /// The settings of a list of options.
    ///
    /// # Errors
    /// A key that is none, one given twice, or a value that stands for nothing; with the keys or values there are.
    pub fn parse<K: AsRef<str>, V: AsRef<str>>(options: impl IntoIterator<Item = (K, V)>) -> Result<Settings> {
        let given: Vec<(String, String)> =
            options.into_iter().map(|(k, v)| (k.as_ref().to_string(), v.as_ref().trim().to_string())).collect();
        let preset = given.iter().find(|(key, _)| key == "sim.preset").map_or("plain", |(_, value)| value);
        let preset = presets::find(preset).ok_or_else(|| {
            let names: Vec<_> = presets::all().iter().map(|p| p.name).collect();
            Error::invalid("option sim.preset", format!("'{preset}'"), format!("use one of {}", names.join(", ")))
        })?;
        let mut settings = Settings {
            preset: preset.name,
            limits: preset.limits,
            devices: 1,
            child: false,
            program: None,
            seed: 1,
            engines: 4,
            jitter_us: 50,
            latency_us: 0,
            faults: Faults::default(),
            given: Vec::new(),
        };
        for (i, (key, value)) in given.iter().enumerate() {
            let row = OPTIONS.iter().find(|r| r.key == key).ok_or_else(|| {
                let keys: Vec<_> = OPTIONS.iter().map(|r| r.key).collect();
                Error::invalid(
                    format!("option {key}"),
                    "there is none of that name",
                    format!("use {}", keys.join(", ")),
                )
            })?;
            if given[..i].iter().any(|(earlier, _)| earlier == key) {
                return Err(Error::invalid(format!("option {key}"), "it is given twice", "give it once"));
            }
            (row.apply)(&mut settings, value)
                .map_err(|mend| Error::invalid(format!("option {key}"), format!("'{value}'"), mend))?;
        }
        settings.limits.max_alloc = settings.limits.max_alloc.min(settings.limits.memory);
        settings.given = given;
        Ok(settings)
    }

    /// The settings of a list such as `sim.preset=ascend-like sim.seed=7`, one word an option.
    ///
    /// # Errors
    /// As [`Settings::parse`]; a word without `=`.
    pub fn from_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Settings> {
        let pair = |word: &'a str| {
            word.split_once('=').ok_or_else(|| Error::invalid("option", format!("'{word}'"), "write it as key=value"))
        };
        Settings::parse(words.into_iter().map(pair).collect::<Result<Vec<_>>>()?)
    }

    /// The options of one device for the process that it lives in, as `key=value`.
    pub(crate) fn for_child(&self) -> Vec<String> {
        let outside = ["sim.process", "sim.program", "sim.devices"];
        let inside = self.given.iter().filter(|(key, _)| !outside.contains(&key.as_str()));
        inside.map(|(key, value)| format!("{key}={value}")).collect()
    }
}

fn number(text: &str, least: u64, most: u64) -> std::result::Result<u64, Refused> {
    text.parse().ok().filter(|n| (least..=most).contains(n)).ok_or_else(|| format!("use a number of {least} to {most}"))
}

fn power(text: &str, most: u64) -> std::result::Result<usize, Refused> {
    let n = number(text, 1, most)?;
    if n.is_power_of_two() { Ok(n as usize) } else { Err(format!("use a power of two up to {most}")) }
}

fn bytes(text: &str) -> std::result::Result<u64, Refused> {
    let (digits, unit) = match text.to_ascii_lowercase().strip_suffix(['k', 'm', 'g']) {
        Some(digits) => (digits.to_string(), text.as_bytes()[text.len() - 1].to_ascii_lowercase()),
        None => (text.to_string(), b' '),
    };
    let shift = match unit {
        b'k' => 10,
        b'm' => 20,
        b'g' => 30,
        _ => 0,
    };
    let mend = || "use bytes, or a number with k, m or g behind it, below 2^60".to_string();
    let n: u64 = digits.parse().map_err(|_| mend())?;
    n.checked_mul(1 << shift).filter(|&n| n < 1 << 60).ok_or_else(mend)
}

fn one_of<T: Copy>(text: &str, all: &[(&str, T)]) -> std::result::Result<T, Refused> {
    let names = || all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    all.iter().find(|(name, _)| *name == text).map(|(_, v)| *v).ok_or_else(|| format!("use one of {}", names()))
}

fn switch(text: &str) -> std::result::Result<bool, Refused> {
    one_of(text, &[("on", true), ("off", false)])
}

fn dtypes(text: &str, blocks: bool) -> std::result::Result<Vec<DType>, Refused> {
    let mut list = Vec::new();
    for name in text.split(',').map(str::trim).filter(|n| !n.is_empty()) {
        let dtype: DType = name.parse().map_err(|e: qiao_core::dtype::UnknownDtype| e.to_string())?;
        if dtype.is_block() != blocks {
            let (here, there) = if blocks { ("block formats", "sim.dtypes") } else { ("plain dtypes", "sim.formats") };
            return Err(format!("name {here} here; {dtype} belongs in {there}"));
        }
        if !list.contains(&dtype) {
            list.push(dtype);
        }
    }
    if list.is_empty() && !blocks { Err("name at least one dtype".into()) } else { Ok(list) }
}

fn toggle(settings: &mut Settings, text: &str, which: &[DType]) -> std::result::Result<(), Refused> {
    let on = switch(text)?;
    let list = &mut settings.limits.dtypes;
    list.retain(|d| !which.contains(d));
    if on {
        list.extend(which);
    }
    Ok(())
}

fn kv(text: &str) -> std::result::Result<Vec<KvInfo>, Refused> {
    let mend =
        || "use `any`, or a list of token_head:BLOCK and head_token:BLOCK, each once, blocks up to 65536".to_string();
    if text == "any" {
        return Ok(Vec::new());
    }
    let mut list: Vec<KvInfo> = Vec::new();
    for item in text.split(',').map(str::trim) {
        let (name, block) = item.split_once(':').ok_or_else(mend)?;
        let layout = match name {
            "token_head" => KvLayout::BlockTokenHead,
            "head_token" => KvLayout::BlockHeadToken,
            _ => return Err(mend()),
        };
        let block_size = block.parse().ok().filter(|&b: &usize| b <= 1 << 16).ok_or_else(mend)?;
        let info = KvInfo { layout, block_size };
        if list.contains(&info) {
            return Err(mend());
        }
        list.push(info);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_changes_the_limit_it_names() {
        let words = ["sim.align=256", "sim.preset=ascend-like", "sim.memory=3m", "sim.bf16=off", "sim.kv=head_token:0"];
        let s = Settings::from_words(words).unwrap();
        assert_eq!((s.preset, s.limits.align, s.limits.memory), ("ascend-like", 256, 3 << 20));
        assert_eq!(s.limits.max_alloc, 3 << 20);
        assert!(!s.limits.dtypes.contains(&DType::BF16) && s.limits.dtypes.contains(&DType::F16));
        assert_eq!(s.limits.kv, [KvInfo { layout: KvLayout::BlockHeadToken, block_size: 0 }]);
        assert_eq!(s.limits.tail_pad, 32);
    }

    #[test]
    fn what_is_no_option_or_no_value_is_refused_with_what_there_is() {
        for (word, hint) in [
            ("sim.preset=huawei", "ascend-310p-like"),
            ("sim.colour=red", "sim.tail_pad"),
            ("sim.align=48", "power of two"),
            ("sim.align=", "number"),
            ("sim.memory=12x", "k, m or g"),
            ("sim.memory=99999999999g", "2^60"),
            ("sim.bf16=maybe", "on, off"),
            ("sim.dtypes=q4_0", "sim.formats"),
            ("sim.formats=f32", "sim.dtypes"),
            ("sim.kv=token_head", "head_token:BLOCK"),
            ("sim.kv=token_head:1,token_head:1", "each once"),
            ("sim.fault=boom:1", "alloc:N"),
            ("sim.seed=-1", "number"),
            ("sim.seed", "key=value"),
        ] {
            let error = Settings::from_words([word]).unwrap_err().to_string();
            assert!(error.contains(hint), "{word}: {error}");
        }
        assert!(Settings::from_words(["sim.seed=1", "sim.seed=2"]).is_err());
    }

    #[test]
    fn a_child_gets_every_option_but_those_of_its_process() {
        let s = Settings::from_words(["sim.process=child", "sim.devices=3", "sim.seed=5", "sim.fault=lost:2"]).unwrap();
        assert_eq!(s.for_child(), ["sim.seed=5", "sim.fault=lost:2"]);
    }
}
