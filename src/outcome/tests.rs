use super::*;

use Exit::{Code, Signal, Unknown};
use WorkLeft::{Commits, NoRepository, Uncollected, Unfinished, WorktreeGone};

const TABLE: &str = include_str!("table.txt");

const TERMS: Terms = Terms {
    retries: 2,
    backoff: Duration::from_secs(2),
    rate_limit_hold: Duration::from_secs(20),
    usage_limit_hold: Duration::from_secs(900),
    over_hold: Duration::from_secs(60),
};

fn ended(exit: Exit) -> Evidence {
    Evidence {
        ending: Ending::Exited(exit),
        stop: None,
        taken_away: false,
        limits: Vec::new(),
        work: Commits(1),
        last_words: String::new(),
        fault: None,
        asked: None,
        unheard: false,
        resumed: false,
        has_events: true,
        budget: None,
        failures: 0,
    }
}

fn unstartable(folder_gone: bool) -> Evidence {
    Evidence {
        ending: Ending::NeverStarted {
            why: "no such program".into(),
            folder_gone,
        },
        ..ended(Code(0))
    }
}

fn stopped_for(stop: Stop) -> Evidence {
    Evidence {
        stop: Some(stop),
        limits: vec!["its keeper's words".into()],
        ..ended(Code(0))
    }
}

const CLASSES: [Class; 18] = [
    Class::Auth,
    Class::Billing,
    Class::UsageLimit { resets_at: None },
    Class::RateLimit,
    Class::Overloaded,
    Class::Network,
    Class::Context,
    Class::Refusal,
    Class::LimitsReached {
        limit: Limit::Turns,
    },
    Class::LimitsReached {
        limit: Limit::Budget,
    },
    Class::LimitsReached {
        limit: Limit::MaxTokens,
    },
    Class::Permission,
    Class::Spawn,
    Class::SessionLost,
    Class::Stalled,
    Class::Interrupted,
    Class::Malformed,
    Class::Unknown,
];

fn fault(class: Class) -> Evidence {
    Evidence {
        fault: Some(FoundFault {
            class,
            message: "its words".into(),
            again: "it is tried again".into(),
            parked: "what to do".into(),
            limit: LimitLeft::Unsaid,
        }),
        ..ended(Code(1))
    }
}

/// What each row of the table is called, and its evidence with all retries left.
fn rows() -> Vec<(String, Evidence)> {
    let mut rows = Vec::new();
    let mut row = |what: &str, evidence: Evidence| rows.push((what.to_owned(), evidence));
    for (what, work) in [
        ("no repository", NoRepository),
        ("no commits", Commits(0)),
        ("2 commits", Commits(2)),
        ("a merge unfinished", Unfinished("it left a merge".into())),
        ("its worktree gone", WorktreeGone),
        ("not collected", Uncollected("git cannot write".into())),
    ] {
        let with = |evidence| Evidence {
            work: work.clone(),
            ..evidence
        };
        row(&format!("exit 0, {what}"), with(ended(Code(0))));
        row(&format!("exit 3, {what}"), with(ended(Code(3))));
    }
    let last_words = "no space left".to_owned();
    row(
        "exit 3, with last words",
        Evidence {
            last_words,
            ..ended(Code(3))
        },
    );
    row("killed by signal 9", ended(Signal(9)));
    row("its end is not known", ended(Unknown));
    row("never started", unstartable(false));
    row("never started, its folder gone", unstartable(true));
    for stop in Stop::ALL {
        row(&format!("stopped: {}", stop.as_str()), stopped_for(stop));
    }
    let has_events = false;
    row(
        "stopped: timed_out, a script",
        Evidence {
            has_events,
            ..stopped_for(Stop::TimedOut)
        },
    );
    let work = Commits(0);
    row(
        "stopped: lingered, no commits",
        Evidence {
            work,
            ..stopped_for(Stop::Lingered)
        },
    );
    for class in CLASSES {
        let limit = match class {
            Class::LimitsReached { limit } => format!(" ({limit:?})"),
            _ => String::new(),
        };
        row(&format!("fault: {}{limit}", class.as_str()), fault(class));
    }
    let mut known = fault(Class::UsageLimit { resets_at: Some(0) });
    known.fault.as_mut().unwrap().limit = LimitLeft::Ends(Duration::from_secs(3600));
    row("fault: usage_limit, its end known", known.clone());
    for (limit, words) in [
        (LimitLeft::Over, "over"),
        (LimitLeft::Unclear, "its end unclear"),
    ] {
        known.fault.as_mut().unwrap().limit = limit;
        row(&format!("fault: usage_limit, {words}"), known.clone());
    }
    let mut known = fault(Class::RateLimit);
    known.fault.as_mut().unwrap().limit = LimitLeft::Ends(Duration::from_secs(90));
    row("fault: rate_limit, its end known", known);
    let resumed = true;
    row(
        "fault: session_lost, resumed",
        Evidence {
            resumed,
            ..fault(Class::SessionLost)
        },
    );
    let stop = Some(Stop::TimedOut);
    row(
        "fault: auth, stopped: timed_out",
        Evidence {
            stop,
            ..fault(Class::Auth)
        },
    );
    let asked = || Some("which one?".to_owned());
    row(
        "asked, exit 0",
        Evidence {
            asked: asked(),
            ..ended(Code(0))
        },
    );
    row(
        "asked, exit 3",
        Evidence {
            asked: asked(),
            ..ended(Code(3))
        },
    );
    row(
        "asked, fault: rate_limit",
        Evidence {
            asked: asked(),
            ..fault(Class::RateLimit)
        },
    );
    row(
        "asked, stopped: timed_out",
        Evidence {
            asked: asked(),
            ..stopped_for(Stop::TimedOut)
        },
    );
    row(
        "answered too late, exit 0",
        Evidence {
            unheard: true,
            ..ended(Code(0))
        },
    );
    row(
        "answered too late, exit 3, no retries",
        Evidence {
            unheard: true,
            failures: TERMS.retries,
            ..ended(Code(3))
        },
    );
    let taken_away = true;
    row(
        "taken away, exit 0",
        Evidence {
            taken_away,
            ..ended(Code(0))
        },
    );
    row(
        "taken away, exit 3",
        Evidence {
            taken_away,
            ..ended(Code(3))
        },
    );
    row(
        "taken away, stopped: shutdown",
        Evidence {
            taken_away,
            ..stopped_for(Stop::Shutdown)
        },
    );
    row(
        "taken away, fault: auth",
        Evidence {
            taken_away,
            ..fault(Class::Auth)
        },
    );
    row(
        "taken away, asked",
        Evidence {
            taken_away,
            asked: asked(),
            ..ended(Code(0))
        },
    );
    rows
}

fn print(what: &str, d: &Decision) -> String {
    let seconds = |wait: Duration| format!("{} s", wait.as_secs());
    let mut then: Vec<String> = Vec::new();
    if let Some(wait) = d.wait {
        then.push(format!("not for {}", seconds(wait)));
    }
    match d.hold {
        Some(HoldEnd::After(rest)) => then.push(format!("agent held {}", seconds(rest))),
        Some(HoldEnd::Mended) => then.push("agent held until mended".into()),
        None => {}
    }
    if let Some(cause) = d.interrupt {
        then.push(format!("slot paused: {}", cause.as_str()));
    }
    for (does, what) in [
        (d.publishes, "publishes"),
        (d.takes_back, "takes back"),
        (d.asks, "asks"),
        (!d.is_failure(), "no failure"),
        (d.is_last(), "last"),
    ] {
        if does {
            then.push(what.into());
        }
    }
    let fault = d.fault.map_or("", Class::as_str);
    let (outcome, next) = (d.outcome.as_str(), d.next.as_str());
    let (then, reason) = (then.join(", "), &d.reason);
    format!("{what:<42} | {outcome:<11} | {next:<7} | {fault:<14} | {then:<46} | {reason}\n")
}

fn table() -> String {
    let titles = ("evidence", "outcome", "next", "fault", "then", "reason");
    let mut out = format!(
        "{:<42} | {:<11} | {:<7} | {:<14} | {:<46} | {}\n",
        titles.0, titles.1, titles.2, titles.3, titles.4, titles.5
    );
    for (what, evidence) in rows() {
        let first = decide(&evidence, &TERMS);
        out += &print(&what, &first);
        let evidence = Evidence {
            failures: TERMS.retries,
            ..evidence
        };
        let last = decide(&evidence, &TERMS);
        if last != first {
            out += &print("    … and no retry left", &last);
        }
    }
    out
}

/// What gates make of an attempt that has succeeded.
fn gates_table() -> String {
    let mut table = String::new();
    let succeeded = Decision::succeeded(Outcome::Succeeded, Some("finished".into()), true);
    let verdicts = [
        Verdict::Green,
        Verdict::Red,
        Verdict::Flaky,
        Verdict::Unevaluated,
        Verdict::RedBefore,
    ];
    let all = [Means::Retry, Means::Park, Means::Interrupt, Means::Told];
    for (verdict, means) in verdicts.iter().flat_map(|v| all.map(|means| (*v, means))) {
        for failures in [0, TERMS.retries] {
            let gate = GateEvidence {
                gate: "g".into(),
                verdict,
                means,
                reason: String::new(),
                tests: Vec::new(),
            };
            let decision = gated(succeeded.clone(), &[gate], failures, &TERMS);
            let paused = match decision.interrupt {
                Some(_) => ", slot paused",
                None => "",
            };
            table.push_str(&format!(
                "gate {}, {means:?}, {failures} failures before | {} | {}{paused} | {}\n",
                verdict.as_str(),
                decision.outcome.as_str(),
                decision.next.as_str(),
                decision.reason
            ));
        }
    }
    table
}

#[test]
fn what_a_budget_of_all_stopped_is_no_fault_of_its_item() {
    let by_itself = fault(Class::LimitsReached {
        limit: Limit::Budget,
    });
    for evidence in [stopped_for(Stop::OverBudget), by_itself] {
        let of = |key: &str| {
            let budget = Some(key.to_owned());
            decide(
                &Evidence {
                    budget,
                    ..evidence.clone()
                },
                &TERMS,
            )
        };
        let own = decide(&evidence, &TERMS);
        assert_eq!((own.outcome, own.next), (Outcome::OverBudget, Next::Parked));
        assert_eq!(of("budget_usd"), own);
        for key in ["day_usd", "total_usd"] {
            let d = of(key);
            assert_eq!(
                (d.outcome, d.next, d.wait),
                (Outcome::OverBudget, Next::Pending, None)
            );
            assert!(
                !d.is_failure() && d.reason.contains(&format!("`{key}`")),
                "{}",
                d.reason
            );
        }
        let d = of("item_usd");
        assert_eq!(d.next, Next::Parked);
        assert!(d.reason.contains("raise `item_usd`"), "{}", d.reason);
    }
    let fine = Evidence {
        budget: Some("day_usd".into()),
        ..ended(Code(0))
    };
    assert_eq!(decide(&fine, &TERMS).outcome, Outcome::Succeeded);
}

#[test]
fn the_whole_table_is_as_it_is_checked_in() {
    let table = table() + &gates_table();
    if std::env::var_os("HARNESS_WRITE_TABLE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/outcome/table.txt");
        crate::atomic::replace(path.as_ref(), table.as_bytes(), false).unwrap();
        return;
    }
    for (now, then) in table.lines().zip(TABLE.lines()) {
        assert_eq!(
            now, then,
            "if that is meant: HARNESS_WRITE_TABLE=1 cargo test --lib outcome"
        );
    }
    assert_eq!(table.lines().count(), TABLE.lines().count());
}

/// Every combination of evidence, whether it can happen or not.
#[test]
fn no_evidence_breaks_the_promises() {
    let flags = [false, true];
    let faults = CLASSES
        .iter()
        .map(|class| Some(fault(*class).fault.unwrap()));
    let faults: Vec<_> = faults.chain([None]).collect();
    let stops = Stop::ALL.map(Some).into_iter().chain([None]);
    let endings = [Code(0), Code(3), Signal(9), Unknown].map(Ending::Exited);
    let endings = endings
        .into_iter()
        .chain(flags.map(|gone| unstartable(gone).ending));
    let works = [
        NoRepository,
        Commits(0),
        Commits(2),
        Unfinished("x".into()),
        WorktreeGone,
        Uncollected("x".into()),
    ];
    let endings: Vec<_> = endings.collect();
    for stop in stops {
        for (ending, work, fault) in product(&endings, &works, &faults) {
            for bits in 0..32_u32 {
                let bit = |n: u32| bits & (1 << n) != 0;
                let evidence = Evidence {
                    ending: ending.clone(),
                    stop,
                    work: work.clone(),
                    fault: fault.clone(),
                    taken_away: bit(0),
                    asked: bit(1).then(|| "?".to_owned()),
                    resumed: bit(2),
                    failures: if bit(3) { TERMS.retries } else { 0 },
                    unheard: bit(4),
                    ..ended(Code(0))
                };
                check(&evidence, &decide(&evidence, &TERMS));
            }
        }
    }
}

fn product<'a, A, B, C>(
    a: &'a [A],
    b: &'a [B],
    c: &'a [C],
) -> impl Iterator<Item = (&'a A, &'a B, &'a C)> {
    a.iter()
        .flat_map(move |a| b.iter().flat_map(move |b| c.iter().map(move |c| (a, b, c))))
}

fn check(e: &Evidence, d: &Decision) {
    let because = || format!("{e:?}\n{d:?}");
    let ran = matches!(e.ending, Ending::Exited(_));
    assert_eq!(d.next == Next::Done, d.outcome.is_good(), "{}", because());
    assert!(
        !d.publishes || d.next == Next::Done && matches!(e.work, Commits(1..)),
        "{}",
        because()
    );
    // What was taken away is left where a person put it, and publishes nothing.
    let canceled = e.taken_away || e.stop == Some(Stop::Canceled);
    assert_eq!(ran && canceled, d.next == Next::Left, "{}", because());
    assert_eq!(d.takes_back, d.next == Next::Left, "{}", because());
    // A retry is counted and bounded; nothing else waits but what waits for a limit.
    assert!(
        d.next != Next::Retry || e.failures < TERMS.retries && d.wait.is_some(),
        "{}",
        because()
    );
    assert!(
        d.wait.is_none() || matches!(d.next, Next::Retry | Next::Pending),
        "{}",
        because()
    );
    assert!(
        !d.asks || d.next == Next::Parked && !d.is_failure(),
        "{}",
        because()
    );
    assert!(d.hold.is_none() || e.fault.is_some(), "{}", because());
    assert!(!d.reason.is_empty(), "{}", because());
}

#[test]
fn backoff_doubles_up_to_its_cap() {
    let s = Duration::from_secs;
    assert_eq!(backoff(0, s(2), s(300), 0.0, 0.5), s(2));
    assert_eq!(backoff(3, s(2), s(300), 0.2, 0.5), s(16));
    assert_eq!(backoff(60, s(2), s(300), 0.2, 1.0), s(360));
}

#[test]
fn a_word_of_a_newer_version_is_kept() {
    let words = r#"["succeeded","merged_late"]"#;
    let read: Vec<Word<Outcome>> = serde_json::from_str(words).unwrap();
    assert_eq!(read[0].known(), Some(Outcome::Succeeded));
    assert_eq!((read[1].known(), read[1].as_str()), (None, "merged_late"));
    assert_eq!(serde_json::to_string(&read).unwrap(), words);
}
