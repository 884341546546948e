//! Secrets that are known by their form alone: those that others hold, and that a service, a proxy or an engine says back.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex_lite::Regex;

/// What a text must hold to be looked at, the form, and what is shown in its place.
const FORMS: [(&[&str], &str, &str); 4] = [
    // No sentence has a word of twenty letters behind these.
    (&["asic ", "ASIC ", "earer ", "EARER "], r"(?i)\b(basic|bearer) +[a-z0-9+/=._~-]{20,}", "$1 ***"),
    // JSON web tokens.
    (&["eyJ"], r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*)?", "***"),
    // Signed addresses, sessions of uploads, answers of token servers.
    (
        &["="],
        r#"(?i)\b(x-amz-credential|x-amz-security-token|x-amz-signature|access_token|id_token|refresh_token|password|_?state|sig|signature)=[^&\s"'<>,;)\]]+"#,
        "$1=***",
    ),
    // Users with passwords in addresses.
    (&["://"], r"://[^\s/@:?#]*:[^\s/@]+@", "://***@"),
];

static VEILS: LazyLock<Vec<(&[&str], Regex, &str)>> = LazyLock::new(|| {
    let made = FORMS.into_iter().map(|(marks, form, shown)| Some((marks, Regex::new(form).ok()?, shown)));
    made.flatten().collect()
});

/// `text` without what has the form of a secret.
pub fn veiled(text: &str) -> Cow<'_, str> {
    VEILS.iter().fold(Cow::Borrowed(text), |text, (marks, form, shown)| {
        if !marks.iter().any(|mark| text.contains(mark)) {
            return text;
        }
        Cow::Owned(form.replace_all(&text, *shown).into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_form() {
        assert_eq!(VEILS.len(), FORMS.len(), "each form is an expression");
        for (text, expected) in [
            ("you sent Authorization: Basic QVdTOmFhYWFhYWFhYWFhYQ==, why?", "you sent Authorization: Basic ***, why?"),
            (r#"{"a":"bearer  abcdefghijklmnopqrstuvwxyz"}"#, r#"{"a":"bearer ***"}"#),
            ("token eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHR.c2ln!", "token ***!"),
            (
                "GET https://b.s3.example/x?X-Amz-Signature=0123&x=1",
                "GET https://b.s3.example/x?X-Amz-Signature=***&x=1",
            ),
            ("/v2/a/blobs/uploads/1?_state=abc-_=", "/v2/a/blobs/uploads/1?_state=***"),
            ("at http://u:p%40ss@proxy:3128/", "at http://***@proxy:3128/"),
        ] {
            assert_eq!(veiled(text), expected);
        }
    }

    #[test]
    fn other_text_is_left_alone() {
        for text in [
            "Basic authentication is required",
            "the registry https://host:5000/team/app@sha256:0123 and ssh://user@host/",
            "bearer tokens; role arn:aws:iam::123456789012:role/a, status=200 operation=\"PutImage\"",
            "pushed 1 layer as host:5000/a:v1",
        ] {
            assert_eq!(veiled(text), text);
        }
    }
}
