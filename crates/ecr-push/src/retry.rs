//! Trying again: the verdict is on the error, the waiting is backon's, the budget is one for the whole push.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::error::{Error, Result, Retry, Side};
use crate::events::{Event, Events};
use crate::text;
use crate::text::Setting;

/// The longest wait between two tries.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// A try that was cut off has cost what it sent by then. The next one waits twice as long as that took, up to this: what broke it
/// may last, and would cost the same again.
const MAX_COST: Duration = Duration::from_secs(5);

/// A try that fails within this time is refused, one way or the other.
const LASTED: Duration = Duration::from_secs(1);

/// Once there is trouble, a question may take what is left of the budget, and this at least.
const LAST_TRY: Duration = Duration::from_secs(30);

/// What to do when all tries are in vain.
const AGAIN: &str = "push again later";

/// How often something is tried again that will most likely fail again.
const BRIEF: usize = 3;

/// The sentence by which AWS throttles. It is known by that where a gateway has left another status or code on it (ecr-facts 3).
pub(crate) fn says_throttled(text: &str) -> bool {
    text.trim().trim_end_matches('.').eq_ignore_ascii_case("Rate exceeded")
}

/// Adds up the time during which somebody holds it: what goes on at the same time counts once. Clones share it.
#[derive(Clone, Default)]
pub struct Overlap(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    holders: usize,
    since: Option<Instant>,
    ended: Duration,
}

impl Overlap {
    /// Counts from now until what is returned is dropped.
    #[must_use]
    pub fn hold(&self) -> Holding {
        let mut held = self.lock();
        held.holders += 1;
        held.since.get_or_insert_with(Instant::now);
        Holding(self.clone())
    }

    /// The time so far.
    pub fn total(&self) -> Duration {
        let held = self.lock();
        held.ended + held.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Somebody who holds an [`Overlap`].
pub struct Holding(Overlap);

impl Drop for Holding {
    fn drop(&mut self) {
        let mut held = self.0.lock();
        held.holders -= 1;
        if held.holders == 0
            && let Some(since) = held.since.take()
        {
            held.ended += since.elapsed();
        }
    }
}

/// One budget of trouble for a whole push.
///
/// What counts is the time during which at least one operation is between its first failure and its recovery. Parallel
/// operations that fail together use it up once, and a long push that recovers each time is not stopped.
#[derive(Clone)]
pub struct RetryBudget {
    trouble: Overlap,
    waits: Overlap,
    retries: Arc<AtomicU64>,
    limit: Duration,
    /// Whether that is less than the user's.
    capped: bool,
    events: Events,
}

impl RetryBudget {
    /// A budget of `limit`.
    pub fn new(limit: Duration, events: Events) -> Self {
        let (trouble, waits, retries) = (Overlap::default(), Overlap::default(), Arc::default());
        Self { trouble, waits, retries, limit, capped: false, events }
    }

    /// The same budget, of which no more than `limit` may be used.
    #[must_use]
    pub fn at_most(&self, limit: Duration) -> Self {
        Self { limit: self.limit.min(limit), capped: self.capped || limit < self.limit, ..self.clone() }
    }

    /// How often anything was tried again.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// The time in which something waited for its turn or for another try. Others who wait on behalf of the push hold it too.
    pub fn waits(&self) -> &Overlap {
        &self.waits
    }

    /// Runs `operation` until it succeeds, fails for good, or the budget is used up. A try that begins in trouble may not outlive the
    /// budget by more than half a minute, and all tries together not by more than one of them.
    ///
    /// # Errors
    /// The last failure of `operation`.
    pub async fn run<T, F>(&self, what: &str, operation: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.repeat(what, true, operation).await
    }

    /// The same for an operation that may take any time, because it notices by itself when it stands still.
    ///
    /// # Errors
    /// The last failure of `operation`.
    pub async fn run_unhurried<T, F>(&self, what: &str, operation: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.repeat(what, false, operation).await
    }

    async fn repeat<T, F>(&self, what: &str, hurried: bool, mut operation: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut trouble = None;
        let mut tries = 0;
        let mut waits = back_off();
        let mut first = Duration::ZERO;
        let mut last: Option<Error> = None;
        loop {
            let started = Instant::now();
            let most = if hurried { bound(self.limit, self.trouble.total(), first) } else { None };
            // Boxed, because operations are large and there are many.
            let outcome = within(most, what, Box::pin(operation()), last.take()).await;
            let error = match outcome {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            trouble.get_or_insert_with(|| self.trouble.hold());
            tries += 1;
            if tries == 1 {
                first = started.elapsed();
            }
            match error.retry() {
                Retry::Backoff | Retry::Throttled => {}
                Retry::Brief if tries <= BRIEF => {}
                _ => return Err(error),
            }
            let spent = self.trouble.total();
            let for_contact = error.deadline().map(|at| at.saturating_duration_since(Instant::now()));
            let left = self.limit.saturating_sub(spent).min(for_contact.unwrap_or(Duration::MAX));
            if left.is_zero() {
                return Err(self.given_up(error, spent, tries));
            }
            // A connection that lasted was no refusal: the way is open at times, and waiting longer and longer would not open it.
            let is_broken = error.status().is_none();
            if is_broken && started.elapsed() > LASTED {
                waits = back_off();
            }
            let own = waits.next().unwrap_or(MAX_WAIT).min(MAX_WAIT);
            let own = if is_broken { own.max((2 * started.elapsed()).min(MAX_COST)) } else { own };
            // What the service asks for is the least: one that asks for no wait at all must not be asked a thousand times a second.
            let wait = error.retry_after().map_or(own, |asked| asked.max(own));
            let wait = wait.min(left.max(Duration::from_millis(50)));
            self.note(what, &error, wait);
            last = Some(error);
            let _waiting = self.waits.hold();
            tokio::time::sleep(wait).await;
        }
    }

    /// The last failure, with why it is the last.
    fn given_up(&self, error: Error, spent: Duration, tries: usize) -> Error {
        // A question within an operation has said so already.
        if error.hints().iter().chain(error.notes()).any(|text| text.names(Setting::RetryBudget)) {
            return error;
        }
        if spent < self.limit {
            let error = error.with_note(text![
                "a host that has never answered is not tried for longer (20 s at most): ",
                Setting::RetryBudget,
                " is for those that have"
            ]);
            // A connection that failed in a way that says more has a hint of its own.
            return match error.hints() {
                [] => error.with_hint(
                    "check the host's name and port, and whether a proxy setting, a firewall rule or a VPC endpoint is missing",
                ),
                _ => error,
            };
        }
        let tried = tried(tries, spent);
        match self.capped {
            true => error
                .with_note(text![tried, ", which is all that this step gets of ", Setting::RetryBudget])
                .with_hint(AGAIN),
            false => error.with_note(tried).with_hint(text![
                AGAIN,
                ", or let a push go on trying for longer with ",
                Setting::RetryBudget
            ]),
        }
    }

    fn note(&self, what: &str, error: &Error, wait: Duration) {
        self.retries.fetch_add(1, Ordering::Relaxed);
        self.events.emit(Event::Retrying { what: what.to_owned(), why: error.message().clone(), wait });
    }
}

/// How long a question may take once `spent` of the budget is gone, and its first try has taken `first`. There is no bound while nothing is
/// wrong.
fn bound(limit: Duration, spent: Duration, first: Duration) -> Option<Duration> {
    let last = LAST_TRY.saturating_sub(first).max(LASTED);
    (!spent.is_zero()).then(|| limit.saturating_sub(spent).max(last))
}

/// Runs one try for `most`. One that is cut off fails as the one before it did, which names the host and the cause.
async fn within<T>(
    most: Option<Duration>,
    what: &str,
    tried: impl Future<Output = Result<T>>,
    before: Option<Error>,
) -> Result<T> {
    let Some(most) = most else { return tried.await };
    tokio::time::timeout(most, tried).await.unwrap_or_else(|_| {
        Err(before.unwrap_or_else(|| {
            let text = format!("`{what}` was not answered within {} s", most.as_secs());
            Error::new(Side::Destination, what, text).with_retry(Retry::Backoff)
        }))
    })
}

/// What came of the budget, in words.
fn tried(tries: usize, spent: Duration) -> String {
    match (tries, spent.as_secs()) {
        (1, _) => "not tried again".to_owned(),
        (_, 0) => "tried again for less than a second".to_owned(),
        (_, seconds) => format!("tried again for {seconds} s"),
    }
}

fn back_off() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(MAX_WAIT)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(result.unwrap_err().hints()[0].names(Setting::RetryBudget));
        assert!((1..=4).contains(&budget.retries()), "{}", budget.retries());
        // Where it was a part of it, more of the whole would not help.
        let budget = RetryBudget::new(Duration::from_secs(60), Events::none()).at_most(Duration::from_millis(300));
        let result: Result<()> = budget.run("test", || async { Err(passing(Retry::Backoff)) }).await;
        let error = result.unwrap_err();
        assert!(error.notes()[0].contains("all that this step gets"), "{error:?}");
        assert_eq!(error.hints(), ["push again later"]);
    }

    #[test]
    fn no_time_is_told_as_no_seconds() {
        let words = |tries, millis| tried(tries, Duration::from_millis(millis));
        assert_eq!(words(1, 0), "not tried again");
        assert_eq!(words(3, 400), "tried again for less than a second");
        assert_eq!(words(3, 2400), "tried again for 2 s");
    }

    #[test]
    fn a_question_does_not_outlive_the_budget_by_much() {
        let seconds = Duration::from_secs;
        let none = Duration::ZERO;
        assert_eq!(bound(seconds(300), none, none), None);
        assert_eq!(bound(seconds(300), seconds(10), none), Some(seconds(290)));
        assert_eq!(bound(seconds(300), seconds(290), none), Some(LAST_TRY));
        assert_eq!(bound(seconds(2), seconds(5), none), Some(LAST_TRY));
        // A first try that took its whole limit is the one request by which the budget may be outlived.
        assert_eq!(bound(seconds(5), seconds(5), seconds(30)), Some(LASTED));
        assert_eq!(bound(seconds(300), seconds(10), seconds(30)), Some(seconds(290)));
    }

    #[tokio::test]
    async fn a_host_that_never_answered_is_not_tried_for_the_whole_budget() {
        let budget = RetryBudget::new(Duration::from_secs(60), Events::none());
        let deadline = Instant::now() + Duration::from_millis(600);
        let started = Instant::now();
        let refused = || async move { Err(passing(Retry::Backoff).with_deadline(deadline)) };
        let result: Result<()> = budget.run("test", refused).await;
        let error = result.unwrap_err();
        assert!(error.notes()[0].contains("a host that has never answered"), "{:?}", error.notes());
        assert_eq!(error.hints().len(), 1, "what to do");
        assert!((1..=3).contains(&budget.retries()) && started.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test]
    async fn a_budget_of_nothing_is_said_as_such() {
        let budget = RetryBudget::new(Duration::ZERO, Events::none());
        let result: Result<()> = budget.run("test", || async { Err(passing(Retry::Backoff)) }).await;
        assert_eq!(result.unwrap_err().notes(), ["not tried again"]);
        assert_eq!(budget.retries(), 0);
    }

    #[tokio::test]
    async fn a_service_that_asks_for_no_wait_is_not_asked_at_once() {
        let budget = RetryBudget::new(Duration::from_millis(600), Events::none());
        let eager = || async { Err(passing(Retry::Throttled).with_retry_after(Duration::ZERO)) };
        let result: Result<()> = budget.run("test", eager).await;
        assert!(result.is_err());
        assert!(budget.retries() <= 4, "{}", budget.retries());
        assert!(budget.waits().total() >= Duration::from_millis(500));
    }

    #[tokio::test]
    async fn a_try_that_was_cut_off_late_is_not_repeated_at_once() {
        let budget = RetryBudget::new(Duration::from_secs(60), Events::none());
        let mut left = 2;
        let result = budget
            .run("test", || {
                left -= 1;
                let again = left > 0;
                async move {
                    tokio::time::sleep(Duration::from_millis(900)).await;
                    if again { Err(passing(Retry::Backoff)) } else { Ok(()) }
                }
            })
            .await;
        assert!(
            result.is_ok() && budget.waits().total() >= Duration::from_millis(1800),
            "{:?}",
            budget.waits().total()
        );
    }

    #[test]
    fn what_goes_on_at_the_same_time_counts_once() {
        let overlap = Overlap::default();
        let (first, second) = (overlap.hold(), overlap.hold());
        std::thread::sleep(Duration::from_millis(20));
        drop(first);
        drop(second);
        let total = overlap.total();
        assert!((20..200).contains(&total.as_millis()), "{total:?}");
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(overlap.total(), total, "nobody holds it");
    }
}
