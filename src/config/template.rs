//! The commented `harness.toml` that `init` writes: the table of keys as a file.
//!
//! Does not know the file system. Invariant: with the `#` before every key removed, the text is
//! valid and changes no default (a test checks this, and that the top-level file is this text).

use super::keys::{Fallback, TABLES, Table};

const INTRO: &str = "\
# Configuration of harness. Every key is optional; what stands behind a # is its default or an
# example. To set one, take away the # before it and before its [table], or use `harness config set`:
#     harness config set agent claude
# Times are seconds or text (\"30s\", \"10m\", \"1h30m\"), sizes bytes or text (\"256MB\").
# `harness config` shows what is in force and where it comes from. Variables like HARNESS_WORKERS
# or HARNESS_RETRY_MAX go over this file, options of the command line over both.
";

/// The text of a new `harness.toml`.
pub fn template() -> String {
    let mut out = INTRO.to_owned();
    for &table in TABLES {
        out.push('\n');
        prose(&mut out, table.doc());
        let header = match table {
            Table::Repos => "#[repos.web]".to_owned(),
            Table::Agents => "#[agents.mine]".to_owned(),
            Table::Gate => "#[gates.test]".to_owned(),
            _ => format!("#[{}]", table.name()),
        };
        out.push_str(&header);
        out.push('\n');
        for key in table.keys() {
            prose(&mut out, &key.doc());
            let (Fallback::Is(value)
            | Fallback::WithCli(value, _)
            | Fallback::Unset(value)
            | Fallback::Required(value)) = key.default;
            out.push_str(&format!("#{} = {value}\n", key.name));
        }
    }
    out
}

fn prose(out: &mut String, text: &str) {
    for line in text.lines() {
        out.push_str("# ");
        out.push_str(line);
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::KEYS;
    use crate::config::tests::Case;
    use crate::config::{Source, file};

    #[test]
    fn the_template_is_the_file_at_the_top_level() {
        let file = include_str!("../../harness.toml");
        assert_eq!(
            file,
            template(),
            "write this text to harness.toml:\n{}",
            template()
        );
    }

    #[test]
    fn every_key_of_the_template_says_its_default() {
        let config = Case::new(template()).load();
        assert!(config.agents.is_empty() && config.repos.is_empty());
        assert!(config.sources.0.iter().all(|e| e.source == Source::Default));

        // A gate has a `command` or a `script`, not both.
        let live: String = template()
            .lines()
            .filter(|line| !line.starts_with("#script = "))
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.starts_with([' ', '#']) => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let config = Case::new(&live).load();
        // `[harness] agent` names a CLI, which is an agent without a table.
        let implied = Table::Agents.keys().count();
        assert_eq!(config.sources.0.len(), KEYS.len() + implied);
        for key in KEYS {
            let entries = config.sources.0.iter();
            if key.name == "script" {
                continue;
            }
            let mut of_key = entries.filter(|e| {
                e.key.starts_with(&format!("{}.", key.table.name()))
                    && e.key.ends_with(&format!(".{}", key.name))
            });
            let entry = of_key.next().expect(key.name);
            assert!(
                matches!(entry.source, Source::File(_)),
                "{} is not in the template",
                entry.key
            );
            if matches!(key.default, Fallback::Is(_) | Fallback::WithCli(..)) {
                assert_eq!(
                    entry.value,
                    file::default_of(key, true).expect("valid"),
                    "{}",
                    entry.key
                );
            }
            assert!(
                template().contains(key.doc().lines().next().expect("a line")),
                "{}",
                entry.key
            );
        }
    }
}
