//! A certificate authority and a certificate under the real host names, made at each start.

use std::io;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::config::Config;
use crate::hosts::Host;

/// The TLS side of a server.
pub(crate) struct Identity {
    pub acceptor: TlsAcceptor,
    /// The PEM of the authority that clients must trust.
    pub ca_pem: String,
}

/// The names one port answers to: both doors, STS and the stand-in for S3.
pub(crate) fn host_names(config: &Config) -> Vec<String> {
    let (account, region) = (&config.account, &config.region);
    let suffix = dns_suffix(region);
    let mut names = vec![
        registry_host(config),
        format!("{account}.dkr-ecr.{region}.on.aws"),
        format!("api.ecr.{region}.{suffix}"),
        format!("ecr.{region}.api.aws"),
        format!("sts.{region}.{suffix}"),
        "sts.amazonaws.com".to_owned(),
        bucket_host(config),
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ];
    names.extend(config.public_host.as_deref().and_then(Host::parse).map(|host| host.name));
    names
}

pub(crate) fn bucket_host(config: &Config) -> String {
    let region = &config.region;
    format!("prod-{region}-starport-layer-bucket.s3.{region}.{}", dns_suffix(region))
}

/// The registry's host as the partition of the region names it (ecr-facts 5.1).
pub(crate) fn registry_host(config: &Config) -> String {
    format!("{}.dkr.ecr.{}.{}", config.account, config.region, dns_suffix(&config.region))
}

/// What host names of a partition end in, told by its regions (ecr-facts 5.2).
fn dns_suffix(region: &str) -> &'static str {
    const BY_PREFIX: [(&str, &str); 6] = [
        ("cn-", "amazonaws.com.cn"),
        ("eusc-", "amazonaws.eu"),
        ("us-iso-", "c2s.ic.gov"),
        ("us-isob-", "sc2s.sgov.gov"),
        ("eu-isoe-", "cloud.adc-e.uk"),
        ("us-isof-", "csp.hci.ic.gov"),
    ];
    let known = BY_PREFIX.iter().find(|(prefix, _)| region.starts_with(prefix));
    known.map_or("amazonaws.com", |(_, suffix)| suffix)
}

/// A certificate authority of its own.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// What clients must trust.
    pub pem: String,
}

impl Authority {
    pub fn new() -> io::Result<Self> {
        let make = || -> Result<_, rcgen::Error> {
            let mut authority = CertificateParams::new(Vec::<String>::new())?;
            authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            authority.distinguished_name.push(DnType::CommonName, "local-ecr authority");
            let key = KeyPair::generate()?;
            let pem = authority.self_signed(&key)?.pem();
            Ok(Self { issuer: Issuer::new(authority, key), pem })
        };
        make().map_err(io::Error::other)
    }

    /// The server side of TLS under these names.
    pub fn acceptor(&self, names: Vec<String>) -> io::Result<TlsAcceptor> {
        let make = || -> Result<_, rcgen::Error> {
            let mut server = CertificateParams::new(names)?;
            server.distinguished_name.push(DnType::CommonName, "local-ecr");
            server.use_authority_key_identifier_extension = true;
            let key = KeyPair::generate()?;
            Ok((server.signed_by(&key, &self.issuer)?, key))
        };
        let (certificate, key) = make().map_err(io::Error::other)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        // The provider is named, not taken from the process: another crate may have set another one.
        let mut server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .map_err(io::Error::other)?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(server)))
    }
}

pub(crate) fn identity(config: &Config) -> io::Result<Identity> {
    let authority = Authority::new()?;
    Ok(Identity { acceptor: authority.acceptor(host_names(config))?, ca_pem: authority.pem })
}

/// The client side of TLS, trusting the authorities of this PEM and no other.
pub(crate) fn connector(ca_pem: &str) -> io::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    let mut client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(client)))
}
