//! Sizes that kernels leave to the device: how much of a product one work-item or group takes at a time.

/// A size that the text of some kernels reads as a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Rows at once of a product of few rows on a processor.
    FewRows,
    /// Columns at once of it.
    FewColumns,
    /// Columns at once of it, where the weights' columns lie side by side.
    AcrossColumns,
    /// Rows of a group of a product of many rows on a processor.
    ManyRows,
    /// Columns of it, whose weights are numbers at a time.
    ManyColumns,
    /// Inputs of it that are numbers at a time.
    ManyInputs,
    /// Rows of it whose sums stand in registers.
    BlockRows,
    /// Columns of it whose sums stand in registers.
    BlockColumns,
    /// Work-items of a group of a product of few rows on a chip.
    Team,
    /// Columns of it.
    TeamColumns,
    /// Work-items of it that share a column, of a product of int8 codes.
    TeamLanes,
    /// Rows and columns of a group of a product of many rows on a chip.
    Tile,
    /// Inputs of it in local memory at a time.
    TileInputs,
}

impl Size {
    /// Every size, in the order of declaration.
    pub const ALL: [Size; 13] = [
        Size::FewRows,
        Size::FewColumns,
        Size::AcrossColumns,
        Size::ManyRows,
        Size::ManyColumns,
        Size::ManyInputs,
        Size::BlockRows,
        Size::BlockColumns,
        Size::Team,
        Size::TeamColumns,
        Size::TeamLanes,
        Size::Tile,
        Size::TileInputs,
    ];

    /// Its name, the definition that kernels see, and the values that they can work with.
    const fn row(self) -> (&'static str, &'static str, &'static [u32]) {
        match self {
            Size::FewRows => ("few_rows", "ROWS", &[1, 2, 4, 8]),
            Size::FewColumns => ("few_columns", "COLUMNS", &[2, 4, 8]),
            Size::AcrossColumns => ("across_columns", "WIDE", &[32, 64, 128, 256, 512]),
            Size::ManyRows => ("many_rows", "BAND", &[8, 16, 32, 64, 128]),
            Size::ManyColumns => ("many_columns", "SLOTS", &[8, 16, 32]),
            Size::ManyInputs => ("many_inputs", "DEEP", &[32, 64, 128, 256, 512, 1024]),
            Size::BlockRows => ("block_rows", "BLOCK_ROWS", &[1, 2, 4, 8]),
            Size::BlockColumns => ("block_columns", "BLOCK_COLUMNS", &[1, 2, 4, 8]),
            Size::Team => ("team", "GROUP", &[32, 64, 128, 256]),
            Size::TeamColumns => ("team_columns", "SLOTS", &[2, 4, 8, 16, 32]),
            Size::TeamLanes => ("team_lanes", "LANES", &[1, 2, 4, 8, 16, 32]),
            Size::Tile => ("tile", "TILE", &[32, 64, 128]),
            Size::TileInputs => ("tile_inputs", "DEEP", &[32, 64]),
        }
    }

    /// Its name for people.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// The definition that kernels see.
    pub const fn define(self) -> &'static str {
        self.row().1
    }

    /// The values that kernels can work with, ascending.
    pub const fn allowed(self) -> &'static [u32] {
        self.row().2
    }

    /// The size of this name.
    pub fn named(name: &str) -> Option<Size> {
        Size::ALL.into_iter().find(|size| size.name() == name)
    }
}
