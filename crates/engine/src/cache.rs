//! A sequence's keys and values on a device, behind the interface that every kind of cache keeps.

use qiao_core::{Binding, DType, Device, TensorDesc};

use crate::error::{EngineError, Result};
use crate::model::CacheShape;
use crate::sides::alloc_padded;

/// The keys and values of one sequence: where they are, which slots new tokens go to, and which pages attention reads.
pub trait KvCache: Send {
    /// What a graph must know about the pages.
    fn shape(&self) -> CacheShape;

    /// Tokens held.
    fn len(&self) -> usize;

    /// Whether no token is held.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes room for more tokens; from then on their slots are known and they count as held.
    ///
    /// # Errors
    /// The sequence would have more tokens than the cache can hold; nothing is changed.
    fn append(&mut self, tokens: usize) -> Result<()>;

    /// Forgets the tokens from this length on.
    fn truncate(&mut self, len: usize);

    /// The sequence's pages, in order; as many entries as the shape's `table`.
    fn block_table(&self) -> &[i32];

    /// The buffers of each layer.
    fn layers(&self) -> &[LayerBuffers];
}

/// The pages of one layer on a device.
#[derive(Clone, Debug)]
pub struct LayerBuffers {
    /// Keys.
    pub k: Binding,
    /// Values.
    pub v: Binding,
    /// The scales of keys and values, f32, one for each token and head, where these are codes.
    pub scales: Option<[Binding; 2]>,
}

impl LayerBuffers {
    /// Allocates the pages of all layers, keys and values on these devices, a pair for each layer.
    ///
    /// # Errors
    /// A device has no room for them; a shape that no tensor can have, or with more slots than an i32 counts.
    pub fn spread<'a>(
        shape: CacheShape,
        devices: impl Iterator<Item = [&'a dyn Device; 2]>,
        kv_heads: usize,
        head_dim: usize,
    ) -> Result<Vec<LayerBuffers>> {
        let slots = shape.blocks.saturating_mul(shape.block_size).max(shape.capacity());
        let too_long = || EngineError::ContextTooLong { asked: slots, limit: i32::MAX as usize };
        i32::try_from(slots).map_err(|_| too_long())?;
        let dims = shape.dims(kv_heads, head_dim);
        let bytes = TensorDesc::new(shape.dtype, &dims)?.bytes()?;
        let scale_bytes = TensorDesc::new(DType::F32, &dims[..3])?.bytes()?;
        let alloc = |[k, v]: [&dyn Device; 2]| {
            let scales = match shape.has_scales() {
                true => Some([alloc_padded(k, scale_bytes)?, alloc_padded(v, scale_bytes)?]),
                false => None,
            };
            Ok(LayerBuffers { k: alloc_padded(k, bytes)?, v: alloc_padded(v, bytes)?, scales })
        };
        devices.map(alloc).collect()
    }
}

/// A cache that holds one sequence from the first slot on.
#[derive(Debug)]
pub struct ContiguousCache {
    shape: CacheShape,
    len: usize,
    block_table: Vec<i32>,
    layers: Vec<LayerBuffers>,
}

impl ContiguousCache {
    /// Allocates a cache for all layers.
    ///
    /// # Errors
    /// The device has no room for it; a shape that no tensor can have.
    pub fn new(
        device: &dyn Device,
        shape: CacheShape,
        layers: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> Result<Self> {
        ContiguousCache::spread(shape, (0..layers).map(|_| [device, device]), kv_heads, head_dim)
    }

    /// Allocates a cache whose keys and values lie on these devices, a pair for each layer.
    ///
    /// # Errors
    /// As [`ContiguousCache::new`].
    pub fn spread<'a>(
        shape: CacheShape,
        devices: impl Iterator<Item = [&'a dyn Device; 2]>,
        kv_heads: usize,
        head_dim: usize,
    ) -> Result<Self> {
        let layers = LayerBuffers::spread(shape, devices, kv_heads, head_dim)?;
        let block_table = (0..shape.table as i32).collect();
        Ok(ContiguousCache { shape, len: 0, block_table, layers })
    }
}

impl KvCache for ContiguousCache {
    fn shape(&self) -> CacheShape {
        self.shape
    }

    fn len(&self) -> usize {
        self.len
    }

    fn append(&mut self, tokens: usize) -> Result<()> {
        let context = self.shape.capacity();
        let len = self.len.saturating_add(tokens);
        if len > context {
            return Err(EngineError::PromptTooLong { tokens: len, context });
        }
        self.len = len;
        Ok(())
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    fn block_table(&self) -> &[i32] {
        &self.block_table
    }

    fn layers(&self) -> &[LayerBuffers] {
        &self.layers
    }
}

#[cfg(test)]
mod tests {
    use qiao_core::{Backend, KvLayout, noop::NoopBackend};

    use super::*;

    fn cache(capacity: usize) -> Result<ContiguousCache> {
        let device = NoopBackend.open(0).unwrap();
        let shape = CacheShape {
            layout: KvLayout::BlockHeadToken,
            dtype: DType::F32,
            blocks: 1,
            block_size: capacity,
            table: 1,
        };
        ContiguousCache::new(&*device, shape, 2, 2, 4)
    }

    #[test]
    fn tokens_come_and_go() {
        let mut c = cache(8).unwrap();
        c.append(5).unwrap();
        assert_eq!((c.len(), c.block_table()), (5, &[0][..]));
        c.truncate(2);
        c.truncate(7);
        assert_eq!(c.len(), 2);
        assert_eq!(c.layers()[1].k.bytes, 2 * 8 * 4 * 4);
    }

    #[test]
    fn a_full_cache_refuses_and_stays_as_it_was() {
        let mut c = cache(8).unwrap();
        c.append(8).unwrap();
        assert!(matches!(c.append(1), Err(EngineError::PromptTooLong { tokens: 9, context: 8 })));
        assert!(c.append(usize::MAX).is_err());
        assert_eq!(c.len(), 8);
    }

    #[test]
    fn an_absurd_context_is_an_error() {
        assert!(cache(1 << 40).is_err());
        assert!(cache(usize::MAX).is_err());
    }
}
