//! In which dtypes a device is given a model.
//!
//! A device that lists its dtypes ([`DeviceInfo::dtypes`]) is given no others, unless they are asked for: weights in a dtype that
//! it does not store, block formats and codes among them, are converted while they are loaded, to f32 where it computes in that,
//! else to f16; and activations are in
//! the dtype of the weights where it computes in that, else in f32 or f16 by the same rule. A device that lists none is given
//! what is stored.

use qiao_core::{DType, DeviceInfo};

use crate::config::ModelConfig;
use crate::error::{EngineError, Result};
use crate::form::{GroupForm, WeightForm};
use crate::weights::convert::is_convertible;

fn computes(info: &DeviceInfo, dtype: DType) -> bool {
    info.dtypes.iter().any(|d| d.dtype == dtype && d.compute)
}

/// What stands in for a dtype that a device does not have.
fn instead(info: &DeviceInfo) -> Option<DType> {
    [DType::F32, DType::F16].into_iter().find(|&dtype| computes(info, dtype))
}

/// The dtype in which a device is given a weight that is stored in this one.
pub fn placed_dtype(info: &DeviceInfo, stored: DType) -> DType {
    let kept = info.dtypes.is_empty() || info.dtypes.iter().any(|d| d.dtype == stored) || !is_convertible(stored);
    if kept { stored } else { instead(info).unwrap_or(stored) }
}

/// The form in which a device is given a weight that is stored in this one: codes of a dtype that it does not store become floats.
pub fn placed_form(info: &DeviceInfo, stored: WeightForm) -> WeightForm {
    let known = |dtype: DType| info.dtypes.is_empty() || info.dtypes.iter().any(|d| d.dtype == dtype);
    let floats = instead(info).or(info.dtypes.is_empty().then_some(DType::F32));
    match stored {
        WeightForm::Plain(dtype) => WeightForm::Plain(placed_dtype(info, dtype)),
        WeightForm::Grouped(form) if known(form.codes) && form.zeros.is_none_or(known) => {
            WeightForm::Grouped(GroupForm { scales: placed_dtype(info, form.scales), ..form })
        }
        WeightForm::Int8 { .. } if known(DType::I8) => stored,
        _ => floats.map_or(stored, WeightForm::Plain),
    }
}

/// The dtype of keys and values: as asked, else that of activations.
///
/// # Errors
/// One that no cache is kept in.
pub(crate) fn cache_dtype(compute: DType, asked: Option<DType>) -> Result<DType> {
    let codes = [DType::I8, DType::F8E4M3, DType::F8E5M2];
    match asked {
        Some(dtype) if !dtype.is_activation() && !codes.contains(&dtype) => Err(EngineError::Parameter {
            name: "dtype of keys and values",
            expected: "f32, bf16, f16, i8, f8e4m3 or f8e5m2",
            found: dtype.name().to_string(),
        }),
        asked => Ok(asked.unwrap_or(compute)),
    }
}

/// The dtype of activations: as asked, else that of the stored weights or what a device has instead.
///
/// # Errors
/// One that no model computes in.
pub(crate) fn compute_dtype(
    info: &DeviceInfo,
    stored: DType,
    config: &ModelConfig,
    asked: Option<DType>,
) -> Result<DType> {
    match asked {
        Some(dtype) if !dtype.is_activation() => Err(EngineError::Parameter {
            name: "compute dtype",
            expected: "f32, bf16 or f16",
            found: dtype.name().to_string(),
        }),
        Some(dtype) => Ok(dtype),
        None => {
            let meant = [config.activations, Some(stored), config.dtype];
            let stored = meant.into_iter().flatten().find(|d| d.is_activation());
            let stored = stored.unwrap_or(DType::F32);
            let kept = info.dtypes.is_empty() || computes(info, stored);
            Ok(if kept { stored } else { instead(info).unwrap_or(stored) })
        }
    }
}

/// As [`compute_dtype`], for a model on all these devices: the dtype that each would take, or one in which all compute.
///
/// # Errors
/// As [`compute_dtype`]; no dtype in which all compute.
pub(crate) fn common_compute_dtype(
    devices: &[&DeviceInfo],
    stored: DType,
    config: &ModelConfig,
    asked: Option<DType>,
) -> Result<DType> {
    let each = devices.iter().map(|info| compute_dtype(info, stored, config, asked)).collect::<Result<Vec<_>>>()?;
    let in_all = |dtype: &DType| devices.iter().all(|info| info.dtypes.is_empty() || computes(info, *dtype));
    let same = each.first().copied().filter(|first| each.iter().all(|dtype| dtype == first));
    same.or_else(|| [DType::F32, DType::F16, DType::BF16].into_iter().find(in_all)).ok_or_else(|| {
        let each: Vec<_> = each.iter().map(|dtype| dtype.name()).collect();
        let expected = "one in which all devices compute: name it, or put the model onto other devices";
        EngineError::Parameter { name: "compute dtype", expected, found: each.join(", ") }
    })
}

#[cfg(test)]
mod tests {
    use qiao_core::DtypeInfo;

    use super::*;

    fn device(dtypes: &[(DType, bool)]) -> DeviceInfo {
        let of = |&(dtype, compute)| DtypeInfo { dtype, compute, peak_ops_per_s: 0.0 };
        DeviceInfo { dtypes: dtypes.iter().map(of).collect(), ..DeviceInfo::default() }
    }

    #[test]
    fn what_a_device_does_not_store_is_widened_where_it_can_be() {
        let placed = |dtypes: &[(DType, bool)], stored| placed_dtype(&device(dtypes), stored);
        let (f16, bf16, f32) = (DType::F16, DType::BF16, DType::F32);
        assert_eq!(placed(&[], bf16), bf16, "it says nothing");
        assert_eq!(placed(&[(f16, true), (f32, true)], bf16), f32);
        assert_eq!(placed(&[(f16, true), (f32, false)], bf16), f16);
        assert_eq!(placed(&[(bf16, false), (f32, true)], bf16), bf16, "stored is enough");
        assert_eq!(placed(&[(DType::I8, true)], bf16), bf16, "there is nothing better");
        assert_eq!(placed(&[(f32, true), (DType::Q4_0, false)], DType::Q4_0), DType::Q4_0);
        assert_eq!(placed(&[(f32, true)], DType::Q4_0), f32);
    }

    #[test]
    fn activations_are_in_a_dtype_that_the_device_computes_in() {
        let config = |text: &str| ModelConfig::from_json("config.json", text.as_bytes()).unwrap();
        let plain = config(include_str!("../../../fixtures/llama2-mha/config.json"));
        let compute =
            |dtypes: &[(DType, bool)], asked| compute_dtype(&device(dtypes), DType::BF16, &plain, asked).unwrap();
        let (f16, bf16, f32) = (DType::F16, DType::BF16, DType::F32);
        assert_eq!(compute(&[], None), bf16);
        assert_eq!(compute(&[(bf16, false), (f16, true), (f32, true)], None), f32);
        assert_eq!(compute(&[(f16, true)], None), f16);
        assert_eq!(compute(&[(f16, true)], Some(bf16)), bf16, "as asked");
        assert!(compute_dtype(&device(&[]), bf16, &plain, Some(DType::I8)).is_err());
        let common = |devices: &[&[(DType, bool)]]| {
            let infos: Vec<_> = devices.iter().map(|dtypes| device(dtypes)).collect();
            common_compute_dtype(&infos.iter().collect::<Vec<_>>(), bf16, &plain, None)
        };
        assert_eq!(common(&[&[], &[(bf16, true)]]).unwrap(), bf16);
        assert_eq!(common(&[&[(bf16, true), (f16, true)], &[(f16, true)]]).unwrap(), f16);
        assert_eq!(common(&[&[], &[(f32, true)]]).unwrap(), f32);
        assert!(common(&[&[(bf16, true)], &[(f16, true)]]).unwrap_err().to_string().contains("bf16, f16"));
    }
}
