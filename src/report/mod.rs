//! `harness report`: what agents did, as one page that needs nothing but a browser.
//!
//! `attempts` reads a record, `data` gathers all of them, `figures` sums them up, `failures` finds what a
//! person must look at, with evidence; `encode` packs the data for the page's script, and `html` writes
//! the page. Changes nothing. Invariants: memory and the page have a bound, whatever the tree holds; no
//! text from outside is markup or a script, and the page's content-security policy lets nothing but its
//! own script and style act.

mod attempts;
mod data;
mod encode;
mod failures;
mod figures;
mod html;

use crate::error::Result;
use crate::layout::Root;

/// The whole page.
pub(crate) fn page(root: &Root) -> Result<String> {
    let data = data::gather(root)?;
    let failures = failures::find(root, &data);
    Ok(html::page(root, &data, &failures))
}
