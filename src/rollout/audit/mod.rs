//! The audit log: who changed the flags, when, from what, to what, why, and on what evidence.
//!
//! One JSON object a line. The last field of each is `hash`, the BLAKE3 hash of the line's bytes before
//! it; the field `previous` holds the hash of the line before, so that no line can be changed, taken out,
//! put in or moved without all later hashes changing:
//!
//! ```text
//! {"version":1,"seq":2,"at_us":…,"who":…,"why":…,"change":…,"evidence":…,"from":{…},"to":{…},"previous":"…","hash":"…"}
//! ```
//!
//! `from` and `to` hold the states of the flags that changed. The first line of a log has no `from`, and
//! every flag in `to`; it may continue the chain of another log. Replaying the lines gives the flags.
//!
//! The chain alone cannot tell that lines at its end are gone: whoever keeps the [`Tip`] elsewhere can.
//! It has no key, so it finds accidents and careless hands, not who rewrites all of it and the tip too.

mod entry;
mod verify;

pub use entry::{Entry, EntryError, EntryHash, Tip};
pub use verify::{AuditError, AuditFault, Replay, Verifier, verify};
