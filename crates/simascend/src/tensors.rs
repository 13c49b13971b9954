//! What a tensor object says, and the way to its elements.

use std::sync::Arc;

use qiao_core::{DType, Dims, TensorDesc};
use qiao_reference::{Value, value::Output};

use crate::codes::{ND, NZ};
use crate::memory::Memory;

/// A tensor as `aclCreateTensor` was told it.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) dtype: DType,
    pub(crate) format: i32,
    pub(crate) view: Dims,
    pub(crate) strides: Dims,
    /// Elements from the start of the storage to the first of the view.
    pub(crate) offset: usize,
    pub(crate) storage: Vec<i64>,
    pub(crate) data: usize,
}

/// A tensor that operators share.
pub(crate) type Shared = Arc<Tensor>;

impl Tensor {
    /// As a description of the contract.
    pub(crate) fn desc(&self) -> TensorDesc {
        TensorDesc { dtype: self.dtype, shape: self.view, strides: self.strides, layout: 0, constant: false }
    }

    pub(crate) fn elements(&self) -> usize {
        self.view.elements().unwrap_or(usize::MAX)
    }

    /// Bytes of the storage.
    pub(crate) fn storage_bytes(&self) -> usize {
        self.storage.iter().map(|d| *d as usize).product::<usize>() * self.dtype.block_bytes()
    }

    /// Whether the view's elements lie side by side.
    pub(crate) fn is_contiguous(&self) -> bool {
        self.desc().is_contiguous()
    }

    fn first(&self) -> usize {
        self.data + self.offset * self.dtype.block_bytes()
    }

    /// The view's bytes, from its first element to its last.
    pub(crate) fn bytes<'m>(&self, memory: &'m Memory) -> Result<&'m [u8], String> {
        let need = self.desc().bytes().map_err(|e| e.to_string())?;
        memory.read(self.first(), need)
    }

    /// The view's elements, row by row.
    pub(crate) fn load(&self, memory: &Memory) -> Result<Value, String> {
        if self.format == NZ {
            return self.unpacked(memory);
        }
        Value::load(&self.desc(), self.bytes(memory)?).map_err(|e| e.to_string())
    }

    /// Writes every element of the view, each rounded once.
    pub(crate) fn store(&self, memory: &mut Memory, output: &Output) -> Result<(), String> {
        let desc = self.desc();
        let need = desc.bytes().map_err(|e| e.to_string())?;
        output.store(&desc, memory.write(self.first(), need)?).map_err(|e| e.to_string())
    }

    /// A view over NZ storage as a plain matrix: the storage `[C1, R1, 16, C0]` is that of a matrix `[R, C]` whose transpose the
    /// view may be.
    fn unpacked(&self, memory: &Memory) -> Result<Value, String> {
        let [rows, columns] = self.view[..] else { return Err("an NZ tensor has two dims".into()) };
        let turned = self.strides[0] == 1 && self.strides[1] != 1;
        let stored_rows = if turned { columns } else { rows };
        let (height, width) = (16, self.storage[3] as usize);
        let all = TensorDesc::new(self.dtype, &self.storage.iter().map(|d| *d as usize).collect::<Vec<_>>());
        let all = all.map_err(|e| e.to_string())?;
        let blocks = Value::load(&all, memory.read(self.data, self.storage_bytes())?).map_err(|e| e.to_string())?.data;
        let step = stored_rows.div_ceil(height) * height * width;
        let element = |r: usize, c: usize| blocks[c / width * step + r * width + c % width];
        let at = |i: usize| {
            let (r, c) = (i / columns, i % columns);
            if turned { element(c, r) } else { element(r, c) }
        };
        Ok(Value::new(&[rows, columns], (0..rows * columns).map(at).collect()))
    }

    /// What is wrong with the storage: NZ needs the shape of its blocks, and the view must lie in it.
    ///
    /// # Errors
    /// In words.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.format == NZ {
            let [rows, columns] = self.view[..] else { return Err("an NZ tensor has two dims".into()) };
            if rows == 1 || columns == 1 {
                return Err("an NZ tensor has more than one row and column".into());
            }
            let turned = self.strides[0] == 1 && self.strides[1] != 1;
            let (r, c) = if turned { (columns, rows) } else { (rows, columns) };
            let width = 32 / self.dtype.block_bytes();
            let want = [c.div_ceil(width) as i64, r.div_ceil(16) as i64, 16, width as i64];
            return match self.storage == want && self.dtype != DType::F32 {
                true => Ok(()),
                false => {
                    Err(format!("NZ storage of {} {rows}×{columns} is {want:?}, not {:?}", self.dtype, self.storage))
                }
            };
        }
        if self.format != ND {
            return Err(format!("format {} is none that operators here take", self.format));
        }
        let reach: usize = self.view.iter().zip(self.strides.iter()).map(|(d, s)| d.saturating_sub(1) * s).sum();
        let holds = self.storage_bytes() / self.dtype.block_bytes();
        if self.elements() > 0 && self.offset + reach >= holds {
            return Err(format!("the view reaches element {} of a storage of {holds}", self.offset + reach));
        }
        Ok(())
    }
}
