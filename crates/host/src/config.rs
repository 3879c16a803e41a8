//! Owns the agent's configuration file.

pub use crate::arbiters::ArbiterConfig;
pub use crate::peers::{Addresses, PeerConfig};
use protocol::timing::LONGEST_TIMEOUT;
use protocol::{HostName, Micros, Timing};
use qemu::spec::MemorySize;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not right.
    #[error("the configuration {path} is not right: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// The times do not fit together.
    #[error("the configuration {path} is not right: {source}")]
    Timing {
        /// The file.
        path: PathBuf,
        /// Why.
        source: protocol::timing::TimingError,
    },
}

/// The configuration of one host's agent.
///
/// ```toml
/// name = "alpha"
/// listen = "10.0.0.1:7400"
/// state_dir = "/var/lib/undying"
/// api_socket = "/run/undying/alpha.sock"
///
/// [peers]
/// beta = "10.0.0.2:7400"
/// gamma = { address = "10.0.0.3:7400", vms = ["web"] }     # nothing else of this host is gamma's to touch
/// delta = ["10.0.0.4:7400", "10.1.0.4:7400"]               # over two networks, of which one may be lost
///
/// [arbiter]
/// directory = "/shared/undying-arbiter"
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostConfig {
    /// This host's name; other hosts list it among their peers.
    pub name: HostName,
    /// Where other hosts connect to for replication: an address, or several.
    pub listen: Addresses,
    /// Where event logs and console logs go.
    pub state_dir: PathBuf,
    /// Where disk images are that VM files name with a relative path; `disks` in the state directory by default.
    #[serde(default)]
    pub disk_dir: Option<PathBuf>,
    /// The local API's socket.
    pub api_socket: PathBuf,
    /// The other hosts.
    #[serde(default)]
    pub peers: BTreeMap<HostName, PeerConfig>,
    /// Who decides on ownership.
    pub arbiter: ArbiterConfig,
    /// When a silent host is suspected.
    #[serde(default)]
    pub detection: DetectionConfig,
    /// Most bytes a second of a first copy or resynchronisation, such as `"200M"`; without it as fast as it goes.
    #[serde(default)]
    pub copy_rate: Option<MemorySize>,
    /// What other hosts' VMs may have here.
    #[serde(default)]
    pub backup: BackupConfig,
    /// What is left out of checkpoints.
    #[cfg(feature = "ablation")]
    #[serde(default)]
    pub ablation: crate::ablation::Ablation,
}

/// What a host has for standbys of other hosts' VMs, and for VMs that took over here.
///
/// ```toml
/// [backup]
/// memory = "8GiB"
/// vms = 4
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupConfig {
    /// Most guest memory and buffers. Without it what is available at the agent's start, less a reserve; then VMs that
    /// are started here take of it too.
    pub memory: Option<MemorySize>,
    /// Most VMs.
    pub vms: Option<u32>,
    /// Replicas of disks may be promised more than their file system has left, in the hope that guests do not fill them.
    pub sparse_disks: bool,
}

/// The configuration of a host that is a witness: it keeps the records of terms for the others, and runs no VMs.
///
/// ```toml
/// name = "gamma"
/// state_dir = "/var/lib/undying"
/// api_socket = "/run/undying/undying.sock"
///
/// [witness]
/// listen = "10.0.0.3:7401"
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessConfig {
    /// This host's name.
    pub name: HostName,
    /// Where the records are kept.
    pub state_dir: PathBuf,
    /// The local API's socket.
    pub api_socket: PathBuf,
    /// What makes it a witness.
    pub witness: WitnessSection,
}

/// What makes a host a witness.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessSection {
    /// Where other hosts ask.
    pub listen: SocketAddr,
}

impl WitnessConfig {
    /// Whom this host trusts, and as whom it is known.
    #[must_use]
    pub fn trust(&self) -> trust::Store {
        trust::Store::new(&self.state_dir, &self.name)
    }

    /// Where the records are.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.state_dir.join("witness")
    }
}

/// What a host is.
#[derive(Debug, Clone)]
pub enum Config {
    /// One that runs and protects VMs.
    Host(Box<HostConfig>),
    /// One that decides on them.
    Witness(WitnessConfig),
}

impl Config {
    /// Reads and checks a configuration file. One with a section `[witness]` makes a witness.
    ///
    /// # Errors
    /// If it cannot be read or is not right; the error names the file, and the line where there is one.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
        Self::parse(path, &text)
    }

    /// Whom this host trusts, and as whom it is known.
    #[must_use]
    pub fn trust(&self) -> trust::Store {
        match self {
            Self::Host(config) => config.trust(),
            Self::Witness(config) => config.trust(),
        }
    }

    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        if read::<toml::Table>(path, text)?.contains_key("witness") {
            return Ok(Self::Witness(read(path, text)?));
        }
        Ok(Self::Host(Box::new(HostConfig::parse(path, text)?)))
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text)
        .map_err(|source| ConfigError::Parse { path: path.to_path_buf(), source: Box::new(source) })
}

/// When a silent host is suspected.
///
/// ```toml
/// [detection]
/// heartbeat_ms = 30
/// timeout_ms = 280
/// timeout_max_ms = 1400
/// ```
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DetectionConfig {
    /// Milliseconds between heartbeats.
    pub heartbeat_ms: u64,
    /// Milliseconds of silence after which a backup asks for the next term, on a link that is not known to be late. Never
    /// does it ask sooner.
    pub timeout_ms: u64,
    /// Most that this grows to on a link that is known to be late; five times `timeout_ms` if it is not said. Equal to
    /// `timeout_ms`: the time-out is fixed.
    pub timeout_max_ms: Option<u64>,
}

/// The longest time-out, in shortest ones, where the configuration does not say it.
const GROWTH: u64 = 5;

impl Default for DetectionConfig {
    fn default() -> Self {
        let timing = Timing::default();
        Self {
            heartbeat_ms: timing.heartbeat.0 / 1_000,
            timeout_ms: timing.timeout.0 / 1_000,
            timeout_max_ms: None,
        }
    }
}

impl HostConfig {
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = read(path, text)?;
        config
            .timing(Timing::default().interval, None)
            .check()
            .map_err(|source| ConfigError::Timing { path: path.to_path_buf(), source })?;
        Ok(config)
    }

    /// Whom this host trusts, and as whom it is known.
    #[must_use]
    pub fn trust(&self) -> trust::Store {
        trust::Store::new(&self.state_dir, &self.name)
    }

    /// The shortest time-out of sessions that this host opens.
    #[must_use]
    pub fn shortest_timeout(&self) -> Micros {
        Micros::from_millis(self.detection.timeout_ms)
    }

    /// Where this host keeps what its arbiter said.
    #[must_use]
    pub fn arbiter_memory(&self) -> PathBuf {
        self.state_dir.join("arbiter")
    }

    /// Where this host has the disk image that a VM file names.
    #[must_use]
    pub fn disk_path(&self, image: &Path) -> PathBuf {
        match &self.disk_dir {
            Some(directory) => directory.join(image),
            None => self.state_dir.join("disks").join(image),
        }
    }

    /// The times of a session with this checkpoint interval.
    #[must_use]
    pub fn timing(&self, interval: Micros, max_in_flight: Option<u32>) -> Timing {
        let default = Timing::default();
        let shortest = self.shortest_timeout();
        let longest = match self.detection.timeout_max_ms {
            Some(ms) => Micros::from_millis(ms),
            None => Micros(shortest.0 * GROWTH).min(LONGEST_TIMEOUT),
        };
        Timing {
            interval,
            heartbeat: Micros::from_millis(self.detection.heartbeat_ms),
            timeout: shortest,
            timeout_max: longest,
            disconnect_grace: Micros::from_millis(self.detection.heartbeat_ms),
            max_in_flight: max_in_flight.unwrap_or(default.max_in_flight),
            ..default
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        name = "alpha"
        listen = "127.0.0.1:7400"
        state_dir = "/tmp/x"
        api_socket = "/tmp/x.sock"
        [peers]
        beta = "127.0.0.2:7400"
        [arbiter]
        directory = "/tmp/arbiter"
    "#;

    #[test]
    fn a_good_file_is_read_and_a_typo_is_named_with_its_line() {
        let path = Path::new("host.toml");
        assert_eq!(HostConfig::parse(path, GOOD).unwrap().peers.len(), 1);
        let typo = GOOD.replace("listen", "lisen");
        let error = HostConfig::parse(path, &typo).unwrap_err().to_string();
        assert!(error.contains("host.toml") && error.contains("lisen"), "{error}");
    }

    #[test]
    fn a_witness_has_no_arbiter_and_no_peers() {
        let good =
            "name = 'gamma'\nstate_dir = '/x'\napi_socket = '/x.sock'\n[witness]\nlisten = '127.0.0.1:1'\n";
        let path = Path::new("host.toml");
        assert!(matches!(Config::parse(path, good), Ok(Config::Witness(_))));
        assert!(matches!(Config::parse(path, GOOD), Ok(Config::Host(_))));
        let both = format!("{GOOD}\n[witness]\nlisten = '127.0.0.1:1'");
        let error = Config::parse(path, &both).unwrap_err().to_string();
        assert!(error.contains("unknown field"), "{error}");
    }

    #[test]
    fn a_copy_rate_is_a_size_a_second() {
        let path = Path::new("host.toml");
        let with = |rate: &str| {
            HostConfig::parse(path, &GOOD.replace("[peers]", &format!("copy_rate = {rate:?}\n[peers]")))
        };
        assert_eq!(with("200M").unwrap().copy_rate.map(|rate| rate.0), Some(200 << 20));
        assert!(with("fast").unwrap_err().to_string().contains("fast"));
    }

    #[test]
    fn what_standbys_may_have_is_a_section_of_its_own() {
        let path = Path::new("host.toml");
        assert_eq!(HostConfig::parse(path, GOOD).unwrap().backup, BackupConfig::default());
        let with = format!("{GOOD}\n[backup]\nmemory = '2GiB'\nvms = 3\n");
        let backup = HostConfig::parse(path, &with).unwrap().backup;
        let memory = Some(MemorySize(2 << 30));
        assert_eq!(backup, BackupConfig { memory, vms: Some(3), sparse_disks: false });
        let typo = format!("{GOOD}\n[backup]\nmemry = '2GiB'\n");
        assert!(HostConfig::parse(path, &typo).unwrap_err().to_string().contains("memry"));
    }

    #[test]
    fn only_a_build_for_measurements_leaves_parts_of_checkpoints_out() {
        let asked = format!("{GOOD}\n[ablation]\nwithout = ['deltas', 'walkers']\n");
        let read = HostConfig::parse(Path::new("host.toml"), &asked);
        assert_eq!(read.is_ok(), cfg!(feature = "ablation"), "{read:?}");
        let typo = format!("{GOOD}\n[ablation]\nwithout = ['delta']\n");
        assert!(HostConfig::parse(Path::new("host.toml"), &typo).is_err());
    }

    #[test]
    fn times_that_do_not_fit_are_refused() {
        for bad in ["heartbeat_ms = 100\ntimeout_ms = 200", "timeout_max_ms = 279", "timeout_max_ms = 60001"]
        {
            let bad = format!("{GOOD}\n[detection]\n{bad}\n");
            let error = HostConfig::parse(Path::new("host.toml"), &bad).unwrap_err();
            assert!(matches!(error, ConfigError::Timing { .. }));
        }
    }

    #[test]
    fn the_longest_time_out_is_five_of_the_shortest_unless_it_is_said() {
        let times = |section: &str| {
            let text = format!("{GOOD}\n[detection]\n{section}\n");
            let timing =
                HostConfig::parse(Path::new("host.toml"), &text).unwrap().timing(Micros(25_000), None);
            (timing.timeout.0 / 1_000, timing.timeout_max.0 / 1_000, timing.adapts())
        };
        assert_eq!(times(""), (280, 1_400, true));
        assert_eq!(times("heartbeat_ms = 50\ntimeout_ms = 1000"), (1_000, 5_000, true));
        assert_eq!(times("timeout_ms = 20000"), (20_000, 60_000, true));
        assert_eq!(times("timeout_ms = 400\ntimeout_max_ms = 400"), (400, 400, false));
    }
}
