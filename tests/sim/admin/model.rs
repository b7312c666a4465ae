//! What users may read: a naive model of disks, as sets of the values that a sector may have.

/// A sector: the values that it may hold now, and those that it may hold after a power loss now.
#[derive(Clone, Debug)]
struct Cell {
    now: Vec<u32>,
    durable: Vec<u32>,
    /// It was written through this device: the part of a snapshot that its origin holds is made
    /// durable by flushes of the origin.
    written: bool,
}

/// The content of a device.
#[derive(Clone, Debug)]
pub struct Content(Vec<Cell>);

fn with(set: &mut Vec<u32>, value: u32) {
    if !set.contains(&value) {
        set.push(value);
    }
}

impl Content {
    /// A disk that holds these values, durably.
    pub fn of(values: impl Iterator<Item = u32>) -> Content {
        Content(
            values
                .map(|value| Cell { now: vec![value], durable: vec![value], written: false })
                .collect(),
        )
    }

    /// What a snapshot that is taken now shows forever.
    pub fn frozen(&self) -> Content {
        let freeze = |cell: &Cell| {
            let mut durable = cell.now.clone();
            cell.durable.iter().for_each(|value| with(&mut durable, *value));
            Cell { now: cell.now.clone(), durable, written: false }
        };
        Content(self.0.iter().map(freeze).collect())
    }

    /// A write is on its way.
    pub fn begin(&mut self, sector: usize, value: u32) {
        with(&mut self.0[sector].now, value);
        with(&mut self.0[sector].durable, value);
    }

    /// It has been acknowledged.
    pub fn acknowledge(&mut self, sector: usize, value: u32) {
        self.0[sector].now = vec![value];
        self.0[sector].written = true;
        with(&mut self.0[sector].durable, value);
    }

    /// A flush has been acknowledged.
    pub fn flush(&mut self) {
        self.0
            .iter_mut()
            .filter(|cell| cell.written)
            .for_each(|cell| cell.durable = cell.now.clone());
    }

    /// The power has failed.
    pub fn power_lost(&mut self) {
        self.0.iter_mut().for_each(|cell| cell.now = cell.durable.clone());
    }

    /// Compares read data. A sector that could hold several values holds the value that was read
    /// from now on.
    pub fn judge(&mut self, seen: &[u32]) -> Result<(), String> {
        (0..self.0.len().min(seen.len())).try_for_each(|at| self.judge_at(at, seen[at]))
    }

    /// The same with one sector.
    pub fn judge_at(&mut self, at: usize, value: u32) -> Result<(), String> {
        let cell = &mut self.0[at];
        if !cell.now.contains(&value) {
            return Err(format!("sector {at} shows {value} and may hold {:?}", cell.now));
        }
        cell.now = vec![value];
        Ok(())
    }
}

/// The bytes of a sector that holds a value.
pub fn sector(value: u32) -> Vec<u8> {
    value.to_le_bytes().repeat(128)
}

/// The values of sectors.
pub fn values(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks(512)
        .map(|sector| u32::from_le_bytes([sector[0], sector[1], sector[2], sector[3]]))
        .collect()
}
