//! Lists `pending/`. A million files take seconds of processor time: the index thread lists them in
//! pieces, serves its timers in between, and pauses while the workers have enough to do, so that an
//! item costs no more when many wait.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{File, ReadDir};
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::Ready;
use super::peek::peek_regular;
use super::sets::IndexSet;
use crate::atomic;
use crate::clock;
use crate::error::{Context, Result};
use crate::layout::{Name, Place, join};
use crate::spool;

pub(super) struct Listing {
    number: u64,
    entries: ReadDir,
    /// The folder itself: files are opened by name from it, without walking the path again.
    dir: File,
    began: Instant,
    /// How long it took so far, without its pauses.
    took: Duration,
    /// When its next piece is due.
    next: Instant,
    /// How many items had been handed to workers when the last piece began.
    given: u64,
}

/// The length of a listing's first piece: some ten thousand files.
pub(super) const FIRST_PIECE: Duration = Duration::from_millis(100);
/// The length of each other piece at most.
const PIECE: Duration = Duration::from_millis(2);
/// The pause after a piece, as a multiple of its length: a tenth of a core goes into listing.
const PAUSE: u32 = 9;
/// After this long, workers start before the first listing is complete, in the order of what is
/// listed so far. A thousand items take a hundredth of it.
const OPEN_AFTER: Duration = Duration::from_millis(800);

impl Ready {
    /// Lists all of `pending/`: takes in what is new or changed, and forgets what is gone.
    pub fn rescan(&self) -> Result<()> {
        // Replaces a listing under way, which may have missed files that came after it began.
        let mut under_way = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        let listed = self.begin().and_then(|mut listing| {
            // At once: each piece looks at what is claimed anew.
            self.piece(&mut listing, Duration::MAX).map(drop)
        });
        *under_way = None;
        if listed.is_err() {
            self.lock().rescan = true;
        }
        listed
    }

    /// Lists the next piece if one is due. Returns how long until the one after it; `None`: no listing
    /// is under way.
    pub(super) fn list_a_piece(&self) -> Result<Option<Duration>> {
        let mut under_way = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::instant();
        let mut listing = match under_way.take() {
            Some(listing) if now < listing.next && self.keeps_workers_busy() => {
                let rest = listing.next - now;
                *under_way = Some(listing);
                return Ok(Some(rest));
            }
            Some(listing) => listing,
            None => {
                let due = self.lock().listing_due(now, clock::now_ns());
                if due.is_none_or(|at| at > now) {
                    return Ok(None);
                }
                self.begin()?
            }
        };
        let given = self.lock().next_ticket;
        let took = listing.took;
        let most = match took.is_zero() {
            true => self.first_piece,
            false => self.first_piece.min(PIECE),
        };
        if !self.piece(&mut listing, most)? {
            return Ok(None);
        }
        let sets = self.lock();
        // No item was handed out since: agents run for minutes and leave the processor free.
        let hurries = sets.rescan || sets.next_ticket == listing.given;
        drop(sets);
        let rest = match hurries || !self.keeps_workers_busy() {
            true => Duration::ZERO,
            false => (listing.took - took) * PAUSE,
        };
        listing.given = given;
        listing.next = clock::instant() + rest;
        *under_way = Some(listing);
        Ok(Some(rest))
    }

    fn begin(&self) -> Result<Listing> {
        let dir = self.root.place(Place::Pending);
        let (number, given) = {
            let mut sets = self.lock();
            sets.rescan = false;
            (sets.overflow.begin(), sets.next_ticket)
        };
        let began = clock::instant();
        Ok(Listing {
            number,
            entries: std::fs::read_dir(&dir).or_fail("cannot list", &dir)?,
            dir: atomic::open_dir(&dir).or_fail("cannot list", &dir)?,
            began,
            took: Duration::ZERO,
            next: began,
            given,
        })
    }

    /// Lists for so long. `false`: that was the last piece.
    fn piece(&self, listing: &mut Listing, most: Duration) -> Result<bool> {
        let began = clock::instant();
        // Few names are claimed and many are listed: one listing of `claims/` saves a look for each.
        let claims = self.claimed_names();
        let is_claimed = |name: &Name| match &claims {
            Some(names) => names.contains(name.as_os_str()),
            None => atomic::exists(&self.root.claim(name)),
        };
        let at_once = most == Duration::MAX || listing.number == 1;
        let mut ended = true;
        let path = self.root.place(Place::Pending);
        for entry in &mut listing.entries {
            let entry = entry.or_fail("cannot list", &path)?;
            let file = entry.file_name();
            if atomic::is_on_its_way(&file) {
                self.end_move(&path, &file, at_once);
            } else if !Name::is_ignored(&file) {
                let name = Name::new(&file);
                let regular = entry.file_type().is_ok_and(|kind| kind.is_file());
                if !self.is_with_a_worker(&name, listing.number) {
                    let dir = regular.then_some(&listing.dir);
                    self.list_one(&name, dir, &is_claimed);
                }
            }
            if began.elapsed() > most {
                ended = false;
                break;
            }
        }
        listing.took += clock::instant().saturating_duration_since(began);
        if ended {
            self.forget_unseen(listing.number);
            self.lock().overflow.end(listing.took);
        }
        // A large folder: start with what is known instead of waiting for all of it.
        if ended || listing.began.elapsed() > OPEN_AFTER {
            self.open();
        }
        Ok(!ended)
    }

    /// A file that was on its way when its mover died is an item again. One that is not left alone for long
    /// has a mover that lives, who need not lose it.
    fn end_move(&self, path: &Path, file: &OsStr, at_once: bool) {
        let meta = join(path, file).symlink_metadata();
        if meta.is_ok_and(|meta| at_once || spool::settled(&meta))
            && let Ok(Some(back)) = atomic::end_move(path, file, Some(&self.root.claims()))
        {
            self.note(&back);
        }
    }

    /// `note` with fewer system calls. `dir`: the folder, if the name is a regular file's.
    fn list_one(&self, name: &Name, dir: Option<&File>, is_claimed: &dyn Fn(&Name) -> bool) {
        match dir.map(|dir| peek_regular(name, dir)) {
            Some(Ok((meta, fields))) => self.sort_in(name, fields, &meta, is_claimed(name)),
            // It is gone, may not be read, or is no regular file.
            Some(Err(_)) | None => self.note(name.as_os_str()),
        }
    }

    /// Marks the name as seen by this listing. Whether a worker has it.
    fn is_with_a_worker(&self, name: &Name, listing: u64) -> bool {
        let mut sets = self.lock();
        sets.known.get_mut(name).is_some_and(|known| {
            known.seen = listing;
            matches!(known.place, IndexSet::Worker(_))
        })
    }

    fn claimed_names(&self) -> Option<HashSet<OsString>> {
        let entries = std::fs::read_dir(self.root.claims()).ok()?;
        entries.map(|e| Some(e.ok()?.file_name())).collect()
    }

    fn forget_unseen(&self, listing: u64) {
        let unseen: Vec<Name> = {
            let sets = self.lock();
            let unseen = sets.known.iter().filter(|(_, k)| k.seen != listing);
            unseen.map(|(name, _)| name.clone()).collect()
        };
        for name in &unseen {
            if !atomic::exists(&self.root.item(Place::Pending, name)) {
                self.gone(name);
            }
        }
    }
}
