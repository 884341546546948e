//! Scripted faults: which request they meet, and what happens to it.

use std::time::Duration;

use crate::util::wildcard;

/// A rule that makes matching requests fail. Conditions left out match everything.
///
/// ```
/// use local_ecr::{Answer, Fault, FaultAction};
/// // The second commit of a blob fails, once.
/// let fault = Fault::new(FaultAction::Answer(Answer::status(500))).method("PUT").path("/blobs/uploads/").skip(1).times(1);
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    /// The HTTP method.
    pub method: Option<String>,
    /// A piece of the path and query; with `*` in it, a pattern for the whole.
    pub path: Option<String>,
    /// The API operation. A request to the registry has the name of the operation it stands for.
    pub operation: Option<String>,
    /// How many matching requests pass first.
    pub skip: usize,
    /// How many matching requests it hits.
    pub times: usize,
    /// What happens to them.
    pub action: FaultAction,
}

impl Fault {
    /// A fault that hits every request, always.
    pub fn new(action: FaultAction) -> Self {
        Self { method: None, path: None, operation: None, skip: 0, times: usize::MAX, action }
    }

    /// Hits only this HTTP method.
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

    fn matches(&self, method: &str, path: &str, operation: &str) -> bool {
        let path_matches = |wanted: &String| match wanted.contains('*') {
            true => wildcard(wanted, path),
            false => path.contains(wanted.as_str()),
        };
        self.method.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
            && self.operation.as_deref().is_none_or(|wanted| wanted == operation)
            && self.path.as_ref().is_none_or(path_matches)
    }
}

/// What happens to a request.
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
    /// Answers without reading the body, then closes the connection.
    EarlyAnswer(Answer),
    /// Every registry password handed out so far ends before the request is served.
    ExpireTokens,
    /// The answer's `Location` is replaced, or left out.
    Location(Option<String>),
    /// The request is served, and the connection ends without an answer.
    LoseAnswer,
    /// The connection is reset after this many bytes of the body. An upload session keeps them.
    Reset {
        /// Bytes of the body that are read first.
        after: u64,
    },
    /// Nothing more is read, and nothing answered, after this many bytes of the body.
    Stall {
        /// Bytes of the body that are read first.
        after: u64,
    },
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

/// The script, with what is left of each fault.
#[derive(Debug, Default)]
pub(crate) struct Script(Vec<Fault>);

impl Script {
    pub fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The first fault that hits this request. Each fault that matches counts the request, even if an earlier one
    /// hits it: "the third PUT" must mean the same whatever else is scripted.
    pub fn meet(&mut self, method: &str, path: &str, operation: &str) -> Option<FaultAction> {
        let mut hit = None;
        for fault in self.0.iter_mut().filter(|fault| fault.matches(method, path, operation)) {
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if fault.times > 0 && hit.is_none() {
                fault.times -= 1;
                hit = Some(fault.action.clone());
            }
        }
        hit
    }
}
