//! What follows a hold of an agent: one slot of all processes tries first, the others follow; and what
//! pauses an agent that fails again and again.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Root, Running, files_below, kill};

/// An agent that says what claude says: it notes its start, waits for `go` before it is answered, and for
/// `end` before it ends. The file `mode` may have it meet a limit (`limit`), or fail (`fails`).
const FAKE: &str = r#"
R="$HARNESS_ROOT"
cat >/dev/null
echo "$HARNESS_ITEM $HARNESS_SLOT $(date +%s%N)" >>"$R/starts"
echo '{"type":"system","subtype":"init","session_id":"11111111-1111-4111-8111-111111111111"}'
case $(cat "$R/mode" 2>/dev/null) in
limit)
  echo '{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":'$(($(date +%s) + 4))'}}'
  echo '{"type":"assistant","error":"rate_limit","message":{"content":[{"type":"text","text":"You have hit your limit"}]}}'
  exit 1 ;;
fails) echo "cannot load model 4711: it broke" >&2; exit 3 ;;
network)
  echo '{"type":"result","subtype":"error","is_error":true,"result":"fetch failed: ECONNREFUSED"}'
  exit 1 ;;
esac
until [ -e "$R/go" ]; do sleep 0.02; done
echo '{"type":"assistant","message":{"id":"m1","model":"m","content":[{"type":"text","text":"hello"}]}}'
until [ -e "$R/end" ]; do sleep 0.02; done
echo '{"type":"result","subtype":"success","is_error":false,"result":"done"}'
"#;

fn root() -> Root {
    let root = Root::plain();
    fs::write(root.at("fake.sh"), FAKE).unwrap();
    root.config(&format!(
        "agent = \"fake\"\n[repo]\npath = \"none\"\n[agents.fake]\ncommand = [\"/bin/sh\", {:?}]\nevents = \"claude\"\n",
        root.at("fake.sh")
    ));
    root
}

fn prompts(root: &Root, names: &[&str]) {
    for name in names {
        root.drop_file(name, b"do it\n", 0o644);
    }
}

fn set(root: &Root, name: &str, text: &str) {
    fs::write(root.at(name), text).unwrap();
}

/// A hold that is over after so many seconds.
fn hold(root: &Root, seconds: i64) {
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
    let text =
        format!("{{\"until\":\"{at:.0}\",\"class\":\"usage_limit\",\"reason\":\"used up\"}}");
    fs::create_dir_all(root.at("state/holds")).unwrap();
    fs::write(root.at("state/holds/fake.hold"), text).unwrap();
}

/// Item, slot and time of each start.
fn starts(root: &Root) -> Vec<(String, String, u128)> {
    let text = fs::read_to_string(root.at("starts")).unwrap_or_default();
    let of = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        let mut next = || words.next().unwrap();
        (next(), next(), next().parse().unwrap())
    };
    text.lines().map(of).collect()
}

fn holds(root: &Root) -> Vec<Value> {
    let status: Value = serde_json::from_str(&root.ok(&["status", "--json"])).unwrap();
    status["holds"].as_array().unwrap().clone()
}

fn is_first(root: &Root) -> bool {
    let holds = holds(root);
    holds.len() == 1 && holds[0]["class"] == "canary" && holds[0]["agent"] == "fake"
}

/// That nothing more starts for a while.
fn nothing_starts(root: &Root, count: usize) {
    let begun = Instant::now();
    root.wait_until("a while has passed", || {
        begun.elapsed() > Duration::from_millis(1_200)
    });
    assert_eq!(
        starts(root).len(),
        count,
        "{:?}\n{}",
        starts(root),
        root.picture()
    );
}

fn done(root: &Root, names: &[&str]) -> bool {
    names.iter().all(|name| root.is_done(name))
}

const SIX: [&str; 6] = ["a.md", "b.md", "c.md", "d.md", "e.md", "f.md"];

#[test]
fn one_slot_of_all_processes_tries_first_and_the_others_follow_when_it_is_answered() {
    let root = root();
    hold(&root, 1);
    prompts(&root, &SIX);
    let _runs: Vec<Running> = (0..3).map(|_| root.start(&["--workers", "2"])).collect();
    root.wait_until("one tries", || starts(&root).len() == 1);
    root.wait_until("the others are told", || is_first(&root));
    nothing_starts(&root, 1);
    let list = root.ok(&["list", "--json"]);
    assert!(list.contains("tries first"), "{list}");
    set(&root, "go", "");
    root.wait_until("the others follow before it has ended", || {
        starts(&root).len() == 6
    });
    root.wait_until("no hold is left", || holds(&root).is_empty());
    set(&root, "end", "");
    root.wait_until("all are done", || done(&root, &SIX));
    assert_eq!(fs::read_dir(root.at("state/holds")).unwrap().count(), 0);
}

#[test]
fn a_limit_that_is_met_again_is_met_by_one() {
    let root = root();
    set(&root, "mode", "limit");
    hold(&root, -1);
    prompts(&root, &SIX[..4]);
    let _runs: Vec<Running> = (0..2).map(|_| root.start(&["--workers", "2"])).collect();
    root.wait_until("it is held again", || {
        holds(&root)
            .first()
            .is_some_and(|h| h["class"] == "usage_limit")
    });
    assert_eq!(starts(&root).len(), 1, "{:?}", starts(&root));
    set(&root, "mode", "");
    set(&root, "go", "");
    set(&root, "end", "");
    root.wait_until("all are done", || done(&root, &SIX[..4]));
    assert_eq!(starts(&root).len(), 5, "{:?}", starts(&root));
}

#[test]
fn a_canary_that_is_canceled_hands_on_and_one_whose_harness_dies_is_adopted() {
    let root = root();
    hold(&root, -1);
    prompts(&root, &SIX[..4]);
    let mut runs: Vec<Running> = (0..2).map(|_| root.start(&["--workers", "2"])).collect();
    root.wait_until("one tries", || starts(&root).len() == 1);
    root.ok(&["cancel", &starts(&root)[0].0]);
    root.wait_until("another one tries", || starts(&root).len() == 2);
    root.wait_until("the others are told", || is_first(&root));
    nothing_starts(&root, 2);
    let status: Value = serde_json::from_str(&root.ok(&["status", "--json"])).unwrap();
    let slots = status["agents"].as_array().unwrap();
    let slot = slots
        .iter()
        .find(|s| s["id"] == *starts(&root)[1].1)
        .unwrap();
    let pid = slot["harness_pid"].as_u64().unwrap();
    let at = runs
        .iter()
        .position(|run| u64::from(run.pid()) == pid)
        .unwrap();
    runs.remove(at).kill9();
    root.wait_until("its agent is adopted", || {
        root.events(&starts(&root)[1].0).contains(&"adopted".into())
    });
    nothing_starts(&root, 2);
    set(&root, "go", "");
    root.wait_until("the others follow", || starts(&root).len() == 4);
    set(&root, "end", "");
    let left: Vec<String> = starts(&root).into_iter().skip(1).map(|s| s.0).collect();
    root.wait_until("they are done", || {
        left.iter().all(|name| root.is_done(name))
    });
    // One whose agent dies as well says nothing of the limit.
    fs::remove_file(root.at("go")).unwrap();
    fs::remove_file(root.at("starts")).unwrap();
    hold(&root, -1);
    prompts(&root, &["x.md", "y.md"]);
    root.wait_until("one tries", || starts(&root).len() == 1);
    let (_, slot, _) = starts(&root)[0].clone();
    kill(root.keeper(&slot), "KILL");
    runs.remove(0).kill9();
    set(&root, "go", "");
    let _run = root.start(&["--workers", "2"]);
    root.wait_until("all are done", || done(&root, &["x.md", "y.md"]));
}

#[test]
fn those_who_follow_start_one_by_one() {
    let mut root = root();
    root.env.push(("HARNESS_STAGGER", "1".into()));
    set(&root, "go", "");
    prompts(&root, &SIX[..3]);
    let config = fs::read_to_string(root.at("harness.toml")).unwrap();
    set(&root, "harness.toml", &config.replace("stagger = 0\n", ""));
    let _run = root.start(&["--workers", "3"]);
    // Each slot starts one: the next would not wait.
    root.wait_until("all start", || starts(&root).len() == 3);
    set(&root, "end", "");
    root.wait_until("they are done", || done(&root, &SIX[..3]));
    fs::remove_file(root.at("go")).unwrap();
    hold(&root, -1);
    prompts(&root, &SIX[3..]);
    root.wait_until("one tries", || starts(&root).len() == 4);
    root.wait_until("the others are told", || is_first(&root));
    fs::remove_file(root.at("end")).unwrap();
    set(&root, "go", "");
    root.wait_until("the others follow", || starts(&root).len() == 6);
    set(&root, "end", "");
    let at: Vec<u128> = starts(&root).into_iter().map(|s| s.2).collect();
    assert!(at[5] - at[4] > 900_000_000, "{:?}", starts(&root));
}

#[test]
fn failures_alike_over_all_slots_pause_their_agent_with_the_evidence() {
    let mut root = root();
    root.env.push(("HARNESS_RETRY_MAX", "1".into()));
    set(&root, "mode", "fails");
    let names: Vec<String> = (0..12).map(|n| format!("x{n}.md")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    prompts(&root, &names);
    let _runs: Vec<Running> = (0..3).map(|_| root.start(&["--workers", "1"])).collect();
    root.wait_until("it is held", || {
        holds(&root)
            .first()
            .is_some_and(|h| h["class"] == "failures")
    });
    let held = holds(&root)[0].clone();
    let reason = held["reason"].as_str().unwrap();
    assert!(
        reason.contains("5 attempts in a row failed alike"),
        "{reason}"
    );
    assert!(reason.contains("it broke"), "{reason}");
    assert!(
        reason.contains(held["session"].as_str().unwrap()),
        "{reason}"
    );
    assert!(held["until"].is_null(), "{held}");
    root.wait_until("none is at work", || {
        fs::read_dir(root.at("state/claims")).unwrap().count() == 0
    });
    // What ran then ends, and no slot is interrupted for the same cause.
    let count = starts(&root).len();
    assert!((5..=8).contains(&count), "{count}");
    nothing_starts(&root, count);
    assert_eq!(
        fs::read_dir(root.at("state/interrupts")).unwrap().count(),
        0
    );
    // A script is no agent.
    root.script("s", "true");
    root.wait_until("it is done", || root.is_done("s"));
    // What failed before counts for nothing once a person has ended it.
    for n in ["go", "end", "mode"] {
        set(&root, n, "");
    }
    root.ok(&["resume"]);
    let parked = || names.iter().filter(|name| root.is_parked(name)).count();
    root.wait_until("the others are done", || {
        names.iter().filter(|name| root.is_done(name)).count() + parked() == 12
    });
    assert!(parked() <= 4, "{}", root.picture());
}

#[test]
fn a_machine_that_was_switched_off_holds_no_agent() {
    let mut root = root();
    root.env.push(("HARNESS_RETRY_DELAY", "0.1".into()));
    prompts(&root, &SIX);
    let run = root.start(&["--workers", "6"]);
    root.wait_until("all are at work", || starts(&root).len() == 6);
    run.kill9();
    for slot in 1..=6 {
        kill(root.keeper(&format!("agent-{slot}")), "KILL");
    }
    let run = root.start(&["--workers", "6"]);
    root.wait_until("all are tried again", || starts(&root).len() == 12);
    assert!(holds(&root).is_empty(), "{:?}", holds(&root));
    assert!(!run.said().contains("in a row"), "{}", run.said());
    for n in ["go", "end"] {
        set(&root, n, "");
    }
    root.wait_until("all are done", || done(&root, &SIX));
}

#[test]
fn a_hold_with_an_end_can_be_ended_by_the_name_of_its_agent() {
    let root = root();
    hold(&root, 1_000);
    let nobody = root.exits(2, &["resume", "fakes"]);
    assert!(crate::trouble::words(&nobody).contains("neither a slot"));
    root.ok(&["resume"]);
    assert_eq!(holds(&root).len(), 1);
    root.ok(&["resume", "fake"]);
    assert!(holds(&root).is_empty(), "{:?}", holds(&root));
}

#[test]
fn one_item_that_always_fails_holds_up_no_other() {
    let mut root = root();
    root.env.push(("HARNESS_RETRY_MAX", "6".into()));
    set(&root, "mode", "fails");
    prompts(&root, &["x.md"]);
    let _run = root.start(&["--workers", "2"]);
    root.wait_until("it has failed often", || {
        starts(&root).len() >= 6 || root.is_parked("x.md")
    });
    assert!(holds(&root).is_empty(), "{:?}", holds(&root));
}

#[test]
fn what_ends_by_itself_is_tried_again_by_one_slot() {
    let root = root();
    set(&root, "mode", "network");
    prompts(&root, &SIX);
    let run = root.start(&["--workers", "3"]);
    root.wait_until("it is held", || {
        holds(&root)
            .first()
            .is_some_and(|h| h["class"] == "failures")
    });
    assert!(holds(&root)[0]["until"].is_string(), "{:?}", holds(&root));
    root.wait_until("none is at work", || {
        fs::read_dir(root.at("state/claims")).unwrap().count() == 0
    });
    // As if that time had passed.
    let over = |root: &Root| {
        let path = root.at("state/holds/fake.hold");
        let mut hold: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        hold["until"] = "2026-01-01T00:00:00Z".into();
        fs::write(path, hold.to_string()).unwrap();
    };
    let count = starts(&root).len();
    over(&root);
    run.kill9();
    let mut run = root.start(&["--workers", "3"]);
    root.wait_until("one has tried, and it is held again", || {
        starts(&root).len() == count + 1
            && holds(&root)
                .first()
                .is_some_and(|h| h["class"] == "failures")
    });
    nothing_starts(&root, count + 1);
    for n in ["go", "end", "mode"] {
        set(&root, n, "");
    }
    over(&root);
    run.signal("KILL");
    run.wait();
    let _run = root.start(&["--workers", "3"]);
    let is_over = |name: &&str| root.is_done(name) || root.is_parked(name);
    root.wait_until("the others are done", || SIX.iter().all(is_over));
    root.wait_until("no hold is left", || holds(&root).is_empty());
}

#[test]
fn a_ledger_that_is_made_anew_knows_which_failures_held_their_agent() {
    let mut root = root();
    root.env.push(("HARNESS_RETRY_MAX", "0".into()));
    set(&root, "mode", "fails");
    let names: Vec<String> = (0..20).map(|n| format!("x{n}.md")).collect();
    prompts(&root, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let is_held = || {
        holds(&root)
            .first()
            .is_some_and(|h| h["class"] == "failures")
    };
    let mut run = root.start(&["--workers", "3"]);
    root.wait_until("it is held", is_held);
    run.signal("TERM");
    run.wait();
    let before = starts(&root).len();
    // As if all of it was a while ago.
    let at = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(60);
    for path in files_below(&root.at("state/sessions")) {
        if path.ends_with("session.json") {
            let mut file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            // To the millisecond, as harness writes them.
            file["started_at"] = format!("{at:.3}").into();
            file["ended_at"] = format!("{at:.3}").into();
            fs::write(&path, file.to_string()).unwrap();
        }
    }
    fs::remove_dir_all(root.at("state/ledger")).unwrap();
    root.ok(&["resume"]);
    let _run = root.start(&["--workers", "3"]);
    // What `status` says may be of the run before still.
    root.wait_until("it is held again", || {
        root.at("state/holds/fake.hold").exists()
    });
    // A row of its own, and not the next failure.
    let more = starts(&root).len() - before;
    assert!(more >= 5, "{more}: {:?}", starts(&root));
}

/// Writes one of the files of a hold: it was raised so many seconds from now, for ten minutes.
fn raised(root: &Root, file: &str, ahead: i64, more: &str) {
    let at = |seconds: i64| jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
    let (since, until) = (at(ahead), at(ahead + 600));
    fs::create_dir_all(root.at("state/holds")).unwrap();
    let text = format!("{{\"since\":\"{since:.0}\",\"until\":\"{until:.0}\"{more}}}");
    fs::write(root.at("state/holds").join(file), text).unwrap();
}

#[test]
fn a_hold_and_a_canary_from_before_the_clock_was_set_back_are_over() {
    const USED_UP: &str = ",\"class\":\"usage_limit\"";
    for (file, more) in [
        ("fake.canary", ",\"slot\":\"agent-9\""),
        ("fake.hold", USED_UP),
    ] {
        let root = root();
        set(&root, "go", "");
        set(&root, "end", "");
        if file == "fake.canary" {
            raised(&root, "fake.hold", -3_600, USED_UP);
        }
        raised(&root, file, 86_400, more);
        prompts(&root, &["x.md"]);
        let mut run = root.start(&["--workers", "1"]);
        root.wait_until("it is over", || root.is_done("x.md"));
        root.wait_until("and gone", || {
            ["hold", "canary"]
                .iter()
                .all(|end| !root.at(format!("state/holds/fake.{end}")).exists())
        });
        run.signal("TERM");
        run.wait();
    }
}

/// The fifth failure holds the agent, is on record, and its harness dies before the ledger has it.
#[test]
fn a_row_that_held_its_agent_is_over_though_its_harness_died_before_the_ledger_had_it() {
    let mut root = root();
    root.env.push(("HARNESS_RETRY_MAX", "0".into()));
    set(&root, "mode", "fails");
    let names = ["a.md", "b.md", "c.md", "d.md", "e.md"];
    for name in names {
        prompts(&root, &[name]);
        root.drain();
    }
    let of_hold = || fs::read_to_string(root.at("state/holds/fake.hold")).ok();
    let held = of_hold().unwrap_or_else(|| panic!("{}", root.picture()));
    let sid = root.show("e.md")["attempts"][0]["session"].clone();
    let sid = sid.as_str().unwrap();
    assert!(held.contains("failures") && held.contains(sid), "{held}");
    // As it left all that.
    let ledger = || {
        let files = files_below(&root.at("state/ledger"));
        let mut days = files.into_iter().filter(|f| f.extension().is_some());
        days.find(|day| fs::read_to_string(day).unwrap().contains(sid))
    };
    let day = ledger().unwrap();
    let text = fs::read_to_string(&day).unwrap();
    let others = text.lines().filter(|line| !line.contains(sid));
    let others: String = others.map(|line| format!("{line}\n")).collect();
    fs::write(&day, others).unwrap();
    let path = root.at("state/sessions").join(sid).join("session.json");
    let mut file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(file["held"], true, "{file:#}");
    file["held"] = false.into();
    fs::write(&path, file.to_string()).unwrap();
    let slot = file["slot"].as_str().unwrap();
    let marker = root.at("state/agents").join(slot).join("marker");
    fs::hard_link(marker, root.at("state/claims/e.md")).unwrap();
    let claimed = root.at("queue/claimed").join(slot).join("e.md.~ending~");
    fs::rename(root.at("queue/parked/e.md"), claimed).unwrap();

    root.script("looks", "true");
    root.drain();
    assert!(root.is_parked("e.md"), "{}", root.picture());
    let text = fs::read_to_string(ledger().unwrap()).unwrap();
    let line = text.lines().find(|line| line.contains(sid)).unwrap();
    assert!(line.contains("\"held\":true"), "{line}");
    root.ok(&["resume", "fake"]);
    prompts(&root, &["f.md"]);
    root.drain();
    assert!(root.is_parked("f.md"), "{}", root.picture());
    assert_eq!(of_hold(), None);
}
