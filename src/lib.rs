//! harness: a filesystem-native, lock-free runner of agents and scripts.
//!
//! Modules in floor order: a module names only modules above it in this list (a test holds that).

#![warn(unreachable_pub)]
#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "the doors are for the product")
)]

// Ground: what everything stands on.
pub mod text;
pub(crate) mod term;
pub mod error;
pub mod limits;
pub mod mutant;
pub mod clock;
pub mod sys;
pub(crate) mod service;
pub mod waker;
pub mod layout;
pub mod quote;
pub mod atomic;
pub(crate) mod shared_fs;
pub(crate) mod folder;
pub(crate) mod answer;
pub mod engine;
pub mod host;
pub mod hold;
pub mod status;
pub(crate) mod submission;
pub mod event;
pub mod outcome;
pub mod adapters;
pub mod config;
// First floor: items, and what is known about them.
pub mod item;
pub mod record;
pub(crate) mod missing;
// Second floor: claims, processes, git.
pub mod lease;
pub(crate) mod local;
pub(crate) mod tokens;
pub mod interrupt;
pub mod aggregator;
pub mod spool;
pub(crate) mod budget;
pub mod ready;
pub mod control;
pub(crate) mod peers;
pub(crate) mod watcher;
pub mod process;
pub(crate) mod ports;
pub(crate) mod sandbox;
pub mod keeper;
pub(crate) mod copy;
pub(crate) mod git;
// Third floor: one attempt, and what is left of one.
pub(crate) mod agents;
pub(crate) mod runtime;
pub(crate) mod hooks;
pub mod session;
pub(crate) mod merge;
pub(crate) mod recovery;
// Top: the threads of a process, what people see and type.
pub(crate) mod worker;
pub(crate) mod pulse;
pub(crate) mod run;
pub(crate) mod view;
pub(crate) mod inspect;
pub(crate) mod report;
pub(crate) mod top;
pub mod cli;
