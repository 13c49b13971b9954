//! Encodings, as assemblers write them, back to instructions.

use qiao_simamx::{Address, Instruction, Kind, decode};

/// Decodes these bytes, and sees that no byte past the instruction was asked for.
fn read(bytes: &[u8]) -> Option<Instruction> {
    let mut rest = bytes.iter().copied();
    let (instruction, length) = decode(|| rest.next().expect("a byte past the end was asked for"))?;
    assert_eq!(length, bytes.len());
    Some(instruction)
}

fn at(base: usize) -> Address {
    Address { base: Some(base), index: None, displacement: 0, relative: false }
}

#[test]
fn tiles_and_their_products() {
    use Instruction::*;
    assert_eq!(read(&[0xc4, 0xe2, 0x78, 0x49, 0xc0]), Some(Release));
    assert_eq!(read(&[0xc4, 0xe2, 0x7b, 0x49, 0xd8]), Some(Zero(3)));
    // tdpbf16ps tmm3, tmm5, tmm7
    assert_eq!(read(&[0xc4, 0xe2, 0x42, 0x5c, 0xdd]), Some(Multiply(Kind::Bf16, 3, 5, 7)));
    // The four of bytes, tmm1, tmm2, tmm3
    let bytes = |prefix: u8| read(&[0xc4, 0xe2, 0x60 | prefix, 0x5e, 0xca]);
    assert_eq!(bytes(3), Some(Multiply(Kind::Bytes(true, true), 1, 2, 3)));
    assert_eq!(bytes(2), Some(Multiply(Kind::Bytes(true, false), 1, 2, 3)));
    assert_eq!(bytes(1), Some(Multiply(Kind::Bytes(false, true), 1, 2, 3)));
    assert_eq!(bytes(0), Some(Multiply(Kind::Bytes(false, false), 1, 2, 3)));
}

#[test]
fn addresses_of_every_form() {
    use Instruction::*;
    // ldtilecfg [rax], [r8 + 16], [rip + 256], [rsp]
    assert_eq!(read(&[0xc4, 0xe2, 0x78, 0x49, 0x00]), Some(LoadConfiguration(at(0))));
    let near = Address { displacement: 16, ..at(8) };
    assert_eq!(read(&[0xc4, 0xc2, 0x78, 0x49, 0x40, 0x10]), Some(LoadConfiguration(near)));
    let relative = Address { base: None, displacement: 256, relative: true, ..at(0) };
    assert_eq!(read(&[0xc4, 0xe2, 0x78, 0x49, 0x05, 0, 1, 0, 0]), Some(LoadConfiguration(relative)));
    assert_eq!(read(&[0xc4, 0xe2, 0x78, 0x49, 0x04, 0x24]), Some(LoadConfiguration(at(4))));
    // sttilecfg [rdi]
    assert_eq!(read(&[0xc4, 0xe2, 0x79, 0x49, 0x07]), Some(StoreConfiguration(at(7))));
    // tileloadd tmm4, [rdi + r9]; tmm5, [rdi + r9 + 1024]; tileloaddt1 tmm1, [r12 + rcx*4 - 128]
    let strided = Address { index: Some((9, 0)), ..at(7) };
    assert_eq!(read(&[0xc4, 0xa2, 0x7b, 0x4b, 0x24, 0x0f]), Some(Load(4, strided)));
    let far = Address { displacement: 1024, ..strided };
    assert_eq!(read(&[0xc4, 0xa2, 0x7b, 0x4b, 0xac, 0x0f, 0, 4, 0, 0]), Some(Load(5, far)));
    let scaled = Address { index: Some((1, 2)), displacement: -128, ..at(12) };
    assert_eq!(read(&[0xc4, 0xc2, 0x79, 0x4b, 0x4c, 0x8c, 0x80]), Some(Load(1, scaled)));
    // tilestored [rbx + r11], tmm0; [r13 + 0 + r12*2], whose index is no stack pointer; [disp32 + rax]
    let to = Address { index: Some((11, 0)), ..at(3) };
    assert_eq!(read(&[0xc4, 0xa2, 0x7a, 0x4b, 0x04, 0x1b]), Some(Store(to, 0)));
    let to = Address { index: Some((12, 1)), ..at(13) };
    assert_eq!(read(&[0xc4, 0x82, 0x7a, 0x4b, 0x44, 0x65, 0]), Some(Store(to, 0)));
    let to = Address { base: None, index: Some((0, 0)), displacement: 64, relative: false };
    assert_eq!(read(&[0xc4, 0xe2, 0x7a, 0x4b, 0x04, 0x05, 64, 0, 0, 0]), Some(Store(to, 0)));
}

#[test]
fn other_instructions_are_left_alone() {
    let others: [&[u8]; 9] = [
        &[0x0f, 0x0b],
        // Map 0F, W1, a 256-bit vector
        &[0xc4, 0xe1, 0x78],
        &[0xc4, 0xe2, 0xf8],
        &[0xc4, 0xe2, 0x7c],
        // vpsravd, and tileloadd without a SIB byte
        &[0xc4, 0xe2, 0x71, 0x46],
        &[0xc4, 0xe2, 0x7b, 0x4b, 0x07],
        // A third register where there is none, a product from memory, and a release of something
        &[0xc4, 0xe2, 0x70, 0x49, 0xc0],
        &[0xc4, 0xe2, 0x42, 0x5c, 0x1d],
        &[0xc4, 0xe2, 0x78, 0x49, 0xc1],
    ];
    for bytes in others {
        let mut rest = bytes.iter().copied();
        assert_eq!(decode(|| rest.next().unwrap_or(0)), None, "{bytes:x?}");
    }
}
