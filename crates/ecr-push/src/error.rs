//! The one error type of the library.
//!
//! An error says which operation failed, on which side, what the service answered (code, status, request id), whether
//! another try may help, and what the user can do. Codes and statuses decide; sentences only enrich a hint. One opaque
//! struct instead of one enum per operation: every caller does the same three things with it (print, choose an exit
//! status, decide on a retry), and an enum per room would grow a variant for each sentence.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::text::Text;

/// The result of every fallible operation in this crate.
pub type Result<T> = std::result::Result<T, Error>;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Where the failure happened: a user's first question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What the user asked for contradicts itself or cannot be understood.
    Request,
    /// The place the image comes from: an engine, an archive, a layout.
    Source,
    /// Finding credentials or a region.
    Credentials,
    /// The destination registry or its API.
    Destination,
    /// This machine: disk, signals.
    Local,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "request",
            Self::Source => "source",
            Self::Credentials => "credentials",
            Self::Destination => "destination",
            Self::Local => "this machine",
        })
    }
}

/// May the failed operation be tried again?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same request will fail in the same way.
    Never,
    /// The cause may pass: wait, then try again.
    Backoff,
    /// It will most likely fail again, but a moment may mend it: a few more tries, not the whole budget.
    Brief,
    /// The service asks for less traffic: wait, then try again with fewer requests at once.
    Throttled,
    /// The credential was not accepted: get a new token, then try once more.
    NewToken,
    /// What the registry said it has is not there any more: look again, send it again.
    Resend,
}

/// A failed operation. See the [module documentation](self).
#[derive(Clone, Debug)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    side: Side,
    operation: String,
    message: Text,
    code: Option<String>,
    status: Option<u16>,
    request_id: Option<String>,
    retry: Retry,
    retry_after: Option<Duration>,
    deadline: Option<Instant>,
    hints: Vec<Text>,
    notes: Vec<Text>,
    refused: bool,
    /// Shared, so that an error which has passed through the AWS SDK can be taken out of the SDK's own.
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure of `operation` (a short verb phrase such as `export image`) on `side`. `message` is one sentence that
    /// says what is wrong and where. It is not tried again unless [`Error::with_retry`] says so.
    pub fn new(side: Side, operation: impl Into<String>, message: impl Into<Text>) -> Self {
        Self(Box::new(Inner {
            side,
            operation: operation.into(),
            message: clipped(message.into()),
            code: None,
            status: None,
            request_id: None,
            retry: Retry::Never,
            retry_after: None,
            deadline: None,
            hints: Vec::new(),
            notes: Vec::new(),
            refused: false,
            source: None,
        }))
    }

    /// Input that is refused before any network call (exit status 2).
    pub fn refused(operation: impl Into<String>, message: impl Into<Text>) -> Self {
        let mut error = Self::new(Side::Request, operation, message);
        error.0.refused = true;
        error
    }

    /// The same error as one of input that is refused before any network call.
    #[must_use]
    pub fn as_refused(mut self) -> Self {
        self.0.refused = true;
        self
    }

    /// The same error with `words` before its sentence: those by which a caller's users know this failure.
    #[must_use]
    pub fn prefixed(mut self, words: impl Into<Text>) -> Self {
        self.0.message = words.into().and(std::mem::take(&mut self.0.message));
        self
    }

    /// The same error in a better sentence. The first one becomes its cause.
    #[must_use]
    pub fn reworded(mut self, message: impl Into<Text>) -> Self {
        let first = Self(Box::new(Inner { hints: Vec::new(), notes: Vec::new(), ..(*self.0).clone() }));
        self.0.message = message.into();
        self.0.source = Some(Arc::new(first));
        self
    }

    /// Adds what the user can do about it. May be called several times; hints are shown in order.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Text>) -> Self {
        self.0.hints.push(clipped(hint.into()));
        self
    }

    /// Adds a fact that helps to understand the failure and asks for nothing: what was looked at, what is there.
    #[must_use]
    pub fn with_note(mut self, note: impl Into<Text>) -> Self {
        self.0.notes.push(clipped(note.into()));
        self
    }

    /// Puts `hints` in the place of all that were there.
    #[must_use]
    pub fn with_hints(mut self, hints: Vec<Text>) -> Self {
        self.0.hints = hints;
        self
    }

    /// Adds what the user should do before anything that is known already.
    #[must_use]
    pub fn with_first_hint(mut self, hint: impl Into<Text>) -> Self {
        self.0.hints.insert(0, clipped(hint.into()));
        self
    }

    /// Adds the service's own error code, such as `RepositoryNotFoundException` or `NAME_UNKNOWN`.
    #[must_use]
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.0.code = Some(code.into());
        self
    }

    /// Adds the HTTP status.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.0.status = Some(status);
        self
    }

    /// Adds the id under which the service knows the request.
    #[must_use]
    pub fn with_request_id(mut self, id: impl Into<String>) -> Self {
        self.0.request_id = Some(id.into());
        self
    }

    /// Sets the retry verdict.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// Adds the wait the service asks for (`Retry-After`).
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// Sets when trying again is over, if the budget is not used up before: a host that has never answered gets less than all of it.
    #[must_use]
    pub fn with_deadline(mut self, at: Instant) -> Self {
        self.0.deadline = Some(at);
        self
    }

    /// The same error as one of `operation` on `side`: whoever made it did not know what for.
    #[must_use]
    pub(crate) fn stamped(mut self, side: Side, operation: &str) -> Self {
        self.0.side = side;
        operation.clone_into(&mut self.0.operation);
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// Where it happened.
    pub fn side(&self) -> Side {
        self.0.side
    }

    /// What was being done.
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// The one sentence. A front end writes it with its own names for settings.
    pub fn message(&self) -> &Text {
        &self.0.message
    }

    /// The service's own error code.
    pub fn code(&self) -> Option<&str> {
        self.0.code.as_deref()
    }

    /// The HTTP status.
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// The id under which the service knows the request.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// The retry verdict.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// The wait the service asks for.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// When trying again is over, whatever is left of the budget.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline
    }

    /// What the user can do, in order of usefulness.
    pub fn hints(&self) -> &[Text] {
        &self.0.hints
    }

    /// Facts that help to understand it, in order of usefulness.
    pub fn notes(&self) -> &[Text] {
        &self.0.notes
    }

    /// True if the input was refused before any network call.
    pub fn is_refused(&self) -> bool {
        self.0.refused
    }
}

/// The longest sentence. What it quotes may come from outside, and be a whole document.
const LONGEST: usize = 4096;

/// The beginning of `text`, of whole words: half of a secret would not be recognised as one, and shown.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    let head = &text[..text.floor_char_boundary(most)];
    let splits_a_word = text[head.len()..].starts_with(|c: char| !c.is_whitespace());
    match head.rfind(char::is_whitespace) {
        _ if !splits_a_word => head,
        Some(end) => &head[..end],
        None => "",
    }
}

/// `text`, or its beginning and how much is missing.
fn clipped(mut text: Text) -> Text {
    let whole = text.len();
    if whole <= LONGEST {
        return text;
    }
    text.truncate(cut(&text, LONGEST).len());
    let left = whole - text.len();
    text.and(format!(" ... ({left} more bytes)"))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_that_quotes_a_whole_document_is_cut() {
        let error =
            Error::new(Side::Source, "read", "é ".repeat(100_000)).with_hint("x".repeat(4097)).with_first_hint("y");
        assert!(error.message().len() < 4130 && error.message().ends_with("é ... (295906 more bytes)"), "{error}");
        assert_eq!(error.hints()[0], "y");
        // Nothing of a word that is cut.
        assert_eq!(error.hints()[1], " ... (4097 more bytes)");
    }

    #[test]
    fn a_text_is_cut_between_words() {
        assert_eq!(cut("one two", 9), "one two");
        assert_eq!(cut("one two", 7), "one two");
        assert_eq!(cut("one two", 5), "one");
        assert_eq!(cut("one two", 3), "one");
        assert_eq!(cut("é two", 1), "");
    }
}
