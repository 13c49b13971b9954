//! Which shapes are measured: uses of operators in real models, by set.

use qiao_core::{DType, DeviceInfo, Error, KvInfo, KvLayout, OpKind, Result};
use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::attention::Heads;
use super::models::{MODELS, ModelShape};
use super::products::{GROUP, Mnk};
use super::shapes::Shape;
use crate::glob::Glob;

/// How much is measured, and how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Set {
    /// One small model; less than half a minute on a laptop.
    Quick,
    /// Two small models and the layers of a large one; some minutes.
    #[default]
    Standard,
    /// Every model, dtype, batch and context.
    Full,
}

impl Set {
    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Set::Quick => "quick",
            Set::Standard => "standard",
            Set::Full => "full",
        }
    }

    /// How long one figure is measured.
    pub(crate) const fn budget(self) -> Duration {
        Duration::from_millis(match self {
            Set::Quick => 60,
            Set::Standard => 200,
            Set::Full => 1000,
        })
    }

    /// How long one execution may take; what takes longer is skipped.
    pub const fn most(self) -> Duration {
        Duration::from_millis(match self {
            Set::Quick => 500,
            Set::Standard => 3000,
            Set::Full => 30_000,
        })
    }

    /// How long the probes take.
    pub const fn probing(self) -> Duration {
        Duration::from_millis(match self {
            Set::Quick => 3000,
            Set::Standard => 10_000,
            Set::Full => 30_000,
        })
    }

    /// How long the run may take; what comes later is skipped.
    pub const fn total(self) -> Duration {
        Duration::from_secs(match self {
            Set::Quick => 40,
            Set::Standard => 600,
            Set::Full => 24 * 3600,
        })
    }
}

/// What is measured.
#[derive(Clone, Debug)]
pub struct OpsSelection {
    /// How much.
    pub set: Set,
    /// Only shapes of these models, named as in [`MODELS`]; the set's own where there is none.
    pub models: Vec<String>,
    /// Only operators whose weights, or whose activations where they have no weights of their own dtype, are in one of these;
    /// an activation dtype is also the one that activations have. Where there is none, the set's own.
    pub dtypes: Vec<DType>,
    /// Only paths that match one of these; all where there is none.
    pub filter: Vec<Glob>,
    /// Data follow from this.
    pub seed: u64,
    /// The name by which the device was opened, for the record.
    pub opened_as: String,
    /// How long the probes of the limits take, about.
    pub probing: Duration,
    /// How long one execution may take; what takes longer, or would by the measured limits, is skipped, with a record that says so.
    pub most: Duration,
    /// How long the run may take; what comes later is skipped, with a record that says so.
    pub total: Duration,
}

impl OpsSelection {
    /// A set with nothing else asked for.
    pub fn new(set: Set) -> OpsSelection {
        OpsSelection {
            set,
            models: Vec::new(),
            dtypes: Vec::new(),
            filter: Vec::new(),
            seed: 1,
            opened_as: String::new(),
            probing: set.probing(),
            most: set.most(),
            total: set.total(),
        }
    }
}

/// One shape to be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) id: String,
    /// Which uses in which models have the shape.
    pub(crate) origin: String,
    pub(crate) shape: Shape,
}

/// A use of an operator in a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Q,
    Kv,
    O,
    GateUp,
    Down,
    Head,
    Quantize,
    Embed,
    Norm,
    AddNorm,
    QkNorm,
    Rope,
    SiluMul,
    KvWrite,
    Decode,
    Prefill,
    Argmax,
    Sample,
}

const PRODUCTS: &[Use] = &[Use::Q, Use::Kv, Use::O, Use::GateUp, Use::Down, Use::Head];
const LAYER: &[Use] = &[Use::Q, Use::Kv, Use::O, Use::GateUp, Use::Down];
const REST: &[Use] = &[
    Use::Quantize,
    Use::Embed,
    Use::Norm,
    Use::AddNorm,
    Use::QkNorm,
    Use::Rope,
    Use::SiluMul,
    Use::KvWrite,
    Use::Argmax,
    Use::Sample,
];

/// In which format the weights of products are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// The dtype of activations.
    Plain,
    Block(DType),
    /// i4 with an f16 scale for each [`GROUP`] inputs.
    Int4,
    /// i8, as are the activations.
    W8A8,
}

const PLAIN: &[Format] = &[Format::Plain];
const EIGHT_AND_FOUR: &[Format] = &[Format::Block(DType::Q8_0), Format::Block(DType::Q4_0), Format::W8A8];
const BLOCKS: &[Format] = &[
    Format::Block(DType::Q8_0),
    Format::Block(DType::Q4_0),
    Format::Block(DType::Q4K),
    Format::Block(DType::Q6K),
    Format::Int4,
    Format::W8A8,
];
const EVERY: &[Format] = &[
    Format::Plain,
    Format::Block(DType::Q8_0),
    Format::Block(DType::Q4_0),
    Format::Block(DType::Q4K),
    Format::Block(DType::Q6K),
    Format::Int4,
    Format::W8A8,
];

/// The product of its lists. `tokens` are those of a step: the batch of decoding, or a prompt. `contexts` is what attention
/// meets: the length of each sequence, or the tokens before a prompt.
struct Row {
    set: Set,
    models: &'static [&'static str],
    uses: &'static [Use],
    formats: &'static [Format],
    tokens: &'static [usize],
    contexts: &'static [usize],
}

const fn row(
    set: Set,
    models: &'static [&'static str],
    uses: &'static [Use],
    formats: &'static [Format],
    tokens: &'static [usize],
    contexts: &'static [usize],
) -> Row {
    Row { set, models, uses, formats, tokens, contexts }
}

const TINY: &[&str] = &["Qwen2.5-0.5B"];
const SMALL: &[&str] = &["Qwen2.5-0.5B", "Llama-3.2-1B"];
const LARGE: &[&str] = &["Llama-3-8B"];
const ALL: &[&str] = &["Qwen2.5-0.5B", "Llama-3.2-1B", "Qwen2.5-1.5B", "Qwen3-4B", "Qwen2.5-7B", "Llama-3-8B"];

const WALK: &[Row] = &[
    row(Set::Quick, TINY, PRODUCTS, PLAIN, &[1, 16], &[]),
    row(Set::Quick, TINY, &[Use::GateUp], PLAIN, &[128], &[]),
    row(Set::Quick, TINY, &[Use::GateUp, Use::Head], EIGHT_AND_FOUR, &[1], &[]),
    row(Set::Quick, TINY, &[Use::Down], BLOCKS, &[1, 16], &[]),
    row(Set::Quick, TINY, REST, PLAIN, &[1], &[]),
    row(Set::Quick, TINY, &[Use::Decode], PLAIN, &[1], &[1024, 8192]),
    row(Set::Quick, TINY, &[Use::Prefill], PLAIN, &[128], &[0]),
    row(Set::Standard, SMALL, PRODUCTS, PLAIN, &[1, 8, 64], &[]),
    row(Set::Standard, SMALL, LAYER, PLAIN, &[512], &[]),
    row(Set::Standard, SMALL, PRODUCTS, BLOCKS, &[1, 16], &[]),
    row(Set::Standard, SMALL, LAYER, BLOCKS, &[64], &[]),
    row(Set::Standard, SMALL, REST, PLAIN, &[1, 64], &[]),
    row(Set::Standard, SMALL, &[Use::Decode], PLAIN, &[1], &[512, 4096, 32_768]),
    row(Set::Standard, SMALL, &[Use::Decode], PLAIN, &[16], &[512, 4096]),
    row(Set::Standard, SMALL, &[Use::Prefill], PLAIN, &[512], &[0, 3584]),
    row(Set::Standard, LARGE, LAYER, EVERY, &[1], &[]),
    row(Set::Standard, LARGE, &[Use::Decode], PLAIN, &[1], &[4096]),
    row(Set::Full, ALL, PRODUCTS, EVERY, &[1, 2, 4, 8, 16, 32, 64, 512], &[]),
    row(Set::Full, ALL, REST, PLAIN, &[1, 4, 16, 64, 512], &[]),
    row(Set::Full, ALL, &[Use::Decode], PLAIN, &[1, 4, 16, 64], &[512, 2048, 8192, 32_768]),
    row(Set::Full, ALL, &[Use::Prefill], PLAIN, &[128, 512, 2048], &[0, 4096, 30_720]),
];

/// Tokens a block where a device takes any number.
const ANY_BLOCK: usize = 16;

/// What is measured on a device, in the order of the op list.
///
/// # Errors
/// A model that is not in the list; a selection of nothing.
pub(crate) fn items(selection: &OpsSelection, info: &DeviceInfo) -> Result<Vec<Item>> {
    let kv = info.kv.first().copied().unwrap_or(KvInfo { layout: KvLayout::default(), block_size: 0 });
    let chosen = selection.models.iter().map(|name| find(name)).collect::<Result<Vec<_>>>()?;
    let mut items: Vec<Item> = Vec::new();
    for row in WALK.iter().filter(|r| r.set <= selection.set) {
        let named = |m: &&ModelShape| row.models.contains(&m.name);
        let models: Vec<&ModelShape> =
            if chosen.is_empty() { MODELS.iter().filter(named).collect() } else { chosen.clone() };
        for model in models {
            for shape in row.shapes(model, &activations(selection, info), kv) {
                let (id, origin) = (shape.1.id(), format!("{} {}", model.name, shape.0));
                match items.iter_mut().find(|i| i.id == id) {
                    Some(item) if item.origin.split("; ").any(|o| o == origin) => {}
                    Some(item) => item.origin = format!("{}; {origin}", item.origin),
                    None => items.push(Item { id, origin, shape: shape.1 }),
                }
            }
        }
    }
    let asked = |shape: &Shape| selection.dtypes.contains(&shape.format().unwrap_or(shape.dtype()));
    items.retain(|i| selection.dtypes.is_empty() || asked(&i.shape));
    items.retain(|i| selection.filter.is_empty() || selection.filter.iter().any(|g| g.matches(&i.id)));
    if items.is_empty() {
        let filter: Vec<_> = selection.filter.iter().map(Glob::text).collect();
        let dtypes: Vec<_> = selection.dtypes.iter().map(|d| d.name()).collect();
        let found = format!("filter '{}' and dtype '{}' leave nothing", filter.join("', '"), dtypes.join("', '"));
        let mend = "see 'qiao bench ops --list' for the paths; --full has the most";
        return Err(Error::invalid(format!("selection of set {}", selection.set.name()), found, mend));
    }
    let place = |kind: OpKind| OpKind::ALL.iter().position(|k| *k == kind);
    items.sort_by_key(|i| (place(i.shape.kind()), i.shape.dtype(), i.shape.format()));
    Ok(items)
}

/// The paths that a selection names on a device, each with where its shape comes from.
///
/// # Errors
/// A model that is not in the list; a selection of nothing.
pub fn paths(selection: &OpsSelection, info: &DeviceInfo) -> Result<Vec<(String, String)>> {
    Ok(items(selection, info)?.into_iter().map(|i| (i.id, i.origin)).collect())
}

fn find(name: &str) -> Result<&'static ModelShape> {
    MODELS.iter().find(|m| m.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
        let known: Vec<_> = MODELS.iter().map(|m| m.name).collect();
        Error::invalid("model", format!("'{name}' is not in the list"), format!("use one of {}", known.join(", ")))
    })
}

/// The dtypes of activations: those that were asked for, else the first that the device computes in; of the full set all.
fn activations(selection: &OpsSelection, info: &DeviceInfo) -> Vec<DType> {
    let asked: Vec<DType> = selection.dtypes.iter().copied().filter(|d| d.is_activation()).collect();
    if !asked.is_empty() {
        return asked;
    }
    let computed = |d: &DType| info.dtypes.iter().any(|i| i.dtype == *d && i.compute);
    let mut found: Vec<DType> = [DType::BF16, DType::F16, DType::F32].into_iter().filter(computed).collect();
    if found.is_empty() {
        found.push(DType::F32);
    }
    if selection.set != Set::Full {
        found.truncate(1);
    }
    found
}

impl Row {
    /// The shapes of one model, each with its use in words.
    fn shapes(&self, model: &ModelShape, activations: &[DType], kv: KvInfo) -> Vec<(String, Shape)> {
        let mut shapes = Vec::new();
        for &act in activations {
            for &tokens in self.tokens {
                for &what in self.uses {
                    if PRODUCTS.contains(&what) {
                        let of = |f: &Format| product(model, what, *f, act, tokens);
                        shapes.extend(self.formats.iter().filter_map(of));
                    } else if matches!(what, Use::Decode | Use::Prefill) {
                        shapes.extend(self.contexts.iter().map(|&c| attention(model, what, act, tokens, c, kv)));
                    } else {
                        shapes.extend(other(model, what, act, tokens, kv));
                    }
                }
            }
        }
        shapes
    }
}

fn counted(tokens: usize) -> String {
    if tokens == 1 { "1 token".into() } else { format!("{tokens} tokens") }
}

/// A product of a model; `None` where its K is no whole number of blocks, so that no checkpoint has it.
fn product(model: &ModelShape, what: Use, format: Format, act: DType, m: usize) -> Option<(String, Shape)> {
    let (q, kv) = (model.heads * model.head_dim, model.kv_heads * model.head_dim);
    let (name, n, k) = match what {
        Use::Q => ("q", q, model.hidden),
        Use::Kv => ("k, v", kv, model.hidden),
        Use::O => ("o", model.hidden, q),
        Use::GateUp => ("gate, up", model.inter, model.hidden),
        Use::Down => ("down", model.hidden, model.inter),
        Use::Head => ("LM head", model.vocab, model.hidden),
        other => unreachable!("{other:?} is no product"),
    };
    let mnk = Mnk { m, n, k };
    let out = (what == Use::Head && act != DType::F32).then_some(DType::F32);
    let shape = match format {
        Format::Plain => {
            let bias = model.qkv_bias && matches!(what, Use::Q | Use::Kv);
            Shape::Matmul { dtype: act, mnk, bias, out }
        }
        Format::Block(format) if k.is_multiple_of(format.block_elems()) => Shape::MatmulQuant { format, act, mnk, out },
        Format::Int4 if k.is_multiple_of(GROUP) => Shape::MatmulQuant { format: DType::I4, act, mnk, out },
        Format::Block(_) | Format::Int4 => return None,
        Format::W8A8 => Shape::ScaledMatmul { mnk, out: out.unwrap_or(act) },
    };
    Some((format!("{name}, {}", counted(m)), shape))
}

fn attention(
    model: &ModelShape,
    what: Use,
    dtype: DType,
    tokens: usize,
    context: usize,
    kv: KvInfo,
) -> (String, Shape) {
    let block = if kv.block_size == 0 { ANY_BLOCK } else { kv.block_size };
    let heads = Heads { heads: model.heads, kv_heads: model.kv_heads, d: model.head_dim, layout: kv.layout, block };
    match what {
        Use::Decode => {
            (format!("decode, {tokens} × {context} tokens"), Shape::Decode { dtype, heads, batch: tokens, context })
        }
        _ => {
            (format!("prompt, {tokens} tokens after {context}"), Shape::Prefill { dtype, heads, tokens, past: context })
        }
    }
}

/// Any other use; `None` where the model has it not.
fn other(model: &ModelShape, what: Use, act: DType, tokens: usize, kv: KvInfo) -> Vec<(String, Shape)> {
    let rows = |kind, dtype, rows, cols| Shape::Rows { kind, dtype, rows, cols };
    let (heads, d) = (model.heads, model.head_dim);
    let shapes = match what {
        Use::Norm => vec![("norm", rows(OpKind::RmsNorm, act, tokens, model.hidden))],
        Use::AddNorm => vec![("add and norm", rows(OpKind::AddRmsNorm, act, tokens, model.hidden))],
        Use::QkNorm if model.qk_norm => vec![
            ("q norm", rows(OpKind::RmsNorm, act, tokens * heads, d)),
            ("k norm", rows(OpKind::RmsNorm, act, tokens * model.kv_heads, d)),
        ],
        Use::Quantize => vec![
            ("quantised input", rows(OpKind::QuantizeDynamic, act, tokens, model.hidden)),
            ("quantised input of down", rows(OpKind::QuantizeDynamic, act, tokens, model.inter)),
        ],
        Use::SiluMul => vec![("silu", rows(OpKind::SiluMul, act, tokens, model.inter))],
        Use::Argmax => vec![("argmax", rows(OpKind::Argmax, DType::F32, tokens, model.vocab))],
        Use::Sample => vec![("sample", rows(OpKind::Sample, DType::F32, tokens, model.vocab))],
        Use::Embed => {
            vec![("embedding", Shape::Gather { dtype: act, ids: tokens, rows: model.vocab, cols: model.hidden })]
        }
        Use::Rope => vec![
            ("rope of q", Shape::Rope { dtype: act, tokens, heads, d }),
            ("rope of k", Shape::Rope { dtype: act, tokens, heads: model.kv_heads, d }),
        ],
        Use::KvWrite => {
            let block = if kv.block_size == 0 { ANY_BLOCK } else { kv.block_size };
            let heads = model.kv_heads;
            vec![("cache write", Shape::KvWrite { dtype: act, tokens, heads, d, layout: kv.layout, block })]
        }
        _ => Vec::new(),
    };
    shapes.into_iter().map(|(name, shape)| (format!("{name}, {}", counted(tokens)), shape)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use qiao_core::DtypeInfo;

    use super::*;

    fn info() -> DeviceInfo {
        let compute = |dtype| DtypeInfo { dtype, compute: true, peak_ops_per_s: 0.0 };
        DeviceInfo { dtypes: [DType::F32, DType::F16, DType::BF16].map(compute).into(), ..Default::default() }
    }

    #[test]
    fn sets_grow_and_paths_are_unique() {
        let ids = |set| {
            let ids: Vec<String> = items(&OpsSelection::new(set), &info()).unwrap().into_iter().map(|i| i.id).collect();
            let unique: HashSet<String> = ids.iter().cloned().collect();
            assert_eq!(unique.len(), ids.len());
            unique
        };
        let (quick, standard, full) = (ids(Set::Quick), ids(Set::Standard), ids(Set::Full));
        assert!(quick.len() < 70, "{}", quick.len());
        assert!(quick.is_subset(&standard) && standard.len() > 2 * quick.len());
        assert!(standard.is_subset(&full) && full.len() > 2 * standard.len());
    }

    #[test]
    fn every_set_has_the_operators_of_a_layer() {
        for set in [Set::Quick, Set::Standard, Set::Full] {
            let kinds: HashSet<OpKind> =
                items(&OpsSelection::new(set), &info()).unwrap().iter().map(|i| i.shape.kind()).collect();
            for kind in [
                OpKind::GatherRows,
                OpKind::SiluMul,
                OpKind::Matmul,
                OpKind::RmsNorm,
                OpKind::AddRmsNorm,
                OpKind::Rope,
                OpKind::Argmax,
                OpKind::KvWrite,
                OpKind::AttentionPrefill,
                OpKind::AttentionDecode,
                OpKind::Sample,
                OpKind::MatmulQuant,
                OpKind::QuantizeDynamic,
                OpKind::ScaledMatmul,
            ] {
                assert!(kinds.contains(&kind), "{set:?} {kind}");
            }
        }
    }

    #[test]
    fn the_full_set_spans_batches_contexts_models_and_formats() {
        let items = items(&OpsSelection::new(Set::Full), &info()).unwrap();
        let has = |text: &str| items.iter().any(|i| i.id.contains(text) || i.origin.contains(text));
        for text in
            ["m=1,", "m=64,", "keys=32768", "batch=64", "format=q6_k", "format=q4_k", "op/scaled_matmul", "out=f32"]
        {
            assert!(has(text), "{text}");
        }
        assert!(MODELS.iter().all(|m| has(m.name)));
        // Shapes that several uses share name them all.
        let shared = items.iter().find(|i| i.id == "op/rms_norm/bf16/rows=1,cols=4096").unwrap();
        assert_eq!(shared.origin, "Llama-3-8B norm, 1 token");
        assert!(items.iter().any(|i| i.origin.contains("; ")));
    }

    #[test]
    fn a_selection_is_narrowed_by_model_dtype_and_path() {
        let mut selection = OpsSelection::new(Set::Quick);
        selection.models = vec!["qwen3-4b".into()];
        selection.dtypes = vec![DType::F16];
        let found = items(&selection, &info()).unwrap();
        assert!(found.iter().all(|i| i.id.contains("/f16/") && i.origin.starts_with("Qwen3-4B")), "{found:?}");
        assert!(found.iter().any(|i| i.id == "op/matmul/f16/m=1,n=9728,k=2560"), "{found:?}");
        assert!(found.iter().any(|i| i.origin.contains("q norm")), "{found:?}");
        selection.filter = vec![Glob::new("op/rms_norm/*cols=2560")];
        assert_eq!(items(&selection, &info()).unwrap().len(), 1);
        selection.filter = vec![Glob::new("op/conv2d/*")];
        assert!(items(&selection, &info()).unwrap_err().to_string().contains("op/conv2d"));
        selection.models = vec!["Llama-9".into()];
        assert!(items(&selection, &info()).unwrap_err().to_string().contains("Qwen2.5-0.5B"));
    }

    #[test]
    fn formats_whose_blocks_do_not_fill_a_row_are_not_in_the_list() {
        let items = items(&OpsSelection::new(Set::Full), &info()).unwrap();
        let ks = |wanted: DType| -> HashSet<usize> {
            let k = |i: &Item| match i.shape {
                Shape::MatmulQuant { format, mnk, .. } if format == wanted => Some(mnk.k),
                _ => None,
            };
            items.iter().filter_map(k).collect()
        };
        assert!(ks(DType::Q4_0).contains(&896) && ks(DType::Q4K).contains(&4864));
        assert!(ks(DType::Q4K).iter().all(|k| k % 256 == 0));
        assert!(items.iter().any(|i| i.id == "op/matmul_quant/bf16/m=1,n=896,blocks=19,format=q4_k"));
    }

    #[test]
    fn weights_are_selected_by_their_format() {
        let of = |dtype| {
            let selection = OpsSelection { dtypes: vec![dtype], ..OpsSelection::new(Set::Quick) };
            items(&selection, &info()).unwrap()
        };
        assert!(of(DType::Q4_0).iter().all(|i| i.id.contains("format=q4_0") && i.id.contains("/bf16/")));
        assert!(of(DType::I8).iter().all(|i| i.id.starts_with("op/scaled_matmul/")));
        assert!(of(DType::F32).iter().all(|i| i.id.contains("/f32/") && !i.id.contains("quant/")));
    }
}
