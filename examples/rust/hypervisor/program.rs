//! What the guest's program (`examples/guest/guest.S`) leaves in memory, seen from outside: the
//! same pages written by Rust, and the proof that a memory image is exactly what it must be.
//!
//! The counter tells, for each data page, the number of the write that it must hold: an update
//! lost on the way shows even where the old page's checksum holds.

use crate::options::{Content, Damage};
use serde::{Deserialize, Serialize};
use std::ptr;

/// The program's bytes; the fragments of text are part of them.
const CODE: &[u8] = include_bytes!("../../guest/guest.bin");
const TEXT_OFFSET: usize = 0x200;

pub const PAGE_BYTES: usize = 4096;
pub const CODE_ADDRESS: usize = 0x1000;
pub const TABLES_ADDRESS: usize = 0x3000;
const CONTROL_ADDRESS: usize = 0x2000;
const TABLES_BYTES: usize = 5 * PAGE_BYTES;
const PAGE_WORDS: usize = PAGE_BYTES / 4;
const FILL_START: usize = 4;
const FIRST_DATA_PAGE: u32 = 16;
const MAGIC: u32 = 0x4743_5744;
const VERSION: u32 = 1;

type Words = [u32; PAGE_WORDS];

/// The control page, as guest.S knows it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Control {
    magic: u32,
    version: u32,
    first_page: u32,
    pub data_pages: u32,
    working_set_pages: u32,
    stride: u32,
    content: u32,
    pub ticks: u32,
    pub counter: u64,
    cursor: u32,
    batch: u32,
}

/// A guest's memory as the host sees it: one mapped range that the guest writes at the same time.
#[derive(Clone, Copy)]
pub struct Memory {
    pub start: *mut u8,
    pub length_bytes: usize,
}

// SAFETY: an address range; `Guest` keeps it mapped, and all access is by raw copies.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// What a check of a whole memory image found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Proof {
    pub holds: bool,
    pub counter: u64,
    pub pages: u64,
    pub data_pages: u64,
    pub zero_pages: u64,
    pub bad_checksums: u64,
    pub bad_sequences: u64,
    pub bad_other: u64,
    pub first_bad_page: i64,
    pub text: String,
}

impl Memory {
    fn copy_in(self, address: usize, bytes: &[u8]) {
        assert!(address + bytes.len() <= self.length_bytes);
        // SAFETY: within the mapped range; `bytes` is the host's own.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(address), bytes.len()) }
    }

    fn copy_out(self, address: usize, bytes: &mut [u8]) {
        assert!(address + bytes.len() <= self.length_bytes);
        // SAFETY: as above.
        unsafe {
            ptr::copy_nonoverlapping(self.start.add(address), bytes.as_mut_ptr(), bytes.len())
        }
    }

    fn control_pointer(self) -> *mut Control {
        self.start.wrapping_add(CONTROL_ADDRESS).cast()
    }

    /// The counters now; the guest may be counting.
    pub fn control(self) -> Control {
        // SAFETY: mapped, aligned to a page, and any bytes are a Control.
        unsafe { self.control_pointer().read_volatile() }
    }

    fn set_control(self, control: Control) {
        // SAFETY: as above.
        unsafe { self.control_pointer().write_volatile(control) }
    }

    fn page(self, page: u64) -> Words {
        let mut bytes = [0; PAGE_BYTES];
        self.copy_out(page as usize * PAGE_BYTES, &mut bytes);
        words_of(&bytes)
    }

    fn set_page(self, page: u64, words: &Words) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.copy_in(page as usize * PAGE_BYTES, &bytes);
    }

    /// Lays out an empty memory so that the program can start.
    pub fn load(self, content: Content, working_set_mib: Option<u32>) {
        let pages = (self.length_bytes / PAGE_BYTES) as u32 - FIRST_DATA_PAGE;
        let data_pages = if content == Content::ZeroHeavy { pages.div_ceil(4) } else { pages };
        let wanted = working_set_mib.map_or(data_pages, |mib| mib << 8);
        let working_set_pages = data_pages.min(wanted);
        self.copy_in(CODE_ADDRESS, CODE);
        self.copy_in(TABLES_ADDRESS, &tables());
        self.set_control(Control {
            magic: MAGIC,
            version: VERSION,
            first_page: FIRST_DATA_PAGE,
            data_pages,
            working_set_pages,
            stride: stride_for(working_set_pages),
            content: content as u32,
            ..Control::default()
        });
    }

    /// Writes one page, as the program does it.
    pub fn step(self) {
        let mut control = self.control();
        let sequence = control.counter + 1;
        let index = control.page_of(sequence);
        self.set_page(control.number(index), &make_page(&control, index, sequence));
        control.counter = sequence;
        control.cursor = control.page_of(sequence + 1);
        self.set_control(control);
    }

    /// The guest asked once more.
    pub fn tick(self) {
        let mut control = self.control();
        control.ticks = control.ticks.wrapping_add(1);
        self.set_control(control);
    }

    /// Damages an image in a way that [`Self::prove`] must find.
    pub fn damage(self, damage: Damage) {
        let mut control = self.control();
        let recent = if control.counter > 3 { control.counter - 2 } else { 1 };
        let index = control.page_of(recent);
        let page = control.number(index);
        match damage {
            Damage::None => {}
            Damage::Byte => self.flip(page as usize * PAGE_BYTES + PAGE_BYTES / 2),
            Damage::Code => self.flip(CODE_ADDRESS + TEXT_OFFSET), // never run
            Damage::Counter => {
                control.counter -= 2;
                self.set_control(control);
            }
            Damage::Stale => {
                let first = u64::from(index) + 1;
                let sequence = if first < recent { first } else { control.counter };
                self.set_page(page, &make_page(&control, index, sequence));
            }
        }
    }

    fn flip(self, address: usize) {
        let mut byte = [0];
        self.copy_out(address, &mut byte);
        self.copy_in(address, &[byte[0] ^ 0x10]);
    }

    /// Checks every page of a memory that nobody writes.
    pub fn prove(self) -> Proof {
        let control = self.control();
        let pages = (self.length_bytes / PAGE_BYTES) as u64;
        let mut proof = Proof {
            holds: true,
            counter: control.counter,
            pages,
            first_bad_page: -1,
            ..Proof::default()
        };
        if !control.is_sound(pages) {
            proof.other(CONTROL_ADDRESS, "the control page is damaged");
            return proof;
        }
        let mut found = vec![0; TABLES_BYTES];
        self.copy_out(TABLES_ADDRESS, &mut found);
        if found != tables() {
            proof.other(TABLES_ADDRESS, "the page tables are damaged");
        }
        let inverse = inverse(u64::from(control.stride), u64::from(control.working_set_pages));
        let next = control.page_of(control.counter + 1);
        for page in 0..pages {
            let index = page.wrapping_sub(u64::from(FIRST_DATA_PAGE));
            if index >= u64::from(control.data_pages) {
                self.prove_untouched(page, &mut proof);
                continue;
            }
            let index = index as u32;
            let expected = control.last_write(inverse, index);
            proof.data_pages += u64::from(expected != 0);
            let words = self.page(page);
            if index == next && is_in_the_making(&control, index, expected, &words) {
                continue;
            }
            if expected == 0 {
                self.prove_untouched(page, &mut proof);
            } else {
                proof.data_page(page, expected, &words);
            }
        }
        proof
    }

    fn prove_untouched(self, page: u64, proof: &mut Proof) {
        let mut bytes = [0; PAGE_BYTES];
        let address = page as usize * PAGE_BYTES;
        self.copy_out(address, &mut bytes);
        let known = match address {
            CODE_ADDRESS => {
                if !bytes.starts_with(CODE) {
                    proof.other(address, "the program is damaged");
                }
                CODE.len()
            }
            CONTROL_ADDRESS => size_of::<Control>(),
            TABLES_ADDRESS.. if address < TABLES_ADDRESS + TABLES_BYTES => PAGE_BYTES,
            _ => {
                proof.zero_pages += 1;
                0
            }
        };
        if bytes[known..].iter().any(|byte| *byte != 0) {
            proof.other(address, "never written, and not zero");
        }
    }
}

impl Control {
    fn number(&self, index: u32) -> u64 {
        u64::from(self.first_page) + u64::from(index)
    }

    /// Which data page write number `sequence` goes to.
    fn page_of(&self, sequence: u64) -> u32 {
        let (write, fill) = (sequence - 1, u64::from(self.data_pages));
        let working_set = u64::from(self.working_set_pages);
        if write < fill {
            return write as u32;
        }
        ((write - fill) % working_set * u64::from(self.stride) % working_set) as u32
    }

    /// The number of the last write to a data page, 0 for none.
    fn last_write(&self, inverse_stride: u64, index: u32) -> u64 {
        let (fill, working_set) = (u64::from(self.data_pages), u64::from(self.working_set_pages));
        let index = u64::from(index);
        if self.counter <= fill {
            return if index < self.counter { index + 1 } else { 0 };
        }
        let (step, writes) = (index * inverse_stride % working_set, self.counter - fill);
        if index >= working_set || step >= writes {
            return index + 1;
        }
        fill + 1 + step + (writes - 1 - step) / working_set * working_set
    }

    fn is_sound(&self, pages: u64) -> bool {
        self.magic == MAGIC
            && self.version == VERSION
            && self.first_page == FIRST_DATA_PAGE
            && self.content <= Content::ZeroHeavy as u32
            && (1..=pages - u64::from(FIRST_DATA_PAGE)).contains(&u64::from(self.data_pages))
            && (1..=self.data_pages).contains(&self.working_set_pages)
            && self.stride == stride_for(self.working_set_pages)
    }
}

impl Proof {
    fn found(&mut self, page: u64, text: String) {
        if self.holds {
            self.holds = false;
            self.first_bad_page = page as i64;
            self.text = text;
        }
    }

    fn other(&mut self, address: usize, text: &str) {
        let page = (address / PAGE_BYTES) as u64;
        self.bad_other += 1;
        self.found(page, format!("page {page}: {text}"));
    }

    fn data_page(&mut self, page: u64, expected: u64, words: &Words) {
        let sequence = u64::from(words[1]) | u64::from(words[2]) << 32;
        let sum = checksum(words);
        if words[3] != sum {
            self.bad_checksums += 1;
            let text = format!("checksum {:08x} does not match its bytes ({sum:08x})", words[3]);
            self.found(page, format!("page {page}: {text}"));
        } else if u64::from(words[0]) != page || sequence != expected {
            self.bad_sequences += 1;
            let text = format!("holds write {sequence} of page {}, must hold {expected}", words[0]);
            self.found(page, format!("page {page}: {text}"));
        }
    }
}

fn words_of(bytes: &[u8; PAGE_BYTES]) -> Words {
    let mut words = [0; PAGE_WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

fn add_to(sum: u32, word: u32) -> u32 {
    sum.rotate_left(5).wrapping_add(word)
}

fn checksum(words: &Words) -> u32 {
    let counted = words.iter().enumerate().filter(|(i, _)| *i != 3);
    counted.fold(0, |sum, (_, word)| add_to(sum, *word))
}

/// The page that write `sequence` makes of data page `index`.
fn make_page(control: &Control, index: u32, sequence: u64) -> Words {
    let page = control.first_page + index;
    let (low, high) = (sequence as u32, (sequence >> 32) as u32);
    let mixed = low.wrapping_mul(0x85EB_CA6B).wrapping_add(high);
    let mut x = (page.wrapping_mul(0x9E37_79B1) ^ mixed) | 1;
    let mut words = [0; PAGE_WORDS];
    for (i, word) in words.iter_mut().enumerate().skip(FILL_START) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        *word = match control.content {
            0 => x,
            1 => fragment(x >> 26),
            _ if i % 16 == 0 => x,
            _ => 0,
        };
    }
    (words[0], words[1], words[2]) = (page, low, high);
    words[3] = checksum(&words);
    words
}

fn fragment(number: u32) -> u32 {
    let at = TEXT_OFFSET + number as usize * 4;
    u32::from_le_bytes([CODE[at], CODE[at + 1], CODE[at + 2], CODE[at + 3]])
}

/// The one page that may be in the making: new words in the order of writing, then old ones.
fn is_in_the_making(control: &Control, index: u32, old_write: u64, words: &Words) -> bool {
    let old = match old_write {
        0 => [0; PAGE_WORDS],
        write => make_page(control, index, write),
    };
    let new = make_page(control, index, control.counter + 1);
    let order = |i: usize| (i + FILL_START) % PAGE_WORDS;
    let written = (0..PAGE_WORDS).take_while(|i| words[order(*i)] == new[order(*i)]).count();
    (written..PAGE_WORDS).all(|i| words[order(i)] == old[order(i)])
}

/// One table of the first level, one of the second, three of the third; accessed and dirty bits
/// are set from the start, so that the processor has nothing to write there.
fn tables() -> Vec<u8> {
    const TABLE: u64 = 0x27;
    const LARGE_PAGE: u64 = 0xe7;
    const ENTRIES: usize = PAGE_BYTES / 8;
    let address = |page: usize| (TABLES_ADDRESS + page * PAGE_BYTES) as u64;
    let mut entries = vec![0; TABLES_BYTES / 8];
    entries[0] = address(1) | TABLE;
    for i in 0..3 {
        entries[ENTRIES + i] = address(2 + i) | TABLE;
    }
    for i in 0..3 * ENTRIES {
        entries[2 * ENTRIES + i] = (i as u64) << 21 | LARGE_PAGE;
    }
    entries.iter().flat_map(|entry: &u64| entry.to_le_bytes()).collect()
}

/// Steps of the golden ratio scatter the writes; coprime, so that they visit every page.
fn stride_for(pages: u32) -> u32 {
    let divisor = |mut a: u32, mut b: u32| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let first = (f64::from(pages) * 0.618) as u32;
    (2..=first).rev().find(|stride| divisor(*stride, pages) == 1).unwrap_or(1)
}

/// The number x with stride * x = 1 modulo pages, by Euclid.
fn inverse(stride: u64, pages: u64) -> u64 {
    let (mut a, mut b, mut x, mut y) = ((stride % pages) as i64, pages as i64, 1, 0);
    while a > 1 {
        let quotient = b / a;
        (a, b) = (b % a, a);
        (x, y) = (y - quotient * x, x);
    }
    x.rem_euclid(pages as i64) as u64
}
