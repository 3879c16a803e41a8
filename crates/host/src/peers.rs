//! Owns what a configuration says of another host: where it is, and which VMs it may touch. Where a host is may be several
//! addresses, each on a network of its own.

use protocol::paths::MAX_PATHS;
use protocol::{HostName, VmName};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::net::SocketAddr;

/// Addresses of a host: at least one, no more than a session can use, none twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses(Vec<SocketAddr>);

impl std::ops::Deref for Addresses {
    type Target = [SocketAddr];

    fn deref(&self) -> &[SocketAddr] {
        &self.0
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.0.iter().map(SocketAddr::to_string).collect();
        f.write_str(&all.join(", "))
    }
}

impl Addresses {
    fn one<E: serde::de::Error>(text: &str) -> Result<Self, E> {
        let address = text.parse().map_err(|error| E::custom(format!("{text:?} is no address: {error}")))?;
        Ok(Self(vec![address]))
    }

    fn several<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let mut all = Vec::new();
        while let Some(text) = list.next_element::<String>()? {
            let address = Self::one::<A::Error>(&text)?.0[0];
            // Port 0 is any.
            if all.contains(&address) && address.port() != 0 {
                return Err(serde::de::Error::custom(format!("{address} is there twice")));
            }
            all.push(address);
        }
        match all.len() {
            1..=MAX_PATHS => Ok(Self(all)),
            many => {
                let why = format!(
                    "{many} addresses: one to {MAX_PATHS} may be given, each on a network of its own"
                );
                Err(serde::de::Error::custom(why))
            }
        }
    }
}

struct OneOrSeveral;

impl<'de> Visitor<'de> for OneOrSeveral {
    type Value = Addresses;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address such as \"10.0.0.2:7400\", or a list of some")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Addresses, E> {
        Addresses::one(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Addresses, A::Error> {
        Addresses::several(list)
    }
}

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrSeveral)
    }
}

/// Another host: its address or addresses, or a table with its address and the VMs that it may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// Where it listens for other hosts, one address for each network.
    pub addresses: Addresses,
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
    address: Addresses,
    vms: Option<Vec<VmName>>,
}

struct Written;

impl<'de> Visitor<'de> for Written {
    type Value = PeerConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "an address such as \"10.0.0.2:7400\", a list of some, or a table with `address` and `vms`",
        )
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<PeerConfig, E> {
        Ok(PeerConfig { addresses: Addresses::one(text)?, vms: None })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<PeerConfig, A::Error> {
        Ok(PeerConfig { addresses: Addresses::several(list)?, vms: None })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PeerConfig, A::Error> {
        let Table { address, vms } = Table::deserialize(MapAccessDeserializer::new(map))?;
        Ok(PeerConfig { addresses: address, vms })
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
        assert_eq!(peers["beta"].addresses[0].port(), 7400);
    }

    #[test]
    fn a_peer_may_have_several_addresses() {
        let two = "['10.0.0.2:7400', '10.1.0.2:7400']";
        for text in [format!("beta = {two}"), format!("[beta]\naddress = {two}")] {
            assert_eq!(read(&text).unwrap()["beta"].addresses.to_string(), "10.0.0.2:7400, 10.1.0.2:7400");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("beta = 'nowhere'", "nowhere"),
            ("beta = []", "0 addresses"),
            ("beta = ['10.0.0.2:1', '10.0.0.2:1']", "twice"),
            ("beta = ['10.0.0.2:1', '10.0.0.2:2', '10.0.0.2:3', '10.0.0.2:4', '10.0.0.2:5']", "5 addresses"),
            ("[beta]\naddress = ['10.0.0.2:1', 'nowhere']", "nowhere"),
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
