//! Budgets where something is in the way: a lock that is kept, a day that ends, and what is not the item's fault.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::agents::play;
use crate::budget::{configure, done, end, held, held_by_a_file, hold, root_with, usd};
use crate::clocks::Clock;
use crate::launch::session;
use crate::support::{Root, describe};

#[test]
fn a_lock_that_somebody_keeps_starts_nothing_and_names_them() {
    let root = root_with("claude", "day_usd = 1", "");
    let dir = root.at("state/budget");
    fs::create_dir_all(&dir).unwrap();
    let lock = fs::File::create(dir.join("lock")).unwrap();
    lock.lock().unwrap();
    play(&root, "a.md", "success");
    let run = root.start(&["--workers", "1"]);
    root.wait_until("the slot says what it waits for", || {
        root.ok(&["status"]).contains("state/budget/lock is locked")
    });
    let hold = held(&root, &run, "claude");
    let me = format!("process {} holds it", std::process::id());
    assert!(hold["reason"].as_str().unwrap().contains(&me), "{hold:#}");
    assert!(hold["until"].is_string());
    assert!(!root.is_done("a.md"));
    // Its item is back, and the slot works on.
    root.wait_until("its item is back", || {
        root.at("queue/pending/a.md").exists()
    });
    root.script("s", "true");
    root.wait_until("its slot works on", || root.is_done("s"));
    drop(lock);
    root.wait_until("it goes on by itself", || root.is_done("a.md"));
}

#[test]
fn a_lock_that_somebody_keeps_holds_no_stop_up_and_nothing_is_forgotten() {
    let root = root_with("claude", "day_usd = 1", "budget_usd = 0.5");
    play(&root, "a.md", "tool s=3");
    let run = root.start(&["--workers", "1"]);
    root.wait_until("it is at work", || {
        root.events("a.md").iter().any(|event| event == "started")
    });
    let lock = fs::File::create(root.at("state/budget/lock")).unwrap();
    lock.lock().unwrap();
    let begun = Instant::now();
    end(run);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    drop(lock);
    // Whoever goes on charges it.
    root.drain();
    assert!(root.is_done("a.md"), "{}", root.picture());
    let (used, reserved) = usd(&root, "day");
    let attempts = root.show("a.md")["attempts"].clone();
    let charged = attempts.as_array().unwrap().iter();
    let charged: f64 = charged.map(|a| a["charged_usd"].as_f64().unwrap()).sum();
    assert!(
        (charged - used).abs() < 1e-6 && reserved == 0.0,
        "{used}: {attempts:#}"
    );
    assert_eq!(attempts.as_array().unwrap().len(), 2, "{attempts:#}");
}

#[test]
fn what_the_day_stops_waits_for_the_day_and_keeps_its_work() {
    // Little is known of claude: its second attempt gets all that is left of the day.
    let root = root_with("claude", "day_usd = 0.10\nitem_usd = 5", "budget_usd = 1");
    play(&root, "first.md", "success");
    root.drain();
    play(&root, "a.md", "tool s=0.1 cost=0.03");
    let run = root.start(&["--workers", "1"]);
    root.wait_until("the day has stopped it", || {
        root.events("a.md").iter().any(|event| event == "finished")
    });
    let hold = held(&root, &run, "claude");
    end(run);
    let file = session(&root, "a.md", 0);
    assert_eq!(
        (&file["outcome"], &file["budget_by"]),
        (&"over_budget".into(), &"day_usd".into())
    );
    let show = root.show("a.md");
    assert!(
        file["reason"].as_str().unwrap().contains("`day_usd`"),
        "{show:#}"
    );
    assert!(root.at("queue/pending/a.md").exists(), "{}", root.picture());
    assert!(
        hold["reason"].as_str().unwrap().contains("`day_usd`"),
        "{hold:#}"
    );
    assert!(hold["until"].is_string(), "the day ends: {hold:#}");
    configure(&root, "claude", "day_usd = 5", "budget_usd = 1");
    root.drain();
    assert!(root.is_done("a.md"), "{}", root.picture());
}

#[test]
fn an_item_that_wants_no_limit_holds_nobody_up() {
    let root = root_with("claude", "day_usd = 0.10", "budget_usd = 0.04");
    root.drop_file(
        "a.md",
        b"---\nbudget_usd: 0\n---\nDo.\n[[mock:success]]\n",
        0o644,
    );
    play(&root, "b.md", "success");
    let out = root.harness(&["run", "--drain", "--workers", "1"]);
    assert_eq!(done(&root), 2, "{}", describe(&out));
    assert_eq!(session(&root, "a.md", 0)["budget_usd"], 0.04);
}

#[test]
fn a_clock_that_is_set_back_over_midnight_gives_nobody_the_day_again() {
    let mut root = root_with("claude", "day_usd = 1", "budget_usd = 0.5");
    let Some(clock) = Clock::of(&mut root) else {
        return;
    };
    const DAY: i64 = 86_400;
    clock.set(DAY, 0);
    play(&root, "a.md", "success");
    root.drain();
    assert_eq!(usd(&root, "day"), (0.03, 0.0));
    clock.set(0, 0);
    assert_eq!(usd(&root, "day"), (0.03, 0.0));
    play(&root, "b.md", "success");
    root.drain();
    assert_eq!(usd(&root, "day"), (0.06, 0.0));
    // That day has begun already.
    clock.set(DAY, 0);
    assert_eq!(usd(&root, "day"), (0.06, 0.0));
    clock.set(2 * DAY, 0);
    assert_eq!(usd(&root, "day"), (0.0, 0.0));
    assert_eq!(usd(&root, "total"), (0.06, 0.0));
}

#[test]
fn a_folder_in_the_place_of_the_lock_holds_prompts_alone_and_says_what_to_do() {
    let root = root_with("claude", "day_usd = 1", "budget_usd = 0.5");
    play(&root, "a.md", "success");
    root.script("s", "true");
    let path = root.at("state/budget/lock");
    fs::create_dir_all(&path).unwrap();
    let said = held_by_a_file(&root, ["budget/lock", "what to do"]);
    assert!(root.is_done("s"), "{said}");
    assert!(said.contains("is held until that is mended"), "{said}");
    fs::remove_dir(&path).unwrap();
    root.drain();
    assert!(root.is_done("a.md"));
}

#[test]
fn what_is_no_file_in_the_place_of_the_budget_holds_prompts_and_says_what_to_do() {
    let root = root_with("claude", "day_usd = 1", "budget_usd = 0.5");
    play(&root, "a.md", "success");
    let path = root.at("state/budget/budget.json");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let put: [fn(&Path); 3] = [
        |path| fs::create_dir(path).unwrap(),
        |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        |path| std::os::unix::fs::symlink("/etc/passwd", path).unwrap(),
    ];
    for put in put {
        put(&path);
        held_by_a_file(&root, ["budget.json", "move it away"]);
        fs::rename(&path, root.at("away")).unwrap();
        let _is_folder =
            fs::remove_file(root.at("away")).or_else(|_| fs::remove_dir(root.at("away")));
    }
    root.drain();
    assert!(root.is_done("a.md"), "{}", root.picture());
}

#[test]
fn what_has_no_more_tokens_is_stopped_while_it_runs() {
    let root = root_with("claude", "day_tokens = 1000", "subscription = true");
    play(&root, "a.md", "tool s=60");
    let run = root.start(&["--workers", "1"]);
    root.wait_until("the day has stopped it", || {
        root.events("a.md").iter().any(|event| event == "finished")
    });
    end(run);
    let file = session(&root, "a.md", 0);
    assert_eq!(file["outcome"], "over_budget", "{file:#}");
    assert_eq!(file["tokens_by"], "day_tokens", "{file:#}");
    assert!(root.at("queue/pending/a.md").exists(), "{}", root.picture());
}

/// Takes these away, as a person does who tidies up.
fn remove(root: &Root, folders: &[&str]) {
    for folder in folders {
        fs::remove_dir_all(root.at(folder)).unwrap();
    }
}

#[test]
fn what_was_used_is_known_whatever_is_removed_of_state() {
    let root = root_with("claude", "total_usd = 0.10", "budget_usd = 0.04");
    for name in ["a.md", "b.md", "c.md"] {
        play(&root, name, "success");
    }
    root.drain();
    let used = |root: &Root| ["day", "total", "agent"].map(|scope| usd(root, scope));
    let all = [(0.09, 0.0); 3];
    assert_eq!(used(&root), all);
    remove(&root, &["state/budget", "state/ledger"]);
    assert_eq!(used(&root), all);
    play(&root, "d.md", "success");
    let out = root.harness(&["run", "--drain", "--workers", "1"]);
    assert!(!root.is_done("d.md"), "{}", describe(&out));
    let hold = hold(&root, "claude").unwrap();
    assert!(
        hold["reason"].as_str().unwrap().contains("$0.09 are used"),
        "{hold:#}"
    );
    // Old sessions go with `harness gc`.
    remove(&root, &["state/budget", "state/ledger", "state/sessions"]);
    assert_eq!(used(&root), all);
}

#[test]
fn what_no_record_tells_any_more_is_in_the_ledger_and_a_torn_line_spoils_no_other() {
    let root = root_with("claude", "day_usd = 1", "budget_usd = 0.04");
    play(&root, "a.md", "success");
    root.drain();
    let day = fs::read_dir(root.at("state/ledger"))
        .unwrap()
        .flatten()
        .map(|e| e.path());
    let day: Vec<_> = day
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    let newest = day.iter().max().unwrap();
    let text = fs::read_to_string(newest).unwrap();
    fs::write(newest, format!("{text}{{\"ended_at\":\"2026-")).unwrap();
    play(&root, "b.md", "success");
    root.drain();
    remove(&root, &["state/budget", "state/items"]);
    assert_eq!(
        usd(&root, "day"),
        (0.06, 0.0),
        "{}",
        fs::read_to_string(newest).unwrap()
    );
    // A record that cannot be read: nobody knows what it has cost.
    fs::create_dir_all(root.at("state/items/a.md.jsonl")).unwrap();
    play(&root, "c.md", "success");
    let out = root.harness(&["run", "--drain", "--workers", "1"]);
    let said = describe(&out);
    assert!(
        !root.is_done("c.md") && said.contains("state/items/a.md.jsonl"),
        "{said}"
    );
    fs::remove_dir(root.at("state/items/a.md.jsonl")).unwrap();
    root.drain();
    assert!(root.is_done("c.md"), "{}", root.picture());
}

#[test]
fn what_its_items_budget_did_not_let_start_is_no_attempt() {
    let root = root_with("claude", "item_usd = 0.04", "budget_usd = 1");
    play(&root, "a.md", "crash");
    let said = describe(&root.drain());
    let row = said
        .lines()
        .find(|line| line.starts_with("a.md"))
        .unwrap_or_else(|| panic!("{said}"));
    let words: Vec<&str> = row.split_whitespace().take(3).collect();
    assert_eq!(words, ["a.md", "over_budget", "1"], "{said}");
    let show = root.show("a.md");
    assert_eq!(
        (&show["outcome"], &show["state"]),
        (&"over_budget".into(), &"parked".into())
    );
    assert_eq!(show["attempts"].as_array().unwrap().len(), 1, "{show:#}");
    assert_eq!(fs::read_dir(root.at("state/sessions")).unwrap().count(), 1);
    let story = root.ok(&["show", "a.md"]);
    assert!(
        story.contains("`item_usd`") && !story.contains("attempt 2"),
        "{story}"
    );
    let waited = root.exits(1, &["wait", "a.md"]);
    assert!(
        describe(&waited).contains("a.md over_budget"),
        "{}",
        describe(&waited)
    );
    root.assert_nothing_left();
}

#[test]
fn trees_and_agents_that_have_one_login_are_told() {
    let login = tempfile::tempdir().unwrap();
    let with = |login: &Path| format!("subscription = true\nconfig_dir = {login:?}");
    let window = "window_tokens = 100000";
    let [one, other] = [0, 1].map(|_| root_with("claude", window, &with(login.path())));
    let told = || {
        let all: [&[&str]; 3] = [
            &["budget"],
            &["doctor"],
            &["run", "--drain", "--workers", "1"],
        ];
        all.map(|args| describe(&other.harness(args)))
    };
    let place = one.path().canonicalize().unwrap();
    let words = format!(
        "harness works in {}, too, with the login of claude",
        place.display()
    );
    for said in told() {
        assert!(!said.contains("login of"), "{said}");
    }
    let run = one.start(&["--workers", "1"]);
    one.wait_until("it works", || one.at("state/status.json").exists());
    for said in told() {
        assert!(
            said.contains(&words) && said.contains("lower `window_tokens`"),
            "{said}"
        );
    }
    configure(&other, "claude", window, &with(&other.at("own")));
    for said in told() {
        assert!(!said.contains("login of"), "{said}");
    }
    end(run);
    let text = fs::read_to_string(other.at("harness.toml")).unwrap();
    let second = format!(
        "{text}[agents.second]\ncli = \"claude\"\n{}\n",
        with(&other.at("own"))
    );
    fs::write(other.at("harness.toml"), second).unwrap();
    for said in told() {
        assert!(said.contains("claude and second have one login"), "{said}");
    }
}

/// The seconds that the clock must be ahead to be at that time.
fn to(time: &str) -> i64 {
    let time: jiff::Timestamp = time.parse().unwrap();
    time.as_second() - jiff::Timestamp::now().as_second()
}

#[test]
fn a_hold_of_a_clock_that_was_wrong_ends_when_it_is_right() {
    let mut root = root_with("claude", "day_usd = 0.04", "budget_usd = 0.03");
    let Some(clock) = Clock::of(&mut root) else {
        return;
    };
    const DAY: i64 = 86_400;
    clock.set(30 * DAY, 0);
    play(&root, "a.md", "success");
    play(&root, "b.md", "success");
    let run = root.start(&["--workers", "1"]);
    root.wait_until("one is paid", || done(&root) == 1);
    held(&root, &run, "claude");
    let days_left = || {
        let until = hold(&root, "claude")?["until"].as_str()?.to_owned();
        Some(to(&until) / DAY)
    };
    assert!(days_left().is_some_and(|days| days >= 29));
    // What was used then counts as used today: the same harness holds it until tonight.
    clock.set(0, 0);
    root.wait_until("it is held until tonight", || {
        days_left().is_some_and(|days| days <= 1)
    });
    assert_eq!(done(&root), 1);
    clock.set(DAY, 0);
    root.wait_until("tomorrow the other is paid", || done(&root) == 2);
    end(run);
}

#[test]
fn a_day_of_23_or_25_hours_ends_at_its_midnight() {
    for (evening, midnight) in [
        ("2027-10-31T21:30:00Z", "2027-10-31T23:00:00Z"),
        ("2028-03-26T20:30:00Z", "2028-03-26T22:00:00Z"),
    ] {
        let mut root = root_with("claude", "day_usd = 0.04", "budget_usd = 0.03");
        root.env.push(("TZ", "CET-1CEST,M3.5.0,M10.5.0/3".into()));
        let Some(clock) = Clock::of(&mut root) else {
            return;
        };
        clock.set(to(evening), 0);
        play(&root, "a.md", "success");
        play(&root, "b.md", "success");
        let run = root.start(&["--workers", "1"]);
        root.wait_until("one is paid", || done(&root) == 1);
        let hold = held(&root, &run, "claude");
        // In whole seconds, so that it does not end too early.
        let late = to(hold["until"].as_str().unwrap()) - to(midnight);
        assert!((0..=1).contains(&late), "{hold:#}");
        clock.set(to(midnight) + 3, 0);
        root.wait_until("the next day pays", || done(&root) == 2);
        end(run);
    }
}
