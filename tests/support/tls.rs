//! The simulator over TLS, with a certificate authority made for the test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mimecast_sentinel::simulator::Simulator;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{self, ServerConfig};

/// The fixed address at which some programs ask for tokens.
const ENTRA: &str = "login.microsoftonline.com";

/// Where Mimecast and its files are for a program behind a proxy that leads to the simulator.
pub const MIMECAST: &str = "api.services.mimecast.com";
pub const FILES: &str = "files.mimecast.invalid";

/// A certificate authority and a server's certificate for these, `localhost` and `127.0.0.1`. The
/// server's is a leaf of its own: rustls refuses a CA as a server.
pub struct Certificates {
    /// The CA's certificate in a PEM file, for `SSL_CERT_FILE` or a client's trusted roots.
    pub ca: PathBuf,
    server: ServerConfig,
}

impl Certificates {
    /// Makes them, and writes the CA's to `folder`.
    pub fn write(folder: &Path) -> Self {
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "Test CA");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority_key = KeyPair::generate().unwrap();
        let authority_certificate = authority.self_signed(&authority_key).unwrap();

        let names = ["localhost", "127.0.0.1", ENTRA, MIMECAST, FILES].map(str::to_owned);
        let mut leaf = CertificateParams::new(names).unwrap();
        leaf.distinguished_name.push(DnType::CommonName, "localhost");
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.use_authority_key_identifier_extension = true;
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf_key = KeyPair::generate().unwrap();
        let issuer = Issuer::new(authority, authority_key);
        let leaf_certificate = leaf.signed_by(&leaf_key, &issuer).unwrap();

        let ca = folder.join("ca.pem");
        std::fs::write(&ca, authority_certificate.pem()).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf_certificate.der().clone()],
                PrivateKeyDer::Pkcs8(leaf_key.serialize_der().into()),
            )
            .unwrap();
        Self { ca, server }
    }

    /// Serves the simulator with TLS on a second port, until the answer is dropped.
    pub async fn serve(&self, simulator: &Simulator) -> TlsPort {
        self.serve_at(0, simulator).await
    }

    /// The same on this port.
    pub async fn serve_at(&self, port: u16, simulator: &Simulator) -> TlsPort {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(self.server.clone()));
        let handler = simulator.handler();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Else answers in two packets wait for the client's delayed acknowledgement.
                stream.set_nodelay(true).ok();
                let (acceptor, handler) = (acceptor.clone(), handler.clone());
                tokio::spawn(async move {
                    // A client that does not trust the CA ends the handshake.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        handler.serve(stream).await;
                    }
                });
            }
        });
        TlsPort { address, accepting }
    }
}

/// A port that is served with TLS.
pub struct TlsPort {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl TlsPort {
    /// `https://localhost:<port>`
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }
}

impl Drop for TlsPort {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
