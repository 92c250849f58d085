//! TLS: the certificate that the page shows, and how agents connect to each other.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use ring::digest::{SHA256, digest};
use rustls::{
    ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring as crypto, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::TLS13,
};
use tracing::warn;

use crate::{error::Error, log::PAGE};

/// How often it is looked whether the certificate has changed.
const PERIOD: Duration = Duration::from_secs(5);

/// What the page shows: the certificate of a directory, or one of its own.
#[derive(Debug)]
struct Shown {
    directory: Option<PathBuf>,
    own: Arc<CertifiedKey>,
    current: Mutex<Current>,
}

/// The certificate of the directory as it was read last.
#[derive(Debug, Default)]
struct Current {
    looked: Option<Instant>,
    pem: Option<(Vec<u8>, Vec<u8>)>,
    key: Option<Arc<CertifiedKey>>,
}

/// The server's side, and the fingerprint of its own certificate, if it shows that.
pub(super) fn server(
    directory: Option<&Path>,
    names: &[String],
    addresses: &[IpAddr],
) -> Result<(Arc<ServerConfig>, Option<String>), Error> {
    let fault = |error: &dyn ToString| Error::Page { what: "TLS".into(), reason: error.to_string() };
    let own = self_signed(names, addresses).map_err(|error| fault(&error))?;
    let shown =
        Shown { directory: directory.map(Path::to_owned), own: Arc::new(own), current: Mutex::default() };
    let fingerprint = shown.look().is_none().then(|| fingerprint(&shown.own));
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| fault(&error))?;
    let mut config = config.with_no_client_auth().with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((Arc::new(config), fingerprint))
}

/// The side of an agent that asks another one: what the other proves, it proves by the token, not by its certificate.
pub(super) fn client() -> Result<Arc<ClientConfig>, Error> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| Error::Page { what: "TLS".into(), reason: error.to_string() })?;
    Ok(Arc::new(config.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(crypto::default_provider())
}

impl Shown {
    /// The certificate of the directory, if there is one; it is read anew when it has changed.
    fn look(&self) -> Option<Arc<CertifiedKey>> {
        let directory = self.directory.as_ref()?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.is_some_and(|looked| looked.elapsed() < PERIOD) {
            return current.key.clone();
        }
        current.looked = Some(Instant::now());
        match read(directory) {
            Ok(pem) if current.pem.as_ref() == Some(&pem) => {}
            Ok(pem) => {
                match parse(&pem.0, &pem.1) {
                    Ok(key) => current.key = Some(Arc::new(key)),
                    Err(reason) => warn!(
                        target: PAGE,
                        "the page's certificate in {} is not used: {reason}",
                        directory.display()
                    ),
                }
                current.pem = Some(pem);
            }
            // A Secret that is not there, or is being replaced.
            Err(_) => {}
        }
        current.key.clone()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.look().unwrap_or_else(|| Arc::clone(&self.own)))
    }
}

/// Certificate and key as a Secret of type `kubernetes.io/tls` has them.
fn read(directory: &Path) -> io::Result<(Vec<u8>, Vec<u8>)> {
    Ok((fs::read(directory.join("tls.crt"))?, fs::read(directory.join("tls.key"))?))
}

fn parse(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.map_err(|error| format!("tls.crt: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("tls.key: {error}"))?;
    certified(chain, key).map_err(|error| error.to_string())
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, rustls::Error> {
    CertifiedKey::from_der(chain, key, &crypto::default_provider())
}

/// A certificate of our own, which lasts as long as this process.
fn self_signed(names: &[String], addresses: &[IpAddr]) -> Result<CertifiedKey, Box<dyn std::error::Error>> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names.to_vec())?;
    params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, names.first().map_or("iocast", String::as_str));
    let certificate = params.self_signed(&key)?.der().clone();
    Ok(certified(vec![certificate], PrivatePkcs8KeyDer::from(key.serialize_der()).into())?)
}

/// SHA-256 of the certificate, as browsers show it.
fn fingerprint(key: &CertifiedKey) -> String {
    let certificate = key.end_entity_cert().map_or(&[][..], AsRef::as_ref);
    let hash = digest(&SHA256, certificate);
    let bytes: Vec<_> = hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    bytes.join(":")
}

/// Believes any certificate, but checks that the other end has its key.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = crypto::default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(directory: &Path) -> Shown {
        let own = Arc::new(self_signed(&["own".into()], &[]).unwrap());
        Shown { directory: Some(directory.into()), own, current: Mutex::default() }
    }

    fn write(directory: &Path, name: &str) -> CertifiedKey {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.into()]).unwrap().self_signed(&key).unwrap();
        fs::write(directory.join("tls.crt"), certificate.pem()).unwrap();
        fs::write(directory.join("tls.key"), key.serialize_pem()).unwrap();
        parse(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }

    #[test]
    fn a_certificate_is_read_anew_when_it_has_changed_and_kept_when_it_is_broken() {
        let directory = tempfile::tempdir().unwrap();
        let shown = shown(directory.path());
        let look = || {
            shown.current.lock().unwrap().looked = None;
            shown.look().map(|key| fingerprint(&key))
        };
        assert_eq!(look(), None, "none is there");
        let one = write(directory.path(), "one");
        assert_eq!(look(), Some(fingerprint(&one)));
        let two = write(directory.path(), "two");
        assert_eq!(
            shown.look().map(|key| fingerprint(&key)),
            Some(fingerprint(&one)),
            "not at each handshake"
        );
        assert_eq!(look(), Some(fingerprint(&two)));
        fs::write(directory.path().join("tls.key"), "nonsense").unwrap();
        assert_eq!(look(), Some(fingerprint(&two)));
        fs::remove_file(directory.path().join("tls.crt")).unwrap();
        assert_eq!(look(), Some(fingerprint(&two)));
    }
}
