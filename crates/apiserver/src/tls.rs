//! The cluster's certificate authority and token, and the server's certificate.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::object;

/// Why credentials could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A key or certificate could not be made or read.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refused the certificate.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The system has no random bytes to give.
    #[error("token: {0}")]
    Random(#[from] crate::ApiError),
    /// A token file was emptied.
    #[error("{}: the token is empty; remove the file to have a new one made", .0.display())]
    EmptyToken(PathBuf),
}

/// Certificate authority and bearer token of one cluster. Made once and kept in a directory, so that clients'
/// credentials outlive the server.
#[derive(Debug)]
pub struct Pki {
    ca_pem: String,
    ca_key: KeyPair,
    token: String,
}

impl Pki {
    /// Reads `ca.crt`, `ca.key` and `token` from `directory`, or makes them (readable for the owner only).
    ///
    /// # Errors
    /// If a file cannot be read, written or understood.
    pub fn open(directory: &Path) -> Result<Self, PkiError> {
        let file_error = |path: &Path| {
            let path = path.to_owned();
            move |source| PkiError::File { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(file_error(directory))?;
        let path = directory.join("ca.key");
        let ca_key = match read(&path).map_err(file_error(&path))? {
            Some(pem) => KeyPair::from_pem(&pem)?,
            None => {
                let key = KeyPair::generate()?;
                write(&path, &key.serialize_pem()).map_err(file_error(&path))?;
                key
            }
        };
        let path = directory.join("ca.crt");
        let ca_pem = match read(&path).map_err(file_error(&path))? {
            Some(pem) => pem,
            None => {
                let pem = ca_params()?.self_signed(&ca_key)?.pem();
                write(&path, &pem).map_err(file_error(&path))?;
                pem
            }
        };
        let path = directory.join("token");
        let token = match read(&path).map_err(file_error(&path))? {
            Some(token) => token.trim().to_owned(),
            None => {
                let token: String = object::random::<32>()?.iter().map(|b| format!("{b:02x}")).collect();
                write(&path, &token).map_err(file_error(&path))?;
                token
            }
        };
        if token.is_empty() {
            return Err(PkiError::EmptyToken(path));
        }
        Ok(Self { ca_pem, ca_key, token })
    }

    /// The authority's certificate as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The bearer token that may do everything.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A kubeconfig for the server at `url`, for example `https://127.0.0.1:6443`. Holds the token: keep it
    /// readable for its owner only.
    pub fn kubeconfig(&self, url: &str) -> String {
        let ca = STANDARD.encode(&self.ca_pem);
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: cambric\n  cluster:\n    server: {url}\n    \
             certificate-authority-data: {ca}\nusers:\n- name: admin\n  user:\n    token: {}\ncontexts:\n\
             - name: cambric\n  context:\n    cluster: cambric\n    user: admin\ncurrent-context: cambric\n",
            self.token
        )
    }

    /// TLS for a server that is reached under `localhost`, the loopback addresses and `names` (DNS names or
    /// IP addresses); its certificate is made anew each time.
    pub(crate) fn server_config(&self, names: &[String]) -> Result<Arc<ServerConfig>, PkiError> {
        let mut all: Vec<String> =
            ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
                .into_iter()
                .map(str::to_owned)
                .collect();
        all.extend(["127.0.0.1", "::1"].map(str::to_owned));
        all.extend(names.iter().map(|name| match name.parse::<IpAddr>() {
            Ok(address) => address.to_string(),
            Err(_) => name.clone(),
        }));
        all.dedup();
        let mut params = CertificateParams::new(all)?;
        params.distinguished_name.push(DnType::CommonName, "cambric-apiserver");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &Issuer::new(ca_params()?, &self.ca_key))?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// The authority's certificate, the same every time but for its key.
fn ca_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "cambric-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes by rename, so that a file is there whole or not at all.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn credentials_are_kept_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pki");
        let first = Pki::open(&path).unwrap();
        let second = Pki::open(&path).unwrap();
        assert_eq!((first.token(), first.ca_pem()), (second.token(), second.ca_pem()));
        assert_eq!(first.token().len(), 64);
        for name in ["ca.key", "token"] {
            assert_eq!(fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777, 0o600);
        }
        first.server_config(&["fd00::1".into(), "api.lab".into()]).unwrap();
        assert!(first.kubeconfig("https://[::1]:6443").contains("server: https://[::1]:6443\n"));
    }
}
