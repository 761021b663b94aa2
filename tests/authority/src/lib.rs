//! A private certificate authority for tests of TLS, and a server that it vouches for.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;

/// The authority's certificate and the server's side of TLS.
pub struct Authority {
    /// Whoever trusts this certificate (PEM) trusts the server.
    pub pem: String,
    /// For a server that is called `localhost`.
    pub server: Arc<ServerConfig>,
}

impl Authority {
    /// An authority with new keys, and a server that it signed for.
    ///
    /// # Errors
    /// Keys or certificates cannot be made.
    pub fn generate() -> anyhow::Result<Self> {
        let authority = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = parameters.self_signed(&authority)?.pem();
        let issuer = Issuer::new(parameters, authority);
        let key = KeyPair::generate()?;
        let leaf =
            CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, &issuer)?;
        let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], private)?;
        Ok(Self {
            pem,
            server: Arc::new(server),
        })
    }
}
