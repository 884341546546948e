//! The AWS SDK's HTTP client, made of ours.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use http_body_util::BodyExt;

use super::call_log::Call;
use super::{CONNECT_TIMEOUT, Http};
use crate::error::{Error, Retry, Side};

/// Above any answer of the APIs we call; a manifest is 4 MiB at most (ecr-facts 2.5), BatchGetImage may hold several.
const LARGEST_ANSWER: usize = 64 << 20;

/// How much is kept of a refusal.
const REFUSAL: usize = 64 << 10;

/// A request of the SDK's that got no whole answer, in our words. The SDK does not try it again: there is one budget,
/// and one log of what it is used for.
#[derive(Debug)]
pub(crate) struct Unanswered(pub(crate) Error);

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Unanswered {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// What came of the last request that a source of credentials made. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard(Arc<Mutex<Option<Last>>>);

/// What came of a request.
#[derive(Clone, Debug)]
pub(crate) enum Last {
    /// It was refused.
    Refused {
        /// The status.
        status: u16,
        /// The body, or its beginning.
        body: Vec<u8>,
    },
    /// Nobody answered.
    Unanswered(Error),
}

impl Heard {
    /// What came of the last request, unless it succeeded. It is forgotten then.
    pub(crate) fn take(&self) -> Option<Last> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note(&self, last: Option<Last>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }
}

pub(super) struct Adapter {
    http: Http,
    heard: Heard,
}

impl Adapter {
    pub(super) fn new(http: Http, heard: Heard) -> Self {
        Self { http, heard }
    }

    pub(super) fn connector(&self, settings: &HttpConnectorSettings) -> Connector {
        Connector {
            http: self.http.clone(),
            heard: self.heard.clone(),
            connect_timeout: settings.connect_timeout(),
            read_timeout: settings.read_timeout(),
        }
    }
}

impl fmt::Debug for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Adapter")
    }
}

impl HttpClient for Adapter {
    fn http_connector(&self, settings: &HttpConnectorSettings, _components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.connector(settings))
    }
}

/// Names as the client resolves them, where the SDK asks for itself whether one leads to this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names;

impl ResolveDns for Names {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            let addresses = crate::host::resolve(name, 0).await.map_err(ResolveDnsError::new)?;
            Ok(addresses.into_iter().map(|address| address.ip()).collect())
        })
    }
}

pub(super) struct Connector {
    http: Http,
    heard: Heard,
    connect_timeout: Option<Duration>,
    read_timeout: Option<Duration>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let plain = url::Url::parse(request.uri()).ok().filter(|url| url.scheme() == "http");
        let client = match (plain, self.connect_timeout) {
            (Some(url), None | Some(CONNECT_TIMEOUT)) => Ok(self.http.client_for(&url).clone()),
            (_, timeout) => self.http.with_connect_timeout(timeout),
        };
        // The SDK counts the read time-out from the sent request to the first byte of the answer; reqwest does not tell
        // when it has connected, so connecting is added.
        let connect = self.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        let read = self.read_timeout;
        let (http, heard) = (self.http.clone(), self.heard.clone());
        HttpConnectorFuture::new(async move {
            let client = client.map_err(|error| ConnectorError::user(error.into()))?;
            let request = convert(request).await?;
            http.keep_from_proxy(request.url()).await;
            let exchange = Exchange { http, url: request.url().clone() };
            let first = exchange.http.first_try(&exchange.url, false);
            let whole = [read.map(|read| read + connect), first].into_iter().flatten().min();
            let call = Call::begin(&request);
            let unanswered = |error: Error| {
                if let Some(call) = &call {
                    call.failed(&cause(&error));
                }
                heard.note(Some(Last::Unanswered(error.clone())));
                ConnectorError::other(Box::new(Unanswered(error)), None)
            };
            let answer = exchange.within(whole, client.execute(request)).await.map_err(unanswered)?;
            exchange.http.note_answer(&exchange.url);
            if let Some(call) = &call {
                call.answered(answer.status().as_u16(), answer.headers());
            }
            let answer = exchange.collect(answer, read).await.map_err(unanswered)?;
            heard.note(refusal(&answer));
            Ok(answer)
        })
    }
}

/// Successful answers hold credentials: nothing of them is kept.
fn refusal(answer: &HttpResponse) -> Option<Last> {
    if answer.status().is_success() {
        return None;
    }
    let body = answer.body().bytes().unwrap_or_default();
    Some(Last::Refused { status: answer.status().as_u16(), body: body[..body.len().min(REFUSAL)].to_vec() })
}

async fn convert(request: HttpRequest) -> Result<reqwest::Request, ConnectorError> {
    let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
    let (parts, body) = request.into_parts();
    // Read to its end, though the bytes are at hand: the SDK counts them as they are read, and takes a body that nobody reads for a stalled
    // upload, in sources of credentials, where that cannot be turned off.
    let bytes = body.collect().await.map_err(ConnectorError::user)?.to_bytes();
    reqwest::Request::try_from(http::Request::from_parts(parts, bytes))
        .map_err(|error| ConnectorError::user(error.into()))
}

/// One request and its answer.
struct Exchange {
    http: Http,
    url: url::Url,
}

impl Exchange {
    async fn collect(&self, mut answer: reqwest::Response, read: Option<Duration>) -> Result<HttpResponse, Error> {
        let broken = |text: String| Error::new(Side::Destination, "", text);
        let mut head = http::Response::builder().status(answer.status());
        if let Some(headers) = head.headers_mut() {
            *headers = std::mem::take(answer.headers_mut());
        }
        let mut body = Vec::new();
        while let Some(chunk) = self.within(read, answer.chunk()).await? {
            if body.len() + chunk.len() > LARGEST_ANSWER {
                return Err(broken(format!("the answer of {} is too large", super::error::shown_host(&self.url))));
            }
            body.extend_from_slice(&chunk);
        }
        let response = head.body(SdkBody::from(body)).map_err(|error| broken(error.to_string()))?;
        HttpResponse::try_from(response).map_err(|error| broken(error.to_string()))
    }

    async fn within<T>(
        &self,
        limit: Option<Duration>,
        work: impl Future<Output = Result<T, reqwest::Error>>,
    ) -> Result<T, Error> {
        // Whoever asks the SDK stamps side and operation.
        let failed = |error: reqwest::Error| self.http.unanswered(Side::Destination, "", &error, &self.url);
        let Some(limit) = limit else {
            return work.await.map_err(failed);
        };
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result.map_err(failed),
            Err(_) => {
                let text = format!("{} did not answer in time", super::error::shown_host(&self.url));
                let late = Error::new(Side::Destination, "", text).with_retry(Retry::Backoff);
                Err(self.http.contacts.judged(late, false, &self.url))
            }
        }
    }
}

/// The innermost cause: a log has host and operation already.
fn cause(error: &Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}
