//! Modules whose weights are packed in a checkpoint's own way, presented in the one form that operators take.
//!
//! A module `P` becomes the weight `P.weight` and its companions ([`Companion`]); the tensors that it was packed in are not seen any
//! more. Nothing is read on the way: a part is unpacked when its bytes are asked for.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use qiao_core::DType;
use qiao_quant::import::{Linear, Part, Tensors};
use qiao_quant::{minifloat, nibble};

use super::{MappedFile, TensorHandle, Weights, convert};
use crate::error::{EngineError, Result};
use crate::form::{Companion, GroupForm, WeightForm};
use crate::quantisation::Quantisation;

/// Endings of tensors that only a quantised module has.
const MARKS: [&str; 5] = [".qweight", ".weight_packed", ".weight_scale", ".weight_scale_inv", ".deq_scale"];

/// The parts of a module, and the companions that they become.
const PARTS: [(Part, Option<Companion>); 8] = [
    (Part::Codes, None),
    (Part::Scales, Some(Companion::Scales)),
    (Part::Zeros, Some(Companion::Zeros)),
    (Part::GroupIndex, Some(Companion::GroupIndex)),
    (Part::InputScale, Some(Companion::InputScale)),
    (Part::InputZero, Some(Companion::InputZero)),
    (Part::SumBias, Some(Companion::SumBias)),
    (Part::Bias, None),
];

/// A quantised module: its tensors as they are stored, and what they become.
#[derive(Debug)]
pub(crate) struct PackedModule {
    name: String,
    path: PathBuf,
    stored: BTreeMap<String, TensorHandle>,
    linear: Linear,
}

/// A part of a packed module.
#[derive(Clone, Debug)]
pub(crate) struct PackedPart {
    pub(crate) module: Arc<PackedModule>,
    pub(crate) part: Part,
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
}

impl PackedPart {
    /// Whether the part is what the weight itself is called.
    pub(crate) fn is_codes(&self) -> bool {
        self.part == Part::Codes
    }

    /// The stored tensor that the part is, where nothing has to be unpacked.
    pub(crate) fn as_stored(&self) -> Option<&TensorHandle> {
        let stored = self.module.stored.get("weight").filter(|_| self.is_codes())?;
        (stored.dtype == self.dtype && stored.shape == self.shape).then_some(stored)
    }
}

impl Tensors for PackedModule {
    fn header(&self, suffix: &str) -> Option<(DType, Vec<usize>)> {
        self.stored.get(suffix).map(|t| (t.dtype, t.shape.clone()))
    }

    fn bytes(&self, suffix: &str) -> Option<Cow<'_, [u8]>> {
        self.stored.get(suffix)?.bytes().ok()
    }
}

impl PackedModule {
    /// Where its first tensor lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where its tensors lie.
    pub(crate) fn stored(&self) -> impl Iterator<Item = (&Arc<MappedFile>, Range<usize>)> {
        self.stored.values().filter_map(TensorHandle::mapping)
    }

    /// Gives the resident pages of its tensors back.
    pub(crate) fn release(&self) {
        self.stored.values().for_each(TensorHandle::release);
    }

    pub(crate) fn form(&self) -> WeightForm {
        WeightForm::from(&self.linear)
    }

    fn refuse(&self, e: qiao_core::Error) -> EngineError {
        EngineError::BadTensor {
            path: self.path.clone(),
            tensor: self.name.clone(),
            found: e.to_string(),
            mend: "quantise the model again, or use its unquantised checkpoint",
        }
    }

    pub(crate) fn linear(&self) -> &Linear {
        &self.linear
    }

    pub(crate) fn unpack(&self, part: Part) -> Result<Vec<u8>> {
        self.linear.unpack(part, self).map_err(|e| self.refuse(e))
    }

    fn numbers(&self, part: Part) -> Result<Option<Vec<f32>>> {
        let Some((dtype, shape)) = self.linear.part(part) else { return Ok(None) };
        Ok(Some(numbers(dtype, &self.unpack(part)?, shape.iter().product())))
    }

    /// The weights `[n, k]`, row-major, each value rounded once to a float dtype.
    pub(crate) fn floats(&self, to: DType) -> Result<Vec<u8>> {
        let (n, k) = (self.linear.n, self.linear.k);
        let [codes, scales, zeros, groups] =
            [Part::Codes, Part::Scales, Part::Zeros, Part::GroupIndex].map(|part| self.numbers(part));
        let (codes, scales, zeros, groups) = (codes?.unwrap_or_default(), scales?.unwrap_or_default(), zeros?, groups?);
        let form = match self.form() {
            WeightForm::Grouped(form) => form,
            _ => GroupForm {
                codes: DType::I8,
                scales: DType::F32,
                zeros: None,
                group_size: 0,
                group_rows: 1,
                g_idx: false,
            },
        };
        let columns = form.table(n, k)[1];
        let size = if form.group_size == 0 { k.max(1) } else { form.group_size };
        let group = |at: usize| groups.as_ref().map_or(at / size, |groups| groups[at] as usize);
        let mut values = Vec::with_capacity(n * k * size_of::<f32>());
        for (row, codes) in codes.chunks_exact(k.max(1)).enumerate() {
            let table = row / form.group_rows.max(1) * columns;
            for (at, code) in codes.iter().enumerate() {
                let cell = table + group(at);
                let zero = zeros.as_ref().map_or(0.0, |z| z[cell]);
                values.extend_from_slice(&((code - zero) * scales[cell]).to_le_bytes());
            }
        }
        let mut out = Vec::new();
        convert::floats(DType::F32, &values, to, &mut out);
        Ok(out)
    }
}

/// Packed numbers as f32; every code of the dtypes of codes and scales is one exactly.
fn numbers(dtype: DType, bytes: &[u8], count: usize) -> Vec<f32> {
    let small = |format: minifloat::Format| bytes.iter().map(|&b| format.decode(b.into()) as f32).collect();
    match dtype {
        DType::I4 => (0..count).map(|i| f32::from(nibble::i4(bytes, i))).collect(),
        DType::U4 => (0..count).map(|i| f32::from(nibble::u4(bytes, i))).collect(),
        DType::I8 => bytes.iter().map(|&b| f32::from(b as i8)).collect(),
        DType::U8 => bytes.iter().map(|&b| f32::from(b)).collect(),
        DType::F8E4M3 => small(minifloat::F8E4M3),
        DType::F8E5M2 => small(minifloat::F8E5M2),
        DType::I32 => bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b) as f32).collect(),
        DType::F16 => bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        DType::BF16 => bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        _ => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
    }
}

impl Weights {
    /// Presents every quantised module in the form that operators take.
    ///
    /// # Errors
    /// A module whose tensors are not what the checkpoint says, or of which the index has one that no file holds; a type of
    /// quantisation that is not read.
    pub fn unpack_with(&mut self, quantisation: &Quantisation) -> Result<()> {
        let module = |name: &String| MARKS.iter().find_map(|mark| name.strip_suffix(mark)).map(str::to_string);
        let modules: BTreeSet<String> = self.tensors.keys().filter_map(module).collect();
        for name in modules {
            let Some(scheme) = quantisation.scheme(&name)? else { continue };
            let prefix = format!("{name}.");
            let of_module = self.tensors.range(prefix.clone()..).map(|(k, _)| k).take_while(|k| k.starts_with(&prefix));
            // One that no file holds may decide what the others mean: asking for it tells.
            let absent = self.absent.range(prefix.clone()..).map(|(k, _)| k).take_while(|k| k.starts_with(&prefix));
            let of_module = of_module.chain(absent);
            let suffixes: Vec<String> =
                of_module.map(|k| k[prefix.len()..].to_string()).filter(|s| !s.contains('.')).collect();
            let mut stored = BTreeMap::new();
            for suffix in suffixes {
                stored.insert(suffix.clone(), self.handle(&format!("{prefix}{suffix}"))?);
            }
            let path = stored.values().next().map_or(self.root.clone(), |t| t.path().to_path_buf());
            let headers = Headers(&stored);
            let linear = scheme.linear(&headers).map_err(|e| EngineError::BadTensor {
                path: path.clone(),
                tensor: name.clone(),
                found: e.to_string(),
                mend: "quantise the model again, or use its unquantised checkpoint",
            })?;
            self.present(PackedModule { name, path, stored, linear });
        }
        self.present_smoothed_norms()
    }

    /// Norms that smoothing has changed: `<norm>.module.weight` in the place of `<norm>.weight`.
    ///
    /// # Errors
    /// A bias beside it that is not zero, which an RMS norm has no place for.
    fn present_smoothed_norms(&mut self) -> Result<()> {
        let norms: Vec<String> =
            self.tensors.keys().filter_map(|name| name.strip_suffix(".module.weight")).map(str::to_string).collect();
        for norm in norms {
            let bias = format!("{norm}.module.bias");
            if self.tensors.contains_key(&bias) && self.bytes(&bias)?.iter().any(|&b| b != 0) {
                let info = &self.tensors[&bias];
                return Err(EngineError::BadTensor {
                    path: self.files[info.file].path().to_path_buf(),
                    tensor: bias,
                    found: "a bias of an RMS norm that is not zero".to_string(),
                    mend: "quantise without anti-outlier biases (a newer msmodelslim folds them)",
                });
            }
            if let Some(info) = self.tensors.remove(&format!("{norm}.module.weight")) {
                self.tensors.insert(format!("{norm}.weight"), info);
            }
        }
        Ok(())
    }

    /// Puts a module's parts in the place of what they were packed in.
    fn present(&mut self, module: PackedModule) {
        for suffix in module.stored.keys() {
            self.tensors.remove(&format!("{}.{suffix}", module.name));
        }
        let module = Arc::new(module);
        let weight = format!("{}.weight", module.name);
        for (part, companion) in PARTS {
            let Some((dtype, shape)) = module.linear.part(part) else { continue };
            let name = match (part, companion) {
                (Part::Bias, _) => format!("{}.bias", module.name),
                (_, Some(companion)) => companion.of(&weight),
                _ => weight.clone(),
            };
            self.packed.insert(name, PackedPart { module: module.clone(), part, dtype, shape });
        }
    }
}

/// The headers of stored tensors alone.
struct Headers<'a>(&'a BTreeMap<String, TensorHandle>);

impl Tensors for Headers<'_> {
    fn header(&self, suffix: &str) -> Option<(DType, Vec<usize>)> {
        self.0.get(suffix).map(|t| (t.dtype, t.shape.clone()))
    }

    fn bytes(&self, suffix: &str) -> Option<Cow<'_, [u8]>> {
        self.0.get(suffix)?.bytes().ok()
    }
}
