//! A fault that an agent's CLI reported, and the words of the reason that it gives an attempt's end.

use std::time::Duration;

use super::Next;
use crate::event::Class;

#[derive(Debug, Clone)]
pub struct FoundFault {
    pub class: Class,
    /// What went wrong, in the CLI's words.
    pub message: String,
    /// What a person can do, where another try follows and where none does.
    pub again: String,
    pub parked: String,
    /// How long its usage or rate limit lasts.
    pub limit: LimitLeft,
}

impl FoundFault {
    /// The fault and what follows from it. Written once that is decided: nothing is promised that
    /// does not come.
    pub(super) fn reason(&self, next: Next) -> String {
        let advice = match next {
            Next::Retry | Next::Pending => &self.again,
            Next::Review | Next::Merge | Next::Done | Next::Parked | Next::Left => &self.parked,
        };
        let unclear = match self.limit {
            LimitLeft::Unclear => "; when the limit ends was not understood",
            LimitLeft::Over => "; the end that was named has passed",
            LimitLeft::Unsaid | LimitLeft::Ends(_) => "",
        };
        match advice.is_empty() {
            true => format!("{}{unclear}", self.message),
            false => format!("{}{unclear}: {advice}", self.message),
        }
    }
}

/// What is left of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitLeft {
    /// Its end was not said.
    Unsaid,
    /// Its end was said, and not understood or not believed.
    Unclear,
    /// It had ended when this was found.
    Over,
    Ends(Duration),
}
