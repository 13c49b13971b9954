//! compressed-tensors: groups of modules, each with the arguments of its weights and activations.

use qiao_quant::import::{Activations, Scheme};
use serde_json::Value;

use super::target::Target;
use crate::error::Result;
use crate::json::Object;

/// The groups of a `quantization_config`, in its order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Compressed {
    groups: Vec<Group>,
    ignore: Vec<Target>,
}

#[derive(Clone, Debug, PartialEq)]
struct Group {
    targets: Vec<Target>,
    /// `None` where weights are not quantised.
    scheme: Option<Scheme>,
}

impl Compressed {
    pub(super) fn from_config(object: &Object) -> Result<Compressed> {
        require_no_sparsity(object)?;
        require_no_online_transforms(object)?;
        let format = object.text("format")?.unwrap_or("dense");
        let all = object.object("config_groups")?.ok_or_else(|| object.refuse("config_groups", "groups of modules"))?;
        let mut groups = Vec::new();
        for name in all.keys().map(str::to_string).collect::<Vec<_>>() {
            let preset = all.get(&name).is_some_and(|group| group.is_array());
            groups.push(if preset { preset_group(&all, &name, format)? } else { group(&all, &name, format)? });
        }
        Ok(Compressed { groups, ignore: targets(object, "ignore")? })
    }

    /// The scheme of the first group that names a module: by its name before by its kind.
    pub(super) fn scheme(&self, module: &str) -> Option<Scheme> {
        if self.ignore.iter().any(|target| *target != Target::Linear && target.matches(module)) {
            return None;
        }
        let by = |of: fn(&Target) -> bool| {
            self.groups.iter().find(|group| group.targets.iter().any(|t| of(t) && t.matches(module)))
        };
        let group = by(|t| !matches!(t, Target::Linear)).or_else(|| by(|t| matches!(t, Target::Linear)))?;
        group.scheme.clone()
    }
}

/// Refuses weights that are stored without their zeros.
fn require_no_sparsity(object: &Object) -> Result<()> {
    let Some(sparsity) = object.object("sparsity_config")? else { return Ok(()) };
    match sparsity.text("format")? {
        None | Some("dense") => Ok(()),
        Some(_) => Err(sparsity.refuse("format", "dense: export the model without compressing its zeros")),
    }
}

/// Refuses transforms that a model would have to compute as it runs. Those of weights are in the weights already.
fn require_no_online_transforms(object: &Object) -> Result<()> {
    let Some(transforms) = object.object("transform_config")? else { return Ok(()) };
    if transforms.keys().any(|key| key != "config_groups" && transforms.get(key).is_some()) {
        return Err(object.refuse("transform_config", "null, or config_groups alone"));
    }
    let Some(groups) = transforms.object("config_groups")? else { return Ok(()) };
    for name in groups.keys() {
        let group = groups.object(name)?.ok_or_else(|| groups.refuse(name, "a transform"))?;
        let is_merged = |apply: &Value| matches!(apply["location"].as_str(), Some("weight_input" | "weight_output"));
        let merged = |apply: &Value| apply.as_array().is_some_and(|all| all.iter().all(is_merged));
        if !group.get("apply").is_none_or(merged) {
            let expected =
                "at weight_input and weight_output alone: transforms of activations are not run here, quantise without";
            return Err(group.refuse("apply", expected));
        }
    }
    Ok(())
}

fn targets(object: &Object, key: &str) -> Result<Vec<Target>> {
    let texts = object.texts(key)?.unwrap_or_default();
    let parse = |text: &String| Target::parse(text).map_err(|_| object.refuse(key, "names or regular expressions"));
    texts.iter().map(parse).collect()
}

/// A group that has a preset's name, with its targets.
fn preset_group(all: &Object, name: &str, format: &str) -> Result<Group> {
    let packed = |symmetric| Scheme::Packed { bits: 4, group_size: Some(128), symmetric };
    let scheme = match name {
        "W4A16" => packed(true),
        "W4A16_ASYM" => packed(false),
        "W8A16" if format == "int-quantized" => Scheme::Int8 { activations: Activations::Float, symmetric: true },
        "W8A16" => Scheme::Packed { bits: 8, group_size: None, symmetric: true },
        "W8A8" | "INT8" => Scheme::Int8 { activations: Activations::Int8Dynamic, symmetric: true },
        "FP8" | "FP8_DYNAMIC" => Scheme::Fp8 { block: None },
        "FP8_BLOCK" => Scheme::Fp8 { block: Some([128, 128]) },
        _ => {
            return Err(
                all.refuse(name, "W4A16, W4A16_ASYM, W8A16, W8A8, INT8, FP8, FP8_DYNAMIC, FP8_BLOCK, or a group")
            );
        }
    };
    Ok(Group { targets: targets(all, name)?, scheme: Some(scheme) })
}

fn group(all: &Object, name: &str, format: &str) -> Result<Group> {
    let object = all.object(name)?.ok_or_else(|| all.refuse(name, "a group"))?;
    let targets = targets(&object, "targets")?;
    let Some(weights) = object.object("weights")? else { return Ok(Group { targets, scheme: None }) };
    let format = object.text("format")?.unwrap_or(format).to_string();
    let bits = weights.required_size("num_bits", 1, 32)? as u32;
    let is_float = weights.text("type")? == Some("float");
    let symmetric = weights.boolean("symmetric")?.unwrap_or(true);
    let scheme = match format.as_str() {
        "dense" => None,
        "pack-quantized" if !is_float && bits <= 8 => {
            Some(Scheme::Packed { bits, group_size: group_size(&weights)?, symmetric })
        }
        "int-quantized" | "naive-quantized" if !is_float && bits == 8 => {
            Some(Scheme::Int8 { activations: activations(&object)?, symmetric })
        }
        "float-quantized" | "naive-quantized" if is_float && bits == 8 => Some(Scheme::Fp8 { block: block(&weights)? }),
        "pack-quantized" | "int-quantized" | "float-quantized" | "naive-quantized" => {
            let expected = format!("such as {format} has: 8, or up to 8 for integers that are packed");
            return Err(weights.refuse("num_bits", expected));
        }
        _ => {
            let key = if object.get("format").is_some() { "format" } else { "num_bits" };
            let expected = format!(
                "in one of the formats pack-quantized, int-quantized, float-quantized or naive-quantized (it is {format})"
            );
            return Err(if key == "format" { object.refuse(key, expected) } else { weights.refuse(key, expected) });
        }
    };
    Ok(Group { targets, scheme })
}

/// Input channels to a scale; `None` = all of them.
fn group_size(weights: &Object) -> Result<Option<usize>> {
    match weights.get("group_size").and_then(|v| v.as_i64()) {
        Some(-1) => Ok(None),
        _ => weights.size("group_size", 1, 1 << 20),
    }
}

fn block(weights: &Object) -> Result<Option<[usize; 2]>> {
    if weights.text("strategy")? != Some("block") {
        return Ok(None);
    }
    let expected = "two sizes, rows and columns";
    let sizes = match weights.get("block_structure").and_then(|v| v.as_str()) {
        Some(text) => text.split('x').map(|part| part.parse().ok()).collect::<Option<Vec<usize>>>(),
        None => weights.sizes("block_structure")?,
    };
    match sizes.as_deref() {
        Some(&[rows, columns]) if rows > 0 && columns > 0 => Ok(Some([rows, columns])),
        _ => Err(weights.refuse("block_structure", expected)),
    }
}

fn activations(group: &Object) -> Result<Activations> {
    let Some(input) = group.object("input_activations")? else { return Ok(Activations::Float) };
    let is_int8 = input.size("num_bits", 1, 32)? == Some(8) && input.text("type")?.unwrap_or("int") == "int";
    // Activations that are not int8, or have a zero point of their own in every row, stay floats: that is the more exact product.
    let dynamic = input.get("dynamic").is_some_and(|v| *v != Value::Bool(false));
    let symmetric = input.boolean("symmetric")?.unwrap_or(true);
    Ok(match (is_int8, dynamic) {
        (true, true) if symmetric => Activations::Int8Dynamic,
        (true, false) => Activations::Int8Static,
        _ => Activations::Float,
    })
}
