//! An agent that talks: `chatty SECONDS RATE` prints so many events a second, as claude does, and
//! ends well.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a yardstick: no layer of harness is in it"
)]

use std::io::Write;
use std::time::{Duration, Instant};

fn main() {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u32>().unwrap());
    let (seconds, rate) = (args.next().unwrap(), args.next().unwrap());
    let mut out = std::io::stdout().lock();
    let mut say = |line: &str| out.write_all(format!("{line}\n").as_bytes()).unwrap();
    say(
        r#"{"type":"system","subtype":"init","cwd":"/w","session_id":"s","tools":["Bash"],"model":"m"}"#,
    );
    let begun = Instant::now();
    for n in 0..seconds * rate {
        say(&format!(
            r#"{{"type":"assistant","message":{{"id":"msg_{n}","type":"message","role":"assistant","model":"m","content":[{{"type":"text","text":"Looking at the next file, which is number {n} of those that the search found."}}],"usage":{{"input_tokens":1000,"output_tokens":20}}}},"session_id":"s"}}"#
        ));
        let due = begun + Duration::from_secs(1) * (n + 1) / rate;
        std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
    }
    say(
        r#"{"type":"result","subtype":"success","is_error":false,"num_turns":1,"result":"done","session_id":"s","total_cost_usd":0.1,"usage":{"input_tokens":1000,"output_tokens":20}}"#,
    );
}
