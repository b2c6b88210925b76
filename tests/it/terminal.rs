//! A terminal for programs under test: a pty with a parser behind it, so that a test sees what a person would.
//! A test that fails prints the screen. `HARNESS_TEST_SHOTS=DIR` keeps each screen that a test waited for as
//! text: `DIR/TEST-NUMBER.txt`, with what was waited for in the first line.

use std::fs::{self, File};
use std::io::Write;
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;
use nix::sys::termios::{Termios, tcgetattr};

use crate::support::{DEADLINE, Root, kill, pause};

pub struct Terminal {
    /// Both ends, until it is closed.
    ends: Option<(File, OwnedFd)>,
    seen: Arc<Mutex<Seen>>,
    closes: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
    child: Child,
    before: Termios,
}

/// Screens that were kept so far.
static KEPT: AtomicUsize = AtomicUsize::new(0);

fn keep(what: &str, screen: &str) {
    let Some(dir) = std::env::var_os("HARNESS_TEST_SHOTS") else {
        return;
    };
    let test = std::thread::current();
    let test = test.name().unwrap_or("test").replace("::", "-");
    let number = KEPT.fetch_add(1, Ordering::Relaxed);
    let path = Path::new(&dir).join(format!("{test}-{number:03}.txt"));
    fs::create_dir_all(&dir).unwrap();
    fs::write(path, format!("# {what}\n{screen}\n")).unwrap();
}

struct Seen {
    parser: vt100::Parser,
    bytes: Vec<u8>,
}

fn read_some(from: &OwnedFd, to: &Mutex<Seen>) {
    let mut fds = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, 20_u16).is_ok_and(|n| n > 0) {
        let mut some = [0; 16 << 10];
        let n = nix::unistd::read(from, &mut some).unwrap_or(0);
        let mut seen = to.lock().unwrap();
        seen.bytes.extend(&some[..n]);
        seen.parser.process(&some[..n]);
    }
}

fn cells(count: u16) -> NonZero<u16> {
    NonZero::new(count).unwrap()
}

/// Both ends of a terminal. No other program that a test starts meanwhile gets one: with it open, a
/// terminal is never gone.
fn pair() -> (File, OwnedFd) {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let slave = open(ptsname_r(&master).unwrap().as_str(), flags, Mode::empty()).unwrap();
    (File::from(OwnedFd::from(master)), slave)
}

fn set_size(master: &File, (cols, rows): (u16, u16)) {
    let size = rustix::termios::Winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(master, size).unwrap();
}

impl Terminal {
    /// Runs `harness ARGS` on a terminal of this size, as the leader of a session of its own.
    pub fn harness(root: &Root, args: &[&str], (cols, rows): (u16, u16)) -> Terminal {
        let mut command = root.command();
        command.args(args);
        Terminal::run(&command, (cols, rows))
    }

    /// The same for any command. Of its settings, the program, its arguments and its environment count.
    pub fn run(command: &Command, (cols, rows): (u16, u16)) -> Terminal {
        let (master, slave) = pair();
        set_size(&master, (cols, rows));
        let before = tcgetattr(&slave).unwrap();
        let end = || Stdio::from(slave.try_clone().unwrap());
        // It becomes the command: its pid is this child's.
        let mut setsid = Command::new("setsid");
        setsid.arg("--ctty").arg(command.get_program());
        setsid
            .args(command.get_args())
            .env("TERM", "xterm-256color");
        setsid.env_remove("NO_COLOR");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => setsid.env(name, value),
                None => setsid.env_remove(name),
            };
        }
        let started = setsid.stdin(end()).stdout(end()).stderr(end()).spawn();
        let seen = Arc::new(Mutex::new(Seen {
            parser: vt100::Parser::new(cells(rows), cells(cols), 0),
            bytes: Vec::new(),
        }));
        let closes = Arc::<AtomicBool>::default();
        let (from, to, stop) = (
            OwnedFd::from(master.try_clone().unwrap()),
            seen.clone(),
            closes.clone(),
        );
        let reader = std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                read_some(&from, &to);
            }
        });
        Terminal {
            ends: Some((master, slave)),
            seen,
            closes,
            reader: Some(reader),
            child: started.unwrap(),
            before,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What a person sees: rows without the spaces at their ends.
    pub fn screen(&self) -> String {
        self.seen.lock().unwrap().parser.screen().contents()
    }

    /// All that was ever written to it.
    pub fn written(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap().bytes).into_owned()
    }

    pub fn is_taken(&self) -> bool {
        self.seen.lock().unwrap().parser.screen().alternate_screen()
    }

    pub fn has_cursor(&self) -> bool {
        !self.seen.lock().unwrap().parser.screen().hide_cursor()
    }

    pub fn resize(&self, (cols, rows): (u16, u16)) {
        self.seen
            .lock()
            .unwrap()
            .parser
            .screen_mut()
            .set_size(cells(rows), cells(cols));
        set_size(&self.ends.as_ref().unwrap().0, (cols, rows));
    }

    pub fn keys(&mut self, keys: &str) {
        let (master, _) = self.ends.as_mut().unwrap();
        master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the screen is so, or fails with it.
    pub fn until(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            let screen = self.screen();
            if is_so(&screen) {
                keep(what, &screen);
                return screen;
            }
            assert!(
                Instant::now() < end,
                "waited in vain until {what}:\n{screen}"
            );
            pause();
        }
    }

    pub fn shows(&self, text: &str) -> String {
        self.until(&format!("`{text}` is shown"), |screen| {
            screen.contains(text)
        })
    }

    /// Waits until all of these are shown at once: a screen comes in parts.
    pub fn shows_all(&self, texts: &[&str]) -> String {
        self.until(&format!("all of {texts:?} is shown"), |screen| {
            texts.iter().all(|text| screen.contains(text))
        })
    }

    /// Waits until the program has ended; its exit code.
    pub fn ended(&mut self) -> Option<i32> {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < end, "it does not end:\n{}", self.screen());
            pause();
        }
    }

    /// Waits until the program has ended with this exit code.
    pub fn ends_with(&mut self, code: i32) {
        let ended = self.ended();
        assert_eq!(ended, Some(code), "{}", self.screen());
    }

    /// Modes, screen and cursor are as they were before.
    pub fn assert_left_as_found(&self) {
        self.until("the terminal is left", |_| {
            !self.is_taken() && self.has_cursor()
        });
        let (_, slave) = self.ends.as_ref().unwrap();
        let screen = self.screen();
        let modes = tcgetattr(slave).unwrap();
        assert!(modes == self.before, "other modes: {modes:?}\n{screen}");
        let written = self.written();
        let off = written.rfind("\x1b[?2004l");
        assert!(off > written.rfind("\x1b[?2004h"), "{written:?}\n{screen}");
    }

    /// Closes the terminal, as somebody does who closes its window.
    pub fn close(&mut self) {
        self.closes.store(true, Ordering::SeqCst);
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.ends = None;
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            kill(self.child.id(), "KILL");
            let _ended = self.child.wait();
        }
        self.closes.store(true, Ordering::SeqCst);
    }
}
