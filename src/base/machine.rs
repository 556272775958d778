//! The machine of a guest that another program runs, as far as two sides must agree on it.

/// What must be equal on both sides before a byte moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineFacts {
    /// The hypervisor's name of the machine type.
    pub machine: String,
    /// Guest memory.
    pub ram_bytes: u64,
    /// Virtual processors.
    pub cpus: u32,
}

impl MachineFacts {
    /// The first thing in which the machine here differs from this one at the source, for people.
    pub fn difference(&self, here: &Self) -> Option<String> {
        if self.machine != here.machine {
            let (theirs, ours) = (&self.machine, &here.machine);
            return Some(format!("machine type is {theirs:?} at the source and {ours:?} here"));
        }
        if self.ram_bytes != here.ram_bytes {
            let (theirs, ours) = (self.ram_bytes, here.ram_bytes);
            return Some(format!("memory is {theirs} bytes at the source and {ours} here"));
        }
        if self.cpus != here.cpus {
            let (theirs, ours) = (self.cpus, here.cpus);
            return Some(format!("{theirs} processors at the source and {ours} here"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_is_named() {
        let facts = MachineFacts { machine: "pc-7.2".into(), ram_bytes: 1 << 20, cpus: 2 };
        assert_eq!(facts.difference(&facts), None);
        let cases = [
            (MachineFacts { machine: "q35".into(), ..facts.clone() }, "\"q35\""),
            (MachineFacts { ram_bytes: 4096, ..facts.clone() }, "4096 here"),
            (MachineFacts { cpus: 3, ..facts.clone() }, "3 here"),
        ];
        for (other, text) in cases {
            let found = facts.difference(&other).unwrap();
            assert!(found.contains(text), "{found}");
        }
    }
}
