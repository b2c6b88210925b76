//! Every path under ROOT, defined in one place. Knows nothing of file contents.
//!
//! Invariant: a name that stands in a file, which an agent may have written, is one component of a path.

mod ignored;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::limits::NAME_BYTES_MAX;
use crate::mutant::planted;
use crate::text::is_obeyed;

/// A ROOT: absolute path of the directory that holds `harness.toml queue state worktrees`.
#[derive(Debug, Clone)]
pub struct Root {
    path: Arc<Path>,
    /// Its device and inode: tells it from another folder at its path.
    id: Option<(u64, u64)>,
    worktrees: Arc<Path>,
    local: Option<Local>,
}

/// A folder on this host's own disk, and what lies there instead of in ROOT.
#[derive(Debug, Clone)]
struct Local {
    dir: Arc<Path>,
    worktrees: Arc<Path>,
    repos: Arc<Path>,
}

/// The states of an item that have a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Pending,
    /// Its branch is finished, and a person has not approved it yet.
    Review,
    /// Its branch is to be merged.
    Merge,
    Done,
    Parked,
}

impl Place {
    /// Where items rest that nobody has claimed.
    pub const ALL: [Place; 5] = [
        Place::Pending,
        Place::Review,
        Place::Merge,
        Place::Done,
        Place::Parked,
    ];

    /// Below ROOT.
    fn path(self) -> &'static str {
        match self {
            Place::Pending => "queue/pending",
            Place::Review => "queue/review",
            Place::Merge => "queue/merge",
            Place::Done => "queue/done",
            Place::Parked => "queue/parked",
        }
    }

    pub fn dir(self) -> &'static str {
        &self.path()["queue/".len()..]
    }
}

/// The number of a slot: `agent-N`, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub usize);

impl SlotId {
    /// Reads `agent-N`; `None` for anything else.
    pub fn parse(text: &OsStr) -> Option<SlotId> {
        let n = text.to_str()?.strip_prefix("agent-")?;
        let id: usize = n.parse().ok()?;
        (id >= 1 && n == id.to_string()).then_some(SlotId(id))
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "agent-{}", self.0)
    }
}

/// `dir/name`, where `name` is relative. An item needs some fifty paths: this takes one allocation
/// each, and a quarter of the time of `Path::join`.
pub fn join(dir: &Path, name: impl AsRef<OsStr>) -> PathBuf {
    concat(&[dir.as_os_str(), name.as_ref()])
}

fn concat(parts: &[&OsStr]) -> PathBuf {
    let mut path = Vec::with_capacity(parts.iter().map(|part| part.len() + 1).sum());
    for part in parts {
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part.as_bytes());
    }
    OsString::from_vec(path).into()
}

/// harness's own repositories, below ROOT.
const REPOS: &str = "state/repos";

/// In a session's folder: its gates' output, and the keeper's record of the newest end.
pub(crate) const GATE_LOGS: &str = "gates";

/// The name of a gate's log in its session's `gates/`. `None`: the record says another place.
pub(crate) fn gate_log_name(log: &str) -> Option<&str> {
    let name = log.strip_prefix(GATE_LOGS)?.strip_prefix('/')?;
    is_component(name.as_bytes()).then_some(name)
}

fn is_component(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') || planted("name-leads-out")
}

/// A name as one component of a path: one that would lead elsewhere becomes one that nothing has.
fn component(name: &OsStr) -> Cow<'_, OsStr> {
    match is_component(name.as_bytes()) {
        true => Cow::Borrowed(name),
        false => Cow::Owned(format!(".%{}", escape_component(name.as_bytes())).into()),
    }
}

impl Root {
    pub fn new(path: impl Into<PathBuf>) -> Root {
        let path: Arc<Path> = path.into().into();
        let id = path.metadata().ok().map(|m| (m.dev(), m.ino()));
        Root {
            worktrees: join(&path, "worktrees").into(),
            local: None,
            path,
            id,
        }
    }

    /// The same ROOT, with its worktrees in this folder.
    pub fn with_worktrees(self, dir: &Path) -> Root {
        Root {
            worktrees: dir.into(),
            ..self
        }
    }

    /// The same ROOT, with its worktrees, and the repositories that they are of, in this folder.
    pub(crate) fn with_local(self, dir: &Path) -> Root {
        let local = Some(Local {
            dir: dir.into(),
            worktrees: join(dir, "worktrees").into(),
            repos: join(dir, "repos").into(),
        });
        Root { local, ..self }
    }

    /// The same ROOT without a folder on this host's own disk.
    pub(crate) fn without_local(self) -> Root {
        let local = None;
        Root { local, ..self }
    }

    /// The folder on this host's own disk that has worktrees and repositories, if one does.
    pub(crate) fn local(&self) -> Option<&Path> {
        self.local.as_ref().map(|local| &*local.dir)
    }

    /// Whether it is still at its path: not moved, removed or replaced. What cannot be looked at
    /// proves nothing.
    pub fn stands(&self) -> bool {
        match self.path.metadata() {
            Ok(meta) => self.id == Some((meta.dev(), meta.ino())),
            Err(e) => !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn at(&self, below: &str) -> PathBuf {
        join(&self.path, below)
    }
    fn named(&self, dir: &str, name: impl AsRef<OsStr>) -> PathBuf {
        let name = component(name.as_ref());
        concat(&[self.path.as_os_str(), dir.as_ref(), &name])
    }

    pub fn config(&self) -> PathBuf {
        self.at("harness.toml")
    }
    pub fn queue(&self) -> PathBuf {
        self.at("queue")
    }
    pub fn place(&self, place: Place) -> PathBuf {
        self.at(place.path())
    }
    pub fn item(&self, place: Place, name: &Name) -> PathBuf {
        self.named(place.path(), name.as_os_str())
    }
    pub fn claimed_root(&self) -> PathBuf {
        self.at("queue/claimed")
    }
    pub fn claimed(&self, slot: SlotId) -> PathBuf {
        self.named("queue/claimed", slot.to_string())
    }

    /// Where a claimed file lies while its end is being recorded.
    pub fn ending(&self, slot: SlotId, name: &Name) -> PathBuf {
        let mut file = name.as_os_str().to_owned();
        file.push(ENDING);
        join(&self.claimed(slot), file)
    }

    pub fn state(&self) -> PathBuf {
        self.at("state")
    }
    pub fn status(&self) -> PathBuf {
        self.at("state/status.json")
    }
    /// The same for Prometheus.
    pub fn metrics(&self) -> PathBuf {
        self.at("state/metrics.prom")
    }
    pub fn claims(&self) -> PathBuf {
        self.at("state/claims")
    }
    pub fn claim(&self, name: &Name) -> PathBuf {
        self.named("state/claims", name.as_os_str())
    }
    pub fn exclusive_root(&self) -> PathBuf {
        self.at("state/exclusive")
    }
    /// The lock of an `exclusive` key: a hard link to the holder's marker, like a claim.
    pub fn exclusive(&self, key: &str) -> PathBuf {
        self.named("state/exclusive", escape_component(key.as_bytes()))
    }
    /// The key under which a lost host's slot is moved back: no user's key has that name.
    pub(crate) fn exclusive_of_lost(&self, slot: SlotId) -> PathBuf {
        self.named("state/exclusive", format!("%lost-{slot}"))
    }
    pub fn items(&self) -> PathBuf {
        self.at("state/items")
    }
    pub fn record(&self, name: &Name) -> PathBuf {
        let mut file = name.record_stem();
        file.push(".jsonl");
        self.named("state/items", file)
    }
    pub fn agents(&self) -> PathBuf {
        self.at("state/agents")
    }
    pub fn agent(&self, slot: SlotId) -> PathBuf {
        self.named("state/agents", slot.to_string())
    }
    /// For which base a slot's worktree was set up last.
    pub fn set_up_mark(&self, slot: SlotId, worktree: &Path) -> PathBuf {
        let name = worktree.file_name().unwrap_or_default();
        let file = [b"set-up.", name.as_bytes()].concat();
        join(&self.agent(slot), OsStr::from_bytes(&file))
    }
    pub fn sessions(&self) -> PathBuf {
        self.at("state/sessions")
    }
    pub fn session(&self, sid: &str) -> PathBuf {
        self.named("state/sessions", sid)
    }
    /// Where a gate's output is, by what its record says: `gates/NAME`. `None`: it says another place.
    pub(crate) fn gate_log(&self, sid: &str, log: &str) -> Option<PathBuf> {
        let name = gate_log_name(log)?;
        Some(join(&join(&self.session(sid), GATE_LOGS), name))
    }
    pub fn interrupts(&self) -> PathBuf {
        self.at("state/interrupts")
    }
    /// The interrupt file of this full name.
    pub fn interrupt(&self, file: &str) -> PathBuf {
        self.named("state/interrupts", file)
    }
    pub fn holds(&self) -> PathBuf {
        self.at("state/holds")
    }
    /// The file of this full name there.
    pub(crate) fn hold(&self, file: &str) -> PathBuf {
        self.named("state/holds", file)
    }
    /// The tokens of this name.
    pub(crate) fn tokens(&self, name: &str) -> PathBuf {
        self.named("state/tokens", name)
    }
    /// Where harness's own repositories are, of which the worktrees are: on this host's own disk, where
    /// those are.
    pub fn repos(&self) -> PathBuf {
        match &self.local {
            Some(local) => local.repos.to_path_buf(),
            None => self.kept_repos(),
        }
    }
    /// Where what is kept for later is, whichever host made it.
    pub(crate) fn kept_repos(&self) -> PathBuf {
        self.at(REPOS)
    }
    /// In which folder on a host's own disk a slot works.
    pub(crate) fn local_mark(&self, slot: SlotId) -> PathBuf {
        join(&self.agent(slot), "local")
    }
    /// Objects of merges that `harness branches` only tries; it stays for no longer than that.
    pub(crate) fn tried_merges(&self, repo: &str) -> PathBuf {
        join(&self.at("state/tried"), format!("{repo}.objects"))
    }
    /// What people write in an editor, for as long as they do.
    pub(crate) fn drafts(&self) -> PathBuf {
        self.at("state/drafts")
    }
    /// Runs that were handed to an engine, and their logs.
    pub(crate) fn jobs(&self) -> PathBuf {
        self.at("state/jobs")
    }
    /// What gates say of bases.
    pub fn gates(&self) -> PathBuf {
        self.at("state/gates")
    }
    /// A program of the user's that is run at an event.
    pub fn hook(&self, event: &str) -> PathBuf {
        self.named("hooks", event)
    }
    pub fn control(&self) -> PathBuf {
        self.at("state/control")
    }
    /// One file for each living harness process, locked while it lives.
    pub fn harnesses(&self) -> PathBuf {
        self.at("state/harnesses")
    }
    /// One line for each ended attempt, a file for each day (UTC).
    pub fn ledger(&self) -> PathBuf {
        self.at("state/ledger")
    }
    pub fn aggregator_lock(&self) -> PathBuf {
        self.at("state/aggregator.lock")
    }
    /// Of what agents have used and reserved: a folder of its own, as only the holder of its lock writes
    /// there.
    pub fn budget_dir(&self) -> PathBuf {
        self.at("state/budget")
    }
    pub fn budget(&self) -> PathBuf {
        self.at("state/budget/budget.json")
    }
    pub fn budget_lock(&self) -> PathBuf {
        self.at("state/budget/lock")
    }
    /// Held by `harness add --if-absent` while it looks and links.
    pub fn add_lock(&self) -> PathBuf {
        self.at("state/add.lock")
    }
    pub fn worktrees(&self) -> PathBuf {
        self.place_of_worktrees().to_path_buf()
    }
    fn place_of_worktrees(&self) -> &Path {
        let local = self.local.as_ref();
        local.map_or(&self.worktrees, |local| &local.worktrees)
    }
    /// The worktree of a slot; its name ends in the repository's unless that is the default one.
    pub fn worktree(&self, slot: SlotId, repo: &str) -> PathBuf {
        if repo == crate::layout::DEFAULT_REPO {
            join(self.place_of_worktrees(), slot.to_string())
        } else {
            let name = format!("{slot}@{}", escape_component(repo.as_bytes()));
            join(self.place_of_worktrees(), name)
        }
    }

    /// Every directory of the tree, parents first. `true`: private to the user (mode 700).
    pub fn dirs(&self) -> Vec<(PathBuf, bool)> {
        let mut all: Vec<(PathBuf, bool)> = ["queue", "queue/claimed", "hooks", "prompts"]
            .into_iter()
            .chain(Place::ALL.map(Place::path))
            .map(|d| (self.path.join(d), false))
            .collect();
        let of_host = self.local().map(|dir| [dir.to_path_buf(), self.repos()]);
        all.extend(of_host.into_iter().flatten().map(|dir| (dir, true)));
        all.push((self.worktrees(), false));
        all.extend(
            [
                self.state(),
                self.claims(),
                self.exclusive_root(),
                self.items(),
                self.agents(),
                self.sessions(),
                self.interrupts(),
                self.holds(),
                self.kept_repos(),
                self.gates(),
                self.budget_dir(),
                self.control(),
                self.harnesses(),
                self.ledger(),
            ]
            .map(|d| (d, true)),
        );
        all
    }
}

/// What is appended to a claimed file's name while its end is being recorded. It ends in `~`: every
/// client leaves it alone, and a person sees it.
const ENDING: &str = ".~ending~";

/// The item whose end is being recorded, if that is what a file in `claimed/SLOT/` is.
fn of_ending(file: &OsStr) -> Option<Name> {
    let name = file.as_bytes().strip_suffix(ENDING.as_bytes())?;
    Some(Name::new(OsStr::from_bytes(name)))
}

/// The item that a file in `claimed/SLOT/` is, one whose end is being recorded included.
pub fn claimed_item(file: &OsStr) -> Option<Name> {
    of_ending(file).or_else(|| (!Name::is_ignored(file)).then(|| Name::new(file)))
}

/// The repository of a slot's worktree, beside it: `agent-1.git` of `agent-1`, `agent-1.git@lib` of
/// `agent-1@lib`.
pub fn slot_repository(worktree: &Path) -> PathBuf {
    let name = worktree.file_name().unwrap_or_default().as_bytes();
    let at = name.iter().position(|&b| b == b'@').unwrap_or(name.len());
    let name = [&name[..at], b".git", &name[at..]].concat();
    worktree.with_file_name(OsStr::from_bytes(&name))
}

/// Whether this is the name of a slot's worktree or repository, or of one that is being made or removed;
/// not of what was put aside.
pub(crate) fn is_of_slot(name: &OsStr, slot: SlotId) -> bool {
    let name = name.as_bytes();
    let rest = name.strip_prefix(b".").unwrap_or(name);
    let rest = rest.strip_prefix(slot.to_string().as_bytes());
    rest.is_some_and(|r| r.is_empty() || r.starts_with(b"@") || r.starts_with(b".git"))
        && !name.windows(2).any(|two| two == b".~")
}

/// Whether this is the name of a slot's repository, or of one that is being made or removed.
pub(crate) fn is_repository_of_slot(name: &OsStr, slot: SlotId) -> bool {
    let name = name.as_bytes();
    let rest = name.strip_prefix(b".").unwrap_or(name);
    let rest = rest.strip_prefix(format!("{slot}.git").as_bytes());
    rest.is_some_and(|r| r.is_empty() || r.starts_with(b"@") || r.starts_with(b"."))
        && !name.windows(2).any(|two| two == b".~")
}

/// The name of the repository configured by `[repo]` (or by ROOT's location).
pub const DEFAULT_REPO: &str = "default";

/// An item's name, which is its id: any file name, UTF-8 or not.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<OsStr>);

impl Name {
    pub fn new(name: impl AsRef<OsStr>) -> Name {
        Name(name.as_ref().into())
    }

    pub fn as_os_str(&self) -> &OsStr {
        &self.0
    }

    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Whether this is no item: a hidden file, or a temporary file of an editor or copy tool.
    pub fn is_ignored(name: &OsStr) -> bool {
        Name::why_ignored(name).is_some()
    }

    /// Why a file of this name is no item; `None`: it is one.
    pub fn why_ignored(name: &OsStr) -> Option<&'static str> {
        ignored::why(name.as_bytes())
    }

    /// For people and JSON: without control characters, so that a table stays aligned.
    pub fn shown(&self) -> String {
        shown(&self.0)
    }

    pub fn is_too_long(&self) -> bool {
        self.bytes().len() > NAME_BYTES_MAX
    }

    /// Base name of its record: the item's name itself if short enough.
    fn record_stem(&self) -> OsString {
        if !self.is_too_long() {
            return self.as_os_str().to_owned();
        }
        let mut stem = OsStr::from_bytes(&self.bytes()[..NAME_BYTES_MAX]).to_owned();
        stem.push(format!("~{:016x}", fnv1a(self.bytes())));
        stem
    }

    /// The name as one component of a git ref: `[A-Za-z0-9_.-]` stay, all else is `%XX`, dots are
    /// escaped where git forbids them. Distinct names give distinct components: a component too
    /// long for a file name ends in `%%` and a hash, which no escaped name contains.
    pub fn ref_component(&self) -> String {
        let full = escape_component(self.bytes());
        if full.len() <= NAME_BYTES_MAX {
            return full;
        }
        let mut cut = NAME_BYTES_MAX - 20;
        while !full.is_char_boundary(cut) {
            cut -= 1;
        }
        format!("{}%%{:016x}", &full[..cut], fnv1a(self.bytes()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// A file name as text without control characters; bytes that are not UTF-8 show as `\xNN`.
pub fn shown(name: &OsStr) -> String {
    let mut out = String::with_capacity(name.len());
    for chunk in name.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_obeyed(c) && !planted("name-shown-as-it-is") {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for b in chunk.invalid() {
            out.push_str(&format!("\\x{b:02x}"));
        }
    }
    out
}

/// A name as one component of a path, as `Name::ref_component` has it.
pub(crate) fn escaped(name: &str) -> String {
    escape_component(name.as_bytes())
}

fn escape_component(bytes: &[u8]) -> String {
    let lock = bytes.ends_with(b".lock");
    let mut out = String::with_capacity(bytes.len());
    for (i, &b) in bytes.iter().enumerate() {
        let plain = match b {
            b'.' => {
                let edge = i == 0 || i + 1 == bytes.len();
                let twin = i > 0 && bytes[i - 1] == b'.';
                let of_lock = lock && i + 5 == bytes.len();
                !(edge || twin || of_lock)
            }
            b'-' => i > 0,
            b'%' => planted("percent-not-escaped"),
            _ => b.is_ascii_alphanumeric() || b == b'_',
        };
        if plain {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

/// FNV-1a, 64 bits: distinguishes long names in file names; not for security.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    })
}
