//! Signature Version 4, the verifying side.

use hyper::header::HeaderMap;
use sha2::{Digest, Sha256};

use crate::util::{hex, percent_decode, percent_encode, query};

/// The parts of an `Authorization: AWS4-HMAC-SHA256 ...` header.
pub(crate) struct Credential<'a> {
    pub access_key_id: &'a str,
    pub date: &'a str,
    pub region: &'a str,
    pub service: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

impl<'a> Credential<'a> {
    pub fn parse(authorization: &'a str) -> Option<Self> {
        let members = authorization.strip_prefix("AWS4-HMAC-SHA256")?;
        let member =
            |name: &str| members.split(',').find_map(|member| member.trim().strip_prefix(name)?.strip_prefix('='));
        let mut scope = member("Credential")?.split('/');
        let credential = Self {
            access_key_id: scope.next()?,
            date: scope.next()?,
            region: scope.next()?,
            service: scope.next()?,
            signed_headers: member("SignedHeaders")?,
            signature: member("Signature")?,
        };
        (scope.next() == Some("aws4_request")).then_some(credential)
    }

    /// Whether the request was signed with this secret.
    pub fn verifies(
        &self,
        secret: &str,
        method: &str,
        path: &str,
        query: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> bool {
        let Some(time) = headers.get("x-amz-date").and_then(|value| value.to_str().ok()) else {
            return false;
        };
        let body_hash = hex(&Sha256::digest(body));
        // A client may say the hash of the body in a header; then that is what it signed, and it has to be true.
        if headers.get("x-amz-content-sha256").is_some_and(|said| said.as_bytes() != body_hash.as_bytes()) {
            return false;
        }
        let mut canonical = format!("{method}\n{}\n{}\n", canonical_path(path), canonical_query(query));
        for name in self.signed_headers.split(';') {
            let values: Vec<_> = headers
                .get_all(name)
                .iter()
                .map(|value| String::from_utf8_lossy(value.as_bytes()).split_whitespace().collect::<Vec<_>>().join(" "))
                .collect();
            canonical.push_str(&format!("{name}:{}\n", values.join(",")));
        }
        canonical.push_str(&format!("\n{}\n{body_hash}", self.signed_headers));
        let scope = format!("{}/{}/{}/aws4_request", self.date, self.region, self.service);
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let mut key = hmac(format!("AWS4{secret}").as_bytes(), self.date.as_bytes());
        for part in [self.region, self.service, "aws4_request"] {
            key = hmac(&key, part.as_bytes());
        }
        hex(&hmac(&key, to_sign.as_bytes())) == self.signature
    }
}

fn canonical_path(path: &str) -> String {
    // ECR and STS have no path but "/", so the difference between S3's encoding and the others' does not arise.
    path.split('/').map(|segment| percent_encode(&percent_decode(segment, false))).collect::<Vec<_>>().join("/")
}

fn canonical_query(text: &str) -> String {
    let mut pairs: Vec<_> =
        query(text).iter().map(|(key, value)| format!("{}={}", percent_encode(key), percent_encode(value))).collect();
    pairs.sort();
    pairs.join("&")
}

/// HMAC-SHA256 (RFC 2104).
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        assert_eq!(
            hex(&hmac(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(&hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First")),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    /// `get-vanilla` of the test suite AWS published for Signature Version 4.
    #[test]
    fn the_published_vector_verifies() {
        let mut headers = HeaderMap::new();
        headers.insert("host", "example.amazonaws.com".parse().unwrap());
        headers.insert("x-amz-date", "20150830T123600Z".parse().unwrap());
        let credential = Credential::parse(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        )
        .unwrap();
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        assert!(credential.verifies(secret, "GET", "/", "", &headers, b""));
        assert!(!credential.verifies("another", "GET", "/", "", &headers, b""));
        assert!(!credential.verifies(secret, "GET", "/", "", &headers, b"x"));
    }
}
