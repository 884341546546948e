//! The end of a push: every tag is seen to point at the image.
//!
//! ECR takes a tag and answers "not found" for some hundred milliseconds, so that a deployment that begins right after a push fails.
//! And a neighbour may have moved a tag meanwhile: one that was there already is put then; one that this push has put is not put
//! again, because two pushes that both did so would not end.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::publish::{FRESH, Point, Publish};
use crate::error::{Error, Result, Retry, Side};
use crate::events::Event;
use crate::registry::Found;
use crate::text;
use crate::text::{Setting, Text};

/// How long a tag that was there already may take to be read again, where no other time was asked for.
const AGAIN: Duration = Duration::from_secs(10);

/// A question that is asked at the end of the time still gets so long for its answer.
const ANSWER: Duration = Duration::from_secs(2);

/// The first wait between two questions, and the longest.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// What became of a question.
enum Seen {
    AsItShouldBe,
    /// Something else, or nothing.
    Other(Option<Found>),
    /// Who may not read pushes without.
    Denied(Error),
    Unanswered(Text),
}

impl Publish<'_> {
    /// Waits until each tag is read to point at what it should: those that this push has put, where that is wanted; and those that were
    /// there already, if they were read a while ago.
    ///
    /// # Errors
    /// If one does not within the time.
    pub(super) async fn confirm(&self, points: &mut [Point]) -> Result<()> {
        let (mut started, limit) = (Instant::now(), self.wait.unwrap_or(AGAIN));
        let (mut pause, mut waiting) = (WAIT.0, None);
        // The registry has just taken something with this token.
        self.destination.repository.need_no_token_to_read();
        loop {
            let is_due = |point: &&mut Point| match point.seen {
                Some(at) => at.elapsed() >= FRESH,
                None => self.wait.is_some(),
            };
            let due: Vec<&mut Point> = points.iter_mut().filter(is_due).collect();
            if due.is_empty() {
                return Ok(());
            }
            let answer = limit.saturating_sub(started.elapsed()).max(ANSWER);
            let asked = join_all(due.iter().map(|point| self.see(point, answer))).await;
            let is_late = started.elapsed() >= limit;
            let (mut open, mut unread, mut again) = (None, None, false);
            for (point, seen) in due.into_iter().zip(asked) {
                match seen {
                    Seen::AsItShouldBe => point.seen = Some(Instant::now()),
                    Seen::Denied(error) => unread = Some(Event::Detail(format!("tags cannot be read back: {error}"))),
                    Seen::Other(_) if !point.is_put => {
                        *point = Point { is_put: true, ..self.put_tag(&point.tag).await? };
                        again = true;
                    }
                    Seen::Other(found) if is_late => return Err(self.not_there(point, found.as_ref(), limit)),
                    Seen::Unanswered(why) if is_late => {
                        let tag = &point.tag;
                        let text = format!("the tag `{tag}` could not be read back: {why}");
                        unread = Some(Event::Warning(text.into()));
                    }
                    Seen::Other(_) | Seen::Unanswered(_) => open = open.or(Some(point.tag.clone())),
                }
            }
            // What was put just now has its time. No tag is put twice, so this ends.
            if again {
                started = Instant::now();
                continue;
            }
            let Some(tag) = open else {
                // That nobody answers is no sign of anything wrong: the registry has said that it took the tag.
                let Some(unread) = unread else { continue };
                self.events.emit(unread);
                return Ok(());
            };
            if waiting.is_none() {
                waiting = Some(self.retry.waits().hold());
                let seconds = limit.as_secs_f64();
                self.events.notice(format!(
                    "the registry does not show the tag `{tag}` as it was put yet; it is waited for up to {seconds} s"
                ));
            }
            tokio::time::sleep(pause.min(limit.saturating_sub(started.elapsed()))).await;
            pause = (2 * pause).min(WAIT.1);
        }
    }

    /// Reads one tag.
    async fn see(&self, point: &Point, limit: Duration) -> Seen {
        let read = tokio::time::timeout(limit, self.destination.repository.manifest(point.tag.as_str())).await;
        match read {
            Ok(Ok(Some(found))) if found.digest == point.found.digest => Seen::AsItShouldBe,
            Ok(Ok(found)) => Seen::Other(found),
            Ok(Err(error)) => match error.retry() {
                Retry::Backoff | Retry::Brief | Retry::Throttled => Seen::Unanswered(error.message().to_owned()),
                _ => Seen::Denied(error),
            },
            Err(_) => Seen::Unanswered(format!("no answer came within {} s", limit.as_secs()).into()),
        }
    }

    fn not_there(&self, point: &Point, found: Option<&Found>, limit: Duration) -> Error {
        let (tag, ours, repository, seconds) =
            (&point.tag, point.found.digest, &self.destination.uri, limit.as_secs_f64());
        let fail = |text: String| Error::new(Side::Destination, "read tag back", text);
        match found {
            Some(found) => fail(format!(
                "the tag `{tag}` of {repository} was put to {ours} and points at {} after {seconds} s: somebody else has moved it \
                 meanwhile, or the registry shows what was there before",
                found.digest
            ))
            .with_hint("let pushes to one tag wait for each other, or push under tags of their own"),
            None => fail(format!(
                "the registry took the tag `{tag}` of {repository}, and does not show it after {seconds} s"
            ))
            .with_hint(text!["push again; ", Setting::WaitVisible, " sets how long is waited, and `off` does not wait"]),
        }
    }
}
