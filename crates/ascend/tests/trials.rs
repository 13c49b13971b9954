//! Trials of operators over the simulated AscendCL, beside the truth: what the chip takes of each list.

mod rig;

use qiao_conformance::trials::{failures, hold, taken};
use qiao_reference::Trial;

/// How many trials of a list the chip takes; of the others none.
const TAKEN: [(&str, usize); 16] = [
    ("rows_of_one_dtype_match_whatever_their_length", 42),
    ("every_operator_takes_what_is_no_number_and_what_is_very_large_or_small", 54),
    ("operands_repeat_along_any_axis", 27),
    ("dtypes_mix_and_strides_are_free", 30),
    ("gate_and_up_come_from_one_operand_or_two", 24),
    ("copies_of_every_dtype_keep_every_bit", 36),
    ("strides_of_any_kind_are_followed", 24),
    ("a_value_fills_every_dtype", 42),
    ("every_plain_dtype_becomes_every_other", 30),
    ("activations_are_cast_side_by_side_and_one_by_one", 42),
    ("rows_of_every_dtype_are_looked_up", 3),
    ("few_rows_of_any_dtypes_and_either_layout", 48),
    ("many_rows_of_any_dtypes_and_either_layout", 24),
    ("operands_may_lie_in_any_strides", 30),
    ("numbers_that_are_not_finite_stay_in_their_rows_and_columns", 36),
    ("a_product_of_nothing_is_its_epilogue_or_nothing", 4),
];

/// What the chip takes of a list is within its limits.
#[track_caller]
fn check(list: &str, trials: &[Trial]) {
    let card = rig::card().alone();
    let device = rig::open();
    let taken = taken(&*device, trials);
    let expected = TAKEN.iter().find(|(name, _)| *name == list).map_or(0, |(_, count)| *count);
    assert_eq!(taken.len(), expected, "{list}: so many of {}", trials.len());
    let mut wrong = failures(&*device, &taken, |_| true);
    if !wrong.is_empty() {
        wrong.push(format!("the card: {}", card.fault()));
    }
    hold(&wrong);
}

qiao_conformance::trials!(elementwise, check);
qiao_conformance::trials!(moves, check);
qiao_conformance::trials!(casts, check);
qiao_conformance::trials!(matmul, check);
