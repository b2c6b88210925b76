//! The checker itself: it accepts good histories and refuses bad ones, each made by hand.

use super::life::{How, Life, Next, Op, Place};
use super::linear::{Call, check};

fn call(op: Op, begin: i64, end: i64) -> Call<Op> {
    Call { op, begin, end }
}

fn accepts(calls: &[Call<Op>]) -> bool {
    check(&Life::default(), calls).is_ok()
}

/// One file of a name from its drop to `done/`, and what the test adds or changes.
fn good() -> Vec<Call<Op>> {
    let s = || "s1".to_owned();
    vec![
        call(Op::Drop(1, How::Moved), 0, 10),
        call(Op::Take(s(), 1), 5, 20),
        call(Op::Runs(s(), 1), 20, 20),
        call(Op::Runs(s(), 1), 30, 30),
        call(Op::Finish(s(), Next::Done), 30, 60),
        call(Op::See(vec![(Place::Done, 1)], Some(vec![1])), 100, 100),
    ]
}

fn with(more: Vec<Call<Op>>, see: &[(Place, u32)], published: &[u32]) -> Vec<Call<Op>> {
    let mut calls = good();
    calls.pop();
    calls.extend(more);
    let see = Op::See(see.to_vec(), Some(published.to_vec()));
    calls.push(call(see, 100, 100));
    calls
}

#[test]
fn good_histories_have_an_order() {
    use Place::{Claimed, Done, Parked, Pending};
    assert!(accepts(&good()));
    // Calls that overlap may have come in either order.
    let second = |end| {
        vec![
            call(Op::Drop(2, How::Moved), 25, 26),
            call(Op::Take("s2".into(), 2), 55, 70),
            call(Op::Runs("s2".into(), 2), 71, 71),
            call(Op::Finish("s2".into(), Next::Done), 72, end),
        ]
    };
    assert!(accepts(&with(second(80), &[(Done, 1), (Done, 2)], &[1, 2])));
    let cancel = |at| call(Op::Move(Claimed(1), Parked, How::Moved), at, at + 1);
    assert!(accepts(&with(vec![cancel(40)], &[(Parked, 1)], &[])));
    let missed = call(Op::Move(Claimed(1), Parked, How::Gone), 70, 80);
    assert!(accepts(&with(vec![missed], &[(Done, 1)], &[1])));
    let again = call(Op::Move(Done, Pending, How::Moved), 50, 70);
    assert!(accepts(&with(vec![again], &[(Pending, 1)], &[1])));
}

#[test]
fn bad_histories_have_none() {
    use Place::{Claimed, Done, Parked};
    let see = |files: &[(Place, u32)], published: &[u32]| with(Vec::new(), files, published);
    // Lost, twice there, in the wrong place; published by nobody or twice.
    assert!(!accepts(&see(&[], &[1])));
    assert!(!accepts(&see(&[(Done, 1), (Done, 1)], &[1])));
    assert!(!accepts(&see(&[(Parked, 1)], &[1])));
    assert!(!accepts(&see(&[(Done, 1)], &[])));
    assert!(!accepts(&see(&[(Done, 1)], &[1, 1])));
    let with = |more| with(more, &[(Done, 1)], &[1]);
    // A second attempt of what ended, or of nothing.
    let two = vec![
        call(Op::Take("s2".into(), 2), 61, 70),
        call(Op::Finish("s2".into(), Next::Done), 71, 80),
    ];
    assert!(!accepts(&with(two)));
    // Two at once: the second takes a file that was dropped again while the first runs.
    let early = vec![
        call(Op::Drop(2, How::Moved), 21, 22),
        call(Op::Take("s2".into(), 2), 23, 25),
        call(Op::Runs("s2".into(), 2), 26, 26),
        call(Op::Finish("s2".into(), Next::Parked), 27, 29),
    ];
    assert!(!accepts(&with(early)));
    // Ran before it was claimed, or on after its end, or another file than the one taken.
    assert!(!accepts(&with(vec![call(Op::Runs("s1".into(), 1), 4, 4)])));
    assert!(!accepts(&with(vec![call(
        Op::Runs("s1".into(), 1),
        61,
        61
    )])));
    assert!(!accepts(&with(vec![call(
        Op::Runs("s1".into(), 2),
        25,
        25
    )])));
    // Taken away, and done and published all the same.
    let taken = call(Op::Move(Claimed(1), Parked, How::Moved), 22, 24);
    assert!(!accepts(&with(vec![taken])));
    // A person saw a place full that was empty, and one empty that was full.
    assert!(!accepts(&with(vec![call(Op::Drop(2, How::Taken), 40, 41)])));
    let unseen = call(Op::Move(Done, Parked, How::Gone), 70, 71);
    assert!(!accepts(&with(vec![unseen])));
}
