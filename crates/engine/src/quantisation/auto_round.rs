//! auto-round: the tensors of GPTQ, with zero points stored one less, or of AWQ; single modules have arguments of their own in
//! `extra_config`.

use super::target::Target;
use super::{Awq, Method, Ruled, awq, gptq_rule, group_size};
use crate::error::Result;
use crate::json::Object;

/// Characters that tell an expression from a module's name.
const SPECIAL: &[char] = &['*', '+', '?', '^', '$', '(', ')', '[', ']', '{', '}', '|', '\\'];
/// Rotations of activations, which a model would have to compute as it runs.
const ROTATIONS: [&str; 2] = ["rotation_config", "spinquant_config"];

/// How a `quantization_config` packs.
///
/// # Errors
/// A packing of other tensors; activations that are quantised or rotated; keys that cannot be used.
pub(super) fn method(object: &Object) -> Result<Method> {
    require_plain(object)?;
    for key in ROTATIONS {
        let is_empty = |value: &serde_json::Value| value.as_object().is_some_and(|map| map.is_empty());
        if !object.get(key).is_none_or(is_empty) {
            return Err(object.refuse(key, "null: rotated activations are not run here, quantise without"));
        }
    }
    match object.text("packing_format")? {
        Some("auto_round:auto_gptq" | "auto_round:gptq") => {
            let all = gptq_rule(object, None)?;
            let rules = rules(object, |rule| gptq_rule(rule, Some(all)))?;
            Ok(Method::Gptq(Ruled { all, rules }))
        }
        Some("auto_round:auto_awq" | "auto_round:awq") => {
            let all = awq(object)?;
            let own = |rule: &Object| match rule.get("group_size") {
                None => Ok(all.group_size),
                Some(_) => group_size(rule, ["group_size", "q_group_size"]),
            };
            let rules = rules(object, |rule| awq(rule).and_then(|_| Ok(Awq { group_size: own(rule)?, ..all })))?;
            Ok(Method::Awq(Ruled { all, rules }))
        }
        _ => {
            let expected = "auto_round:auto_gptq or auto_round:auto_awq: export the model again in one of these";
            Err(object.refuse("packing_format", expected))
        }
    }
}

/// Refuses what is not integer weights beside float activations.
fn require_plain(object: &Object) -> Result<()> {
    if object.text("data_type")?.is_some_and(|kind| kind != "int") {
        return Err(object.refuse("data_type", "int"));
    }
    if object.size("act_bits", 1, 64)?.is_some_and(|bits| bits < 16) {
        return Err(object.refuse("act_bits", "16: quantise weights alone"));
    }
    Ok(())
}

/// The rules of `extra_config`: modules by name before those by expression, which is searched for anywhere in a name. Modules of 16
/// bits and more are not quantised.
fn rules<T>(object: &Object, rule: impl Fn(&Object) -> Result<T>) -> Result<Vec<(Target, Option<T>)>> {
    let Some(extra) = object.object("extra_config")? else { return Ok(Vec::new()) };
    let (mut named, mut matched) = (Vec::new(), Vec::new());
    for key in extra.keys() {
        let own = extra.object(key)?.ok_or_else(|| extra.refuse(key, "the arguments of a module"))?;
        let is_float = own.size("bits", 1, 64)?.is_some_and(|bits| bits >= 16);
        let scheme = match is_float {
            true => None,
            false => Some(require_plain(&own).and_then(|()| rule(&own))?),
        };
        match key.contains(SPECIAL) {
            false => named.push((Target::Named(key.to_string()), scheme)),
            true => {
                let target = Target::regex(&format!(".*(?:{key})"));
                let target = target.map_err(|_| extra.refuse(key, "a regular expression as key"))?;
                matched.push((target, scheme));
            }
        }
    }
    named.extend(matched);
    Ok(named)
}
