//! `harness top`: only on a terminal.

use std::io::{self, IsTerminal};

use crate::error::{Error, Result};
use crate::layout::Root;
use crate::quote::harness;
use crate::top;

pub(super) fn top(root: &Root) -> Result<u8> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let harness = harness();
        return Err(
            Error::usage("cannot show the live view", "this is not a terminal").hint(format!(
                "`{harness} status --watch` prints the same wherever it goes, `{harness} status --json` for programs"
            )),
        );
    }
    top::top(root)
}
