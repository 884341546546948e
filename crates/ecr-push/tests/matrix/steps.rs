//! The steps of a push at which a fault can come.

use local_ecr::{Fault, FaultAction};

use crate::sources::Clean;

/// A step, in the order of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Token,
    Check,
    Initiate,
    First,
    Second,
    Third,
    Commit,
    Manifest,
    Tag,
}

impl Step {
    pub const ALL: [Self; 9] = [
        Self::Token,
        Self::Check,
        Self::Initiate,
        Self::First,
        Self::Second,
        Self::Third,
        Self::Commit,
        Self::Manifest,
        Self::Tag,
    ];

    /// What the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Check => "check",
            Self::Initiate => "initiate",
            Self::First => "1st third",
            Self::Second => "2nd third",
            Self::Third => "3rd third",
            Self::Commit => "commit",
            Self::Manifest => "manifest",
            Self::Tag => "tag",
        }
    }

    /// True while the bytes of a blob are sent, or committed.
    pub fn is_upload(self) -> bool {
        matches!(self, Self::First | Self::Second | Self::Third | Self::Commit)
    }

    /// True in the middle of a body.
    pub fn is_midway(self) -> bool {
        matches!(self, Self::First | Self::Second | Self::Third)
    }

    /// A fault that comes at this step of a push that otherwise goes as `clean` did. Uploads are those of the largest blob.
    pub fn fault(self, action: FaultAction, clean: &Clean) -> Fault {
        let fault = Fault::new(action);
        let upload = |fault: Fault| fault.operation("CompleteLayerUpload").min_length(clean.largest);
        match self {
            Self::Token => fault.operation("GetAuthorizationToken"),
            Self::Check => fault.operation("BatchCheckLayerAvailability"),
            Self::Initiate => fault.operation("InitiateLayerUpload"),
            Self::First => upload(fault).from_part(1, 6),
            Self::Second => upload(fault).from_part(3, 6),
            Self::Third => upload(fault).from_part(5, 6),
            Self::Commit => upload(fault).from_part(1, 1),
            Self::Manifest => fault.operation("PutImage"),
            Self::Tag => fault.operation("PutImage").skip(clean.manifests - 1),
        }
    }
}
