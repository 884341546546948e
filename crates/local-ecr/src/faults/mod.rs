//! Scripted faults: which request they meet, and what happens to it.

mod connection;
mod script;

use std::time::Duration;

use crate::config::Key;
use crate::util::wildcard;
pub use connection::{ConnectionAction, ConnectionFault};
pub(crate) use connection::{ConnectionHit, Window};
pub(crate) use script::Script;

/// A rule that makes matching requests fail. Conditions left out match everything.
///
/// ```
/// use local_ecr::{Answer, Fault, FaultAction};
/// // The second commit of a blob fails, once.
/// let fault = Fault::new(FaultAction::Answer(Answer::status(500))).method("PUT").path("/blobs/uploads/").skip(1).times(1);
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    /// The HTTP method, or several with `|` between them.
    pub method: Option<String>,
    /// A piece of the path and query; with `*` in it, a pattern for the whole.
    pub path: Option<String>,
    /// The API operation. A request to the registry has the name of the operation it stands for.
    pub operation: Option<String>,
    /// The least `Content-Length`. A request that does not tell its length matches.
    pub min_length: u64,
    /// Where in the body the action begins to count its bytes, as a fraction of `Content-Length`.
    pub part: Option<(u64, u64)>,
    /// How many matching requests pass first.
    pub skip: usize,
    /// How many matching requests it hits.
    pub times: usize,
    /// How long after the first matching request it begins; until then requests pass without being counted.
    pub later: Duration,
    /// How long after the first request it hit it ends.
    pub lasting: Duration,
    /// What happens to them.
    pub action: FaultAction,
}

impl Fault {
    /// A fault that hits every request, always.
    pub fn new(action: FaultAction) -> Self {
        Self {
            method: None,
            path: None,
            operation: None,
            min_length: 0,
            part: None,
            skip: 0,
            times: usize::MAX,
            later: Duration::ZERO,
            lasting: Duration::MAX,
            action,
        }
    }

    /// Hits only this HTTP method, or these: `PATCH|PUT`.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    /// Hits only paths that contain this, or that match it if it has a `*`.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    /// Hits only this API operation, through either door.
    #[must_use]
    pub fn operation(mut self, operation: &str) -> Self {
        self.operation = Some(operation.to_owned());
        self
    }

    /// Hits only requests whose body is at least this long, or of unknown length: an upload, but not that of a config.
    #[must_use]
    pub fn min_length(mut self, bytes: u64) -> Self {
        self.min_length = bytes;
        self
    }

    /// Lets the action count its bytes from this part of the body on: `from_part(1, 3)` with `Reset { after: 0 }` is a
    /// reset after the first third. `Close` and `EarlyAnswer` come when that much was read; other actions know no parts. A request
    /// that does not tell its length has none, and is counted from its start.
    #[must_use]
    pub fn from_part(mut self, part: u64, of: u64) -> Self {
        self.part = Some((part, of));
        self
    }

    /// Lets this many matching requests pass first.
    #[must_use]
    pub fn skip(mut self, skip: usize) -> Self {
        self.skip = skip;
        self
    }

    /// Hits no more than this many requests.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    /// Begins so long after the first matching request.
    #[must_use]
    pub fn later(mut self, time: Duration) -> Self {
        self.later = time;
        self
    }

    /// Ends so long after the first request it hit.
    #[must_use]
    pub fn lasting(mut self, time: Duration) -> Self {
        self.lasting = time;
        self
    }

    fn matches(&self, method: &str, path: &str, operation: &str, length: Option<u64>) -> bool {
        let path_matches = |wanted: &String| match wanted.contains('*') {
            true => wildcard(wanted, path),
            false => path.contains(wanted.as_str()),
        };
        let method_matches = |wanted: &str| wanted.split('|').any(|wanted| wanted.eq_ignore_ascii_case(method));
        self.method.as_deref().is_none_or(method_matches)
            && self.operation.as_deref().is_none_or(|wanted| wanted == operation)
            && self.path.as_ref().is_none_or(path_matches)
            && length.is_none_or(|length| length >= self.min_length)
    }

    /// What happens to a request with a body of this length.
    fn hit(&self, length: Option<u64>) -> Hit {
        let mut hit = Hit { action: self.action.clone(), read_first: 0 };
        let (Some((part, of)), Some(length)) = (self.part, length) else { return hit };
        let start = u128::from(length) * u128::from(part) / u128::from(of.max(1));
        let start = u64::try_from(start).unwrap_or(u64::MAX);
        match &mut hit.action {
            FaultAction::Pause { after, .. } | FaultAction::Reset { after } | FaultAction::Stall { after } => {
                *after = after.saturating_add(start);
            }
            _ => hit.read_first = start,
        }
        hit
    }
}

/// A fault that hits a request.
#[derive(Debug)]
pub(crate) struct Hit {
    pub action: FaultAction,
    /// Bytes of the body that are read before it happens.
    pub read_first: u64,
}

/// What happens to a request.
///
/// Those marked *state* change what [`LocalEcr`](crate::LocalEcr) keeps; a [`FaultProxy`](crate::FaultProxy) keeps nothing
/// and refuses them.
#[derive(Clone, Debug)]
pub enum FaultAction {
    /// The body is read, then this is answered instead of the request being served.
    Answer(Answer),
    /// The connection ends without an answer.
    Close,
    /// The request is served after this long.
    Delay(Duration),
    /// The request is served, and its answer is sent after this long.
    DelayAnswer(Duration),
    /// The body is read no faster than this, so that the sender has to wait.
    Drip {
        /// Bytes a second.
        per_second: u64,
    },
    /// The body of the answer is sent no faster than this.
    DripAnswer {
        /// Bytes a second.
        per_second: u64,
    },
    /// Answers without reading the body, then closes the connection.
    EarlyAnswer(Answer),
    /// The upload session that the request names ends before the request is served; if it names none, all sessions of
    /// its repository do (*state*).
    EndSessions,
    /// Every registry password handed out so far ends before the request is served (*state*).
    ExpireTokens,
    /// The connection ends without an answer, and the next ones that are opened fail as `action` says.
    FailConnections {
        /// How many.
        count: usize,
        /// What happens to each of them.
        action: ConnectionAction,
    },
    /// So many blobs of the repository are gone before the request is served, the largest first (*state*).
    ForgetBlobs(usize),
    /// Headers of the answer are replaced, added, or with `None` left out. A `Content-Length` may be a lie: the
    /// connection then ends short of it, or the body does.
    Headers(Vec<(String, Option<String>)>),
    /// The request is served, and the tag that it put reads for this long as it did before: not at all, or with the image that it had.
    /// ECR shows a new tag some hundred milliseconds late (*state*).
    HideTag(Duration),
    /// The answer's `Location` is replaced, or left out.
    Location(Option<String>),
    /// The request is served, and the connection ends without an answer.
    LoseAnswer,
    /// Somebody else moves a tag of the repository before the request is served (*state*).
    MoveTag {
        /// The tag that moves. It is made if it is not there.
        tag: String,
        /// Where to: another tag, or a digest. If neither is there, nothing moves.
        to: String,
    },
    /// After this many bytes of the body nothing is read for a while: a stall that heals.
    Pause {
        /// Bytes of the body that are read first.
        after: u64,
        /// How long the stall lasts.
        time: Duration,
    },
    /// The connection is reset after this many bytes of the body. An upload session keeps them.
    Reset {
        /// Bytes of the body that are read first.
        after: u64,
    },
    /// These access keys replace all others but those of roles before the request is served. Passwords handed out
    /// before stay good (*state*).
    RotateKeys(Vec<Key>),
    /// Nothing more is read, and nothing answered, after this many bytes of the body.
    Stall {
        /// Bytes of the body that are read first.
        after: u64,
    },
    /// The connection ends after this many bytes of the answer's body, with a `Content-Length` that promised more: the
    /// true one, or one byte more than is sent if the body is no longer than this.
    Truncate {
        /// Bytes of the body that are sent first.
        after: u64,
    },
}

impl FaultAction {
    /// Whether it changes what the server keeps, which a proxy does not have.
    pub(crate) fn is_of_state(&self) -> bool {
        matches!(
            self,
            Self::EndSessions
                | Self::ExpireTokens
                | Self::ForgetBlobs(_)
                | Self::HideTag(_)
                | Self::MoveTag { .. }
                | Self::RotateKeys(_)
        )
    }

    /// Replaces, adds or (with `None`) leaves out one header of the answer.
    pub fn header(name: &str, value: Option<&str>) -> Self {
        Self::Headers(vec![(name.to_owned(), value.map(str::to_owned))])
    }
}

/// A scripted answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The error code; without one the body is the bare message.
    pub code: Option<String>,
    /// The message of the error, or the bare body.
    pub message: String,
    /// More headers.
    pub headers: Vec<(String, String)>,
}

impl Answer {
    /// An answer with an empty body.
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// An error in the form of the door the request came through.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self { status, code: Some(code.to_owned()), message: message.to_owned(), headers: Vec::new() }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}
