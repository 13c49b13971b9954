//! A checkpoint to be quantised, tensor by tensor.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use qiao_core::{DType, RopeStyle};
use qiao_engine::checkpoint::Checkpoint;
use qiao_engine::form::WeightForm;
use qiao_engine::model::Family;
use serde_json::{Map, Value};

use super::fault;
use crate::Result;

/// What a tensor is to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The embedding.
    Embed,
    /// The output head, where it is a tensor of its own.
    Head,
    /// The weight of a projection in a layer.
    Projection { layer: usize, part: Part },
    /// All else: norms, biases.
    Small,
}

/// The projections of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Query,
    Key,
    Value,
    Out,
    Gate,
    Up,
    Down,
}

impl Part {
    /// Which of a layer's activations it reads, in the order of the computation.
    pub(super) fn input(self) -> usize {
        match self {
            Part::Query | Part::Key | Part::Value => 0,
            Part::Out => 1,
            Part::Gate | Part::Up => 2,
            Part::Down => 3,
        }
    }
}

/// A tensor of the source.
#[derive(Clone, Debug)]
pub(super) struct SourceTensor {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) role: Role,
}

/// What decides how many bits a tensor is worth.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// Layers.
    pub(super) layers: usize,
    /// Query heads that share one of keys and values.
    pub(super) shares: usize,
    /// Whether the output head is the embedding.
    pub(super) tied: bool,
}

/// A float checkpoint.
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) checkpoint: Checkpoint,
    /// Tensors in the order in which they are written: the embedding, the layers in order, the rest. In a layer, projections that
    /// read the same activations stand side by side.
    pub(super) tensors: Vec<SourceTensor>,
    /// Whether the output head is the embedding.
    pub(super) tied: bool,
    /// Whether q and k are stored so that neighbours rotate together.
    pub(super) interleaved: bool,
}

impl Source {
    /// Opens a checkpoint and looks at all of its tensors.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]; a checkpoint that is quantised already, or holds other than floats.
    pub(super) fn open(path: &Path) -> Result<Source> {
        let checkpoint = Checkpoint::open(path)?;
        let spec = (Family::of(&checkpoint.config, path)?.spec)(&checkpoint.config)?;
        let mut tensors = Vec::new();
        let names: Vec<String> = checkpoint.weights.names().map(str::to_string).collect();
        for name in names {
            if name.ends_with("rotary_emb.inv_freq") {
                continue;
            }
            let form = checkpoint.weights.form(&name);
            if !matches!(form, Some(WeightForm::Plain(dtype)) if !dtype.is_block()) {
                let found = format!("{}: tensor {name:?} is quantised, or holds no floats", path.display());
                return Err(fault(found, "give a checkpoint of floats: f32, f16 or bf16"));
            }
            let tensor = checkpoint.weights.tensor(&name)?;
            let role = role(&name, tensor.shape);
            tensors.push(SourceTensor { dtype: tensor.dtype, shape: tensor.shape.to_vec(), role, name });
        }
        // A head that an index names and no file holds is missing, and not the embedding.
        if let Some(lost) = checkpoint.weights.absent().find(|name| !name.ends_with("rotary_emb.inv_freq")) {
            checkpoint.weights.tensor(lost)?;
        }
        let tied = spec.tied || !tensors.iter().any(|t| t.role == Role::Head);
        tensors.retain(|t| !(tied && t.role == Role::Head));
        tensors.sort_by_key(order);
        let interleaved = spec.rope_style == RopeStyle::Interleaved;
        Ok(Source { path: path.to_path_buf(), checkpoint, tensors, tied, interleaved })
    }

    /// What a mixture asks of the model.
    pub(super) fn size(&self) -> Size {
        let config = &self.checkpoint.config;
        Size { layers: config.num_layers, shares: config.num_heads / config.num_kv_heads.max(1), tied: self.tied }
    }

    /// A tensor's elements as they are stored.
    pub(super) fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        Ok(self.checkpoint.weights.tensor(name)?.bytes.into())
    }

    /// Bytes that a tensor takes in the source.
    pub(super) fn stored_bytes(&self, tensor: &SourceTensor) -> u64 {
        let elements: u64 = tensor.shape.iter().map(|&dim| dim as u64).product();
        elements * tensor.dtype.block_bytes() as u64
    }

    /// `config.json` as it stands; `None` where the checkpoint is a single file.
    pub(super) fn config_json(&self) -> Result<Option<Map<String, Value>>> {
        self.json("config.json")
    }

    /// A JSON object of the checkpoint's folder.
    pub(super) fn json(&self, name: &str) -> Result<Option<Map<String, Value>>> {
        let path = self.path.join(name);
        if !path.is_file() {
            return Ok(None);
        }
        let text =
            std::fs::read(&path).map_err(|e| fault(format!("cannot read {}: {e}", path.display()), "check it"))?;
        match serde_json::from_slice(&text) {
            Ok(Value::Object(map)) => Ok(Some(map)),
            _ => Err(fault(format!("{} is no JSON object", path.display()), "download it again")),
        }
    }
}

/// The layer that a tensor belongs to.
pub(super) fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

fn role(name: &str, shape: &[usize]) -> Role {
    if shape.len() != 2 {
        return Role::Small;
    }
    match name {
        "model.embed_tokens.weight" => return Role::Embed,
        "lm_head.weight" => return Role::Head,
        _ => {}
    }
    let Some(layer) = layer_of(name) else { return Role::Small };
    let module = name.strip_suffix(".weight").and_then(|name| name.rsplit('.').next());
    let part = match module {
        Some("q_proj") => Part::Query,
        Some("k_proj") => Part::Key,
        Some("v_proj") => Part::Value,
        Some("o_proj") => Part::Out,
        Some("gate_proj") => Part::Gate,
        Some("up_proj") => Part::Up,
        Some("down_proj") => Part::Down,
        _ => return Role::Small,
    };
    Role::Projection { layer, part }
}

fn order(tensor: &SourceTensor) -> (usize, usize, String) {
    let group = match (tensor.role, layer_of(&tensor.name)) {
        (Role::Embed, _) => 0,
        (_, Some(layer)) => 1 + layer,
        _ => usize::MAX,
    };
    let input = match tensor.role {
        Role::Projection { part, .. } => 1 + part.input(),
        _ => 0,
    };
    (group, input, tensor.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projections_that_read_the_same_stand_side_by_side() {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo");
        let source = Source::open(&demo).unwrap();
        let inputs: Vec<(usize, usize)> = source
            .tensors
            .iter()
            .filter_map(|tensor| match tensor.role {
                Role::Projection { layer, part } => Some((layer, part.input())),
                _ => None,
            })
            .collect();
        assert!(inputs.is_sorted() && inputs.len() == 7 * source.size().layers, "{inputs:?}");
    }

    #[test]
    fn roles_follow_from_names_and_dims() {
        let q = Role::Projection { layer: 11, part: Part::Query };
        for (name, dims, expected) in [
            ("model.embed_tokens.weight", 2, Role::Embed),
            ("lm_head.weight", 2, Role::Head),
            ("model.layers.11.self_attn.q_proj.weight", 2, q),
            ("model.layers.11.self_attn.q_proj.bias", 1, Role::Small),
            ("model.layers.0.mlp.down_proj.weight", 2, Role::Projection { layer: 0, part: Part::Down }),
            ("model.layers.0.input_layernorm.weight", 1, Role::Small),
            ("model.norm.weight", 1, Role::Small),
        ] {
            assert_eq!(role(name, &vec![4; dims]), expected, "{name}");
        }
    }
}
