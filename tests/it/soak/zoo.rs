//! The items of the soak: one of each kind that an item can be, again and again.

use std::ffi::OsString;

use crate::hostile::hostile_names;
use crate::journal::Journal;
use crate::launch::VOICES;
use crate::processes::Mark;

/// What must become of it, whatever befalls it. Those that must end well have retries enough.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Must {
    Done,
    Park,
    /// People cancel it, try it again, drop it again: it ends.
    End,
}

#[derive(Debug, Clone)]
pub struct Animal {
    pub name: OsString,
    pub text: String,
    pub executable: bool,
    pub must: Must,
    /// Whether its script writes into the journal.
    pub journaled: bool,
    /// A file that its work has; `None`: it changes nothing, or that is not known.
    pub makes: Option<String>,
}

impl Animal {
    /// `add` takes over the name and the text; a file that is not executable stays what it is.
    pub fn can_be_added(&self) -> bool {
        self.must != Must::End
    }
}

const KEEP: &str = "git add -A && git -c user.name=a -c user.email=a@b commit -qm work";

/// `(kind, #harness lines, body, must, makes a file)`. `W` writes the file, `K` commits.
const SCRIPTS: [(&str, &str, &str, Must, bool); 21] = [
    ("never", "retries: 2", "W; exit 5", Must::Park, false),
    ("commit", "", "W; K", Must::Done, true),
    ("dirty", "", "W; sleep 0.1", Must::Done, true),
    ("fail", "retries: 0", "W; exit 3", Must::Park, false),
    (
        "second",
        "",
        "W; [ $HARNESS_ATTEMPT -ge 2 ] || exit 4",
        Must::Done,
        true,
    ),
    (
        "strays",
        "",
        "setsid S & ( env -i sh -c 'exec S' & ); W",
        Must::Done,
        true,
    ),
    ("waits", "after: [nN-commit]", "W", Must::Done, true),
    ("key", "exclusive: one", "W; K", Must::Done, true),
    ("high", "priority: high", ":", Must::Done, false),
    ("slow", "", "sleep 0.7; W; K", Must::Done, true),
    (
        "timeout",
        "retries: 0\n#harness timeout: 1",
        "W; sleep 60",
        Must::Park,
        false,
    ),
    (
        "deaf",
        "retries: 0\n#harness timeout: 1",
        "trap '' TERM; W; sleep 60",
        Must::Park,
        false,
    ),
    ("later", "not_before: AT", "W", Must::Done, true),
    ("other", "repo: second", "W; K", Must::Done, true),
    ("branch", "branch: mine/N", "W", Must::Done, true),
    (
        "asks",
        "",
        "[ $HARNESS_ATTEMPT -ge 2 ] || { echo which? > $HARNESS_INTERRUPT; exit 0; }; W",
        Must::Done,
        false,
    ),
    ("loud", "", "head -c 3000000 /dev/zero; W", Must::Done, true),
    ("victim", "retries: 0", "W; sleep 0.5; K", Must::End, false),
    (
        "victim-key",
        "exclusive: one\n#harness retries: 1",
        "sleep 0.3; W",
        Must::End,
        false,
    ),
    ("none-such", "repo: nowhere", ":", Must::Park, false),
    ("low", "priority: low", "W", Must::Done, true),
];

/// `(kind, front matter, play, must, makes a file)`.
const PROMPTS: [(&str, &str, &str, Must, bool); 20] = [
    ("success", "", "success", Must::Done, true),
    ("left", "", "dirty", Must::Done, true),
    ("noop", "", "noop", Must::Done, false),
    ("error", "", "error first=1", Must::Done, true),
    ("busy", "", "overloaded first=1 times=1", Must::Done, true),
    ("turns", "retries: 0", "max_turns", Must::Park, false),
    ("crash", "", "crash first=1", Must::Done, true),
    ("garbage", "", "malformed", Must::Done, true),
    ("silent", "", "no-result", Must::End, false),
    ("twice", "", "two-results", Must::End, false),
    ("lingers", "", "linger s=30", Must::Done, true),
    ("daemon", "", "daemon s=60 env=clear", Must::Done, true),
    ("events", "", "slow s=1", Must::Done, true),
    ("tool", "", "tool s=0.5 tree=2", Must::Done, true),
    ("frozen", "", "question wait=yes first=1", Must::Done, false),
    (
        "question",
        "",
        "question wait=no first=1",
        Must::Done,
        false,
    ),
    ("stall", "", "stall first=1", Must::Done, true),
    ("half", "", "resume first=1", Must::Done, true),
    (
        "forever",
        "timeout: 1\nretries: 0",
        "timeout",
        Must::Park,
        false,
    ),
    ("line", "", "big-line n=2000000", Must::Done, true),
];

/// The n-th item. Every second one is a script.
pub fn animal(n: usize, journal: &Journal, mark: &Mark) -> Animal {
    if n % 16 == 15 {
        return with_a_hostile_name(n);
    }
    let file = format!("file-{n}");
    if n.is_multiple_of(2) {
        return prompt(n, file);
    }
    let (kind, fields, body, must, makes) = SCRIPTS[(n / 2) % SCRIPTS.len()];
    // What must be done in the end goes on however often it is killed.
    let mut head = match must {
        Must::Done => "#harness retries: 100\n".to_owned(),
        _ => String::new(),
    };
    let soon = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs()
        + 2;
    // The one of this round that commits, if it has no hostile name.
    let of_round = n / 2 / SCRIPTS.len() * SCRIPTS.len() * 2 + 3;
    if !fields.is_empty() {
        let fields = match of_round % 16 {
            15 => fields.replace("nN-commit", ""),
            _ => fields.to_owned(),
        };
        let fields = fields.replace("AT", &soon.to_string());
        let fields = fields
            .replace("nN-commit", &format!("n{of_round}-commit"))
            .replace('N', &n.to_string());
        head.push_str(&format!("#harness {fields}"));
    }
    let words = body.split(' ').map(|w| match w.trim_end_matches(';') {
        "W" => w.replacen('W', &format!("echo {n} > {file}"), 1),
        "K" => w.replacen(
            'K',
            &format!("{{ git rev-parse -q --git-dir >/dev/null || exit 0; {KEEP}; }}"),
            1,
        ),
        "S" => w.replacen('S', &mark.sleep(), 1),
        "S'" => format!("{}'", mark.sleep()),
        _ => w.to_owned(),
    });
    let body = words.collect::<Vec<_>>().join(" ");
    Animal {
        name: format!("n{n}-{kind}").into(),
        text: journal.text(&head, &body),
        executable: true,
        must,
        journaled: true,
        makes: makes.then_some(file),
    }
}

fn prompt(n: usize, file: String) -> Animal {
    let (kind, front, play, must, makes) = PROMPTS[(n / 2) % PROMPTS.len()];
    let cli = VOICES[(n / 2 / PROMPTS.len() + n / 2) % VOICES.len()];
    let retries = match must {
        Must::Done => "retries: 100\n",
        Must::Park => "",
        Must::End => "retries: 1\n",
    };
    Animal {
        name: format!("n{n}-{kind}-{cli}.md").into(),
        text: format!(
            "---\nagent: {cli}\n{retries}{front}\n---\nPlease.\n[[mock:{play} file={file}]]\n"
        ),
        executable: false,
        must,
        journaled: false,
        makes: makes.then_some(file),
    }
}

fn with_a_hostile_name(n: usize) -> Animal {
    let names = hostile_names();
    let name = names[(n / 16) % names.len()].clone();
    Animal {
        name,
        text: format!("#!/bin/sh\n#harness retries: 100\necho {n} > hostile\n"),
        executable: true,
        must: Must::End,
        journaled: false,
        makes: None,
    }
}
