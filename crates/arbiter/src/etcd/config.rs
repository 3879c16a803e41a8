//! Owns where an etcd cluster is and how it is spoken to.

use std::path::PathBuf;

/// Where an etcd cluster is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdPlace {
    /// Client URLs of the members, `http://HOST:PORT` or `https://HOST:PORT`. One is enough to speak to; with all of
    /// them any member may be away.
    pub endpoints: Vec<String>,
    /// Begins all keys.
    pub prefix: String,
    /// What `https` needs.
    pub tls: TlsFiles,
}

/// Files for `https`, all PEM.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// The certificates that members' certificates must stem from; the usual public ones if none.
    pub ca: Option<PathBuf>,
    /// This host's certificate and its key, if the cluster asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}
