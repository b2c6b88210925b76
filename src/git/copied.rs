//! Copies into the user's repository what a merge made: the few objects that neither the base nor the
//! merged branches have there. A fetch would look through both repositories, several times.
//!
//! Knows nothing of items. Invariant: until a ref holds them, a `.keep` file beside their pack keeps
//! every `git gc` of the user's from taking them, and it goes again. What was taken to be there is
//! looked at before the branch moves (`land`); where it is not, `bring` copies all.

use std::fs;
use std::io::Seek;
use std::path::Path;

use super::branches::{fed, nameless};
use super::hub::read_text;
use super::publish::Users;
use crate::atomic;
use crate::error::{Context, Result};
use crate::mutant::planted;

impl Users<'_> {
    /// As `bring`, upon commits that branches of the user's hold: these are not looked at.
    pub(crate) fn bring_upon(&self, known: &[&str], oid: &str, short_id: &str) -> Result<String> {
        let held = self.holding(short_id);
        let copied = self.copy(known, oid, &held);
        self.drop_keeps(|of| of == held);
        match copied? {
            true => self.hub().give_lfs_to_user(oid).map(|()| held),
            false => self.bring(oid, short_id),
        }
    }

    /// `false`: one of the gits failed. A fetch then does it, or says why not.
    fn copy(&self, known: &[&str], oid: &str, held: &str) -> Result<bool> {
        let what = "cannot copy the merged commits into your repository";
        let mut pack = nameless(b"")?;
        let written = pack.try_clone().or_fail(what, Path::new("memfd"))?;
        let known = known.iter().map(|oid| format!("^{oid}\n"));
        let wanted: String = known.chain([format!("{oid}\n")]).collect();
        let git = self.hub().git().set("pack.useSparse", "true");
        let git = git.args(["pack-objects", "--quiet", "--revs", "--stdout"]);
        let git = git.arg("--delta-base-offset").into_file(written);
        if !fed(&git, wanted.as_bytes())?.ok() {
            return Ok(false);
        }
        pack.rewind().or_fail(what, Path::new("memfd"))?;
        // It reads the pack where others hold the lease: all that it does is to add that pack.
        let git = self.git().args(["index-pack", "--stdin"]).reading(pack);
        let git = match planted("copied-unkept") {
            true => git,
            false => git.arg(format!("--keep={held}")),
        };
        if !git.output()?.ok() {
            return Ok(false);
        }
        let git = self.git().args(["update-ref", held, oid]);
        Ok(git.brief()?.ok())
    }

    /// Lets go of the packs that are kept for these names of holding refs. A process may have died between
    /// the pack and its ref.
    pub(super) fn drop_keeps(&self, is_over: impl Fn(&str) -> bool) {
        let packs = fs::read_dir(self.hub().user().join("objects/pack"));
        for entry in packs.into_iter().flatten().flatten() {
            let file = entry.path();
            let is_keep = file.extension().is_some_and(|end| end == "keep");
            if is_keep && read_text(&file).is_some_and(|text| is_over(text.trim_end())) {
                // With one that stays, a small pack is put together with no other.
                let _stays = atomic::remove(&file);
            }
        }
    }
}
