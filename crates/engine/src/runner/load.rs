//! Loading: every stage is planned before a weight is placed.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use qiao_core::DType;
use qiao_layers::{Lowered, Policy};

use super::plans::DECODE;
use super::{LoadedModel, Whole, prompt_chunk};
use crate::config::ModelConfig;
use crate::dtypes::{cache_dtype, common_compute_dtype, placed_form};
use crate::error::{EngineError, Result};
use crate::fingerprint::Fingerprint;
use crate::form::WeightForm;
use crate::homes::SequenceHomes;
use crate::model::{Family, ModelGraph, Step};
use crate::placing::{PlacedWeights, Progress};
use crate::prepacked::{Source, require_mapping};
use crate::prepared::{Key, Prepared};
use crate::rope::{RopeScaling, RopeTables};
use crate::sides::Sides;
use crate::stages::Placement;
use crate::weights::Weights;

/// The context of a model loaded without saying, where the model allows as much.
pub const DEFAULT_CONTEXT: usize = 4096;

/// How a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The dtype of activations; `None` = that of the stored weights, or what the device has instead
    /// ([`crate::dtypes`]).
    pub dtype: Option<DType>,
    /// The dtype of keys and values; `None` = that of activations. Codes (i8, f8e4m3, f8e5m2) have an f32 scale for each token and
    /// head.
    pub kv_dtype: Option<DType>,
    /// The longest sequence, prompt and answer together; `None` = [`DEFAULT_CONTEXT`] or what the model allows, whichever is
    /// less.
    pub context: Option<usize>,
    /// Where operators run that the device refuses.
    pub policy: Policy,
    /// The longest wait for any command of the device; `None` = [`PATIENCE`](crate::sides::PATIENCE).
    pub patience: Option<Duration>,
    /// A folder of weights that [`LoadedModel::prepack`] wrote: what fits checkpoint and device is used where it lies. `None` = every
    /// weight is packed anew.
    pub prepacked: Option<PathBuf>,
}

/// A stage whose weights are not placed yet: the graph of a decode step and its plan.
struct Draft {
    stage: LoadedModel,
    key: Key,
    g: ModelGraph,
    plan: Lowered,
}

impl LoadedModel {
    /// Reads a checkpoint's weights onto a device, or onto several. `path` stands in error texts only.
    ///
    /// The plan of a decode step decides which weights live on the host where the policy has one, and that step and a chunk of a
    /// prompt together where keys and values do; every later plan keeps to it. No weight is placed before every device has a plan.
    ///
    /// # Errors
    /// An unknown architecture; missing tensors, or such of other shapes than `config.json` says; a context beyond the model's; a
    /// weight with values beyond the dtype that the device stores; operators that the device does not run, each with its
    /// reason; a split that does not fit the devices or the layers; devices that compute in no dtype in common; the devices' own errors.
    pub fn load(
        placement: impl Into<Placement>,
        weights: &Weights,
        config: ModelConfig,
        path: &Path,
        options: LoadOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<LoadedModel> {
        let (start, placement) = (Instant::now(), placement.into());
        let mut spec = (Family::of(&config, path)?.spec)(&config)?;
        let embed = format!("{}.weight", spec.names.embed);
        let head = format!("{}.weight", spec.names.lm_head);
        spec.tied |= !weights.contains(&head) && weights.contains(&embed);
        let spans = placement.layers(weights, &spec)?;
        let infos: Vec<_> = placement.devices.iter().map(|device| device.info()).collect();
        let compute = common_compute_dtype(&infos, weights.handle(&embed)?.dtype, &config, options.dtype)?;
        let fingerprint = Fingerprint::of(weights, &config, &spec, compute);
        let whole = Arc::new(Whole {
            compute,
            kv: cache_dtype(compute, options.kv_dtype)?,
            context: checked_context(&config, options.context)?,
            rope: RopeTables::new(&config.rope, config.head_dim, config.max_position_embeddings),
            source: Source::of(weights, &fingerprint),
            fingerprint,
            config,
            spec,
        });
        let sides = placement.devices.into_iter();
        let sides = sides.map(|device| Sides::new(device, options.policy.clone(), options.patience));
        let drafts = sides.zip(spans).map(|(sides, layers)| LoadedModel::draft(&whole, sides, layers, weights));
        let drafts = drafts.collect::<Result<Vec<_>>>()?;
        let mut stages = LoadedModel::place(drafts, weights, options.prepacked.as_deref(), progress)?.into_iter();
        let Some(mut first) = stages.next() else {
            return Err(qiao_core::Error::internal("a model", "it was put onto no device").into());
        };
        first.behind = stages.map(Arc::new).collect();
        first.load_time = start.elapsed();
        Ok(first)
    }

    /// Some layers of a model on a device, planned.
    fn draft(whole: &Arc<Whole>, sides: Sides, layers: Range<usize>, weights: &Weights) -> Result<Draft> {
        let mut stage = LoadedModel {
            whole: whole.clone(),
            forms: HashMap::new(),
            weights: PlacedWeights::default(),
            homes: SequenceHomes::on_device(layers.len()),
            layers,
            plans: Mutex::default(),
            rotary: Mutex::default(),
            behind: Vec::new(),
            load_time: Duration::ZERO,
            sides,
        };
        stage.read_forms(weights);
        let key = (DECODE, stage.cache_shape(1));
        let mut g = stage.graph(key)?;
        PlacedWeights::check(weights, &g)?;
        let tokens = prompt_chunk(stage.device().info()).min(stage.context());
        let chunk = Step::of_one(tokens, 1);
        let chunk = if tokens > 1 { Some(stage.graph((chunk, stage.cache_shape(tokens)))?) } else { None };
        stage.homes = SequenceHomes::decide(&**stage.device(), stage.policy(), &g, chunk.as_ref())?;
        let plan = stage.lower(&mut g)?;
        Ok(Draft { stage, key, g, plan })
    }

    /// Puts the weights of all stages onto their devices.
    fn place(
        drafts: Vec<Draft>,
        weights: &Weights,
        prepacked: Option<&Path>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<LoadedModel>> {
        let bytes = |draft: &Draft| draft.g.constants.iter().map(|c| weights.byte_len(&c.name)).sum::<u64>();
        let total = drafts.iter().map(bytes).sum();
        let mut before = 0;
        progress(Progress { done: 0, total });
        let each = drafts.into_iter().map(|draft| {
            let own = bytes(&draft);
            let Draft { mut stage, key, g, plan } = draft;
            let mut tell = |done| progress(Progress { done: before + done, total });
            let source = stage.source().filter(|_| require_mapping(stage.device().info()).is_ok());
            let file = prepacked.zip(source).map(|(folder, source)| source.place(folder, stage.device().info()));
            stage.weights = PlacedWeights::place(&stage.sides, weights, &g, &plan, file.as_deref(), &mut tell)?;
            before += own;
            stage.unpack(&plan, &g)?;
            let decode = Prepared::new(&**stage.device(), key, g, plan);
            stage.plans().keep(Arc::new(decode));
            Ok(stage)
        });
        each.collect()
    }

    fn read_forms(&mut self, weights: &Weights) {
        // A tensor that no graph uses may have any dtype; one that a graph uses is refused before it is placed.
        let info = self.sides.device().info();
        let of = |name: &str| Some((name.to_string(), placed_form(info, weights.form(name)?)));
        self.forms = weights.names().filter_map(of).collect();
        // Rows are looked up without scales, so a table of codes is decoded once.
        let embed = format!("{}.weight", self.spec().names.embed);
        if let Some(form) = self.forms.get_mut(&embed).filter(|form| !matches!(form, WeightForm::Plain(_))) {
            *form = WeightForm::Plain(self.whole.compute);
        }
    }
}

/// The longest sequence that a configuration stands for, its rope scaling included: linear and dynamic scaling stretch
/// `max_position_embeddings`, yarn its original context.
pub fn longest_context(config: &ModelConfig) -> usize {
    let given = config.max_position_embeddings;
    let stretched = match &config.rope.scaling {
        RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor } => given as f64 * factor,
        RopeScaling::Yarn { factor, original, .. } => *original as f64 * factor,
        _ => 0.0,
    };
    given.max(stretched as usize).min(i32::MAX as usize)
}

/// The longest sequence: as asked, else [`DEFAULT_CONTEXT`] or what the model allows.
///
/// # Errors
/// More than the model allows, or none.
pub(crate) fn checked_context(config: &ModelConfig, asked: Option<usize>) -> Result<usize> {
    let limit = longest_context(config);
    match asked {
        Some(asked) if asked == 0 || asked > limit => Err(EngineError::ContextTooLong { asked, limit }),
        Some(asked) => Ok(asked),
        None => Ok(limit.min(DEFAULT_CONTEXT)),
    }
}
