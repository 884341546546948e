//! Values of inputs, read alike by the task for Azure Pipelines and the action for GitHub.

use clap::ValueEnum;
use ecr_push::compress::Compression;
use ecr_push::image::Platform;
use ecr_push::{Error, Result};

use crate::args::PushArgs;

const OPERATION: &str = "read the inputs";

/// The parts of a list: divided by commas or line breaks, without blanks around them.
pub fn list(text: &str) -> Vec<String> {
    text.split([',', '\n']).map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// The tags in the input `name`. None only if it is empty.
///
/// # Errors
/// If it holds separators and no tag: a variable in it was empty, and `latest` is not what was meant.
pub fn tags(name: &str, text: &str) -> Result<Vec<String>> {
    let tags = list(text);
    if tags.is_empty() && !text.trim().is_empty() {
        return Err(Error::refused(OPERATION, format!("`{name}` holds separators and no tag")).with_hint(format!(
            "give it a tag, or leave `{name}` empty to push `latest`; is a variable in it empty?"
        )));
    }
    Ok(tags)
}

/// The word of a list of words in the input `name`.
///
/// # Errors
/// If it is none of them. The error lists them.
pub fn choice<T: ValueEnum>(name: &str, text: &str) -> Result<T> {
    T::from_str(text, true).map_err(|_| {
        let words = T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        let words: Vec<String> = words.map(|word| format!("`{}`", word.get_name())).collect();
        Error::refused(OPERATION, format!("`{name}` is `{text}`, which is not known"))
            .with_hint(format!("write {}", words.join(", ")))
    })
}

/// What a task or action calls its inputs for the flags of the same meaning.
pub struct Names {
    pub platform: &'static str,
    pub attestations: &'static str,
    pub compression: &'static str,
    pub reuse: &'static str,
    pub reuse_from: &'static str,
    pub mount_from: &'static str,
    pub cache: &'static str,
}

/// Fills in what these inputs say. One that is not set leaves the flag's default.
///
/// # Errors
/// If one of them is a word that is not known.
pub fn fill(args: &mut PushArgs, names: &Names, input: impl Fn(&str) -> Option<String>) -> Result<()> {
    let input = |name: &str| input(name).filter(|value| !value.is_empty());
    let of = |name: &'static str| move |error: Error| error.prefixed(format!("`{name}`: "));
    args.selection.platform = input(names.platform);
    args.selection.platform.as_deref().map(str::parse::<Platform>).transpose().map_err(of(names.platform))?;
    if let Some(text) = input(names.attestations) {
        args.selection.attestations = choice(names.attestations, &text)?;
    }
    args.transfer.compression = input(names.compression);
    args.transfer.compression.as_deref().map(str::parse::<Compression>).transpose().map_err(of(names.compression))?;
    if let Some(text) = input(names.reuse) {
        args.reuse.reuse = choice(names.reuse, &text)?;
    }
    args.reuse.reuse_from = list(&input(names.reuse_from).unwrap_or_default());
    args.reuse.mount_from = list(&input(names.mount_from).unwrap_or_default());
    args.reuse.cache_dir = input(names.cache).map(Into::into);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::AttestationsArg;

    #[test]
    fn lists_are_divided_and_separators_alone_are_no_tags() {
        assert_eq!(list(" a, b\r\n c,,\n"), ["a", "b", "c"]);
        assert!(tags("pushTag", "").unwrap().is_empty() && tags("pushTag", " \n ").unwrap().is_empty());
        for separators in [",", " , ,", ",\n,"] {
            let error = tags("pushTag", separators).unwrap_err();
            assert!(error.is_refused() && error.message() == "`pushTag` holds separators and no tag", "{error}");
        }
    }

    #[test]
    fn an_unknown_word_is_refused_with_those_that_are_known() {
        assert_eq!(choice::<AttestationsArg>("x", "Lambda").unwrap(), AttestationsArg::Lambda);
        let error = choice::<AttestationsArg>("attestations", "none").unwrap_err();
        assert_eq!(error.message(), "`attestations` is `none`, which is not known");
        assert_eq!(error.hints(), ["write `keep`, `drop`, `lambda`"]);
    }
}
