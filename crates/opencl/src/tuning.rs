//! What suits a device, as data: a row for each kind, from which `QIAO_OPENCL_TUNING` departs.

use qiao_core::{Error, Result};

/// The variable that departs from a row: `name=number`, separated by commas.
const DEPART: &str = "QIAO_OPENCL_TUNING";

/// What kernels divide work by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuning {
    /// Whether a processor runs the device's groups: a group is then one work-item that keeps its numbers in registers, since
    /// barriers cost much there and neighbours share no instruction.
    pub(crate) is_processor: bool,
    /// Work-items of a group whose kernel works element by element.
    pub(crate) walk: u32,
    /// Work-items of a group whose kernel works row by row.
    pub(crate) rows: u32,
}

/// Processors.
const PROCESSOR: Tuning = Tuning { is_processor: true, walk: 64, rows: 1 };
/// Chips that run the items of a group side by side.
const GROUPS: Tuning = Tuning { is_processor: false, walk: 256, rows: 128 };

impl Tuning {
    /// The row of a kind of device, with what the environment says otherwise; no group has more than `most` work-items.
    ///
    /// # Errors
    /// A name that is none, or what is no number above 0.
    pub(crate) fn of(is_processor: bool, most: u32) -> Result<Tuning> {
        let departures = std::env::var(DEPART).unwrap_or_default();
        Tuning::departing(if is_processor { PROCESSOR } else { GROUPS }, &departures, most)
    }

    fn departing(mut row: Tuning, departures: &str, most: u32) -> Result<Tuning> {
        for departure in departures.split(',').map(str::trim).filter(|d| !d.is_empty()) {
            let refused = |found: &str| {
                let mend = format!("write name=number for some of {}, separated by commas", NAMES.join(", "));
                Error::invalid(format!("{DEPART}={departures}"), format!("'{departure}' {found}"), mend)
            };
            let Some((name, value)) = departure.split_once('=') else { return Err(refused("is no name=number")) };
            let Ok(value) = value.trim().parse::<u32>() else { return Err(refused("has no number")) };
            match name.trim() {
                "processor" if value < 2 => row.is_processor = value == 1,
                "walk" if value > 0 => row.walk = value,
                "rows" if value > 0 => row.rows = value,
                known if NAMES.contains(&known) => return Err(refused("has a number that it can't have")),
                _ => return Err(refused("is not known")),
            }
        }
        row.walk = row.walk.min(most.max(1));
        // Halves of a team meet again and again, and four teams share a group.
        row.rows = match row.rows.min(most) {
            ..4 => 1,
            most => 1 << most.ilog2(),
        };
        Ok(row)
    }
}

/// Every number by name.
const NAMES: [&str; 3] = ["processor", "walk", "rows"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_departed_from_by_name() {
        let row = Tuning::departing(PROCESSOR, "processor=0, rows=100", 4096).unwrap();
        assert_eq!(row, Tuning { is_processor: false, walk: 64, rows: 64 });
        assert_eq!(Tuning::departing(GROUPS, "", 64).unwrap(), Tuning { walk: 64, rows: 64, ..GROUPS });
        assert_eq!(Tuning::departing(GROUPS, "rows=3", 64).unwrap().rows, 1);
    }

    #[test]
    fn what_is_no_departure_is_told() {
        for (text, said) in
            [("walk", "no name=number"), ("walk=x", "no number"), ("walk=0", "can't have"), ("a=1", "not known")]
        {
            let error = Tuning::departing(GROUPS, text, 64).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("walk, rows"), "{error}");
        }
    }
}
