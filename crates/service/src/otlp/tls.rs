//! Connections to receivers: plain ones, and TLS by the system's certificates or the variables' files.
//!
//! Invariant: a file that cannot be used is refused at the start, with the variable that named it.

use std::sync::Arc;

use http::uri::Scheme;
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::settings::{OtlpError, Protocol, Target, TlsFiles};

/// Makes what connects to a target.
pub(super) fn connector(target: &Target) -> Result<HttpsConnector<HttpConnector>, OtlpError> {
    let mut plain = HttpConnector::new();
    plain.enforce_http(false);
    plain.set_nodelay(true);
    plain.set_connect_timeout(Some(target.timeout));
    let is_secure = target.url.scheme() == Some(&Scheme::HTTPS);
    let builder = HttpsConnectorBuilder::new()
        .with_tls_config(config(&target.tls, is_secure)?)
        .https_or_http();
    Ok(match target.protocol {
        Protocol::Http => builder.enable_http1().wrap_connector(plain),
        Protocol::Grpc => builder.enable_http2().wrap_connector(plain),
    })
}

fn config(files: &TlsFiles, is_secure: bool) -> Result<ClientConfig, OtlpError> {
    const OURS: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let refuse = |name: &str, problem: String| OtlpError {
        name: name.to_owned(),
        problem,
    };
    let builder = builder.map_err(|error| refuse(OURS, format!("cannot be used: {error}")))?;
    let builder = match &files.roots {
        _ if !is_secure => builder.with_root_certificates(RootCertStore::empty()),
        None => builder.with_native_roots().map_err(|error| {
            refuse(OURS, format!("is not set, and the system's certificates cannot be read: {error}; install them, or name a file"))
        })?,
        Some((name, path)) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(name, path)? {
                let added = roots.add(certificate);
                added.map_err(|error| refuse(name, format!("names {}, which is no root: {error}", path.display())))?;
            }
            builder.with_root_certificates(roots)
        }
    };
    let ((name, path), (key_name, key_path)) = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) => return Ok(builder.with_no_client_auth()),
        (Some((name, _)), None) => {
            return Err(refuse(
                name,
                "names a certificate whose key no variable names; name it, too".to_owned(),
            ));
        }
        (None, Some((name, _))) => {
            return Err(refuse(
                name,
                "names the key of a certificate that no variable names; name it, too".to_owned(),
            ));
        }
    };
    let chain = certificates(name, path)?;
    let key = PrivateKeyDer::from_pem_file(key_path);
    let key = key.map_err(|error| refuse(key_name, unreadable(key_path, &error)))?;
    let both = builder.with_client_auth_cert(chain, key);
    both.map_err(|error| refuse(key_name, format!("does not fit {name}: {error}")))
}

fn certificates(
    name: &str,
    path: &std::path::Path,
) -> Result<Vec<CertificateDer<'static>>, OtlpError> {
    let refuse = |problem| OtlpError {
        name: name.to_owned(),
        problem,
    };
    let read = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>());
    let read = read.map_err(|error| refuse(unreadable(path, &error)))?;
    if read.is_empty() {
        let problem = format!(
            "names {}, which holds no certificate; name a PEM file",
            path.display()
        );
        return Err(refuse(problem));
    }
    Ok(read)
}

fn unreadable(path: &std::path::Path, error: &impl std::fmt::Display) -> String {
    format!(
        "names {}, which cannot be read: {error}; name a PEM file",
        path.display()
    )
}
