//! Relayed migrations of real guests in a world that goes wrong: whatever happens, the guest runs
//! on exactly one side, with the memory that it wrote.

mod capture;
mod channels;
mod child;
mod kills;
mod links;
mod out_of_touch;
mod post_copy;
#[path = "../../../faults/process.rs"]
mod process;
#[path = "../../../faults/proxy.rs"]
#[expect(dead_code, reason = "it can do more than these tests ask of it")]
mod proxy;
mod recovery;
mod refusals;
mod stage;
