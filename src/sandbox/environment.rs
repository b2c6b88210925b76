//! The environment of a confined process: by a list of what is allowed, so that no token of the user's
//! reaches an agent that does not need it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

/// Variables to set, or to remove (`None`), on top of harness's own.
pub(crate) type Env = BTreeMap<OsString, Option<OsString>>;

/// What programs need to run, to be built and to reach the network. A `*` at the end stands for
/// anything. Nothing that is a key, a token or a way to a login: `env_pass` says which of those.
pub(super) static ALLOWED: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "TZDIR",
    "TERM",
    "COLORTERM",
    "NO_COLOR",
    "FORCE_COLOR",
    "CLICOLOR*",
    "COLUMNS",
    "LINES",
    "EDITOR",
    "VISUAL",
    "PAGER",
    "LESS",
    "MANPATH",
    "HOSTNAME",
    "CI",
    // Where things are.
    "XDG_CONFIG_HOME",
    "XDG_CONFIG_DIRS",
    "XDG_DATA_HOME",
    "XDG_DATA_DIRS",
    "XDG_CACHE_HOME",
    "XDG_STATE_HOME",
    "LD_LIBRARY_PATH",
    "LIBRARY_PATH",
    "LOCALE_ARCHIVE",
    "NIX_PATH",
    "NIX_PROFILES",
    "NIX_SSL_CERT_FILE",
    "NIX_CFLAGS_*",
    "NIX_LDFLAGS*",
    "GUIX_*",
    // The way out, and whom to trust on it.
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    // Who commits, and how git finds the network.
    "GIT_AUTHOR_*",
    "GIT_COMMITTER_*",
    "GIT_SSL_*",
    "GIT_HTTP_*",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_EXEC_PATH",
    "EMAIL",
    // Tools for building.
    "CC",
    "CXX",
    "CPP",
    "AR",
    "AS",
    "LD",
    "NM",
    "RANLIB",
    "STRIP",
    "MAKEFLAGS",
    "MAKE",
    "CMAKE_*",
    "CFLAGS",
    "CXXFLAGS",
    "CPPFLAGS",
    "LDFLAGS",
    "CPATH",
    "C_INCLUDE_PATH",
    "CPLUS_INCLUDE_PATH",
    "PKG_CONFIG*",
    "CCACHE_*",
    "SCCACHE_DIR",
    "RUSTC*",
    "RUSTFLAGS",
    "RUSTDOC*",
    "RUSTUP_*",
    "RUST_*",
    "CARGO_HOME",
    "CARGO_TARGET_*",
    "CARGO_BUILD_*",
    "CARGO_PROFILE_*",
    "CARGO_INCREMENTAL",
    "CARGO_TERM_*",
    "CARGO_NET_*",
    "CARGO_HTTP_*",
    "GO111MODULE",
    "GOARCH",
    "GOBIN",
    "GOCACHE",
    "GOENV",
    "GOEXPERIMENT",
    "GOFLAGS",
    "GOINSECURE",
    "GOMAXPROCS",
    "GOMODCACHE",
    "GONOPROXY",
    "GONOSUMDB",
    "GOOS",
    "GOPATH",
    "GOPRIVATE",
    "GOPROXY",
    "GOROOT",
    "GOSUMDB",
    "GOTMPDIR",
    "GOTOOLCHAIN",
    "GOWORK",
    "CGO_*",
    "JAVA_HOME",
    "JDK_HOME",
    "JAVA_OPTS",
    "JAVA_TOOL_OPTIONS",
    "MAVEN_HOME",
    "MAVEN_OPTS",
    "MAVEN_ARGS",
    "M2_HOME",
    "GRADLE_HOME",
    "GRADLE_USER_HOME",
    "GRADLE_OPTS",
    "SDKMAN_*",
    "ANDROID_*",
    "KOTLIN_*",
    "SCALA_HOME",
    "NODE_PATH",
    "NODE_OPTIONS",
    "NODE_ENV",
    "NVM_*",
    "FNM_*",
    "VOLTA_*",
    "npm_config_cache",
    "npm_config_prefix",
    "npm_config_registry",
    "PNPM_HOME",
    "YARN_CACHE_FOLDER",
    "BUN_INSTALL",
    "DENO_DIR",
    "DENO_INSTALL",
    "PYTHON*",
    "PYENV_*",
    "VIRTUAL_ENV",
    "CONDA_*",
    "PIPX_*",
    "PIP_CACHE_DIR",
    "PIP_INDEX_URL",
    "UV_*",
    "POETRY_*",
    "RBENV_*",
    "RUBYOPT",
    "RUBYLIB",
    "RUBY_VERSION",
    "GEM_HOME",
    "GEM_PATH",
    "BUNDLE_PATH",
    "DOTNET_*",
    "NUGET_PACKAGES",
    "PERL*",
    "OPAM*",
    "GHCUP_*",
    "STACK_*",
    "ASDF_*",
    "MISE_*",
    "CUDA_*",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
];

/// Of those, what has one of these in its name is a secret, whatever its beginning.
static SECRET: [&str; 8] = [
    "TOKEN",
    "PASSWORD",
    "PASSWD",
    "SECRET",
    "API_KEY",
    "APIKEY",
    "CREDENTIAL",
    "HTTP_BASIC",
];

/// The whole environment of a confined process. `own`: harness's own environment. `env`: what is set
/// and removed on purpose, which always wins. `pass`: names of further variables, from the user and for
/// the CLI.
pub(super) fn environment(
    own: impl Iterator<Item = (OsString, OsString)>,
    env: Env,
    pass: &[&str],
) -> Env {
    let is_listed = |list: &[&str], name: &str| list.iter().any(|entry| is_meant(entry, name));
    let allowed = |name: &OsStr| {
        // One that is no text is in no list.
        name.to_str().is_some_and(|name| {
            let secret = SECRET.iter().any(|word| name.contains(word));
            is_listed(pass, name) || is_listed(ALLOWED, name) && !secret
        })
    };
    let kept = own.filter(|(name, _)| allowed(name) && !env.contains_key(name));
    let mut all: Env = kept.map(|(name, value)| (name, Some(value))).collect();
    all.extend(env.into_iter().filter(|(_, value)| value.is_some()));
    all
}

/// Whether a name or pattern of a list means this variable.
fn is_meant(entry: &str, name: &str) -> bool {
    match entry.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => entry == name,
    }
}

/// A variable as the process will have it, before any of it is removed by the list.
pub(crate) fn value_of(env: &Env, name: &OsStr) -> Option<OsString> {
    match env.get(name) {
        Some(set) => set.clone(),
        None => std::env::var_os(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_passes_and_what_is_set_on_purpose_wins() {
        let own = [
            ("PATH", "/bin"),
            ("LC_ALL", "C"),
            ("SSH_AUTH_SOCK", "/s"),
            ("GITHUB_TOKEN", "t"),
            ("UV_PUBLISH_TOKEN", "t"),
            ("ANTHROPIC_API_KEY", "k"),
            ("DATABASE_URL", "u"),
            ("GIT_DIR", "/other"),
            ("EDITOR", "vi"),
        ];
        let own = own.into_iter().map(|(k, v)| (k.into(), v.into()));
        let env = Env::from([
            ("EDITOR".into(), Some("true".into())),
            ("LC_ALL".into(), None),
            ("MINE".into(), Some("x".into())),
        ]);
        let all = environment(own, env, &["DATABASE_*", "ANTHROPIC_API_KEY"]);
        let names: Vec<_> = all.keys().map(|k| k.to_str().unwrap()).collect();
        let want = [
            "ANTHROPIC_API_KEY",
            "DATABASE_URL",
            "EDITOR",
            "MINE",
            "PATH",
        ];
        assert_eq!(names, want);
        assert_eq!(all[OsStr::new("EDITOR")], Some("true".into()));
    }
}
