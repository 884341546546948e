//! Sentences for people, in which what a user can set is a value and no word.
//!
//! A flag, an input of a CI task and an environment variable may set the same thing. The library knows the thing, a
//! [`Setting`]; a front end knows what its users call it, and how that is quoted. So a sentence that speaks of one is a
//! [`Text`]: plain text and settings, made by [`text!`](crate::text!) and written by the front end with its own names
//! ([`Text::written`]). Read as a `str`, a text has neutral names, which are those of the request's fields.
//!
//! ```
//! use ecr_push::text::{Setting, Text};
//!
//! let advice: Text = ecr_push::text!["choose one with ", Setting::Platform.with("linux/amd64"), ", or push them all"];
//! let shown = advice.written(|named| match named.setting {
//!     Setting::Platform => format!("`--platform {}`", named.value.as_deref().unwrap_or_default()),
//!     _ => unreachable!(),
//! });
//! assert_eq!(shown, "choose one with `--platform linux/amd64`, or push them all");
//! ```

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::ops::{Deref, Range};

/// Declares the settings, each with its neutral name.
macro_rules! settings {
    ($($(#[$doc:meta])* $setting:ident = $name:literal,)*) => {
        /// What a user can set. A front end has a word for each of them: a `match` over all finds the one that is missing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Setting {
            $($(#[$doc])* $setting,)*
        }

        impl Setting {
            /// Every setting.
            pub const ALL: &'static [Self] = &[$(Self::$setting,)*];

            /// The neutral name: what the setting is called where no front end is asked.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$setting => $name,)*
                }
            }
        }
    };
}

settings! {
    /// Whether attestations are pushed with an index.
    Attestations = "attestations",
    /// A PEM file of trusted certificates.
    CaBundle = "ca_bundle",
    /// Where this host remembers known layers.
    CacheDir = "cache_dir",
    /// How layers are compressed.
    Compression = "compression",
    /// Where a host is reached instead.
    ConnectTo = "connect_to",
    /// The socket of containerd.
    ContainerdAddress = "containerd_address",
    /// The namespace of containerd.
    ContainerdNamespace = "containerd_namespace",
    /// Whether a missing repository is created. A switch.
    CreateRepository = "create_repository",
    /// The docker context that names the engine.
    DockerContext = "docker_context",
    /// The engine's address.
    DockerHost = "docker_host",
    /// Whether nothing is sent. A switch.
    DryRun = "dry_run",
    /// Whether dual-stack endpoints are used. A switch.
    DualStack = "dual_stack",
    /// The ECR API's address.
    EndpointUrl = "endpoint_url",
    /// Whether layers are read from the engine's own store.
    EngineStore = "engine_store",
    /// The external id that a role asks for.
    ExternalId = "external_id",
    /// Whether FIPS endpoints are used. A switch.
    Fips = "fips",
    /// How many large layers are sent at a time.
    Jobs = "jobs",
    /// A repository whose blobs are mounted.
    MountFrom = "mount_from",
    /// A file that the result is written to.
    OutputFile = "output_file",
    /// Whether http is spoken to a registry elsewhere. A switch.
    PlainHttp = "plain_http",
    /// The one platform to push.
    Platform = "platform",
    /// The AWS profile.
    Profile = "profile",
    /// The AWS region.
    Region = "region",
    /// The account that owns the repository.
    RegistryId = "registry_id",
    /// The ECR repository.
    Repository = "repository",
    /// How long a push may go on trying.
    RetryBudget = "retry_budget",
    /// Which pairs of layer and blob are used.
    Reuse = "reuse",
    /// A tag whose image has known layers.
    ReuseFrom = "reuse_from",
    /// The role to assume.
    RoleArn = "role_arn",
    /// How long the role's session lasts, in seconds.
    RoleDuration = "role_duration_seconds",
    /// The name of the role's session.
    RoleSessionName = "role_session_name",
    /// The tag to push under.
    Tag = "tag",
    /// Whether the engine's image gets the names that were pushed. A switch.
    TagLocal = "tag_local",
    /// Where temporary files go.
    TempDir = "temp_dir",
    /// How many threads compress.
    Threads = "threads",
    /// A repository of any registry.
    To = "to",
    /// How long is waited until a tag can be read back.
    WaitVisible = "wait_visible",
    /// The variable that holds an identity token.
    WebIdentityTokenEnv = "web_identity_token_env",
}

impl Setting {
    /// This setting with a value that it has, or should have.
    pub fn with(self, value: impl fmt::Display) -> Named {
        Named { setting: self, value: Some(value.to_string()) }
    }
}

/// A setting as a sentence names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Which one.
    pub setting: Setting,
    /// The value that the sentence names with it.
    pub value: Option<String>,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.setting.name();
        match &self.value {
            Some(value) => write!(f, "`{name}: {value}`"),
            None => write!(f, "`{name}`"),
        }
    }
}

/// A sentence, or a part of one. As a `str` it is the whole, with neutral names.
#[derive(Clone, Default)]
pub struct Text {
    neutral: String,
    /// Where settings are named in it, first ones first.
    names: Vec<(Range<usize>, Named)>,
}

impl Text {
    /// This text and `more` behind it.
    #[must_use]
    pub fn and(mut self, more: impl Into<Self>) -> Self {
        let more = more.into();
        let shift = self.neutral.len();
        self.neutral.push_str(&more.neutral);
        self.names.extend(more.names.into_iter().map(|(at, named)| (at.start + shift..at.end + shift, named)));
        self
    }

    /// True if it names `setting`.
    pub fn names(&self, setting: Setting) -> bool {
        self.names.iter().any(|(_, named)| named.setting == setting)
    }

    /// The text with each setting in the words of `name`.
    pub fn written(&self, name: impl Fn(&Named) -> String) -> String {
        let mut text = String::with_capacity(self.neutral.len());
        let mut from = 0;
        for (at, named) in &self.names {
            text.push_str(&self.neutral[from..at.start]);
            text.push_str(&name(named));
            from = at.end;
        }
        text.push_str(&self.neutral[from..]);
        text
    }

    /// Its first `len` bytes, which end a letter. A name that is cut is plain text from then on.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.neutral.truncate(len);
        self.names.retain(|(at, _)| at.end <= len);
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<String> for Text {
    fn from(neutral: String) -> Self {
        Self { neutral, names: Vec::new() }
    }
}

impl From<&String> for Text {
    fn from(text: &String) -> Self {
        text.clone().into()
    }
}

impl From<Cow<'_, str>> for Text {
    fn from(text: Cow<'_, str>) -> Self {
        text.into_owned().into()
    }
}

impl From<&Self> for Text {
    fn from(text: &Self) -> Self {
        text.clone()
    }
}

impl From<Setting> for Text {
    fn from(setting: Setting) -> Self {
        Named { setting, value: None }.into()
    }
}

impl From<Named> for Text {
    fn from(named: Named) -> Self {
        let neutral = named.to_string();
        Self { names: vec![(0..neutral.len(), named)], neutral }
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.neutral
    }
}

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        self
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        **self == *other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        **self == **other
    }
}

impl PartialEq<String> for &Text {
    fn eq(&self, other: &String) -> bool {
        ***self == **other
    }
}

impl PartialEq<String> for Text {
    fn eq(&self, other: &String) -> bool {
        **self == **other
    }
}

/// A number of things, with the word that fits it: `1 blob`, `2 blobs`.
pub fn count<N: fmt::Display + PartialEq + From<u8>>(number: N, one: &str, many: &str) -> String {
    let word = if number == N::from(1) { one } else { many };
    format!("{number} {word}")
}

/// A [`Text`](crate::text::Text) of parts, in their order: strings, texts, settings, settings with a value.
///
/// ```
/// use ecr_push::text::Setting;
///
/// let text = ecr_push::text!["leave out ", Setting::Region, format!(", or correct {}", "the host")];
/// assert_eq!(text, "leave out `region`, or correct the host");
/// ```
#[macro_export]
macro_rules! text {
    ($($part:expr),+ $(,)?) => {
        $crate::text::Text::default()$(.and($part))+
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upper(named: &Named) -> String {
        named.to_string().to_uppercase()
    }

    #[test]
    fn settings_are_written_with_the_names_of_the_one_who_shows_them() {
        let text = text!["ä ", Setting::Tag, " and ", Setting::Platform.with("linux/amd64"), String::from(" ö")];
        assert_eq!(text, "ä `tag` and `platform: linux/amd64` ö");
        assert_eq!(text.written(upper), "ä `TAG` and `PLATFORM: LINUX/AMD64` ö");
        // Whole texts are parts too, and what looks like a name is none.
        let text = text!["`tag` ", &text, Setting::Tag];
        assert_eq!(text.written(upper), "`tag` ä `TAG` and `PLATFORM: LINUX/AMD64` ö`TAG`");
        assert!(text.names(Setting::Platform) && !text.names(Setting::Region));
    }

    #[test]
    fn a_text_that_is_cut_keeps_the_names_that_are_whole() {
        let mut text = text![Setting::Tag, " ", Setting::Region];
        text.truncate(8);
        assert_eq!(text.written(upper), "`TAG` `r");
    }

    #[test]
    fn one_is_one() {
        assert_eq!(
            [0_usize, 1, 2].map(|number| count(number, "entry", "entries")),
            ["0 entries", "1 entry", "2 entries"]
        );
        assert_eq!(count(1_u64, "byte", "bytes"), "1 byte");
    }

    #[test]
    fn neutral_names_differ() {
        let names: std::collections::BTreeSet<_> = Setting::ALL.iter().map(|setting| setting.name()).collect();
        assert_eq!(names.len(), Setting::ALL.len());
        let is_word = |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        assert!(names.iter().all(|name| is_word(name)), "{names:?}");
    }
}
