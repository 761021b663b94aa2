//! Ports that watched processes listen on: the programs watch what comes in there from its first
//! segment, although no watched thread is at work then.

use std::collections::BTreeSet;

use aya::maps::{HashMap, MapData, MapError};

/// The programs' map.
pub struct Listening {
    ports: HashMap<MapData, u16, u32>,
}

impl Listening {
    /// Takes over the map.
    pub fn new(ports: HashMap<MapData, u16, u32>) -> Self {
        Self { ports }
    }

    /// The ports that the programs know: those told before, and those that listen() added.
    pub fn known(&self) -> BTreeSet<u16> {
        self.ports.keys().flatten().collect()
    }

    /// Makes `ports` known. What was in `before` and is not among them is forgotten: what is newer
    /// than the list stays.
    pub fn set(&mut self, ports: &BTreeSet<u16>, before: &BTreeSet<u16>) -> Result<(), MapError> {
        for port in ports.difference(before) {
            self.ports.insert(port, 1, 0)?;
        }
        for port in before.difference(ports) {
            self.ports.remove(port)?;
        }
        Ok(())
    }
}
