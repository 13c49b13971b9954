//! The adaptation report: one set of facts, written in several forms.
