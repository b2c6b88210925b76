//! Tests of the rules, and of what a state says after charges and days.

use std::time::Duration;

use super::rules::{Refusal, decide, money, percentile};
use super::state::{Amount, Charged, Reservation, State};
use super::{Ask, Current, Moment};
use crate::clock::Timestamp;
use crate::config::BudgetTable;
use crate::layout::Root;

fn now() -> Moment {
    at("2026-01-27T12:00:00Z")
}

fn at(text: &str) -> Moment {
    Moment {
        at: text.parse().unwrap(),
        day: text[..10].to_owned(),
        next_day: "2026-01-28T00:00:00Z".parse().unwrap(),
    }
}

fn table() -> BudgetTable {
    BudgetTable {
        window: Duration::from_secs(5 * 3600),
        reserve_for_people: 0.2,
        ..BudgetTable::default()
    }
}

const ASK: Ask<'_> = Ask {
    session: "s",
    item: "i",
    agent: "a",
    limit_usd: Some(10.0),
    agent_usd: Some(10.0),
    subscription: false,
    item_used: Amount {
        usd: 0.0,
        tokens: 0,
    },
};

/// A state after attempts of `a` with these costs.
fn after(costs: &[f64]) -> State {
    let mut state = State::new(&now());
    for (n, usd) in costs.iter().enumerate() {
        let sid = format!("ended-{n}");
        state.reserve(&sid, reservation(10.0, 0), &now());
        let tokens = (usd * 1000.0) as u64;
        state
            .charge(&sid, Some(*usd), Some(tokens), &now())
            .unwrap();
    }
    state
}

fn reservation(usd: f64, tokens: u64) -> Reservation {
    Reservation {
        item: "i".into(),
        agent: "a".into(),
        amount: Amount { usd, tokens },
        at: String::new(),
    }
}

fn granted(state: &State, table: &BudgetTable, ask: &Ask<'_>) -> (f64, u64, Option<f64>) {
    let grant = decide(state, table, ask, &now()).unwrap();
    let usd_max = grant.usd_max.map(|(usd, _)| usd);
    (grant.amount.usd, grant.amount.tokens, usd_max)
}

fn refused(state: &State, table: &BudgetTable, ask: &Ask<'_>) -> (Option<Timestamp>, String) {
    match decide(state, table, ask, &now()).unwrap_err() {
        Refusal::Agent { until, why } => (until, why),
        Refusal::Item(why) => (None, format!("item: {why}")),
    }
}

#[test]
fn what_is_reserved_follows_from_what_is_known() {
    let free = table();
    assert_eq!(granted(&after(&[]), &free, &ASK), (10.0, 0, None));
    assert_eq!(granted(&after(&[1.0; 4]), &free, &ASK), (10.0, 1000, None));
    assert_eq!(granted(&after(&[1.0; 5]), &free, &ASK), (1.0, 1000, None));
    // Nine of ten; and of an agent only its last twenty.
    let mut costs = vec![9.0; 5];
    costs.extend([1.0; 18]);
    costs.extend([2.0, 3.0]);
    assert_eq!(granted(&after(&costs), &free, &ASK).0, 1.0);
    assert_eq!(
        granted(&after(&[20.0; 5]), &free, &ASK).0,
        10.0,
        "its own limit"
    );
    let paid = Ask {
        subscription: true,
        ..ASK
    };
    assert_eq!(granted(&after(&[1.0; 5]), &free, &paid), (0.0, 1000, None));
    assert_eq!(percentile(&[]), None);
    assert_eq!(percentile(&[1.0, 2.0, 3.0]), Some(3.0));
}

#[test]
fn a_budget_lets_start_what_fits_and_else_says_which_and_until_when() {
    let day = |day_usd| BudgetTable { day_usd, ..table() };
    let mut state = after(&[1.0; 5]);
    state.reserve("other", reservation(2.0, 0), &now());
    assert_eq!(granted(&state, &day(8.0), &ASK).0, 1.0);
    let (until, why) = refused(&state, &day(7.9), &ASK);
    assert_eq!(until, Some(now().next_day));
    assert_eq!(
        why,
        "`day_usd` is $7.90: $5.00 are used and $2.00 reserved, and an attempt of a may take $1.00"
    );
    let total = BudgetTable {
        total_usd: 7.5,
        ..day(7.5)
    };
    let (until, why) = refused(&state, &total, &ASK);
    assert!(
        until.is_none() && why.contains("raise `total_usd`"),
        "{why}"
    );
    let (until, why) = refused(&state, &day(0.5), &ASK);
    assert!(
        until.is_none() && why.contains("more than the whole of `day_usd`, $0.50"),
        "{why}"
    );
    let unlimited = Ask {
        limit_usd: None,
        agent_usd: None,
        ..ASK
    };
    let (until, why) = refused(&after(&[]), &day(100.0), &unlimited);
    assert!(until.is_none() && why.contains("set `budget_usd`"), "{why}");
    assert_eq!(granted(&after(&[1.0; 5]), &day(100.0), &unlimited).0, 1.0);
}

#[test]
fn while_little_is_known_one_goes_at_a_time_with_what_is_left() {
    let day = |day_usd| BudgetTable { day_usd, ..table() };
    assert_eq!(granted(&after(&[]), &day(3.0), &ASK), (3.0, 0, Some(3.0)));
    let mut state = after(&[1.0]);
    assert_eq!(granted(&state, &day(3.0), &ASK), (2.0, 1000, Some(2.0)));
    let (until, _) = refused(&state, &day(1.5), &ASK);
    assert_eq!(
        until,
        Some(now().next_day),
        "less than what the first one used"
    );
    state.reserve("other", reservation(0.5, 0), &now());
    let (_, why) = refused(&state, &day(3.0), &ASK);
    assert!(
        why.contains("one at a time until 5 attempts (1 by now)"),
        "{why}"
    );
    let other = Ask { agent: "b", ..ASK };
    assert_eq!(granted(&state, &day(3.0), &other), (1.5, 0, Some(1.5)));
    // Tokens have no limit of their own.
    let tokens = BudgetTable {
        day_tokens: 5000,
        ..table()
    };
    assert_eq!(granted(&after(&[]), &tokens, &ASK), (10.0, 5000, None));
}

#[test]
fn windows_begin_with_a_reservation_end_and_are_paced() {
    let paced = BudgetTable {
        window_tokens: 10_000,
        pace: true,
        ..table()
    };
    let mut state = State::new(&now());
    assert_eq!(granted(&state, &paced, &ASK).1, 8000);
    state.reserve("one", reservation(0.0, 8000), &now());
    state.charge("one", None, Some(2000), &now()).unwrap();
    // A quarter of it is used, and no time has passed.
    let (until, why) = refused(&state, &paced, &ASK);
    assert_eq!(
        until,
        Some("2026-01-27T13:15:00Z".parse().unwrap()),
        "{why}"
    );
    let decide_at = |state: &State, text| decide(state, &paced, &ASK, &at(text));
    assert!(decide_at(&state, "2026-01-27T13:14:59Z").is_err());
    let grant = decide_at(&state, "2026-01-27T13:15:00Z").unwrap();
    assert_eq!(grant.amount.tokens, 6000);
    // Another agent has a window of its own.
    let other = Ask { agent: "b", ..ASK };
    assert_eq!(granted(&state, &paced, &other).1, 8000);
    let unpaced = BudgetTable {
        pace: false,
        ..paced.clone()
    };
    let mut full = state.clone();
    full.reserve("two", reservation(0.0, 6000), &now());
    full.charge("two", None, Some(6000), &now()).unwrap();
    let (until, why) = refused(&full, &unpaced, &ASK);
    assert_eq!(
        until,
        Some("2026-01-27T17:00:00Z".parse().unwrap()),
        "{why}"
    );
    // The clock is set back: what was used counts in a window that begins there.
    let mut back = full.clone();
    let earlier = at("2026-01-26T09:00:00Z");
    back.roll(&unpaced, &earlier);
    let Err(Refusal::Agent { until, .. }) = decide(&back, &unpaced, &ASK, &earlier) else {
        panic!("{back:?}");
    };
    assert_eq!(until, Some("2026-01-26T14:00:00Z".parse().unwrap()));
    // Right again, it has its end.
    back.roll(&unpaced, &now());
    assert!(decide(&back, &unpaced, &ASK, &now()).is_ok());
    full.roll(&unpaced, &at("2026-01-27T17:00:00Z"));
    assert!(decide(&full, &unpaced, &ASK, &at("2026-01-27T17:00:00Z")).is_ok());
}

#[test]
fn an_item_may_try_first_with_what_it_has_and_then_only_what_is_usual() {
    let table = BudgetTable {
        item_usd: 2.0,
        ..table()
    };
    let used = |usd| Ask {
        item_used: Amount { usd, tokens: 0 },
        ..ASK
    };
    assert_eq!(
        granted(&after(&[]), &table, &used(0.0)),
        (2.0, 0, Some(2.0))
    );
    assert_eq!(granted(&after(&[3.0; 5]), &table, &used(0.0)).2, Some(2.0));
    assert_eq!(
        granted(&after(&[1.0; 5]), &table, &used(1.0)),
        (1.0, 1000, Some(1.0))
    );
    let (_, why) = refused(&after(&[1.0; 5]), &table, &used(1.5));
    assert!(
        why.starts_with("item: ") && why.contains("`item_usd`"),
        "{why}"
    );
    assert!(
        refused(&after(&[]), &table, &used(2.0))
            .1
            .starts_with("item: ")
    );
    let paid = Ask {
        subscription: true,
        ..used(5.0)
    };
    assert_eq!(granted(&after(&[]), &table, &paid).2, None);
}

#[test]
fn a_session_is_charged_once_and_days_end() {
    let mut state = after(&[]);
    state.reserve("s", reservation(2.0, 500), &now());
    assert!(!state.clone().give_back("other") && state.clone().give_back("s"));
    let charged = state.charge("s", None, Some(7), &now());
    let amount = Amount {
        usd: 2.0,
        tokens: 7,
    };
    assert_eq!(charged, Some(Charged::Now(amount)));
    assert_eq!(
        state.charge("s", Some(9.0), None, &now()),
        Some(Charged::Before(amount))
    );
    assert_eq!(state.charge("never", Some(9.0), None, &now()), None);
    assert_eq!((state.today, state.total), (amount, amount));
    // The clock is set back over midnight; or two processes in two time zones take turns.
    for (day, usd) in [("26", 2.0), ("27", 2.0), ("26", 2.0), ("28", 0.0)] {
        state.roll(&table(), &at(&format!("2026-01-{day}T12:00:00Z")));
        assert_eq!(state.today.usd, usd, "{day}");
    }
    // A clock that was years ahead keeps no day for years.
    state.today = amount;
    state.day = "2099-01-01".into();
    for (day, usd) in [("28", 2.0), ("29", 0.0)] {
        state.roll(&table(), &at(&format!("2026-01-{day}T12:00:00Z")));
        assert_eq!(state.today.usd, usd, "{day}");
    }
    assert_eq!(state.total, amount);
    for odd in [f64::NAN, f64::INFINITY, -1.0, 1e300] {
        let sane = Amount::new(odd, u64::MAX);
        assert!(sane.usd.is_finite() && sane.usd >= 0.0, "{odd}");
    }
    assert_eq!(
        [0.09, 0.0312, 7.0].map(money),
        ["$0.09", "$0.0312", "$7.00"]
    );
}

#[test]
fn a_window_that_is_left_to_people_wholly_starts_nothing() {
    let whole = BudgetTable {
        window_tokens: 10_000,
        reserve_for_people: 1.0,
        ..table()
    };
    for pace in [false, true] {
        let table = BudgetTable {
            pace,
            ..whole.clone()
        };
        for state in [after(&[]), after(&[1.0; 5])] {
            let (until, why) = refused(&state, &table, &ASK);
            assert!(
                until.is_none() && why.contains("`reserve_for_people` = 1 "),
                "{why}"
            );
        }
    }
}

#[test]
fn an_item_without_a_limit_takes_its_agents_where_dollars_are_bounded() {
    let day = |day_usd| BudgetTable { day_usd, ..table() };
    let free = Ask {
        limit_usd: None,
        ..ASK
    };
    assert_eq!(
        granted(&after(&[]), &table(), &free),
        (0.0, 0, None),
        "nothing is bounded"
    );
    assert_eq!(
        granted(&after(&[]), &day(50.0), &free),
        (10.0, 0, Some(10.0))
    );
    assert_eq!(granted(&after(&[]), &day(3.0), &free), (3.0, 0, Some(3.0)));
    assert_eq!(
        granted(&after(&[1.0; 5]), &day(50.0), &free),
        (1.0, 1000, Some(10.0))
    );
}

#[test]
fn what_may_be_used_says_which_budget_left_no_more() {
    let by = |state: &State, table: &BudgetTable, ask: &Ask<'_>| {
        decide(state, table, ask, &now()).unwrap().usd_max
    };
    let table = BudgetTable {
        day_usd: 3.0,
        total_usd: 20.0,
        item_usd: 5.0,
        ..table()
    };
    assert_eq!(by(&after(&[]), &table, &ASK), Some((3.0, "day_usd")));
    let tight = BudgetTable {
        item_usd: 2.0,
        ..table.clone()
    };
    assert_eq!(by(&after(&[]), &tight, &ASK), Some((2.0, "item_usd")));
    let total = BudgetTable {
        total_usd: 1.0,
        ..table.clone()
    };
    assert_eq!(by(&after(&[]), &total, &ASK), Some((1.0, "total_usd")));
    let small = Ask {
        limit_usd: Some(0.5),
        ..ASK
    };
    assert_eq!(
        by(&after(&[]), &table, &small),
        None,
        "its own limit is less"
    );
}

#[test]
fn what_is_not_of_this_version_or_no_sum_is_not_counted_with() {
    let read = |text: &str| serde_json::from_str::<State>(text).unwrap().checked();
    assert!(read(r#"{"version":1}"#).is_ok());
    assert!(read(r#"{"version":7}"#).unwrap_err().contains("version 7"));
    for usd in ["-1", "1e13", "1e308"] {
        let text = format!(r#"{{"version":1,"total":{{"usd":{usd}}}}}"#);
        assert!(read(&text).is_err(), "{usd}");
    }
}

#[test]
fn what_the_file_says_counts_at_once_and_one_that_cannot_be_read_lifts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    let write = |text: &str| {
        let path = dir.path().join("harness.toml");
        drop(crate::atomic::replace(&path, text.as_bytes(), false));
    };
    let mut current = Current::new(table());
    write("[budget]\nday_usd = 3\n");
    assert_eq!(current.read(&root).0.day_usd, 3.0);
    write("[budget]\nday_usd = 4\n");
    assert_eq!(current.read(&root).0.day_usd, 4.0);
    for (text, said) in [("", false), ("[budget", true), ("[budget", false)] {
        write(text);
        let (table, trouble) = current.read(&root);
        assert_eq!(
            (table.day_usd, trouble.is_some()),
            (4.0, said),
            "{text}: {trouble:?}"
        );
    }
    std::fs::remove_file(dir.path().join("harness.toml")).unwrap();
    assert_eq!(current.read(&root).0.day_usd, 4.0);
    write("[budget]\nday_usd = 5\n");
    assert_eq!(current.read(&root).0.day_usd, 5.0);
}

#[test]
fn tokens_are_bounded_by_what_is_left_while_little_is_known() {
    let most =
        |state: &State, table: &BudgetTable| decide(state, table, &ASK, &now()).unwrap().tokens_max;
    let day = BudgetTable {
        day_tokens: 5000,
        ..table()
    };
    assert_eq!(most(&after(&[]), &table()), None);
    assert_eq!(most(&after(&[]), &day), Some((5000, "day_tokens")));
    assert_eq!(most(&after(&[1.0]), &day), Some((4000, "day_tokens")));
    let of_item = BudgetTable {
        item_tokens: 3000,
        ..day.clone()
    };
    assert_eq!(most(&after(&[]), &of_item), Some((3000, "item_tokens")));
    // Five have shown what they use: they are trusted.
    let large = BudgetTable {
        day_tokens: 50_000,
        ..table()
    };
    assert_eq!(most(&after(&[1.0; 5]), &large), None);
}
