//! What whoever runs a server should know of. The library prints nothing.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Something that whoever runs a server or a proxy should know of: one sentence, as `Display` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// The layout of a repository cannot be read, so it is not served. Its files stay as they are.
    DamagedRepository {
        /// The repository.
        name: String,
        /// Where it lies.
        folder: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A request failed by no fault of the client, who is not shown the cause.
    Internal {
        /// The method and path of the request, or the work that no request stands for.
        operation: String,
        /// Why.
        cause: String,
    },
    /// New connections cannot be accepted, most likely because there are no more file descriptors. Reported once until one
    /// is accepted again.
    NotAccepting {
        /// Why.
        cause: String,
    },
    /// A proxy cannot reach the server it stands before.
    Unreachable {
        /// `HOST:PORT` of the server.
        server: String,
        /// Why.
        cause: String,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DamagedRepository { name, folder, cause } => write!(
                f,
                "the repository '{name}' is left out: {} cannot be read: {cause}; repair the folder or move it away, and \
                 start again",
                folder.display()
            ),
            Self::Internal { operation, cause } => write!(f, "internal error at {operation}: {cause}"),
            Self::NotAccepting { cause } => write!(f, "cannot accept connections for now: {cause}"),
            Self::Unreachable { server, cause } => write!(f, "cannot reach {server}: {cause}"),
        }
    }
}

type Listener = dyn Fn(&Notice) + Send + Sync;

/// Who gets the notices of a server. The default is nobody.
#[derive(Clone, Default)]
pub struct Notices(Option<Arc<Listener>>);

impl Notices {
    /// Calls `listener` with each notice, from any thread, while a request or the start waits for it.
    pub fn new(listener: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    pub(crate) fn report(&self, notice: &Notice) {
        if let Some(listener) = &self.0 {
            listener(notice);
        }
    }

    pub(crate) fn internal(&self, operation: impl Into<String>, cause: impl fmt::Display) {
        self.report(&Notice::Internal { operation: operation.into(), cause: cause.to_string() });
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Notices(..)" } else { "Notices(none)" })
    }
}
