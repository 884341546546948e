//! Names: repository, tag, account, region. Parsed at the border, trusted inside.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

text_type! {
    /// A repository name: 2 to 256 characters, components of lower-case letters and digits joined by `.`, `_`, `__` or
    /// hyphens, separated by `/` (ecr-facts 2.3, the pattern of the API model).
    RepositoryName
}

text_type! {
    /// A tag: a letter, digit or `_`, then up to 127 letters, digits, `.`, `_` or `-` (distribution-spec).
    Tag
}

text_type! {
    /// An AWS account id: twelve digits.
    AccountId
}

text_type! {
    /// An AWS region code in normal form, such as `us-east-1`. Any code is accepted, so that a region newer than this
    /// program works; only its shape is checked.
    Region
}

impl FromStr for RepositoryName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if is_repository_name(text) {
            return Ok(Self(text.to_owned()));
        }
        let error = Error::refused(
            "parse repository name",
            if (2..=256).contains(&text.len()) {
                format!(
                    "the repository name `{text}` is not allowed: use lower-case letters, digits and single `.`, `_`, `-` \
                     or `/` between them"
                )
            } else {
                format!("the repository name `{text}` is not allowed: it must have 2 to 256 characters")
            },
        );
        let corrected = correct_repository_name(text);
        Err(if is_repository_name(&corrected) {
            error.with_hint(format!("did you mean `{corrected}`?"))
        } else {
            error
        })
    }
}

impl FromStr for Tag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if is_tag(text) {
            return Ok(Self(text.to_owned()));
        }
        let error = Error::refused(
            "parse tag",
            format!(
                "the tag `{text}` is not allowed: 1 to 128 letters, digits, `.`, `_` and `-`, not starting with `.` or `-`"
            ),
        );
        let replaced: String = text
            .trim()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
            .take(128)
            .collect();
        let corrected = replaced.trim_start_matches(['.', '-']);
        Err(if is_tag(corrected) { error.with_hint(format!("did you mean `{corrected}`?")) } else { error })
    }
}

impl FromStr for AccountId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(Self(text.to_owned()));
        }
        let message = format!("`{text}` is not an AWS account id: twelve digits are expected");
        let error = Error::refused("parse account id", message);
        // The console shows it in groups.
        let digits = text.trim().replace(['-', ' '], "");
        let is_meant = digits.len() == 12 && digits.bytes().all(|b| b.is_ascii_digit());
        Err(if is_meant { error.with_hint(format!("did you mean `{digits}`?")) } else { error })
    }
}

impl FromStr for Region {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let normal = text.trim().to_lowercase().replace('_', "-");
        let well_formed = normal.len() <= 64
            && !normal.starts_with('-')
            && !normal.ends_with('-')
            && normal.contains('-')
            && normal.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if well_formed {
            return Ok(Self(normal));
        }
        Err(Error::refused(
            "parse region",
            format!("`{text}` is not a region code: something like `us-east-1` is expected"),
        )
        .with_hint(
            "the address of the AWS console begins with it: https://eu-west-1.console.aws.amazon.com is `eu-west-1`",
        ))
    }
}

fn is_repository_name(text: &str) -> bool {
    (2..=256).contains(&text.len()) && text.split('/').all(is_component)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(plain) || !bytes.last().is_some_and(plain) {
        return false;
    }
    bytes.split(plain).all(|joint| matches!(joint, b"" | b"." | b"_" | b"__") || joint.iter().all(|b| *b == b'-'))
}

fn correct_repository_name(text: &str) -> String {
    let spaced: String = text
        .trim()
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-/".contains(c) { c } else { '-' })
        .collect();
    let components = spaced.split('/').map(|component| {
        let mut out = String::new();
        for c in component.trim_matches(['.', '_', '-']).chars() {
            let doubled = !c.is_ascii_alphanumeric() && out.ends_with(|last: char| !last.is_ascii_alphanumeric());
            if !doubled {
                out.push(c);
            }
        }
        out
    });
    components.filter(|component| !component.is_empty()).collect::<Vec<_>>().join("/")
}

fn is_tag(text: &str) -> bool {
    let head = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = text.bytes();
    text.len() <= 128 && bytes.next().is_some_and(head) && bytes.all(|b| head(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_names_follow_the_pattern_of_the_api_model() {
        for good in ["ab", "a/b", "team/app", "a.b", "a_b", "a__b", "a--b", "0a", "a---b/c.d"] {
            assert!(good.parse::<RepositoryName>().is_ok(), "{good}");
        }
        for bad in
            ["", "a", "A/b", "team/", "/team", "a..b", "a___b", "-ab", "ab-", "a b", "a//b", "é/a", &"a".repeat(257)]
        {
            assert!(bad.parse::<RepositoryName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_refused_name_comes_with_a_corrected_one() {
        for (bad, hint) in [
            ("Team/My App", "did you mean `team/my-app`?"),
            ("team//app/", "did you mean `team/app`?"),
            ("a..b", "did you mean `a.b`?"),
        ] {
            assert_eq!(bad.parse::<RepositoryName>().unwrap_err().hints(), [hint]);
        }
        assert_eq!("feature/x+1".parse::<Tag>().unwrap_err().hints(), ["did you mean `feature-x-1`?"]);
        assert_eq!("..".parse::<Tag>().unwrap_err().hints().len(), 0);
    }

    #[test]
    fn regions_are_understood_in_any_case_and_with_underscores() {
        for (text, code) in [("us_west_2", "us-west-2"), ("US-EAST-1", "us-east-1"), ("xx-new-1", "xx-new-1")] {
            assert_eq!(text.parse::<Region>().unwrap().as_str(), code);
        }
        for bad in ["", "useast1", "us-east-1.evil.example", "us east 1", "-us-1", "us-east-1/"] {
            assert!(bad.parse::<Region>().is_err(), "{bad}");
        }
    }
}
