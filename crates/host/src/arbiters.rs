//! Owns which arbiter a configuration names.

use arbiter::directory::{self, DirectoryArbiter};
use arbiter::etcd::{self, EtcdArbiter, EtcdPlace, TlsFiles};
use arbiter::witness::WitnessArbiter;
use arbiter::{Arbiter, ArbiterError};
use protocol::HostName;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What begins the keys in etcd where the configuration does not say.
const PREFIX: &str = "undying";

/// Who decides on ownership: one of three.
///
/// ```toml
/// [arbiter]
/// directory = "/shared/undying-arbiter"     # on storage that all hosts reach
///
/// [arbiter]
/// etcd = ["https://10.0.0.1:2379", "https://10.0.0.2:2379", "https://10.0.0.3:2379"]
/// prefix = "undying"                        # begins the keys
/// ca = "/etc/undying/etcd-ca.pem"           # for https
/// cert = "/etc/undying/etcd.pem"            # if the cluster wants to know its clients
/// key = "/etc/undying/etcd.key"
///
/// [arbiter]
/// witness = { gamma = "10.0.0.3:7401" }     # a third host, without VMs
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub enum ArbiterConfig {
    /// A directory on storage that all hosts reach.
    Directory(PathBuf),
    /// An etcd cluster.
    Etcd(EtcdPlace),
    /// A third host.
    Witness(HostName, SocketAddr),
}

/// As it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    directory: Option<PathBuf>,
    etcd: Option<Vec<String>>,
    prefix: Option<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    witness: Option<Witness>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Witness {
    Named(BTreeMap<HostName, SocketAddr>),
    Nameless(String),
}

impl Witness {
    fn one(self) -> Result<ArbiterConfig, String> {
        match self {
            Self::Named(named) if named.len() == 1 => {
                let mut named =
                    named.into_iter().map(|(name, address)| ArbiterConfig::Witness(name, address));
                named.next().ok_or_else(String::new)
            }
            Self::Named(_) => Err("`witness` in [arbiter] names one host".into()),
            Self::Nameless(address) => Err(format!(
                "`witness` in [arbiter] says which host it is: witness = {{ NAME = {address:?} }}"
            )),
        }
    }
}

impl TryFrom<Written> for ArbiterConfig {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let of_etcd = [
            ("prefix", written.prefix.is_some()),
            ("ca", written.ca.is_some()),
            ("cert", written.cert.is_some()),
            ("key", written.key.is_some()),
        ];
        let stray = of_etcd.iter().find(|(_, there)| *there).filter(|_| written.etcd.is_none());
        if let Some((name, _)) = stray {
            return Err(format!("`{name}` in [arbiter] goes with `etcd`"));
        }
        match (written.directory, written.etcd, written.witness) {
            (Some(directory), None, None) => Ok(Self::Directory(directory)),
            (None, None, Some(witness)) => witness.one(),
            (None, Some(endpoints), None) => {
                let identity = match (written.cert, written.key) {
                    (Some(cert), Some(key)) => Some((cert, key)),
                    (None, None) => None,
                    _ => return Err("`cert` and `key` in [arbiter] go together".into()),
                };
                let prefix = written.prefix.unwrap_or_else(|| PREFIX.to_owned());
                let tls = TlsFiles { ca: written.ca, identity };
                Ok(Self::Etcd(EtcdPlace { endpoints, prefix, tls }))
            }
            _ => Err("[arbiter] says one of `directory`, `etcd` and `witness`".into()),
        }
    }
}

impl ArbiterConfig {
    /// A client of the arbiter, for the host whom these files of trust belong to. Nothing is asked yet: an arbiter that is away may come back.
    ///
    /// # Errors
    /// If the configuration cannot work.
    pub fn client(&self, trust: &trust::Store) -> Result<Box<dyn Arbiter>, ArbiterError> {
        Ok(match self {
            Self::Directory(path) => Box::new(DirectoryArbiter::new(path)),
            Self::Etcd(place) => Box::new(EtcdArbiter::new(place)?),
            Self::Witness(name, address) => {
                Box::new(WitnessArbiter::new(name.clone(), *address, trust.clone()))
            }
        })
    }

    /// Makes it an arbiter, once, before the first VM. A witness is made so on its own host; it is only asked.
    ///
    /// # Errors
    /// If it cannot be reached or written.
    pub fn init(&self, trust: &trust::Store) -> Result<Box<dyn Arbiter>, ArbiterError> {
        match self {
            Self::Directory(path) => Ok(Box::new(directory::init(path)?)),
            Self::Etcd(place) => Ok(Box::new(etcd::init(place)?)),
            Self::Witness(..) => {
                let client = self.client(trust)?;
                client.identity()?;
                Ok(client)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ArbiterConfig, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn each_kind_is_read() {
        assert_eq!(read("directory = '/a'").unwrap(), ArbiterConfig::Directory("/a".into()));
        let witness = read("witness = { gamma = '10.0.0.3:7401' }").unwrap();
        let gamma = HostName::new("gamma").unwrap();
        assert_eq!(witness, ArbiterConfig::Witness(gamma, "10.0.0.3:7401".parse().unwrap()));
        let ArbiterConfig::Etcd(place) = read("etcd = ['http://h:1']").unwrap() else { panic!("etcd") };
        assert_eq!((&*place.endpoints[0], &*place.prefix), ("http://h:1", "undying"));
        let tls = "etcd = ['https://h:1']\nca = '/c'\ncert = '/d'\nkey = '/e'\nprefix = 'p'";
        let ArbiterConfig::Etcd(place) = read(tls).unwrap() else { panic!("etcd") };
        assert_eq!(place.tls, TlsFiles { ca: Some("/c".into()), identity: Some(("/d".into(), "/e".into())) });
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        for (text, named) in [
            ("", "one of `directory`"),
            ("directory = '/a'\nwitness = { w = '10.0.0.3:1' }", "one of `directory`"),
            ("witness = '10.0.0.3:7401'", "witness = { NAME = \"10.0.0.3:7401\" }"),
            ("witness = { a = '10.0.0.3:1', b = '10.0.0.4:1' }", "names one host"),
            ("directory = '/a'\nprefix = 'p'", "`prefix`"),
            ("etcd = ['http://h:1']\ncert = '/d'", "go together"),
            ("witnes = '10.0.0.3:1'", "witnes"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
