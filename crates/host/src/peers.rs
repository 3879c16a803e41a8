//! Owns what a configuration says of another host: where it is, and which VMs it may touch.

use protocol::{HostName, VmName};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::net::SocketAddr;

/// Another host: its address, or a table with its address and the VMs that it may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// Where it listens for other hosts.
    pub address: SocketAddr,
    /// The VMs that it may have from this host, or give to it; all without it.
    pub vms: Option<Vec<VmName>>,
}

impl PeerConfig {
    /// Whether the host may touch this VM.
    #[must_use]
    pub fn is_given(&self, vm: &VmName) -> bool {
        self.vms.as_ref().is_none_or(|vms| vms.contains(vm))
    }
}

/// What an operator hears who wants something of a VM that a peer may not touch.
pub fn not_given(vm: &VmName, peer: &HostName) -> String {
    format!(
        "VM {vm} is not given to host {peer}: add it to `vms` of that peer in the configuration of this host, and start its \
         agent again when no VM needs it"
    )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    address: SocketAddr,
    vms: Option<Vec<VmName>>,
}

struct Written;

impl<'de> Visitor<'de> for Written {
    type Value = PeerConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address such as \"10.0.0.2:7400\", or a table with `address` and `vms`")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<PeerConfig, E> {
        let address = text.parse().map_err(|error| E::custom(format!("{text:?} is no address: {error}")))?;
        Ok(PeerConfig { address, vms: None })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PeerConfig, A::Error> {
        let Table { address, vms } = Table::deserialize(MapAccessDeserializer::new(map))?;
        Ok(PeerConfig { address, vms })
    }
}

impl<'de> Deserialize<'de> for PeerConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn read(text: &str) -> Result<BTreeMap<String, PeerConfig>, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_peer_is_an_address_or_a_table_and_is_given_all_vms_or_those_named() {
        let text = "beta = '10.0.0.2:7400'\n[gamma]\naddress = '10.0.0.3:7400'\nvms = ['web']\n[delta]\naddress = \
                    '[fd00::1]:7400'\n[none]\naddress = '10.0.0.4:1'\nvms = []";
        let peers = read(text).unwrap();
        let (web, db) = (VmName::new("web").unwrap(), VmName::new("db").unwrap());
        let given = |peer: &str| (peers[peer].is_given(&web), peers[peer].is_given(&db));
        assert_eq!(given("beta"), (true, true));
        assert_eq!(given("gamma"), (true, false));
        assert_eq!(given("delta"), (true, true));
        assert_eq!(given("none"), (false, false));
        assert_eq!(peers["beta"].address.port(), 7400);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("beta = 'nowhere'", "nowhere"),
            ("beta = 7400", "an address such as"),
            ("[beta]\nvms = ['web']", "address"),
            ("[beta]\naddress = '10.0.0.2:1'\nvm = ['web']", "vm"),
            ("[beta]\naddress = '10.0.0.2:1'\nvms = ['../web']", "../web"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
