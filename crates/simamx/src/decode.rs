//! The encoding of AMX instructions: VEX.128, map 0F38, W0.

use crate::tiles::Kind;

/// Where a memory operand lies: `base + displacement`, and for tiles the index as the stride from row to row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The register that the address starts from, by its number; `None` is zero.
    pub base: Option<usize>,
    /// The index register and the shift that scales it.
    pub index: Option<(usize, u32)>,
    /// Added to the base.
    pub displacement: i32,
    /// Whether the address is counted from the end of the instruction.
    pub relative: bool,
}

/// An instruction of AMX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// `ldtilecfg`
    LoadConfiguration(Address),
    /// `sttilecfg`
    StoreConfiguration(Address),
    /// `tilerelease`
    Release,
    /// `tilezero`
    Zero(usize),
    /// `tileloadd` and `tileloaddt1`
    Load(usize, Address),
    /// `tilestored`
    Store(Address, usize),
    /// `tdpbf16ps` and its four relatives of bytes: the sum, the first and the second operand.
    Multiply(Kind, usize, usize, usize),
}

impl Instruction {
    /// The mnemonic.
    pub fn name(&self) -> &'static str {
        match self {
            Instruction::LoadConfiguration(_) => "ldtilecfg",
            Instruction::StoreConfiguration(_) => "sttilecfg",
            Instruction::Release => "tilerelease",
            Instruction::Zero(_) => "tilezero",
            Instruction::Load(..) => "tileloadd",
            Instruction::Store(..) => "tilestored",
            Instruction::Multiply(Kind::Bf16, ..) => "tdpbf16ps",
            Instruction::Multiply(Kind::Bytes(true, true), ..) => "tdpbssd",
            Instruction::Multiply(Kind::Bytes(true, false), ..) => "tdpbsud",
            Instruction::Multiply(Kind::Bytes(false, true), ..) => "tdpbusd",
            Instruction::Multiply(Kind::Bytes(false, false), ..) => "tdpbuud",
        }
    }
}

/// The implied prefix of an encoding.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Prefix {
    None,
    P66,
    F3,
    F2,
}

/// The fields in front of an operand.
struct Head {
    /// Bit 3 of the register, index and base numbers.
    high: [usize; 3],
    /// The third register.
    v: usize,
    prefix: Prefix,
}

/// Decodes the instruction whose bytes `next` gives one by one, and counts them; `None` for any other instruction.
/// No byte is asked for beyond the instruction's end.
pub fn decode(mut next: impl FnMut() -> u8) -> Option<(Instruction, usize)> {
    let mut length = 0;
    let mut byte = || {
        length += 1;
        next()
    };
    if byte() != 0xc4 {
        return None;
    }
    let (one, two) = (byte(), byte());
    // Map 0F38; W and L are zero.
    if one & 0x1f != 2 || two & 0x84 != 0 {
        return None;
    }
    let high = [7, 6, 5].map(|bit| usize::from(one >> bit & 1 ^ 1) << 3);
    let prefix = [Prefix::None, Prefix::P66, Prefix::F3, Prefix::F2][usize::from(two & 3)];
    let head = Head { high, v: usize::from(!two >> 3 & 15), prefix };
    let opcode = byte();
    if !matches!(opcode, 0x49 | 0x4b | 0x5c | 0x5e) {
        return None;
    }
    let instruction = operands(&head, opcode, &mut byte)?;
    Some((instruction, length))
}

/// What follows the opcode.
fn operands(head: &Head, opcode: u8, byte: &mut impl FnMut() -> u8) -> Option<Instruction> {
    let modrm = byte();
    let (mode, reg, rm) = (modrm >> 6, usize::from(modrm >> 3 & 7) + head.high[0], usize::from(modrm & 7));
    if matches!(opcode, 0x5c | 0x5e) {
        if mode != 3 {
            return None;
        }
        let kind = match (opcode, head.prefix) {
            (0x5c, Prefix::F3) => Kind::Bf16,
            (0x5e, Prefix::F2) => Kind::Bytes(true, true),
            (0x5e, Prefix::F3) => Kind::Bytes(true, false),
            (0x5e, Prefix::P66) => Kind::Bytes(false, true),
            (0x5e, Prefix::None) => Kind::Bytes(false, false),
            _ => return None,
        };
        return Some(Instruction::Multiply(kind, reg, rm + head.high[2], head.v));
    }
    if head.v != 0 {
        return None;
    }
    match (opcode, head.prefix, mode) {
        (0x49, Prefix::None, 3) => (reg == 0 && rm == 0).then_some(Instruction::Release),
        (0x49, Prefix::F2, 3) => (rm == 0).then_some(Instruction::Zero(reg)),
        (0x49, Prefix::None, _) if reg == 0 => Some(Instruction::LoadConfiguration(address(head, mode, rm, byte))),
        (0x49, Prefix::P66, 0..=2) if reg == 0 => Some(Instruction::StoreConfiguration(address(head, mode, rm, byte))),
        // Tiles are addressed with a SIB byte only.
        (0x4b, Prefix::F2 | Prefix::P66, 0..=2) if rm == 4 => {
            Some(Instruction::Load(reg, address(head, mode, rm, byte)))
        }
        (0x4b, Prefix::F3, 0..=2) if rm == 4 => Some(Instruction::Store(address(head, mode, rm, byte), reg)),
        _ => None,
    }
}

/// A memory operand.
fn address(head: &Head, mode: u8, rm: usize, byte: &mut impl FnMut() -> u8) -> Address {
    let mut at = Address { base: Some(rm + head.high[2]), index: None, displacement: 0, relative: false };
    let mut low = rm;
    if rm == 4 {
        let sib = byte();
        let index = usize::from(sib >> 3 & 7) + head.high[1];
        low = usize::from(sib & 7);
        at.base = Some(low + head.high[2]);
        at.index = (index != 4).then_some((index, u32::from(sib >> 6)));
    }
    let wide = |byte: &mut dyn FnMut() -> u8| i32::from_le_bytes(std::array::from_fn(|_| byte()));
    match mode {
        0 if low == 5 => {
            at.base = None;
            at.relative = rm == 5;
            at.displacement = wide(byte);
        }
        1 => at.displacement = i32::from(byte() as i8),
        2 => at.displacement = wide(byte),
        _ => {}
    }
    at
}
