//! Weights in the tiles that quantised products read: layouts, their sizes, and the launches that pack them.

use qiao_core::{DType, Error, Result, TensorDesc};

use crate::launch::{Arg, Chip, Launch, Layout, Prepared};

/// Tiles of 16 rows of a weight `[N, K]`.
pub(crate) const TILES: u64 = 0x5469_6c65_7331_3600;

/// Tiles of 8 rows of the first half of a weight and their 8 partners in the second, which one SiLU joins.
pub(crate) const PAIRS: u64 = TILES + 1;

/// Inputs of a chunk, to whole numbers of which a tile is filled up.
pub(crate) const CHUNK: usize = 128;

/// Threads of a kernel that packs, and the most blocks of it; threads go on until all is done.
const THREADS: usize = 256;
const MOST_BLOCKS: usize = 1 << 16;

/// A format of weights that have tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    /// Its name in symbols.
    pub(crate) name: &'static str,
    /// Whether scales lie beside the weight.
    pub(crate) grouped: bool,
    pack: &'static str,
    /// Bytes of a chunk of a tile, and of what is behind all of them.
    chunk: usize,
    behind: usize,
    /// What codes are xor'd with.
    flip: u32,
}

/// The format of a dtype, if it has tiles.
pub(crate) fn format(dtype: DType) -> Option<Format> {
    let (grouped, pack, chunk, behind, flip) = match dtype {
        DType::Q4_0 => (false, "quant_pack_q4_0", 1024 + 128, 0, 0),
        DType::Q8_0 => (false, "quant_pack_q8_0", 2048 + 128, 0, 0),
        DType::Q4K => (false, "quant_pack_q4_k", 1024 + 128, 0, 0),
        DType::Q6K => (false, "quant_pack_q6_k", 1024 + 512 + 128 + 16, 0, 0),
        DType::I4 => (true, "quant_pack_codes4", 1024, 0, 8),
        DType::U4 => (true, "quant_pack_codes4", 1024, 0, 0),
        DType::I8 => (true, "quant_pack_codes8", 2048, 0, 0),
        DType::U8 => (true, "quant_pack_codes8", 2048, 0, 128),
        DType::F8E4M3 => (true, "quant_pack_codes8", 2048, 64, 0),
        _ => return None,
    };
    Some(Format { name: dtype.name(), grouped, pack, chunk, behind, flip })
}

/// How rows of a weight lie in tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// Tiles.
    pub(crate) tiles: usize,
    /// Row r of a tile is the weight's row `tile·tile_rows + r % 8 + r / 8·half_rows`, there where the first two are below
    /// `limit`.
    pub(crate) tile_rows: usize,
    pub(crate) half_rows: usize,
    pub(crate) limit: usize,
}

impl Order {
    /// The order of `n` rows.
    pub(crate) fn new(n: usize, pairs: bool) -> Order {
        if pairs {
            return Order { tiles: (n / 2).div_ceil(8), tile_rows: 8, half_rows: n / 2, limit: n / 2 };
        }
        Order { tiles: n.div_ceil(16), tile_rows: 16, half_rows: 8, limit: n }
    }
}

/// A number as a field of a struct; the callers' checks keep it below 2^32.
pub(crate) fn word(value: usize) -> [u8; 4] {
    u32::try_from(value).expect("a row accepts sizes that fit").to_ne_bytes()
}

/// What can be packed: two axes, packed codes side by side along K, no more of each than kernels count.
fn matrix(tensor: &TensorDesc) -> Option<(Format, usize, usize)> {
    let &[n, k] = &tensor.shape[..] else { return None };
    let format = format(tensor.dtype)?;
    (n <= MOST && k <= MOST_INPUTS && (tensor.dtype.block_bytes() == 1 || tensor.rows_are_contiguous()))
        .then_some((format, n, k))
}

/// The most rows of a weight, or of activations.
pub(crate) const MOST: usize = 1 << 30;

/// The most inputs of a weight: kernels count the words of a tile in 32 bits.
pub(crate) const MOST_INPUTS: usize = 1 << 24;

/// Whether a weight can be packed as far as its own description tells.
pub(crate) fn has_tiles(tensor: &TensorDesc) -> bool {
    matrix(tensor).is_some()
}

/// Bytes of a weight in tiles.
///
/// # Errors
/// It has none, or they do not fit a `usize`.
pub(crate) fn tile_bytes(tensor: &TensorDesc, pairs: bool) -> Result<usize> {
    let refused = || {
        let mend = "ask only for the layout that the device named in its support answer";
        Error::invalid("weight in tiles", tensor.to_string(), mend)
    };
    let (format, n, k) = matrix(tensor).ok_or_else(refused)?;
    let tile = k.div_ceil(CHUNK).checked_mul(format.chunk).and_then(|bytes| bytes.checked_add(format.behind));
    tile.and_then(|tile| tile.checked_mul(Order::new(n, pairs).tiles)).ok_or_else(refused)
}

/// The launches that pack a weight.
///
/// # Errors
/// As [`tile_bytes`].
pub(crate) fn pack(tensor: &TensorDesc, pairs: bool, from: Arg, to: Arg) -> Result<Vec<Launch>> {
    let bytes = tile_bytes(tensor, pairs)?;
    let Some((format, n, k)) = matrix(tensor) else { return Ok(Vec::new()) };
    if bytes == 0 {
        return Ok(Vec::new());
    }
    let order = Order::new(n, pairs);
    let block = tensor.dtype.block_elems();
    let row_bytes = tensor.strides[0] / block * tensor.dtype.block_bytes();
    let mut packing = Vec::with_capacity(64);
    for value in [row_bytes, tensor.strides[1], bytes / order.tiles] {
        packing.extend((value as u64).to_ne_bytes());
    }
    for value in [n, k, k.div_ceil(CHUNK), order.tiles, order.tile_rows, order.half_rows, order.limit] {
        packing.extend(word(value));
    }
    packing.extend(format.flip.to_ne_bytes());
    packing.extend(word(usize::from(format.behind > 0)));
    packing.extend(word(0));
    let grid = [(bytes / 4).div_ceil(THREADS).min(MOST_BLOCKS) as u32, 1, 1];
    Ok(vec![Launch::new(format.pack, grid, 0, vec![from, to, Arg::Struct(packing)])])
}

/// The layouts of this module.
pub fn layouts() -> Vec<Layout> {
    fn of(tensor: &TensorDesc, pairs: bool) -> Result<Prepared> {
        Ok(Prepared { launches: pack(tensor, pairs, Arg::Tensor(0, 0), Arg::Tensor(1, 0))?, scratch: 0 })
    }
    let tiles: fn(&TensorDesc, &Chip) -> Result<Prepared> = |tensor, _| of(tensor, false);
    let pairs: fn(&TensorDesc, &Chip) -> Result<Prepared> = |tensor, _| of(tensor, true);
    vec![
        Layout { id: TILES, bytes: |tensor| tile_bytes(tensor, false), pack: tiles },
        Layout { id: PAIRS, bytes: |tensor| tile_bytes(tensor, true), pack: pairs },
    ]
}
