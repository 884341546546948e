//! The AWS SDK's HTTP client, made of ours.

use std::fmt;
use std::io::ErrorKind;
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

/// Above any answer of the APIs we call; a manifest is 4 MiB at most (ecr-facts 2.5), BatchGetImage may hold several.
const LARGEST_ANSWER: usize = 64 << 20;

pub(super) struct Adapter {
    http: Http,
}

impl Adapter {
    pub(super) fn new(http: Http) -> Self {
        Self { http }
    }

    pub(super) fn connector(&self, settings: &HttpConnectorSettings) -> Connector {
        Connector {
            http: self.http.clone(),
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
        let http = self.http.clone();
        HttpConnectorFuture::new(async move {
            let client = client.map_err(|error| ConnectorError::user(error.into()))?;
            let request = convert(request).await?;
            http.keep_from_proxy(request.url()).await;
            let host = super::error::shown_host(request.url());
            let whole = read.map(|read| read + connect);
            let call = Call::begin(&request);
            let answer = within(whole, &host, client.execute(request)).await;
            let answer = answer.inspect_err(|error| {
                if let Some(call) = &call {
                    call.failed(&reason(error));
                }
            })?;
            if let Some(call) = &call {
                call.answered(answer.status().as_u16(), answer.headers());
            }
            collect(answer, &host, read).await
        })
    }
}

async fn convert(request: HttpRequest) -> Result<reqwest::Request, ConnectorError> {
    let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
    let (parts, body) = request.into_parts();
    let bytes = match body.bytes() {
        Some(bytes) => bytes::Bytes::copy_from_slice(bytes),
        None => body.collect().await.map_err(ConnectorError::user)?.to_bytes(),
    };
    reqwest::Request::try_from(http::Request::from_parts(parts, bytes))
        .map_err(|error| ConnectorError::user(error.into()))
}

async fn collect(
    mut answer: reqwest::Response,
    host: &str,
    read: Option<Duration>,
) -> Result<HttpResponse, ConnectorError> {
    let mut head = http::Response::builder().status(answer.status());
    if let Some(headers) = head.headers_mut() {
        *headers = std::mem::take(answer.headers_mut());
    }
    let mut body = Vec::new();
    while let Some(chunk) = within(read, host, answer.chunk()).await? {
        if body.len() + chunk.len() > LARGEST_ANSWER {
            return Err(ConnectorError::other("the answer is too large".into(), None));
        }
        body.extend_from_slice(&chunk);
    }
    let response = head.body(SdkBody::from(body)).map_err(|error| ConnectorError::other(error.into(), None))?;
    HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
}

async fn within<T>(
    limit: Option<Duration>,
    host: &str,
    work: impl Future<Output = Result<T, reqwest::Error>>,
) -> Result<T, ConnectorError> {
    let Some(limit) = limit else {
        return work.await.map_err(classify);
    };
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result.map_err(classify),
        Err(_) => Err(ConnectorError::timeout(format!("{host} did not answer in time").into())),
    }
}

/// Without the URL, whose query may hold what is not for a log.
fn reason(error: &ConnectorError) -> String {
    let cause = std::error::Error::source(error);
    match cause.and_then(|cause| cause.downcast_ref::<reqwest::Error>()) {
        Some(found) => super::error::innermost(found),
        None => cause.map_or_else(|| error.to_string(), ToString::to_string),
    }
}

/// The SDK retries time-outs and I/O errors, not user errors.
fn classify(error: reqwest::Error) -> ConnectorError {
    if error.is_builder() {
        return ConnectorError::user(error.into());
    }
    if error.is_timeout() {
        return ConnectorError::timeout(error.into());
    }
    if error.is_connect() {
        // A certificate that is not trusted now will not be in a second.
        return match is_tls(&error) {
            true => ConnectorError::user(error.into()),
            false => ConnectorError::io(error.into()).never_connected(),
        };
    }
    if error.is_request() || error.is_body() || error.is_decode() {
        return ConnectorError::io(error.into());
    }
    ConnectorError::other(error.into(), None)
}

fn is_tls(error: &reqwest::Error) -> bool {
    super::error::causes(error)
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|io| io.kind() == ErrorKind::InvalidData)
}
