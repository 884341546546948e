//! `os/architecture[/variant]`.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A platform as `docker --platform` writes it, in normal form (`x86_64` is `amd64`, `aarch64` is `arm64`, and the
/// variant that an architecture implies is left out).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Platform {
    /// `linux`, `windows`, ...
    pub os: String,
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `v7` for 32-bit ARM, ...
    pub variant: Option<String>,
}

impl Platform {
    /// Puts the three parts into normal form.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (architecture, implied) = match architecture.to_lowercase().as_str() {
            "x86_64" | "x86-64" => ("amd64".to_owned(), None),
            "aarch64" => ("arm64".to_owned(), None),
            "armhf" => ("arm".to_owned(), Some("v7")),
            "armel" => ("arm".to_owned(), Some("v6")),
            other => (other.to_owned(), None),
        };
        let variant = variant.filter(|v| !v.is_empty()).or(implied);
        // Docker takes `linux/arm/7` too.
        let written = |variant: &str| match variant.bytes().all(|b| b.is_ascii_digit()) {
            true => format!("v{variant}"),
            false => variant.to_lowercase(),
        };
        let variant = variant
            .map(written)
            .filter(|variant| !matches!((architecture.as_str(), variant.as_str()), ("arm64", "v8") | ("amd64", "v1")));
        Self { os: os.to_lowercase(), architecture, variant }
    }

    /// True if an image for `other` is one for `self`, where `self` was asked for: without a variant, any will do.
    pub fn accepts(&self, other: &Self) -> bool {
        self.is_kind_of(other) && (self.variant.is_none() || self.variant == other.variant)
    }

    /// The one of `others` that is meant by `self`: the same, where there is one. Without a variant that is the common one of the architecture
    /// (`linux/arm` is v7, as Docker has it); else the only one there is.
    ///
    /// # Errors
    /// Those that it may be, where it is not one: none, or several.
    pub fn choose<'a, T>(&self, others: &'a [(T, Self)]) -> std::result::Result<&'a (T, Self), Vec<&'a (T, Self)>> {
        let those = |fits: &dyn Fn(&Self) -> bool| -> Vec<&'a (T, Self)> {
            others.iter().filter(|(_, other)| self.is_kind_of(other) && fits(other)).collect()
        };
        let common = (self.architecture == "arm" && self.variant.is_none()).then(|| "v7".to_owned());
        let mut found = those(&|other| other.variant == self.variant);
        if found.is_empty() && common.is_some() {
            found = those(&|other| other.variant == common);
        }
        if found.is_empty() && self.variant.is_none() {
            found = those(&|_| true);
        }
        match found.as_slice() {
            [one] => Ok(one),
            _ => Err(found),
        }
    }

    /// True if operating system and architecture are the same.
    pub fn is_kind_of(&self, other: &Self) -> bool {
        self.os == other.os && self.architecture == other.architecture
    }
}

/// Letters that no part of a platform has are shown as `?`: an image's author may write anything there, and logs and results are read
/// by programs.
impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        let parts = [Some(&self.os), Some(&self.architecture), self.variant.as_ref()];
        for (number, part) in parts.into_iter().flatten().enumerate() {
            if number > 0 {
                f.write_char('/')?;
            }
            let shown = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '?' };
            part.chars().take(LONGEST).try_for_each(|c| f.write_char(shown(c)))?;
        }
        Ok(())
    }
}

/// No part has more letters, nor is more of one shown. Those there are have fewer than ten.
const LONGEST: usize = 40;

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let plain = |part: &&str| {
            (1..=LONGEST).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(plain) {
            return Err(Error::refused(
                "parse platform",
                format!("`{text}` is not a platform: `linux/amd64` or `linux/arm/v7` is expected"),
            ));
        }
        Ok(Self::new(parts[0], parts[1], parts.get(2).copied()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_put_into_normal_form() {
        for (text, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm/v7", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/arm64/8", "linux/arm64"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), normal);
        }
        let long = format!("linux/{}", "x".repeat(41));
        for text in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/a b", &long] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_an_author_writes_there_is_shown_as_a_platform_or_as_question_marks() {
        let hostile = Platform::new("linux\n##vso[task.complete]", "amd\u{202e}64", Some("\u{1b}[2J/x"));
        assert_eq!(hostile.to_string(), "linux???vso?task.complete?/amd?64/??2j?x");
        assert!(Platform::new(&"x".repeat(100_000), "amd64", None).to_string().len() < 100);
    }

    #[test]
    fn of_several_the_same_is_chosen_and_of_others_the_only_one() {
        for (wanted, there, expected) in [
            ("linux/arm64/v8", &["linux/arm64/v9", "linux/arm64"][..], Some(1)),
            ("linux/amd64", &["linux/amd64/v3", "linux/amd64/v2", "linux/amd64"], Some(2)),
            ("linux/amd64/v1", &["linux/amd64/v3", "linux/amd64"], Some(1)),
            ("linux/amd64", &["linux/amd64/v3", "linux/amd64/v2"], None),
            ("linux/amd64", &["linux/arm64", "linux/amd64/v3"], Some(1)),
            ("linux/arm", &["linux/arm/v6", "linux/arm/v7", "linux/arm/v5"], Some(1)),
            ("linux/arm", &["linux/arm/v6", "linux/arm/v5"], None),
            ("linux/arm", &["linux/arm/v6", "linux/arm64"], Some(0)),
            ("linux/arm/v6", &["linux/arm/v7", "linux/arm"], None),
            ("windows/amd64", &["windows/amd64", "windows/amd64"], None),
            ("linux/amd64", &["windows/amd64", "linux/arm64"], None),
        ] {
            let wanted: Platform = wanted.parse().unwrap();
            let there: Vec<(usize, Platform)> =
                there.iter().enumerate().map(|(at, text)| (at, text.parse().unwrap())).collect();
            assert_eq!(wanted.choose(&there).ok().map(|(at, _)| *at), expected, "{wanted} of {there:?}");
        }
    }

    #[test]
    fn a_platform_without_a_variant_takes_any() {
        let wanted: Platform = "linux/arm".parse().unwrap();
        assert!(wanted.accepts(&"linux/arm/v7".parse().unwrap()));
        assert!(!wanted.accepts(&"linux/arm64".parse().unwrap()));
        let wanted: Platform = "linux/arm/v6".parse().unwrap();
        assert!(!wanted.accepts(&"linux/arm/v7".parse().unwrap()));
    }
}
