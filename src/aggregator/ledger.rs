//! The ledger: one line per ended attempt, one file per day (UTC), written by all processes; and
//! the totals computed from it.
//!
//! Knows nothing of agents or of the queue. Invariants: one write appends one line; a line is
//! counted once, and only when its newline is there; an unreadable line is skipped. Lost lines are
//! made again from the session records (`rebuild`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::atomic;
use crate::clock::{self, Timestamp};
use crate::error::{Context, Error, Result};
use crate::layout::Root;
use crate::status::{LedgerLine, Metrics};
use crate::text;

/// A longer line is not ours (ours have a few hundred bytes): skipped, so that a damaged file
/// cannot exhaust memory.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// The period of `throughput_per_hour`.
pub(super) const HOUR_SECONDS: i64 = 3_600;
/// Most UTC days in a period: a long local day of 25 hours and the hour before it.
const DAYS_MAX: usize = 4;

/// Appends to the ledger; one per process, shared behind a mutex. Keeps the day's file open.
#[derive(Debug)]
pub struct Ledger {
    dir: PathBuf,
    open: Option<(Date, File)>,
    /// The last line is incomplete: the next one begins with a newline.
    torn: bool,
}

impl Ledger {
    pub fn new(root: &Root) -> Ledger {
        Ledger {
            dir: root.ledger(),
            open: None,
            torn: false,
        }
    }

    /// Appends one line to the file of its day (the UTC day of `at`; today if `at` is no time). Not
    /// synced: lines lost in a power cut are made again from the session records.
    pub fn append(&mut self, line: &LedgerLine) -> Result<()> {
        let what = "cannot write the ledger line";
        let at = line.at.parse::<Timestamp>().ok();
        let day = utc_day(at.unwrap_or_else(clock::now));
        let encoded = if at.is_some() {
            text::json(line)
        } else {
            let at = clock::now_iso();
            text::json(&LedgerLine { at, ..line.clone() })
        };
        let mut bytes = encoded.map_err(|e| Error::permanent(what, e.to_string()))?;
        bytes.push(b'\n');
        let (mut file, torn) = self.file_of(day)?;
        if torn {
            bytes.insert(0, b'\n');
        }
        match file.write(&bytes) {
            Ok(n) if n == bytes.len() => self.torn = false,
            Ok(n) => {
                self.torn = n > 0;
                let path = day_file(&self.dir, day);
                return Err(Error::temporary(what, "it was cut short").at_path(&path));
            }
            Err(e) => return Err(Error::io(what, &day_file(&self.dir, day), &e)),
        }
        Ok(())
    }

    /// The day's file, and whether its last line is incomplete.
    fn file_of(&mut self, day: Date) -> Result<(&File, bool)> {
        let usable = self.open.as_ref().is_some_and(|(open, file)| {
            // If the file was removed, lines appended to it would be lost.
            *open == day && file.metadata().is_ok_and(|m| m.nlink() > 0)
        });
        if !usable {
            self.open = None;
        }
        match &mut self.open {
            Some((_, file)) => Ok((file, self.torn)),
            none => {
                let path = day_file(&self.dir, day);
                let opened = open_day(&self.dir, &path)?;
                // A line that a power cut left must spoil no other.
                let tail = atomic::read_tail(&path, 1).unwrap_or_default().0;
                self.torn = tail.last().is_some_and(|&byte| byte != b'\n');
                Ok((&none.insert((day, opened)).1, self.torn))
            }
        }
    }
}

pub(super) fn open_day(dir: &Path, path: &Path) -> Result<File> {
    match atomic::open_append(path) {
        Err(e) if e.errno() == Some(nix::errno::Errno::ENOENT as i32) => {
            atomic::make_dir(dir, true)?;
            atomic::open_append(path)
        }
        opened => opened,
    }
}

pub(super) fn utc_day(t: Timestamp) -> Date {
    t.to_zoned(TimeZone::UTC).date()
}

pub(super) fn day_file(dir: &Path, day: Date) -> PathBuf {
    dir.join(format!("{day}.jsonl"))
}

/// The period of the totals: the local day and the last hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Period {
    pub(super) midnight: Timestamp,
    pub(super) now: Timestamp,
}

impl Period {
    pub(super) fn current() -> Period {
        Period {
            midnight: clock::midnight(),
            now: clock::now(),
        }
    }

    pub(super) fn start(&self) -> Timestamp {
        let hour_ago = Timestamp::from_second(self.now.as_second() - HOUR_SECONDS);
        self.midnight.min(hour_ago.unwrap_or(self.midnight))
    }

    /// The UTC days it touches.
    pub(super) fn days(&self) -> Vec<Date> {
        let last = utc_day(self.now);
        let mut days = vec![utc_day(self.start())];
        while let Some(&day) = days.last() {
            match day.tomorrow() {
                Ok(next) if next <= last && days.len() < DAYS_MAX => days.push(next),
                _ => break,
            }
        }
        days
    }
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tail {
    inode: u64,
    /// Bytes already folded; always at the start of a line.
    pub(super) offset: u64,
}

/// Running totals of the period, updated from the ends of its files.
#[derive(Debug, Default)]
pub(super) struct Totals {
    tails: BTreeMap<Date, Tail>,
    midnight: Option<Timestamp>,
    attempts: u64,
    seconds: f64,
    completed: u64,
    failed: u64,
    input_tokens: u64,
    output_tokens: u64,
    cost_usd: f64,
    /// Ended items by minute since 1970; at most the last hour.
    minutes: BTreeMap<i64, u64>,
}

impl Totals {
    /// Folds what was appended since the last call. After a new day, or if a file shrank or was
    /// replaced, everything is read again.
    pub(super) fn update(&mut self, dir: &Path, period: Period) {
        if self.midnight != Some(period.midnight) {
            self.restart(period);
        }
        if !self.read(dir, period) {
            self.restart(period);
            self.read(dir, period);
        }
        self.forget_old(period.now);
    }

    fn restart(&mut self, period: Period) {
        *self = Totals {
            midnight: Some(period.midnight),
            ..Totals::default()
        };
    }

    /// `false`: a file was replaced or shrank.
    fn read(&mut self, dir: &Path, period: Period) -> bool {
        let days = period.days();
        self.tails.retain(|day, _| days.contains(day));
        for day in days {
            let mut tail = self.tails.get(&day).copied().unwrap_or_default();
            let path = day_file(dir, day);
            // A file that cannot be read now is read later, from the same offset.
            let same = tail.read(&path, |line| self.fold(&line, period));
            if !same.unwrap_or(true) {
                return false;
            }
            self.tails.insert(day, tail);
        }
        true
    }

    pub(super) fn fold(&mut self, line: &LedgerLine, period: Period) {
        let Ok(at) = line.at.parse::<Timestamp>() else {
            return;
        };
        if line.last && at.as_second() > period.now.as_second() - HOUR_SECONDS {
            // If the clock was set back, a later end must not count as "the last hour" for days.
            let minute = at.min(period.now).as_second().div_euclid(60);
            *self.minutes.entry(minute).or_default() += 1;
        }
        if at < period.midnight {
            return;
        }
        self.attempts += 1;
        add(&mut self.seconds, line.seconds);
        add(&mut self.cost_usd, line.cost_usd);
        self.input_tokens = self.input_tokens.saturating_add(line.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(line.output_tokens);
        if line.last {
            match line.outcome.as_str() {
                "succeeded" | "no_change" => self.completed += 1,
                _ => self.failed += 1,
            }
        }
    }

    fn forget_old(&mut self, now: Timestamp) {
        let oldest = (now.as_second() - HOUR_SECONDS).div_euclid(60) + 1;
        self.minutes = self.minutes.split_off(&oldest);
    }

    pub(super) fn put_into(&self, metrics: &mut Metrics) {
        let ended = self.completed + self.failed;
        metrics.completed_today = self.completed;
        metrics.failed_today = self.failed;
        metrics.throughput_per_hour = self.minutes.values().sum::<u64>() as f64;
        metrics.average_seconds = ratio(self.seconds, self.attempts);
        metrics.success_rate = ratio(self.completed as f64, ended);
        metrics.input_tokens = self.input_tokens;
        metrics.output_tokens = self.output_tokens;
        metrics.cost_usd = self.cost_usd;
    }
}

/// Skips negative figures, and those that would make the sum infinite (JSON has no infinity).
pub(super) fn add(sum: &mut f64, x: f64) {
    if x >= 0.0 && (*sum + x).is_finite() {
        *sum += x;
    }
}

fn ratio(sum: f64, n: u64) -> f64 {
    if n == 0 { 0.0 } else { sum / n as f64 }
}

impl Tail {
    /// Passes every complete line after the offset to `take`. `Ok(false)`: the file was replaced.
    pub(super) fn read(
        &mut self,
        path: &Path,
        mut take: impl FnMut(LedgerLine),
    ) -> io::Result<bool> {
        let meta = match path.symlink_metadata() {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(self.offset == 0),
            Err(e) => return Err(e),
        };
        if self.offset > 0 && (meta.ino() != self.inode || meta.len() < self.offset) {
            return Ok(false);
        }
        self.inode = meta.ino();
        if meta.len() == self.offset {
            return Ok(true);
        }
        let mut file = atomic::open_regular(path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut reader = BufReader::with_capacity(64 << 10, file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let n = io::Read::take(&mut reader, LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
            let n = n as u64;
            if line.last() != Some(&b'\n') && n < LINE_BYTES_MAX {
                return Ok(true);
            }
            self.offset += n;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            if let Ok(line) = serde_json::from_slice(&line) {
                take(line);
            }
        }
    }
}

/// The end of a day's file in which attempts are looked for: some hundred.
const TAIL_BYTES: u64 = 256 << 10;

/// The newest lines of today and yesterday, as far as `TAIL_BYTES` reach, the newest first.
pub(crate) fn newest(root: &Root) -> Vec<LedgerLine> {
    let today = utc_day(clock::now());
    let days = [Some(today), today.yesterday().ok()];
    let mut lines = Vec::new();
    for day in days.into_iter().flatten() {
        let path = day_file(&root.ledger(), day);
        let (bytes, _) = atomic::read_tail(&path, TAIL_BYTES).unwrap_or_default();
        let of_day = bytes.rsplit(|&b| b == b'\n');
        // The first is perhaps the end of one.
        lines.extend(of_day.filter_map(|line| serde_json::from_slice::<LedgerLine>(line).ok()));
    }
    lines
}

/// Every readable line of one day; none if the file is missing.
pub(super) fn lines_of(path: &Path, take: impl FnMut(LedgerLine)) -> Result<()> {
    Tail::default()
        .read(path, take)
        .map(drop)
        .or_fail("cannot read the ledger", path)
}

/// Every readable line of the days since then, day by day; `None`: of all.
pub(crate) fn each_line(
    root: &Root,
    since: Option<Timestamp>,
    mut take: impl FnMut(LedgerLine),
) -> Result<()> {
    let dir = root.ledger();
    let first = since.map(|since| day_file(&dir, utc_day(since)));
    let mut days = day_files(&dir)?;
    days.retain(|path| first.as_ref().is_none_or(|first| path >= first));
    days.iter().try_for_each(|day| lines_of(day, &mut take))
}

/// The files of all days, the oldest first.
pub(super) fn day_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries.flatten(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("cannot read the ledger", dir, &e)),
    };
    let is_day = |path: &PathBuf| path.extension().is_some_and(|e| e == "jsonl");
    let mut days: Vec<PathBuf> = entries.map(|e| e.path()).filter(is_day).collect();
    days.sort();
    Ok(days)
}
