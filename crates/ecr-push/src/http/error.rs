//! From a failed connection to one sentence: which host, what happened, is it worth another try.
//!
//! Kinds decide (time-out, DNS, I/O kind, TLS). The words inside a TLS or proxy error only enrich the sentence.

use std::error::Error as StdError;
use std::io::ErrorKind;

use reqwest::Url;

use super::resolver::LeadsToLink;
use crate::error::{Error, Retry, Side};
use crate::text;
use crate::text::{Setting, Text};

/// One clear sentence for a request that got no whole answer. The URL's user and query are never shown.
pub fn transport_error(side: Side, operation: impl Into<String>, error: &reqwest::Error, url: &Url) -> Error {
    let (sentence, retry, hint) = connection_sentence(error, url);
    // The cause is kept as text: reqwest's own error prints the whole URL with its query.
    let mut built = Error::new(side, operation, sentence).with_retry(retry).with_source(innermost(error));
    if let Some(hint) = hint {
        built = built.with_hint(hint);
    }
    built
}

/// The sentence, the verdict, and a hint.
fn connection_sentence(error: &reqwest::Error, url: &Url) -> (String, Retry, Option<Text>) {
    let host = shown_host(url);
    let text = innermost(error);
    // hyper-util's tunnel error, whose type is not public: the proxy itself could not be reached.
    let by_proxy = causes(error).any(|cause| cause.to_string().contains("underlying connection"));
    let host = if by_proxy { format!("the proxy on the way to {host}") } else { host };
    if error.is_builder() {
        return (format!("the request to {host} cannot be made: {text}"), Retry::Never, None);
    }
    if let Some(leads) = causes(error).find_map(|cause| cause.downcast_ref::<LeadsToLink>()) {
        return (format!("{host} is not asked: {leads}"), Retry::Never, None);
    }
    if error.is_dns() {
        let name = if by_proxy { "the host name of" } else { "the host name" };
        return (
            format!("{name} {host} cannot be resolved: {text}"),
            Retry::Brief,
            Some("check the name, the DNS of this machine, and whether a proxy or VPC endpoint is needed".into()),
        );
    }
    if error.is_connect() && error.is_timeout() {
        return (
            format!("no connection to {host} within the time limit"),
            Retry::Backoff,
            Some(
                "check the route: a firewall, a missing proxy setting or a missing VPC endpoint drops packets silently"
                    .into(),
            ),
        );
    }
    if error.is_connect() {
        return connect_failure(error, &host, &text);
    }
    if error.is_timeout() {
        return (format!("{host} did not answer in time"), Retry::Backoff, None);
    }
    let sentence = match io_kind(error) {
        Some(ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted) => {
            format!("the connection to {host} was reset")
        }
        Some(ErrorKind::BrokenPipe) => {
            format!("{host} closed the connection while we were sending")
        }
        Some(ErrorKind::UnexpectedEof) => format!("{host} closed the connection too early"),
        _ if is_incomplete(error) => {
            format!("{host} closed the connection before its answer ended")
        }
        _ => format!("the exchange with {host} failed: {text}"),
    };
    (sentence, Retry::Backoff, None)
}

fn connect_failure(error: &reqwest::Error, host: &str, text: &str) -> (String, Retry, Option<Text>) {
    if text.contains("proxy authorization required") {
        return (
            format!("the proxy on the way to {host} asks for a user and password"),
            Retry::Never,
            Some("write them into the proxy URL: http://USER:PASSWORD@HOST:PORT".into()),
        );
    }
    if text.contains("unsuccessful") {
        return (
            format!("the proxy refused to connect to {host}"),
            Retry::Backoff,
            Some("allow the host in the proxy, or name it in NO_PROXY".into()),
        );
    }
    match io_kind(error) {
        Some(ErrorKind::ConnectionRefused) => {
            let hint = "check the proxy's address (HTTPS_PROXY, HTTP_PROXY), or name the host in NO_PROXY";
            let hint = host.starts_with("the proxy").then(|| hint.into());
            (format!("{host} refused the connection"), Retry::Backoff, hint)
        }
        Some(ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable) => {
            (format!("there is no route to {host}"), Retry::Backoff, None)
        }
        // What tokio-rustls gives to an error of TLS itself.
        Some(ErrorKind::InvalidData | ErrorKind::InvalidInput) => tls_failure(host, text),
        Some(ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
            (format!("{host} closed the connection during the handshake"), Retry::Backoff, None)
        }
        _ => (format!("cannot connect to {host}: {text}"), Retry::Backoff, None),
    }
}

fn tls_failure(host: &str, text: &str) -> (String, Retry, Option<Text>) {
    let ca_hint = || {
        Some(text![
            "if a proxy inspects TLS here, or the registry has its own CA, name its certificate file with ",
            Setting::CaBundle.with("FILE"),
        ])
    };
    let has = |word: &str| text.contains(word);
    if has("CaUsedAsEndEntity") {
        return (
            format!(
                "{host} shows a CA's own certificate (CA:TRUE) as its own, which is not accepted here even from a trusted CA"
            ),
            Retry::Never,
            Some(text![
                "give the server a certificate without CA:TRUE, signed by that CA, and name the CA's file with ",
                Setting::CaBundle
            ]),
        );
    }
    let (sentence, hint) = if has("UnknownIssuer") || has("CaUsedAsEndEntity") || has("BadSignature") {
        (format!("the certificate of {host} was issued by a CA that is not trusted here"), ca_hint())
    } else if has("NotValidForName") || has("not valid for name") {
        (format!("the certificate of {host} is for another name: {text}"), None)
    } else if has("Expired") || has("expired") {
        (format!("the certificate of {host} has expired, or the clock of this machine is wrong"), None)
    } else if has("InvalidContentType") || has("corrupt message") {
        (
            format!("{host} does not speak TLS on this port"),
            Some(text!["for a registry without TLS use ", Setting::PlainHttp]),
        )
    } else {
        (format!("the TLS handshake with {host} failed: {text}"), ca_hint())
    };
    (sentence, Retry::Never, hint)
}

/// The host, with the port where the URL has one.
pub(super) fn shown_host(url: &Url) -> String {
    let host = url.host_str().unwrap_or("the server");
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// The text of the last cause, which holds no URL.
pub(super) fn innermost(error: &reqwest::Error) -> String {
    causes(error).last().map_or_else(|| "unknown cause".to_owned(), ToString::to_string)
}

/// The causes, outermost first. An I/O error that wraps another error names only that error's cause as its source, so
/// the wrapped one is taken by hand.
pub(super) fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(error.source(), |&cause| {
        let wrapped = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        match wrapped {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => cause.source(),
        }
    })
}

/// The innermost I/O kind: connectors wrap I/O errors in I/O errors of kind `Other`.
fn io_kind(error: &reqwest::Error) -> Option<ErrorKind> {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .map(std::io::Error::kind)
        .filter(|kind| *kind != ErrorKind::Other)
        .last()
}

/// hyper's "connection closed before message completed". Its type is not ours to name, so its words are read.
fn is_incomplete(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| {
        let text = cause.to_string();
        text.contains("before message completed") || text.contains("end of file before message length")
    })
}
