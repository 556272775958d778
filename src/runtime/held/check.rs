//! Reads all that is held back and compares it with the pages' hashes, one block at a time, so that a
//! check takes no more memory than a block and keeps no more than one section from being let go.

use super::section::Section;
use super::{HeldStore, HeldTotals};
use crate::encoding::Decoder;
use crate::encoding::baseline::PAGE_BYTES;
use crate::runtime::lock::lock;
use std::sync::Arc;

/// What came of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldCheck {
    /// What was read, damaged or not.
    pub checked: HeldTotals,
    /// What is not as it was, and is no longer held.
    pub damaged: Vec<DamagedSection>,
}

/// A section that was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedSection {
    /// Whose pages.
    pub guest: String,
    /// Its number.
    pub number: u64,
    /// Pages that cannot be read, or are others.
    pub damaged_pages: u64,
    /// All of its pages.
    pub pages: u64,
    /// What was found first.
    pub reason: String,
}

impl HeldStore {
    /// Checks every section that is complete, and drops those with damage, so that they are not
    /// announced again. Ends early when the store is stopped.
    pub fn check(&self) -> HeldCheck {
        let numbers: Vec<u64> = lock(&self.shelf).sections.iter().map(|s| s.number).collect();
        let mut check = HeldCheck::default();
        let mut decoder = Decoder::default();
        for number in numbers {
            // Gone since, or never: both are no damage.
            let Some(section) = self.section(number) else { continue };
            let Some(damaged) = self.check_section(&section, &mut decoder) else { break };
            check.checked = check.checked.plus(section.totals());
            if damaged.damaged_pages > 0 {
                self.drop_section(number, &damaged.reason);
                check.damaged.push(damaged);
            }
        }
        check
    }

    fn section(&self, number: u64) -> Option<Arc<Section>> {
        lock(&self.shelf).sections.iter().find(|section| section.number == number).cloned()
    }

    /// Counts the damage of one; none: the store was stopped.
    fn check_section(&self, section: &Section, decoder: &mut Decoder) -> Option<DamagedSection> {
        let mut damaged = DamagedSection {
            guest: section.guest.clone(),
            number: section.number,
            damaged_pages: 0,
            pages: section.totals().pages,
            reason: String::new(),
        };
        let keys = self.keys.as_ref()?;
        let mut bytes = Vec::new();
        for block in 0..section.block_count() {
            if self.is_stopped() {
                return None;
            }
            let hashes = section.hashes_of(block);
            let (differing, reason) = match section.unpack(&keys.seal, block, decoder, &mut bytes) {
                Ok(_) => {
                    let found = bytes.chunks_exact(PAGE_BYTES).map(|page| keys.hash.hash(page));
                    let equal = found.zip(hashes).filter(|(found, hash)| found == *hash).count();
                    let text = format!("block {block} has other pages than were written");
                    (hashes.len() - equal, text)
                }
                Err(error) => (hashes.len(), error.to_string()),
            };
            if differing > 0 && damaged.damaged_pages == 0 {
                damaged.reason = reason;
            }
            damaged.damaged_pages += differing as u64;
        }
        Some(damaged)
    }
}
