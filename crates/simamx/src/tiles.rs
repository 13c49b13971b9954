//! The state of eight tiles, and what the instructions do to it.

/// Tiles of palette 1.
const TILES: usize = 8;
/// Rows of a tile, at most.
const ROWS: usize = 16;
/// Bytes of a row, at most.
const BYTES: usize = 64;

/// Why hardware would have refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// #GP: a configuration that palette 1 does not have.
    Configuration(&'static str),
    /// #UD: an operand that is no tile, or tiles whose shapes do not go together.
    Operand(&'static str),
}

impl Fault {
    /// The exception and its cause.
    pub fn words(self) -> [&'static str; 2] {
        match self {
            Fault::Configuration(why) => ["#GP", why],
            Fault::Operand(why) => ["#UD", why],
        }
    }
}

/// What a product multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pairs of bf16, sums in f32.
    Bf16,
    /// Fours of bytes, sums in 32 bits; whether the bytes of the first and of the second operand have a sign.
    Bytes(bool, bool),
}

/// Rows and bytes per row of a tile; zeros where it is not in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shape {
    rows: usize,
    bytes: usize,
}

/// The tiles of one thread.
#[derive(Clone, Debug)]
pub struct Tiles {
    configured: bool,
    start_row: u8,
    shapes: [Shape; TILES],
    data: [[[u8; BYTES]; ROWS]; TILES],
}

impl Default for Tiles {
    fn default() -> Self {
        Tiles::RELEASED
    }
}

impl Tiles {
    /// Not configured: as a thread starts, and as `tilerelease` leaves it.
    pub const RELEASED: Tiles = Tiles {
        configured: false,
        start_row: 0,
        shapes: [Shape { rows: 0, bytes: 0 }; TILES],
        data: [[[0; BYTES]; ROWS]; TILES],
    };

    /// `tilerelease`
    pub fn release(&mut self) {
        *self = Tiles::RELEASED;
    }

    /// `ldtilecfg` of these 64 bytes.
    ///
    /// # Errors
    /// What palette 1 does not have.
    pub fn configure(&mut self, bytes: &[u8; 64]) -> Result<(), Fault> {
        let refuse = |why| Err(Fault::Configuration(why));
        match bytes[0] {
            0 => {
                self.release();
                return Ok(());
            }
            1 => {}
            _ => return refuse("the palette is neither 0 nor 1"),
        }
        if bytes[2..16].iter().chain(&bytes[32..48]).chain(&bytes[56..]).any(|b| *b != 0) {
            return refuse("a reserved byte is not zero");
        }
        let mut shapes = [Shape::default(); TILES];
        for (i, shape) in shapes.iter_mut().enumerate() {
            let (low, high) = (bytes[16 + 2 * i], bytes[17 + 2 * i]);
            *shape = Shape { rows: bytes[48 + i].into(), bytes: u16::from_le_bytes([low, high]).into() };
            if shape.rows > ROWS {
                return refuse("a tile has more than 16 rows");
            }
            if shape.bytes > BYTES {
                return refuse("a tile has more than 64 bytes per row");
            }
            if (shape.rows == 0) != (shape.bytes == 0) {
                return refuse("a tile has rows without bytes, or bytes without rows");
            }
        }
        *self = Tiles { configured: true, start_row: bytes[1], shapes, ..Tiles::RELEASED };
        Ok(())
    }

    /// `sttilecfg`: the 64 bytes that it stores.
    pub fn configuration(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        if !self.configured {
            return bytes;
        }
        (bytes[0], bytes[1]) = (1, self.start_row);
        for (i, shape) in self.shapes.iter().enumerate() {
            bytes[16 + 2 * i] = shape.bytes as u8;
            bytes[48 + i] = shape.rows as u8;
        }
        bytes
    }

    /// The shape of a tile that is in use.
    fn shape(&self, tile: usize) -> Result<Shape, Fault> {
        if !self.configured {
            return Err(Fault::Operand("no tiles are configured"));
        }
        match self.shapes.get(tile) {
            None => Err(Fault::Operand("there are tiles 0 to 7 only")),
            Some(shape) if shape.rows == 0 => Err(Fault::Operand("the tile has no shape")),
            Some(shape) => Ok(*shape),
        }
    }

    /// The rows of a tile that move to or from memory.
    fn moved(&self, tile: usize) -> Result<(std::ops::Range<usize>, usize), Fault> {
        let shape = self.shape(tile)?;
        if !shape.bytes.is_multiple_of(4) {
            return Err(Fault::Operand("the bytes of a row are no multiple of 4"));
        }
        if usize::from(self.start_row) >= shape.rows {
            return Err(Fault::Operand("start_row is past the tile's rows"));
        }
        Ok((self.start_row.into()..shape.rows, shape.bytes))
    }

    /// `tilezero`
    ///
    /// # Errors
    /// The tile is not in use.
    pub fn zero(&mut self, tile: usize) -> Result<(), Fault> {
        self.shape(tile)?;
        self.data[tile] = [[0; BYTES]; ROWS];
        self.start_row = 0;
        Ok(())
    }

    /// `tileloadd`: `read` fills a row, given its number.
    ///
    /// # Errors
    /// The tile is not in use.
    pub fn load(&mut self, tile: usize, mut read: impl FnMut(usize, &mut [u8])) -> Result<(), Fault> {
        let (rows, bytes) = self.moved(tile)?;
        self.data[tile][rows.start..].fill([0; BYTES]);
        for row in rows {
            read(row, &mut self.data[tile][row][..bytes]);
        }
        self.start_row = 0;
        Ok(())
    }

    /// `tilestored`: `write` takes a row, given its number.
    ///
    /// # Errors
    /// The tile is not in use.
    pub fn store(&mut self, tile: usize, mut write: impl FnMut(usize, &[u8])) -> Result<(), Fault> {
        let (rows, bytes) = self.moved(tile)?;
        for row in rows {
            write(row, &self.data[tile][row][..bytes]);
        }
        self.start_row = 0;
        Ok(())
    }

    /// A product of tiles: `c += a · b`.
    ///
    /// # Errors
    /// A tile is not in use or named twice; the shapes do not go together.
    pub fn multiply(&mut self, kind: Kind, c: usize, a: usize, b: usize) -> Result<(), Fault> {
        let refuse = |why| Err(Fault::Operand(why));
        if c == a || a == b || c == b {
            return refuse("two operands are the same tile");
        }
        let (to, left, right) = (self.shape(c)?, self.shape(a)?, self.shape(b)?);
        if [to, left, right].iter().any(|shape| !shape.bytes.is_multiple_of(4)) {
            return refuse("the bytes of a row are no multiple of 4");
        }
        if to.rows != left.rows {
            return refuse("the sum and the first operand differ in rows");
        }
        if to.bytes != right.bytes {
            return refuse("the sum and the second operand differ in bytes per row");
        }
        if left.bytes / 4 != right.rows {
            return refuse("the first operand's row does not have as many fours of bytes as the second has rows");
        }
        let (x, w) = (&self.data[a].clone(), &self.data[b].clone());
        let (rows, steps, columns) = (to.rows, right.rows, to.bytes / 4);
        for (row, sums) in self.data[c].iter_mut().enumerate() {
            if row >= rows {
                *sums = [0; BYTES];
                continue;
            }
            let done = match kind {
                Kind::Bf16 => row_of_bf16(sums, &x[row], w, steps),
                Kind::Bytes(signed, other) => row_of_bytes(sums, &x[row], w, steps, signed, other),
            };
            for (column, sum) in sums.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *sum = if column < columns { done[column] } else { [0; 4] };
            }
        }
        self.start_row = 0;
        Ok(())
    }
}

/// Below this magnitude a value rounds to a subnormal of f32: half a step under the smallest normal goes up to it.
const TINY: f64 = f32::MIN_POSITIVE as f64 * (1.0 - 1.0 / (1 << 25) as f64);

/// To nearest even f32; what would be subnormal is zero.
#[inline(always)]
fn flushed(x: f64) -> f32 {
    if x.abs() < TINY { 0f32.copysign(x as f32) } else { x as f32 }
}

/// The value; zero for a subnormal.
#[inline(always)]
fn normal(x: f32) -> f64 {
    if x.abs() < f32::MIN_POSITIVE { 0f64.copysign(x.into()) } else { x.into() }
}

/// bf16 at these bytes.
#[inline(always)]
fn half(low: u8, high: u8) -> f64 {
    normal(f32::from_bits(u32::from(u16::from_le_bytes([low, high])) << 16))
}

/// One row of TDPBF16PS: for each column a chain of the pairs' first elements and one of their second, each step a
/// multiply-add rounded once; the chains are added, then the sum joins what was there.
///
/// f64 holds a product of two bf16 exactly. Its sum with an f32 is rounded to 53 bits and then to 24, which gives what
/// one rounding gives, since 53 is at least twice 24 plus two.
fn row_of_bf16(sums: &[u8; BYTES], x: &[u8; BYTES], w: &[[u8; BYTES]; ROWS], steps: usize) -> [[u8; 4]; ROWS] {
    let mut chains = [[0f32; ROWS]; 2];
    for (w, x) in w.iter().zip(x.as_chunks::<4>().0).take(steps) {
        for (i, chain) in chains.iter_mut().enumerate() {
            let x = half(x[2 * i], x[2 * i + 1]);
            for (sum, w) in chain.iter_mut().zip(w.as_chunks::<4>().0) {
                *sum = flushed(x * half(w[2 * i], w[2 * i + 1]) + normal(*sum));
            }
        }
    }
    let [first, second] = chains;
    std::array::from_fn(|j| {
        let pair = flushed(normal(first[j]) + normal(second[j]));
        let before = f32::from_le_bytes(sums.as_chunks::<4>().0[j]);
        flushed(normal(before) + normal(pair)).to_le_bytes()
    })
}

/// One row of TDPBSSD, TDPBSUD, TDPBUSD or TDPBUUD: sums wrap.
fn row_of_bytes(
    sums: &[u8; BYTES],
    x: &[u8; BYTES],
    w: &[[u8; BYTES]; ROWS],
    steps: usize,
    x_signed: bool,
    w_signed: bool,
) -> [[u8; 4]; ROWS] {
    let value = |byte: u8, signed: bool| if signed { i32::from(byte as i8) } else { i32::from(byte) };
    let mut all: [i32; ROWS] = std::array::from_fn(|j| i32::from_le_bytes(sums.as_chunks::<4>().0[j]));
    for (w, x) in w.iter().zip(x.as_chunks::<4>().0).take(steps) {
        let x = x.map(|x| value(x, x_signed));
        for (sum, w) in all.iter_mut().zip(w.as_chunks::<4>().0) {
            for (x, w) in x.iter().zip(w) {
                *sum = sum.wrapping_add(x * value(*w, w_signed));
            }
        }
    }
    all.map(i32::to_le_bytes)
}
