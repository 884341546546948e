//! Trying again: the verdict is on the error, the waiting is backon's, the budget is one for the whole push.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::error::{Error, Result, Retry};
use crate::events::{Event, Events};

/// The longest wait between two tries.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// How often something is tried again that will most likely fail again.
const BRIEF: usize = 3;

/// One budget of trouble for a whole push.
///
/// What counts is the time during which at least one operation is between its first failure and its recovery. Parallel
/// operations that fail together use it up once, and a long push that recovers each time is not stopped.
#[derive(Clone)]
pub struct RetryBudget {
    state: Arc<Mutex<State>>,
    limit: Duration,
    events: Events,
}

#[derive(Default)]
struct State {
    troubled: usize,
    since: Option<Instant>,
    spent: Duration,
    retries: u64,
}

impl RetryBudget {
    /// A budget of `limit`.
    pub fn new(limit: Duration, events: Events) -> Self {
        Self { state: Arc::default(), limit, events }
    }

    /// How often anything was tried again.
    pub fn retries(&self) -> u64 {
        self.lock().retries
    }

    /// Runs `operation` until it succeeds, fails for good, or the budget is used up.
    pub async fn run<T, F>(&self, what: &str, mut operation: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let error = match operation().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let trouble = self.enter();
        let mut error = error;
        let mut tries = 0;
        let mut waits = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(250))
            .with_max_delay(MAX_WAIT)
            .with_jitter()
            .without_max_times()
            .build();
        loop {
            tries += 1;
            match error.retry() {
                Retry::Backoff | Retry::Throttled => {}
                Retry::Brief if tries <= BRIEF => {}
                _ => return Err(error),
            }
            let spent = trouble.spent();
            if spent >= self.limit {
                let seconds = spent.as_secs();
                return Err(error.with_hint(format!(
                    "tried again for {seconds} s; `--retry-budget` sets how long a push may go on trying"
                )));
            }
            let wait = error.retry_after().or_else(|| waits.next()).unwrap_or(MAX_WAIT);
            let wait = wait.min(self.limit.saturating_sub(spent).max(Duration::from_millis(50)));
            self.note(what, &error, wait);
            tokio::time::sleep(wait).await;
            error = match operation().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
        }
    }

    fn note(&self, what: &str, error: &Error, wait: Duration) {
        self.lock().retries += 1;
        self.events.emit(Event::Retrying { what: what.to_owned(), why: error.message().to_owned(), wait });
    }

    fn enter(&self) -> Trouble<'_> {
        let mut state = self.lock();
        state.troubled += 1;
        state.since.get_or_insert_with(Instant::now);
        Trouble(self)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// An operation between its first failure and its end.
struct Trouble<'a>(&'a RetryBudget);

impl Trouble<'_> {
    fn spent(&self) -> Duration {
        let state = self.0.lock();
        state.spent + state.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Drop for Trouble<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.troubled -= 1;
        if state.troubled == 0
            && let Some(since) = state.since.take()
        {
            state.spent += since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Side;

    fn passing(retry: Retry) -> Error {
        Error::new(Side::Destination, "test", "it failed").with_retry(retry)
    }

    #[tokio::test]
    async fn a_passing_failure_is_tried_again() {
        let budget = RetryBudget::new(Duration::from_secs(60), Events::none());
        let mut left = 3;
        let result = budget
            .run("test", || {
                left -= 1;
                let again = left > 0;
                async move { if again { Err(passing(Retry::Backoff)) } else { Ok(7) } }
            })
            .await;
        assert_eq!(result.unwrap(), 7);
        assert_eq!(budget.retries(), 2);
    }

    #[tokio::test]
    async fn a_lasting_failure_is_not_tried_again() {
        let budget = RetryBudget::new(Duration::from_secs(60), Events::none());
        let result: Result<()> = budget.run("test", || async { Err(passing(Retry::Never)) }).await;
        assert!(result.is_err());
        assert_eq!(budget.retries(), 0);
    }

    #[tokio::test]
    async fn the_budget_ends_the_tries() {
        let budget = RetryBudget::new(Duration::from_millis(300), Events::none());
        let result: Result<()> = budget.run("test", || async { Err(passing(Retry::Backoff)) }).await;
        assert!(result.unwrap_err().hints()[0].contains("--retry-budget"));
        assert!((1..=4).contains(&budget.retries()), "{}", budget.retries());
    }
}
