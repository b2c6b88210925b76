//! What the past of an item means for its next attempt, and for whoever looks: a fold over the lines
//! of its record. Each event is thought of by name, so that the compiler finds this place when one
//! is added.

use super::line::{
    Answered, Claimed, Event, Finished, GateRan, Gating, Landing, Line, Publishing, Returned,
    Reviewed, Started,
};
use crate::mutant::planted;
use crate::outcome::{Next, Outcome, Word};

#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// Attempts so far; the next one has this number plus one.
    pub attempts: u32,
    /// Failed attempts since a person (or `add`) last put the item into `pending/`.
    pub failures: u32,
    /// What its attempts have used since then, as the budget counts it.
    pub used_usd: f64,
    pub used_tokens: u64,
    /// Attempts in a row that never started, since one did or a person stepped in.
    pub requeues: u32,
    /// Attempts in a row that ended in a wait for a limit.
    pub waits: u32,
    /// Times that it conflicted with what it was to be merged into, since it was first claimed anew.
    pub conflicts: u32,
    /// Attempts in a row whose host was lost, since a person stepped in.
    pub lost: u32,
    /// The attempt before the last one, which ended.
    pub previous: Option<LastAttempt>,
    /// The last attempt, as far as it is recorded.
    pub last: Option<LastAttempt>,
    /// Branches announced by attempts whose end is not recorded.
    pub publishing: Vec<Publishing>,
    /// The time (ns since 1970) before which the newest end, or failed start, lets it not start again.
    pub not_before_ns: Option<i64>,
    /// The time (ns since 1970) that a person let it not wait for, since it was last claimed.
    pub released_ns: Option<i64>,
    /// Why it stays in `pending/`, since it was tried in vain.
    pub stays: Option<String>,
    /// The newest outcome and reason that any event tells of.
    pub outcome: Option<Word<Outcome>>,
    pub reason: Option<String>,
    /// The newest branch in the user's repository.
    pub branch: Option<String>,
}

/// One attempt as its lines tell it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LastAttempt {
    pub session: String,
    pub slot: String,
    pub attempt: u32,
    pub claimed_at: String,
    /// What was recorded of its start; of one whose start is known from its adoption alone, that.
    pub started: Option<Started>,
    pub started_at: Option<String>,
    /// Set once its end is recorded.
    pub end: Option<AttemptEnd>,
    /// What it asked, and a person's answer if one was written.
    pub answered: Option<Answered>,
    /// Whether it was frozen when the record was written.
    pub frozen: bool,
    /// The modification time (ns) of the answer that it has heard.
    pub heard_ns: Option<i64>,
    /// The branch that its end published, with the commit that an approval is for.
    pub published: Option<PublishedBranch>,
    /// What is known of its end where its gates were begun.
    pub gating: Option<Gating>,
    /// What its gates said, oldest first.
    pub gates: Vec<GateRan>,
    /// A person wanted another attempt.
    pub rejected: Option<Reviewed>,
    /// It was about to land, and it is not known whether it did.
    pub landing: Option<Landing>,
    pub merged: Option<Landing>,
    /// Why it last left `merge/` without landing.
    pub returned: Option<Returned>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct AttemptEnd {
    pub next: Option<Word<Next>>,
    pub outcome: Option<Word<Outcome>>,
    /// It must not start again before (ns since 1970).
    pub not_before_ns: Option<i64>,
    /// Its host was lost.
    pub lost: bool,
}

/// A branch in the user's repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedBranch {
    pub name: String,
    pub head: String,
}

impl History {
    pub fn of<'a>(lines: impl IntoIterator<Item = &'a Line>) -> History {
        let mut history = History::default();
        for line in lines {
            history.fold(&line.event, &line.at);
        }
        history
    }

    /// The number of the next attempt.
    pub fn next_attempt(&self) -> u32 {
        // A record is a file: an agent may have written any number into it.
        self.attempts.saturating_add(1)
    }

    pub(super) fn fold(&mut self, event: &Event, at: &str) {
        match event {
            Event::Claimed(claimed) => self.claim(claimed, at),
            Event::Publishing(said) => {
                self.publishing.retain(|p| p.session != said.session);
                self.publishing.push(said.clone());
            }
            Event::Finished(finished) => self.finish(finished),
            Event::Answered(answered) => self.answer(answered),
            Event::Started(started) => self.start(started.clone(), at),
            Event::Adopted(adopted) => {
                let started = Started {
                    session: adopted.session.clone(),
                    slot: adopted.slot.clone(),
                    pid: adopted.pid,
                    ..Started::default()
                };
                self.start(started, at);
            }
            Event::Requeued(requeued) => {
                // One without a time was no failed start: the claim was not won, or its harness died.
                if requeued.not_before_ns.is_some() {
                    self.requeues = self.requeues.saturating_add(1);
                    self.stays = None;
                }
                self.not_before_ns = requeued.not_before_ns;
                self.reason = Some(requeued.reason.clone());
                if self.last_of(&requeued.session).is_some() {
                    self.attempts = self.attempts.saturating_sub(1);
                    self.last = None;
                }
            }
            Event::Added(_) | Event::Retried(_) => self.begin_anew(),
            Event::Refused(refused) => {
                self.begin_anew();
                self.reason = Some(refused.reason.clone());
                self.outcome = refused.outcome.clone().or(self.outcome.take());
            }
            Event::Parked(parked) => {
                self.begin_anew();
                self.reason = Some(parked.reason.clone());
                self.outcome = parked.outcome.clone().or(self.outcome.take());
            }
            Event::Released(released) => {
                self.requeues = 0;
                self.released_ns = released.not_before_ns;
            }
            // Of one that came late, after its host was taken for lost.
            Event::Canceled(canceled)
                if !canceled.session.is_empty() && !self.is_of_last(&canceled.session) => {}
            Event::Canceled(canceled) => {
                self.reason = Some(canceled.reason.clone());
                self.outcome = canceled.outcome.clone().or(self.outcome.take());
            }
            Event::Stays(stays) => self.stays = Some(stays.reason.clone()),
            Event::Interrupted(interrupted) => {
                self.reason = Some(interrupted.reason.clone());
                if let Some(last) = self.last_of(&interrupted.session) {
                    last.frozen = true;
                }
            }
            Event::Resumed(resumed) => {
                if let Some(last) = self.last_of(&resumed.session) {
                    last.frozen = false;
                    last.heard_ns = resumed.answer_ns.or(last.heard_ns);
                }
            }
            Event::Gating(_)
            | Event::Gate(_)
            | Event::Approved(_)
            | Event::Rejected(_)
            | Event::Landing(_)
            | Event::Merged(_)
            | Event::Returned(_) => self.check(event),
            Event::Hook(_) | Event::Unknown(_) => {}
        }
    }

    /// What gates, people and merges say of its work.
    fn check(&mut self, event: &Event) {
        match event {
            Event::Gating(gating) => {
                if let Some(last) = self.last_of(&gating.session) {
                    last.gating = Some(gating.clone());
                }
            }
            Event::Gate(ran) => {
                if let Some(last) = self.last_of(&ran.session) {
                    last.gates.push(ran.clone());
                }
            }
            Event::Approved(reviewed) => self.approve(&reviewed.commit),
            Event::Rejected(reviewed) => {
                self.begin_anew();
                self.reason = reviewed.comment.clone().or(self.reason.take());
                if let Some(last) = &mut self.last {
                    last.rejected = Some(reviewed.clone());
                }
            }
            Event::Landing(landing) => {
                if let Some(last) = self.last_of(&landing.session) {
                    last.landing = Some(landing.clone());
                }
            }
            Event::Merged(landing) => self.land(landing),
            Event::Returned(returned) => self.come_back(returned),
            _ => {}
        }
    }

    /// The commit of its branch that waits for review or merge from here on.
    fn move_head(&mut self, commit: &str) {
        let published = self.last.as_mut().and_then(|last| last.published.as_mut());
        if let Some(published) = published.filter(|_| !commit.is_empty()) {
            commit.clone_into(&mut published.head);
        }
    }

    /// From here on it waits to be merged, wherever its attempt's end has sent it.
    fn approve(&mut self, commit: &str) {
        self.move_head(commit);
        // Whoever rejected it died before its file was moved.
        if let Some(last) = &mut self.last {
            last.rejected = None;
        }
        if let Some(end) = self.last.as_mut().and_then(|last| last.end.as_mut()) {
            end.next = Some(Next::Merge.into());
        }
    }

    fn land(&mut self, landing: &Landing) {
        self.not_before_ns = None;
        let Some(last) = self.last_of(&landing.session) else {
            return;
        };
        last.landing = None;
        // Whoever rejected it came too late.
        last.rejected = None;
        last.merged = Some(landing.clone());
        if let Some(end) = &mut last.end {
            end.next = Some(Next::Done.into());
        }
        self.reason = Some(format!("merged into {}", landing.into));
        self.failures = 0;
    }

    fn come_back(&mut self, returned: &Returned) {
        self.reason = Some(returned.reason.clone());
        self.outcome = returned.outcome.clone().or(self.outcome.take());
        self.not_before_ns = None;
        if returned.outcome == Some(Outcome::Conflict.into()) {
            self.conflicts = self.conflicts.saturating_add(1);
        }
        if let Some(head) = &returned.head {
            self.move_head(head);
        }
        let Some(last) = self.last_of(&returned.session) else {
            return;
        };
        last.landing = None;
        last.returned = Some(returned.clone());
        if let Some(end) = &mut last.end {
            end.next = returned.next.clone().or(end.next.take());
            end.outcome = returned.outcome.clone().or(end.outcome.take());
            end.not_before_ns = None;
        }
    }

    /// Of the last attempt, or of the one before it, whose answer came late.
    fn answer(&mut self, answered: &Answered) {
        if let Some(last) = self.last_of(&answered.session) {
            last.answered = Some(answered.clone());
            return;
        }
        let previous = self.previous.as_mut();
        if let Some(previous) = previous.filter(|p| p.session == answered.session) {
            previous.answered = Some(answered.clone());
            if let Some(last) = &mut self.last {
                last.answered.get_or_insert_with(|| answered.clone());
            }
        }
    }

    fn begin_anew(&mut self) {
        self.failures = 0;
        self.requeues = 0;
        self.lost = 0;
        self.stays = None;
        (self.used_usd, self.used_tokens) = (0.0, 0);
    }

    /// Whether nothing was claimed since this session.
    fn is_of_last(&self, session: &str) -> bool {
        self.last
            .as_ref()
            .is_none_or(|last| last.session == session)
    }

    fn last_of(&mut self, session: &str) -> Option<&mut LastAttempt> {
        self.last.as_mut().filter(|l| l.session == session)
    }

    fn claim(&mut self, claimed: &Claimed, at: &str) {
        self.attempts = self.attempts.max(claimed.attempt);
        self.released_ns = None;
        let mut before = self.last.take();
        // An answer holds until its item is done, however many attempts that takes.
        if let Some(done) = before.as_mut().filter(|b| b.is_done()) {
            done.answered = None;
        }
        // What a person wants of it holds until an attempt has left a branch.
        if let Some(failed) = before.as_mut().filter(|b| b.published.is_none()) {
            let wanted = self.previous.as_ref().and_then(|p| p.rejected.clone());
            failed.rejected = failed.rejected.take().or(wanted);
        }
        let answered = before.as_ref().and_then(|b| b.answered.clone());
        if before.as_ref().is_some_and(|b| b.end.is_some()) {
            self.previous = before;
        }
        self.last = Some(LastAttempt {
            session: claimed.session.clone(),
            slot: claimed.slot.clone(),
            attempt: claimed.attempt,
            claimed_at: at.to_owned(),
            answered,
            ..LastAttempt::default()
        });
    }

    fn start(&mut self, started: Started, at: &str) {
        self.requeues = 0;
        self.stays = None;
        if let Some(last) = self.last_of(&started.session)
            && last.started.is_none()
        {
            last.started = Some(started);
            last.started_at = Some(at.to_owned());
        }
    }

    /// Adds what an attempt used; whoever gives the item to the queue again gives it its budget again.
    fn count_used(&mut self, finished: &Finished) {
        let end = &finished.end;
        let asks = end.outcome == Some(Outcome::Interrupted.into());
        let over = [Some(Next::Done.into()), Some(Next::Parked.into())].contains(&finished.next);
        if over && !asks {
            (self.used_usd, self.used_tokens) = (0.0, 0);
            return;
        }
        let usd = end.charged_usd.unwrap_or(end.cost_usd);
        // A record is a file: an agent may have written any number into it.
        self.used_usd += if usd > 0.0 { usd.min(1e6) } else { 0.0 };
        let tokens = end.input_tokens.saturating_add(end.output_tokens);
        let tokens = end.charged_tokens.unwrap_or(tokens);
        self.used_tokens = self.used_tokens.saturating_add(tokens);
    }

    fn finish(&mut self, finished: &Finished) {
        let published = finished.published.is_some();
        self.count_used(finished);
        if self.comes_late(finished) {
            // What it says of its branch may be undone, or not: whoever publishes next takes it back.
            self.publishing
                .retain(|p| published || p.session != finished.session);
            return;
        }
        // Whoever publishes takes back first what others had announced. What a lost one had announced
        // may have been published since.
        self.publishing
            .retain(|p| !published && (finished.end.lost || p.session != finished.session));
        self.lost = match finished.end.lost {
            true => self.lost.saturating_add(1),
            false => 0,
        };
        self.not_before_ns = finished.not_before_ns;
        self.waits = match (&finished.next, &finished.end.outcome) {
            (Some(Word::Known(Next::Pending)), Some(Word::Known(Outcome::Limited))) => {
                self.waits.saturating_add(1)
            }
            _ => 0,
        };
        match finished.next.as_ref().and_then(Word::known) {
            Some(Next::Retry) if planted("retry-not-counted") => {}
            Some(Next::Retry) => self.failures = self.failures.saturating_add(1),
            // A gate, a conflict or a person may send it back: its failures then count on.
            Some(Next::Review | Next::Merge) => {}
            Some(Next::Done | Next::Parked) => self.failures = 0,
            Some(Next::Pending | Next::Left) | None => {}
        }
        self.reason = finished.end.reason.clone().or(self.reason.take());
        self.branch = finished.published.clone().or(self.branch.take());
        self.outcome = finished.end.outcome.clone().or(self.outcome.take());
        let Some(last) = self.last_of(&finished.session) else {
            return;
        };
        last.end = Some(AttemptEnd {
            next: finished.next.clone(),
            outcome: finished.end.outcome.clone(),
            not_before_ns: finished.not_before_ns,
            lost: finished.end.lost,
        });
        last.published = match (&finished.published, &finished.end.head) {
            (Some(name), Some(head)) => Some(PublishedBranch {
                name: name.clone(),
                head: head.clone(),
            }),
            _ => None,
        };
    }
}

impl History {
    /// Whether this is the end of an attempt whose host was taken for lost, and which only finds that its
    /// item was taken from it. (Where it was faster it has moved its item, and its end is the right one.)
    fn comes_late(&self, finished: &Finished) -> bool {
        let Some(last) = &self.last else {
            return false;
        };
        if last.session != finished.session {
            // A later one, whose other lines are lost, is the last.
            return finished
                .attempt
                .is_none_or(|attempt| attempt <= last.attempt);
        }
        let end = last.end.as_ref();
        let is_left = finished.next.as_ref().and_then(Word::known) == Some(Next::Left);
        // Whoever takes it for lost may come late as well.
        end.is_some_and(|end| is_left && end.lost || finished.end.lost)
    }

    /// Why its branch could not be merged when that was last tried.
    pub fn why_unmerged(&self) -> Option<String> {
        let returned = self.last.as_ref()?.returned.as_ref()?;
        let waits = returned.next.as_ref().and_then(Word::known) == Some(Next::Merge);
        waits.then(|| returned.reason.clone())
    }
}

impl LastAttempt {
    /// Whether it has ended and its branch is, or was, to be merged: no attempt is under way.
    pub fn is_for_merging(&self) -> bool {
        let is_for_it = self.merged.is_some() || self.returned.is_some() || self.waits_to_merge();
        self.end.is_some() && is_for_it
    }

    pub(crate) fn waits_to_merge(&self) -> bool {
        let next = self.end.as_ref().and_then(|end| end.next.as_ref());
        next.and_then(Word::known) == Some(Next::Merge)
    }

    fn is_done(&self) -> bool {
        let next = self.end.as_ref().and_then(|end| end.next.as_ref());
        next.and_then(Word::known) == Some(Next::Done)
    }
}
