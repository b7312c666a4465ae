//! The required content of a device, sector by sector.
//!
//! Every sector that a test writes is filled with a stamp: the writer (a four-letter tag), the
//! sector, and the write (a generation). A `View` remembers one such cell for each sector of a
//! device; a snapshot's view starts as a copy of its origin's and is then independent. A mismatch
//! therefore shows the wrong content: an older write, another sector, zeroes.
//!
//! Writes in flight are kept in the view, so that concurrent writers never overlap and a view taken
//! in mid-load (a new snapshot, a killed server) knows which sectors may hold either.

use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard};

use crate::disk::{Buf, Disk, MIB, SECTOR, us};

/// Writer's tag in the upper half, generation in the lower; 0 is a sector of zeroes.
pub type Cell = u64;

/// A range with the cell that a write in flight puts there.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    pub sector: u64,
    pub sectors: u64,
    pub cell: Cell,
}

impl Ticket {
    fn meets(&self, sector: u64, sectors: u64) -> bool {
        self.sector < sector + sectors && sector < self.sector + self.sectors
    }
}

struct State {
    cells: Vec<Cell>,
    generation: u32,
    /// Ranges being written or verified right now; after a load over a killed server: ranges
    /// whose write was never acknowledged.
    busy: Vec<Ticket>,
    /// While a window is open: every write that was in flight during it.
    window: Option<Vec<Ticket>>,
}

/// The expected content of one device.
pub struct View {
    tag: u32,
    state: Mutex<State>,
}

impl View {
    /// A device of zeroes whose writes will carry `tag` (four ASCII letters).
    pub fn new(tag: &str, sectors: u64) -> View {
        View::with_cells(tag, vec![0; us(sectors)])
    }

    pub fn with_cells(tag: &str, cells: Vec<Cell>) -> View {
        let tag = u32::from_be_bytes(tag.as_bytes().try_into().expect("a tag has four letters"));
        View {
            tag,
            state: Mutex::new(State { cells, generation: 0, busy: Vec::new(), window: None }),
        }
    }

    /// A snapshot taken now, while no write is in flight.
    pub fn snapshot(&self, tag: &str) -> View {
        let state = self.lock();
        assert!(state.busy.is_empty(), "the model's origin is being written");
        View::with_cells(tag, state.cells.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn sectors(&self) -> u64 {
        self.lock().cells.len() as u64
    }

    /// Reserves a range for a write; `None` if the range is in use.
    pub fn begin(&self, sector: u64, sectors: u64) -> Option<Ticket> {
        let mut state = self.lock();
        if state.busy.iter().any(|b| b.meets(sector, sectors)) {
            return None;
        }
        state.generation += 1;
        let cell = u64::from(self.tag) << 32 | u64::from(state.generation);
        let ticket = Ticket { sector, sectors, cell };
        state.busy.push(ticket);
        if let Some(window) = &mut state.window {
            window.push(ticket);
        }
        Some(ticket)
    }

    /// The write is acknowledged.
    pub fn end(&self, ticket: Ticket) {
        let mut state = self.lock();
        state.cells[us(ticket.sector)..us(ticket.sector + ticket.sectors)].fill(ticket.cell);
        state.busy.retain(|b| b.cell != ticket.cell);
    }

    /// The write certainly failed: no part of it may be visible.
    pub fn cancel(&self, ticket: Ticket) {
        self.lock().busy.retain(|b| b.cell != ticket.cell);
    }

    /// Opens a window: whether a write is in a snapshot that is taken from now on until
    /// `close_window` is ambiguous. Returns the cells as acknowledged so far.
    pub fn open_window(&self) -> Vec<Cell> {
        let mut state = self.lock();
        state.window = Some(state.busy.clone());
        state.cells.clone()
    }

    /// Every write that overlapped the window in time.
    pub fn close_window(&self) -> Vec<Ticket> {
        self.lock().window.take().expect("a window is open")
    }

    /// From now on the device holds these cells.
    pub fn put(&self, cells: Vec<Cell>) {
        self.lock().cells = cells;
    }

    /// Takes the writes that were never acknowledged out of the model.
    pub fn take_unacknowledged(&self) -> Vec<Ticket> {
        std::mem::take(&mut self.lock().busy)
    }

    /// Writes a range and remembers it.
    pub fn write(&self, disk: &Disk, sector: u64, sectors: u64) {
        if let Err(e) = self.try_write(disk, sector, sectors) {
            panic!("{}: write of {sectors} sectors at {sector}: {e}", disk.path);
        }
    }

    /// Writes a range; a refused write leaves the model as it was.
    pub fn try_write(&self, disk: &Disk, sector: u64, sectors: u64) -> std::io::Result<()> {
        let ticket = self.begin(sector, sectors).expect("no other writer");
        let done = disk.try_write(sector, &stamped(ticket));
        match done {
            Ok(()) => self.end(ticket),
            Err(_) => self.cancel(ticket),
        }
        done
    }

    /// Fills the whole device with stamps.
    pub fn fill(&self, disk: &Disk) {
        let (all, mut at) = (self.sectors(), 0);
        while at < all {
            let step = MIB.min(all - at);
            self.write(disk, at, step);
            at += step;
        }
    }

    /// Compares a range unless it is being written; false when it was.
    pub fn try_verify(&self, disk: &Disk, sector: u64, sectors: u64) -> Result<bool, String> {
        let mut state = self.lock();
        if state.busy.iter().any(|b| b.meets(sector, sectors)) {
            return Ok(false);
        }
        let expected = state.cells[us(sector)..us(sector + sectors)].to_vec();
        state.generation += 1;
        // Generations with the tag 0 mark readers: no writer may use the range meanwhile.
        let guard = Ticket { sector, sectors, cell: u64::from(state.generation) };
        state.busy.push(guard);
        drop(state);
        let mut buf = Buf::new(sectors);
        let got = disk.try_read(sector, &mut buf);
        self.cancel(guard);
        got.map_err(|e| format!("{}: read of {sectors} sectors at {sector}: {e}", disk.path))?;
        compare(&disk.path, sector, &expected, &buf)?;
        Ok(true)
    }

    /// The content of a range according to acknowledged writes.
    pub fn cells(&self, sector: u64, sectors: u64) -> Vec<Cell> {
        self.lock().cells[us(sector)..us(sector + sectors)].to_vec()
    }

    /// Compares a range without writers, concurrently with other readers.
    pub fn verify_shared(&self, disk: &Disk, sector: u64, sectors: u64) {
        compare(&disk.path, sector, &self.cells(sector, sectors), &disk.read(sector, sectors))
            .unwrap_or_else(|why| panic!("{why}"));
    }

    pub fn verify_range(&self, disk: &Disk, sector: u64, sectors: u64) {
        match self.try_verify(disk, sector, sectors) {
            Ok(true) => {}
            Ok(false) => {
                panic!("{}: sectors {sector}+{sectors} are still being written", disk.path)
            }
            Err(why) => panic!("{why}"),
        }
    }

    /// Whether a disk differs anywhere. There must be no writers.
    pub fn differs(&self, disk: &Disk) -> bool {
        let step = |at: u64| MIB.min(self.sectors() - at);
        let wrong = |at| {
            compare(&disk.path, at, &self.cells(at, step(at)), &disk.read(at, step(at))).is_err()
        };
        (0..self.sectors()).step_by(us(MIB)).any(wrong)
    }

    /// Compares the whole device.
    pub fn verify(&self, disk: &Disk) {
        let all = self.sectors();
        assert!(disk.sectors == all, "{} has {} sectors, the model {all}", disk.path, disk.sectors);
        let mut at = 0;
        while at < all {
            let step = MIB.min(all - at);
            self.verify_range(disk, at, step);
            at += step;
        }
    }
}

/// Reads a device that may hold, sector by sector, either `base` or any of `maybe`; returns the
/// content found. From then on it must hold exactly that.
pub fn resolve(disk: &Disk, base: Vec<Cell>, maybe: &[Ticket]) -> Vec<Cell> {
    try_resolve(disk, base, maybe).unwrap_or_else(|why| panic!("{why}"))
}

/// The same; an error says which sector holds something else.
pub fn try_resolve(
    disk: &Disk,
    mut base: Vec<Cell>,
    maybe: &[Ticket],
) -> Result<Vec<Cell>, String> {
    let (all, mut at) = (base.len() as u64, 0);
    while at < all {
        let step = MIB.min(all - at);
        let buf = disk.read(at, step);
        let near: Vec<&Ticket> = maybe.iter().filter(|t| t.meets(at, step)).collect();
        for (sector, bytes) in (at..).zip(buf.chunks_exact(us(SECTOR))) {
            let cell = &mut base[us(sector)];
            if matches(*cell, sector, bytes) {
                continue;
            }
            match near.iter().find(|t| t.meets(sector, 1) && matches(t.cell, sector, bytes)) {
                Some(ticket) => *cell = ticket.cell,
                None => return Err(mismatch(&disk.path, sector, *cell, bytes)),
            }
        }
        at += step;
    }
    Ok(base)
}

/// The bytes of a write.
pub fn stamped(ticket: Ticket) -> Buf {
    let mut buf = Buf::new(ticket.sectors);
    for (sector, bytes) in (ticket.sector..).zip(buf.chunks_exact_mut(us(SECTOR))) {
        stamp(ticket.cell, sector, |at, word| bytes[at..at + 8].copy_from_slice(&word));
    }
    buf
}

/// Returns each word of a stamp: cell, sector, then words derived from both.
fn stamp(cell: Cell, sector: u64, mut word: impl FnMut(usize, [u8; 8])) {
    if cell == 0 {
        for at in (0..us(SECTOR)).step_by(8) {
            word(at, [0; 8]);
        }
        return;
    }
    word(0, cell.to_le_bytes());
    word(8, sector.to_le_bytes());
    let mut value =
        cell.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ sector.wrapping_mul(0xd6e8_feb8_6659_fd93);
    for at in (16..us(SECTOR)).step_by(8) {
        value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
        word(at, value.to_le_bytes());
    }
}

fn matches(cell: Cell, sector: u64, bytes: &[u8]) -> bool {
    let mut same = true;
    stamp(cell, sector, |at, word| same &= bytes[at..at + 8] == word);
    same
}

/// A sector's stamp: its cell and the sector it was written for; zeroes are cell 0. `None`: no
/// stamp.
pub fn stamp_of(bytes: &[u8]) -> Option<(Cell, u64)> {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let (cell, sector) = (word(0), word(8));
    matches(cell, sector, bytes).then_some((cell, sector))
}

/// Compares sectors with the cells they must hold.
pub fn compare(path: &str, first: u64, expected: &[Cell], found: &[u8]) -> Result<(), String> {
    for ((sector, cell), bytes) in (first..).zip(expected).zip(found.chunks_exact(us(SECTOR))) {
        if !matches(*cell, sector, bytes) {
            return Err(mismatch(path, sector, *cell, bytes));
        }
    }
    Ok(())
}

fn mismatch(path: &str, sector: u64, cell: Cell, bytes: &[u8]) -> String {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let found = if bytes.iter().all(|b| *b == 0) {
        "zeroes".to_string()
    } else if matches(word(0), word(8), bytes) {
        format!("{} for sector {}", name(word(0)), word(8))
    } else {
        let mut text = "no stamp:".to_string();
        for byte in &bytes[..16] {
            write!(text, " {byte:02x}").expect("a string takes it");
        }
        text
    };
    format!("{path}: sector {sector} should hold {}, holds {found}", name(cell))
}

/// Describes a cell.
pub fn name(cell: Cell) -> String {
    if cell == 0 {
        return "zeroes".to_string();
    }
    let tag: String = cell.to_be_bytes()[..4].iter().map(|b| char::from(*b)).collect();
    format!("write {} of {tag:?}", cell & 0xffff_ffff)
}
