//! What happens to many transfers at the same moment is said once, and then how often.

use std::time::{Duration, Instant};

/// What comes again within this time is counted and not shown.
const WINDOW: Duration = Duration::from_secs(2);

/// The lines of the last moment.
#[derive(Debug, Default)]
pub struct Repeats(Vec<Repeat>);

#[derive(Debug)]
struct Repeat {
    text: String,
    since: Instant,
    more: usize,
}

impl Repeats {
    /// True if `text` is to be shown. If not, it is counted.
    pub fn is_new(&mut self, text: &str, now: Instant) -> bool {
        if let Some(known) = self.0.iter_mut().find(|known| known.text == text) {
            known.more += 1;
            return false;
        }
        self.0.push(Repeat { text: text.to_owned(), since: now, more: 0 });
        true
    }

    /// What was counted until its moment was over; with no `now`, all that was.
    pub fn over(&mut self, now: Option<Instant>) -> Vec<String> {
        let is_over = |repeat: &mut Repeat| now.is_none_or(|now| now.duration_since(repeat.since) >= WINDOW);
        let over = self.0.extract_if(.., is_over).filter(|repeat| repeat.more > 0);
        over.map(|repeat| format!("{} ({} times within {} s)", repeat.text, repeat.more + 1, WINDOW.as_secs()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lines_of_one_moment_are_counted() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut repeats = Repeats::default();
        assert!(repeats.is_new("a failed", at(0)) && repeats.is_new("b failed", at(10)));
        assert_eq!((1..12).filter(|n| repeats.is_new("a failed", at(100 * n))).count(), 0);
        assert!(repeats.over(Some(at(1900))).is_empty());
        assert_eq!(repeats.over(Some(at(2000))), ["a failed (12 times within 2 s)"]);
        // A new moment, and what is left at the end. What came once was shown.
        assert!(repeats.is_new("a failed", at(2100)) && !repeats.is_new("a failed", at(2200)));
        assert_eq!(repeats.over(None), ["a failed (2 times within 2 s)"]);
        assert!(repeats.over(None).is_empty());
    }
}
