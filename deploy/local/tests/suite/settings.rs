//! `deploy/SETTINGS.md` lists the settings, defaults and subcommands that `--help` prints.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// The flags of a program or subcommand, each with its default if `--help` shows one.
type Settings = BTreeMap<String, Option<String>>;

const DOCUMENT: &str = include_str!("../../../SETTINGS.md");

/// The programs of the document, each with the launcher's subcommand that runs it.
const PROGRAMS: [(&str, &[&str]); 3] = [
    ("max-two-api", &["api"]),
    ("max-two-worker", &["worker"]),
    ("max-two", &[]),
];

#[test]
fn every_setting_is_documented_with_its_default() {
    let mut differences = Vec::new();
    for (program, arguments) in PROGRAMS {
        let help = help(arguments);
        let printed = printed_settings(&help);
        let (settings, subcommands) = documented(program);
        compare(program, &settings, &printed, &mut differences);

        let names = printed_subcommands(&help);
        for name in subcommands.keys().filter(|name| !names.contains(*name)) {
            differences.push(format!("{program} {name} is missing in --help"));
        }
        for name in names {
            let Some(settings) = subcommands.get(&name) else {
                differences.push(format!("{program} {name} is missing in SETTINGS.md"));
                continue;
            };
            let arguments = [arguments, &[&*name]].concat();
            let mut own = printed_settings(&self::help(&arguments));
            // Settings of the program may be given after the subcommand too.
            own.retain(|setting, _| !printed.contains_key(setting));
            let what = format!("{program} {name}");
            compare(&what, settings, &own, &mut differences);
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

fn compare(what: &str, documented: &Settings, printed: &Settings, differences: &mut Vec<String>) {
    let all: BTreeSet<_> = documented.keys().chain(printed.keys()).collect();
    for setting in all {
        let difference = match (documented.get(setting), printed.get(setting)) {
            (None, _) => "is missing in SETTINGS.md".to_owned(),
            (_, None) => "is missing in --help".to_owned(),
            (Some(documented), Some(printed)) if documented != printed => {
                format!("has the default {documented:?} in SETTINGS.md, {printed:?} in --help")
            }
            _ => continue,
        };
        differences.push(format!("{what} --{setting} {difference}"));
    }
}

/// The settings, and the subcommands with theirs, in this program's section of the document.
fn documented(program: &str) -> (Settings, BTreeMap<String, Settings>) {
    let section = DOCUMENT
        .split("\n## ")
        .find_map(|section| section.strip_prefix(&format!("`{program}`\n")))
        .unwrap_or_else(|| panic!("SETTINGS.md has no section `{program}`"));
    let (mut settings, mut subcommands) = (Settings::new(), BTreeMap::new());
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let name = code(cells[0]).unwrap_or_else(|| panic!("not one name: {row}"));
        if let Some(flag) = name.strip_prefix("--") {
            settings.insert(flag.to_owned(), code(cells[1]));
        } else {
            let mut words = name.split([' ', '[', ']']);
            let subcommand = words.next().expect("the name is not empty").to_owned();
            let flags = words.filter_map(|word| word.strip_prefix("--"));
            subcommands.insert(
                subcommand,
                flags.map(|flag| (flag.to_owned(), None)).collect(),
            );
        }
    }
    (settings, subcommands)
}

/// The text of a cell that is one code span. A default in words is one that `--help` does not show.
fn code(cell: &str) -> Option<String> {
    let text = cell.strip_prefix('`')?.strip_suffix('`')?;
    (!text.contains('`')).then(|| text.to_owned())
}

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_max-two"))
        .args(arguments)
        .arg("--help")
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The settings that `--help` prints. Each that has a default or an environment variable must have
/// the variable of its name.
fn printed_settings(help: &str) -> Settings {
    let options = help
        .split_once("Options:\n")
        .expect("--help prints options")
        .1;
    let mut settings = Settings::new();
    // One block of lines per option; its first line begins with the flag.
    let mut blocks: Vec<String> = Vec::new();
    for line in options.lines().map(str::trim) {
        if line.starts_with('-') && line.contains("--") {
            blocks.push(String::new());
        }
        let block = blocks.last_mut().expect("the first line is a flag");
        block.push_str(line);
        block.push(' ');
    }
    for block in blocks {
        let (_, text) = block.split_once("--").expect("a block begins with a flag");
        let flag = text.split_whitespace().next().expect("a flag has a name");
        if ["help", "version"].contains(&flag) {
            continue;
        }
        let between = |start: &str| {
            let rest = text.split_once(start)?.1;
            Some(rest.split_once(']')?.0.trim_matches('"').to_owned())
        };
        let default = between("[default: ");
        if let Some(variable) = between("[env: ") {
            let expected = flag.replace('-', "_").to_uppercase();
            assert_eq!(variable.trim_end_matches('='), expected);
        } else {
            assert_eq!(default, None, "--{flag} has no environment variable");
        }
        settings.insert(flag.to_owned(), default);
    }
    settings
}

fn printed_subcommands(help: &str) -> BTreeSet<String> {
    let Some((_, commands)) = help.split_once("Commands:\n") else {
        return BTreeSet::new();
    };
    let (commands, _) = commands
        .split_once("\n\n")
        .expect("the options follow the commands");
    commands
        .lines()
        // Further lines of a description are indented more.
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty() && *name != "help")
        .map(ToOwned::to_owned)
        .collect()
}
