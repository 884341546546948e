//! CA files: PEM, one or many certificates, added to the system's roots.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::text;
use crate::text::Setting;

const OPERATION: &str = "read CA file";

/// The certificates of all files, each of which must hold at least one.
pub(super) fn read(files: &[PathBuf]) -> Result<Vec<reqwest::Certificate>> {
    let refuse = |message: String| {
        let hint = text!["name a file of PEM certificates with ", Setting::CaBundle];
        Error::refused(OPERATION, message).with_hint(hint)
    };
    let mut all = Vec::new();
    for file in files {
        let shown = file.display();
        let bytes = std::fs::read(file)
            .map_err(|error| refuse(format!("cannot read the CA file {shown}: {error}")).with_source(error))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&bytes)
            .map_err(|error| refuse(format!("the CA file {shown} holds a damaged certificate")).with_source(error))?;
        if certificates.is_empty() {
            return Err(refuse(format!(
                "the CA file {shown} holds no certificate: PEM text with `-----BEGIN CERTIFICATE-----` is expected"
            )));
        }
        all.extend(certificates);
    }
    Ok(all)
}
