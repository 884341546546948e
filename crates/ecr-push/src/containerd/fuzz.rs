//! Names for containerd that mean no good: see [`crate::fuzzing`].

use super::name;

/// Reads `text` as an image's name and as a namespace.
pub(crate) fn names(text: &str) {
    if name::check_namespace(text).is_ok() {
        assert!(http::HeaderValue::from_str(text).is_ok(), "a namespace goes into a header: {text:?}");
    }
    if name::check(text).is_err() {
        return;
    }
    let candidates = name::candidates(text);
    assert_eq!(candidates.first().map(String::as_str), Some(text), "a name is asked for as it is written, first");
    let full = name::full(text);
    assert!(full.contains('/'), "{text:?}: {full}");
    assert!(full.starts_with(name::repository(&full)));
    if let Some(hex) = name::id(text) {
        assert!(text.ends_with(hex));
    }
}
