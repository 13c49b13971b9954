//! Guesses of what comes next: from the text itself, and from a smaller model.
//!
//! A guess is checked by the sequence's own choice: for every position the sampler chooses from the model's logits with the
//! uniform number that is that position's anyway, and a guess that says the same saves a step. So a text is that of no guesses at
//! all, whatever is guessed. (Accepting a guess by the ratio of probabilities, as in Leviathan et al. 2023, takes more of a draft
//! model's samples, and gives another text of the same distribution.)

mod draft;
mod lookup;

pub use draft::DraftModel;
pub use lookup::PromptLookup;
