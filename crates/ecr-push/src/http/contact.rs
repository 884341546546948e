//! Which hosts have answered, and how long one is tried that never has.
//!
//! A host that has answered once and then fails is an outage, and worth the whole budget. One that never has may as well be a wrong address,
//! a missing proxy or a firewall: a user wants to hear of that before the budget is gone, and nothing has been read by then. The rule is
//! here, below everything that speaks to a service, so that it is the same for the registry, the API, STS and every source of credentials.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;

use super::error::shown_host;
use crate::error::{Error, Retry};

/// How long a host is tried that has never answered, if the budget is not less.
const LONGEST: Duration = Duration::from_secs(20);

/// A smaller budget leaves one try so much.
const SHORTEST: Duration = Duration::from_secs(5);

/// The most that one try may take: what is lost on the way needs a second one.
const ONE_TRY: Duration = Duration::from_secs(10);

/// The last try has so much, and begins so long before the end.
const LAST_TRY: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
enum Contact {
    /// Nobody has answered since then.
    Tried(Instant),
    Answered,
}

pub(super) struct Contacts {
    limit: Duration,
    hosts: Mutex<HashMap<String, Contact>>,
}

impl Contacts {
    pub(super) fn new(budget: Duration) -> Self {
        Self { limit: budget.clamp(SHORTEST, LONGEST), hosts: Mutex::default() }
    }

    /// How long the next request to the host of `url` may take: `None` if it has answered before. `at_once` gives it all that is left, for a
    /// request that needs its time.
    pub(super) fn time_for(&self, url: &Url, at_once: bool) -> Option<Duration> {
        let mut hosts = self.lock();
        let contact = hosts.entry(shown_host(url)).or_insert_with(|| Contact::Tried(Instant::now()));
        let Contact::Tried(since) = contact else { return None };
        let one = if at_once { self.limit } else { (self.limit / 2).clamp(SHORTEST, ONE_TRY) };
        Some(one.min(self.limit.saturating_sub(since.elapsed())).max(LAST_TRY))
    }

    pub(super) fn note_answer(&self, url: &Url) {
        self.lock().insert(shown_host(url), Contact::Answered);
    }

    /// Decides whether a request that got no answer is tried again, by what is known of the host. One that has answered before can be resolved, and its
    /// certificate was accepted: a connection that cannot be opened now (`is_connect`) is an outage.
    pub(super) fn judged(&self, error: Error, is_connect: bool, url: &Url) -> Error {
        let contact = self.lock().get(&shown_host(url)).copied();
        match contact {
            Some(Contact::Answered) if is_connect => error.with_retry(Retry::Backoff),
            Some(Contact::Tried(since)) if error.retry() == Retry::Backoff => {
                error.with_deadline(since + self.limit - LAST_TRY)
            }
            _ => error,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Contact>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Side;

    #[test]
    fn a_host_that_never_answered_has_twenty_seconds_or_the_budget_and_one_try_at_least() {
        let url: Url = "https://registry.example/v2/".parse().unwrap();
        for (budget, one, at_once) in [(300, 10, 20), (20, 10, 20), (12, 6, 12), (5, 5, 5), (1, 5, 5), (0, 5, 5)] {
            let contacts = Contacts::new(Duration::from_secs(budget));
            // A little has passed between the two looks at the clock.
            let seconds = |at_once| contacts.time_for(&url, at_once).unwrap().as_secs_f64().ceil() as u64;
            assert_eq!((seconds(false), seconds(true)), (one, at_once), "{budget}");
        }
    }

    #[test]
    fn what_is_tried_again_depends_on_whether_the_host_has_answered() {
        let url: Url = "https://registry.example/v2/".parse().unwrap();
        let contacts = Contacts::new(Duration::from_secs(300));
        assert!(contacts.time_for(&url, false).is_some());
        let error = |retry| Error::new(Side::Destination, "test", "refused").with_retry(retry);
        let first = contacts.judged(error(Retry::Backoff), true, &url);
        assert!(first.deadline().is_some_and(|at| at > Instant::now()));
        assert_eq!(contacts.judged(error(Retry::Brief), true, &url).retry(), Retry::Brief, "most likely a wrong name");
        assert_eq!(contacts.judged(error(Retry::Never), true, &url).retry(), Retry::Never, "a certificate");
        contacts.note_answer(&url);
        assert_eq!(contacts.time_for(&url, false), None);
        let later = contacts.judged(error(Retry::Brief), true, &url);
        assert_eq!((later.retry(), later.deadline()), (Retry::Backoff, None), "an outage");
        // Another port is another server.
        assert!(contacts.time_for(&"https://registry.example:444/".parse().unwrap(), false).is_some());
    }
}
