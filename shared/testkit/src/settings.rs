//! Compares a program's settings with those that `deploy/SETTINGS.md` lists.

use clap::CommandFactory;

const PAGE: &str = include_str!("../../../deploy/SETTINGS.md");

/// Asserts that the page's section "## `name`" lists exactly the settings and subcommands of this
/// program, a row of a table each, in the order of `--help`. A default stands in backquotes, unless
/// the program finds it out. Each setting must have the environment variable of its name.
pub fn assert_documented<Settings: CommandFactory>() {
    let mut program = Settings::command();
    let heading = format!("## `{}`\n", program.get_name());
    let (_, section) = PAGE.split_once(&heading).expect("it has a section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let documented: Vec<_> = rows
        .map(|row| {
            let mut cells = row.split('|').skip(1).map(code_in);
            (cells.next().flatten(), cells.next().flatten())
        })
        .collect();
    let mut existing = Vec::new();
    for setting in program.get_arguments() {
        let flag = setting.get_long().expect("every setting is a flag");
        let variable = setting.get_env().and_then(|variable| variable.to_str());
        assert_eq!(variable, Some(&*flag.replace('-', "_").to_uppercase()));
        let default = match setting.get_default_values() {
            [default] => Some(default.display().to_string()),
            _ => None,
        };
        existing.push((Some(format!("--{flag}")), default));
    }
    for subcommand in program.get_subcommands_mut() {
        if !subcommand.is_hide_set() {
            let usage = subcommand.render_usage().to_string();
            existing.push((Some(usage.replace("Usage: ", "")), None));
        }
    }
    assert_eq!(documented, existing, "SETTINGS.md and --help");
}

/// The text of a table's cell, if it is code and nothing else.
fn code_in(cell: &str) -> Option<String> {
    let code = cell.trim().strip_prefix('`')?.strip_suffix('`')?;
    (!code.contains('`')).then(|| code.to_owned())
}
