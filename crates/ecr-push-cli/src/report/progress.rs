//! How far a push is, for systems that show a percentage.

use std::sync::Mutex;

use ecr_push::events::Event;

/// What comes before the layers, and what is left for manifests and tags.
const BEFORE: usize = 5;
const BEHIND: usize = 95;
/// Smaller steps are not worth a line.
const STEP: usize = 5;

/// Counts layers.
#[derive(Debug, Default)]
pub struct Progress(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    layers: usize,
    done: usize,
    told: usize,
}

impl Progress {
    /// Tells the percentage after `event`, if it has grown enough. It never falls: events come from several threads, so it
    /// is told before the next one counts.
    pub fn after(&self, event: &Event, tell: impl FnOnce(usize)) {
        let mut counts = super::lock(&self.0);
        let percent = match event {
            Event::Layers { count } => {
                counts.layers = *count;
                BEFORE
            }
            Event::BlobDone { .. } => {
                counts.done += 1;
                BEFORE + (BEHIND - BEFORE) * counts.done / (counts.layers.max(counts.done) + 1)
            }
            Event::Published { .. } => BEHIND,
            _ => return,
        };
        if counts.told == 0 && percent > 0 || percent >= counts.told + STEP {
            counts.told = percent;
            tell(percent);
        }
    }
}
