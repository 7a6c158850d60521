//! The authorities that the system trusts.
//!
//! They are read from the bundle of the distribution, as Go and OpenSSL do. The crate
//! rustls-native-certs does the same, but needs two more crates. The crate webpki-roots would add
//! 250 KB with a copy of Mozilla's list. That copy ages with the program and ignores an operator's
//! changes to the system's list.
use std::env;
use std::io;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::plain::os_error_text;

/// The bundles of the distributions, in the order of Go's crypto/x509.
const BUNDLES: [&str; 6] = [
    // Debian, Ubuntu, Gentoo, Arch Linux.
    "/etc/ssl/certs/ca-certificates.crt",
    // Fedora and derived distributions.
    "/etc/pki/tls/certs/ca-bundle.crt",
    // openSUSE.
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    // Alpine Linux, FreeBSD, OpenBSD, macOS.
    "/etc/ssl/cert.pem",
];

/// Returns the possible paths of the bundle: only that in SSL_CERT_FILE, if it is set.
pub(super) fn named() -> Vec<String> {
    match env::var("SSL_CERT_FILE") {
        Ok(file) if !file.is_empty() => vec![file],
        _ => BUNDLES.map(str::to_owned).to_vec(),
    }
}

/// Reads the first bundle that exists. Unusable entries are skipped, because distributions include
/// some that rustls does not accept.
///
/// # Errors
/// The system has no bundle, or the bundle has no usable authority.
pub(super) fn of_system(
    bundles: &[String],
    read_file: &impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<RootCertStore, String> {
    for bundle in bundles {
        let content = match read_file(Path::new(bundle)) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                let wrong = os_error_text(&error);
                return Err(format!("{bundle} of the system cannot be read: {wrong}"));
            }
        };
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_slice_iter(&content).flatten();
        roots.add_parsable_certificates(certificates);
        return match roots.is_empty() {
            true => Err(format!("the system's {bundle} contains none")),
            false => Ok(roots),
        };
    }
    Err(format!("null finds none in the system, which has no {}", bundles.join(", ")))
}
