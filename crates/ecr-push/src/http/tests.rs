//! The client against small servers in this process.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::*;
use crate::error::Retry;
use crate::text::Setting;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).await.unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, text: &str) -> String {
    let head = read_head(&mut stream).await;
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.ok();
    head
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn http(settings: HttpSettings) -> Http {
    Http::new(&settings).unwrap()
}

async fn failure(http: &Http, url: &str) -> Error {
    let url: reqwest::Url = url.parse().unwrap();
    let error = match http.client().get(url.clone()).send().await {
        Err(error) => error,
        Ok(response) => response.bytes().await.unwrap_err(),
    };
    transport_error(Side::Destination, "test", &error, &url)
}

/// A TLS server for `registry.example`; the CA file that trusts it.
async fn tls_server() -> (SocketAddr, tempfile::NamedTempFile, tokio::task::JoinHandle<String>) {
    let own = rcgen::generate_simple_self_signed(["registry.example".to_owned()]).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(own.cert.pem().as_bytes()).unwrap();
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let config =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![own.cert.der().clone()], key).unwrap();
    let (listener, address) = listen().await;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(stream) = acceptor.accept(stream).await else {
            return String::new();
        };
        let sni = stream.get_ref().1.server_name().unwrap_or_default().to_owned();
        sni + "\n" + &answer(stream, OK).await
    });
    (address, file, served)
}

#[tokio::test]
async fn connect_to_changes_address_and_port_but_not_the_name() {
    let (address, ca, served) = tls_server().await;
    let http = http(HttpSettings {
        ca_files: vec![ca.path().to_owned()],
        connect_to: vec![format!("registry.example:443:127.0.0.1:{}", address.port()).parse().unwrap()],
        // A mapped host goes around the proxy.
        proxy: ProxySettings { https: Some("http://127.0.0.1:1".into()), ..ProxySettings::default() },
        ..HttpSettings::default()
    });
    let response = http.client().get("https://registry.example/v2/").send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "hi");
    let seen = served.await.unwrap();
    assert!(seen.starts_with("registry.example\nGET /v2/ HTTP/1.1"), "{seen}");
    assert!(seen.contains("host: registry.example\r\n"), "{seen}");
    assert!(seen.contains(concat!("user-agent: ecr-push/", env!("CARGO_PKG_VERSION"))), "{seen}");
}

#[tokio::test]
async fn connect_to_for_any_host() {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        answer(stream, OK).await
    });
    let http = http(HttpSettings {
        connect_to: vec![format!("::localhost:{}", address.port()).parse().unwrap()],
        ..HttpSettings::default()
    });
    let response = http.client().get("http://nowhere.invalid/").send().await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn an_unknown_issuer_is_told_with_the_flag_that_helps() {
    let (address, _ca, _served) = tls_server().await;
    let rule = format!("registry.example:443:127.0.0.1:{}", address.port());
    let http = http(HttpSettings { connect_to: vec![rule.parse().unwrap()], ..HttpSettings::default() });
    let error = failure(&http, "https://registry.example/v2/?secret=1").await;
    assert!(error.message().contains("registry.example was issued by a CA"), "{error}");
    assert!(error.hints()[0].names(Setting::CaBundle));
    assert_eq!(error.retry(), Retry::Never);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_told() {
    let (address, ca, _served) = tls_server().await;
    let http = http(HttpSettings {
        ca_files: vec![ca.path().to_owned()],
        connect_to: vec![format!("other.example:443:127.0.0.1:{}", address.port()).parse().unwrap()],
        ..HttpSettings::default()
    });
    let error = failure(&http, "https://other.example/").await;
    assert!(error.message().contains("is for another name"), "{error}");
}

#[tokio::test]
async fn https_goes_through_the_proxy_with_its_password_decoded() {
    let (address, ca, served) = tls_server().await;
    let (proxy, proxy_address) = listen().await;
    let asked = tokio::spawn(async move {
        let (mut stream, _) = proxy.accept().await.unwrap();
        let head = read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
        let mut target = TcpStream::connect(address).await.unwrap();
        tokio::io::copy_bidirectional(&mut stream, &mut target).await.ok();
        head
    });
    let http = http(HttpSettings {
        ca_files: vec![ca.path().to_owned()],
        proxy: ProxySettings {
            https: Some(format!("http://us%65r:p%40ss@{proxy_address}")),
            ..ProxySettings::default()
        },
        ..HttpSettings::default()
    });
    let response = http.client().get("https://registry.example/v2/").send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(served.await.unwrap().starts_with("registry.example\n"));
    drop((response, http));
    let head = asked.await.unwrap();
    assert!(head.starts_with("CONNECT registry.example:443 HTTP/1.1"), "{head}");
    // base64("user:p@ss")
    assert!(head.to_lowercase().contains("proxy-authorization: basic dxnlcjpwqhnz"), "{head}");
}

#[tokio::test]
async fn a_host_on_the_bypass_list_is_not_asked_through_the_proxy() {
    let (listener, address) = listen().await;
    drop(listener);
    let through = |bypass: &[&str]| {
        let proxy = Some(format!("http://{address}"));
        let bypass = bypass.iter().map(|&pattern| pattern.to_owned()).collect();
        http(HttpSettings {
            proxy: ProxySettings { http: proxy.clone(), https: proxy, bypass, ..ProxySettings::default() },
            ..HttpSettings::default()
        })
    };
    for scheme in ["http", "https"] {
        let url = format!("{scheme}://no-such-host.invalid/a/path?with=query");
        let error = failure(&through(&[]), &url).await;
        assert!(error.message().contains("refused the connection"), "{error}");
        let error = failure(&through(&["other", &format!(r"^{scheme}://NO-.*\.invalid/$")]), &url).await;
        assert!(error.message().contains("cannot be resolved"), "{error}");
    }
}

#[tokio::test]
async fn a_proxy_that_refuses_is_told_apart_from_the_host() {
    for (status, expected) in [("407 Auth", "asks for a user"), ("403 No", "refused to connect")] {
        let (proxy, address) = listen().await;
        let status = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        tokio::spawn(async move {
            let (stream, _) = proxy.accept().await.unwrap();
            answer(stream, &status).await
        });
        let http = http(HttpSettings {
            proxy: ProxySettings { https: Some(address.to_string()), ..ProxySettings::default() },
            ..HttpSettings::default()
        });
        let error = failure(&http, "https://registry.example/").await;
        assert!(error.message().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_proxy_that_is_down_is_named_as_such() {
    let (listener, address) = listen().await;
    drop(listener);
    let http = http(HttpSettings {
        proxy: ProxySettings { https: Some(format!("http://u:geheim@{address}")), ..ProxySettings::default() },
        ..HttpSettings::default()
    });
    let error = failure(&http, "https://registry.example/").await;
    assert_eq!(error.message(), "the proxy on the way to registry.example refused the connection");
    assert!(error.hints()[0].contains("check the proxy's address"), "{error:?}");
    assert!(!format!("{error:?}").contains("geheim"));
}

#[tokio::test]
async fn a_proxy_without_an_address_is_named_as_such() {
    let proxy = Some("http://no-such-proxy.invalid:3128".to_owned());
    let http = http(HttpSettings {
        proxy: ProxySettings { http: proxy.clone(), https: proxy, ..ProxySettings::default() },
        ..HttpSettings::default()
    });
    let error = failure(&http, "https://registry.example/").await;
    let sentence = "the host name of the proxy on the way to registry.example cannot be resolved";
    assert!(error.message().starts_with(sentence), "{error}");
    assert_eq!(error.retry(), Retry::Brief);
}

#[tokio::test]
async fn failed_connections_name_the_host_and_hide_the_query() {
    let (listener, address) = listen().await;
    drop(listener);
    let http = http(HttpSettings::default());
    let error = failure(&http, &format!("http://u:pw@{address}/x?token=geheim")).await;
    assert_eq!(error.message(), format!("{address} refused the connection"));
    assert_eq!(error.retry(), Retry::Backoff);
    let error = failure(&http, "http://no-such-host.invalid/x?token=geheim").await;
    assert!(error.message().starts_with("the host name no-such-host.invalid cannot be resolved"), "{error}");
    assert!(!format!("{error:?}").contains("geheim"));
}

#[tokio::test]
async fn early_closes_are_told() {
    for text in ["", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this"] {
        let (listener, address) = listen().await;
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            answer(stream, text).await
        });
        let error = failure(&http(HttpSettings::default()), &format!("http://{address}/")).await;
        assert!(error.message().contains("closed the connection"), "{error}");
        assert_eq!(error.retry(), Retry::Backoff);
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        answer(stream, "HTTP/1.1 307 X\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n").await
    });
    let http = http(HttpSettings::default());
    let response = http.client().get(format!("http://{address}/")).send().await.unwrap();
    assert_eq!(response.status(), 307);
}

#[tokio::test]
async fn the_sdk_adapter_honours_its_time_outs() {
    use aws_smithy_runtime_api::client::http::{HttpConnector as _, HttpConnectorSettings};
    use aws_smithy_runtime_api::client::orchestrator::HttpRequest;

    // Accepts and never answers.
    let (_listener, address) = listen().await;
    let connector = smithy::Adapter::new(http(HttpSettings::default()), Heard::default()).connector(
        &HttpConnectorSettings::builder()
            .connect_timeout(Duration::from_millis(100))
            .read_timeout(Duration::from_millis(200))
            .build(),
    );
    let started = Instant::now();
    let request = HttpRequest::get(format!("http://{address}/")).unwrap();
    let error = connector.call(request).await.unwrap_err();
    let unanswered = error.into_source().downcast::<Unanswered>().unwrap().0;
    assert_eq!(unanswered.message(), format!("{address} did not answer in time"));
    assert_eq!(unanswered.retry(), Retry::Backoff);
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[test]
fn ca_files_without_a_certificate_are_refused() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    for path in [empty.path().to_owned(), "/nonexistent/ca.pem".into()] {
        let settings = HttpSettings { ca_files: vec![path.clone()], ..HttpSettings::default() };
        let error = Http::new(&settings).unwrap_err();
        assert!(error.is_refused());
        assert!(error.message().contains(path.to_str().unwrap()), "{error}");
    }
}
