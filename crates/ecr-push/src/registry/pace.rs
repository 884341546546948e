//! How fast requests are made, for each kind of request.
//!
//! A service publishes how many requests of a kind it takes in a second, from everybody in an account together. Up to a second's worth
//! may go at once; after that they are spread. Whoever is told that it is too much goes at half the speed from then on, and faster again with
//! each request that passes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::retry::Overlap;

/// What is tried after the first 429 of a service of which no rate is known.
const FIRST_RATE: f64 = 8.0;

/// Never slower, in requests a second: the waits between retries do the rest.
const LOWEST_RATE: f64 = 0.5;

/// By how much the speed grows with each request that passes.
const GROWTH: f64 = 1.1;

/// Where no rate is known, this is as good as none.
const FREE: f64 = 200.0;

/// The speed of one registry's requests. Clones share it.
#[derive(Clone)]
pub struct Pace {
    kinds: Arc<Mutex<HashMap<&'static str, Kind>>>,
    waits: Overlap,
}

struct Kind {
    /// What the service publishes.
    published: Option<f64>,
    /// What it gets at present. None: as fast as it goes.
    rate: Option<f64>,
    /// Requests that may go at once.
    burst: f64,
    /// When the next one would go if all were spread evenly.
    due: Instant,
}

impl Kind {
    fn new(published: Option<f64>) -> Self {
        Self { published, rate: published, burst: published.unwrap_or_default(), due: Instant::now() }
    }

    /// Takes a turn. Answers when it comes.
    fn take(&mut self, now: Instant) -> Instant {
        let Some(rate) = self.rate else { return now };
        let due = self.due.max(now);
        self.due = due + Duration::from_secs_f64(1.0 / rate);
        let early = Duration::from_secs_f64((self.burst - 1.0).max(0.0) / rate);
        due.checked_sub(early).unwrap_or(now)
    }

    fn slow_down(&mut self) {
        let rate = self.rate.map_or(FIRST_RATE, |rate| rate / 2.0).max(LOWEST_RATE);
        self.rate = Some(rate);
        // Others use up the same rate: what is published does not help now.
        self.burst = 1.0;
    }

    fn speed_up(&mut self) {
        // Only what was slowed down.
        if self.burst > 1.0 {
            return;
        }
        let Some(rate) = self.rate else { return };
        let faster = rate * GROWTH;
        self.rate = match self.published {
            Some(published) => Some(faster.min(published)),
            None if faster > FREE => None,
            None => Some(faster),
        };
    }
}

impl Pace {
    /// Starts with what a service publishes: requests a second for each kind. Time in which a request waits for its turn is told to
    /// `waits`.
    pub fn new(published: &[(&'static str, f64)], waits: &Overlap) -> Self {
        let kinds = published.iter().map(|(kind, rate)| (*kind, Kind::new(Some(*rate)))).collect();
        Self { kinds: Arc::new(Mutex::new(kinds)), waits: waits.clone() }
    }

    /// Waits until a request of this kind may go.
    pub(super) async fn turn(&self, kind: &'static str) {
        let now = Instant::now();
        let at = self.lock().entry(kind).or_insert_with(|| Kind::new(None)).take(now);
        if at > now {
            let _waiting = self.waits.hold();
            tokio::time::sleep_until(at.into()).await;
        }
    }

    /// Notes that a request of this kind was answered, and whether it was one too many.
    pub(super) fn answered(&self, kind: &'static str, throttled: bool) {
        if let Some(kind) = self.lock().get_mut(kind) {
            if throttled { kind.slow_down() } else { kind.speed_up() }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<&'static str, Kind>> {
        self.kinds.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When `count` requests that all come at once would go.
    fn times(kind: &mut Kind, count: usize) -> Vec<f64> {
        let now = kind.due.max(Instant::now());
        (0..count).map(|_| kind.take(now).saturating_duration_since(now).as_secs_f64()).collect()
    }

    fn is_close(times: &[f64], expected: &[f64]) -> bool {
        times.len() == expected.len()
            && times.iter().zip(expected).all(|(time, expected)| (time - expected).abs() < 1e-6)
    }

    #[test]
    fn a_seconds_worth_goes_at_once_and_the_rest_is_spread() {
        let mut kind = Kind::new(Some(4.0));
        let times = times(&mut kind, 7);
        assert!(is_close(&times, &[0.0, 0.0, 0.0, 0.0, 0.25, 0.5, 0.75]), "{times:?}");
    }

    #[test]
    fn what_has_no_rate_is_not_held_up_until_it_is_too_much() {
        let mut kind = Kind::new(None);
        assert!(is_close(&times(&mut kind, 3), &[0.0, 0.0, 0.0]));
        kind.slow_down();
        assert_eq!(kind.rate, Some(FIRST_RATE));
        let times = times(&mut kind, 3);
        assert!(is_close(&times, &[0.0, 0.125, 0.25]), "{times:?}");
    }

    #[test]
    fn the_speed_is_halved_by_refusals_and_comes_back_with_success() {
        let mut kind = Kind::new(Some(10.0));
        kind.slow_down();
        kind.slow_down();
        assert_eq!((kind.rate, kind.burst), (Some(2.5), 1.0));
        (0..100).for_each(|_| kind.slow_down());
        assert_eq!(kind.rate, Some(LOWEST_RATE));
        (0..100).for_each(|_| kind.speed_up());
        assert_eq!(kind.rate, Some(10.0), "no faster than what is published");
        let mut free = Kind::new(None);
        free.slow_down();
        (0..100).for_each(|_| free.speed_up());
        assert_eq!(free.rate, None);
    }

    #[tokio::test]
    async fn the_time_of_waiting_is_told() {
        let waits = Overlap::default();
        let pace = Pace::new(&[("put", 20.0)], &waits);
        for _ in 0..20 {
            pace.turn("put").await;
        }
        assert_eq!(waits.total(), Duration::ZERO);
        pace.turn("put").await;
        pace.turn("other").await;
        assert!(waits.total() > Duration::ZERO);
    }
}
