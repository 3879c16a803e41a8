//! Owns the arbiter of a lab's cluster: a directory, three real etcd members, or a witness; losing it, finding it again.
//!
//! Etcd and the witness are in a namespace of their own and are reached over the replication network, so a host whose
//! replication link is cut does not reach them either.

use crate::cluster::{Cluster, ClusterError, PATIENCE, make_directory, wait_for};
use crate::topology::AGENT;
use arbiter::etcd::members::{self, Member};
use arbiter::etcd::{EtcdPlace, TlsFiles};
use std::path::PathBuf;
use std::process::Command;

/// Where etcd's members are.
const QUORUM: &str = "quorum";
/// Where the witness is.
const WITNESS: &str = "witness";
/// Port of the witness.
const WITNESS_PORT: u16 = 7401;
/// Ports of etcd's members for clients; each also takes the one after it.
const ETCD_PORTS: [u16; 3] = [2379, 2381, 2383];
/// Below this directory of the lab etcd's members have their data.
const ETCD_DATA: &str = "etcd";

/// What decides on ownership in a cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ArbiterKind {
    /// A directory that all hosts reach, whatever becomes of their links.
    #[default]
    Directory,
    /// Three members of etcd.
    Etcd,
    /// A third host.
    Witness,
}

/// The arbiter of a cluster, once it is made.
#[derive(Debug, Default)]
pub(crate) struct LabArbiter {
    kind: ArbiterKind,
    /// What agents' configurations say of it.
    pub(crate) section: String,
    members: Vec<Member>,
}

impl Cluster {
    pub(crate) fn make_arbiter(&self, kind: ArbiterKind) -> Result<LabArbiter, ClusterError> {
        match kind {
            ArbiterKind::Directory => {
                let path = self.arbiter();
                make_directory(&path)?;
                arbiter::directory::init(&path)?;
                let section = format!("[arbiter]\ndirectory = {path:?}\n");
                Ok(LabArbiter { kind, section, members: Vec::new() })
            }
            ArbiterKind::Etcd => self.make_etcd(),
            ArbiterKind::Witness => self.make_witness(),
        }
    }

    fn make_etcd(&self) -> Result<LabArbiter, ClusterError> {
        self.lab.add_host(QUORUM)?;
        let address = self.lab.replication_address(QUORUM)?;
        let data = self.lab.directory().join(ETCD_DATA);
        let members = members::plan(address.into(), &ETCD_PORTS, &data, "http");
        for member in &members {
            self.start_member(member)?;
        }
        let endpoints: Vec<_> = members.iter().map(|member| member.client_url.clone()).collect();
        let section = format!("[arbiter]\netcd = {endpoints:?}\n");
        let place = EtcdPlace { endpoints, prefix: "undying".into(), tls: TlsFiles::default() };
        let quorum = self.lab.host(QUORUM)?;
        wait_for("a quorum of etcd", PATIENCE, || {
            let made = quorum.run(|| arbiter::etcd::init(&place).map(drop))?;
            Ok(made.map_err(|error| error.to_string()))
        })?;
        Ok(LabArbiter { kind: ArbiterKind::Etcd, section, members })
    }

    fn start_member(&self, member: &Member) -> Result<(), ClusterError> {
        self.lab.start(QUORUM, &member.name, Command::new(members::PROGRAM).args(member.arguments()))?;
        Ok(())
    }

    fn make_witness(&self) -> Result<LabArbiter, ClusterError> {
        self.lab.add_host(WITNESS)?;
        let address = self.lab.replication_address(WITNESS)?;
        let path = self.config(WITNESS);
        let text = format!(
            "name = \"{WITNESS}\"\nstate_dir = {:?}\napi_socket = {:?}\n[witness]\nlisten = \"{address}:{WITNESS_PORT}\"\n",
            self.lab.directory().join(WITNESS),
            self.socket(WITNESS),
        );
        std::fs::write(&path, text).map_err(|source| ClusterError::File { path: path.clone(), source })?;
        let hosts: Vec<_> = self.hosts().iter().cloned().chain([WITNESS.to_owned()]).collect();
        self.introduce(&hosts)?;
        crate::command::run(Command::new(self.binary()).args(["arbiter", "init"]).arg(&path))?;
        self.start_agent(WITNESS)?;
        let section = format!("[arbiter]\nwitness = {{ {WITNESS} = \"{address}:{WITNESS_PORT}\" }}\n");
        Ok(LabArbiter { kind: ArbiterKind::Witness, section, members: Vec::new() })
    }

    fn away(&self) -> PathBuf {
        self.arbiter().with_extension("away")
    }

    fn rename(&self, from: PathBuf, to: PathBuf) -> Result<(), ClusterError> {
        std::fs::rename(&from, to).map_err(|source| ClusterError::File { path: from, source })
    }

    /// The arbiter is gone: its directory is moved away, two of three members or the witness are killed.
    ///
    /// # Errors
    /// If it is gone already.
    pub fn lose_arbiter(&self) -> Result<(), ClusterError> {
        match self.arbiter.kind {
            ArbiterKind::Directory => self.rename(self.arbiter(), self.away())?,
            ArbiterKind::Witness => self.lab.kill(WITNESS, AGENT)?,
            ArbiterKind::Etcd => {
                for member in &self.arbiter.members[..2] {
                    self.lab.kill(QUORUM, &member.name)?;
                }
            }
        }
        Ok(())
    }

    /// The arbiter is back, with its records. An etcd has yet to find a leader.
    ///
    /// # Errors
    /// If it cannot be brought back.
    pub fn find_arbiter(&self) -> Result<(), ClusterError> {
        match self.arbiter.kind {
            ArbiterKind::Directory => self.rename(self.away(), self.arbiter())?,
            ArbiterKind::Witness => self.start_agent(WITNESS)?,
            ArbiterKind::Etcd => {
                for member in &self.arbiter.members[..2] {
                    self.start_member(member)?;
                }
            }
        }
        Ok(())
    }

    /// Kills one member of etcd: the others go on.
    ///
    /// # Errors
    /// If the cluster's arbiter is no etcd, or the member is dead.
    pub fn kill_member(&self, number: usize) -> Result<(), ClusterError> {
        let name = format!("m{number}");
        Ok(self.lab.kill(QUORUM, &name)?)
    }
}
