//! A certificate authority of our own, and a server's certificate under it.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// Certificates in PEM.
pub struct Certificates {
    /// What a client has to trust.
    pub authority: String,
    /// What the server shows.
    pub server: String,
    /// The server's private key.
    pub key: String,
}

/// Makes an authority called `name` and a certificate of it for `hosts`.
pub fn issue(name: &str, hosts: &[&str]) -> Certificates {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("a key");
    let authority = params.self_signed(&key).expect("a certificate").pem();
    let issuer = Issuer::new(params, key);

    let mut params =
        CertificateParams::new(hosts.iter().map(ToString::to_string).collect::<Vec<_>>()).expect("host names");
    params.distinguished_name.push(DnType::CommonName, format!("{name}: server"));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().expect("a key");
    let server = params.signed_by(&key, &issuer).expect("a certificate").pem();
    Certificates { authority, server, key: key.serialize_pem() }
}
