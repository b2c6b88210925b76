//! The places that a sandbox opens and closes unless it is told otherwise: package caches, devices,
//! secrets.
//!
//! Knows nothing of agents. `harness sandbox explain` shows all of it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::adapters::Place;

/// A package manager's own folder or file that it writes whatever project it works for.
pub(super) struct Cache {
    pub(super) place: Place,
    /// Made where it is missing and this program is installed: it could not make it itself.
    pub(super) made_for: Option<&'static str>,
}

const fn cache(var: &'static str, or: &'static str, below: &'static str) -> Cache {
    Cache {
        place: Place::dir(var, or, below),
        made_for: None,
    }
}

const fn made(
    var: &'static str,
    or: &'static str,
    below: &'static str,
    program: &'static str,
) -> Cache {
    Cache {
        place: Place::dir(var, or, below),
        made_for: Some(program),
    }
}

/// A lock of cargo's, beside its settings.
const fn lock(name: &'static str) -> Cache {
    Cache {
        place: Place::file("CARGO_HOME", ".cargo", name),
        made_for: Some("cargo"),
    }
}

/// Caches, and never a tool's settings or programs: what an agent writes there must not run as the
/// user later.
pub(super) static CACHES: &[Cache] = &[
    made("XDG_CACHE_HOME", ".cache", "", "sh"),
    made("npm_config_cache", ".npm", "", "npm"),
    made("CARGO_HOME", ".cargo", "registry", "cargo"),
    made("CARGO_HOME", ".cargo", "git", "cargo"),
    lock(".package-cache"),
    lock(".package-cache-mutate"),
    made("GOPATH", "go", "pkg", "go"),
    cache("GOMODCACHE", "go/pkg/mod", ""),
    cache("GOCACHE", ".cache/go-build", ""),
    cache("", ".local/share/pnpm", ""),
    cache("", ".yarn/berry", ""),
    cache("", ".bun/install/cache", ""),
    cache("DENO_DIR", ".cache/deno", ""),
    cache("GRADLE_USER_HOME", ".gradle", "caches"),
    cache("GRADLE_USER_HOME", ".gradle", "daemon"),
    cache("GRADLE_USER_HOME", ".gradle", "native"),
    cache("GRADLE_USER_HOME", ".gradle", "wrapper/dists"),
    cache("", ".m2/repository", ""),
    cache("NUGET_PACKAGES", ".nuget/packages", ""),
    cache("PUB_CACHE", ".pub-cache/hosted", ""),
    cache("PIP_CACHE_DIR", ".cache/pip", ""),
    cache("UV_CACHE_DIR", ".cache/uv", ""),
];

/// Devices that programs open by name, shared memory among them. No pseudo-terminals: the user's own lie
/// beside those that an agent would make, and could be read and written.
pub(super) fn devices() -> Vec<PathBuf> {
    let named = [
        "null", "zero", "full", "random", "urandom", "tty", "shm", "mqueue", "fuse", "dri", "kfd",
    ];
    let mut all: Vec<PathBuf> = named.iter().map(|n| Path::new("/dev").join(n)).collect();
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let names = entries.map(|e| e.file_name());
    let nvidia = names.filter(|n| n.to_string_lossy().starts_with("nvidia"));
    all.extend(nvidia.map(|n| Path::new("/dev").join(n)));
    all
}

/// Logins, keys and histories, below the home folder. What a CLI needs of its own is its state.
static SECRETS: &[&str] = &[
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".docker",
    ".config/gcloud",
    ".config/gh",
    ".config/hub",
    ".config/op",
    ".config/doctl",
    ".config/rclone",
    ".config/containers/auth.json",
    ".config/harness/environment",
    ".config/sops",
    ".config/age",
    ".config/1Password",
    ".config/Bitwarden",
    ".config/Bitwarden CLI",
    ".Xauthority",
    ".netrc",
    ".git-credentials",
    ".config/git/credentials",
    ".pypirc",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".gem/credentials",
    ".terraform.d",
    ".vault-token",
    ".pgpass",
    ".my.cnf",
    ".password-store",
    ".local/share/keyrings",
    ".local/share/kwalletd",
    ".mozilla",
    ".thunderbird",
    ".config/google-chrome",
    ".config/chromium",
    ".config/BraveSoftware",
    ".config/microsoft-edge",
    ".config/vivaldi",
    ".config/Signal",
    ".var/app",
    "snap/firefox",
    "snap/chromium",
    ".bash_history",
    ".zsh_history",
    ".python_history",
    ".node_repl_history",
    ".psql_history",
    ".mysql_history",
    ".sqlite_history",
    ".rediscli_history",
    ".local/share/fish/fish_history",
    ".local/share/atuin",
];

/// Variables that lead to secrets elsewhere than at their usual place.
static MOVED: &[(&str, &str)] = &[
    ("XDG_CONFIG_HOME", ".config"),
    ("XDG_DATA_HOME", ".local/share"),
    ("CARGO_HOME", ".cargo"),
    ("GNUPGHOME", ".gnupg"),
    ("DOCKER_CONFIG", ".docker"),
    ("GH_CONFIG_DIR", ".config/gh"),
    ("AZURE_CONFIG_DIR", ".azure"),
    ("CLOUDSDK_CONFIG", ".config/gcloud"),
    ("KUBECONFIG", ".kube"),
    ("NETRC", ".netrc"),
    ("PGPASSFILE", ".pgpass"),
    ("XAUTHORITY", ".Xauthority"),
    ("AWS_SHARED_CREDENTIALS_FILE", ".aws"),
    ("PASSWORD_STORE_DIR", ".password-store"),
];

/// The home folders whose secrets are denied: the agent's, harness's own, and the one that the system
/// knows, as HOME may be unset.
pub(super) fn homes(agents: Option<&Path>) -> Vec<PathBuf> {
    let own = std::env::var_os("HOME").map(PathBuf::from);
    static KNOWN: OnceLock<Option<PathBuf>> = OnceLock::new();
    let known = KNOWN.get_or_init(|| {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
        Some(user.ok()??.dir)
    });
    let all = [agents.map(Path::to_owned), own, known.clone()]
        .into_iter()
        .flatten();
    let mut all: Vec<PathBuf> = all.filter(|home| home.is_absolute()).collect();
    all.sort();
    all.dedup();
    all
}

/// What holds a secret: below these home folders, and where harness's own environment says.
pub(super) fn secrets(homes: &[PathBuf]) -> Vec<PathBuf> {
    let below = |home: &PathBuf| SECRETS.iter().map(|s| home.join(s)).collect::<Vec<_>>();
    let mut all: Vec<PathBuf> = homes.iter().flat_map(below).collect();
    for (var, usual) in MOVED {
        let Some(there) = std::env::var_os(var).map(PathBuf::from) else {
            continue;
        };
        let moved = SECRETS
            .iter()
            .filter_map(|s| Path::new(s).strip_prefix(usual).ok());
        all.extend(moved.map(|rest| there.join(rest)));
    }
    // Logins of containers, keyrings and screens.
    all.push(format!("/run/user/{}", nix::unistd::geteuid()).into());
    all.retain(|path| path.is_absolute());
    all
}

/// Device files are granted one by one; of the rest some are whole disks.
pub(super) const DEVICES: &str = "/dev";

/// The path of a place: where its variable says, else below the home folder. `None`: there is no home.
pub(crate) fn path_of(
    place: &Place,
    home: Option<&Path>,
    var: &dyn Fn(&OsStr) -> Option<OsString>,
) -> Option<PathBuf> {
    let named = match place.var {
        "" => None,
        name => var(OsStr::new(name)).filter(|v| !v.is_empty()),
    };
    let (base, is_named) = match named {
        Some(path) => (PathBuf::from(path), true),
        None => (home?.join(place.or), false),
    };
    // `GOPATH` may be a list.
    let base = match is_named {
        true => base
            .to_str()
            .and_then(|text| text.split(':').next())
            .map_or(base.clone(), PathBuf::from),
        false => base,
    };
    let path = match place.below {
        "" => base,
        below => base.join(below),
    };
    path.is_absolute().then_some(path)
}
