//! The names of fields: those that do something, and slips of the pen.

/// Fields that change what happens to an item.
pub(super) const ACTING: &[&str] = &[
    "priority",
    "after",
    "not_before",
    "exclusive",
    "agent",
    "repo",
    "base",
    "branch",
    "timeout",
    "retries",
    "max_turns",
    "budget_usd",
    "env",
    "gates",
    "integrate",
    "paths",
    "prompt",
];
/// Fields for people, which are shown.
const FOR_PEOPLE: &[&str] = &["title", "type", "source", "labels"];

/// Whether harness knows the field. Others are kept and shown.
pub(super) fn is_known(name: &str) -> bool {
    ACTING.contains(&name) || FOR_PEOPLE.contains(&name)
}

/// What other programs call these fields.
const INSTEAD: &[(&str, &str)] = &[
    (
        "after",
        "depends dependon dependson dependencies dependency blockedby waitfor waitsfor runafter startafter",
    ),
    (
        "not_before",
        "startat startsat runat scheduledat scheduledfor scheduleat notbeforetime",
    ),
    ("branch", "branchname gitbranch"),
    ("base", "basebranch baseref basecommit baserevision"),
    ("repo", "repository reponame"),
    ("agent", "agentname"),
    (
        "timeout",
        "timeoutseconds timeoutsecs timeoutsec timeoutminutes timeoutms",
    ),
    ("retries", "retry retrys maxretries retrycount"),
    ("max_turns", "turns turnlimit maximumturns"),
    (
        "budget_usd",
        "budget maxbudget maxbudgetusd maxcost maxcostusd costlimit",
    ),
    ("env", "environment envvars environmentvariables"),
    ("exclusive", "exclusivekey mutex"),
    ("priority", "prio"),
];

/// Words that people use for a field, and for other things as well.
const PERHAPS: &[(&str, &str)] = &[
    ("after", "needs requires waits"),
    (
        "not_before",
        "start schedule scheduled cron at delay notbefore",
    ),
    ("timeout", "deadline"),
    ("exclusive", "lock"),
    ("base", "ref target"),
    ("repo", "workdir cwd"),
    ("retries", "attempts maxattempts"),
    ("agent", "model runner"),
    ("budget_usd", "cost"),
    ("priority", "importance urgency"),
];

fn called(name: &str, table: &[(&'static str, &str)]) -> Option<&'static str> {
    let name = plain(name);
    let mut known = table.iter();
    let found = known.find(|(_, words)| words.split(' ').any(|word| word == name));
    found.map(|(field, _)| *field)
}

/// The field that an own one may have been meant to be.
pub(super) fn perhaps(name: &str) -> Option<&'static str> {
    called(name, PERHAPS)
}

/// The field that was meant by a name that is none: another program's word, other case, other separators, or a slip of the
/// pen. An own field of the user's must not be taken for one, so short names have to be nearer.
pub(super) fn meant(name: &str) -> Option<&'static str> {
    if name.len() > 24 || is_known(name) {
        return None;
    }
    let given = plain(name);
    let known = ACTING.iter().chain(&FOR_PEOPLE[..1]).copied();
    let mut known = known.into_iter();
    called(name, INSTEAD).or_else(|| known.find(|k| is_slip(&given, &plain(k))))
}

/// `Not-Before` and `notBefore` are `notbefore`.
fn plain(name: &str) -> String {
    let letters = name.chars().filter(|c| !matches!(c, '_' | '-' | ' '));
    letters.flat_map(char::to_lowercase).collect()
}

fn is_slip(given: &str, known: &str) -> bool {
    if given == known {
        return true;
    }
    let distance = strsim::osa_distance(given, known);
    match known.len() {
        // `case` and `end` are words of their own, `bsae` and `envs` are not.
        0..5 => {
            distance == 1 && given.len() > 2 && (given.len() != known.len() || mixes(given, known))
        }
        5 => distance == 1 && given.as_bytes().first() == known.as_bytes().first(),
        6..8 => distance == 1,
        _ => distance <= 2,
    }
}

/// Whether one has the other's letters in another order.
fn mixes(a: &str, b: &str) -> bool {
    let sorted = |text: &str| {
        let mut letters: Vec<char> = text.chars().collect();
        letters.sort_unstable();
        letters
    };
    sorted(a) == sorted(b)
}

/// The field name that a line such as `priority: high` begins with.
pub(super) fn of_line(line: &str) -> Option<&str> {
    let line = line.trim_start_matches([' ', '\t', '"', '\'']);
    let end = line.find(|c: char| !c.is_ascii_alphabetic() && !matches!(c, '_' | '-'))?;
    let (name, rest) = line.split_at(end);
    let rest = rest.trim_start_matches(['"', '\'']).trim_start();
    let is_field = !name.is_empty() && rest.starts_with([':', '=']);
    is_field.then_some(name)
}

/// The field that a line was meant to give, of those that do something.
pub(super) fn acting_in(line: &str) -> Option<&'static str> {
    acting(of_line(line)?)
}

/// The field that a name is or was meant to be, of those that do something.
pub(super) fn acting(name: &str) -> Option<&'static str> {
    let name = meant(name).unwrap_or(name);
    ACTING.iter().copied().find(|known| *known == name)
}
