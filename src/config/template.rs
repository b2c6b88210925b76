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

/// A gate that a project could have: its name, and program and arguments.
pub type Proposed<'a> = (&'a str, &'a [&'a str]);

/// The text of a new `harness.toml`.
pub fn template() -> String {
    template_with(&[])
}

/// The same with these gates as examples.
pub fn template_with(gates: &[Proposed<'_>]) -> String {
    let mut out = INTRO.to_owned();
    for &table in TABLES {
        out.push('\n');
        prose(&mut out, table.doc());
        let ready = gates.split_first().filter(|_| table == Table::Gate);
        if let Some((first, more)) = ready {
            for (name, command) in more {
                out.push_str(&format!("#[gates.{name}]\n#command = {command:?}\n\n"));
            }
            out.push_str(&format!("#[gates.{}]\n", first.0));
            keys(&mut out, table, Some(first.1));
            continue;
        }
        let header = match table {
            Table::Repos => "#[repos.web]".to_owned(),
            Table::Agents => "#[agents.mine]".to_owned(),
            Table::Gate => "#[gates.test]".to_owned(),
            _ => format!("#[{}]", table.name()),
        };
        out.push_str(&header);
        out.push('\n');
        keys(&mut out, table, None);
    }
    out
}

/// `command`: the value of the key with this name, if it is not to be its example.
fn keys(out: &mut String, table: Table, command: Option<&[&str]>) {
    for key in table.keys() {
        prose(out, &key.doc());
        let (Fallback::Is(value)
        | Fallback::WithCli(value, _)
        | Fallback::Unset(value)
        | Fallback::Required(value)) = key.default;
        let seen = command.filter(|_| key.name == "command");
        let value = seen.map_or_else(|| value.to_owned(), |argv| format!("{argv:?}"));
        out.push_str(&format!("#{} = {value}\n", key.name));
    }
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
    use crate::config::edit::{self, KeyPath};
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
    fn proposed_gates_stand_ready_and_nothing_is_set() {
        let gates: [Proposed<'_>; 2] = [("test", &["npm", "test"]), ("make", &["make", "test"])];
        let text = template_with(&gates);
        assert!(Case::new(&text).load().gates.is_empty());
        let shown: String = text
            .lines()
            .map(|line| {
                match line.strip_prefix("#[gates.").is_some()
                    || line.starts_with("#command = [\"npm")
                    || line.starts_with("#command = [\"make")
                {
                    true => format!("{}\n", &line[1..]),
                    false => format!("{line}\n"),
                }
            })
            .collect();
        let config = Case::new(&shown).load();
        for (name, argv) in gates {
            assert_eq!(config.gates[name].command, argv, "{name}");
        }
        let path = KeyPath::parse("gates.test.command").unwrap();
        let set = edit::set(&text, &path, "npm test").unwrap();
        assert_eq!(set.lines().filter(|l| l.contains("gates.test]")).count(), 1);
        assert_eq!(
            Case::new(&set).load().gates["test"].command,
            ["npm", "test"]
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
