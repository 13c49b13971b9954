//! What suits a device, as data: a row for each kind, from which `QIAO_OPENCL_TUNING` departs.

use qiao_core::{Error, Result};
use qiao_kernels_opencl::{Group, Kernel, Size};

/// The variable that departs from a row: `name=number`, separated by commas.
const DEPART: &str = "QIAO_OPENCL_TUNING";

/// The most that `walk`, `rows` and `shares` can be.
const MOST: u32 = 1 << 20;

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
    /// Groups of one work-item that each compute unit of a processor is given, so that one that is held up gets less to do.
    pub(crate) shares: u32,
    /// Sizes of products, in the order of [`Size::ALL`].
    sizes: [u32; Size::ALL.len()],
}

/// Processors.
const PROCESSOR: Tuning =
    Tuning { is_processor: true, walk: 64, rows: 1, shares: 4, sizes: [4, 8, 128, 32, 8, 512, 4, 8, 64, 8, 8, 64, 32] };
/// Chips that run the items of a group side by side.
const GROUPS: Tuning = Tuning { is_processor: false, walk: 256, rows: 128, ..PROCESSOR };

/// The device's limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Work-items of a group, at most.
    pub(crate) items: u32,
    /// Bytes of local memory.
    pub(crate) local: u32,
}

impl Tuning {
    /// The row of a kind of device, with what the environment says otherwise, within the device's limits.
    ///
    /// # Errors
    /// A name that is none, or a number that the name can't have.
    pub(crate) fn of(is_processor: bool, limits: Limits) -> Result<Tuning> {
        let departures = std::env::var(DEPART).unwrap_or_default();
        // What has no room for any tile is worked on by groups of one work-item, as a processor is.
        let is_chip = !is_processor && GROUPS.fitting(limits).has_tile(limits);
        let row = if is_chip { GROUPS } else { PROCESSOR };
        Tuning::departing(row, &departures, limits)
    }

    /// How large a size is.
    pub(crate) fn size(&self, size: Size) -> u32 {
        self.sizes[size as usize]
    }

    /// Work-items of a group of a kernel.
    pub(crate) fn items(&self, kernel: &Kernel) -> u32 {
        match kernel.group {
            Group::One => 1,
            Group::Walk => self.walk,
            Group::Rows => self.rows,
            Group::Team => self.size(Size::Team),
            Group::Tile => self.tile_items(),
        }
    }

    fn departing(row: Tuning, departures: &str, limits: Limits) -> Result<Tuning> {
        let mut row = row.fitting(limits);
        for departure in departures.split(',').map(str::trim).filter(|d| !d.is_empty()) {
            let refused = |found: String, mend: String| {
                Error::invalid(format!("{DEPART}={departures}"), format!("'{departure}' {found}"), mend)
            };
            let Some((name, value)) = departure.split_once('=') else {
                return Err(refused("is no name=number".into(), format!("write it for some of {}", names())));
            };
            let name = name.trim();
            let Some(allowed) = allowed(name) else {
                return Err(refused("is not known".into(), format!("name some of {}", names())));
            };
            let value = value.trim().parse::<u32>().ok().filter(|&value| allowed.holds(value));
            let Some(value) = value else {
                return Err(refused("has a value that it can't have".into(), format!("{name} is {}", allowed.words())));
            };
            row.set(name, value);
        }
        row.within(limits, departures)
    }

    fn set(&mut self, name: &str, value: u32) {
        match name {
            "processor" => self.is_processor = value == 1,
            "walk" => self.walk = value,
            "rows" => self.rows = value,
            "shares" => self.shares = value,
            size => self.sizes[Size::named(size).expect("names were checked") as usize] = value,
        }
    }

    /// The row with the largest tile, not above its own, that the device has groups and local memory for.
    fn fitting(mut self, limits: Limits) -> Tuning {
        let own = [Size::Tile, Size::TileInputs].map(|size| (size, self.size(size)));
        let [tiles, inputs] = own.map(|(size, own)| size.allowed().iter().rev().filter(move |&&a| a <= own));
        for (&tile, &inputs) in tiles.flat_map(|tile| inputs.clone().map(move |inputs| (tile, inputs))) {
            self.sizes[Size::Tile as usize] = tile;
            self.sizes[Size::TileInputs as usize] = inputs;
            if self.has_tile(limits) {
                break;
            }
        }
        self
    }

    /// Whether the device has groups and local memory for the tile.
    fn has_tile(&self, limits: Limits) -> bool {
        self.tile_items() <= limits.items && self.tile_bytes() <= limits.local
    }

    /// Work-items of a tile's group.
    fn tile_items(&self) -> u32 {
        (self.size(Size::Tile) / 4).pow(2)
    }

    /// Bytes of local memory of it.
    fn tile_bytes(&self) -> u32 {
        2 * self.size(Size::TileInputs) * (self.size(Size::Tile) + 4) * size_of::<f32>() as u32
    }

    /// The row with groups that the device can have.
    fn within(mut self, limits: Limits, departures: &str) -> Result<Tuning> {
        let most = limits.items.max(1);
        self.walk = self.walk.min(most);
        // Halves of a team meet again and again, and four teams share a group.
        self.rows = match self.rows.min(most) {
            ..4 => 1,
            most => 1 << most.ilog2(),
        };
        if self.is_processor {
            return Ok(self);
        }
        let [team, columns, lanes, tile, inputs] =
            [Size::Team, Size::TeamColumns, Size::TeamLanes, Size::Tile, Size::TileInputs].map(|size| self.size(size));
        let over = |found: String, mend: String| Err(Error::invalid(format!("{DEPART}={departures}"), found, mend));
        for (size, items) in [(Size::Team, team), (Size::Tile, self.tile_items())] {
            if items > most {
                let found = format!("{}={} takes groups of {items} work-items", size.name(), self.size(size));
                return over(found, format!("the device's have {most} at most: name a smaller {}", size.name()));
            }
        }
        for (size, each) in [(Size::TeamColumns, columns), (Size::TeamLanes, lanes)] {
            if each > team {
                let found = format!("{}={each} is more than team={team}", size.name());
                return over(found, format!("name a smaller {}, or a larger team", size.name()));
            }
        }
        let bytes = self.tile_bytes();
        if bytes > limits.local {
            let found = format!("tile={tile} with tile_inputs={inputs} takes {bytes} bytes of local memory");
            return over(found, format!("the device has {}: name a smaller one", limits.local));
        }
        Ok(self)
    }
}

/// The values that a name can have.
enum Allowed {
    UpTo(u32, u32),
    Some(&'static [u32]),
}

impl Allowed {
    fn holds(&self, value: u32) -> bool {
        match self {
            Allowed::UpTo(least, most) => (*least..=*most).contains(&value),
            Allowed::Some(values) => values.contains(&value),
        }
    }

    fn words(&self) -> String {
        match self {
            Allowed::UpTo(least, most) => format!("a number from {least} to {most}"),
            Allowed::Some(values) => {
                format!("one of {}", values.iter().map(u32::to_string).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// What a name can be, if there is such a name.
fn allowed(name: &str) -> Option<Allowed> {
    match name {
        "processor" => Some(Allowed::UpTo(0, 1)),
        "walk" | "rows" | "shares" => Some(Allowed::UpTo(1, MOST)),
        size => Size::named(size).map(|size| Allowed::Some(size.allowed())),
    }
}

/// Every name.
fn names() -> String {
    let sizes = Size::ALL.map(Size::name);
    ["processor", "walk", "rows", "shares"].iter().chain(&sizes).copied().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMPLE: Limits = Limits { items: 4096, local: 1 << 16 };
    const SMALL: Limits = Limits { items: 256, local: 1 << 15 };

    #[test]
    fn a_row_is_departed_from_by_name() {
        let row = Tuning::departing(PROCESSOR, "processor=0, rows=100,tile=32", AMPLE).unwrap();
        assert_eq!((row.is_processor, row.walk, row.rows, row.size(Size::Tile)), (false, 64, 64, 32));
        let sizes = PROCESSOR.sizes.iter().zip(row.sizes).filter(|(a, b)| *a != b).count();
        assert_eq!(sizes, 1);
        let narrow = Limits { items: 64, ..AMPLE };
        assert_eq!(Tuning::departing(PROCESSOR, "rows=3", narrow).unwrap().rows, 1);
        assert_eq!(Tuning::departing(GROUPS, "tile=32", narrow).unwrap().walk, 64);
    }

    #[test]
    fn rows_hold_what_kernels_can_work_with() {
        for row in [PROCESSOR, GROUPS] {
            for size in Size::ALL {
                assert!(size.allowed().contains(&row.size(size)), "{}", size.name());
            }
            assert_eq!(Tuning::departing(row, "", SMALL).unwrap(), row);
        }
    }

    #[test]
    fn a_row_has_the_largest_tile_that_fits_and_a_named_one_is_refused() {
        for (items, local, tile) in [(256, 17_408, 64), (255, 1 << 15, 32), (64, 1 << 15, 32), (256, 17_407, 32)] {
            let limits = Limits { items, local };
            let row = Tuning::departing(GROUPS, "", limits).unwrap();
            assert_eq!((row.size(Size::Tile), row.size(Size::TileInputs)), (tile, 32), "{limits:?}");
            assert_eq!(Tuning::departing(GROUPS, "tile=64", limits).is_ok(), tile == 64, "{limits:?}");
        }
        for (items, local) in [(63, 1 << 15), (256, 9_215)] {
            assert!(Tuning::of(false, Limits { items, local }).unwrap().is_processor);
        }
    }

    #[test]
    fn what_is_no_departure_is_told_with_what_would_be_one() {
        for (text, said, mend) in [
            ("walk", "'walk' is no name=number", "walk, rows, shares"),
            ("walk=x", "'walk=x' has a value", "walk is a number from 1 to"),
            ("walk=0", "'walk=0' has a value", "walk is a number from 1 to"),
            ("processor=2", "'processor=2' has a value", "processor is a number from 0 to 1"),
            ("rows=2,tile=48", "'tile=48' has a value", "tile is one of 32, 64, 128"),
            ("a=1", "'a=1' is not known", "tile_inputs"),
            ("tile=128", "tile=128 takes groups of 1024 work-items", "256 at most: name a smaller tile"),
            ("team=32,team_columns=8,team_lanes=16,tile_inputs=64", "takes 34816 bytes", "the device has 32768"),
            ("team=32,team_columns=32", "", ""),
            ("team=64,team_columns=16,tile=32,tile_inputs=64", "", ""),
        ] {
            match Tuning::departing(GROUPS, text, SMALL).map_err(|e| e.to_string()) {
                Ok(_) => assert_eq!(said, "", "{text}"),
                Err(error) => assert!(!said.is_empty() && error.contains(said) && error.contains(mend), "{error}"),
            }
        }
    }
}
