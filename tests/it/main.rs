//! Tests of the real binary on a real file system with real git. One test program: it links once
//! and runs in parallel. `support` has the means; each other module tests one promise.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "tests do by hand what the program has doors for, and fail by panicking"
)]

mod support;

mod add;
mod agents;
mod answers;
mod branches;
mod budget;
mod budget_waits;
mod caller;
mod clocks;
mod closed;
mod commands;
mod completions;
mod control;
mod crash;
mod dice;
mod docs;
mod git_carried;
mod git_clones;
mod git_held;
mod git_lfs;
mod git_races;
mod git_shapes;
mod git_short;
mod gits;
mod ended;
mod endings;
mod escapes;
mod keepers;
mod first_hour;
mod fuzz;
mod gates;
mod gates_watched;
mod gc;
mod holds;
mod hooks;
mod hostile;
mod hosts;
mod house;
mod index;
mod input;
mod items;
mod journal;
mod kit;
mod kubernetes;
mod launch;
mod limits;
mod liveness;
mod local;
mod logs;
mod manual;
mod machine;
mod merging;
mod merging_conflicts;
mod merging_shapes;
mod metrics;
mod moves;
mod names;
mod order;
mod path;
mod planted;
mod people;
mod processes;
mod progress;
mod races;
mod reads;
mod real_agents;
mod report;
mod resume;
mod review;
mod rogue;
mod rounds;
mod sent_back;
mod sessions;
mod sandbox;
mod schema;
mod scripts;
mod service;
mod shown;
mod signals;
mod slots;
mod slurm;
mod soak;
mod status;
mod streams;
mod submit;
mod surroundings;
mod terminal;
mod tips;
mod together;
mod top;
mod tokens;
mod tricks;
mod trouble;
mod unwritten;
mod upgrade;
mod voice;
mod wait;
mod whom;
mod words;
