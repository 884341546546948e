//! The stand-in for the S3 that blobs are read from.

use http_body_util::BodyExt;

use crate::engine::{Engine, Presigned};
use crate::http::{Request, Response, ResponseExt, answer};

/// Where it lies on the port; no repository is under `/v2/` there.
pub(crate) const PREFIX: &str = "/_s3/";

pub(crate) fn serve(engine: &Engine, request: &Request) -> Response {
    let id = request.path.strip_prefix(PREFIX).unwrap_or_default();
    let presigned = engine.presigned(id);
    // the address is signed already, and S3 takes one way of proving oneself only. A client that was not led to
    // another host cannot know that it has to drop the header.
    let may_be_there = presigned.as_ref().is_some_and(|presigned| !presigned.is_elsewhere);
    if !may_be_there && request.headers.contains_key("authorization") {
        return error(
            400,
            "InvalidArgument",
            "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string \
             parameter or the Authorization header should be specified",
        );
    }
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return error(405, "MethodNotAllowed", "The specified method is not allowed against this resource.");
    }
    let Some(Presigned { blob, .. }) = presigned else {
        return error(403, "AccessDenied", "Request has expired");
    };
    let asked = request.header("range");
    let (range, status) = match asked.and_then(|range| parse_range(range, blob.size)) {
        Some(Some(range)) => (range, 206),
        Some(None) => {
            return error(416, "InvalidRange", "The requested range is not satisfiable");
        }
        None => (0..blob.size, 200),
    };
    let (first, length) = (range.start, range.end - range.start);
    let mut response = answer(status, "")
        .header("content-type", "application/octet-stream")
        .header("accept-ranges", "bytes")
        .header("content-length", length.to_string());
    if status == 206 {
        response = response.header("content-range", format!("bytes {first}-{}/{}", range.end - 1, blob.size));
    }
    if request.method == "HEAD" {
        return response;
    }
    match blob.body(range) {
        Ok(body) => {
            let (notices, path) = (engine.config.notices.clone(), request.path.clone());
            // The answer has begun, so the client sees no more than its end.
            *response.body_mut() = body
                .map_err(move |error| {
                    notices.internal(format!("GET {path}"), &error);
                    error
                })
                .boxed_unsync();
            response
        }
        Err(cause) => {
            error(500, "InternalError", "We encountered an internal error. Please try again.").caused_by(&cause)
        }
    }
}

/// `None` for what is no range S3 would heed, `Some(None)` for one that cannot be satisfied.
fn parse_range(text: &str, size: u64) -> Option<Option<std::ops::Range<u64>>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Ok(first), Err(_)) if last.is_empty() => first..size,
        (Err(_), Ok(suffix)) if first.is_empty() => size.saturating_sub(suffix)..size,
        _ => return None,
    };
    Some((range.start < range.end).then_some(range))
}

fn error(status: u16, code: &str, message: &str) -> Response {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    answer(status, body).header("content-type", "application/xml")
}

#[cfg(test)]
mod tests {
    use super::parse_range;

    #[test]
    fn ranges_are_cut_to_the_size() {
        assert_eq!(parse_range("bytes=2-4", 10), Some(Some(2..5)));
        assert_eq!(parse_range("bytes=2-", 10), Some(Some(2..10)));
        assert_eq!(parse_range("bytes=-3", 10), Some(Some(7..10)));
        assert_eq!(parse_range("bytes=5-99", 10), Some(Some(5..10)));
        assert_eq!(parse_range("bytes=10-", 10), Some(None));
        assert_eq!(parse_range("bytes=0-1,3-4", 10), None);
    }
}
