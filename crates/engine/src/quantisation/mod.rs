//! How a checkpoint says that it is quantised: `quantization_config` of `config.json`, or the older `compression_config`; the older
//! side files of GPTQ and AWQ, and the description that Ascend's tools write. What a module's tensors are is told by
//! [`Quantisation::scheme`]; that a module is quantised at all only its tensors tell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use qiao_core::DType;
use qiao_quant::import::{AscendKind, AwqVersion, GptqZeros, Scheme};

use crate::error::{EngineError, Result};
use crate::form::{WeightForm, expected};
use crate::json::{self, Object};

mod auto_round;
mod compressed;
mod target;

use compressed::Compressed;
use target::Target;

/// The key of `config.json`.
const KEY: &str = "quantization_config";
/// What older compressed-tensors checkpoints call it.
const OLDER_KEY: &str = "compression_config";
/// What older tools wrote beside `config.json`, and the method that it stands for.
const SIDE_FILES: [(&str, &str); 2] = [("quantize_config.json", "gptq"), ("quant_config.json", "awq")];
/// What Ascend's tools write.
const DESCRIPTION: &str = "quant_model_description";

/// How the modules of a checkpoint are quantised.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantisation {
    path: PathBuf,
    method: Method,
}

#[derive(Clone, Debug, PartialEq)]
enum Method {
    Gptq(Ruled<Gptq>),
    Awq(Ruled<Awq>),
    Compressed(Compressed),
    Fp8 {
        block: Option<[usize; 2]>,
    },
    Ascend(Object),
    /// The dtype of every weight stands in its file.
    Stated(BTreeMap<String, DType>),
}

/// Settings of all modules, and of single ones.
#[derive(Clone, Debug, PartialEq)]
struct Ruled<T> {
    all: T,
    /// Rules for single modules; the first that matches holds. `None` = not quantised.
    rules: Vec<(Target, Option<T>)>,
}

impl<T: Copy> Ruled<T> {
    fn of(&self, module: &str) -> Option<T> {
        match self.rules.iter().find(|(target, _)| target.matches(module)) {
            Some((_, rule)) => *rule,
            None => Some(self.all),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Awq {
    version: AwqVersion,
    group_size: Option<usize>,
}

impl Awq {
    fn scheme(self) -> Scheme {
        Scheme::Awq { version: self.version, group_size: self.group_size }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Gptq {
    bits: u32,
    group_size: Option<usize>,
    symmetric: bool,
    zeros: GptqZeros,
}

impl Gptq {
    fn scheme(self) -> Scheme {
        Scheme::Gptq { bits: self.bits, group_size: self.group_size, symmetric: self.symmetric, zeros: self.zeros }
    }
}

impl Quantisation {
    /// What `config.json` says; `None` where it says nothing.
    ///
    /// # Errors
    /// A method that is not read; keys that cannot be used.
    pub(crate) fn from_config(config: &Object) -> Result<Option<Quantisation>> {
        let (object, usual) = match (config.object(KEY)?, config.object(OLDER_KEY)?) {
            (Some(object), _) => (object, None),
            (None, Some(object)) => (object, Some("compressed-tensors")),
            (None, None) => return Ok(None),
        };
        let method = object.text("quant_method")?.or(object.text("method")?).or(usual);
        let method = method.ok_or_else(|| object.refuse("quant_method", METHODS))?;
        Quantisation::of_method(method, &object).map(Some)
    }

    /// What stands in a checkpoint directory beside `config.json`; `None` where nothing does.
    ///
    /// # Errors
    /// As [`Quantisation::from_config`].
    pub(crate) fn beside_config(dir: &Path) -> Result<Option<Quantisation>> {
        for (file, method) in SIDE_FILES {
            if let Some(object) = json::read_object_if_present(&dir.join(file))? {
                return Quantisation::of_method(method, &object).map(Some);
            }
        }
        let Some(path) = description(dir)? else { return Ok(None) };
        let method = Method::Ascend(json::read_object(&path)?);
        Ok(Some(Quantisation { path, method }))
    }

    /// Of a file whose weights are all as they are used.
    pub(crate) fn stated(path: &Path, dtypes: BTreeMap<String, DType>) -> Quantisation {
        Quantisation { path: path.to_path_buf(), method: Method::Stated(dtypes) }
    }

    fn of_method(method: &str, object: &Object) -> Result<Quantisation> {
        let method = match method {
            "gptq" => gptq(object)?,
            "awq" => Method::Awq(Ruled { all: awq(object)?, rules: Vec::new() }),
            "compressed-tensors" => Method::Compressed(Compressed::from_config(object)?),
            "fp8" => fp8(object)?,
            "auto-round" => auto_round::method(object)?,
            _ => return Err(object.refuse("quant_method", METHODS)),
        };
        Ok(Quantisation { path: object.path().to_path_buf(), method })
    }

    /// Where it was said.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the tensors of a module are to be read; `None` for one that is not quantised.
    ///
    /// # Errors
    /// A type of quantisation that is not read.
    pub fn scheme(&self, module: &str) -> Result<Option<Scheme>> {
        match &self.method {
            Method::Gptq(ruled) => Ok(ruled.of(module).map(Gptq::scheme)),
            Method::Awq(ruled) => Ok(ruled.of(module).map(Awq::scheme)),
            Method::Compressed(compressed) => Ok(compressed.scheme(module)),
            Method::Fp8 { block } => Ok(Some(Scheme::Fp8 { block: *block })),
            Method::Ascend(types) => ascend(types, module),
            Method::Stated(_) => Ok(None),
        }
    }

    /// The form that a weight will have, as far as it follows from what is said here; of a projection where that is all that is
    /// said.
    pub fn expected_form(&self, weight: &str, is_projection: bool) -> Option<WeightForm> {
        if let Method::Stated(dtypes) = &self.method {
            return dtypes.get(weight).copied().map(WeightForm::Plain);
        }
        let module = weight.strip_suffix(".weight").filter(|_| is_projection)?;
        self.scheme(module).ok().flatten().and_then(|scheme| expected(&scheme))
    }
}

const METHODS: &str = "gptq, awq, compressed-tensors, fp8 or auto-round";

/// Groups of input channels: −1 is all of them.
fn group_size(object: &Object, keys: [&str; 2]) -> Result<Option<usize>> {
    let key = if object.get(keys[0]).is_some() { keys[0] } else { keys[1] };
    match object.get(key).and_then(|v| v.as_i64()) {
        Some(-1) => Ok(None),
        _ => object.size(key, 1, 1 << 20),
    }
}

/// A number under either of two keys.
fn either(object: &Object, keys: [&str; 2], low: usize, high: usize) -> Result<Option<usize>> {
    let key = if object.get(keys[0]).is_some() { keys[0] } else { keys[1] };
    object.size(key, low, high)
}

fn gptq(object: &Object) -> Result<Method> {
    if object.boolean("is_marlin_format")? == Some(true) {
        return Err(object.refuse("is_marlin_format", "false: repack the checkpoint to plain GPTQ"));
    }
    let all = gptq_rule(object, None)?;
    let mut rules = Vec::new();
    if let Some(dynamic) = object.object("dynamic")? {
        for pattern in dynamic.keys().map(str::to_string).collect::<Vec<_>>() {
            let skips = pattern.starts_with("-:");
            let text = pattern.strip_prefix("-:").or(pattern.strip_prefix("+:")).unwrap_or(&pattern);
            let target = Target::regex(text).map_err(|_| dynamic.refuse(&pattern, "a regular expression as key"))?;
            let rule = match dynamic.object(&pattern)? {
                Some(rule) if !skips => Some(gptq_rule(&rule, Some(all))?),
                _ if skips => None,
                _ => Some(all),
            };
            rules.push((target, rule));
        }
    }
    Ok(Method::Gptq(Ruled { all, rules }))
}

/// The settings of an object; what it leaves out is as in `base`.
fn gptq_rule(object: &Object, base: Option<Gptq>) -> Result<Gptq> {
    let bits_key = if object.get("bits").is_some() { "bits" } else { "w_bit" };
    let bits = match (object.size(bits_key, 1, 32)?, base) {
        (Some(bits @ (2 | 3 | 4 | 8)), _) => bits as u32,
        (None, Some(base)) => base.bits,
        _ => return Err(object.refuse(bits_key, "2, 3, 4 or 8")),
    };
    let grouped = ["group_size", "q_group_size"].iter().any(|key| object.get(key).is_some());
    let format = if object.get("checkpoint_format").is_some() { "checkpoint_format" } else { "format" };
    let zeros = match (object.text(format)?, base) {
        (None, Some(base)) => base.zeros,
        (None | Some("gptq"), _) => GptqZeros::OneLess,
        (Some("gptq_v2"), _) => GptqZeros::Plain,
        _ => return Err(object.refuse(format, "gptq or gptq_v2: repack a checkpoint in a layout of one kernel")),
    };
    Ok(Gptq {
        bits,
        group_size: match base {
            Some(base) if !grouped => base.group_size,
            _ => group_size(object, ["group_size", "q_group_size"])?,
        },
        symmetric: object.boolean("sym")?.unwrap_or(base.is_none_or(|base| base.symmetric)),
        zeros,
    })
}

fn awq(object: &Object) -> Result<Awq> {
    let bits_key = if object.get("bits").is_some() { "bits" } else { "w_bit" };
    if either(object, ["bits", "w_bit"], 1, 32)?.is_some_and(|bits| bits != 4) {
        return Err(object.refuse(bits_key, "4"));
    }
    let version = match object.text("version")?.map(str::to_lowercase).as_deref() {
        None | Some("gemm") => AwqVersion::Gemm,
        Some("gemv") => AwqVersion::Gemv,
        _ => return Err(object.refuse("version", "gemm or gemv: repack a checkpoint in a layout of one kernel")),
    };
    Ok(Awq { version, group_size: group_size(object, ["group_size", "q_group_size"])? })
}

fn fp8(object: &Object) -> Result<Method> {
    if object.text("fmt")?.is_some_and(|fmt| fmt != "e4m3") {
        return Err(object.refuse("fmt", "e4m3"));
    }
    let block = match object.sizes("weight_block_size")?.as_deref() {
        None => None,
        Some(&[rows, columns]) if rows > 0 && columns > 0 => Some([rows, columns]),
        Some(_) => return Err(object.refuse("weight_block_size", "two sizes, rows and columns")),
    };
    Ok(Method::Fp8 { block })
}

/// The description that Ascend's tools write, if a directory has one.
fn description(dir: &Path) -> Result<Option<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(|e| EngineError::io("read", dir, e))?;
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(DESCRIPTION) && name.ends_with(".json")
    });
    found.sort();
    Ok(found.into_iter().next())
}

fn ascend(types: &Object, module: &str) -> Result<Option<Scheme>> {
    let key = format!("{module}.weight");
    let kind = match types.text(&key)? {
        None | Some("FLOAT") => return Ok(None),
        Some("W8A8") => AscendKind::W8A8,
        // What is static in one phase is dynamic in the other, and carries the tensors of both.
        Some("W8A8_DYNAMIC" | "W8A8_MIX") => AscendKind::W8A8Dynamic,
        Some("W8A16") => AscendKind::W8A16,
        Some(_) => return Err(types.refuse(&key, "FLOAT, W8A8, W8A8_DYNAMIC, W8A8_MIX or W8A16")),
    };
    Ok(Some(Scheme::Ascend { kind }))
}

#[cfg(test)]
mod tests;
