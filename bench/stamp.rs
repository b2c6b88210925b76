//! A job that says when it began: the monotonic clock in nanoseconds, on standard output.

#![allow(clippy::print_stdout, reason = "its only purpose")]

fn main() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    println!("{}", now.tv_sec * 1_000_000_000 + now.tv_nsec);
}
