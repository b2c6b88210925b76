//! harness: a filesystem-native, lock-free runner of agents and scripts.
//!
//! Modules in floor order: a module names only modules above it in this list (a test holds that).

#![deny(unsafe_code)]

pub mod error;
pub mod limits;
pub mod clock;
pub mod layout;
pub mod atomic;
pub mod status;
