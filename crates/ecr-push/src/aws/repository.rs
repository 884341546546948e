//! The repository: is it there, what are its rules, create it (ecr-facts 2.3).

use aws_sdk_ecr::types::ImageTagMutability;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::ecr::EcrApi;
use super::failure::{self, Answer};
use crate::error::Result;
use crate::image::{AccountId, RepositoryName, Tag};

/// The outcome of a creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// It was there already, or somebody else was faster. Both are success.
    pub existed: bool,
}

/// What is known of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryFacts {
    /// `HOST/NAME`.
    pub uri: String,
    /// May tags move?
    pub mutability: Mutability,
}

/// Whether a tag that exists may point to another image. The filters are patterns with `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mutability {
    /// All tags may move.
    Mutable,
    /// None may.
    Immutable,
    /// All but those that match a filter.
    MutableExcept(Vec<String>),
    /// Only those that match a filter.
    ImmutableExcept(Vec<String>),
    /// A value newer than this program.
    Unknown(String),
}

/// Is this tag fixed once it exists? What is not understood counts as movable: the registry has the last word.
pub fn tag_is_immutable(facts: &RepositoryFacts, tag: &Tag) -> bool {
    let excluded = |filters: &[String]| filters.iter().any(|filter| matches(filter, tag.as_str()));
    match &facts.mutability {
        Mutability::Mutable | Mutability::Unknown(_) => false,
        Mutability::Immutable => true,
        Mutability::MutableExcept(filters) => excluded(filters),
        Mutability::ImmutableExcept(filters) => !excluded(filters),
    }
}

/// `*` stands for any text, also none; everything else for itself.
fn matches(filter: &str, tag: &str) -> bool {
    let Some((head, rest)) = filter.split_once('*') else {
        return filter == tag;
    };
    let Some(mut left) = tag.strip_prefix(head) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    // The earliest place for each part leaves the most for the later ones.
    for part in parts {
        match left.split_once(part) {
            Some((_, after)) => left = after,
            None => return false,
        }
    }
    left.ends_with(tail)
}

impl EcrApi {
    /// The repository's facts, or `None` if it does not exist. A missing right is an error the caller may ignore: a push
    /// does not need `ecr:DescribeRepositories`.
    pub async fn describe_repository(
        &self,
        registry_id: Option<&AccountId>,
        repository: &RepositoryName,
    ) -> Result<Option<RepositoryFacts>> {
        let asked = self
            .client()
            .describe_repositories()
            .set_registry_id(registry_id.map(ToString::to_string))
            .repository_names(repository.as_str())
            .send()
            .await;
        match asked {
            Ok(answer) => Ok(answer.repositories().first().map(facts)),
            Err(error) if has_code(&error, "RepositoryNotFoundException") => Ok(None),
            Err(error) => {
                let call = self.call("ecr:DescribeRepositories", registry_id, Some(repository));
                Err(failure::map(&call, &error))
            }
        }
    }

    /// Creates the repository with the account's defaults. One that is already there is success.
    pub async fn create_repository(
        &self,
        registry_id: Option<&AccountId>,
        repository: &RepositoryName,
    ) -> Result<Created> {
        let asked = self
            .client()
            .create_repository()
            .set_registry_id(registry_id.map(ToString::to_string))
            .repository_name(repository.as_str())
            .send()
            .await;
        match asked {
            Ok(_) => Ok(Created { existed: false }),
            Err(error) if has_code(&error, "RepositoryAlreadyExistsException") => Ok(Created { existed: true }),
            Err(error) => {
                let call = self.call("ecr:CreateRepository", registry_id, Some(repository));
                Err(failure::map(&call, &error))
            }
        }
    }
}

fn has_code<E: ProvideErrorMetadata>(error: &aws_sdk_ecr::error::SdkError<E>, code: &str) -> bool {
    Answer::of(error).code.as_deref() == Some(code)
}

fn facts(repository: &aws_sdk_ecr::types::Repository) -> RepositoryFacts {
    let filters = || {
        repository.image_tag_mutability_exclusion_filters().iter().map(|filter| filter.filter().to_owned()).collect()
    };
    let mutability = match repository.image_tag_mutability() {
        None | Some(ImageTagMutability::Mutable) => Mutability::Mutable,
        Some(ImageTagMutability::Immutable) => Mutability::Immutable,
        Some(ImageTagMutability::MutableWithExclusion) => Mutability::MutableExcept(filters()),
        Some(ImageTagMutability::ImmutableWithExclusion) => Mutability::ImmutableExcept(filters()),
        Some(other) => Mutability::Unknown(other.as_str().to_owned()),
    };
    RepositoryFacts { uri: repository.repository_uri().unwrap_or_default().to_owned(), mutability }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_wildcards() {
        for (filter, tag, expected) in [
            ("latest", "latest", true),
            ("latest", "latest2", false),
            ("dev-*", "dev-1", true),
            ("dev-*", "dev-", true),
            ("dev-*", "prod-1", false),
            ("*", "anything", true),
            ("*-rc", "v1-rc", true),
            ("*-rc", "v1-rc2", false),
            ("v*.*-rc", "v1.2-rc", true),
            ("v*.*-rc", "v1-rc", false),
            ("a*a", "a", false),
            ("a*b*b", "ab", false),
            ("a*b*b", "abxb", true),
        ] {
            assert_eq!(matches(filter, tag), expected, "{filter} {tag}");
        }
    }

    #[test]
    fn each_mode_says_which_tags_are_fixed() {
        let filters = || vec!["dev-*".to_owned()];
        for (mutability, dev, release) in [
            (Mutability::Mutable, false, false),
            (Mutability::Immutable, true, true),
            (Mutability::MutableExcept(filters()), true, false),
            (Mutability::ImmutableExcept(filters()), false, true),
            (Mutability::Unknown("NEW".into()), false, false),
        ] {
            let facts = RepositoryFacts { uri: String::new(), mutability };
            assert_eq!(tag_is_immutable(&facts, &"dev-1".parse().unwrap()), dev, "{facts:?}");
            assert_eq!(tag_is_immutable(&facts, &"1.0".parse().unwrap()), release, "{facts:?}");
        }
    }
}
