//! Hostile input: for each place where bytes from outside come in, a function that hands it whatever it is given and checks what must
//! hold of the outcome. A panic is a finding.
//!
//! libFuzzer calls them (`fuzz/`, with the feature `fuzzing`); so do the tests of this crate, over the corpus in `fuzz/corpus` and
//! mutations of it. In no other build is this module there. A function that needs private items of a room lies in that room's `fuzz.rs`;
//! this module is the one door to all of them.

mod cache;
mod image;
mod names;
pub(crate) mod recipe;
pub(crate) mod sink;
#[cfg(unix)]
mod store;

#[cfg(test)]
mod tests;

pub use crate::aws::fuzz::token;
pub use crate::engine::fuzz::engine_answer;
pub use crate::registry::fuzz::registry_answer;
pub use crate::source::fuzz::{archive, layout};
pub use cache::cache;
pub use image::manifest;
pub use names::reference;
#[cfg(unix)]
pub use store::tar_split;

use crate::error::Error;

/// What separates the parts of an input: no text that is read here has it.
pub(crate) const SEPARATOR: u8 = 0x1e;

/// The longest sentence, with room for what is put before one: an error may quote a name from outside, never a whole document.
const LONGEST_SENTENCE: usize = 4400;

/// The parts of an input.
pub(crate) fn parts(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|byte| *byte == SEPARATOR)
}

/// What must hold of every error.
pub(crate) fn check_error(error: &Error) {
    let shown = std::iter::once(error.message()).chain(error.hints()).chain(error.notes());
    for text in shown {
        assert!(!text.is_empty(), "an error says something");
        assert!(text.len() <= LONGEST_SENTENCE, "{} bytes are no sentence: {:.200}", text.len(), text);
    }
}
