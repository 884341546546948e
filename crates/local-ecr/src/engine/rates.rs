//! a token bucket for each API operation that has a rate.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

use crate::config::Rate;
use crate::util::lock;

pub(super) struct Rates {
    rates: HashMap<String, Rate>,
    buckets: Mutex<HashMap<String, (f64, Instant)>>,
}

impl Rates {
    pub fn new(rates: HashMap<String, Rate>) -> Self {
        Self { rates, buckets: Mutex::default() }
    }

    /// Takes a token; `false` if there is none.
    pub fn take(&self, operation: &str) -> bool {
        let Some(rate) = self.rates.get(operation) else {
            return true;
        };
        let now = Instant::now();
        let mut buckets = lock(&self.buckets);
        let (level, filled) = buckets.entry(operation.to_owned()).or_insert((rate.burst, now));
        *level = (*level + now.duration_since(*filled).as_secs_f64() * rate.per_second).min(rate.burst);
        *filled = now;
        if *level < 1.0 {
            return false;
        }
        *level -= 1.0;
        true
    }
}
