//! Compares a program's settings with those that `deploy/SETTINGS.md` lists.
//!
//! In that page each program has a section, "## `name`". There a table row whose first cell is
//! `--flag` is a setting, and its second cell is the default, in backquotes; a default in words is
//! one that the program finds out. Any other row whose first cell is in backquotes is a subcommand
//! with its own flags, those in brackets being optional.

use clap::{Arg, Command, CommandFactory};

const PAGE: &str = include_str!("../../../deploy/SETTINGS.md");

/// Asserts that the page lists exactly the settings, defaults and subcommands of this program, in
/// the order of `--help`, and that each setting has the environment variable of its name.
pub fn assert_documented<Settings: CommandFactory>() {
    let program = Settings::command();
    let name = program.get_name();
    let section = PAGE
        .split("\n## ")
        .find_map(|section| section.strip_prefix(&format!("`{name}`\n")))
        .unwrap_or_else(|| panic!("SETTINGS.md has no section `{name}`"));
    let documented: Vec<_> = section.lines().filter_map(documented_in).collect();
    let subcommands = program
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    let existing: Vec<_> = (program.get_arguments().map(describe_setting))
        .chain(subcommands.map(describe_subcommand))
        .collect();
    assert_eq!(
        documented, existing,
        "`{name}` in SETTINGS.md, and its --help"
    );
}

/// What a row of a table lists.
fn documented_in(line: &str) -> Option<String> {
    let mut cells = line.strip_prefix('|')?.split('|').map(|cell| {
        let code = cell.trim().strip_prefix('`')?.strip_suffix('`')?;
        (!code.contains('`')).then_some(code)
    });
    let name = cells.next()??;
    Some(match cells.next()? {
        Some(default) if name.starts_with("--") => format!("{name} = {default}"),
        _ => name.to_owned(),
    })
}

fn describe_setting(setting: &Arg) -> String {
    let flag = setting.get_long().expect("every setting is a flag");
    let variable = setting.get_env().and_then(|variable| variable.to_str());
    assert_eq!(variable, Some(&*flag.replace('-', "_").to_uppercase()));
    match setting.get_default_values() {
        [default] => format!("--{flag} = {}", default.display()),
        _ => format!("--{flag}"),
    }
}

fn describe_subcommand(subcommand: &Command) -> String {
    let flags = subcommand.get_arguments().map(|setting| {
        let flag = setting.get_long().expect("every setting is a flag");
        if setting.is_required_set() {
            format!(" --{flag} N")
        } else {
            format!(" [--{flag} N]")
        }
    });
    subcommand.get_name().to_owned() + &flags.collect::<String>()
}
