//! What a device would make of a model, before anyone has its weights.

use std::path::Path;
use std::sync::Arc;

use qiao_core::Device;
use qiao_engine::checkpoint::Checkpoint;
use qiao_engine::config::{CONFIG_FILE, ModelConfig};
use qiao_engine::forecast::{self, Forecast, ForecastOptions};

use crate::{Result, demo};

/// Forecasts a model from its `config.json`, the directory that holds it, or a GGUF file: which operators the device runs, what they cost,
/// how long they take at least, and what memory they need. Neither weights nor a tokenizer are read.
///
/// # Errors
/// A file that is missing or malformed; an architecture that is not known; sizes beyond the model's. An operator that the device
/// does not run is no error: it stands in the forecast.
pub fn forecast(model: impl AsRef<Path>, device: &Arc<dyn Device>, options: &ForecastOptions) -> Result<Forecast> {
    Ok(forecast::forecast(&Checkpoint::config_of(model)?, device, options)?)
}

/// Forecasts the embedded demo model.
///
/// # Errors
/// As [`forecast()`].
pub fn forecast_demo(device: &Arc<dyn Device>, options: &ForecastOptions) -> Result<Forecast> {
    let files = demo::files();
    let config = ModelConfig::from_json(Path::new(files.name).join(CONFIG_FILE), files.config)?;
    Ok(forecast::forecast(&config, device, options)?)
}
