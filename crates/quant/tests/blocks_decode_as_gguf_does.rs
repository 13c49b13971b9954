//! Random blocks of every block format decode bit for bit as the gguf package decodes them.

use qiao_core::DType;
use qiao_quant::decode_row;
use safetensors::SafeTensors;

#[test]
fn random_blocks_decode_bit_for_bit() {
    let file = SafeTensors::deserialize(include_bytes!("../../../fixtures/quant/blocks.safetensors")).unwrap();
    for &dtype in DType::ALL.iter().filter(|d| d.is_block()) {
        let blocks = file.tensor(&format!("{dtype}.blocks")).unwrap();
        let want: Vec<f32> = file
            .tensor(&format!("{dtype}.decoded"))
            .unwrap()
            .data()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        assert_eq!(want.len(), 512);
        let mut got = vec![f32::NAN; want.len()];
        decode_row(dtype, blocks.data(), &mut got).unwrap();
        for (i, (g, w)) in got.iter().zip(&want).enumerate() {
            assert!(g.to_bits() == w.to_bits() || *g == 0.0 && *w == 0.0, "{dtype} element {i}: {g:e} for {w:e}");
        }
    }
}
