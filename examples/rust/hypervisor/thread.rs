//! The guest's program as a thread of this process; writes are tracked by the kernel.

use crate::guest::{Kind, Machine, Parts};
use crate::program::Memory;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

struct ThreadMachine {
    memory: Memory,
    granted: u32,
    is_kicked: Arc<AtomicBool>,
}

/// A guest that needs nothing.
pub fn open(memory: Memory) -> Result<Parts, String> {
    let is_kicked = Arc::new(AtomicBool::new(true));
    let machine = ThreadMachine { memory, granted: 0, is_kicked: is_kicked.clone() };
    Ok(Parts {
        kind: Kind::Thread,
        machine: Box::new(machine),
        kick: Box::new(move |_| is_kicked.store(true, Ordering::Release)),
        log: None,
    })
}

impl Machine for ThreadMachine {
    /// Writes what was granted, looking after each page whether it has to stop.
    fn run(&mut self, pace: &mut dyn FnMut() -> u32) -> Result<(), String> {
        while self.granted != 0 && !self.is_kicked.load(Ordering::Acquire) {
            self.memory.step();
            self.granted -= 1;
        }
        if !self.is_kicked.load(Ordering::Acquire) {
            self.memory.tick();
            self.granted = pace();
        }
        Ok(())
    }

    /// The guest asks again when it goes on, wherever that is.
    fn settle(&mut self) -> Result<(), String> {
        self.granted = 0;
        Ok(())
    }

    fn allow(&mut self) {
        self.is_kicked.store(false, Ordering::Release);
    }

    /// All that this CPU has is in memory.
    fn save(&mut self) -> Result<Vec<u8>, String> {
        Ok(Vec::new())
    }

    fn load(&mut self, state: &[u8]) -> Result<(), String> {
        match state.len() {
            0 => Ok(()),
            length => Err(format!("a thread has no CPU state, {length} bytes came")),
        }
    }
}
