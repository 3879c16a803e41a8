//! Owns the description of a network card.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A network card, whose frames go through the agent to a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NicSpec {
    /// The bridge on the host; there must be one of this name on every host where the VM may run.
    pub bridge: String,
    /// Its address; by default one made from the VM's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The card; by default modern virtio, legacy virtio in the lean profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<NicModel>,
}

/// A network card that QEMU can play.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NicModel {
    /// virtio 1.0. Costs 46 KiB of state in each checkpoint.
    Virtio,
    /// virtio 0.9, without MSI-X: less state, so a shorter pause.
    VirtioLegacy,
    /// Intel 82574: for guests without virtio drivers. The most state.
    E1000e,
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// An address made from the VM's name and the card's place. It is marked as locally administered.
    #[must_use]
    pub fn derived(name: &str, index: usize) -> Self {
        let hash = xxhash_rust::xxh3::xxh3_64(format!("{name}\n{index}").as_bytes()).to_be_bytes();
        Self([0x52, hash[0], hash[1], hash[2], hash[3], hash[4]])
    }

    fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not the address of a card: it looks like 52:54:00:12:34:56");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = u8::from_str_radix(part.ok_or_else(wrong)?, 16).map_err(|_| wrong())?;
        }
        let mac = Self(bytes);
        if parts.next().is_none() && mac.is_unicast() { Ok(mac) } else { Err(wrong()) }
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// What is wrong with a VM's cards, if something is.
pub(super) fn problem(nics: &[NicSpec], microvm: bool) -> Option<String> {
    for nic in nics {
        // The kernel's limit for the name of a device, IFNAMSIZ, counts a zero byte.
        if nic.bridge.is_empty() || nic.bridge.len() > 15 || nic.bridge.contains(['/', ' ']) {
            return Some(format!("bridge {:?} cannot be the name of a network device", nic.bridge));
        }
        if microvm && nic.model == Some(NicModel::E1000e) {
            return Some("a microvm has no PCI bus for an e1000e; use virtio or another machine".to_string());
        }
    }
    let models: Vec<_> = nics.iter().map(|n| n.model).collect();
    if microvm && models.windows(2).any(|two| two[0] != two[1]) {
        return Some("all cards of a microvm must be of one model: its bus is modern or legacy".to_string());
    }
    None
}
