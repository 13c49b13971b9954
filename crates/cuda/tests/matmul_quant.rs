//! Quantised products on the simulated card beside the truth: every format that has tiles, every way through the kernels, what
//! follows the product, and what no kernel takes.

mod rig;

use qiao_conformance::trials::block_formats;
use qiao_conformance::trials::matmul_quant::*;
use qiao_core::*;
use qiao_reference::Trial;
use rig::{Maker, check_all, device, taken, with};

/// Zeros of a list that no kernel takes: floats, and integers with a sign beside codes without or the other way round.
const REFUSED: &str = "groups_of_every_code_have_zeros_of_another_kind";

qiao_conformance::trials!(matmul_quant, |list, trials: &[Trial]| match list {
    REFUSED => assert_eq!(taken(&*device(), trials).len(), 0),
    _ => check_all(trials),
});

// Of the block formats, the common ones alone have tiles.
qiao_conformance::trials!(block_formats, |list, trials: &[Trial]| {
    let taken = taken(&*device(), trials);
    assert_eq!(taken.len() * block_formats::all().count(), trials.len() * BLOCKS.len(), "{list}");
    check_all(&taken);
});

#[test]
fn weights_at_their_zero_are_exactly_zero() {
    for trial in of_zeros() {
        let out = trial.run(&*device()).unwrap();
        assert!(out[0].data.iter().all(|&y| y == 0.0), "{:?}", &out[0].data[..8]);
    }
}

#[test]
fn a_weight_in_tiles_takes_the_bytes_of_its_format() {
    let mut m = Maker::new(54);
    for format in BLOCKS {
        let (desc, bytes) = weight(&mut m, format, 32, 512 / format.block_elems());
        let a = m.of(DType::BF16, &[1, 512]);
        let trial = with(Trial::new(op(0, 0, Epilogue::None)), a).input(desc.clone(), bytes.clone());
        let answer = device().support(&trial.graph().unwrap()).remove(0);
        let Support::Relayout { operand: 1, layout } = answer.answer else { panic!("{format}: {answer:?}") };
        assert_eq!(device().prepack_bytes(&desc, layout).unwrap(), bytes.len(), "{format}");
        assert_eq!((answer.kernel.as_str(), answer.act_dtype), ("gemv_quant.cuda", None));
    }
}

#[test]
fn what_no_kernel_takes_is_refused_and_decomposes() {
    let mut m = Maker::new(55);
    let device = device();
    for format in block_formats::all().filter(|format| !BLOCKS.contains(format)) {
        let a = m.of(DType::BF16, &[1, format.block_elems()]);
        let trial = with(with(Trial::new(op(0, 0, Epilogue::None)), a), weight(&mut m, format, 3, 1));
        is_refused_and_decomposes(&*device, &trial);
    }
    let trial = grouped(&mut m, DType::BF16, 1, DType::U4, [4, 64], 32, DType::F16);
    is_refused_and_decomposes(&*device, &with(trial, table(&mut m, DType::F16, &[4, 2], |_| 0.25)));
    odd_groups().iter().for_each(|trial| is_refused_and_decomposes(&*device, trial));
}
