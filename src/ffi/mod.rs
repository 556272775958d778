//! L5: the C ABI; every entry point goes through one guard.
//!
//! `include/dwcp.h` is generated from the declarations in this folder, comments included, so they
//! are written for a C reader. One file per subject:
//!
//! * [`guard`]: what stands between C and Rust: panics, error texts, calls from callbacks;
//! * [`handle`]: handles are numbers in a table, so a freed or invented one is an error, not a crash;
//! * [`structs`], [`strings`]: how structs and texts cross;
//! * [`library`], [`node`], [`guest`], [`migration`], [`modes`], [`paths`], [`flags`], [`decider`],
//!   [`flag_plans`], [`rollback`], [`completion`]: the functions, by subject;
//! * [`conversions`], [`mode_conversions`], [`flag_conversions`]: between C structs and the engine's
//!   values;
//! * [`driver`], [`callbacks`], [`requests`], [`memory`]: what the library asks of a guest, asked by
//!   callbacks or by requests through the file descriptor, and the guest's pages;
//! * [`queue`]: what waits behind the file descriptor;
//! * [`registration`]: the checks of what a hypervisor registers;
//! * [`codes`]: every number that has a name in the header.

#![allow(non_camel_case_types, reason = "the names are C's")]
#![allow(clippy::missing_safety_doc, reason = "the header's opening comment holds it for all")]

pub mod callbacks;
pub mod codes;
pub mod completion;
pub mod conversions;
pub mod decider;
pub mod driver;
pub mod flag_conversions;
pub mod flag_plans;
pub mod flags;
pub mod guard;
pub mod guest;
pub mod handle;
pub mod library;
pub mod memory;
pub mod migration;
pub mod mode_conversions;
pub mod modes;
pub mod node;
pub mod paths;
pub mod queue;
pub mod registration;
pub mod requests;
pub mod rollback;
pub mod strings;
pub mod structs;
