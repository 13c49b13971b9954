//! Products of int8 codes: for processors by rows, for chips that run many work-items side by side by teams.

use crate::kernel::{Group, Kernel};
use crate::size::Size;

const SCALED: &str = include_str!("../../text/scaled.cl");
const ROWS: &[&str] = &[SCALED, include_str!("../../text/scaled_rows.cl")];
const TEAM: &[&str] = &[SCALED, include_str!("../../text/scaled_team.cl")];

/// Weights, activations, both scales, bias, what joins the sum, result, and what it is.
const fn row(
    symbol: &'static str,
    texts: &'static [&'static str],
    options: &'static str,
    group: Group,
    sizes: &'static [Size],
) -> Kernel {
    Kernel { symbol, texts, options, sizes, group, params: "ppppppps" }
}

pub(crate) const KERNELS: &[Kernel] = &[
    row("scaled_rows_1", ROWS, "-DROWS=1", Group::One, &[Size::FewColumns]),
    row("scaled_rows_n", ROWS, "", Group::One, &[Size::FewRows, Size::FewColumns]),
    row("scaled_team_1", TEAM, "-DROWS=1", Group::Team, &[Size::TeamLanes]),
    row("scaled_team_8", TEAM, "-DROWS=8", Group::Team, &[Size::TeamLanes]),
];
