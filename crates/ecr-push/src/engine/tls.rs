//! TLS to an engine, from the three files the docker CLI uses: `ca.pem`, `cert.pem`, `key.pem`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::{Error, Result, Side};

const OPERATION: &str = "set up TLS to the engine";

/// The folder with the files, and whether the engine's certificate is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TlsFiles {
    pub dir: PathBuf,
    pub verify: bool,
}

impl TlsFiles {
    /// Reads the files. Only the CA is trusted, not the system's roots, as with the docker CLI. The client certificate
    /// may be missing: then none is offered.
    pub fn config(&self) -> Result<Arc<ClientConfig>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::new(Side::Local, OPERATION, error.to_string()))?;
        let builder = if self.verify {
            let path = self.dir.join("ca.pem");
            let mut roots = RootCertStore::empty();
            for certificate in certificates(&path)? {
                roots.add(certificate).map_err(|error| unusable(&path, &error))?;
            }
            builder.with_root_certificates(roots)
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        };
        let (cert, key) = (self.dir.join("cert.pem"), self.dir.join("key.pem"));
        let config = if cert.exists() || key.exists() {
            let private = PrivateKeyDer::from_pem_file(&key).map_err(|error| unusable(&key, &error))?;
            builder.with_client_auth_cert(certificates(&cert)?, private).map_err(|error| unusable(&cert, &error))?
        } else {
            builder.with_no_client_auth()
        };
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(|items| items.collect::<std::result::Result<Vec<_>, _>>())
        .map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> Error {
    let message = format!("{} cannot be used for TLS to the engine: {error}", path.display());
    Error::new(Side::Source, OPERATION, message).with_hint(
        "DOCKER_CERT_PATH names the folder with ca.pem, cert.pem and key.pem; a context has its own under contexts/tls",
    )
}

/// `DOCKER_TLS` without `DOCKER_TLS_VERIFY`, or a context with `SkipTLSVerify`: the user asked for no check.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The name the certificate must carry.
pub(super) fn server_name(host: &url::Host<String>) -> io::Result<ServerName<'static>> {
    let name = match host {
        url::Host::Domain(name) => ServerName::try_from(name.clone()).map_err(io::Error::other)?,
        url::Host::Ipv4(address) => ServerName::IpAddress(std::net::IpAddr::from(*address).into()),
        url::Host::Ipv6(address) => ServerName::IpAddress(std::net::IpAddr::from(*address).into()),
    };
    Ok(name)
}
