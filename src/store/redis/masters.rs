//! Who has a slot: of sentinels the master, of a cluster one of several.

use std::sync::Arc;

use redis::{Value, cmd};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::address::{Address, Servers};
use super::answer::{list, number, text};
use super::connections::{PONG, Redis, error_of};
use crate::store::contract::{Slot, StoreError};
use crate::store::fleet::locked;

/// Of a cluster.
const HASH_SLOTS: u16 = 16_384;

impl Redis {
    /// Who has this slot.
    pub(super) async fn address_of(self: &Arc<Self>, slot: &Slot) -> Result<Address, StoreError> {
        if let Servers::One(address) = &self.servers {
            return Ok(address.clone());
        }
        let hash_slot = hash_slot(format!("{}:{}", slot.namespace(), slot.name()).as_bytes());
        let known = || {
            let masters = locked(&self.masters);
            masters.iter().find(|(last, _)| hash_slot <= *last).map(|(_, address)| address.clone())
        };
        if let Some(address) = known() {
            return Ok(address);
        }
        let masters = self.find_masters().await?;
        *locked(&self.masters) = masters;
        known().ok_or_else(|| StoreError::refused(format!("nobody has the hash slot {hash_slot}")))
    }

    /// By the last of the hash slots that each has. All are asked at once, since some may never answer.
    pub(super) async fn find_masters(self: &Arc<Self>) -> Result<Vec<(u16, Address)>, StoreError> {
        let mut last = StoreError::unreachable("it has no address");
        let asked = match &self.servers {
            Servers::One(address) => return Ok(vec![(HASH_SLOTS, address.clone())]),
            Servers::Sentinels(addresses, _) | Servers::Cluster(addresses) => addresses,
        };
        let mut answers = JoinSet::new();
        for address in asked.clone() {
            let redis = Arc::clone(self);
            answers.spawn(async move { redis.ask_for_masters(&address).await });
        }
        while let Some(answer) = answers.join_next().await {
            match answer {
                Ok(Ok(masters)) => return Ok(masters),
                Ok(Err(error)) => last = error,
                Err(_) => {}
            }
        }
        Err(last)
    }

    async fn ask_for_masters(
        self: &Arc<Self>,
        address: &Address,
    ) -> Result<Vec<(u16, Address)>, StoreError> {
        let (is_cluster, question) = match &self.servers {
            Servers::Sentinels(_, master) => {
                (false, cmd("SENTINEL").arg("get-master-addr-by-name").arg(master).to_owned())
            }
            _ => (true, cmd("CLUSTER").arg("SLOTS").to_owned()),
        };
        let (mut connection, opening) = self.connection(address, is_cluster).await?;
        let forget = |error| {
            self.forget(address, &opening);
            error
        };
        let answer = timeout(PONG, connection.send_packed_command(&question)).await;
        let answer = answer.map_err(|_| forget(StoreError::TimedOut))?;
        let answer = answer.map_err(|error| forget(error_of(&error)))?;
        let masters = if is_cluster { ranges(&answer, &address.0) } else { master(&answer) };
        masters.ok_or_else(|| forget(StoreError::refused("it does not know the master")))
    }
}

/// Of `SENTINEL get-master-addr-by-name`.
fn master(answer: &Value) -> Option<Vec<(u16, Address)>> {
    let [host, port] = list(answer)? else { return None };
    let address =
        (std::str::from_utf8(text(host)?).ok()?.into(), u16::try_from(number(port)?).ok()?);
    Some(vec![(HASH_SLOTS, address)])
}

/// Of `CLUSTER SLOTS`. An empty host is the one that was asked.
fn ranges(answer: &Value, asked: &Arc<str>) -> Option<Vec<(u16, Address)>> {
    let range = |range: &Value| {
        let [_, last, master, ..] = list(range)? else { return None };
        let [host, port, ..] = list(master)? else { return None };
        let host = std::str::from_utf8(text(host)?).ok()?;
        let host = if host.is_empty() { Arc::clone(asked) } else { host.into() };
        let port = u16::try_from(number(port)?).ok()?;
        Some((u16::try_from(number(last)?).ok()?, (host, port)))
    };
    let mut ranges = list(answer)?.iter().map(range).collect::<Option<Vec<_>>>()?;
    ranges.sort();
    Some(ranges)
}

/// Of the part of a key that is in braces: CRC16/XMODEM.
fn hash_slot(key: &[u8]) -> u16 {
    let crc = key.iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
        })
    });
    crc % HASH_SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The specification's own examples.
    #[test]
    fn hash_slots_are_those_of_the_servers() {
        assert_eq!(hash_slot(b"123456789"), 0x31C3 % HASH_SLOTS);
        assert_eq!(hash_slot(b"user1000"), 3443);
        assert_eq!(hash_slot(b""), 0);
    }
}
