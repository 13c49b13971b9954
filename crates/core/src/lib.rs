//! The words of Qiao: dtypes, shapes, the operator list, graphs, and the contract between a model and a chip.
