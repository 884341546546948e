//! The clock of a server, which a test can set wrong or move on.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use crate::util::shifted;

/// What the server takes for the time: that of this machine, so many seconds ahead.
#[derive(Debug)]
pub(crate) struct Clock {
    ahead: AtomicI64,
}

impl Clock {
    pub fn new(seconds_ahead: i64) -> Self {
        Self { ahead: AtomicI64::new(seconds_ahead) }
    }

    pub fn now(&self) -> SystemTime {
        shifted(SystemTime::now(), self.ahead.load(Ordering::Relaxed))
    }

    /// Whether it shows another time than this machine's.
    pub fn is_shifted(&self) -> bool {
        self.ahead.load(Ordering::Relaxed) != 0
    }

    pub fn advance(&self, by: Duration) {
        let seconds = i64::try_from(by.as_secs()).unwrap_or(i64::MAX);
        let add = |ahead: i64| Some(ahead.saturating_add(seconds));
        let _ = self.ahead.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Whether so much time has gone by since then. A clock that was set back has not moved on.
    pub fn has_passed(&self, since: SystemTime, time: Duration) -> bool {
        self.now().duration_since(since).is_ok_and(|passed| passed >= time)
    }
}
