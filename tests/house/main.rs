//! The house rules as tests: layers, file and function sizes, banned shortcuts, notes on `unsafe`,
//! and the two ledgers (changelog, dependencies) that must keep up with the code.
//!
//! Every rule is a function from source text to findings, so each also has a test that feeds it
//! a violation and expects to be told the line.

mod functions;
mod layers;
mod ledgers;
mod safety;
mod shortcuts;
mod source;
mod testcode;
mod tidy;
